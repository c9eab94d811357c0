"""Inference over rows: what the predictor is given, and what becomes of what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from masklake.model.decode import DecodeOptions
from masklake.model.detections import Detections, PredictFailure
from masklake.model.masks.rle import encode_masks
from masklake.pipeline.decode import decode_rows
from masklake.pipeline.segment.encode import encode_rows
from masklake.pipeline.segment.fetch import FETCHED
from masklake.pipeline.segment.infer import DETECTED, infer_rows

from tests.helpers.images import quadrants, save, solid
from tests.helpers.predictors import VOCABULARY, ContentPredictor


def decoded(*files: bytes | None, target: tuple[int, int] | None = None) -> pa.Table:
    """Decoded rows of these files; None is an object that was gone."""
    rows = [
        {
            "image_id": 10 + i,
            "uri": f"s3://b/{i}",
            "etag": "e",
            "size_bytes": 1,
            "last_modified": None,
            "status": "ok" if data is not None else "missing",
            "error": None if data is not None else "gone",
            "data": data,
        }
        for i, data in enumerate(files)
    ]
    return decode_rows(pa.Table.from_pylist(rows, FETCHED), DecodeOptions(target=target))


class Recorder:
    """Keeps what it was asked; answers with a failure for every image."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []
        self.frames: list[tuple[int, int]] | None = None

    def predict(self, images: Sequence[Any], frames: Any = None) -> list[Any]:
        self.images, self.frames = list(images), list(frames)
        return [PredictFailure(f"no {i}") for i in range(len(images))]


def test_the_predictor_sees_pixels_and_original_frames() -> None:
    scene = quadrants(960, 640)
    rows = decoded(save(scene, "PNG"), None, save(scene, "JPEG"), b"text", target=(64, 96))
    predictor = Recorder()
    out = infer_rows(rows, predictor)
    assert [image.shape for image in predictor.images] == [(640, 960, 3), (80, 120, 3)]
    assert np.array_equal(predictor.images[0], scene)
    assert predictor.frames == [(640, 960)] * 2
    assert out["status"].to_pylist() == ["failed", "missing", "failed", "unsupported"]
    assert out["error"].to_pylist()[:3] == ["no 0", "gone", "no 1"]


def test_detections_travel_bit_for_bit() -> None:
    rows = decoded(solid((3, 0, 0)), solid((0, 0, 0)))
    out = infer_rows(rows, ContentPredictor())
    expected: Detections = ContentPredictor().predict([np.full((24, 32, 3), (3, 0, 0), np.uint8)])[0]
    row = out.to_pylist()[0]
    for name, array in (
        ("boxes", expected.boxes),
        ("label_ids", expected.labels),
        ("scores", expected.scores),
        ("masks", expected.masks),
        ("keypoints", expected.keypoints),
    ):
        assert array is not None
        assert row[name] == array.tobytes()
    assert out["scores"].to_pylist()[1] == b""
    assert not {"pixels", "pixel_width", "pixel_height"} & set(out.schema.names)
    assert [out.schema.field(f.name).type for f in DETECTED] == [f.type for f in DETECTED]


def test_nothing_left_to_predict() -> None:
    class Never:
        def predict(self, images: Sequence[Any], frames: Any = None) -> list[Any]:
            raise AssertionError("asked about no images")

    out = infer_rows(decoded(None, b"text"), Never())
    assert out["boxes"].null_count == 2


def test_a_predictor_that_loses_images_is_a_bug_and_no_result() -> None:
    class Loses:
        def predict(self, images: Sequence[Any], frames: Any = None) -> list[Any]:
            return ContentPredictor().predict(images[:1], frames[:1])

    with pytest.raises(ValueError, match="shorter"):
        infer_rows(decoded(solid((1, 0, 0)), solid((2, 0, 0))), Loses())


def test_memory_layout_and_dtype_of_the_predictor_do_not_matter() -> None:
    class Odd:
        def predict(self, images: Sequence[Any], frames: Any = None) -> list[Any]:
            boxes = np.asfortranarray(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float64))
            return [Detections(boxes=boxes, labels=np.array([1, 2]), scores=np.array([0.9, 0.1]))]  # type: ignore[arg-type]  # wrong dtypes are the point

    row = infer_rows(decoded(solid((1, 0, 0))), Odd()).to_pylist()[0]
    assert np.frombuffer(row["boxes"], "<f4").tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert np.frombuffer(row["label_ids"], "<i4").tolist() == [1, 2]
    assert row["masks"] is None
    assert row["keypoints"] is None


def test_masks_that_come_as_rle_give_the_same_rows() -> None:
    class Tiles:
        def predict(self, images: Sequence[Any], frames: Any = None) -> list[Any]:
            predicted = ContentPredictor().predict(images, frames)
            sizes = frames or [image.shape[:2] for image in images]
            return [
                replace(detections, masks=None, rles=encode_masks(detections.masks, detections.boxes, size))
                for detections, size in zip(predicted, sizes, strict=True)
            ]

    rows = decoded(solid((3, 0, 0)), solid((2, 0, 0)))
    as_rle, as_probs = infer_rows(rows, Tiles()), infer_rows(rows, ContentPredictor())
    assert as_rle["masks"].null_count == 2
    assert as_probs["rles"].null_count == 2
    a, b = (encode_rows(inferred, VOCABULARY)["instances"] for inferred in (as_rle, as_probs))
    assert a.equals(b)
