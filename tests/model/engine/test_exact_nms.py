"""Exact is exact where things crowd: what is left after NMS, against torchvision's own on thousands of random images.

torchvision moves the boxes of each class apart, by its number, before one NMS over all of them, or, above a number of boxes
that depends on the device, does one NMS a class. Both round, each in its own way.
"""

from typing import Any

import pytest
import torch
from masklake.model.checkpoint import LoadedModel
from masklake.model.engine.inference import Engine
from masklake.model.engine.rois import Rois
from masklake.model.networks.build import build
from masklake.model.predictor import Predictor
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from tests.helpers import reference as ref

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SIZE = (427, 640)
AT_ONCE = 50


class Fixed:
    """In place of an engine's learned parts."""

    def __init__(self, proposals: list[Tensor], logits_RC: Tensor, deltas_RC4: Tensor) -> None:
        self.proposed = Rois.of_images(proposals), torch.ones(len(proposals), dtype=torch.bool)
        self.classified = logits_RC, deltas_RC4

    def propose(self, *_: Any) -> tuple[Rois, Tensor]:
        return self.proposed

    def classify(self, *_: Any) -> tuple[Tensor, Tensor]:
        return self.classified


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return LoadedModel(ref.SPECS[ref.mask_v1], build(ref.SPECS[ref.mask_v1]).eval())


def engine(model: LoadedModel, device: str, **options: Any) -> Engine:
    return Predictor(model, device=device, precision="exact", **options)._engine


def crowd(seed: int, device: str) -> tuple[list[Tensor], Tensor, Tensor]:
    """Proposals of some images, around a few places each; class logits and box deltas of all of them."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    proposals = []
    for i in range(AT_ONCE):
        count = 20 + 60 * (i % 5)
        # Sides and distances are multiples of one length, no binary fraction: many pairs have an IoU of just a half.
        step = float(5 + 20 * random(1))
        first = step * torch.randint(0, 12, (count, 2), generator=generator) + random(1, 2)
        boxes = torch.cat([first, first + step * torch.randint(1, 5, (count, 2), generator=generator)], 1)
        proposals.append(boxes.to(device))
    rows = sum(map(len, proposals))
    # about five classes an RoI score above the threshold
    logits_RC = 2.5 * torch.randn(rows, 91, generator=generator)
    deltas_RC4 = torch.zeros(rows, 91 * 4)
    return proposals, logits_RC.to(device), deltas_RC4.to(device)


def theirs(
    heads: FasterRCNN, named: list[int], most: int, outputs: tuple[list[Tensor], Tensor, Tensor]
) -> list[tuple[Tensor, ...]]:
    """torchvision's results, all of them; then those of the `named` classes, cut to the best."""
    proposals, logits_RC, deltas_RC4 = outputs
    heads.score_thresh, heads.detections_per_img = 0.05, 100_000
    results = heads.postprocess_detections(logits_RC, deltas_RC4, proposals, [SIZE] * len(proposals))
    kept = []
    for boxes, scores, labels in zip(*results, strict=True):
        some = torch.isin(labels, torch.tensor(named, device=labels.device))
        kept.append((boxes[some][:most], scores[some][:most], labels[some][:most]))
    return kept


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("classes", "batches"),
    [
        (None, 20),
        pytest.param(None, 80, marks=pytest.mark.slow),
        (("person",), 4),
        (("toothbrush", "dog", "zebra"), 4),
    ],
)
def test_crowds_are_torchvisions_to_the_last_box(
    model: LoadedModel, device: str, classes: tuple[str, ...] | None, batches: int
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    ours = engine(model, device, classes=classes)
    named = [c.id for c in model.spec.classes if classes is None or c.name in classes]
    heads: Any = model.module.roi_heads
    by_shift = by_class = 0
    for seed in range(batches):
        outputs = crowd(seed, device)
        ours.detector = Fixed(*outputs)  # type: ignore[assignment]  # as if the network had said it
        batch = ImageList(torch.zeros(0), [SIZE] * AT_ONCE)
        finite: dict[str, Tensor] = {}
        detected = ours._detect({}, batch, finite, ours.surely)
        assert finite["class scores or boxes"].all()
        expected = theirs(heads, named, 100, outputs)
        assert detected.rois.counts == [len(boxes) for boxes, _, _ in expected]
        boxes, scores, labels = (torch.cat(part) for part in zip(*expected, strict=True))
        assert torch.equal(ours.labels_K[detected.kinds], labels)
        assert torch.equal(detected.rois.boxes, boxes)
        assert torch.equal(detected.scores, scores)
        logits_RC = outputs[1].softmax(1)
        for above in (logits_RC[:, 1:] > 0.05).sum(1).split([len(p) for p in outputs[0]]):
            by_class += 4 * int(above.sum()) > 4000
            by_shift += 4 * int(above.sum()) <= 4000
    assert by_shift > 5 * batches
    assert by_class > 5 * batches
