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
    """What decides a training. It is kept in the training's record, so that resuming cannot change it."""

    min_size: int | None = option(
        positive, "PIXELS", section=MORE,
        help="short side of the network's input: images are scaled to it (default the model's, else 800)",
    )  # fmt: skip
    max_size: int | None = option(
        positive, "PIXELS", section=MORE, help="and its longest long side (default 5/3 of --min-size)"
    )
    epochs: float | None = option(
        above_zero, "N", section=LENGTH, instead_of="length",
        help=f"how often each image is learnt from (default {DEFAULT_EPOCHS})",
    )  # fmt: skip
    steps: int | None = option(
        positive, "N", section=LENGTH, instead_of="length",
        help="updates of the weights; each takes --batch-size images, so an epoch has (images / batch size) of them",
    )  # fmt: skip
    minutes: float | None = option(
        above_zero, "N", section=LENGTH, instead_of="length",
        help="of training, start and evaluation not counted; the learning rate is lowered by the clock then",
    )  # fmt: skip
    classes: tuple[str, ...] | None = option(
        names, "A,B", section=WHAT, help="only these classes (default all that are labelled)"
    )
    flip_pairs: str | None = option(
        str, "A:B,…", section=WHAT,
        help="keypoints that change places in a mirror, by name; none: they all stay (default: by their names; `labels "
        "stats` shows them)",
    )  # fmt: skip
    name: str | None = option(
        str, "NAME", section=WHAT,
        help="what the result is called in the lake (default: as the model it started from)",
    )  # fmt: skip
    batch_size: int | None = option(
        positive, "N", section=RECIPE,
        help="images a step, over all workers (default 8; 4 above 400 pixels)",
    )  # fmt: skip
    learning_rate: float | None = option(
        above_zero, "RATE", section=RECIPE,
        help="how far a step moves the weights, at its peak; lower it where the loss grows (default 1e-4 for a model, 5e-4 "
        "for a new network, 2e-3 for tiny)",
    )  # fmt: skip
    schedule: str | None = option(
        one_of("cosine", "step", "constant"), "{cosine,step,constant}", section=RECIPE,
        help="how the learning rate falls: along a cosine (default), tenfold at 2/3 and 8/9 of the training, or not at all",
    )  # fmt: skip
    warm_up: int | None = option(
        zero_or_more, "STEPS", section=RECIPE,
        help="steps over which the learning rate rises to its peak (default 100)",
    )  # fmt: skip
    average: float | None = option(
        fraction, "DECAY", section=RECIPE,
        help="the result is a running average of the weights, which keeps this share of itself at each step; 0: the last "
        "weights as they are (default 0.998)",
    )  # fmt: skip
    precision: str | None = option(
        one_of("auto", "float32", "bfloat16"), "{auto,float32,bfloat16}", section=RECIPE,
        help="of the convolutions: auto (default) is bfloat16 where the device computes in it natively, else float32",
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
        help="of everything random: the same seed, the same order (default 1)",
    )

    def validate(self) -> None:
        if self.max_size is not None and self.min_size is None:
            raise UserError(f"--max-size {self.max_size}: give --min-size too")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """What `masklake train` is told."""

    lake: str = lake_argument("the lake: its labels are learnt from, its models kept")
    model: str | None = option(
        str, "MODEL", section=START, instead_of="start", holds="model",
        help="train this further: coco, demo, one of the lake's, a directory or URI (default: the lake's production model, "
        "else coco)",
    )  # fmt: skip
    backbone: str | None = option(
        str, "NAME", section=START, instead_of="start",
        help="a new network on this backbone (resnet18, resnet50, resnet101, resnext101_32x8d, mobilenet_v2, "
        "mobilenet_v3_large, tiny)",
    )  # fmt: skip
    resume: str | None = option(
        str, "RUN|last", section=START, instead_of="start", kept=False,
        help="go on with a training that was stopped or killed",
    )  # fmt: skip
    backbone_weights: str | None = option(
        str, "FILE", section=MORE, holds="path", again=True,
        help="what an ImageNet classifier has learnt, for --backbone (.safetensors or .pth); default: none",
    )  # fmt: skip
    weights_dir: str | None = option(
        str, "DIR", section=MORE, holds="path", again=True, help="published weights for --model coco"
    )
    learning: LearningOptions = included(LearningOptions)
    promote: bool = flag(
        section=GATE, again=True,
        help="make the result production if it is better on val than the model that is",
    )  # fmt: skip
    metric: str | None = option(
        one_of(*METRICS), "KIND.STAT", section=GATE, again=True,
        help=f"the figure that decides: {', '.join(METRICS)} (default mask.AP; box.AP where no masks are labelled)",
    )  # fmt: skip
    margin: float = option(
        fraction, "0..1", default=0.005, section=GATE, again=True,
        help="the result is promoted only if its figure is at least production's plus this, so that chance does not decide: "
        "0.005 is half a point of AP",
    )  # fmt: skip
    half: bool = flag(section=GATE, help="keep weights as float16, half the size; the figures are with them")
    out: str | None = option(
        str, "DIR", section=GATE, holds="path", short=("--output",), again=True,
        help="also write the result into this folder",
    )  # fmt: skip
    cluster: ClusterOptions = included(ClusterOptions)
    lock: str | None = lock_option("train")
    workers: tuple[int, int] | None = option(
        span, "MIN:MAX", section=HOW,
        help="training workers, as many of these as there is room for (default one a GPU, or one)",
    )  # fmt: skip
    max_failures: int = option(
        zero_or_more, "N", default=3, section=HOW, help="how often killed workers are started again"
    )
    checkpoint_minutes: float = option(
        above_zero, "N", default=5.0, section=HOW,
        help="time between checkpoints, which is what a kill can cost",
    )  # fmt: skip
    shuffle_labels: bool = flag(hidden=True, help="to test the gate")
    storage: StorageOptions = included(StorageOptions)

    def validate(self) -> None:
        if self.backbone_weights and not self.backbone and not self.resume:
            raise UserError("--backbone-weights: say which backbone they are of, by --backbone")
