"""The options of `masklake train`."""

from __future__ import annotations

from dataclasses import dataclass

from masklake.jobs.options.declare import Options, Section, flag, included, option
from masklake.jobs.options.kinds import (
    above_zero,
    factor_range,
    fraction,
    names,
    one_of,
    positive,
    span,
    zero_or_more,
)
from masklake.jobs.options.shared import HOW, ClusterOptions, StorageOptions, lake_argument, lock_option
from masklake.pipeline.errors import UserError

DEFAULT_EPOCHS = 12
METRICS = tuple(f"{kind}.{stat}" for kind in ("mask", "box", "keypoints") for stat in ("AP", "AP50"))

START = Section("what it starts from")
MORE = Section("more about the start")
LENGTH = Section("how long")
WHAT = Section("what is learnt")
RECIPE = Section("recipe")
GATE = Section(
    "afterwards",
    "The result is measured on the labels of split val, which no training sees, and kept in the lake as a version.",
)


@dataclass(frozen=True, kw_only=True)
class LearningOptions(Options):
    """The options on which the result of a training depends. Its record keeps them, so that a resume cannot change them."""

    min_size: int | None = option(
        positive, "PIXELS", section=MORE,
        help="images are scaled so that their short side has this length (default: as the model says; 800 for a new network)",
    )  # fmt: skip
    max_size: int | None = option(
        positive,
        "PIXELS",
        section=MORE,
        help="the long side is never longer than this (default 5/3 of --min-size)",
    )
    epochs: float | None = option(
        above_zero, "N", section=LENGTH, instead_of="length",
        help=f"how often the training goes through all images (default {DEFAULT_EPOCHS})",
    )  # fmt: skip
    steps: int | None = option(
        positive, "N", section=LENGTH, instead_of="length",
        help="how many times the weights are updated. Each update uses --batch-size images: with 1,000 images and a batch size of 8 an "
        "epoch has 125 steps",
    )  # fmt: skip
    minutes: float | None = option(
        above_zero, "N", section=LENGTH, instead_of="length",
        help="train for this many minutes, start and evaluation not counted; the learning rate then falls with time instead of with steps",
    )  # fmt: skip
    classes: tuple[str, ...] | None = option(
        names,
        "A,B",
        section=WHAT,
        help="learn only these classes, such as person,dog (default: all that are labelled)",
    )
    flip_pairs: str | None = option(
        str, "A:B,…", section=WHAT,
        help="pairs of keypoints that change places when an image is mirrored, such as left_eye:right_eye; none: no keypoint does "
        "(default: found by their names; `masklake labels stats` shows the pairs)",
    )  # fmt: skip
    name: str | None = option(
        str, "NAME", section=WHAT,
        help="the name of the result in the lake (default: the name of the model that it started from)",
    )  # fmt: skip
    batch_size: int | None = option(
        positive, "N", section=RECIPE,
        help="images in one step, of all workers together (default 8; 4 where --min-size is above 400)",
    )  # fmt: skip
    learning_rate: float | None = option(
        above_zero, "RATE", section=RECIPE,
        help="how far a step moves the weights, at the highest; give a lower one if the loss grows (default 1e-4 for a model, 5e-4 "
        "for a new network, 2e-3 for tiny)",
    )  # fmt: skip
    schedule: str | None = option(
        one_of("cosine", "step", "constant"), "{cosine,step,constant}", section=RECIPE,
        help="how the learning rate falls: along a cosine (default), tenfold at 2/3 and 8/9 of the training, or not at all",
    )  # fmt: skip
    warm_up: int | None = option(
        zero_or_more, "STEPS", section=RECIPE,
        help="in how many steps the learning rate rises to its highest value (default 100)",
    )  # fmt: skip
    average: float | None = option(
        fraction, "DECAY", section=RECIPE,
        help="the result is a running average of the weights; at each step it keeps this share of itself (default 0.998); 0: no "
        "average, the last weights are the result",
    )  # fmt: skip
    precision: str | None = option(
        one_of("auto", "float32", "bfloat16"), "{auto,float32,bfloat16}", section=RECIPE,
        help="the number format of the convolutions: auto (default) is bfloat16 where the device computes in it natively, else float32",
    )  # fmt: skip
    jitter: tuple[float, float] | None = option(
        factor_range, "LOW:HIGH", section=RECIPE,
        help="each image is scaled by a random factor between these two, so that sizes vary (default 0.8:1.2)",
    )  # fmt: skip
    colour: float | None = option(
        fraction, "0..1", section=RECIPE,
        help="how much brightness, contrast and colour of an image are changed at random; 0: not at all (default 0.3)",
    )  # fmt: skip
    seed: int | None = option(
        zero_or_more,
        "N",
        section=RECIPE,
        help="where random numbers begin: the same seed gives the same order of images and the same changes to them (default 1)",
    )

    def validate(self) -> None:
        if self.max_size is not None and self.min_size is None:
            raise UserError(f"--max-size {self.max_size}: give --min-size too")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """The options of `masklake train`."""

    lake: str = lake_argument("the lake: its labels are learnt from, its models kept")
    model: str | None = option(
        str, "MODEL", section=START, instead_of="start", holds="model",
        help="the model to train further: coco, demo, one of the lake's, a folder or a URI (default: the lake's production model, "
        "else coco)",
    )  # fmt: skip
    backbone: str | None = option(
        str, "NAME", section=START, instead_of="start",
        help="begin with a new network on this backbone (resnet18, resnet50, resnet101, resnext101_32x8d, mobilenet_v2, "
        "mobilenet_v3_large, tiny)",
    )  # fmt: skip
    resume: str | None = option(
        str, "RUN|last", section=START, instead_of="start", kept=False,
        help="go on with a training that was stopped or killed: its id, or last",
    )  # fmt: skip
    backbone_weights: str | None = option(
        str, "FILE", section=MORE, holds="path", again=True,
        help="weights of an ImageNet classifier to begin --backbone with, .safetensors or .pth (default: none)",
    )  # fmt: skip
    weights_dir: str | None = option(
        str,
        "DIR",
        section=MORE,
        holds="path",
        again=True,
        help="a folder with the published weights for --model coco",
    )
    learning: LearningOptions = included(LearningOptions)
    promote: bool = flag(
        section=GATE, again=True,
        help="make the result the production model if it is better on val than the present one",
    )  # fmt: skip
    alias: str = option(
        str, "NAME", default="production", section=GATE, again=True,
        help="the alias that --promote gives to the result (default production); a lake has each alias once, so a second model "
        "needs one of its own",
    )  # fmt: skip
    metric: str | None = option(
        one_of(*METRICS), "KIND.STAT", section=GATE, again=True,
        help=f"the figure that --promote compares: {', '.join(METRICS)} (default mask.AP; box.AP where no masks are labelled)",
    )  # fmt: skip
    margin: float = option(
        fraction, "0..1", default=0.005, section=GATE, again=True,
        help="how much better than production the result must be to be promoted (default 0.005, which is half a point of AP): with "
        "--metric mask.AP, 0.400 is replaced from 0.405 on. Smaller differences are often chance",
    )  # fmt: skip
    half: bool = flag(
        section=GATE,
        help="store the weights as float16, in half the space; the figures are measured with these weights",
    )
    out: str | None = option(
        str, "DIR", section=GATE, holds="path", short=("--output",), again=True,
        help="also write the model into this folder",
    )  # fmt: skip
    cluster: ClusterOptions = included(ClusterOptions)
    lock: str | None = lock_option("train")
    workers: tuple[int, int] | None = option(
        span, "MIN:MAX", section=HOW,
        help="how many training workers, such as 2:8: as many of them as the cluster has room for (default: one for each GPU, else one)",
    )  # fmt: skip
    max_failures: int = option(
        zero_or_more,
        "N",
        default=3,
        section=HOW,
        help="how often killed workers are started again before the training gives up (default 3)",
    )
    checkpoint_minutes: float = option(
        above_zero, "N", default=5.0, section=HOW,
        help="minutes between two checkpoints; a kill costs at most this much work (default 5)",
    )  # fmt: skip
    shuffle_labels: bool = flag(
        hidden=True, help="train on shuffled labels, to test that such a model is not promoted"
    )
    storage: StorageOptions = included(StorageOptions)

    def validate(self) -> None:
        if self.backbone_weights and not self.backbone and not self.resume:
            raise UserError("--backbone-weights: say which backbone they are of, by --backbone")
