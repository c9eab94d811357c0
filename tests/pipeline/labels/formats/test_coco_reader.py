"""COCO and CVAT files into labels, what is refused, and the way back."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.formats.coco_writer import common_folder, to_coco
from masklake.pipeline.labels.importing import read
from masklake.pipeline.labels.sets import Keypoint, LabelFile, LabelSet
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.helpers.label_sets import KEYPOINTS, an_instance, label_set, label_sets, rectangle

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def annotation(id_: Any, **fields: Any) -> dict[str, Any]:
    base = {
        "id": id_,
        "image_id": 7,
        "category_id": 18,
        "segmentation": [SQUARE],
        "bbox": [10, 10, 20, 20],
        "iscrowd": 0,
    }
    return {name: value for name, value in (base | fields).items() if value is not ...}


def coco(*annotations: Any, **fields: Any) -> dict[str, Any]:
    base = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}],
        "categories": [
            {"id": 1, "name": "person", "keypoints": list(KEYPOINTS), "skeleton": []},
            {"id": 18, "name": "dog"},
        ],
        "annotations": list(annotations),
    }
    return base | fields


def parsed(
    *contents: Any, format_: str | None = None, allow_empty: bool = True, strict: bool = False
) -> LabelFile:
    files = [(f"{i}.json", json.dumps(content).encode()) for i, content in enumerate(contents)]
    return read(files, format_, allow_empty=allow_empty, strict=strict)[1]


def returned(sets: list[LabelSet], content: Any) -> list[LabelSet]:
    """The label sets that a file of Masklake's own export holds."""
    label_file = parsed(content).images
    return [
        LabelSet(
            uri=image.uri or "",
            width=image.width if image.size_known else None,
            height=image.height if image.size_known else None,
            instances=tuple(image.instances),
            source=image.source or "",
            split=image.split or "",
            absent=image.absent,
            not_exhaustive=image.not_exhaustive,
        )
        for image in label_file
    ]


def test_files_may_be_compressed() -> None:
    data = json.dumps(coco(annotation(1))).encode()
    assert read([("f.json.gz", gzip.compress(data))])[1] == read([("f.json", data)])[1]


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
    keypoints = [12, 14.5, 2, 0, 0, 0, 20, 30, 1]
    [image] = parsed(coco(
        annotation(1, bbox=[9.25, 9.5, 21, 21.125]),
        annotation(2, bbox=...),
        annotation(3, bbox=..., segmentation=[], category_id=1, keypoints=keypoints),
        annotation(4, segmentation=...),
    )).images  # fmt: skip
    assert [instance.box for instance in image.instances] == [
        (9.25, 9.5, 21, 21.125), (10, 10, 20, 20), (12, 14.5, 8, 15.5), (10, 10, 20, 20),
    ]  # fmt: skip
    assert [instance.area for instance in image.instances] == [400, 400, 124, 400]
    assert image.instances[2].keypoints == (
        Keypoint("nose", 12, 14.5, 2),
        Keypoint("left_eye", 0, 0, 0),
        Keypoint("right_eye", 20, 30, 1),
    )


def test_unlabelled_keypoints_are_none_and_lie_nowhere() -> None:
    [image] = parsed(coco(
        annotation(1, category_id=1, keypoints=[5, 5, 0] * 3), annotation(2, category_id=1, keypoints=[5, 5, 0, 6, 6, 2, 0, 0, 0]),
        annotation(3, keypoints=[0, 0, 0]),
    )).images  # fmt: skip
    assert [[(j.x, j.visibility) for j in instance.keypoints] for instance in image.instances] == [
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


PERSON_NAMES = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", *(f"{side}_{part}" for part in (
    "shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right")))  # fmt: skip


