"""The losses are torchvision's: the same RoIs give the same numbers and gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from masklake.model.coco import KEYPOINT_NAMES
from masklake.model.networks.build import build
from masklake.model.networks.config import TINY, Network
from masklake.model.spec import ClassInfo, ModelSpec, Preprocessing
from masklake.model.train import losses as ours
from masklake.model.train.augment import Augment, ImageLabels
from masklake.model.train.examples import Example, pack, unpack
from masklake.model.train.losses import Losses
from masklake.model.train.recipe import Recipe
from masklake.pipeline.labels.masks import from_pixels
from torchvision.models.detection.roi_heads import keypointrcnn_loss, maskrcnn_loss, project_masks_on_boxes

SPEC = ModelSpec(
    name="t",
    architecture=Network(family="joint", **TINY).to_dict(),
    classes=(ClassInfo(1, "person", True), ClassInfo(2, "square")),
    keypoint_names=KEYPOINT_NAMES,
    preprocessing=Preprocessing(min_size=128, max_size=256),
)
RECIPE = Recipe(flip=0, jitter=(1, 1), colour=0, precision="float32", rois=64)


def _truth(rng: np.random.Generator, n: int = 4, *, keypoints: bool = True) -> ImageLabels:
    low = rng.uniform(0, 80, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(16, 44, (n, 2))], 1).astype(np.float32)
    masks = []
    for x1, y1, x2, y2 in boxes.astype(int):
        pixels = np.zeros((128, 160), np.uint8)
        pixels[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) > 0.3
        masks.append(from_pixels(pixels).as_coco())
    points = rng.uniform(boxes[:, None, :2], boxes[:, None, 2:], (n, 17, 2))
    seen = rng.integers(0, 3, (n, 17, 1)) * (np.arange(n) % 2 == 0)[:, None, None] * keypoints
    return ImageLabels(
        width=160,
        height=128,
        boxes=boxes,
        outputs=[1 + i % 2 for i in range(n)],
        masks=masks,
        keypoints=np.concatenate([points * (seen > 0), seen], 2).astype(np.float32),
        crowds=np.zeros((0, 4), np.float32),
    )


def _examples(n: int = 2, *, keypoints: bool = True) -> list[Example]:
    rng = np.random.default_rng(0)
    augment = Augment(RECIPE, SPEC.preprocessing, SPEC.mirror)
    image = rng.integers(0, 255, (128, 160, 3)).astype(np.uint8)
    return [augment(image, _truth(rng, keypoints=keypoints), seed) for seed in range(n)]


def _whole_masks(example: Example) -> torch.Tensor:
    masks = torch.zeros(len(example.boxes), *example.image.shape[1:], dtype=torch.uint8)
    for mask, crop, (x, y) in zip(masks, example.crops, example.corners.tolist(), strict=True):
        mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return masks


def _as_targets(examples: list[Example]) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "boxes": e.boxes,
            "labels": e.outputs,
            "masks": _whole_masks(e),
            "keypoints": e.keypoints,
        }
        for e in examples
    ]


def test_bytes_carry_examples_unchanged() -> None:
    before = _examples()
    for a, b in zip(before, unpack(pack(before)), strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.keypoints, b.keypoints)
        assert torch.equal(_whole_masks(a), _whole_masks(b))


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(SPEC)


def _rois(examples: list[Example]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    torch.manual_seed(1)
    rois, matches = [], []
    for e in examples:
        boxes = e.boxes.repeat(3, 1)
        rois.append(boxes + torch.rand_like(boxes) * 4)
        matches.append(torch.arange(len(e.boxes)).repeat(3))
    return rois, matches


def test_mask_loss_is_torchvisions() -> None:
    network, examples = _network(), _examples()
    rois, matches = _rois(examples)
    features = {"0": torch.randn(2, 64, 16, 20, requires_grad=True)}
    loss = Losses(network, RECIPE)._mask_loss(features, rois, matches, examples)
    heads = network.roi_heads
    logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, rois, [(128, 160)] * 2)))
    targets = _as_targets(examples)
    expected = maskrcnn_loss(
        logits, rois, [t["masks"] for t in targets], [t["labels"] for t in targets], matches
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(value, features["0"])[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_mask_targets_are_torchvisions_up_to_the_edges() -> None:
    """RoIs anywhere inside the image, masks that reach its edges and that do not."""
    generator = torch.Generator().manual_seed(2)
    height, width = 37, 53
    corners = torch.tensor([[0, 0], [33, 17], [33, 5], [8, 17], [10, 9]])
    crops = [torch.randint(0, 2, (20, 20), generator=generator, dtype=torch.uint8) for _ in corners]
    none = torch.zeros(0)
    example = Example(
        image=torch.zeros(3, height, width, dtype=torch.uint8), boxes=torch.zeros(5, 4), outputs=none, crops=crops,
        corners=corners, keypoints=none, crowds=none,
    )  # fmt: skip
    limit = torch.tensor([width, height] * 2)
    low, high = torch.rand(2, 400, 2, generator=generator).sort(0).values
    rois = torch.cat([low, high], 1) * limit
    rois[::4, 2], rois[1::4, 3] = width, height
    matched = torch.arange(400) % len(crops)
    targets = ours._projected(rois, matched, example, 28)
    expected = project_masks_on_boxes(_whole_masks(example), rois, matched, 28)
    torch.testing.assert_close(targets, expected, rtol=0, atol=1e-5)


def test_keypoint_loss_is_torchvisions_on_fewer_rois() -> None:
    network, examples = _network(), _examples()
    rois, matches = _rois(examples)
    features = {"0": torch.randn(2, 64, 16, 20, requires_grad=True)}
    loss = Losses(network, RECIPE)._keypoint_loss(features, rois, matches, examples)
    heads = network.roi_heads
    pooled = heads.keypoint_roi_pool(features, rois, [(128, 160)] * 2)
    logits = heads.keypoint_predictor(heads.keypoint_head(pooled))
    expected = keypointrcnn_loss(logits, rois, [e.keypoints for e in examples], matches)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(value, features["0"])[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_box_losses_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything sampled, nothing is left to chance."""
    network, examples = _network(), _examples()
    network.rpn._pre_nms_top_n = {"training": 1000, "testing": 1000}
    network.rpn._post_nms_top_n = {"training": 500, "testing": 500}
    for sampler in (network.rpn.fg_bg_sampler, network.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image, sampler.positive_fraction = 10**6, 0.5
    everything = replace(RECIPE, proposals=500, rois=10**6, anchors=10**6, positives=0.5)
    module = Losses(network, everything)
    network.train()
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eval()
    mine = module(examples)
    network.transform.min_size = (128,)
    theirs = network([e.image / 255 for e in examples], _as_targets(examples))
    for name in ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"):
        assert mine[name].item() == pytest.approx(theirs[name].item(), rel=1e-3), name


def test_an_image_without_keypoints_has_no_keypoint_loss() -> None:
    module = Losses(_network(), RECIPE)
    loss = module(_examples(keypoints=False))["loss_keypoint"]
    assert loss.item() == 0
    loss.backward()  # and yet every parameter of the head has a gradient
    assert all(p.grad is not None for p in module.network.roi_heads.keypoint_head.parameters())


def test_nothing_labelled_can_be_learnt_from() -> None:
    empty = ImageLabels(
        width=160,
        height=128,
        boxes=np.zeros((0, 4), np.float32),
        outputs=[],
        masks=[],
        keypoints=np.zeros((0, 17, 3), np.float32),
        crowds=np.zeros((0, 4), np.float32),
    )
    augment = Augment(RECIPE, SPEC.preprocessing, SPEC.mirror)
    example = augment(np.zeros((128, 160, 3), np.uint8), empty, 0)
    losses = Losses(_network(), RECIPE)([example])
    assert all(torch.isfinite(v) for v in losses.values())
    assert losses["loss_objectness"] > 0


def test_what_lies_in_a_crowd_is_no_background() -> None:
    matcher = _network().roi_heads.proposal_matcher
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    crowd = torch.tensor([[45.0, 45, 80, 80]])
    _, kinds = ours._matched(matcher, torch.zeros(0, 4), boxes, crowd)
    assert kinds.tolist() == [0, -1]


def test_images_that_crowds_cover_give_finite_losses() -> None:
    [example, _] = _examples()
    covered = replace(
        example, boxes=torch.zeros(0, 4), outputs=torch.zeros(0, dtype=torch.int64), crops=(), corners=torch.zeros(0, 2, dtype=torch.int64),
        keypoints=example.keypoints[:0], crowds=torch.tensor([[-50.0, -50, 500, 500]]),
    )  # fmt: skip
    network = _network()
    losses = Losses(network, RECIPE)([covered])
    assert all(bool(torch.isfinite(value)) for value in losses.values()), losses
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad for p in network.parameters() if p.requires_grad]
    assert all(g is None or bool(torch.isfinite(g).all()) for g in gradients)


def test_background_says_nothing_of_classes_that_the_image_was_not_searched_for() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    outputs = [torch.tensor([0, 2]), torch.tensor([0, 1])]
    kept = ours._without(logits, outputs, [torch.tensor([2]), torch.tensor([], dtype=torch.int64)])
    torch.nn.functional.cross_entropy(kept, torch.cat(outputs)).backward()
    assert (logits.grad == 0).tolist() == [[False, False, True], [False] * 3, [False] * 3, [False] * 3]
    assert ours._without(logits, outputs, [torch.zeros(0, dtype=torch.int64)] * 2) is logits
