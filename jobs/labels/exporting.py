"""`masklake labels export`: the newest labels as COCO or Label Studio JSON."""

from __future__ import annotations

import argparse
import json

from masklake.jobs.options import storage_from
from masklake.pipeline.errors import UserError

SUMMARY = "give labels out as COCO or Label Studio JSON"
DESCRIPTION = """\
Write the newest label set of every labelled image to FILE, as one COCO JSON that holds masks and key points
together, or as Label Studio tasks. Masks stay RLE, pixel for pixel; importing FILE again gives the same labels.

COCO file names are the URIs below the folder that all images share. Label Studio needs a labelling interface
that fits: --interface writes one. Its images are the URIs themselves; connect their bucket as cloud storage."""
EPILOG = """\
examples:
  masklake labels export s3://lake labels.json
  masklake labels export s3://lake val.json --split val
  masklake labels export s3://lake tasks.json --format label-studio --interface interface.xml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lake", metavar="LAKE", help="the lake: s3://…, a directory, …")
    parser.add_argument(
        "file", metavar="FILE", help="where to write: a local file, s3://…, …; whole or not at all"
    )
    parser.add_argument(
        "--format", choices=["coco", "label-studio"], default="coco", help="default: %(default)s"
    )
    parser.add_argument("--split", choices=["train", "val"], help="only images of this split")
    parser.add_argument(
        "--interface", metavar="FILE", help="also write Label Studio's labelling interface (XML)"
    )


def run(args: argparse.Namespace) -> int:
    """Export. Raises UserError when the lake cannot be read, has no such labels, or FILE cannot be written."""
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import one_line
    from masklake.pipeline.labels import store as label_store
    from masklake.pipeline.labels.formats import coco_writer as label_coco_export
    from masklake.pipeline.labels.formats import studio_writer as label_studio_export
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import normalise

    storage = storage_from(args)
    lake = Lake(args.lake, storage)
    lake.require()
    sets = [one for one in label_store.newest(lake) if args.split in (None, one.split)]
    if not sets:
        of = f" of split {args.split}" if args.split else ""
        raise UserError(
            f"{lake.uri}: has no labels{of}; `masklake labels import FILE {lake.uri}` takes some in"
        )
    content = (
        label_coco_export.to_coco(sets)
        if args.format == "coco"
        else label_studio_export.to_label_studio(sets)
    )
    files = {args.file: json.dumps(content, ensure_ascii=False, separators=(",", ":"))}
    if args.interface:
        files[args.interface] = label_studio_export.labelling_interface(sets)
    for file, text in files.items():
        with explaining(file, "write the labels"):
            storage.write(normalise(file), text.encode())
    instances = sum(len(one.instances) for one in sets)
    told = f"{len(sets):,} images and {instances:,} instances written to {', '.join(files)}"
    plain_console().print(one_line(told), soft_wrap=True)
    return 0