@pytest.mark.parametrize(("category", "count", "names", "called"), [
    ({"name": "person"}, 17, PERSON_NAMES, "the 17 of COCO's persons"),
    ({"name": "Person", "keypoints": []}, 17, PERSON_NAMES, "the 17 of COCO's persons"),
    ({"name": "person", "keypoints": ["a", "a"]}, 17, PERSON_NAMES, "the 17 of COCO's persons"),
    ({"name": "person"}, 3, ("keypoint_1", "keypoint_2", "keypoint_3"), "keypoint_1 to keypoint_3"),
    ({"name": "dog"}, 17, tuple(f"keypoint_{n}" for n in range(1, 18)), "keypoint_1 to keypoint_17"),
    ({"name": "corner", "keypoints": None}, 1, ("keypoint_1",), "named keypoint_1 ("),
])  # fmt: skip
def test_keypoints_that_their_category_does_not_name(
    category: dict[str, Any], count: int, names: tuple[str, ...], called: str
) -> None:
    values = [value for n in range(count) for value in (n + 1, n + 2, 1 + n % 2)]
    categories = [{"id": 1} | category]
    label_file = parsed(
        coco(
            annotation(1, category_id=1, keypoints=values),
            annotation(2, category_id=1, keypoints=[0] * 3 * count),
            annotation(3, category_id=1, keypoints=values, bbox=..., segmentation=[]),
            categories=categories,
        )
    )
    assert not label_file.skipped
    first, unlabelled, without_box = label_file.images[0].instances
    expected = tuple(Keypoint(name, n + 1, n + 2, 1 + n % 2) for n, name in enumerate(names))
    assert first.keypoints == without_box.keypoints == expected
    assert unlabelled.keypoints == ()
    assert without_box.box == (1, 2, count - 1, count - 1)
    [note] = [note for note in label_file.notes if "does not name" in note]
    assert called in note
    assert label_file.notes[note] == 2
    exported = [
        LabelSet(uri="s3://b/a.jpg", width=64, height=48, instances=(first,), source="import", split="train")
    ]
    content = to_coco(exported)
    assert content["categories"][0]["keypoints"] == list(names)
    assert returned(exported, content)[0].instances[0].keypoints == expected


def test_masks_and_keypoints_of_two_files_become_one_instance() -> None:
    keypoints = [12, 14, 2, 0, 0, 0, 20, 30, 1]
    masks = coco(
        annotation(1, category_id=1), annotation(2), annotation(5, category_id=1, bbox=[40, 20, 10, 10])
    )
    people = coco(
        annotation(1, category_id=1, keypoints=keypoints),  # the same id
        annotation(
            9, category_id=1, keypoints=keypoints, bbox=[41, 20, 10, 11], segmentation=[]
        ),  # the same place
        annotation(
            2, category_id=1, keypoints=keypoints, bbox=[0, 0, 4, 4]
        ),  # another object by an id in use
    )
    label_file = parsed(masks, people)
    assert [(i.label, i.mask is not None, bool(i.keypoints)) for i in label_file.images[0].instances] == [
        ("person", True, True), ("dog", True, False), ("person", True, True), ("person", True, True),
    ]  # fmt: skip
    assert label_file.notes == {"annotations of other ids joined by their boxes": 1}
    assert len(parsed(coco(annotation(1), annotation(2))).images[0].instances) == 2  # never within one file


