import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from masklake.model import scenes
from masklake.model.coco import FLIP_PAIRS, KEYPOINT_NAMES, SKELETON
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

SEED = 5


@pytest.fixture(scope="module")
def some():
    return [scenes.scene(SEED, i, scenes.DEFAULT_SIZES[i % 3]) for i in range(60)]


def test_a_scene_is_the_same_on_every_machine():
    scene = scenes.scene(11, 3, (240, 320))
    digest = hashlib.sha256(scene.image.tobytes() + scene.segments.tobytes()).hexdigest()
    assert digest == "f5b7c25cf25f43a1ff0391ab8d88f3000d23d63b97e6babe0345730657fbcf21"
    person, square = scene.instances
    assert (person.category_id, person.box, person.area) == (1, (186, 43, 81, 92), 2016)
    assert (square.category_id, square.box, square.area) == (3, (110, 33, 29, 29), 421)
    assert person.keypoints is not None
    assert person.keypoints[0].tolist() == [235, 53, 2]


def test_scenes_do_not_depend_on_what_was_made_before():
    first = scenes.scene(1, 2)
    scenes.scene(1, 3)
    again = scenes.scene(1, 2)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.segments, again.segments)


def test_seed_index_and_size_each_change_the_picture():
    base = scenes.scene(1, 2, (240, 320)).image
    assert not np.array_equal(base, scenes.scene(2, 2, (240, 320)).image)
    assert not np.array_equal(base, scenes.scene(1, 3, (240, 320)).image)
    assert scenes.scene(1, 2, (100, 130)).image.shape == (100, 130, 3)


def test_boxes_and_areas_are_those_of_the_visible_pixels(some):
    for scene in some:
        for instance in scene.instances:
            mask = scene.mask(instance)
            rows, columns = np.nonzero(mask)
            x, y, w, h = instance.box
            assert (x, y) == (columns.min(), rows.min())
            assert (x + w - 1, y + h - 1) == (columns.max(), rows.max())
            assert instance.area == mask.sum()


def test_every_class_and_every_visibility_occurs(some):
    instances = [i for scene in some for i in scene.instances]
    assert {i.category_id for i in instances} == set(range(1, len(scenes.CLASSES) + 1))
    seen = np.concatenate([i.keypoints[:, 2] for i in instances if i.keypoints is not None])
    assert set(seen.tolist()) == {0, 1, 2}
    assert (seen == 2).mean() > 0.7


def test_only_persons_have_keypoints(some):
    for scene in some:
        for instance in scene.instances:
            assert (instance.keypoints is not None) == (instance.category_id == scenes.PERSON)


def test_keypoints_lie_where_their_visibility_says(some):
    inside = hidden_by_others = 0
    for scene in some:
        height, width = scene.segments.shape
        for instance in scene.instances:
            for x, y, visibility in () if instance.keypoints is None else instance.keypoints.tolist():
                if visibility == 0:
                    assert (x, y) == (0, 0)
                    continue
                assert 0 <= x < width and 0 <= y < height
                if visibility == 2:
                    assert scene.segments[y, x] == instance.segment
                    inside += 1
                elif scene.segments[y, x] != instance.segment:
                    # Hidden: by something that was drawn later, or else it would be on top itself.
                    assert scene.segments[y, x] > instance.segment
                    hidden_by_others += 1
    assert inside > 500
    assert hidden_by_others > 10


def test_left_is_on_the_right_of_a_figure_that_faces_the_viewer(some):
    shoulders = [KEYPOINT_NAMES.index(f"{side}_shoulder") for side in ("left", "right")]
    for scene in some:
        for instance in scene.instances:
            if instance.keypoints is not None and all(instance.keypoints[shoulders, 2]):
                left, right = instance.keypoints[shoulders, 0]
                assert left > right


def test_keypoint_tables_agree():
    names = set(KEYPOINT_NAMES)
    assert len(names) == 17
    for a, b in FLIP_PAIRS:
        assert KEYPOINT_NAMES[a].replace("left", "right") == KEYPOINT_NAMES[b]
    assert {i for pair in SKELETON for i in pair} == set(range(17))


def test_refuses_impossible_requests(tmp_path):
    with pytest.raises(ValueError, match="at least 64"):
        scenes.scene(0, 0, (20, 300))
    with pytest.raises(ValueError, match="negative"):
        scenes.scene(0, -1)
    with pytest.raises(ValueError, match="tiff"):
        scenes.write(tmp_path, 1, 0, formats=("tiff",))


def test_written_files_load_in_pycocotools(tmp_path, capsys):
    sizes, formats = ((120, 160), (100, 90)), ("jpg", "png", "webp")
    path = scenes.write(tmp_path, 7, SEED, sizes=sizes, formats=formats)
    dataset = COCO(path)
    capsys.readouterr()
    assert sorted(dataset.getImgIds()) == list(range(7))
    assert [c["name"] for c in dataset.loadCats(dataset.getCatIds())] == list(scenes.CLASSES)
    person = dataset.loadCats(1)[0]
    assert person["keypoints"] == list(KEYPOINT_NAMES)
    assert person["skeleton"][0] == [16, 14]
    for index, record in enumerate(dataset.loadImgs(range(7))):
        scene = scenes.scene(SEED, index, sizes[index % 2])
        with Image.open(tmp_path / record["file_name"]) as image:
            assert image.format == ("JPEG", "PNG", "WEBP")[index % 3]
            assert image.size == (record["width"], record["height"]) == sizes[index % 2][::-1]
            if image.format == "PNG":
                assert np.array_equal(np.asarray(image), scene.image)
        annotations = dataset.loadAnns(dataset.getAnnIds(index))
        assert len(annotations) == len(scene.instances)
        for annotation, instance in zip(annotations, scene.instances, strict=True):
            assert np.array_equal(dataset.annToMask(annotation), scene.mask(instance))
            assert coco_mask.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]
            if instance.keypoints is not None:
                assert annotation["keypoints"] == instance.keypoints.ravel().tolist()
                assert annotation["num_keypoints"] == (instance.keypoints[:, 2] > 0).sum()


def test_writing_twice_gives_the_same_truth(tmp_path):
    texts = [scenes.write(tmp_path / name, 2, SEED).read_text() for name in ("a", "b")]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["annotations"]


def test_needs_no_torch():
    code = "import sys, masklake.model.scenes, masklake.model.coco, masklake.model.eval.coco_ap; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
