"""The options of `masklake eval`."""

from __future__ import annotations

from dataclasses import dataclass

from masklake.jobs.options.declare import Options, Section, flag, included, option
from masklake.jobs.options.kinds import fraction, one_of
from masklake.jobs.options.shared import ClusterOptions, StorageOptions, json_flag, lake_argument, run_option

_RUNNING = Section("where the model has to be run")


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Options):
    """The options of `masklake eval`."""

    lake: str = lake_argument()
    run: str | None = run_option("evaluate the rows of this run: its id, or last")
    model: str | None = option(
        str,
        "MODEL",
        holds="model",
        help="evaluate this model: demo, coco, one of the lake's, a folder or a URI",
    )
    split: str = option(
        one_of("val", "train", "all"), "{val,train,all}", default="val", instead_of="labels",
        help="the split whose labels are compared (default val)",
    )  # fmt: skip
    coco: str | None = option(
        str,
        "DIR",
        holds="path",
        instead_of="labels",
        help="compare with COCO val2017 in this folder instead of with the lake's labels",
    )
    all_classes: bool = flag(help="count classes that the model does not know as missed")
    score: float = option(
        fraction, "0..1", default=0.5,
        help="the confusion picture counts detections of at least this score (default 0.5); AP counts all",
    )  # fmt: skip
    format: str = option(
        one_of("table", "csv", "json"),
        "{table,csv,json}",
        default="table",
        kept=False,
        help="the format of what is printed (default table)",
    )
    json: bool = json_flag("the same as --format json")
    weights_dir: str | None = option(
        str,
        "DIR",
        holds="path",
        section=_RUNNING,
        help="a folder with the published weights for --model coco",
    )
    cluster: ClusterOptions = included(ClusterOptions)
    storage: StorageOptions = included(StorageOptions)
