"""COCO and CVAT files into labels, what is refused, and the way back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.formats.coco_writer import common_folder, to_coco
from masklake.pipeline.labels.importing import read
from masklake.pipeline.labels.sets import Joint, LabelFile, LabelSet
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.helpers.label_sets import JOINTS, an_instance, label_set, label_sets, rectangle

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def annotation(id_: Any, **given: Any) -> dict[str, Any]:
    base = {
        "id": id_,
        "image_id": 7,
        "category_id": 18,
        "segmentation": [SQUARE],
        "bbox": [10, 10, 20, 20],
        "iscrowd": 0,
    }
    return {name: value for name, value in (base | given).items() if value is not ...}


def coco(*annotations: Any, **given: Any) -> dict[str, Any]:
    base = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}],
        "categories": [
            {"id": 1, "name": "person", "keypoints": list(JOINTS), "skeleton": []},
            {"id": 18, "name": "dog"},
        ],
        "annotations": list(annotations),
    }
    return base | given


def parsed(*contents: Any, format_: str | None = None) -> LabelFile:
    files = [(f"{i}.json", json.dumps(content).encode()) for i, content in enumerate(contents)]
    return read(files, format_)[1]


def returned(sets: list[LabelSet], content: Any) -> list[LabelSet]:
    """The label sets that a file of Masklake's own export holds."""
    found = parsed(content).images
    return [
        LabelSet(
            uri=image.uri or "",
            width=image.width if image.size_known else None,
            height=image.height if image.size_known else None,
            instances=tuple(image.instances),
            source=image.source or "",
            split=image.split or "",
        )
        for image in found
    ]


def test_every_kind_of_segmentation_is_the_same_mask() -> None:
    rle = coco_mask.merge(coco_mask.frPyObjects([SQUARE], 48, 64))
    flat = coco_mask.decode(rle).ravel(order="F").tolist()
    counts = [0]
    for before, pixel in zip([0, *flat], flat, strict=False):
        counts += [0] if pixel != before else []
        counts[-1] += 1
    kinds = [
        [SQUARE],
        {"size": [48, 64], "counts": rle["counts"].decode()},
        {"size": [48, 64], "counts": counts},
    ]
    [image] = parsed(coco(*(annotation(i, segmentation=kind) for i, kind in enumerate(kinds)))).images
    assert {instance.mask for instance in image.instances} == {rectangle(10, 10, 20, 20)}


def test_boxes_are_the_files_own_or_those_around_what_is_drawn() -> None:
    joints = [12, 14.5, 2, 0, 0, 0, 20, 30, 1]
    [image] = parsed(coco(
        annotation(1, bbox=[9.25, 9.5, 21, 21.125]),
        annotation(2, bbox=...),
        annotation(3, bbox=..., segmentation=[], category_id=1, keypoints=joints),
        annotation(4, segmentation=...),
    )).images  # fmt: skip
    assert [instance.box for instance in image.instances] == [
        (9.25, 9.5, 21, 21.125), (10, 10, 20, 20), (12, 14.5, 8, 15.5), (10, 10, 20, 20),
    ]  # fmt: skip
    assert [instance.area for instance in image.instances] == [400, 400, 124, 400]
    assert image.instances[2].joints == (
        Joint("nose", 12, 14.5, 2),
        Joint("left_eye", 0, 0, 0),
        Joint("right_eye", 20, 30, 1),
    )


def test_unlabelled_joints_are_none_and_lie_nowhere() -> None:
    [image] = parsed(coco(
        annotation(1, category_id=1, keypoints=[5, 5, 0] * 3), annotation(2, category_id=1, keypoints=[5, 5, 0, 6, 6, 2, 0, 0, 0]),
        annotation(3, keypoints=[0, 0, 0]),
    )).images  # fmt: skip
    assert [[(j.x, j.visibility) for j in instance.joints] for instance in image.instances] == [
        [],
        [(0, 0), (6, 2), (0, 0)],
        [],
    ]


def test_crowds_and_images_without_annotations() -> None:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in (7, 8)]
    first, second = parsed(
        coco(annotation(1, iscrowd=1), annotation("x", iscrowd=False), images=images)
    ).images
    assert [instance.iscrowd for instance in first.instances] == [True, False]
    assert (second.name, second.instances) == ("8.jpg", [])


