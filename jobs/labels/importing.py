"""`masklake labels import`: annotation files into a lake's labels."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from masklake.jobs.options import storage_from
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from collections import Counter

    from masklake.pipeline.labels.placement import Unplaced
    from masklake.pipeline.labels.sets import LabelSet, Skipped
    from masklake.pipeline.labels.store import Added
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import Storage

SUMMARY = "take labels in from COCO, Label Studio or CVAT"
DESCRIPTION = """\
Take labels in from COCO's instances and person_keypoints JSON, Label Studio's JSON, or CVAT's COCO export.

Several COCO files are read together: what instances.json and person_keypoints.json say of one object, by the
same id or, failing that, by boxes that overlap by more than half, becomes one instance. An import is all or nothing.
Every image that a file lists counts as looked at: one without annotations is labelled as holding nothing, so
that training can tell it from one that nobody has seen (--skip-empty leaves such images out). A file without any
annotation is refused unless --allow-empty says that it means it.

What cannot be read is left out, counted by reason and listed, and the rest is imported; --strict refuses the file
instead. An image of which nothing could be read is left out: it is not one that holds nothing.

Which image of the lake a name in the file means is found in this order:
  --mapping FILE       a CSV with the columns name and uri, or a JSON object of uris by name
  the file itself      if `masklake labels export` wrote it
  --uri-prefix URI     the name below URI, whether the lake knows that image or not; backslashes, ./, ../ and the
                       other ways in which tools write names are understood, and the image must be there (--unchecked)
  the lake's images    the one whose URI ends with the name, folders included (--by-basename: file names only)
A name that means no image, or several, or an image of another size, is listed, and then nothing is imported
unless --skip-unresolved leaves it out. --unresolved FILE writes them as a CSV to be filled in for --mapping.

Masks: polygons become pixels as pycocotools makes them; RLE stays as it is. Boxes are the file's own, or those
around mask or joints where it has none. Area, ignore, num_keypoints and LVIS' negative and not exhaustive classes
are kept as the file has them, and evaluation and training heed them. CVAT's iscrowd is not taken: it is 1 for every
brush mask. Label Studio: the newest annotation of a task counts, cancelled ones and predictions do not; a
key point belongs to the region that is its parent, or related to it, or alone around it; a region to the image that
its to_name names. What labels have no
column for (licences, supercategories, classes without instances, attributes, who annotated) is not kept.

An image's split is --split, else what it was in this lake, else what the file says if Masklake wrote it, else
val for a tenth of all URIs and train for the others, by the SHA-256 of the URI: it stays when labels change."""
EPILOG = """\
examples:
  masklake labels import instances.json person_keypoints.json s3://lake
  masklake labels import project-3.json s3://lake --uri-prefix s3://photos/2026/ --split val
  masklake labels import cvat.json lake/ --unresolved todo.csv      # then fill in the uris, and
  masklake labels import cvat.json lake/ --mapping todo.csv"""

_LISTED = 20
_LISTED_OF_A_KIND = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="annotations: a local file, s3://…, …")
    parser.add_argument("lake", metavar="LAKE", help="the lake; it is made if needed")
    parser.add_argument(
        "--format", choices=["coco", "cvat", "label-studio"], help="default: by what is in the file"
    )
    parser.add_argument("--uri-prefix", metavar="URI", help="where the images of the file lie")
    parser.add_argument("--mapping", metavar="FILE", help="uris by name: CSV or JSON")
    parser.add_argument(
        "--by-basename", action="store_true", help="leave folders out when names are compared"
    )
    parser.add_argument(
        "--skip-unresolved", action="store_true", help="import the rest when a name is not found"
    )
    parser.add_argument(
        "--unresolved", metavar="FILE", help="write the names that were not found to this CSV"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse a file of which something cannot be read"
    )
    parser.add_argument(
        "--allow-empty",
        action="store_true",
        help="a file without any annotation means that its images hold nothing",
    )
    parser.add_argument(
        "--unchecked", action="store_true", help="do not look whether images below --uri-prefix are there"
    )
    parser.add_argument("--skip-empty", action="store_true", help="leave images without annotations out")
    parser.add_argument("--split", choices=["train", "val"], help="pin the split of these images")
    parser.add_argument(
        "--source", metavar="NAME", help="who labelled: default human for Label Studio, else import"
    )
    parser.add_argument("--dry-run", action="store_true", help="do all but write")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Import. Raises UserError, with nothing written, for files that cannot be understood or placed."""
    from masklake.model.coco import CATEGORIES
    from masklake.pipeline.labels import importing as label_import
    from masklake.pipeline.labels import placement as label_uris
    from masklake.pipeline.labels import store as label_store
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import normalise

    storage = storage_from(args)
    files = [(file, _read(file, storage, "read the labels")) for file in args.files]
    format_, found = label_import.read(files, args.format, strict=args.strict, allow_empty=args.allow_empty)
    mapping = None
    if args.mapping:
        mapping = label_uris.read_mapping(_read(args.mapping, storage, "read the mapping"), args.mapping)
    lake = Lake(args.lake, storage)
    placement = label_uris.place(
        found.images,
        lake,
        mapping=mapping,
        prefix=args.uri_prefix and normalise(args.uri_prefix),
        by_basename=args.by_basename,
        unchecked=args.unchecked,
    )
    if placement.unplaced:
        _tell_unplaced(placement.unplaced, len(found.images), args, storage)
    prepared = label_import.prepare(
        lake,
        placement,
        source=found.source,
        pinned_source=args.source,
        split=args.split,
        ids={name: id_ for id_, name in CATEGORIES},
        skip_empty=args.skip_empty,
    )
    added = label_store.add(lake, prepared.sets, prepared.before, dry_run=args.dry_run)
    facts = _facts(format_, prepared.sets, added, len(placement.unplaced), found.notes + prepared.notes)
    facts["skipped"] = [one._asdict() for one in found.skipped]
    if args.json:
        from masklake.jobs.terminal.json import print_json

        print_json(facts | {"lake": lake.uri})
    else:
        _print(facts, found.skipped, lake, dry_run=args.dry_run)
    return 0


