"""`masklake export`: results and labels in the formats of other tools."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.export.options import ExportOptions
from masklake.jobs.options.command import Command
from masklake.jobs.terminal.bar import with_bar
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.jobs.export.source import Source
    from masklake.pipeline.export.folder import ExportFolder

SUMMARY = "write results or labels for other tools: COCO, YOLO, CVAT, Label Studio, FiftyOne, Hugging Face, …"
DESCRIPTION = """\
Write the newest results of every image (or, with --labels, the newest labels) to DIR, a folder or s3://…:

  coco             annotations.json: a dataset with masks, boxes, keypoints (and scores)
  coco-results     results.json for pycocotools' loadRes, and images.json; with --like FILE the ids are FILE's
  yolo-detect      data.yaml and a text file an image, as ultralytics reads them: boxes,
  yolo-segment     polygons (one an instance: its parts and holes are joined by cuts of no width),
  yolo-pose        or boxes and keypoints, of the classes that have keypoints
  cvat             COCO as CVAT imports it: a folder for its COCO, and one for its COCO Keypoints
  label-studio     tasks.json with predictions (of labels, annotations), and interface.xml
  masks-indexed    a PNG an image, whose values are classes (classes.json)
  masks-instances  a PNG an instance (instances.csv says what each is)
  fiftyone         a folder that fo.Dataset.from_dir opens as fo.types.FiftyOneDataset
  huggingface      Parquet and a dataset card for `datasets`: load_dataset("DIR"); with --images the photos are in it

--images copies the photos as well; labels speak of the upright image, as the orientation in a photo's EXIF says.
Files are named after what is plain in a key and a hash of the URI; images.csv gives each its URI. Memory does not grow
with the lake. What a format has no place for is counted and told; images that are gone, or have changed since the model
saw them, are not copied, nor is anything said of them: left-out.csv lists them. A local DIR is there when all of it is
written, or as it was. In object storage it is whole once it holds masklake-export.json; --overwrite removes that first.

--where is a condition in DuckDB's SQL on the columns of an instance and its image (`masklake query --columns`). An image of
which it is true for no instance is left out; where an image has no instances, their columns are null."""
EPILOG = """\
examples:
  masklake export s3://lake --format coco --out coco/ --where "label = 'person' and score > 0.7"
  masklake export s3://lake --format yolo-segment --out yolo/ --score 0.5 --images
  masklake export s3://lake --labels --format yolo-pose --out s3://sets/pose --images
  masklake export s3://lake --format coco-results --like annotations.json --out results/

exit codes: 0 written · 2 a mistake that the message names, or nothing to write: then DIR is as it was"""


def run(options: ExportOptions) -> int:
    """Export. Raises UserError, with DIR as it was, where the lake cannot be read, nothing fits, or DIR is not free."""
    from masklake.jobs.export import like as like_file
    from masklake.jobs.export.source import ExportSelection, Source
    from masklake.jobs.query.database import Database
    from masklake.pipeline.export import formats
    from masklake.pipeline.export.remote import writing_at
    from masklake.pipeline.lake.lake import Lake

    lake = Lake(options.lake, options.storage.open())
    out, format_ = str(options.out), str(options.format)
    selection = ExportSelection(
        labels=options.labels, where=options.where, score=options.score, split=options.split
    )
    with (
        writing_at(out, lake.storage, overwrite=options.overwrite) as folder,
        Database(lake, run=options.run, seconds=options.timeout or None) as database,
    ):
        like, absent = like_file.read(lake, options.like) if options.like else (None, 0)
        source = Source(database, selection)
        formats.export(
            format_,
            with_bar(source, "exporting", source.images),
            source.contents,
            folder,
            photos_from=lake.storage if options.images else None,
            like=like,
        )
        facts = _facts(options, lake.uri, source, folder) | {"absent_of_like": absent}
        folder.manifest = facts
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json(facts)
    else:
        _print(facts)
    return ExitCode.DONE


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=ExportOptions, run=run)


def _facts(options: ExportOptions, lake: str, source: Source, folder: ExportFolder) -> dict[str, Any]:
    return {
        "lake": lake,
        "format": options.format,
        "of": "labels" if options.labels else "results",
        "run": options.run,
        "where": options.where,
        "score": options.score,
        "split": options.split,
        "out": options.out,
        "images": folder.images,
        "instances": folder.instances,
        "classes": list(source.contents.classes),
        "failed_images": source.failures(),
        "left_out_images": dict(folder.left_out),
        "left_out_instances": dict(folder.notes),
        "changed": dict(folder.remarks),
        "exported_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _print(facts: dict[str, Any]) -> None:
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import say

    console = plain_console()
    say(
        console,
        f"{counted(facts['images'], 'images')} and {counted(facts['instances'], 'instances')} written to "
        f"{facts['out']} ({facts['format']})",
    )
    for status, count in facts["failed_images"].items():
        say(console, f"not in it: {counted(count, 'images')} {status} in the lake")
    for reason, count in facts["left_out_images"].items():
        say(console, f"left out: {counted(count, 'images')} {reason} (left-out.csv)")
    for reason, count in facts["left_out_instances"].items():
        say(console, f"left out: {counted(count, reason)}")
    for reason, count in facts["changed"].items():
        say(console, f"changed: {counted(count, reason)}")
    if facts["absent_of_like"]:
        say(console, f"not in the lake: {counted(facts['absent_of_like'], 'images')} of the file of --like")
