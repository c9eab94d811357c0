"""Batches on their way to a device while others are computed; and that nothing hangs on who comes first."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from masklake.model import presets, scenes
from masklake.model.checkpoint import LoadedModel
from masklake.model.detections import Detections
from masklake.model.engine.uploads import Uploads
from masklake.model.predictor import Predictor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return presets.load_model("demo")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [scenes.scene(11, index, scenes.DEFAULT_SIZES[index % 3]).image for index in range(9)]


def assert_same(a: Any, b: Any) -> None:
    assert isinstance(a, Detections)
    assert isinstance(b, Detections)
    for name in ("boxes", "labels", "scores", "masks", "keypoints"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_images_of_one_size_travel_together(images: list[np.ndarray]) -> None:
    """Read-only ones and views, too."""
    originals = [images[0], images[1], images[3], images[3][:, ::-1], images[0].copy()]
    originals[0].flags.writeable = False
    uploads = Uploads(CPU)
    uploads.together = True
    sent = uploads.send(originals)
    parts = list(sent.parts())
    assert sorted(index for _, members in parts for index in members) == list(range(5))
    assert len(parts) == len({image.shape for image in originals})
    for pixels, members in parts:
        assert pixels.is_contiguous()
        for image_CHW, index in zip(pixels, members, strict=True):
            np.testing.assert_array_equal(image_CHW.permute(1, 2, 0), originals[index])


def test_the_next_batch_is_sent_while_one_is_computed(
    demo: LoadedModel, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the first batch is not computed before the second is there."""
    expected = Predictor(demo, device="cpu").predict(images)
    predictor = Predictor(demo, device="cpu")
    predictor._at_once = 2
    engine, second = predictor._engine, threading.Event()
    send, compute, sent = engine._uploads.send, engine._compute, []

    def sending(batch: Any) -> Any:
        sent.append(len(batch))
        if len(sent) == 2:
            second.set()
        return send(batch)

    def computing(batch: Any) -> Any:
        assert second.wait(60)
        return compute(batch)

    monkeypatch.setattr(engine._uploads, "send", sending)
    monkeypatch.setattr(engine, "_compute", computing)
    for a, b in zip(predictor.predict(images), expected, strict=True):
        assert_same(a, b)
    assert sum(sent) == len(images)
    assert all(count.bit_count() == 1 for count in sent)  # few sizes of batches, for cuDNN plans each of them


def test_one_thread_computes_for_all(
    demo: LoadedModel, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: cuDNN forgets its plans with the thread that made them."""
    predictor = Predictor(demo, device="cpu")
    predictor._at_once = 2
    engine, threads = predictor._engine, set()
    engine._thread = ThreadPoolExecutor(1)
    compute = engine._results

    def computing(batch: Any) -> Any:
        threads.add(threading.get_ident())
        return compute(batch)

    monkeypatch.setattr(engine, "_results", computing)
    expected = Predictor(demo, device="cpu").predict(images)
    for _ in range(2):
        for a, b in zip(predictor.predict(images), expected, strict=True):
            assert_same(a, b)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_memory_that_runs_out_beside_another_batch(
    demo: LoadedModel, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image once, whichever of two batches at work has to be halved."""
    predictor = Predictor(demo, device="cpu", precision="float32")
    expected = [predictor.predict([image])[0] for image in images]
    predictor._at_once = 2
    run = predictor._engine.run

    def small(batch: Any, *others: Any) -> Any:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(batch, *others)

    monkeypatch.setattr(predictor._engine, "run", small)
    for a, b in zip(predictor.predict(images), expected, strict=True):
        assert isinstance(a, Detections)
        assert isinstance(b, Detections)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-2)


def test_what_a_batch_raises_is_raised(demo: LoadedModel, images: list[np.ndarray]) -> None:
    predictor = Predictor(demo, device="cpu")
    predictor._at_once = 2
    predictor._engine.selection = None  # type: ignore[assignment]  # the fault is put in here
    with pytest.raises(AttributeError, match="proposals"):
        predictor.predict(images)
