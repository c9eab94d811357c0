"""Networks that overflow: an image whose values are not finite has its result from float32, or fails alone."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from masklake.model import presets, scenes
from masklake.model.checkpoint import LoadedModel
from masklake.model.detections import Detections, PredictFailure
from masklake.model.engine.rois import Rois
from masklake.model.predictor import Predictor
from numpy.typing import NDArray
from torch import Tensor, nn

LARGE = 1e6
"""Beyond float16's range, and far inside float32's."""


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return presets.load_model("demo")


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    """Of shapes; the last two also of people, for whom keypoints are computed."""
    by_people, index = {False: [], True: []}, 0
    while len(by_people[False]) < 1 or len(by_people[True]) < 2:
        scene = scenes.scene(5, index)
        by_people[any(instance.keypoints is not None for instance in scene.instances)].append(scene.image)
        index += 1
    return [*by_people[False][:1], *by_people[True][:2]]


@torch.no_grad()
def stretched(model: LoadedModel, first: str, *then: str) -> LoadedModel:
    """The same function with large values between layer `first` and the layers `then`, which ReLU keeps in proportion."""
    module = copy.deepcopy(model.module)
    layer: Any = module.get_submodule(first)
    layer.weight *= LARGE
    layer.bias *= LARGE
    for name in then:
        module.get_submodule(name).weight /= LARGE  # type: ignore[operator]  # a convolution or linear layer
    return LoadedModel(model.spec, module)


LAYERS = {
    "proposals": ("rpn.head.conv.0.0", "rpn.head.cls_logits", "rpn.head.bbox_pred"),
    "boxes": ("roi_heads.box_head.fc6", "roi_heads.box_head.fc7"),
    "masks": ("roi_heads.mask_predictor.conv5_mask", "roi_heads.mask_predictor.mask_fcn_logits"),
    "keypoints": ("roi_heads.keypoint_head.4", "roi_heads.keypoint_predictor.kps_score_lowres"),
}


@pytest.mark.parametrize("where", LAYERS)
def test_what_overflows_in_float16_is_done_in_float32(
    demo: LoadedModel, images: list[NDArray[np.uint8]], where: str
) -> None:
    model = stretched(demo, *LAYERS[where])
    predictor = Predictor(model, device="cpu", precision="float16")
    expected = Predictor(model, device="cpu", precision="float32").predict(images)
    for detections, full in zip(predictor.predict(images), expected, strict=True):
        assert isinstance(detections, Detections)
        assert isinstance(full, Detections)
        assert len(detections) == len(full) > 0
        np.testing.assert_allclose(detections.boxes, full.boxes, atol=0.1)
        np.testing.assert_allclose(detections.scores, full.scores, atol=1e-2)
        np.testing.assert_allclose(detections.masks, full.masks, atol=0.1)
        np.testing.assert_array_equal(np.isnan(detections.keypoints), np.isnan(full.keypoints))
    people = sum(bool(np.isfinite(result.keypoints).any()) for result in expected)  # type: ignore[union-attr, arg-type]  # checked above
    assert 1 < people < len(images)
    assert predictor.redone == (people if where == "keypoints" else len(images))


def test_feature_maps_that_overflow_are_seen(demo: LoadedModel, images: list[NDArray[np.uint8]]) -> None:
    """They need not reach a class score: where they are infinite there may be no proposal."""
    module = copy.deepcopy(demo.module)
    with torch.no_grad():
        module.get_submodule("backbone.fpn.layer_blocks.0.0").bias += LARGE  # type: ignore[operator]  # a convolution
    predictor = Predictor(LoadedModel(demo.spec, module), device="cpu", precision="float16")
    predictor.predict(images[:2])
    assert predictor.redone == 2


def test_the_precisions_as_they_are_need_no_second_try(
    demo: LoadedModel, images: list[NDArray[np.uint8]]
) -> None:
    for precision in ("bfloat16", "float16"):
        predictor = Predictor(demo, device="cpu", precision=precision)
        assert all(isinstance(result, Detections) for result in predictor.predict(images))
        assert predictor.redone == 0


def poison_features(predictor: Predictor, value: float) -> None:
    backbone = predictor._engine.detector.backbone

    def poisoned(images_NCHW: Tensor) -> dict[str, Tensor]:
        features = backbone(images_NCHW)
        for level in features.values():
            level[1 % len(level), :, ::2] = value
        return features

    predictor._engine.detector.backbone = poisoned  # type: ignore[method-assign]  # the fault is put in here


def poison_rows(part: str, number: int) -> Callable[[Predictor, float], None]:
    """Spoil a part's result for the RoIs of image 1 of the batch; `which` of its results."""

    def poison(predictor: Predictor, value: float) -> None:
        parts = predictor._engine.detector
        whole = getattr(parts, part)

        def poisoned(features: Any, rois: Rois, *others: Any) -> Any:
            results = whole(features, rois, *others)
            rows = results[number] if isinstance(results, tuple) else results
            rows[rois.image == 1 % len(rois.counts)] = value
            return results

        setattr(parts, part, poisoned)

    return poison