def test_masks_and_joints_of_two_files_become_one_instance() -> None:
    joints = [12, 14, 2, 0, 0, 0, 20, 30, 1]
    masks = coco(
        annotation(1, category_id=1), annotation(2), annotation(5, category_id=1, bbox=[40, 20, 10, 10])
    )
    people = coco(
        annotation(1, category_id=1, keypoints=joints),  # the same id
        annotation(
            9, category_id=1, keypoints=joints, bbox=[41, 20, 10, 11], segmentation=[]
        ),  # the same place
        annotation(2, category_id=1, keypoints=joints, bbox=[0, 0, 4, 4]),  # another object by an id in use
    )
    found = parsed(masks, people)
    assert [(i.label, i.mask is not None, bool(i.joints)) for i in found.images[0].instances] == [
        ("person", True, True), ("dog", True, False), ("person", True, True), ("person", True, True),
    ]  # fmt: skip
    assert found.notes == {"annotations of other ids joined by their boxes": 1}
    assert len(parsed(coco(annotation(1), annotation(2))).images[0].instances) == 2  # never within one file


def test_cvat_is_known_by_its_attributes() -> None:
    rle = {"size": [48, 64], "counts": [48 * 64 - 10, 10]}
    told = {"occluded": False, "rotation": 0.0}
    content = coco(
        annotation(1, segmentation=rle, iscrowd=1, attributes=told),
        annotation(
            2, segmentation=[], attributes=told | {"rotation": 90.0, "colour": "red"}, bbox=[10, 10, 20, 10]
        ),
    )
    found = parsed(content)
    [image] = found.images
    assert [instance.iscrowd for instance in image.instances] == [False, False]
    assert image.instances[1].box == pytest.approx((15, 5, 10, 20))
    assert sorted(note.split(":")[0] for note in found.notes) == [
        "attributes not kept",
        "iscrowd not taken",
        "rotated rectangles became the upright boxes around them",
    ]
    assert parsed(content, format_="coco").images[0].instances[0].iscrowd


BAD = {
    "is empty": b" \n",
    "is not JSON": b"{",
    "is not JSON (": b"\xff\xfe",
    "nested too deeply": b"[" * 100_000,
    "is neither COCO": b'{"images": []}',
    "neither COCO (an object with images, annotations and categories) nor Label Studio": b"[1]",
}


@pytest.mark.parametrize("problem", BAD)
def test_files_that_are_no_labels_are_refused(problem: str) -> None:
    with pytest.raises(UserError) as error:
        read([("f.json", BAD[problem])])
    assert str(error.value).startswith("f.json: ")
    assert problem in str(error.value)


PERSON = {"category_id": 1}
SIZE = {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}


