"""`masklake review`: which images are worth correcting, as Label Studio tasks with the model's masks on them."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any

from masklake.jobs.options import add_storage_options, fraction, positive, storage_from
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.review.candidates import Candidates
    from masklake.pipeline.review.pick import Picks
    from masklake.pipeline.review.tasks import Found
    from masklake.pipeline.storage.store import Storage

SUMMARY = "pick images worth correcting, and write them as Label Studio tasks"
DESCRIPTION = """\
Choose images that a person should correct, and write them with what the model found as Label Studio tasks:
masks, boxes and joints are predictions there, which the annotator accepts or mends. `masklake labels import`
takes the corrected file back; every task carries its URI, so names and URLs do not matter.

Chosen among images whose newest row is ok and that are not labelled yet, by the mean of three figures, 0 to 1:
  doubt      instances whose scores lie between noise (0.1) and certainty; most at 0.5
  dispute    what the two newest models that have rows of the image do not both find (class, box, score)
  rarity     an instance of a class with few labels; where nothing is labelled, with few detections
A share of the budget (--random) is drawn at random, by a hash of the URI, from all of these images: labels that are
only of what the models doubt would neither show what they are sure of and wrong about, nor measure them fairly.
The same lake gives the same images.

Left out: copies of one object, and images that look nearly like one that is chosen, or like a labelled image that
lies next to them. To see that, up to 5 images for each one of the budget are read; those that are gone, unreadable or
changed since the run are passed over and told. --keep-similar reads none.

--urls presigned writes URLs of images in S3 that a browser can open without credentials, for --expires hours at
most (S3: a week; temporary credentials end sooner). Whoever has the file has the images: keep it as you keep a
password. Plain URIs need Label Studio to be connected to the bucket."""
EPILOG = """\
examples:
  masklake review s3://lake --budget 200
  masklake review lake/ --budget 50 --out tasks.json --interface interface.xml
  masklake review s3://lake --budget 200 --urls presigned --expires 72
  masklake review s3://lake --budget 500 --model production --random 0.3 --dry-run
  masklake labels import corrected.json s3://lake         # what Label Studio exports as JSON

exit codes: 0 tasks were written (or would be: --dry-run) · 2 a mistake that the message names, or nothing to review:
then nothing is written"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `masklake review`."""
    parser.add_argument("lake", metavar="LAKE", help="the lake: s3://…, a directory, …")
    parser.add_argument(
        "--budget", type=positive, default=100, metavar="N", help="how many images (default %(default)s)"
    )
    which = parser.add_argument_group("which images")
    which.add_argument("--run", metavar="RUN|last", help="only images of this run, as it saw them")
    which.add_argument(
        "--model", metavar="MODEL", help="only images of this model: demo, coco, one of the lake's, a directory, …"
    )  # fmt: skip
    which.add_argument("--again", action="store_true", help="also images that are labelled already")
    which.add_argument(
        "--random",
        type=fraction,
        default=0.1,
        metavar="0..1",
        help="share of the budget that is drawn at random, so that labels stay unbiased (default %(default)s)",
    )
    which.add_argument(
        "--keep-similar", action="store_true", help="keep images that look alike, and read none to find out"
    )
    output = parser.add_argument_group("what is written")
    output.add_argument(
        "--out",
        default="review.json",
        metavar="FILE",
        help="the tasks: a local file, s3://…; whole or not at all (default %(default)s)",
    )
    output.add_argument(
        "--interface", metavar="FILE", help="also write Label Studio's labelling interface (XML)"
    )
    output.add_argument(
        "--score",
        type=fraction,
        default=0.5,
        metavar="0..1",
        help="from which score on an instance is offered for correction (default %(default)s)",
    )
    output.add_argument(
        "--urls", choices=["plain", "presigned"], default="plain", help="default: %(default)s"
    )
    output.add_argument(
        "--expires",
        type=_hours,
        default=24.0,
        metavar="HOURS",
        help="how long presigned URLs work (default 24)",
    )
    output.add_argument("--dry-run", action="store_true", help="choose, but write nothing")
    output.add_argument("--format", choices=["table", "json"], default="table", help="of what is printed")
    add_storage_options(parser)


def _hours(text: str) -> float:
    from masklake.pipeline.storage.presign import MOST_HOURS

    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 1 / 60 <= value <= MOST_HOURS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of hours up to {MOST_HOURS}, which is the longest that S3 signs for"
        )
    return value