def test_cvat_is_known_by_its_attributes() -> None:
    rle = {"size": [48, 64], "counts": [48 * 64 - 10, 10]}
    attributes = {"occluded": False, "rotation": 0.0}
    content = coco(
        annotation(1, segmentation=rle, iscrowd=1, attributes=attributes),
        annotation(
            2,
            segmentation=[],
            attributes=attributes | {"rotation": 90.0, "colour": "red"},
            bbox=[10, 10, 20, 10],
        ),
    )
    label_file = parsed(content)
    [image] = label_file.images
    assert [instance.iscrowd for instance in image.instances] == [False, False]
    assert image.instances[1].box == pytest.approx((15, 5, 10, 20))
    assert sorted(note.split(":")[0] for note in label_file.notes) == [
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
    "is a ZIP archive; unpack it": b"PK\x03\x04...",
    "is XML (CVAT for images, Pascal VOC?)": b"<annotations/>",
    "is damaged gzip": b"\x1f\x8b\x08rubbish",
    "is a project of VIA (export annotations as COCO there)": b'{"_via_img_metadata": {}}',
    "is COCO's results": b'[{"image_id": 1, "category_id": 1, "score": 0.5}]',
    "is a file of labelme": b'{"shapes": [], "imagePath": "a.jpg"}',
    "is COCO's panoptic format": b'{"images": [], "categories": [], "annotations": [{"segments_info": []}]}',
    "is COCO's captions": b'{"images": [], "categories": [], "annotations": [{"caption": "a dog"}]}',
    "JSON-MIN is not read": b'[{"image": "a.jpg", "label": [], "id": 1}]',
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
    (coco(annotation(1, bbox=..., segmentation=[])), "has neither a bbox nor a segmentation nor keypoints"),
    (coco(annotation(1, bbox=..., segmentation=[[1, 1, 2, 2]])), "a polygon has 2 points; it needs at least 3"),
    (coco(annotation(1, bbox=[1, 1, 2], segmentation=[])), "bbox is a list of 3, not a list of 4 numbers"),
    (coco(annotation(1, bbox=[1, 1, "wide", 2], segmentation=[])), "bbox holds a text where a number belongs"),
    (coco(annotation(1, bbox=[1, 1, -2, 2], segmentation=[])), "bbox has a negative width or height: [1, 1, -2, 2]"),
    (coco(annotation(1, bbox=..., segmentation=[], keypoints=[1, 1, 2, 3])), "keypoints is a list of 4, not three numbers (x, y, visibility) for each"),
    (coco(annotation(1, image_id=8)), "annotation 1: its image_id 8 is not among the images"),
    (coco(annotation(1, image_id="7"), annotation(2)), "annotation 1: its image_id '7' is not among the images"),
    (coco(annotation(1, image_id=[7])), "image_id is a list, not a number or a text"),
    (coco(annotation(1, category_id=3)), "annotation 1: its category_id 3 is not among the categories"),
    (coco(annotation(1), categories=[{"id": 18, "name": "a"}, {"id": 18, "name": "b"}]), "its category_id 18 is used for several categories: 'a', 'b'"),
    (coco(annotation(1), categories=[{"id": 18}]), "its category 18: name is missing or null, not a text"),
    (coco(annotation([1])), "id is a list, not a number or a text"),
    (coco(7), "annotation 1 of the file: is a number, not an object"),
    (coco(annotation(1, iscrowd=2)), "iscrowd is 2, not 0 or 1"),
    (coco(images=[SIZE, SIZE | {"file_name": "b.jpg"}]), "image 7: its id is used for several images of the file"),
    (coco(images=[SIZE, SIZE | {"id": 8}]), "image 8: several images of the file have its name, 'a.jpg'"),
    (coco(images=[SIZE | {"width": 10**6, "height": 10**6}]), "a frame of 1000000×1000000 pixels is not possible"),
    (coco(images=[SIZE | {"file_name": ""}]), "image 7: file_name is empty, not a text"),
    (coco(images=[SIZE | {"file_name": "\ud800"}]), "holds half of a character"),
    (coco(images=[SIZE | {"masklake": {"split": "test"}}]), "masklake: split is 'test', not one of train, val"),
])  # fmt: skip
def test_what_cannot_be_read_is_left_out_and_told(content: Any, problem: str) -> None:
    """The rest is imported; an image of which nothing could be read is not one that holds nothing."""
    other = {"id": 99, "file_name": "good.jpg", "width": 64, "height": 48}
    dogs = [*content["categories"], {"id": 55, "name": "cat"}]
    good = annotation(1000, image_id=99, category_id=55)
    whole = content | {
        "images": [*content["images"], other], "categories": dogs, "annotations": [*content["annotations"], good],
    }  # fmt: skip
    label_file = parsed(whole)
    assert any(problem in f"{skipped_.where}: {skipped_.problem}" for skipped_ in label_file.skipped)
    assert len(label_file.skipped) <= 2  # two images that cannot be told apart are two
    assert all(skipped_.where.startswith("0.json: ") for skipped_ in label_file.skipped)
    assert label_file.images[-1].name == "good.jpg"
    assert all(image.instances or not image.unread for image in label_file.images)
    with pytest.raises(UserError, match="without --strict they are left out"):
        parsed(whole, strict=True)


