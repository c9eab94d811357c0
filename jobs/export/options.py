"""The options of `masklake export`."""

from __future__ import annotations

from dataclasses import dataclass

from masklake.jobs.options.declare import Options, Section, flag, included, option
from masklake.jobs.options.kinds import fraction, one_of, zero_or_more
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument, run_option, where_option
from masklake.pipeline.errors import UserError

FORMATS = (
    "coco", "coco-results", "yolo-detect", "yolo-segment", "yolo-pose", "cvat", "label-studio",
    "masks-indexed", "masks-instances", "fiftyone", "huggingface",
)  # fmt: skip
"""As `masklake.pipeline.export.formats` has them; a test holds them equal. Named here so that help is instant."""
RESULTS_ONLY = frozenset({"coco-results"})

_WHICH = Section("what is exported")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """The options of `masklake export`."""

    lake: str = lake_argument()
    format: str | None = option(one_of(*FORMATS), "FORMAT", help=f"one of {', '.join(FORMATS)}")
    out: str | None = option(
        str,
        "DIR",
        short=("--output",),
        help="the folder to write, or s3://…: it is whole when masklake-export.json is there, which is written last",
    )
    labels: bool = flag(section=_WHICH, help="the newest labels, in place of results")
    run: str | None = run_option(
        "results of this run (default: of the newest run of each image)", section=_WHICH
    )
    where: str | None = where_option(
        "only instances, and images,", such_as="label = 'person' and score > 0.5", section=_WHICH
    )
    score: float = option(
        fraction, "0..1", default=0.0, section=_WHICH,
        help="leave out results below this score; their images stay (default 0: all that the run kept)",
    )  # fmt: skip
    split: str | None = option(
        one_of("train", "val"), "{train,val}", section=_WHICH,
        help="only images of this split; results have that which labels of the image would have",
    )  # fmt: skip
    like: str | None = option(
        str, "FILE", section=_WHICH, holds="path",
        help="coco-results: use the ids of this COCO annotation file, and only its images",
    )  # fmt: skip
    timeout: int = option(
        zero_or_more, "SECONDS", default=3600, section=_WHICH,
        help="end where it takes longer to find which images fit (default 3600, 0 for no end)",
    )  # fmt: skip
    images: bool = flag(help="copy the images into the folder as well, as they are")
    overwrite: bool = flag(help="replace an earlier export in DIR; other files are never replaced")
    json: bool = json_flag("one object: what was written, what was left out and why")
    storage: StorageOptions = included(StorageOptions)

    def validate(self) -> None:
        """Raises UserError where something is missing, or does not go together."""
        if self.format is None:
            raise UserError(f"name a format: --format {'|'.join(FORMATS)}")
        if self.out is None:
            raise UserError("name the folder to write: --out DIR")
        if self.labels and self.format in RESULTS_ONLY:
            raise UserError(
                f"--format {self.format} is for results; labels have no scores: take --format coco"
            )
        if self.labels and (self.run or self.score):
            raise UserError("--run and --score choose results; leave them out, or leave out --labels")
        if self.like and self.format != "coco-results":
            raise UserError("--like is for --format coco-results")