def run(args: argparse.Namespace) -> int:
    """Choose and write. Raises UserError, with nothing written, for a mistake and where nothing is to be reviewed."""
    from masklake.jobs.review import report as review_report
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.review import candidates as review_rows
    from masklake.pipeline.review import pick as review_pick
    from masklake.pipeline.review import score as review_score
    from masklake.pipeline.review import tasks as review_tasks

    storage = storage_from(args)
    lake = Lake(args.lake, storage)
    review_rows.require_runs(lake)
    run_id = None if args.run is None else lake.resolve(args.run)
    model = None if args.model is None else _model(args.model, storage, lake)
    known = review_rows.labelled(lake)
    candidates = review_rows.candidates(lake, known, run=run_id, model=model, again=args.again)
    if not len(candidates):
        raise _nothing(lake, candidates, run_id, model)
    figures = review_score.figures(lake, candidates, known.counts)
    picks = review_pick.pick(
        candidates,
        figures,
        None if args.again else known,  # labelled candidates are like themselves
        storage,
        budget=args.budget,
        random_share=args.random,
        compare=not args.keep_similar,
    )
    if not picks.chosen:
        raise _none_left(lake, candidates, picks)
    founds = review_tasks.found(lake, candidates, picks.chosen)
    reasons = [review_tasks.why(one, figures) for one in picks.chosen]
    models = [candidates.models[candidates.model[one.image]] for one in picks.chosen]
    if not args.dry_run:
        _write(founds, reasons, models, args, storage, lake)
    facts = review_report.facts(lake, candidates, picks, founds, reasons, models, args)
    review_report.show(facts, args.format)
    return 0


def _model(text: str, storage: Storage, lake: Lake) -> str:
    """name@fingerprint, as the rows name it."""
    from masklake.jobs.models import resolve as models

    if re.fullmatch(r"[^:/]+@[0-9a-f]{12}", text):
        return text  # it may be known to the rows alone
    found = models.resolve(text, storage, lake=lake.uri)
    return f"{found.spec.name}@{found.fingerprint}"


def _nothing(lake: Lake, candidates: Candidates, run: str | None, model: str | None) -> UserError:
    of = f" of run {run}" * bool(run) + f" of {model}" * bool(model)
    if not candidates.failed and not candidates.labelled:
        return UserError(f"{lake.uri}: has no images{of}; `masklake runs {lake.uri}` lists what there is")
    return UserError(
        f"{lake.uri}: no image{of} is left to review: {candidates.labelled:,} are labelled already (--again takes "
        f"them), {candidates.failed:,} failed"
    )


def _none_left(lake: Lake, candidates: Candidates, picks: Picks) -> UserError:
    from masklake.pipeline.storage.store import redact

    told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(picks.passed.items()))
    first = "; the first: {}: {}".format(*picks.problems[0]) if picks.problems else ""
    return UserError(
        redact(f"{lake.uri}: of {len(candidates):,} images none could be chosen: {told}{first}; ")
        + "check that the images can be read from here, or give --keep-similar, which reads none"
    )


def _write(
    founds: list[Found],
    reasons: list[dict[str, Any]],
    models: list[str],
    args: argparse.Namespace,
    storage: Storage,
    lake: Lake,
) -> None:
    from masklake.pipeline.labels import store as label_store
    from masklake.pipeline.labels.formats.studio_writer import labelling_interface
    from masklake.pipeline.review import score as review_score
    from masklake.pipeline.review import tasks as review_tasks
    from masklake.pipeline.storage import presign as review_urls
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import normalise

    urls = [one.set.uri for one in founds]
    if args.urls == "presigned":
        urls = review_urls.signed(urls, storage, args.expires)
    tasks = review_tasks.tasks([one.above(args.score) for one in founds], reasons, models, urls)
    files = {args.out: json.dumps(tasks, ensure_ascii=False, separators=(",", ":"))}
    if args.interface:
        able = {name for one in review_score.reach(lake, lake.run_ids()) for name in one.classes or ()}
        files[args.interface] = labelling_interface(
            [one.set for one in founds], able.union(label_store.classes(lake))
        )
    for file, text in files.items():
        with explaining(file, "write the tasks"):
            storage.write(normalise(file), text.encode("utf-8", "surrogatepass"))
