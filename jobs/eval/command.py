"""`masklake eval`: how good is a model? COCO's average precision against the lake's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from masklake.jobs.eval.options import EvalOptions
from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.jobs.eval.rows import Detector
    from masklake.jobs.eval.truth import Target
    from masklake.jobs.models.resolve import Resolved
    from masklake.pipeline.lake.lake import Lake

SUMMARY = "measure a run or a model against labels: COCO AP, class by class, with pictures"
DESCRIPTION = """\
Compare the instances in a lake with its labels: COCO's average precision and recall of boxes, masks and
keypoints, as pycocotools computes them, class by class, with precision-recall curves and a confusion picture.

Whose rows count:
  --run RUN     the rows of that run. Labelled images that it has no row of are left out, and counted.
  --model M     the newest row of each labelled image from any run of that model with segment's default
                options. Where there is none, the model is run over exactly these images first.
  neither       the newest run
An image that failed counts as one in which nothing was detected. Classes and keypoints are matched by name.
Classes of the labels that the model does not know are listed and left out of the mean (--all-classes counts
them, with an AP of 0); detections of classes that no label names are left out. Crowds are treated as COCO
does. An instance without a mask is, for masks, a crowd of the shape of its box. A keypoint that COCO does
not have is given a tolerance (sigma) of 0.05. Small, medium and large, and the scale of keypoints, go by the area that the
annotation file gave, else by the pixels of the labelled mask, else by the box. What is labelled `ignore` neither counts
nor costs. Where an image was searched for some classes only (LVIS), detections of others there do not count.

--coco DIR takes COCO val2017 (val2017/ and annotations/ as they are unpacked) in place of the lake's labels.
Nothing is imported; the model (default coco) is run over its images into LAKE where it has not been. For
--model coco the published figures stand beside: box AP 0.474, mask AP 0.418. Its keypoints are placed in the
person boxes of the mask network; the published keypoint AP, 0.650, is on the keypoint network's own boxes.

Written to LAKE/runs/RUN/eval/SPLIT/: metrics.json, precision-recall.png, confusion.png."""
EPILOG = """\
examples:
  masklake eval s3://lake                               # the newest run on the split val
  masklake eval s3://lake --model production --split all
  masklake eval s3://lake --run 20261123T010203-a1b2c3 --json | jq .figures.mask.AP
  masklake eval coco-lake/ --coco /data/coco --model coco

exit codes: 0 measured · 2 a mistake that the message names · others as of `masklake segment`, when the model had
to be run and did not finish: what is in the lake stays, and the same command goes on from there"""


def run(options: EvalOptions) -> int:
    """Evaluate. Raises UserError or ModelError for a mistake; segment's exit code when the model could not be run."""
    from masklake.jobs.eval import report as eval_report
    from masklake.jobs.eval import rows as eval_rows
    from masklake.jobs.eval import truth as eval_truth
    from masklake.jobs.eval.measure import measure
    from masklake.jobs.models import resolve as models
    from masklake.pipeline.lake.lake import Lake

    storage = options.storage.open()
    lake = Lake(options.lake, storage)
    target = (
        eval_truth.of_coco(options.coco, storage)
        if options.coco
        else eval_truth.of_labels(lake, options.split)
    )
    name = options.model or ("coco" if options.coco and not options.run else None)
    model = models.resolve(name, storage, options.weights_dir, lake=lake.uri) if name else None
    detector = _detector(options.run, lake, model)
    lake.require_writable()
    images = eval_rows.newest_images(lake, detector.runs, target.images)
    missing = sorted(target.images.keys() - images.keys())
    if missing and model is not None and options.run is None:
        code = _run_over(missing, len(target.images), detector, options, lake)
        if code:
            return code
        lake = Lake(options.lake, storage)  # opened again, so that it has the new run
        detector = _detector(options.run, lake, model)
        images = eval_rows.newest_images(lake, detector.runs, target.images)
    if not images:
        raise _nothing(lake, detector, target)
    measured = measure(lake, target, detector, images, score=options.score, all_classes=options.all_classes)
    facts = eval_report.facts(lake, target, detector, measured)
    shape = "json" if options.json else options.format
    eval_report.show(facts, shape)
    eval_report.write(lake, facts, measured, options, quiet=shape != "table")
    return ExitCode.DONE


COMMAND = Command(
    summary=SUMMARY,
    description=DESCRIPTION,
    epilog=EPILOG,
    options=EvalOptions,
    run=run,
    from_file=True,
)


def _detector(run: str | None, lake: Lake, model: Resolved | None) -> Detector:
    from masklake.jobs.eval import rows as eval_rows

    if run is None and model is not None:
        return eval_rows.of_model(lake, model)
    if run is None and not lake.run_ids():
        raise UserError(
            f"{lake.uri}: has labels, but no run that could be measured by them; give --model MODEL to run one over them"
        )
    return eval_rows.of_run(lake, run or "last", model)


def _nothing(lake: Lake, detector: Detector, target: Target) -> UserError:
    run = detector.runs[0] if detector.runs else "?"
    return UserError(
        f"run {run}: has no row of the {len(target.images):,} labelled images ({target.name}); name another run "
        f"(`masklake runs {lake.uri}`), or give --model MODEL without --run to run it over them"
    )


def _run_over(
    uris: list[str], labelled_count: int, detector: Detector, options: EvalOptions, lake: Lake
) -> ExitCode:
    """Run the model over these images, as `masklake segment` does: its exit code.

    Their list is kept in the lake, named by its content, since it is the source that the run's record names.
    """
    import hashlib

    import pyarrow as pa
    from masklake.jobs.segment.command import segment
    from masklake.jobs.segment.options import SegmentOptions
    from masklake.jobs.terminal.manners import progress_console
    from masklake.pipeline.storage import parquet
    from masklake.pipeline.storage.explain import explaining
    from masklake.pipeline.storage.store import join

    digest = hashlib.sha256("\0".join(uris).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    source = join(lake.uri, "eval", f"images-{digest}.parquet")
    with explaining(source, "write the list of images"):
        lake.storage.write(source, parquet.encode(pa.table({"uri": uris})))
    console = progress_console(stderr=True)  # standard output is for the figures
    console.print(
        f"{len(uris):,} of {labelled_count:,} labelled images have no row of {detector.model} with default options yet: running it over them",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    over_them = SegmentOptions(
        source=source,
        lake=lake.uri,
        model=detector.source,
        weights_dir=options.weights_dir,
        redo_all=True,  # what other runs with these options have of an image is newer, or there is none
        cluster=options.cluster,
        storage=options.storage,
    )
    return segment(over_them, console)