@pytest.mark.parametrize(("content", "problem"), [
    (coco(annotation(1, image_id=8)), "annotation 1: its image_id 8 is not among the images"),
    (coco(annotation(1, category_id=3)), "annotation 1: its category_id 3 is not among the categories"),
    (coco(annotation(1), annotation(1)), "annotation 1: its id is used twice"),
    (coco(annotation(...)), "annotation 1 of the file: id is missing or null"),
    (coco(annotation([1])), "id is a list, not a number or a text"),
    (coco(7), "annotation 1 of the file: is a number, not an object"),
    (coco(annotation(1, segmentation=[[1, 1, 2, 2, 3]])), "annotation 1: a polygon has 5 coordinates, which is not pairs of x and y (image 'a.jpg')"),
    (coco(annotation(1, segmentation=[[1, 1, 2, 2]])), "a polygon has 2 points; it needs at least 3"),
    (coco(annotation(1, segmentation=[1, 1, 2, 2, 3, 3])), "segmentation is a number, not a list of numbers"),
    (coco(annotation(1, segmentation=[[1, 1, 2, 2, 3, "3"]])), "segmentation holds a text where a number belongs"),
    (coco(annotation(1, segmentation=[[1, 1, 2, 2, 3, float("nan")]])), "segmentation holds nan, which is no position"),
    (coco(annotation(1, segmentation=[[1, 1, 2, 2, 3, 10**400]])), "which is no position in an image"),
    (coco(annotation(1, segmentation="x")), "segmentation is a text, neither polygons nor an RLE"),
    (coco(annotation(1, segmentation={"size": [64, 48], "counts": [3072]})), "the RLE's size is [64, 48], and the image is 48 high and 64 wide"),
    (coco(annotation(1, segmentation={"size": [48, 64], "counts": [3000]})), "covers 3000 pixels"),
    (coco(annotation(1, segmentation={"size": [48, 64], "counts": [3072.5]})), "counts holds something else than whole numbers"),
    (coco(annotation(1, segmentation={"counts": [3072]})), "segmentation: size is missing or null"),
    (coco(annotation(1, segmentation={"size": [48, 64], "counts": "\U0001f600"})), "not COCO's compressed text"),
    (coco(annotation(1, keypoints=[1, 1, 2] * 4, **PERSON)), "keypoints is a list of 12, not a list of 9 numbers"),
    (coco(annotation(1, keypoints=[1, 1, 3] * 3, **PERSON)), "visibility that is not 0, 1 or 2"),
    (coco(annotation(1, keypoints=[1, 1, 2])), "has keypoints, and its category 'dog' names none"),
    (coco(annotation(1, bbox=[1, 1, 2])), "bbox is a list of 3, not a list of 4 numbers"),
    (coco(annotation(1, bbox=[1, 1, -2, 2])), "bbox has a negative width or height: [1, 1, -2, 2]"),
    (coco(annotation(1, bbox=..., segmentation=[])), "has neither a bbox nor a segmentation nor keypoints"),
    (coco(annotation(1, iscrowd=2)), "iscrowd is 2, not 0 or 1"),
    (coco(images=[SIZE, SIZE]), "image 7: its id is used twice"),
    (coco(images=[SIZE, SIZE | {"id": 8}]), "image 8: has the same file_name as image 7: 'a.jpg'"),
    (coco(images=[SIZE | {"width": 0}]), "image 7: width is 0, not a whole number from 1"),
    (coco(images=[SIZE | {"width": 10**6, "height": 10**6}]), "a frame of 1000000×1000000 pixels is not possible"),
    (coco(images=[SIZE | {"file_name": ""}]), "image 7: file_name is empty, not a text"),
    (coco(images=[SIZE | {"file_name": "\ud800"}]), "holds half of a character"),
    (coco(images={}), "images is an object, not a list"),
    (coco(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]), "category 2 of the file: its id 2 or its name 'a' is used twice"),
    (coco(categories=[{"id": 2**40, "name": "a"}]), "not a whole number from 0 to 2147483647"),
    (coco(categories=[{"id": 1, "name": "a", "keypoints": ["n", "n"]}]), "keypoints is not a list of different names"),
    (coco(images=[SIZE | {"masklake": {"split": "test"}}]), "masklake: split is 'test', not one of train, val"),
])  # fmt: skip
def test_what_cannot_be_understood_is_named(content: Any, problem: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(content)
    assert problem in str(error.value)
    assert str(error.value).startswith("0.json: ")


def test_files_of_one_import_must_fit() -> None:
    other = coco(images=[SIZE | {"width": 32}])
    with pytest.raises(UserError, match=r"1\.json: image 7: 'a.jpg' is 32×48 here and 64×48 in another file"):
        parsed(coco(), other)
    with pytest.raises(
        UserError, match=r"must be of one format, but 0\.json is coco, 1\.json is label-studio"
    ):
        parsed(coco(), [])
    with pytest.raises(UserError, match=r"must be of one format \(label-studio\), but 0\.json is coco"):
        parsed(coco(), format_="label-studio")


@settings(max_examples=100, deadline=None)
@given(label_sets())
def test_what_is_exported_comes_back_equal(sets: list[LabelSet]) -> None:
    assert returned(sets, to_coco(sets)) == sets


def test_an_image_of_unknown_size_comes_back_so() -> None:
    sets = [label_set("/a", width=None, height=None)]
    assert returned(sets, to_coco(sets)) == sets


def test_an_export_is_what_pycocotools_reads(tmp_path: Any) -> None:
    sets = [
        label_set("s3://b/x/a.jpg", an_instance("person", joints=True), an_instance("dog")),
        label_set("s3://b/y.jpg"),
    ]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(to_coco(sets)))
    loaded = COCO(str(file))
    assert [image["file_name"] for image in loaded.loadImgs(loaded.getImgIds())] == ["x/a.jpg", "y.jpg"]
    [person] = loaded.loadAnns(loaded.getAnnIds(catIds=[1]))
    assert (person["num_keypoints"], person["keypoints"]) == (2, [9.25, 6.5, 2, 9.25, 6.5, 1, 0, 0, 0])
    assert loaded.annToMask(person).sum() == person["area"] == 16 * 12


@given(st.lists(st.text("ab/", min_size=1), min_size=1, unique=True))
def test_file_names_are_what_follows_the_common_folder(uris: list[str]) -> None:
    folder = common_folder(uris)
    assert all(uri.startswith(folder) and uri != folder for uri in uris)
    assert folder in ("", folder.rpartition("/")[0] + "/")
    assert common_folder([]) == ""
