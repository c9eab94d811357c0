"""Scenes as image files, and their truth as one COCO file."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from masklake.model.coco import KEYPOINT_NAMES, SKELETON
from masklake.model.scenes.objects import CLASSES
from masklake.model.scenes.scene import DEFAULT_SIZES, PERSON, Scene, scene
from PIL import Image
from pycocotools import mask as coco_mask

_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def write(
    directory: str | Path,
    n: int,
    seed: int,
    *,
    sizes: Sequence[tuple[int, int]] = DEFAULT_SIZES,
    formats: Sequence[str] = ("jpg",),
) -> Path:
    """Write scenes 0 … n - 1 of a stream as image files with one COCO file of their truth.

    Sizes (H, W) and formats ("jpg", "png", "webp") take turns. Files are named `scene-000000.jpg`, …; the
    truth is `annotations.json`, whose path is returned: instances with compressed RLE and person keypoints.
    Raises ValueError for an unknown format.
    """
    unknown = sorted(set(formats) - set(_FORMATS))
    if unknown or not formats:
        raise ValueError(f"scene formats {unknown or 'none'}: choose from {sorted(_FORMATS)}")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    scenes, names = [], []
    for index in range(n):
        drawn_scene = scene(seed, index, sizes[index % len(sizes)])
        suffix = formats[index % len(formats)]
        names.append(f"scene-{index:06d}.{suffix}")
        Image.fromarray(drawn_scene.image).save(folder / names[-1], _FORMATS[suffix], quality=92)
        scenes.append(_records(drawn_scene, index))
    path = folder / "annotations.json"
    path.write_text(json.dumps(_coco_file(scenes, names)))
    return path


def coco(scenes: Sequence[Scene]) -> dict:
    """The truth of scenes as a COCO dataset (a dict ready for JSON); image ids count from 0."""
    return _coco_file(
        [_records(drawn_scene, index) for index, drawn_scene in enumerate(scenes)],
        [f"scene-{index:06d}.png" for index in range(len(scenes))],
    )


def categories() -> list[dict]:
    """COCO category records; the person's has the keypoints and the skeleton, 1-based as COCO has it."""
    records: list[dict] = [
        {"id": number, "name": name, "supercategory": "scene"} for number, name in enumerate(CLASSES, start=1)
    ]
    records[PERSON - 1]["keypoints"] = list(KEYPOINT_NAMES)
    records[PERSON - 1]["skeleton"] = [[a + 1, b + 1] for a, b in SKELETON]
    return records


def _records(drawn_scene: Scene, image_id: int) -> tuple[tuple[int, int], list[dict]]:
    annotations = []
    for instance in drawn_scene.instances:
        rle = coco_mask.encode(np.asfortranarray(drawn_scene.mask(instance), dtype=np.uint8))
        record = {
            "image_id": image_id,
            "category_id": instance.category_id,
            "bbox": list(instance.box),
            "area": instance.area,
            "iscrowd": 0,
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
        }
        if instance.keypoints is not None:
            record["keypoints"] = instance.keypoints.ravel().tolist()
            record["num_keypoints"] = int(np.count_nonzero(instance.keypoints[:, 2]))
        annotations.append(record)
    return drawn_scene.segments.shape, annotations


def _coco_file(scenes: Sequence[tuple[tuple[int, int], list[dict]]], names: Sequence[str]) -> dict:
    images = [
        {"id": index, "file_name": name, "height": size[0], "width": size[1]}
        for index, (name, (size, _)) in enumerate(zip(names, scenes, strict=True))
    ]
    annotations = [record for _, records in scenes for record in records]
    for number, record in enumerate(annotations, start=1):
        record["id"] = number
    return {"images": images, "annotations": annotations, "categories": categories()}
