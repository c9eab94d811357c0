"""Two networks that act as one: a detector, and another network's joints in the detector's boxes."""

from dataclasses import replace

from masklake.model.networks.config import Composed
from masklake.model.networks.rcnn import build_network
from masklake.model.spec import ModelSpec
from torch import nn

UNUSED = ("rpn.", "roi_heads.box_head.", "roi_heads.box_predictor.")
"""Key prefixes of a keypoint R-CNN's weights that place no joints: the detector's boxes take their part."""


class ComposedRCNN(nn.Module):
    """A detector, and a keypoint R-CNN without its own proposals and box head.

    detector: torchvision's FasterRCNN, with a mask head where the architecture has one.
    joints: torchvision's FasterRCNN without `rpn` and box parts; its backbone and keypoint head remain, under
        torchvision's keys, so that published weights load less the keys in `UNUSED`.
    `model.predictor` runs the parts; the whole is for inference and has no forward of its own.
    """

    def __init__(self, network: Composed, spec: ModelSpec) -> None:
        super().__init__()
        self.detector = build_network(network.detector, spec)
        people = tuple(c for c in spec.classes if c.keypoints)
        joints = build_network(network.joints, replace(spec, classes=people or spec.classes))
        joints.rpn = None
        joints.roi_heads.box_roi_pool = None
        joints.roi_heads.box_head = None
        joints.roi_heads.box_predictor = None
        self.joints = joints
