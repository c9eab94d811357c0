"""What is common to all ways by which labels come into a lake: options, the placing of images, the words about the result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.declare import Options, flag, included, option
from masklake.jobs.options.kinds import one_of
from masklake.jobs.options.shared import StorageOptions, json_flag
from masklake.jobs.terminal.interrupts import finishing
from masklake.pipeline.errors import UserError
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.pipeline.labels.placement import Unplaced
    from masklake.pipeline.labels.sets import LabelFile, LabelSet, Skipped
    from masklake.pipeline.labels.store import Added
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import Storage

_LISTED = 20
_LISTED_OF_A_KIND = 5


@dataclass(frozen=True, kw_only=True)
class TakingOptions(Options):
    """How labels are taken in, wherever they come from."""

    uri_prefix: str | None = option(
        str, "URI", help="the folder or prefix of the images that the labels name, such as s3://photos/2026/"
    )
    mapping: str | None = option(
        str,
        "FILE",
        help="a CSV (columns name and uri) or a JSON object that gives each of these names its URI",
    )
    by_basename: bool = flag(help="compare file names only, without their folders")
    skip_unresolved: bool = flag(help="leave out images whose name is not found, and import the others")
    unresolved: str | None = option(str, "FILE", help="write the names that were not found to this CSV")
    strict: bool = flag(help="refuse labels of which anything cannot be read, instead of leaving that out")
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


def take(options: TakingOptions, lake: Lake, forgets: int, format_: str, annotations: LabelFile) -> int:
    """Place the images of `annotations`, add what is new to the lake, and say what came of it.

    `forgets`: how many calls of forget were done before the labels were read. Raises UserError, with nothing written, where images cannot
    be placed.
    """
    from masklake.model.coco import CATEGORIES
    from masklake.pipeline.labels import importing as label_import
    from masklake.pipeline.labels import placement as label_uris
    from masklake.pipeline.labels import store as label_store
    from masklake.pipeline.storage.store import normalise

    mapping = None
    if options.mapping:
        mapping = label_uris.read_mapping(
            read_file(options.mapping, lake.storage, "read the mapping"), options.mapping
        )
    placement = label_uris.place(
        annotations.images,
        lake,
        mapping=mapping,
        prefix=options.uri_prefix and normalise(options.uri_prefix),
        by_basename=options.by_basename,
        unchecked=options.unchecked,
    )
    if placement.unplaced:
        _tell_unplaced(placement.unplaced, len(annotations.images), options, lake.storage)
    prepared = label_import.prepare(
        lake,
        placement,
        source=annotations.source,
        pinned_source=options.source,
        split=options.split,
        ids={name: id_ for id_, name in CATEGORIES},
        skip_empty=options.skip_empty,
    )
    with finishing("this part is written"):
        added = label_store.add(
            lake, prepared.sets, prepared.before, forgets=forgets, dry_run=options.dry_run
        )
    facts = _facts(format_, prepared.sets, added, len(placement.unplaced), annotations.notes + prepared.notes)
    facts["skipped"] = [left_out._asdict() for left_out in annotations.skipped]
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json(facts | {"lake": lake.uri})
    else:
        _print(facts, annotations.skipped, lake, dry_run=options.dry_run)
    return ExitCode.DONE


def read_file(file: str, storage: Storage, doing: str) -> bytes:
    """The content of a file of the user. Raises UserError, which says what was to be done with it."""
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import normalise

    with explaining(file, doing):
        return storage.read(normalise(file))


def _tell_unplaced(unplaced: list[Unplaced], images: int, options: TakingOptions, storage: Storage) -> None:
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
            f"{len(unplaced):,} of {counted(images, 'images')} cannot be resolved, so nothing was imported; give --uri-prefix or "
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
        f"{counted(facts['images'], 'images')} "
        "({format}): {new:,} new, {replaced:,} replaced, {unchanged:,} unchanged; {empty:,} without "
        "instances; train {train:,}, val {val:,}".format(**facts)
    )
    say(
        f"{counted(facts['instances'], 'instances')}: {facts['masks']:,} with masks, {facts['with_joints']:,} with keypoints, "
        f"{counted(facts['crowds'], 'crowds')}"
    )
    if facts["unresolved"]:
        say(f"left out: {counted(facts['unresolved'], 'images')} that could not be resolved")
    if facts["forgotten"]:
        say(f"left out: {counted(facts['forgotten'], 'images')} forgotten since (masklake forget)")
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
