"""`masklake labels export`: the newest labels as COCO or Label Studio JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, argument, included, option
from masklake.jobs.options.kinds import one_of
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument
from masklake.pipeline.errors import UserError
from masklake.pipeline.words import counted

SUMMARY = "give labels out as COCO or Label Studio JSON"
DESCRIPTION = """\
Write the newest label set of every labelled image to FILE, as one COCO JSON that holds masks and keypoints
together, or as Label Studio tasks. Masks stay RLE, pixel for pixel; importing FILE again gives the same labels.

COCO file names are the URIs below the folder that all images share. Label Studio needs a labelling interface
that fits: --interface writes one. Its images are the URIs themselves; connect their bucket as cloud storage."""
EPILOG = """\
examples:
  masklake labels export s3://lake labels.json
  masklake labels export s3://lake val.json --split val
  masklake labels export s3://lake tasks.json --format label-studio --interface interface.xml"""


@dataclass(frozen=True, kw_only=True)
class LabelsExportOptions(Options):
    """The options of `masklake labels export`."""

    lake: str = lake_argument()
    file: str = argument(
        "FILE", help="where to write: a local file or s3://…; it is written in one step, or not at all"
    )
    format: str = option(
        one_of("coco", "label-studio"), "{coco,label-studio}", default="coco", help="the format of FILE"
    )
    split: str | None = option(one_of("train", "val"), "{train,val}", help="only images of this split")
    interface: str | None = option(str, "FILE", help="also write Label Studio's labelling interface (XML)")
    json: bool = json_flag("one object: how much was written, and where")
    storage: StorageOptions = included(StorageOptions)


def run(options: LabelsExportOptions) -> int:
    """Export. Raises UserError when the lake cannot be read, has no such labels, or FILE cannot be written."""
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import note, one_line
    from masklake.pipeline.labels import store as label_store
    from masklake.pipeline.labels.formats import coco_writer as label_coco_export
    from masklake.pipeline.labels.formats import studio_interface
    from masklake.pipeline.labels.formats import studio_writer as label_studio_export
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import normalise

    if options.interface and normalise(options.interface) == normalise(options.file):
        raise UserError(
            f"{options.file}: the interface would replace the labels; give --interface another name"
        )
    storage = options.storage.open()
    lake = Lake(options.lake, storage)
    lake.require()
    sets = [label_set for label_set in label_store.newest(lake) if options.split in (None, label_set.split)]
    if not sets:
        of_split = f" of split {options.split}" if options.split else ""
        raise UserError(
            f"{lake.uri}: has no labels{of_split}; `masklake labels import FILE {lake.uri}` takes some in"
        )
    content = (
        label_coco_export.to_coco(sets)
        if options.format == "coco"
        else label_studio_export.to_label_studio(sets)
    )
    files = {options.file: json.dumps(content, ensure_ascii=False, separators=(",", ":"))}
    if options.interface:
        labels, keypoints = label_studio_export.names_of(sets)
        files[options.interface] = studio_interface.interface(labels, keypoints)
        if unnameable := studio_interface.unnameable([*labels, *keypoints]):
            note(unnameable)
    for file, text in files.items():
        with explaining(file, "write the labels"):
            storage.write(normalise(file), text.encode())
    instances = sum(len(label_set.instances) for label_set in sets)
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json({"lake": lake.uri, "images": len(sets), "instances": instances, "files": list(files)})
        return ExitCode.DONE
    summary = (
        f"{counted(len(sets), 'images')} and {counted(instances, 'instances')} written to {', '.join(files)}"
    )
    plain_console().print(one_line(summary), soft_wrap=True)
    return ExitCode.DONE


COMMAND = Command(
    summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=LabelsExportOptions, run=run
)
