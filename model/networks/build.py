"""The network that a model's spec describes, whatever its family."""

from masklake.model.networks.composed import ComposedRCNN
from masklake.model.networks.config import Composed, parse
from masklake.model.networks.rcnn import build_network
from masklake.model.spec import ModelSpec
from torch import nn


def build(spec: ModelSpec) -> nn.Module:
    """The network of `spec` with fresh weights, in training mode; no weights are downloaded.

    Returns torchvision's `FasterRCNN` with the heads of the family attached to its RoIHeads: in training mode
    `module(images, targets)` gives torchvision's losses (`loss_mask` and `loss_keypoint` included), in
    evaluation mode torchvision's results. The composed family gives `model.networks.composed.ComposedRCNN`.
    Under `torch.device("meta")` no weights are made. Raises ModelError where it cannot be built.
    """
    network = parse(spec.architecture)
    if isinstance(network, Composed):
        return ComposedRCNN(network, spec)
    return build_network(network, spec)