def _read(file: str, storage: Storage, doing: str) -> bytes:
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import normalise

    with explaining(file, doing):
        return storage.read(normalise(file))


def _tell_unplaced(unplaced: list[Unplaced], images: int, args: argparse.Namespace, storage: Storage) -> None:
    """List the names that are no image of the lake. Raises UserError unless they may be left out."""
    import sys

    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import one_line
    from masklake.pipeline.storage.store import redact

    console = plain_console(sys.stderr)
    for one in unplaced[:_LISTED]:
        console.print(
            one_line(redact(f"{one.name!r} {one.reason}")), soft_wrap=True
        )  # signed URLs are names too
    if len(unplaced) > _LISTED:
        console.print(f"… and {len(unplaced) - _LISTED:,} more (--unresolved FILE writes them all)")
    if args.unresolved:
        _write_unplaced(unplaced, args.unresolved, storage)
    if not args.skip_unresolved:
        raise UserError(
            f"{len(unplaced):,} of {images:,} images cannot be resolved, so nothing was imported; give --uri-prefix or "
            "--mapping, or leave them out with --skip-unresolved"
        )


def _write_unplaced(unplaced: list[Unplaced], file: str, storage: Storage) -> None:
    import csv
    import io

    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import normalise

    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["name", "uri", "reason"])
    rows.writerows([one.name, "", one.reason] for one in unplaced)
    with explaining(file, "write the unresolved names"):
        storage.write(normalise(file), text.getvalue().encode())


def _facts(
    format_: str, sets: list[LabelSet], added: Added, unresolved: int, notes: Counter[str]
) -> dict[str, Any]:
    instances = [instance for one in sets for instance in one.instances]
    return {
        "format": format_,
        "images": len(sets),
        "new": added.new,
        "replaced": added.replaced,
        "unchanged": added.unchanged,
        "unresolved": unresolved,
        "empty": sum(not one.instances for one in sets),
        "train": sum(one.split == "train" for one in sets),
        "val": sum(one.split == "val" for one in sets),
        "instances": len(instances),
        "masks": sum(instance.mask is not None for instance in instances),
        "with_joints": sum(bool(instance.joints) for instance in instances),
        "crowds": sum(instance.iscrowd for instance in instances),
        "notes": dict(sorted(notes.items())),
        "part": added.part,
    }


def _print(facts: dict[str, Any], skipped: list[Skipped], lake: Lake, *, dry_run: bool) -> None:
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import one_line

    console = plain_console()

    def say(text: str) -> None:
        console.print(one_line(text), soft_wrap=True)

    say(
        "{images:,} images ({format}): {new:,} new, {replaced:,} replaced, {unchanged:,} unchanged; {empty:,} hold "
        "nothing; train {train:,}, val {val:,}".format(**facts)
    )
    say(
        "{instances:,} instances: {masks:,} with masks, {with_joints:,} with joints, {crowds:,} crowds".format(
            **facts
        )
    )
    if facts["unresolved"]:
        say("left out: {unresolved:,} images that could not be resolved".format(**facts))
    by_kind: dict[str, list[Skipped]] = {}
    for one in skipped:
        by_kind.setdefault(one.kind, []).append(one)
    for alike in by_kind.values():
        part = " left out: " in alike[0].problem  # of an object, which stays
        say(f"{'' if part else 'left out: '}{alike[0].problem}: {len(alike):,}")
        for one in alike[:_LISTED_OF_A_KIND]:
            say(f"- {one.where}" + (f": {one.problem}" if one.problem != alike[0].problem else ""))
        if len(alike) > _LISTED_OF_A_KIND:
            say(f"- … and {len(alike) - _LISTED_OF_A_KIND:,} more (--json lists them all)")
    for note, count in facts["notes"].items():
        say(f"note: {note}: {count:,}")
    if not facts["images"]:
        say("nothing was written: no image is left whose labels could be taken")
    elif facts["part"]:
        say(f"written: {facts['part']}")
    else:
        say(
            "dry run: nothing was written"
            if dry_run
            else f"{lake.uri} has all of these already: nothing was written"
        )
