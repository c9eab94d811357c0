"""The options of `masklake review`."""

from __future__ import annotations

from dataclasses import dataclass

from masklake.jobs.options.declare import Options, Section, flag, included, option
from masklake.jobs.options.kinds import Kind, fraction, one_of, positive
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument, run_option
from masklake.pipeline.errors import UserError

_MOST_HOURS = 168
_WHICH = Section("which images")
_WRITTEN = Section("what is written")
_PUSHED = Section(
    "a Label Studio server",
    "Its token is in the environment: LABEL_STUDIO_API_KEY, a legacy or a personal access token.",
)

hours = Kind(
    f"a number of hours up to {_MOST_HOURS}, which is the longest that S3 signs for",
    float,
    lambda value: 1 / 60 <= value <= _MOST_HOURS,
)


@dataclass(frozen=True, kw_only=True)
class ReviewOptions(Options):
    """The options of `masklake review`."""

    lake: str = lake_argument()
    budget: int = option(positive, "N", default=100, help="how many images to choose (default 100)")
    run: str | None = run_option("only images of this run: its id, or last", section=_WHICH)
    model: str | None = option(
        str, "MODEL", section=_WHICH, holds="model",
        help="only images whose newest rows are of this model: demo, coco, one of the lake's, a folder, …",
    )  # fmt: skip
    again: bool = flag(section=_WHICH, help="also images that are labelled already")
    random: float = option(
        fraction, "0..1", default=0.1, section=_WHICH,
        help="the share of the budget that is drawn at random, so that labels stay unbiased (default 0.1)",
    )  # fmt: skip
    keep_similar: bool = flag(
        section=_WHICH, help="also choose images that look alike; then no image is read"
    )
    out: str | None = option(
        str, "FILE", section=_WRITTEN, short=("--output",),
        help="where the tasks are written: a local file, s3://… (default review.json; with --push: nowhere)",
    )  # fmt: skip
    interface: str | None = option(
        str, "FILE", section=_WRITTEN, help="also write Label Studio's labelling interface (XML) to this file"
    )
    score: float = option(
        fraction, "0..1", default=0.5, section=_WRITTEN,
        help="offer instances of at least this score for correction (default 0.5)",
    )  # fmt: skip
    urls: str = option(
        one_of("plain", "presigned", "upload"), "{plain,presigned,upload}", default="plain", section=_WRITTEN,
        help="the images' URLs in the tasks: as the lake has them (default); signed, so that a browser can open them; or, with "
        "--push, those of copies that Label Studio is given",
    )  # fmt: skip
    expires: float = option(
        hours, "HOURS", default=24.0, section=_WRITTEN, help="how long presigned URLs work (default 24)"
    )
    push: str | None = option(
        str, "URL", section=_PUSHED,
        help="add the tasks to a project there, such as http://localhost:8080; images that it has already stay as they are",
    )  # fmt: skip
    project: int | None = option(positive, "N", section=_PUSHED, help="the number of the project")
    setup: bool = flag(
        section=_PUSHED,
        help="add to the project's labelling interface what it lacks of the classes and keypoints; nothing is taken away",
    )
    dry_run: bool = flag(section=_WRITTEN, kept=False, help="choose and print, but write and push nothing")
    json: bool = json_flag("one object: what was chosen, and why")
    format: str = option(
        one_of("table", "json"), "{table,json}", default="table", kept=False, hidden=True,
        help="json: the same as --json",
    )  # fmt: skip
    storage: StorageOptions = included(StorageOptions)

    def validate(self) -> None:
        """Raises UserError where options do not go together."""
        if (self.push is None) != (self.project is None):
            raise UserError("--push URL and --project N go together")
        if self.push is None and (self.setup or self.urls == "upload"):
            raise UserError(f"{'--setup' if self.setup else '--urls upload'}: is for --push URL")

    @property
    def files(self) -> tuple[str | None, str | None]:
        """Where the tasks and the interface are written, None for what is not."""
        return self.out or (None if self.push else "review.json"), self.interface
