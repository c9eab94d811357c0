"""What a GPU would make the host wait for, counted on the CPU; and on a GPU, where there is one, that it waits for nothing else.

A GPU works on while the host goes on, until the host asks for a value or for a shape that hangs on values. Each such wait lets
the GPU run dry; each operator costs the host some microseconds. So neither may grow with the images of a batch.
"""

import collections
from typing import Any

import numpy as np
import pytest
import torch
from masklake.model import presets, scenes
from masklake.model.checkpoint import LoadedModel
from masklake.model.detections import Detections
from masklake.model.engine import parts, rois
from masklake.model.engine.select import FixedShapes
from masklake.model.predictor import Predictor
from torch.utils._python_dispatch import TorchDispatchMode

ASKS = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "nms",
}
"""Operators whose result the host sees, or whose result's shape hangs on values."""


class Counter(TorchDispatchMode):
    """Counts operators, and those a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:
            if (parts := func.decompose(*args, **(kwargs or {}))) is not NotImplemented:
                return parts
        name = func.overloadpacket.__name__
        self.operators[name] += 1
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        repeats = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in ASKS or by_mask or repeats:
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


def as_on_a_gpu(model: LoadedModel, precision: str = "float32", **settings: Any) -> Predictor:
    """On the CPU, but on the ways that a GPU goes."""
    predictor = Predictor(model, device="cpu", precision=precision, **settings)
    predictor._engine.selection = FixedShapes()
    predictor._engine._uploads.together = True
    for part in (predictor._engine.detector, predictor._engine.keypoint_parts):
        assert isinstance(part, parts.FastParts)
        part.on_gpu = True
        if part._proposer._again is not None:
            part._proposer._again.once = False
        for pool in (part._box_pool, part._mask_pool, part._keypoint_pool):
            pool.at_once = True
    return predictor


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return presets.load_model("demo")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [scenes.scene(7, index, (240, 320)).image for index in range(12)]


def counted(
    predictor: Predictor, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Operators and waits. A copy to the host is one too, which on a CPU is no operator."""
    counter = Counter()

    def noted(owner: type, method: str) -> None:
        call = getattr(owner, method)

        def counting(*args: Any) -> Any:
            counter.waits[method] += 1
            return call(*args)

        patch.setattr(owner, method, counting)

    with monkeypatch.context() as patch, counter:
        noted(rois.Arrival, "wait")
        for method in ("tolist", "cpu"):
            noted(torch.Tensor, method)
        results = predictor.predict(images)
    assert sum(len(result) for result in results if isinstance(result, Detections)) >= len(images)
    return counter.operators, counter.waits


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_further_image_costs_a_gpu_nearly_no_operators_and_no_waits(
    demo: LoadedModel, images: list[np.ndarray], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = as_on_a_gpu(demo, precision)
    predictor.predict(images[:1])  # weights are packed at the first call
    (few, waits_of_few), (many, waits_of_many) = (
        counted(predictor, part, monkeypatch) for part in (images[:2], images)
    )
    assert waits_of_many == waits_of_few
    assert waits_of_many.total() <= 6
    assert (many.total() - few.total()) / (len(images) - 2) <= 1


def test_a_cpu_finds_the_same_on_the_ways_of_a_gpu(demo: LoadedModel, images: list[np.ndarray]) -> None:
    """To the last bit, but for the order of equal scores."""
    for settings in ({}, {"max_detections": 3}, {"score_threshold": 0.3, "classes": ["person", "star"]}):
        for a, b in zip(
            Predictor(demo, device="cpu", precision="float32", **settings).predict(images),
            as_on_a_gpu(demo, **settings).predict(images),
            strict=True,
        ):
            assert isinstance(a, Detections)
            assert isinstance(b, Detections)
            for name in ("boxes", "labels", "scores", "masks"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            np.testing.assert_allclose(a.keypoints, b.keypoints, rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_is_waited_for_nowhere_else(
    demo: LoadedModel, images: list[np.ndarray], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch raises an error at every wait, but for those of the search for keypoints, some a batch, which are allowed."""
    predictor = Predictor(demo, device="cuda", precision=precision)
    first = predictor.predict(images)
    place = parts.place_keypoints

    def allowed(*args: Any, **options: Any) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("default")
        try:
            return place(*args, **options)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(parts, "place_keypoints", allowed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = predictor.predict(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = Predictor(demo, device="cpu", precision="float32").predict(images)
    for a, b, c in zip(first, again, on_cpu, strict=True):
        assert isinstance(a, Detections)
        assert isinstance(b, Detections)
        assert isinstance(c, Detections)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert (a.scores > 0.5).sum() == (c.scores > 0.5).sum()