def poison_module(name: str) -> Callable[[Predictor, float], None]:
    """Spoil the output of a layer that runs in float32 in each precision, for the second half of its rows."""

    def poison(predictor: Predictor, value: float) -> None:
        layer: nn.Module = getattr(predictor._engine.detector, name)

        def spoil(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            output[len(output) // 2 :] = value
            return output

        layer.register_forward_hook(spoil)

    return poison


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (poison_features, "feature maps"),
        (poison_rows("classify", 0), "class scores or boxes"),
        (poison_rows("classify", 1), "class scores or boxes"),
        (poison_module("_keypoint_predictor"), "keypoints"),
    ],
    ids=["features", "scores", "boxes", "keypoints"],
)
def test_an_image_that_is_not_finite_fails_alone(
    demo: LoadedModel,
    images: list[NDArray[np.uint8]],
    poison: Callable[[Predictor, float], None],
    reason: str,
    value: float,
) -> None:
    images = images[1:]
    expected = Predictor(demo, device="cpu", precision="float32").predict(images)
    predictor = Predictor(demo, device="cpu", precision="float32")
    poison(predictor, value)
    good, bad = predictor.predict(images)
    assert isinstance(bad, PredictFailure)
    assert f"the network's {reason} have values that are not finite" in bad.reason
    assert isinstance(good, Detections)
    assert isinstance(expected[0], Detections)
    np.testing.assert_array_equal(good.boxes, expected[0].boxes)
    np.testing.assert_array_equal(good.masks, expected[0].masks)
    np.testing.assert_array_equal(good.keypoints, expected[0].keypoints)


@pytest.mark.parametrize("precision", ["exact", "float32", "bfloat16"])
@pytest.mark.parametrize(
    "layer", ["rpn.head.cls_logits", "roi_heads.box_predictor.cls_score", "roi_heads.mask_predictor.mask_fcn_logits",
              "roi_heads.keypoint_predictor.kps_score_lowres"],
)  # fmt: skip
def test_a_network_that_overflows_in_float32_fails_every_image(
    demo: LoadedModel, images: list[NDArray[np.uint8]], precision: str, layer: str
) -> None:
    module = copy.deepcopy(demo.module)
    with torch.no_grad():
        module.get_submodule(layer).bias.fill_(torch.inf)  # type: ignore[operator, union-attr]  # has one
    predictor = Predictor(LoadedModel(demo.spec, module), device="cpu", precision=precision)
    for failure in predictor.predict(images[1:]):
        assert isinstance(failure, PredictFailure)
        assert "not finite" in failure.reason
        assert ("in float32 too" in failure.reason) == (precision == "bfloat16")


@pytest.mark.parametrize(
    "layer", ["backbone.stages.0.0.conv1", "roi_heads.box_head.fc6", "roi_heads.mask_head.0.0"]
)
@pytest.mark.parametrize("precision", ["exact", "float32", "bfloat16"])
def test_weights_that_are_finite_and_far_too_large(
    demo: LoadedModel, images: list[NDArray[np.uint8]], precision: str, layer: str
) -> None:
    """A ReLU in one pass with its convolution makes 0 of NaN: such a network has no such passes."""
    module = copy.deepcopy(demo.module)
    with torch.no_grad():
        module.get_submodule(layer).weight.mul_(1e38)  # type: ignore[operator, union-attr]  # has one
    results = Predictor(LoadedModel(demo.spec, module), device="cpu", precision=precision).predict(images)
    assert all(isinstance(result, PredictFailure) and "not finite" in result.reason for result in results)
