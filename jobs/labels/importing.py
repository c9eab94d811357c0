"""`masklake labels import`: annotation files into a lake's labels."""

from __future__ import annotations

from dataclasses import dataclass

from masklake.jobs.labels.taking import TakingOptions, read_file, take
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import argument, flag, option
from masklake.jobs.options.kinds import one_of
from masklake.jobs.options.shared import lake_argument

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


@dataclass(frozen=True, kw_only=True)
class ImportOptions(TakingOptions):
    """The options of `masklake labels import`."""

    files: tuple[str, ...] = argument("FILE", nargs="+", help="annotations: a local file, s3://…, …")
    lake: str = lake_argument("the lake; it is made if needed")
    format: str | None = option(
        one_of("coco", "cvat", "label-studio"),
        "{coco,cvat,label-studio}",
        help="the format of the files (default: recognised by what is in them)",
    )
    allow_empty: bool = flag(
        help="accept a file without any annotation: its images are labelled as holding nothing"
    )


def run(options: ImportOptions) -> int:
    """Import. Raises UserError, with nothing written, for files that cannot be understood or placed."""
    from masklake.pipeline.labels import importing as label_import
    from masklake.pipeline.lake.forgotten import forgets_done
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import normalise_folder

    storage = options.storage.open()
    forgets = forgets_done(normalise_folder(options.lake), storage)  # before the files are read
    files = [(file, read_file(file, storage, "read the labels")) for file in options.files]
    format_, annotations = label_import.read(
        files, options.format, strict=options.strict, allow_empty=options.allow_empty
    )
    return take(options, Lake(options.lake, storage), forgets, format_, annotations)


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=ImportOptions, run=run)
