"""The options of `masklake review`."""

from __future__ import annotations

from dataclasses import dataclass

from masklake.jobs.options.declare import Options, Section, flag, included, option
from masklake.jobs.options.kinds import Kind, fraction, one_of, positive
from masklake.jobs.options.shared import StorageOptions, json_flag, lake_argument

_MOST_HOURS = 168
_WHICH = Section("which images")
_WRITTEN = Section("what is written")

hours = Kind(
    f"a number of hours up to {_MOST_HOURS}, which is the longest that S3 signs for",
    float,
    lambda value: 1 / 60 <= value <= _MOST_HOURS,
)


@dataclass(frozen=True, kw_only=True)
class ReviewOptions(Options):
    """What `masklake review` is told."""

    lake: str = lake_argument()
    budget: int = option(positive, "N", default=100, help="how many images")
    run: str | None = option(str, "RUN|last", section=_WHICH, help="only images of this run, as it saw them")
    model: str | None = option(
        str, "MODEL", section=_WHICH, holds="model",
        help="only images of this model: demo, coco, one of the lake's, a directory, …",
    )  # fmt: skip
    again: bool = flag(section=_WHICH, help="also images that are labelled already")
    random: float = option(
        fraction, "0..1", default=0.1, section=_WHICH,
        help="share of the budget that is drawn at random, so that labels stay unbiased",
    )  # fmt: skip
    keep_similar: bool = flag(section=_WHICH, help="keep images that look alike, and read none to find out")
    out: str = option(
        str, "FILE", default="review.json", section=_WRITTEN, short=("--output",),
        help="the tasks: a local file, s3://…; whole or not at all",
    )  # fmt: skip
    interface: str | None = option(
        str, "FILE", section=_WRITTEN, help="also write Label Studio's labelling interface (XML)"
    )
    score: float = option(
        fraction, "0..1", default=0.5, section=_WRITTEN,
        help="from which score on an instance is offered for correction",
    )  # fmt: skip
    urls: str = option(
        one_of("plain", "presigned"), "{plain,presigned}", default="plain", section=_WRITTEN,
        help="of the images in the tasks: as the lake has them, or signed for a browser",
    )  # fmt: skip
    expires: float = option(
        hours, "HOURS", default=24.0, section=_WRITTEN, help="how long presigned URLs work"
    )
    dry_run: bool = flag(section=_WRITTEN, kept=False, help="choose, but write nothing")
    json: bool = json_flag("one object: what was chosen, and why")
    format: str = option(
        one_of("table", "json"), "{table,json}", default="table", kept=False, hidden=True,
        help="json: the same as --json",
    )  # fmt: skip
    storage: StorageOptions = included(StorageOptions)
