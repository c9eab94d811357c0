"""The options of `masklake segment`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklake.jobs.options.declare import Options, Section, argument, entries, flag, included, option
from masklake.jobs.options.kinds import above_zero, fraction, names, one_of, positive, span, zero_or_more
from masklake.jobs.options.shared import HOW, ClusterOptions, StorageOptions, lake_argument, lock_option
from masklake.model.tiles.tiling import Tiling

if TYPE_CHECKING:
    from masklake.jobs.models.resolve import PredictorFactory, Resolved
    from masklake.model.decode import DecodeOptions
    from masklake.model.engine.int8 import Calibration
    from masklake.model.spec import Preprocessing

ENGINES = ("auto", "ray", "local")
LOCAL_IMAGES = 1_000
"""Up to so many images, `--engine auto` is local."""
_UNTOLD = Tiling()
"""How images are cut where no option says otherwise."""
MODEL = Section("model")
LARGE = Section(
    "large images",
    """\
When a very large image is made as small as the model's input, small objects disappear. So it is cut into tiles,
and the model looks at each of them; then again at half the resolution, with tiles of twice the side, and so on up
to the whole image. An object that several tiles show becomes one instance. This takes up to half as long again as
the tiles of the first level alone.""",
)
READING = Section("reading images")
WHICH = Section("which images")


@dataclass(frozen=True, kw_only=True)
class RowOptions(Options):
    """The options on which the rows of an image depend. A run keeps them, so that a resume cannot change them."""

    score: float = option(
        fraction,
        "0..1",
        default=0.05,
        section=MODEL,
        help="leave out instances below this score (default 0.05)",
    )
    classes: tuple[str, ...] | None = option(
        names, "A,B", section=MODEL, help="keep only these classes, such as person,dog (default all)"
    )
    max_detections: int = option(
        positive, "N", default=100, section=MODEL,
        help="keep at most N instances of an image, best first (default 100); of an image that is cut into tiles, N of a tile",
    )  # fmt: skip
    proposals: int | None = option(
        positive, "N", section=MODEL,
        help="give the second stage, which classifies boxes, at most N proposals of an image (default: as many as the model says, "
        "1000 for coco); fewer are faster and find fewer instances; `masklake eval --run` tells how much worse that is on your labels",
    )  # fmt: skip
    precision: str = option(
        one_of("auto", "exact", "float32", "bfloat16", "float16", "int8"), "{auto,exact,float32,bfloat16,float16,int8}",
        default="auto", section=MODEL,
        help="the number format of the convolutions: auto (default) is bfloat16 where the predictor's device computes in it "
        "natively, else float32; exact repeats torchvision bit for bit, image by image, from JPEGs decoded in full; bfloat16 is less exact, "
        "and slow where it is imitated; float16 is for GPUs, and what overflows in it is done again in float32; int8, for CPUs, is faster still and less exact: 16 images of the first such run "
        "tell the ranges of values, which are kept in LAKE/calibrations for all runs of the model",
    )  # fmt: skip
    max_pixels: int = option(
        positive, "N", default=128_000_000, section=READING,
        help="refuse images of more than N pixels (default 128,000,000); their row has the status too_large",
    )  # fmt: skip
    max_bytes: int = option(
        positive, "N", default=512_000_000, section=READING,
        help="refuse objects of more than N bytes (default 512,000,000); their row has the status too_large",
    )  # fmt: skip
    full_decode: bool = flag(
        section=READING, help="decode large JPEGs in full instead of at the fraction that the model needs"
    )
    tile: int | None = option(
        zero_or_more, "PIXELS", section=LARGE,
        help="cut every image whose longer side exceeds this into tiles of this side; 0 cuts none (default: images above "
        f"{_UNTOLD.above:,} pixels are cut into tiles of {_UNTOLD.size})",
    )  # fmt: skip
    overlap: int | None = option(
        positive, "PIXELS", section=LARGE,
        help=f"pixels that neighbouring tiles share (default an eighth of the tile: {_UNTOLD.shared}); an object that is "
        "larger than this may be cut at one level, and is seen whole at the next",
    )  # fmt: skip

    def validate(self) -> None:
        """Raises ModelError for tiles that are not possible."""
        self.tiling()

    def tiling(self) -> Tiling | None:
        """Which images are cut into tiles, and how; None for no image. Raises ModelError for tiles that are not possible."""
        if self.tile == 0:
            return None
        if self.tile is None:
            return Tiling(size=_UNTOLD.size, overlap=self.overlap, above=_UNTOLD.above)
        return Tiling(size=self.tile, overlap=self.overlap, above=0)

    def decoding(self, preprocessing: Preprocessing) -> DecodeOptions:
        """How images are decoded for a model of such an input."""
        from masklake.model.decode import DecodeOptions

        return DecodeOptions(
            max_pixels=self.max_pixels,
            target=None if self.decodes_whole else (preprocessing.min_size, preprocessing.max_size),
            tiling=self.tiling(),
        )

    def predictor(
        self, model: Resolved, threads: int | None, calibration: Calibration | None
    ) -> PredictorFactory:
        """What makes the predictor of `model`, with so many threads (None: as torch has), in the process that wants it.

        calibration: for int8, of this model (`jobs.segment.calibration`).
        """
        from masklake.jobs.models.resolve import PredictorFactory

        return PredictorFactory(
            source=model.source,
            fingerprint=model.fingerprint,
            score_threshold=self.score,
            max_detections=self.max_detections,
            classes=self.classes,
            precision=self.precision,
            proposals=self.proposals,
            threads=threads,
            calibration=calibration,
            tiling=self.tiling(),
        )

    @property
    def decodes_whole(self) -> bool:
        """Whether no JPEG is decoded at a fraction, which would be another image: "exact" wants the image itself."""
        return self.full_decode or self.precision == "exact"

    def record(self) -> dict[str, Any]:
        """The options as a run's record keeps them."""
        return {
            "score": self.score,
            "classes": list(self.classes) if self.classes else None,
            "max_detections": self.max_detections,
            "proposals": self.proposals,
            "precision": self.precision,
            "max_pixels": self.max_pixels,
            "max_bytes": self.max_bytes,
            "full_decode": self.decodes_whole,
            "tile": self.tile,
            "overlap": self.overlap,
        }

    @staticmethod
    def of_record(kept: dict[str, Any]) -> RowOptions:
        """The options that a run was started with, from its record."""
        values = {entry.field: kept[entry.field] for entry in entries(RowOptions)}
        return RowOptions(**values | {"classes": tuple(kept["classes"]) if kept["classes"] else None})


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(Options):
    """The options of `masklake segment`."""

    source: str = argument(
        "SOURCE",
        holds="path",
        help="where the images are: s3://bucket/photos/, a folder, a glob, a list of URIs, …",
    )
    lake: str = lake_argument("where the results go")
    model: str | None = option(
        str, "NAME|PATH|URI", section=MODEL, holds="model",
        help="coco (default), demo, an alias or version of the lake's models (masklake models --help), or a folder with "
        "model.safetensors and model.json",
    )  # fmt: skip
    first_model: str | None = option(
        str, "NAME|PATH|URI", section=MODEL, holds="model",
        help="the model to use as long as the lake has no --model of that name: before the first promotion of production",
    )  # fmt: skip
    weights_dir: str | None = option(
        str, "DIR", section=MODEL, holds="path", again=True,
        help="a folder with the published weights for --model coco, where they cannot be downloaded",
    )  # fmt: skip
    rows: RowOptions = included(RowOptions)
    limit: int | None = option(positive, "N", section=WHICH, help="stop after N images (default: all)")
    redo_all: bool = flag(
        name="all", section=WHICH, help="also images that finished runs have covered already"
    )
    every_object: bool = flag(
        section=WHICH, help="also objects whose names do not end like those of images (.jpg, .png, …)"
    )
    resume: str | None = option(
        str,
        "RUN|last",
        section=WHICH,
        kept=False,
        help="go on with a run that was stopped or killed: its id, or last",
    )
    dry_run: bool = flag(
        section=WHICH, kept=False, help="print how many images and bytes there are to do; write nothing"
    )
    cluster: ClusterOptions = included(ClusterOptions)
    engine: str = option(
        one_of(*ENGINES), "{auto,ray,local}", default="auto", section=HOW, kept=False,
        help=f"ray, or local: processes of this machine without Ray, which are done sooner where there is little to do; auto (default) "
        f"is local for at most {LOCAL_IMAGES:,} images without --address, on at most one GPU. The rows are the same",
    )  # fmt: skip
    lock: str | None = lock_option("segment")
    actors: tuple[int, int] | None = option(
        span, "MIN:MAX", section=HOW,
        help="how many predictor actors, such as 1:4 (default: up to one for each GPU; without GPUs up to one for each CPU, as "
        "memory allows)",
    )  # fmt: skip
    batch_size: int | None = option(
        positive, "N", section=HOW,
        help="how many images a predictor is given at once (default 16; 64 on GPUs); it makes smaller batches of them where memory "
        "is short",
    )  # fmt: skip
    commit_images: int | None = option(
        positive, "N", section=HOW,
        help="how many images one Parquet part holds; a kill can cost at most the parts that were not full yet (default 256; 8192 on "
        "GPUs)",
    )  # fmt: skip
    image_seconds: float | None = option(
        above_zero, "S", section=HOW, again=True,
        help="how long an image of at most 4 megapixels may take to be decoded, or predicted on (default 300; a larger one longer); "
        "one that takes longer twice, alone, is given up and has the status failed",
    )  # fmt: skip
    storage: StorageOptions = included(StorageOptions)