@pytest.mark.parametrize(("fields", "problem"), [
    ({"segmentation": [[1, 1, 2, 2, 3]]}, "a polygon has 5 coordinates, which is not pairs of x and y (image 'a.jpg')"),
    ({"segmentation": [[1, 1, 2, 2]]}, "a polygon has 2 points; it needs at least 3"),
    ({"segmentation": [[1, 1, 2, 2, 3, "x"]]}, "segmentation holds a text where a number belongs"),
    ({"segmentation": [[1, 1, 2, 2, 3, float("nan")]]}, "segmentation holds nan, which is no position"),
    ({"segmentation": [[1, 1, 2, 2, 3, 10**400]]}, "which is no position in an image"),
    ({"segmentation": "x"}, "segmentation is a text, neither polygons nor an RLE"),
    ({"segmentation": {"size": [64, 48], "counts": [3072]}}, "the RLE's size is [64, 48], and the image is 48 high and 64 wide"),
    ({"segmentation": {"size": [48, 64], "counts": [3000]}}, "covers 3000 pixels"),
    ({"segmentation": {"size": [48, 64], "counts": [3072.5]}}, "counts holds something else than whole numbers"),
    ({"segmentation": {"size": [48, 64], "counts": "\U0001f600"}}, "not COCO's compressed text"),
    ({"keypoints": [1, 1, 2] * 4} | PERSON, "keypoints is a list of 12, not a list of 9 numbers"),
    ({"keypoints": [1, 1, 3] * 3} | PERSON, "visibility that is not 0, 1 or 2"),
    ({"keypoints": [1, 1, 2, 3]}, "keypoints is a list of 4, not three numbers"),
    ({"keypoints": [1, 1, 3]}, "visibility that is not 0, 1 or 2"),
    ({"bbox": [1, 1, -2, 2]}, "bbox has a negative width or height: [1, 1, -2, 2]"),
    ({"bbox": [1, 1, 2]}, "bbox is a list of 3, not a list of 4 numbers"),
])  # fmt: skip
def test_an_object_stays_without_its_part_that_cannot_be_read(fields: dict[str, Any], problem: str) -> None:
    label_file = parsed(coco(annotation(1, **fields)))
    [instance] = label_file.images[0].instances
    assert instance.box == (10, 10, 20, 20)
    [skipped] = label_file.skipped
    assert problem in skipped.problem
    part = next(iter(fields))
    assert skipped.problem.startswith({"segmentation": "mask"}.get(part, part) + " left out: ")
    assert (instance.mask is None) == (part == "segmentation")
    assert instance.keypoints == ()


