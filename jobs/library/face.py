"""Masklake: a bucket of images in, a lake of instance masks, boxes and keypoints out.

For notebooks and programs:

    import masklake

    lake = masklake.open_lake("s3://lake")       # or a folder
    dogs = lake.instances().filter("label = 'dog' and score > 0.7")
    dogs.df()                                    # or .pl(), .to_arrow_table(), .fetchall(): DuckDB's relations
    mask = masklake.decode_mask(dogs.limit(1).to_arrow_table().to_pylist()[0])    # (H, W) bool

    predictor = masklake.Predictor(masklake.load_model("demo"))
    detections = predictor.predict([open("photo.jpg", "rb").read()])[0]
    detections.names, detections.boxes, detections.scores, detections.full_masks()
    detections.to_coco(image_id=1), detections.draw(PIL.Image.open("photo.jpg"))

`help(masklake.open_lake)`, `help(masklake.Detections)` and `help(masklake.Predictor)` say more. Nothing of torch is
imported before a model or a predictor is asked for, and nothing of Ray at all. The command line is `masklake --help`.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masklake.jobs.library.lake import LakeReader, open_lake
    from masklake.jobs.library.masks import decode_mask
    from masklake.model.checkpoint import LoadedModel
    from masklake.model.detections import Detections, PredictFailure
    from masklake.model.errors import ModelError
    from masklake.model.predictor import Predictor
    from masklake.model.presets import load_model
    from masklake.pipeline.errors import UserError

__all__ = [
    "Detections",
    "LakeReader",
    "LoadedModel",
    "ModelError",
    "PredictFailure",
    "Predictor",
    "UserError",
    "decode_mask",
    "load_model",
    "open_lake",
]

_HOMES = {
    "Detections": "model.detections",
    "LakeReader": "jobs.library.lake",
    "LoadedModel": "model.checkpoint",
    "ModelError": "model.errors",
    "PredictFailure": "model.detections",
    "Predictor": "model.predictor",
    "UserError": "pipeline.errors",
    "decode_mask": "jobs.library.masks",
    "load_model": "model.presets",
    "open_lake": "jobs.library.lake",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(_import_module(f"masklake.{_HOMES[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("masklake")
    raise AttributeError(f"module 'masklake' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
