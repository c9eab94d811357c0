"""`masklake labels stats`: how much is labelled, and what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, included
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument
from masklake.pipeline.words import counted

SUMMARY = "count what is labelled, by class and split"
DESCRIPTION = """\
Count what is labelled in a lake: images and instances by split, instances by class with masks, keypoints and
crowds, where the labels come from, how long their history is, and which keypoints change places when training mirrors an
image (`masklake train --flip-pairs` says otherwise)."""
EPILOG = """\
examples:
  masklake labels stats s3://lake
  masklake labels stats s3://lake --json | jq .classes"""

_IMAGES = """
    select split, source, count(*) as images, count(*) filter (n_instances = 0) as empty,
        coalesce(sum(n_instances), 0)::bigint as instances
    from labelled group by all order by all
"""
_CLASSES = """
    select label, count(distinct uri) as images, count(*) as instances, count(*) filter (split = 'train') as train,
        count(*) filter (split = 'val') as val, count(mask) as masks, count(keypoints) as with_joints,
        count(*) filter (iscrowd) as crowds
    from labels group by label order by instances desc, label
"""
_HISTORY = """
    select count(*) as label_sets, (count(*) - count(distinct uri))::bigint as older, coalesce(sum(rows), 0)::bigint as rows,
        min(labelled_at) as first_at, max(labelled_at) as last_at
    from (select uri, labelled_at, count(*) as rows from all_labels group by all)
"""
_KEYPOINTS = """
    select label, names, count(*) as instances
    from (select label, [k.name for k in keypoints] as names from labels where keypoints is not null)
    group by all order by label, instances desc
"""
_NAMED = 8
"""How many keypoints are named in one line; --json has all."""
_CLASS_COLUMNS = {
    "images": "images",
    "instances": "instances",
    "train": "train",
    "val": "val",
    "masks": "masks",
    "with_joints": "with keypoints",
    "crowds": "crowds",
}
"""The table's headings, by their names in --json, which stay as programs know them."""


@dataclass(frozen=True, kw_only=True)
class StatsOptions(Options):
    """The options of `masklake labels stats`."""

    lake: str = lake_argument()
    json: bool = json_flag("one object")
    storage: StorageOptions = included(StorageOptions)


def run(options: StatsOptions) -> int:
    """Count. Raises UserError when the lake cannot be read."""
    from masklake.jobs.query.database import Database
    from masklake.pipeline.lake.lake import Lake

    lake = Lake(options.lake, options.storage.open())
    with Database(lake) as database:
        images, classes, [history], keypoints = (
            database.rows(sql) for sql in (_IMAGES, _CLASSES, _HISTORY, _KEYPOINTS)
        )
    parts = lake.parts("labels")
    facts = {
        "images": [
            dict(zip(("split", "source", "images", "empty", "instances"), row, strict=True)) for row in images
        ],
        "classes": [dict(zip(("label", *_CLASS_COLUMNS), row, strict=True)) for row in classes],
        "keypoints": _keypoints(keypoints),
        "history": {
            "parts": len(parts),
            "bytes": sum(part.size or 0 for part in parts),
            **dict(zip(("label_sets", "older_label_sets", "rows"), history[:3], strict=True)),
            **{
                name: time and time.isoformat()
                for name, time in zip(("first_at", "last_at"), history[3:], strict=True)
            },
        },
    }
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json(facts)
    else:
        _print(facts)
    return ExitCode.DONE


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=StatsOptions, run=run)


def _keypoints(rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The keypoints of each class, and the pairs of them that training lets change places in a mirror."""
    from masklake.model.flip_pairs import propose

    names: dict[str, dict[str, None]] = {}
    for label, keypoints, _ in sorted(rows, key=lambda row: (row[0], -len(row[1]))):
        names.setdefault(label, {}).update(dict.fromkeys(keypoints))
    facts = []
    for label, seen in names.items():
        ordered = list(seen)
        proposed = propose(ordered)
        facts.append(
            {
                "label": label,
                "keypoints": ordered,
                "flip_pairs": [[ordered[a], ordered[b]] for a, b in proposed.pairs],
                "unpaired": [ordered[i] for i in proposed.unpaired],
                "mirrored": proposed.usable,
            }
        )
    return facts


def _print(facts: dict[str, Any]) -> None:
    from masklake.jobs.terminal.tables import plain_console, ruled_table
    from masklake.jobs.terminal.text import printable

    console = plain_console()
    if not facts["images"]:
        console.print("no labels yet")
        return
    images = ruled_table(("split", "source"), ("images", "holding nothing", "instances"))
    for row in facts["images"]:
        images.add_row(
            printable(row["split"]),
            printable(row["source"]),
            *(f"{row[name]:,}" for name in ("images", "empty", "instances")),
        )
    console.print(images)
    console.print()
    classes = ruled_table(("class",), tuple(_CLASS_COLUMNS.values()))
    for row in facts["classes"]:
        label, *counts = row.values()
        classes.add_row(printable(label), *(f"{count:,}" for count in counts))
    console.print(classes)
    console.print()
    for row in facts["keypoints"]:
        unpaired = ", ".join(row["unpaired"][:_NAMED])
        if len(row["unpaired"]) > _NAMED:
            unpaired += f" and {len(row['unpaired']) - _NAMED} more"
        if row["mirrored"]:
            pairs = ", ".join(f"{a}:{b}" for a, b in row["flip_pairs"]) or "none"
            text = (
                f"{row['label']}: {len(row['keypoints'])} keypoints, in a mirror these change places: {pairs}"
            )
        else:
            text = (
                f"{row['label']}: {len(row['keypoints'])} keypoints, images are not mirrored in training: the names do not "
                f"tell what changes places with {unpaired} (train --flip-pairs A:B,… says it)"
            )
        console.print(printable(text), soft_wrap=True)
    if facts["keypoints"]:
        console.print()
    history = facts["history"]
    console.print(
        f"history: {counted(history['label_sets'], 'label sets', 'label set')}, {history['older_label_sets']:,} of them replaced; "
        f"{counted(history['rows'], 'rows')} in {counted(history['parts'], 'parts')}, {counted(history['bytes'], 'bytes')}; "
        f"first {history['first_at']}, last {history['last_at']}",
        soft_wrap=True,
    )
