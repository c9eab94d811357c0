"""`masklake backend`: the lake's model as an ML backend of Label Studio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Section, included, option
from masklake.jobs.options.kinds import fraction, port_from
from masklake.jobs.options.shared import StorageOptions, lake_argument
from masklake.jobs.segment.options import MODEL, RowOptions

if TYPE_CHECKING:
    from masklake.jobs.backend.predicting import Model
    from masklake.pipeline.lake.lake import Lake

SUMMARY = "serve the lake's model to Label Studio, so that annotators start from its masks"
DESCRIPTION = """\
An ML backend of Label Studio: connect it to a project in Settings > Model, by the address that is printed. It answers with
masks, boxes and keypoints of the model, for the classes that the project's labelling interface offers.

A task's image is read from the lake's storage where the lake knows it, by what `masklake review` wrote into the task or by
its URI. Images that were uploaded to Label Studio are read from there if its address is given (--label-studio), under the token
in LABEL_STUDIO_API_KEY. No other image is read, whatever a task names; tasks without a prediction are told, one by one.

Label Studio asks no address of its own machine or network unless it was started with ML_BLOCK_LOCAL_IP=false.

It serves this machine alone, unless MASKLAKE_BACKEND_TOKEN is set: then --host may be another address, and Label Studio sends the
token as the password of basic authentication. It does not train: `masklake labels pull` and `masklake train` do. Ctrl-C ends
it, after the requests that are being answered."""
EPILOG = """\
examples:
  masklake backend lake/ --model demo
  masklake backend s3://lake --model production --port 9090 --label-studio http://localhost:8080
  MASKLAKE_BACKEND_TOKEN=… masklake backend s3://lake --host 0.0.0.0 --port 9090"""
_SERVER = Section("server")


@dataclass(frozen=True, kw_only=True)
class BackendOptions(RowOptions):
    """The options of `masklake backend`."""

    lake: str = lake_argument()
    model: str = option(
        str, "MODEL", default="production", section=MODEL, holds="model",
        help="production (default) or another alias or version of the lake's models, demo, coco, or a folder with a model",
    )  # fmt: skip
    weights_dir: str | None = option(
        str, "DIR", section=MODEL, holds="path", help="where the published weights of coco are"
    )
    score: float = option(
        fraction,
        "0..1",
        default=0.5,
        section=MODEL,
        help="offer instances of at least this score (default 0.5)",
    )
    label_studio: str | None = option(
        str, "URL", section=_SERVER, help="the Label Studio whose uploaded files may be asked for"
    )
    host: str = option(
        str,
        "ADDRESS",
        default="127.0.0.1",
        section=_SERVER,
        help="the address to serve on (default 127.0.0.1)",
    )
    port: int = option(
        port_from(0),
        "PORT",
        default=9090,
        section=_SERVER,
        help="the port to serve on (default 9090; 0: one that is free)",
    )
    storage: StorageOptions = included(StorageOptions)


def run(options: BackendOptions) -> int:
    """Serve until Ctrl-C. Raises UserError or ModelError where the model, the lake or the address cannot be used."""
    from masklake.jobs.backend.predicting import TaskPredictor
    from masklake.jobs.backend.protocol import Protocol
    from masklake.jobs.backend.server import BackendServer
    from masklake.jobs.serving.local_server import serve
    from masklake.jobs.studio.client import StudioClient
    from masklake.pipeline.lake.lake import Lake

    lake = Lake(options.lake, options.storage.open())
    lake.require()
    studio = None if options.label_studio is None else StudioClient(options.label_studio)
    model = ready(options, lake)
    protocol = Protocol(TaskPredictor(lake, model, studio))
    return serve(
        lambda: BackendServer(options.host, options.port, protocol),
        f"{options.host}:{options.port}",
        lambda url: f"{model.version} for Label Studio: {url}",
    )


COMMAND = Command(summary=SUMMARY, description=DESCRIPTION, epilog=EPILOG, options=BackendOptions, run=run)


def ready(options: BackendOptions, lake: Lake) -> Model:
    """The model that the options name, ready to predict. Raises UserError or ModelError where it cannot be used."""
    import torch
    from masklake.jobs.backend.predicting import Model
    from masklake.jobs.models import resolve as models
    from masklake.jobs.segment import calibration

    model = models.resolve(options.model, lake.storage, options.weights_dir, lake=lake.uri)
    ranges = calibration.of_lake(lake.uri, lake.storage, model) if options.precision == "int8" else None
    return Model(
        version=f"{model.spec.name}@{model.fingerprint}",
        predictor=options.predictor(model, None, ranges)(),
        vocabulary=model.vocabulary(),
        decode=options.decoding(model.spec.preprocessing),
        max_bytes=options.max_bytes,
        at_once=8 if torch.cuda.is_available() else 1,
    )
