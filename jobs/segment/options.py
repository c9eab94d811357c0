"""The options of `masklake segment`."""

from __future__ import annotations

import argparse
from typing import Any

from masklake.jobs.lock import add_lock_option
from masklake.jobs.options import add_storage_options, fraction, names, positive, span, zero_or_more
from masklake.model.tiles.tiling import Tiling

_LARGE = Tiling()
"""What is cut where nothing is said about it."""

DEFAULTS: dict[str, Any] = {
    "score": 0.05,
    "classes": None,
    "max_detections": 100,
    "precision": "auto",
    "max_pixels": 128_000_000,
    "max_bytes": 512_000_000,
    "full_decode": False,
    "tile": None,
    "overlap": None,
}
"""Options that decide the rows; they are kept by a run, so that resuming cannot change them."""


def tiling(options: dict[str, Any]) -> Tiling | None:
    """Which images are cut into tiles, and how; None for no image. Raises ModelError for tiles that cannot be."""
    side, overlap = options["tile"], options["overlap"]
    if side == 0:
        return None
    if side is None:
        return Tiling(size=_LARGE.size, overlap=overlap, above=_LARGE.above)
    return Tiling(size=side, overlap=overlap, above=0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `masklake segment`."""
    parser.add_argument("source", metavar="SOURCE", help="where the images lie")
    parser.add_argument("lake", metavar="LAKE", help="where the results go")
    what = parser.add_argument_group("model")
    what.add_argument(
        "--model",
        metavar="NAME|PATH|URI",
        help="coco (default), demo, an alias or version of the lake's models (masklake models --help), or a folder with model.safetensors and model.json",
    )
    what.add_argument(
        "--first-model",
        metavar="NAME|PATH|URI",
        help="the model as long as the lake has none of the name --model, as before the first promotion",
    )
    what.add_argument(
        "--weights-dir",
        metavar="DIR",
        help="published weights for --model coco, where they cannot be downloaded",
    )
    what.add_argument(
        "--score",
        type=fraction,
        metavar="0..1",
        help=f"leave out instances below this score (default {DEFAULTS['score']})",
    )
    what.add_argument("--classes", type=names, metavar="A,B", help="keep only these classes (default all)")
    what.add_argument(
        "--max-detections",
        type=positive,
        metavar="N",
        help=f"instances an image, best first (default {DEFAULTS['max_detections']}); in an image that is cut into tiles, instances a tile",
    )
    what.add_argument(
        "--precision",
        choices=("auto", "exact", "float32", "bfloat16", "float16"),
        help="of the convolutions: auto (default) is bfloat16 where the predictor's device computes in it natively, else float32; exact repeats torchvision bit for bit, image by image, from JPEGs decoded in full; bfloat16 is less exact, and slow where it is imitated; float16 is for GPUs, and what overflows in it is done again in float32",
    )
    large = parser.add_argument_group(
        "large images",
        """\
Made as small as the model's input, a very large image shows no small things. So it is cut into tiles that the
model sees one by one, then at half the resolution into tiles of twice the side, and so on up to the whole
image. A thing that several tiles show becomes one instance. It takes up to half as long again as the tiles.""",
    )
    large.add_argument(
        "--tile",
        type=zero_or_more,
        metavar="PIXELS",
        help=f"cut every image whose longer side exceeds this into tiles of this side; 0 cuts none (default: images above {_LARGE.above:,} pixels are cut into tiles of {_LARGE.size})",
    )
    large.add_argument(
        "--overlap",
        type=positive,
        metavar="PIXELS",
        help=f"pixels that neighbouring tiles share (default an eighth of the tile: {_LARGE.shared}); what is larger may be cut at this level and is seen whole at the next",
    )
    which = parser.add_argument_group("which images")
    which.add_argument("--limit", type=positive, metavar="N", help="at most N images")
    which.add_argument("--all", action="store_true", help="also what finished runs have covered")
    which.add_argument(
        "--every-object", action="store_true", help="also objects whose names do not look like images"
    )
    which.add_argument("--resume", metavar="RUN|last", help="go on with a run that was stopped or killed")
    which.add_argument(
        "--dry-run", action="store_true", help="say how many images and bytes there are to do; write nothing"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--address",
        metavar="ADDRESS",
        help="join a Ray cluster (auto, HOST:6379); default: Ray inside this process",
    )
    how.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="GPUs to use (default: all that Ray finds; 0 for none); a cluster may make their nodes only now",
    )
    add_lock_option(how, "segment")
    how.add_argument(
        "--actors",
        type=span,
        metavar="MIN:MAX",
        help="predictor actors (default: up to one a GPU, or one a CPU as far as memory goes)",
    )
    how.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="images that a task, and so a predictor, takes at once (default 16; 64 on GPUs); the predictor cuts them to what memory holds",
    )
    how.add_argument(
        "--commit-images",
        type=positive,
        metavar="N",
        help="images a Parquet part, which is what a kill can cost (default 256; 8192 on GPUs)",
    )
    how.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help=f"refuse larger frames (default {DEFAULTS['max_pixels']:,})",
    )
    how.add_argument(
        "--max-bytes",
        type=positive,
        metavar="N",
        help=f"refuse larger objects (default {DEFAULTS['max_bytes']:,})",
    )
    how.add_argument(
        "--full-decode",
        action="store_true",
        default=None,
        help="decode large JPEGs in full instead of at the fraction that the model needs",
    )
    add_storage_options(parser)
