"""`masklake show`: images of a lake as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, argument, flag, included, option
from masklake.jobs.options.kinds import fraction, local_file, pixels, positive
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument, run_option, where_option
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.jobs.view.gallery import LakeGallery
    from PIL import Image

SUMMARY = "draw images of a lake with their masks, boxes, keypoints, labels: PNG"
DESCRIPTION = """\
Draw one image, or those that --where chooses, with what was detected (or, with --labels, labelled). Lines and text grow
with the picture, and masks are drawn at its scale, so that small images are as legible as large ones.

URI is an image as the lake has it, or the end of its name where one image alone ends so. --out FILE.png is one picture;
of several images it is a sheet of them. --out DIR is a folder with a PNG an image."""
EPILOG = """\
examples:
  masklake show s3://lake s3://photos/2026/a.jpg --out a.png
  masklake show lake/ scene-000003.jpg --out scene.png --side 2400
  masklake show lake/ --where "label = 'dog' and score > 0.9" --out dogs/"""
_CELL = (960, 720)
_INSTANCES = 5_000


@dataclass(frozen=True, kw_only=True)
class ShowOptions(Options):
    """The options of `masklake show`."""

    lake: str = lake_argument()
    uri: str | None = argument("URI", default=None, help="the image, or the end of its name")
    where: str | None = where_option("the images with an instance", such_as="label = 'dog' and score > 0.9")
    out: str | None = option(
        local_file, "FILE.png|DIR", short=("--output",), help="the picture, or the folder of pictures"
    )
    run: str | None = run_option("the results of this run (default: of the newest run of each image)")
    labels: bool = flag(help="the newest labels, in place of results")
    score: float = option(
        fraction, "0..1", default=0.5, help="leave out instances below this score (default 0.5)"
    )
    side: int = option(
        pixels(64, 16_384), "PIXELS", default=1_280, help="the longer side of a picture (default 1280)"
    )
    limit: int = option(
        positive, "N", default=100, help="how many images of --where at most, the newest first (default 100)"
    )
    overwrite: bool = flag(help="replace an earlier folder of pictures; other files are never replaced")
    json: bool = json_flag("one object: the pictures, and what could not be drawn")
    storage: StorageOptions = included(StorageOptions)

    def validate(self) -> None:
        """Raises UserError where something is missing, or does not go together."""
        if (self.uri is None) == (self.where is None):
            raise UserError("name an image (URI), or choose some (--where SQL)")
        if self.out is None:
            raise UserError("name what to write: --out FILE.png, or --out DIR")
        if self.labels and self.run:
            raise UserError("--run chooses results; leave it out, or leave out --labels")


def run(options: ShowOptions) -> int:
    """Draw. Raises UserError where no image fits, none can be drawn, or --out is not free."""
    from masklake.jobs.query.database import Database
    from masklake.jobs.view.gallery import LakeGallery
    from masklake.jobs.view.selection import LABELS, NEWEST, GalleryFilter
    from masklake.pipeline.lake.lake import Lake

    lake = Lake(options.lake, options.storage.open())
    lake.require()
    source = LABELS if options.labels else lake.resolve(options.run) if options.run else NEWEST
    with Database(lake) as database:
        gallery = LakeGallery(database, options.where)
        if options.uri is not None:
            images = [gallery.named(options.uri, source)]
        else:
            images = gallery.page(GalleryFilter(source=source), 0, options.limit)
            if not images:
                raise gallery.nothing_fits()
        facts = _draw(options, gallery, images)
    if options.json:
        from masklake.jobs.terminal.json import print_json

        print_json(facts)
    else:
        _print(facts)
    return ExitCode.DONE


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=ShowOptions, run=run)


def _draw(options: ShowOptions, gallery: LakeGallery, images: list[dict[str, Any]]) -> dict[str, Any]:
    from masklake.jobs.view.photos import NoPhotoError
    from masklake.model.draw import contact_sheet
    from masklake.pipeline.export.folder import writing
    from masklake.pipeline.export.names import stem_of
    from masklake.pipeline.storage.explain import explaining

    out = str(options.out)
    on_a_sheet = Path(out).suffix.lower() == ".png" and len(images) > 1
    side = max(_CELL) if on_a_sheet else options.side  # drawn for its cell, so that text stays legible
    facts: dict[str, Any] = {"out": out, "images": 0, "not_drawn": {}}

    def picture(image: dict[str, Any]) -> Image.Image | None:
        try:
            drawn = _picture(options, gallery, image, side)
        except NoPhotoError as error:
            facts["not_drawn"][image["uri"]] = str(error)
            return None
        facts["images"] += 1
        return drawn

    if Path(out).suffix.lower() == ".png":
        pictures = [drawn for image in images if (drawn := picture(image)) is not None]
        _require_some(facts)
        sheet = pictures[0] if len(pictures) == 1 else contact_sheet(pictures, columns=3, cell=_CELL)
        with explaining(out, "write the picture"):
            sheet.save(out, "PNG")
        return facts
    with writing(out, overwrite=options.overwrite) as folder:
        for image in images:
            drawn = picture(image)
            if drawn is None:
                folder.leave_out(image["uri"], facts["not_drawn"][image["uri"]], "not drawn")
                continue
            name = f"{stem_of(image['uri'])}.png"
            folder.list_image(name, image["uri"], image["split"] or "")
            with folder.open(name, "wb") as file:
                drawn.save(file, "PNG")
        _require_some(facts)
        folder.manifest = facts
    return facts


def _picture(options: ShowOptions, gallery: LakeGallery, image: dict[str, Any], side: int) -> Image.Image:
    """The image with its instances, its longer side `side` pixels. Raises NoPhotoError."""
    from masklake.jobs.view.photos import NoPhotoError, fetch, pixels
    from masklake.model.coco import SKELETON
    from masklake.model.draw import draw_instances

    if image["status"] != "ok":
        raise NoPhotoError(f"{image['status']}: {image['error'] or 'no reason is recorded'}")
    (data,) = fetch(options.storage.open(), [image])
    if isinstance(data, NoPhotoError):
        raise data
    photo = pixels(data)
    instances = gallery.instances([image], "", _INSTANCES).get(image["id"], [])
    rows = [_row(i) for i in instances if i["score"] is None or i["score"] >= options.score]
    try:
        return draw_instances(photo, rows, skeleton=SKELETON, side=side)
    except ValueError as error:  # labels that speak of another frame than the photo has now
        raise NoPhotoError(str(error)) from error


def _row(instance: dict[str, Any]) -> dict[str, Any]:
    x, y, w, h = instance["box"]
    keypoints = [
        {"name": name, "x": a, "y": b, "score": seen} for name, a, b, seen in instance["keypoints"] or ()
    ]
    return {**instance, "x": x, "y": y, "w": w, "h": h, "keypoints": keypoints}


def _require_some(facts: dict[str, Any]) -> None:
    if not facts["images"]:
        uri, reason = next(iter(facts["not_drawn"].items()))
        more = f" (and {len(facts['not_drawn']) - 1:,} more)" if len(facts["not_drawn"]) > 1 else ""
        raise UserError(f"{uri}: cannot be drawn: {reason}{more}")


def _print(facts: dict[str, Any]) -> None:
    from masklake.jobs.terminal.tables import plain_console
    from masklake.jobs.terminal.text import say

    console = plain_console()
    say(console, f"{facts['images']:,} image{'s' * (facts['images'] != 1)} drawn: {facts['out']}")
    for uri, reason in facts["not_drawn"].items():
        say(console, f"not drawn: {uri}: {reason}")
