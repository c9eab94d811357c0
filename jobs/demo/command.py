"""`masklake demo`: the whole job on this machine, against a loopback S3 server with a generated bucket."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, argument, option
from masklake.jobs.options.kinds import one_of, positive
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.pipeline.storage.store import Storage
    from rich.console import Console

SUMMARY = "the whole job on this machine, nothing to configure: bucket, run, queries, AP, a picture"
DESCRIPTION = """\
Fill a bucket with synthetic scenes (and two broken files), run the small model that ships with Masklake over it, ask
the lake three questions, compare it with the scenes' truth, and draw a picture. The lake stays in LAKE for you to query.
The bucket is on an S3 server of the loopback where moto is installed (pip install 'masklake[demo]'), else a folder."""

_SEED = 20_260  # scenes that the demo model was not trained on
_SURE = 0.7
_PREFIX = "photos/2026/"
_QUERIES = (
    "select label, count(*) as n, round(avg(score), 2) as score from instances where score > 0.5 group by label order by n desc",
    "select status, count(*) as images, any_value(error) as example from images group by status order by images desc",
    "select i.uri, i.width, i.height, count(*) as people, max(area) as largest_px from images i join instances p using (uri) "
    "where p.label = 'person' and p.score > 0.7 group by all order by people desc, largest_px desc limit 5",
)


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """The options of `masklake demo`."""

    lake: str = argument(
        "LAKE",
        default="demo-lake",
        short=("--lake",),
        help="a folder where the results go (default demo-lake)",
    )
    images: int = option(positive, "N", default=200, help="how many scenes the bucket gets")
    bucket: str | None = option(
        one_of("s3", "folder"),
        "{s3,folder}",
        help="where the scenes are (default s3 where moto is installed)",
    )


def run(options: DemoOptions) -> int:
    """Run the demo; the exit code of its first step that fails."""
    from masklake.jobs.terminal.manners import progress_console
    from masklake.pipeline.storage.store import Storage

    console, started = progress_console(), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, _bucket(options.bucket, Path(scratch)) as (source, where):
        storage = Storage()
        _say(console, f"1. a bucket of {options.images:,} synthetic scenes and two broken files {where}")
        truth = _fill_bucket(Path(scratch), source, options.images, storage)
        _say(console, "2. the job: every image becomes rows in the lake")
        code = _masklake(console, "segment", source, options.lake, "--model", "demo", "--all")
        if code:
            return code
        _say(console, "3. three questions, in SQL")
        for sql in _QUERIES:
            code = _masklake(console, "query", sql, "--lake", options.lake)
            if code:
                return code
        _say(console, "4. how good is it? COCO average precision against the scenes' truth")
        rows = _instances(options.lake, storage)
        _show_ap(console, truth, rows)
        picture = Path(options.lake, "demo.png")
        _draw(Path(scratch) / "scenes", rows, picture)
        _say(console, f"5. a picture with masks, boxes and keypoints: {picture}")
    lake, command = shlex.quote(options.lake), _command()
    _say(console, f"That took {time.monotonic() - started:.0f} s. What to type next:")
    for line in (
        f'{command} query "select * from errors" --lake {lake}',  # noqa: S608  # shown, not run
        f"{command} runs show {lake} last",
        f"{command} segment YOUR-PHOTOS/ YOUR-LAKE/     # folders or s3:// prefixes; the model is coco unless --model says",
        f"{command} segment --help",
    ):
        console.print(f"   {line}", highlight=False, markup=False, soft_wrap=True)
    return ExitCode.DONE


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, options=DemoOptions, run=run)


def _command() -> str:
    """What a user types for `masklake` here: its path where the environment is not activated."""
    return "masklake" if shutil.which("masklake") else os.path.relpath(sys.argv[0])


def _say(console: Console, line: str) -> None:
    console.print(f"\n[bold]{line}[/bold]", highlight=False, soft_wrap=True)


def _masklake(console: Console, *argv: str) -> int:
    """Run a masklake command in this process, showing it as a user would type it: that is what the demo is for."""
    from masklake.jobs.cli import main

    typed = " ".join(
        f'"{arg}"' if " " in arg and not set(arg) & set('"$`\\!') else shlex.quote(arg) for arg in argv
    )
    console.print(f"$ masklake {typed}", style="cyan", highlight=False, markup=False, soft_wrap=True)
    return main(list(argv))


@contextlib.contextmanager
def _bucket(kind: str | None, scratch: Path) -> Iterator[tuple[str, str]]:
    """A source to fill, and a phrase that says where it is."""
    has_moto = importlib.util.find_spec("moto") is not None
    if kind == "folder" or (kind is None and not has_moto):
        yield f"{scratch}/{_PREFIX}", f"in {scratch}"
        return
    if not has_moto:
        raise UserError("--bucket s3: its server, moto, is not installed; pip install 'masklake[demo]'")
    from masklake.jobs.demo import loopback_s3

    with loopback_s3.serve() as server, server.applied():
        server.client().create_bucket(Bucket=_PREFIX.partition("/")[0])
        yield f"s3://{_PREFIX}", f"on {server.endpoint}"


def _fill_bucket(scratch: Path, source: str, images: int, storage: Storage) -> dict:
    """Write the scenes and two broken files to `source`; the scenes' truth as a COCO dataset."""
    from masklake.model import scenes

    truth = json.loads(scenes.write(scratch / "scenes", images, _SEED).read_text())
    for image in truth["images"]:
        storage.write(f"{source}{image['file_name']}", (scratch / "scenes" / image["file_name"]).read_bytes())
    whole = (scratch / "scenes" / truth["images"][0]["file_name"]).read_bytes()
    storage.write(f"{source}truncated.jpg", whole[: len(whole) // 3])
    storage.write(f"{source}not-an-image.jpg", b"this is text")
    return truth


def _instances(lake: str, storage: Storage) -> list[dict]:
    """The newest run's instances as Python dicts."""
    from masklake.pipeline.lake.lake import Lake

    opened = Lake(lake, storage)
    return opened.dataset("instances", [opened.resolve("last")]).to_table().to_pylist()


def _show_ap(console: Console, truth: dict, rows: list[dict]) -> None:
    from masklake.model.eval.coco_ap import coco_ap
    from rich.table import Table

    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    results = [
        {
            "image_id": ids[row["uri"].rpartition("/")[2]],
            "category_id": row["label_id"],
            "score": row["score"],
            "bbox": [row[side] for side in "xywh"],
            "segmentation": row["mask"],
            "keypoints": [
                value for keypoint in row["keypoints"] for value in (keypoint["x"], keypoint["y"], 1)
            ]
            if row["keypoints"]
            else None,
        }
        for row in rows
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("", "AP", "AP50", "AP75"):
        table.add_column(column, justify="right" if column else "left")
    for kind, figures in coco_ap(truth, results).items():
        if figures:
            table.add_row(kind, *(f"{figures[name]:.3f}" for name in ("AP", "AP50", "AP75")))
    console.print(table)


def _draw(scenes: Path, rows: list[dict], picture: Path) -> None:
    """Draw the sure instances of the four scenes that show the most classes."""
    import numpy as np
    from masklake.model.coco import SKELETON
    from masklake.model.draw import contact_sheet, draw_instances
    from PIL import Image

    by_file: dict[str, list[dict]] = {}
    for row in rows:
        if row["score"] > _SURE:
            by_file.setdefault(row["uri"].rpartition("/")[2], []).append(row)
    richest = sorted(by_file, key=lambda f: (-len({r["label"] for r in by_file[f]}), f))[:4]
    drawn = []
    for name in richest:
        with Image.open(scenes / name) as image:
            drawn.append(draw_instances(np.asarray(image.convert("RGB")), by_file[name], skeleton=SKELETON))
    contact_sheet(drawn).save(picture)
