"""From a start in the lake to the network that a worker trains."""

from pathlib import Path

import torch
from masklake.jobs.models.resolve import ModelSource
from masklake.jobs.train.start import NetworkFactory, keep
from masklake.model.checkpoint import LoadedModel
from masklake.model.networks.build import build
from masklake.model.train.start import from_model
from masklake.pipeline.storage.store import Storage
from torchvision.models.detection import FasterRCNN

from tests.model.networks.test_composed import SPEC


def test_of_two_networks_a_worker_trains_the_detector(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = from_model(LoadedModel(SPEC, build(SPEC)), SPEC, masks=True, keypoints=False)
    folder = (tmp_path / "start").as_uri()
    keep(start, folder, Storage())
    source = ModelSource(name=folder, storage=Storage())
    network = NetworkFactory(source=source, frozen=start.frozen)()
    assert isinstance(network, FasterRCNN)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert "roi_heads.box_predictor.cls_score.weight" in trained
    assert not any(name.startswith(start.frozen) for name in trained)
    expected = start.module.detector.state_dict()  # type: ignore[union-attr, operator]  # a composed one
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
