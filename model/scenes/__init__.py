"""Synthetic scenes with exact truth: what the demo model learns from, and what tests and benchmarks look at.

In comes a seed; out come pictures, masks, keypoints and COCO files. Nothing here knows a network.
"""

from masklake.model.scenes.files import categories, coco, write
from masklake.model.scenes.objects import CLASSES
from masklake.model.scenes.scene import DEFAULT_SIZES, PERSON, Scene, SceneInstance, scene

__all__ = [
    "CLASSES",
    "DEFAULT_SIZES",
    "PERSON",
    "Scene",
    "SceneInstance",
    "categories",
    "coco",
    "scene",
    "write",
]
