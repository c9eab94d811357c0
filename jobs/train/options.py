"""The options of `masklake train`."""

from __future__ import annotations

import argparse
import math

from masklake.jobs.lock import add_lock_option
from masklake.jobs.options import add_storage_options, fraction, names, positive, span, zero_or_more

DEFAULT_EPOCHS = 12
METRICS = tuple(f"{kind}.{stat}" for kind in ("mask", "box", "keypoints") for stat in ("AP", "AP50"))


def above_zero(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `masklake train`."""
    parser.add_argument("lake", metavar="LAKE", help="the lake: its labels are learnt from, its models kept")
    start = parser.add_argument_group("what it starts from").add_mutually_exclusive_group()
    start.add_argument(
        "--model",
        metavar="MODEL",
        help="train this further: coco, demo, one of the lake's, a directory or URI (default: the lake's production model, else coco)",
    )
    start.add_argument(
        "--backbone",
        metavar="NAME",
        help="a new network on this backbone (resnet18, resnet50, resnet101, resnext101_32x8d, mobilenet_v2, mobilenet_v3_large, tiny)",
    )
    start.add_argument(
        "--resume", metavar="RUN|last", help="go on with a training that was stopped or killed"
    )
    more = parser.add_argument_group("more about the start")
    more.add_argument(
        "--backbone-weights",
        metavar="FILE",
        help="of an ImageNet classifier (.safetensors or .pth); default: none",
    )
    more.add_argument("--weights-dir", metavar="DIR", help="published weights for --model coco")
    more.add_argument(
        "--min-size",
        type=positive,
        metavar="PIXELS",
        help="short side of the network's input (default the model's, else 800)",
    )
    more.add_argument(
        "--max-size",
        type=positive,
        metavar="PIXELS",
        help="and its longest long side (default 5/3 of --min-size)",
    )
    length = parser.add_argument_group("how long").add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=above_zero,
        metavar="N",
        help=f"times that each image is seen (default {DEFAULT_EPOCHS})",
    )
    length.add_argument("--steps", type=positive, metavar="N")
    length.add_argument(
        "--minutes", type=above_zero, metavar="N", help="of training, start and evaluation not counted"
    )
    what = parser.add_argument_group("what is learnt")
    what.add_argument(
        "--classes", type=names, metavar="A,B", help="only these classes (default all that are labelled)"
    )
    what.add_argument(
        "--flip-pairs",
        metavar="A:B,…",
        help="keypoints that change places in a mirror, by name; none: they all stay (default: by their names; `labels stats` shows them)",
    )
    what.add_argument(
        "--name",
        metavar="NAME",
        help="of the result in the lake (default: that of the model it started from)",
    )
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="images a step, over all workers (default 8; 4 above 400 pixels on CPUs)",
    )
    recipe.add_argument(
        "--learning-rate",
        type=above_zero,
        metavar="RATE",
        help="at its peak (default 1e-4 for a model, 5e-4 for a new network, 2e-3 for tiny)",
    )
    recipe.add_argument(
        "--schedule", choices=("cosine", "step", "constant"), help="of the learning rate (default cosine)"
    )
    recipe.add_argument(
        "--warm-up", type=zero_or_more, metavar="STEPS", help="until the rate is at its peak (default 100)"
    )
    recipe.add_argument(
        "--average",
        type=fraction,
        metavar="DECAY",
        help="of the running average of weights that is the result; 0 for none (default 0.998)",
    )
    recipe.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        help="of the convolutions: auto (default) is bfloat16 where the device computes in it natively, else float32",
    )
    recipe.add_argument(
        "--jitter", type=_pair, metavar="LOW:HIGH", help="factor of the input's size (default 0.8:1.2)"
    )
    recipe.add_argument(
        "--colour",
        type=fraction,
        metavar="0..1",
        help="strength of changes of light and colour (default 0.3)",
    )
    recipe.add_argument("--seed", type=zero_or_more, metavar="N", help="of everything random (default 1)")
    gate = parser.add_argument_group(
        "afterwards",
        "The result is measured on the labels of split val, which no training sees, and kept in the lake as a version.",
    )
    gate.add_argument(
        "--promote",
        action="store_true",
        help="make the result production if it is better on val than the model that is",
    )
    gate.add_argument(
        "--metric",
        choices=METRICS,
        help="by which it must be better (default mask.AP; box.AP where no masks are labelled)",
    )
    gate.add_argument(
        "--margin", type=fraction, default=0.005, metavar="0..1", help="by how much (default %(default)s)"
    )
    gate.add_argument(
        "--half",
        action="store_true",
        help="keep weights as float16, half the size; the figures are with them",
    )
    gate.add_argument("--out", metavar="DIR", help="also write the result into this folder")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--address",
        metavar="ADDRESS",
        help="join a Ray cluster (auto, HOST:6379); default: Ray inside this process",
    )
    how.add_argument(
        "--gpus", type=int, metavar="N", help="GPUs to use (default: all that Ray finds; 0 for none)"
    )
    add_lock_option(how, "train")
    how.add_argument(
        "--workers",
        type=span,
        metavar="MIN:MAX",
        help="training workers, as many of these as there is room for (default one a GPU, or one)",
    )
    how.add_argument(
        "--max-failures",
        type=zero_or_more,
        default=3,
        metavar="N",
        help="how often killed workers are started again (default %(default)s)",
    )
    how.add_argument(
        "--checkpoint-minutes",
        type=above_zero,
        default=5.0,
        metavar="N",
        help="between checkpoints, which is what a kill can cost (default %(default)g)",
    )
    how.add_argument("--shuffle-labels", action="store_true", help=argparse.SUPPRESS)  # to test the gate
    add_storage_options(parser)


def _pair(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    found = above_zero(low), above_zero(high or low)
    if found[0] > found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW:HIGH")
    return found