@pytest.mark.parametrize(("content", "problem"), [
    (coco(images={}), "images is an object, not a list"),
    (coco(categories=3), "categories is a number, not a list"),
    (coco(annotation(1, image_id=8), annotation(2, image_id=8)), "nothing is left to import"),
    (coco(), "has images and no annotation at all"),
])  # fmt: skip
def test_files_of_which_nothing_can_be_taken_are_refused(content: Any, problem: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(
            content
            if problem != "nothing is left to import"
            else content | {"images": [SIZE | {"file_name": 3}]},
            allow_empty=False,
        )
    assert problem in str(error.value)


def test_a_file_without_annotations_may_be_meant() -> None:
    assert [image.instances for image in parsed(coco(), allow_empty=True).images] == [[]]
    # what another file says of the same images is enough; so is an export of Masklake's own
    assert len(parsed(coco(annotation(1)), coco(), allow_empty=False).images) == 1
    assert parsed(to_coco([label_set("s3://b/a.jpg")]), allow_empty=False).images[0].instances == []


def test_what_is_not_needed_is_not_judged() -> None:
    root = {"id": 0, "name": "dog", "supercategory": "none"}  # Roboflow's
    twice = coco(
        annotation(1),
        annotation(1),
        annotation(...),
        categories=[root, {"id": 18, "name": "dog"}, {"name": 3}, "x"],
    )
    label_file = parsed(twice)
    assert [i.label_id for i in label_file.images[0].instances] == [18, 18, 18]
    assert (label_file.skipped, dict(label_file.notes)) == ([], {})
    # two categories of one name that are both used are one class
    both = parsed(
        coco(annotation(1), annotation(2, category_id=0), categories=[root, {"id": 18, "name": "dog"}])
    )
    assert {i.label for i in both.images[0].instances} == {"dog"}
    assert list(both.notes) == ["categories of the same name, 'dog', taken for one class"]
    # a size is needed by polygons alone
    unsized = parsed(coco(annotation(1), images=[{"id": 7, "file_name": "a.jpg"}]))
    assert [(i.box, i.mask) for i in unsized.images[0].instances] == [((10, 10, 20, 20), None)]
    assert unsized.skipped[0].problem.startswith(
        "mask left out: a polygon needs its image's width and height"
    )
    large = parsed(coco(annotation(1, category_id=2**40), categories=[{"id": 2**40, "name": "dog"}]))
    assert [(i.label, i.label_id) for i in large.images[0].instances] == [("dog", None)]
    unnamed = parsed(coco(annotation(1), categories=[{"id": 18, "name": "dog", "keypoints": ["n", "n"]}]))
    assert len(unnamed.images[0].instances) == 1


def test_numbers_and_ids_in_other_spellings() -> None:
    texts = coco(
        annotation("1", image_id="7", category_id="18", bbox=[10, "10", "20.0000", 20.0], segmentation=[list(map(str, SQUARE))], iscrowd="0", area="123.5"),
        images=[SIZE | {"id": "7", "width": "64", "height": 48.0}], categories=[{"id": "18", "name": "dog"}],
    )  # fmt: skip
    [image] = parsed(texts).images
    assert [(i.box, i.mask, i.given_area) for i in image.instances] == [
        ((10, 10, 20, 20), rectangle(10, 10, 20, 20), 123.5)
    ]
    # images and categories by numbers, annotations by texts: none is equal, and so all are
    mixed = coco(
        annotation(1, image_id="7", category_id="18"), annotation(2.0, image_id="7", category_id="18")
    )
    assert len(parsed(mixed).images[0].instances) == 2
    table = coco(annotation(1, bbox="[10, 10, 20, 20]", segmentation=[]))  # as tables of annotations make it
    assert [i.box for i in parsed(table).images[0].instances] == [(10, 10, 20, 20)]
    nowhere = parsed(coco(annotation(1, bbox=[0, 0, 0, 0])))
    assert [i.box for i in nowhere.images[0].instances] == [(10, 10, 20, 20)]
    assert list(nowhere.notes) == ["boxes without area: those around mask or keypoints taken"]
    fractions = coco(annotation(1.0, image_id=7.0, category_id=18.0))
    assert [i.label_id for i in parsed(fractions).images[0].instances] == [18]


def test_masks_in_other_spellings() -> None:
    rle = coco_mask.merge(coco_mask.frPyObjects([SQUARE], 48, 64))["counts"].decode()
    pairs = list(map(list, zip(SQUARE[::2], SQUARE[1::2], strict=True)))
    runs = [490, *[20, 28] * 19, 20, 48 * 64 - 490 - 19 * 48 - 20]
    kinds = [
        SQUARE, pairs, [pairs], [[SQUARE]], json.dumps([SQUARE]), [SQUARE, [1, 1, 2, 2]], [SQUARE, []],
        {"counts": rle}, [{"size": [48, 64], "counts": rle}], {"size": ["48", 64.0], "counts": str(rle.encode())},
        {"size": [48, 64], "counts": " ".join(map(str, runs))}, {"size": [48, 64], "counts": str(runs)},
        {"size": [48, 64], "counts": [float(v) for v in runs]},
    ]  # fmt: skip
    label_file = parsed(coco(*(annotation(i, segmentation=kind) for i, kind in enumerate(kinds))))
    assert label_file.skipped == []
    assert {i.mask for i in label_file.images[0].instances} == {rectangle(10, 10, 20, 20)}
    none = [[], None, {}, "", [[]]]
    label_file = parsed(coco(*(annotation(i, segmentation=kind) for i, kind in enumerate(none))))
    assert {i.mask for i in label_file.images[0].instances} == {None}
    assert label_file.skipped == []


def test_what_cocos_evaluation_reads_is_kept() -> None:
    keypoints = [12, 14.5, 2, 0, 0, 0, 20, 30, 1]
    fields = coco(
        annotation(1, area=123.25, ignore=1), annotation(2, area=400), annotation(3, area=-1), annotation(4, area=float("nan")),
        annotation(5, category_id=1, keypoints=keypoints, num_keypoints=0, area=77),
        annotation(6, category_id=1, keypoints=keypoints, num_keypoints=2, segmentation=[]),
    )  # fmt: skip
    label_file = parsed(fields)
    instances = label_file.images[0].instances
    assert [i.evaluated_area for i in instances] == [123.25, 400, 400, 400, 77, 400]
    assert [i.evaluated_keypoints for i in instances[4:]] == [0, 2]
    assert [i.ignore for i in instances] == [True, *[False] * 5]
    assert dict(label_file.notes) == {
        "areas that no object can have: counted anew": 2,
        "objects to be ignored (ignore: 1), which are neither learnt nor counted": 1,
    }
    sets = [label_set("s3://b/a.jpg", *(replace(i, label_id=i.label_id) for i in instances))]
    written = to_coco(sets)["annotations"]
    assert [skipped_["area"] for skipped_ in written] == [123.25, 400, 400, 400, 77, 400]
    assert [skipped_.get("ignore") for skipped_ in written] == [1, *[None] * 5]
    assert [skipped_["num_keypoints"] for skipped_ in written[4:]] == [0, 2]


def test_classes_that_an_image_was_searched_for() -> None:
    lvis = [SIZE | {"neg_category_ids": [1, 99], "not_exhaustive_category_ids": [18]}]
    del lvis[0]["file_name"]
    lvis[0]["coco_url"] = "http://images.cocodataset.org/train2017/000000000139.jpg"
    label_file = parsed(coco(annotation(1), images=lvis))
    [image] = label_file.images
    assert (image.absent, image.not_exhaustive) == (("person",), ("dog",))
    assert image.aliases == ("train2017/000000000139.jpg",)
    assert list(label_file.notes) == [
        "images that were searched for some classes only (LVIS): others count as unknown there"
    ]
    [written] = to_coco(
        [label_set("s3://b/a", *image.instances, absent=("person",), not_exhaustive=("dog",))]
    )["images"]
    assert (written["neg_category_ids"], written["not_exhaustive_category_ids"]) == ([19], [18])


def test_images_of_one_name_in_two_files_that_share_nothing_are_told() -> None:
    label_file = parsed(coco(annotation(1)), coco(annotation(1, bbox=[40, 5, 10, 10], segmentation=[])))
    assert len(label_file.images[0].instances) == 2
    [note] = label_file.notes
    assert note.startswith("images of one name in several files that share no object")
    assert not parsed(coco(annotation(1)), coco(annotation(1))).notes


def test_files_of_one_import_must_fit() -> None:
    other = coco(images=[SIZE | {"width": 32}])
    [skipped] = parsed(coco(annotation(1)), other).skipped
    assert skipped.where == "1.json: image 7"
    assert skipped.problem.startswith("'a.jpg' is 32×48 here and 64×48 in another file")
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
        label_set("s3://b/x/a.jpg", an_instance("person", keypoints=True), an_instance("dog")),
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
