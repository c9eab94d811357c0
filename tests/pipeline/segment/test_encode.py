"""Detections to rows: RLE as pycocotools makes it, nested lists that line up, whatever an image lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from masklake.model.detections import Detections
from masklake.model.masks.rle import encode_masks
from masklake.pipeline.schema import IMAGES, INSTANCES
from masklake.pipeline.segment.encode import Vocabulary, encode_rows
from masklake.pipeline.segment.infer import infer_rows
from pycocotools import mask as coco_mask

from tests.helpers.images import png_bomb, solid
from tests.helpers.predictors import VOCABULARY, ContentPredictor
from tests.pipeline.segment.test_infer import decoded


@dataclass
class Fixed:
    """Says the same of every image."""

    detections: Detections

    def predict(self, images: Sequence[Any], frames: Any = None) -> list[Detections]:
        return [self.detections] * len(images)


def _detections(n: int, *, masks: bool = True, keypoints: bool = True, side: int = 28) -> Detections:
    rng = np.random.default_rng(n)
    corner = rng.uniform(0, 15, (n, 2)).astype(np.float32)
    return Detections(
        boxes=np.concatenate([corner, corner + rng.uniform(3, 14, (n, 2)).astype(np.float32)], axis=1),
        labels=(np.arange(n) % 2 + 1).astype(np.int32),
        scores=np.linspace(0.9, 0.2, n, dtype=np.float32),
        masks=rng.random((n, side, side), dtype=np.float32) if masks else None,
        keypoints=rng.uniform(0, 24, (n, 3, 3)).astype(np.float32) if keypoints else None,
    )


def _encoded(*files: bytes | None, predictor: Any = None) -> pa.Table:
    return encode_rows(infer_rows(decoded(*files), predictor or ContentPredictor()), VOCABULARY)


def _paste(prob: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    import torch
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    pasted = paste_masks_in_image(
        torch.from_numpy(prob[None, None]), torch.from_numpy(box[None]), (height, width)
    )
    return (pasted[0, 0].numpy() > 0.5).astype(np.uint8)


@pytest.mark.parametrize("side", [28, 14, 56, 20])
def test_masks_are_those_of_torchvision_and_pycocotools(side: int) -> None:
    """Also of models whose `mask_resolution` is another than 14."""
    detections = _detections(7, side=side)
    rows = _encoded(solid((0, 0, 0), (32, 24)), predictor=Fixed(detections)).to_pylist()
    assert detections.masks is not None
    for i, instance in enumerate(rows[0]["instances"]):
        mask = _paste(detections.masks[i], detections.boxes[i], 24, 32)
        expected = coco_mask.encode(np.asfortranarray(mask))
        assert instance["mask"] == {"size": [24, 32], "counts": expected["counts"].decode()}
        assert instance["area"] == mask.sum()
        assert instance["instance"] == i
        x1, y1, x2, y2 = detections.boxes[i]
        assert [instance[k] for k in "xywh"] == [x1, y1, x2 - x1, y2 - y1]
        assert instance["score"] == detections.scores[i]
        assert instance["label"] == VOCABULARY.classes[instance["label_id"]]


def test_masks_that_are_rle_already_make_the_same_rows() -> None:
    """What a predictor gives of an image that it cut into tiles."""
    detections = _detections(7)
    assert detections.masks is not None
    by_tiles = replace(
        detections, masks=None, rles=encode_masks(detections.masks, detections.boxes, (24, 32))
    )
    none = replace(_detections(0, masks=False), rles=[])
    file = solid((0, 0, 0), (32, 24))
    expected, of_tiles = (
        _encoded(file, predictor=Fixed(detections)),
        _encoded(file, predictor=Fixed(by_tiles)),
    )
    assert of_tiles["instances"].equals(expected["instances"])
    assert of_tiles.schema.equals(expected.schema)
    assert _encoded(file, None, predictor=Fixed(none))["instances"].to_pylist() == [[], []]


def test_lists_line_up_with_their_images() -> None:
    """Counts 0, 3, failed, 1, 0, 2, failed: every offset is exercised."""
    reds = [0, 3, None, 1, 4, 2, None]
    rows = _encoded(*[None if r is None else solid((r, 0, 0), (32 + i, 24)) for i, r in enumerate(reds)])
    counts = [0 if r is None else r % 4 for r in reds]
    assert rows["n_instances"].to_pylist() == counts
    lists = rows["instances"].to_pylist()
    assert [len(instances) for instances in lists] == counts
    for i, instances in enumerate(lists):
        assert [instance["instance"] for instance in instances] == list(range(counts[i]))
        assert all(instance["mask"]["size"] == [24, 32 + i] for instance in instances)
    assert rows["image_id"].to_pylist() == [10, 11, 12, 13, 14, 15, 16]


def test_keypoints_only_where_the_class_has_them() -> None:
    detections = _detections(4)
    instances = _encoded(solid((0, 0, 0)), predictor=Fixed(detections)).to_pylist()[0]["instances"]
    assert [instance["keypoints"] is not None for instance in instances] == [True, False, True, False]
    assert detections.keypoints is not None
    for i in (0, 2):
        assert instances[i]["keypoints"] == [
            {
                "name": name,
                **dict(zip(("x", "y", "score"), map(float, detections.keypoints[i, k]), strict=True)),
            }
            for k, name in enumerate(VOCABULARY.keypoint_names)
        ]


@pytest.mark.parametrize("has", [frozenset(), frozenset({1, 2})])
def test_vocabularies_without_keypoints_and_with_keypoints_everywhere(has: frozenset[int]) -> None:
    rows = encode_rows(
        infer_rows(decoded(solid((0, 0, 0))), Fixed(_detections(3))), replace(VOCABULARY, with_keypoints=has)
    )
    instances = rows.to_pylist()[0]["instances"]
    assert [instance["keypoints"] is not None for instance in instances] == [bool(has)] * 3


def test_a_model_without_keypoints() -> None:
    vocabulary = Vocabulary(classes={1: "a", 2: "b"}, with_keypoints=frozenset(), keypoint_names=())
    rows = encode_rows(
        infer_rows(decoded(solid((0, 0, 0))), Fixed(_detections(3, keypoints=False))), vocabulary
    )
    assert [instance["keypoints"] for instance in rows.to_pylist()[0]["instances"]] == [None] * 3


def test_a_model_without_masks_counts_box_pixels() -> None:
    detections = replace(_detections(1, masks=False), boxes=np.array([[1.2, 2.0, 11.2, 7.4]], np.float32))
    instance = _encoded(solid((0, 0, 0)), predictor=Fixed(detections)).to_pylist()[0]["instances"][0]
    assert instance["mask"] is None
    assert instance["area"] == 54


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("keypoints", [True, False])
def test_images_without_instances(masks: bool, keypoints: bool) -> None:
    rows = _encoded(
        solid((0, 0, 0)), solid((0, 0, 0)), predictor=Fixed(_detections(0, masks=masks, keypoints=keypoints))
    )
    assert rows["instances"].to_pylist() == [[], []]
    assert rows["status"].to_pylist() == ["ok", "ok"]


def test_nothing_but_failures() -> None:
    rows = _encoded(None, b"text", png_bomb(30_000, 30_000))
    assert rows["instances"].to_pylist() == [[], [], []]
    assert rows["n_instances"].to_pylist() == [0, 0, 0]
    assert rows["width"].to_pylist() == [None, None, 30_000]


def test_every_shape_of_packet_has_one_schema() -> None:
    """Ray concatenates packets of a commit: an empty one must not differ from a full one."""
    packets = [
        _encoded(solid((3, 0, 0))),
        _encoded(solid((0, 0, 0))),
        _encoded(None),
        _encoded(solid((0, 0, 0)), predictor=Fixed(_detections(2, masks=False, keypoints=False))),
    ]
    assert all(packet.schema.equals(packets[0].schema) for packet in packets)
    both = pa.concat_tables(packets)
    assert both.num_rows == 4
    names = {*both.schema.names, "run", "model"}
    assert names == {*IMAGES.names, "instances"}
    struct = both.schema.field("instances").type.value_type
    assert {*(f.name for f in struct), "run", "image_id", "uri", "model"} == set(INSTANCES.names)


def test_an_instance_outside_the_frame_has_an_empty_mask() -> None:
    detections = replace(_detections(1), boxes=np.array([[100, 100, 120, 120]], np.float32))
    instance = _encoded(solid((0, 0, 0), (32, 24)), predictor=Fixed(detections)).to_pylist()[0]["instances"][
        0
    ]
    assert instance["area"] == 0
    assert coco_mask.decode({**instance["mask"], "counts": instance["mask"]["counts"].encode()}).sum() == 0


@pytest.mark.parametrize("field", ["boxes", "scores", "masks"])
@pytest.mark.parametrize("masks", [True, False])
def test_detections_that_are_no_numbers_fail_their_image_alone(field: str, masks: bool) -> None:
    """What a model says of an image that makes it overflow. The run goes on."""
    detections = _detections(3, masks=masks)
    if getattr(detections, field) is None:
        return
    getattr(detections, field)[1] = np.nan

    class Sometimes:
        def predict(self, images: Sequence[Any], frames: Any = None) -> list[Detections]:
            return [detections, *ContentPredictor().predict(images[1:], frames[1:])]

    rows = _encoded(solid((0, 0, 0)), solid((2, 0, 0)), None, predictor=Sometimes())
    assert rows["status"].to_pylist() == ["failed", "ok", "missing"]
    assert "not finite" in rows["error"].to_pylist()[0]
    assert rows["n_instances"].to_pylist() == [0, 2, 0]
    assert [len(instances) for instances in rows["instances"].to_pylist()] == [0, 2, 0]
    assert rows.schema.equals(_encoded(solid((1, 0, 0))).schema)
