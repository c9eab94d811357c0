"""`masklake review`: which images are worth correcting, as Label Studio tasks with the model's masks on them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.lock import under_lock
from masklake.jobs.options.command import Command
from masklake.jobs.review.options import ReviewOptions
from masklake.pipeline.errors import UserError
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.review.candidates import Candidates
    from masklake.pipeline.review.pick import Picks
    from masklake.pipeline.storage.store import Storage

SUMMARY = "pick images worth correcting, and write them as Label Studio tasks"
DESCRIPTION = """\
Choose images that a person should correct, and write them with what the model found as Label Studio tasks:
masks, boxes and keypoints are predictions there, which the annotator accepts or corrects. `masklake labels import`
takes the corrected file back; every task carries its URI, so names and URLs do not matter.

ReviewedImages among images whose newest row is ok and that are not labelled yet, by the mean of three figures, 0 to 1:
  doubt      instances whose scores lie between noise (0.1) and certainty; most at 0.5
  dispute    what the two newest models that have rows of the image do not both find (class, box, score)
  rarity     an instance of a class with few labels; where nothing is labelled, with few detections
A share of the budget (--random) is drawn at random, by a hash of the URI, from all of these images: labels that are
only of what the models doubt would neither show what they are sure of and wrong about, nor measure them fairly.
The same lake gives the same images.

Left out: copies of one object, and images that look nearly like one that is chosen, or like a labelled image that
lies next to them. To see that, up to 5 images for each one of the budget are read; those that are gone, unreadable or
changed since the run are passed over, and counted by reason. --keep-similar reads none.

--urls presigned writes URLs of images in S3 that a browser can open without credentials, for --expires hours at
most (S3: a week; temporary credentials end sooner). Whoever has the file has the images: keep it as you keep a
password. Plain URIs need Label Studio to be connected to the bucket.

--push URL --project N adds the tasks to a project of a Label Studio server, by its API, those of images alone that have none
there yet. The project's labelling interface must offer the classes; --setup adds those that it lacks. `masklake labels pull`
takes the annotations back, and `masklake backend` serves the lake's model to the server."""
EPILOG = """\
examples:
  masklake review s3://lake --budget 200
  masklake review lake/ --budget 50 --out tasks.json --interface interface.xml
  masklake review s3://lake --budget 200 --urls presigned --expires 72
  masklake review s3://lake --budget 500 --model production --random 0.3 --dry-run
  masklake labels import corrected.json s3://lake         # what Label Studio exports as JSON
  masklake review s3://lake --push https://studio.example.org --project 3 --setup
  masklake labels pull https://studio.example.org s3://lake --project 3

exit codes: 0 tasks were written or pushed (or would be: --dry-run) · 1 Label Studio does not answer · 2 a mistake that the message names, or nothing to review:
then nothing is written · 75 another pushes from this lake"""


def run(options: ReviewOptions) -> int:
    """Choose and write. Raises UserError, with nothing written, for a mistake and where nothing is to be reviewed."""
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.review import candidates as review_rows

    lake = Lake(options.lake, options.storage.open())
    review_rows.require_runs(lake)
    # Of two that push into one project at a time, both would find an image's task missing.
    lock = "review-push" if options.push and not options.dry_run else None
    return under_lock(lake.uri, lock, lake.storage, lambda: _review(options, lake))


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=ReviewOptions, run=run)


def _review(options: ReviewOptions, lake: Lake) -> int:
    from masklake.jobs.review import report as review_report
    from masklake.jobs.review import written
    from masklake.jobs.studio.client import StudioClient
    from masklake.pipeline.review import candidates as review_rows
    from masklake.pipeline.review import pick as review_pick
    from masklake.pipeline.review import score as review_score
    from masklake.pipeline.review import tasks as review_tasks

    storage = lake.storage
    client = None
    if options.push is not None and options.project is not None:
        client = StudioClient(options.push)
        client.project(options.project)  # before minutes are spent on the choice
    run_id = None if options.run is None else lake.resolve(options.run)
    model = None if options.model is None else _model(options.model, storage, lake)
    known = review_rows.labelled(lake)
    candidates = review_rows.candidates(lake, known, run=run_id, model=model, again=options.again)
    if not len(candidates):
        raise _nothing(lake, candidates, run_id, model)
    figures = review_score.figures(lake, candidates, known.counts)
    picks = review_pick.pick(
        candidates,
        figures,
        None if options.again else known,  # else each labelled candidate would be like itself
        storage,
        budget=options.budget,
        random_share=options.random,
        compare=not options.keep_similar,
    )
    if not picks.chosen:
        raise _none_left(lake, candidates, picks)
    chosen = written.ReviewedImages(
        predictions=review_tasks.predictions(lake, candidates, picks.chosen),
        reasons=[review_tasks.why(pick, figures) for pick in picks.chosen],
        models=[candidates.models[candidates.model[pick.image]] for pick in picks.chosen],
    )
    given = None
    if not options.dry_run:
        written.write(chosen, options, lake)
        given = None if client is None else written.give(chosen, client, options, lake)
    facts = review_report.facts(lake, candidates, picks, chosen, options, given)
    review_report.show(facts, "json" if options.json else options.format)
    return ExitCode.DONE


def _model(text: str, storage: Storage, lake: Lake) -> str:
    """name@fingerprint, as the rows name it."""
    from masklake.jobs.models import resolve as models

    if re.fullmatch(r"[^:/]+@[0-9a-f]{12}", text):
        return text  # a model that only the rows know
    resolved = models.resolve(text, storage, lake=lake.uri)
    return f"{resolved.spec.name}@{resolved.fingerprint}"


def _nothing(lake: Lake, candidates: Candidates, run: str | None, model: str | None) -> UserError:
    of_which = f" of run {run}" * bool(run) + f" of {model}" * bool(model)
    if not candidates.failed and not candidates.labelled:
        return UserError(
            f"{lake.uri}: has no images{of_which}; `masklake runs {lake.uri}` lists what there is"
        )
    return UserError(
        f"{lake.uri}: no image{of_which} is left to review: {candidates.labelled:,} are labelled already (--again takes "
        f"them), {candidates.failed:,} failed"
    )


def _none_left(lake: Lake, candidates: Candidates, picks: Picks) -> UserError:
    from masklake.pipeline.storage.store import redact

    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(picks.passed.items()))
    first = "; the first: {}: {}".format(*picks.problems[0]) if picks.problems else ""
    return UserError(
        redact(
            f"{lake.uri}: of {counted(len(candidates), 'images')} none could be chosen: {reasons}{first}; "
        )
        + "check that the images can be read from here, or give --keep-similar, which reads none"
    )
