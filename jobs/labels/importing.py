"""`masklake labels import`: annotation files into a lake's labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, argument, flag, included, option
from masklake.jobs.options.kinds import one_of
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument
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
around mask or keypoints where it has none. Area, ignore, num_keypoints and LVIS' negative and not exhaustive classes
are kept as the file has them, and evaluation and training follow them. CVAT's iscrowd is not taken: it is 1 for every
brush mask. Label Studio: the newest annotation of a task counts, cancelled ones and predictions do not; a
keypoint belongs to the region that is its parent, or that is related to it, or that alone contains it; a region
belongs to the image that its to_name names. What labels have no
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


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """The options of `masklake labels import`."""

    files: tuple[str, ...] = argument("FILE", nargs="+", help="annotations: a local file, s3://…, …")
    lake: str = lake_argument("the lake; it is made if needed")
    format: str | None = option(
        one_of("coco", "cvat", "label-studio"),
        "{coco,cvat,label-studio}",
        help="the format of the files (default: recognised by what is in them)",
    )
    uri_prefix: str | None = option(
        str, "URI", help="the folder or prefix of the images that the file names, such as s3://photos/2026/"
    )
    mapping: str | None = option(
        str,
        "FILE",
        help="a CSV (columns name and uri) or a JSON object that gives each name in the file its URI",
    )
    by_basename: bool = flag(help="compare file names only, without their folders")
    skip_unresolved: bool = flag(help="leave out images whose name is not found, and import the others")
    unresolved: str | None = option(str, "FILE", help="write the names that were not found to this CSV")
    strict: bool = flag(help="refuse a file in which anything cannot be read, instead of leaving that out")
    allow_empty: bool = flag(
        help="accept a file without any annotation: its images are labelled as holding nothing"
    )
    unchecked: bool = flag(help="do not check that the images below --uri-prefix exist")
    skip_empty: bool = flag(help="leave images without annotations out")
    split: str | None = option(
        one_of("train", "val"),
        "{train,val}",
        help="put these images into this split (default: as they were, else val for a tenth of all URIs)",
    )
    source: str | None = option(
        str,
        "NAME",
        help="who made the labels, for the column source (default human for Label Studio, else import)",
    )
    dry_run: bool = flag(kept=False, help="do everything but write")
    json: bool = json_flag("one object instead of text")
    storage: StorageOptions = included(StorageOptions)


def run(options: ImportOptions) -> int:
    """Import. Raises UserError, with nothing written, for files that cannot be understood or placed."""
    from masklake.model.coco import CATEGORIES
    from masklake.pipeline.labels import importing as label_import
    from masklake.pipeline.labels import placement as label_uris
    from masklake.pipeline.labels import store as label_store
    from masklake.pipeline.lake.forgotten import forgets_done
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import normalise, normalise_folder

    storage = options.storage.open()
    forgets = forgets_done(normalise_folder(options.lake), storage)  # before the files are read
    files = [(file, _read(file, storage, "read the labels")) for file in options.files]
    format_, annotations = label_import.read(
        files, options.format, strict=options.strict, allow_empty=options.allow_empty
    )
    mapping = None
    if options.mapping:
        mapping = label_uris.read_mapping(
            _read(options.mapping, storage, "read the mapping"), options.mapping
        )
    lake = Lake(options.lake, storage)
    placement = label_uris.place(
        annotations.images,
        lake,
        mapping=mapping,
        prefix=options.uri_prefix and normalise(options.uri_prefix),
        by_basename=options.by_basename,
        unchecked=options.unchecked,
    )
    if placement.unplaced:
        _tell_unplaced(placement.unplaced, len(annotations.images), options, storage)
    prepared = label_import.prepare(
        lake,
        placement,
        source=annotations.source,
        pinned_source=options.source,
        split=options.split,
        ids={name: id_ for id_, name in CATEGORIES},
        skip_empty=options.skip_empty,
    )
    added = label_store.add(lake, prepared.sets, prepared.before, forgets=forgets, dry_run=options.dry_run)
    facts = _facts(format_, prepared.sets, added, len(placement.unplaced), annotations.notes + prepared.notes)
    facts["skipped"] = [left_out._asdict() for left_out in annotations.skipped]
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json(facts | {"lake": lake.uri})
    else:
        _print(facts, annotations.skipped, lake, dry_run=options.dry_run)
    return ExitCode.DONE


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=ImportOptions, run=run)


def _read(file: str, storage: Storage, doing: str) -> bytes:
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import normalise

    with explaining(file, doing):
        return storage.read(normalise(file))


def _tell_unplaced(unplaced: list[Unplaced], images: int, options: ImportOptions, storage: Storage) -> None:
    """List the names that are no image of the lake. Raises UserError unless they may be left out."""
    import sys

    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import one_line
    from masklake.pipeline.storage.store import redact

    console = plain_console(sys.stderr)
    for image in unplaced[:_LISTED]:
        console.print(
            one_line(redact(f"{image.name!r} {image.reason}")), soft_wrap=True
        )  # a name may be a signed URL
    if len(unplaced) > _LISTED:
        console.print(f"… and {len(unplaced) - _LISTED:,} more (--unresolved FILE writes them all)")
    if options.unresolved:
        _write_unplaced(unplaced, options.unresolved, storage)
    if not options.skip_unresolved:
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
    rows.writerows([row.name, "", row.reason] for row in unplaced)
    with explaining(file, "write the unresolved names"):
        storage.write(normalise(file), text.getvalue().encode())


def _facts(
    format_: str, sets: list[LabelSet], added: Added, unresolved: int, notes: Counter[str]
) -> dict[str, Any]:
    instances = [instance for label_set in sets for instance in label_set.instances]
    return {
        "format": format_,
        "images": len(sets),
        "new": added.new,
        "replaced": added.replaced,
        "unchanged": added.unchanged,
        "unresolved": unresolved,
        "forgotten": added.forgotten,
        "empty": sum(not label_set.instances for label_set in sets),
        "train": sum(label_set.split == "train" for label_set in sets),
        "val": sum(label_set.split == "val" for label_set in sets),
        "instances": len(instances),
        "masks": sum(instance.mask is not None for instance in instances),
        "with_joints": sum(bool(instance.keypoints) for instance in instances),
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
        "{instances:,} instances: {masks:,} with masks, {with_joints:,} with keypoints, {crowds:,} crowds".format(
            **facts
        )
    )
    if facts["unresolved"]:
        say("left out: {unresolved:,} images that could not be resolved".format(**facts))
    if facts["forgotten"]:
        say("left out: {forgotten:,} images that were forgotten since (masklake forget)".format(**facts))
    by_kind: dict[str, list[Skipped]] = {}
    for entry in skipped:
        by_kind.setdefault(entry.kind, []).append(entry)
    for alike in by_kind.values():
        part = (
            " left out: " in alike[0].problem
        )  # the problem is a part of an object, which is kept without it
        say(f"{'' if part else 'left out: '}{alike[0].problem}: {len(alike):,}")
        for entry in alike[:_LISTED_OF_A_KIND]:
            say(f"- {entry.where}" + (f": {entry.problem}" if entry.problem != alike[0].problem else ""))
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
