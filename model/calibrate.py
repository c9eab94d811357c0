"""Calibration for convolutions in 8 bits: which values a model's tensors have on images of the kind that it is to see."""

from collections.abc import Sequence

import torch
from masklake.model.checkpoint import LoadedModel
from masklake.model.detections import PredictFailure
from masklake.model.engine import int8
from masklake.model.engine.inference import Engine, Limits
from masklake.model.engine.int8 import Calibration
from masklake.model.engine.pixels import Image, to_arrays
from masklake.model.errors import ModelError
from masklake.model.networks.composed import ComposedRCNN


def calibrate(model: LoadedModel, images: Sequence[Image]) -> Calibration:
    """The calibration of `model` by what it computes, in float32 on the CPU, of these images (`Predictor.predict` says of what
    kinds): of the lake that it is for, some 16. The same images give the same calibration.

    A head that saw nothing, as there was nothing to detect, stays as it is. Raises ModelError where no image can be decoded.
    """
    pixels = [array for array in to_arrays(images) if not isinstance(array, PredictFailure)]
    if not pixels:
        raise ModelError("int8: no image to calibrate by that can be decoded")
    ranges: tuple[int8.Ranges, ...] = ({}, {}) if isinstance(model.module, ComposedRCNN) else ({},)
    labels = frozenset(info.id for info in model.spec.classes)
    limits = Limits(score_threshold=0.05, max_detections=100, labels=labels)
    engine = Engine(model.module, model.spec, limits, torch.device("cpu"), "float32", observed=ranges)
    for array in pixels:
        engine.run([array], [array.shape[:2]])
    return Calibration(levels=int8.levels_here(), ranges=ranges)
