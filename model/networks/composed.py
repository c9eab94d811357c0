"""Two networks that act as one: a detector, and another network that places keypoints in the detector's boxes."""

from dataclasses import replace

from masklake.model.networks.config import Composed
from masklake.model.networks.rcnn import build_network
from masklake.model.spec import ModelSpec
from torch import nn

UNUSED = ("rpn.", "roi_heads.box_head.", "roi_heads.box_predictor.")
"""Key prefixes of a keypoint R-CNN's weights that place no keypoints; they are not used, since the boxes are the detector's."""


class ComposedRCNN(nn.Module):
    """A detector, and a keypoint R-CNN without its own proposals and box head.

    detector: torchvision's FasterRCNN, with a mask head where the architecture has one.
    joints: the network that places keypoints: torchvision's FasterRCNN without `rpn` and box parts. Its backbone and
        keypoint head remain, under torchvision's keys: published weights load once the keys in `UNUSED` are left out.
    The two names are the beginnings of state-dict keys. `model.predictor` runs the parts; this module is for inference
    only and has no forward of its own.
    """

    def __init__(self, network: Composed, spec: ModelSpec) -> None:
        super().__init__()
        self.detector = build_network(network.detector, spec)
        people = tuple(c for c in spec.classes if c.keypoints)
        keypoint_network = build_network(network.joints, replace(spec, classes=people or spec.classes))
        keypoint_network.rpn = None
        keypoint_network.roi_heads.box_roi_pool = None
        keypoint_network.roi_heads.box_head = None
        keypoint_network.roi_heads.box_predictor = None
        self.joints = keypoint_network
