"""Label Studio tasks into labels, what is refused or left out, and the way back."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.formats import brush_rle
from masklake.pipeline.labels.formats.studio_interface import interface
from masklake.pipeline.labels.formats.studio_writer import names_of, to_label_studio
from masklake.pipeline.labels.masks import to_pixels
from masklake.pipeline.labels.sets import Keypoint, LabelledImage, LabelSet, digest
from PIL import Image

from tests.helpers.label_sets import HEIGHT, WIDTH, an_instance, label_set, label_sets, rectangle
from tests.pipeline.labels.formats.test_coco_reader import parsed, returned

BOX = {"x": 12.5, "y": 25, "width": 50, "height": 25}  # 8, 12, 32, 12 in pixels


def result(
    id_: str, type_: str, value: dict[str, Any], label: str | None = "dog", **fields: Any
) -> dict[str, Any]:
    base = {
        "id": id_, "type": type_, "from_name": "x", "to_name": "image", "original_width": WIDTH, "original_height": HEIGHT,
        "image_rotation": 0, "value": value | ({type_: [label]} if label else {}),
    }  # fmt: skip
    return base | fields


def point(id_: str, keypoint: str, x: float, y: float, **fields: Any) -> dict[str, Any]:
    hidden = {"hidden": True} if fields.pop("hidden", False) else {}
    return result(id_, "keypointlabels", {"x": x, "y": y, "width": 0.5} | hidden, keypoint, **fields)


def task(*results: Any, image: str = "s3://b/a.jpg", **fields: Any) -> dict[str, Any]:
    return {"id": 5, "data": {"image": image}, "annotations": [{"id": 9, "result": list(results)}]} | fields


def image_of(*results: Any) -> LabelledImage:
    [image] = parsed([task(*results)]).images
    return image


def test_brushes_polygons_and_rectangles_are_instances() -> None:
    mask = rectangle(8, 12, 32, 12)
    corners = [[12.5, 25], [62.5, 25], [62.5, 50], [12.5, 50]]
    image = image_of(
        result("a", "brushlabels", {"format": "rle", "rle": brush_rle.encode(to_pixels(mask))}),
        result("b", "polygonlabels", {"points": corners, "closed": True}),
        result(
            "c",
            "rectanglelabels",
            BOX | {"rotation": 0},
            "person",
            meta={"text": ["seen from afar", "Crowd "]},
        ),
    )
    assert (image.width, image.height) == (WIDTH, HEIGHT)
    assert [(i.label, i.mask, i.box, i.iscrowd) for i in image.instances] == [
        ("dog", mask, (8, 12, 32, 12), False), ("dog", mask, (8, 12, 32, 12), False), ("person", None, (8, 12, 32, 12), True),
    ]  # fmt: skip


def test_results_of_one_id_are_one_region() -> None:
    """As the tags Rectangle and Labels, or Brush and Labels, write them."""
    image = image_of(result("a", "rectangle", BOX, None), result("a", "labels", BOX, "cat"))
    assert [(i.label, i.box) for i in image.instances] == [("cat", (8, 12, 32, 12))]


def test_a_turned_rectangle_is_the_upright_box_around_it() -> None:
    label_file = parsed([task(result("a", "rectanglelabels", BOX | {"rotation": 90}))])
    assert label_file.images[0].instances[0].box == pytest.approx((-4, 12, 12, 32))
    assert label_file.notes == {"rotated rectangles became the upright boxes around them": 1}


def test_keypoints_find_their_instance() -> None:
    """By parent, by relation in either direction, and by the only box around them."""
    image = image_of(
        result("a", "rectanglelabels", BOX, "person"),
        result("b", "rectanglelabels", BOX | {"x": 0}, "person"),
        point("1", "nose", 20, 30, parentID="b"),
        point("2", "nose", 20, 30),
        point("3", "left_eye", 20, 30, hidden=True),
        point("4", "right_eye", 60, 30),
        {"type": "relation", "from_id": "2", "to_id": "a", "direction": "right"},
        {"type": "relation", "from_id": "b", "to_id": "3", "direction": "right"},
    )
    names = ("nose", "right_eye", "left_eye")
    first, second = (tuple(keypoint for keypoint in i.keypoints) for i in image.instances)
    assert tuple(keypoint.name for keypoint in first) == tuple(keypoint.name for keypoint in second) == names
    x, y = (float(np.float32(v)) for v in (12.8, 14.4))
    assert first == (
        Keypoint("nose", x, y, 2),
        Keypoint("right_eye", float(np.float32(38.4)), y, 2),
        Keypoint("left_eye", 0, 0, 0),
    )
    assert second == (
        Keypoint("nose", x, y, 2),
        Keypoint("right_eye", 0, 0, 0),
        Keypoint("left_eye", x, y, 1),
    )


def test_which_annotation_of_a_task_counts() -> None:
    def annotation(label: str, **fields: Any) -> dict[str, Any]:
        return {"id": 1, "result": [result("a", "rectanglelabels", BOX, label)]} | fields

    def counted(*annotations: dict[str, Any]) -> list[str]:
        return [
            i.label for image in parsed([task(annotations=list(annotations))]).images for i in image.instances
        ]

    older, newer = ({"updated_at": f"2026-11-0{day}T00:00:00Z"} for day in (1, 2))
    assert counted(annotation("new", **newer), annotation("old", **older)) == ["new"]
    assert counted(annotation("first"), annotation("second")) == ["second"]
    assert counted(annotation("truth", ground_truth=True, **older), annotation("other", **newer)) == ["truth"]
    assert counted(annotation("a", **older), annotation("b", was_cancelled=True, **newer)) == ["a"]


def test_what_is_left_out_is_counted() -> None:
    """And an image of which everything was left out makes no label set: it is not known to hold nothing."""
    content = [
        task(predictions=[{"result": []}], annotations=[]),
        task(annotations=[{"result": [], "was_cancelled": True}]),
        task(image="s3://b/b.jpg", annotations=[{"result": []}, {"result": []}]),
        task(
            result("a", "taxonomylabels", {"x": 1, "y": 1}),
            result("b", "rectanglelabels", BOX, None),
            result("c", "keypointlabels", {}, "nose"),
            {"type": "choices", "value": {"choices": ["outdoors"]}},
            image="s3://b/c.jpg",
        ),
        task({"type": "choices", "value": {"choices": ["outdoors"]}}, image="s3://b/d.jpg"),
    ]
    label_file = parsed(content)
    assert [(image.name, image.instances, image.width) for image in label_file.images] == [
        ("s3://b/b.jpg", [], None)
    ]
    assert {note.partition(" left out")[0]: n for note, n in label_file.notes.items()} == {
        "predictions": 1, "cancelled annotations": 1, "tasks without annotations": 2, "older annotations of the same task": 1,
        "results of type 'taxonomylabels'": 1, "regions without a label": 1, "regions without a shape": 1,
        "results of type 'choices'": 2, "images": 2,
    }  # fmt: skip


def test_ellipses_are_masks() -> None:
    oval = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 12.5, "rotation": 0}  # 16 × 6 pixels about 32, 24
    upright, turned = image_of(
        result("a", "ellipselabels", oval), result("b", "ellipselabels", oval | {"rotation": 90})
    ).instances
    assert upright.box == (16, 18, 32, 12)
    assert turned.box == (26, 8, 12, 32)
    for label_file in (upright, turned):
        assert label_file.mask is not None
        assert label_file.mask.area == pytest.approx(np.pi * 16 * 6, rel=0.03)


def png(pixels: Any, mode: str = "RGBA") -> str:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_bitmasks_are_masks() -> None:
    """Black where the mask is, and transparent elsewhere."""
    mask = rectangle(8, 4, 16, 12)
    pixels = np.zeros((HEIGHT, WIDTH, 4))
    pixels[..., 3] = 255 * to_pixels(mask)
    value = {"imageDataURL": png(pixels)}
    [instance] = image_of(result("a", "bitmasklabels", value)).instances
    assert (instance.mask, instance.box) == (mask, (8, 4, 16, 12))
    [instance] = image_of(result("a", "bitmask", value, None), result("a", "labels", value, "cat")).instances
    assert (instance.label, instance.mask) == ("cat", mask)


def test_closed_vectors_are_polygons() -> None:
    corners = [[12.5, 25], [62.5, 25], [62.5, 50], [12.5, 50]]
    vertices = [{"id": str(i), "x": x, "y": y, "isBezier": False} for i, (x, y) in enumerate(corners)]
    [instance] = image_of(result("a", "vectorlabels", {"vertices": vertices, "closed": True})).instances
    assert instance.mask == rectangle(8, 12, 32, 12)


def test_regions_are_on_the_image_that_they_name() -> None:
    two = {"image": "s3://b/before.jpg", "image2": "s3://b/after.jpg"}
    dog, cat = (
        result("a", "rectanglelabels", BOX),
        result("b", "rectanglelabels", BOX, "cat", to_name="image2"),
    )
    nose = point("p", "nose", 30, 30, to_name="image2")
    label_file = parsed([task(dog, cat, nose, data=two)])
    assert [(i.name, [(o.label, len(o.keypoints)) for o in i.instances]) for i in label_file.images] == [
        ("s3://b/before.jpg", [("dog", 0)]), ("s3://b/after.jpg", [("cat", 1)]),
    ]  # fmt: skip
    assert [i.name for i in parsed([task(cat, data=two)]).images] == ["s3://b/after.jpg"]
    # the tag's name is not that of the field
    other = [dog | {"to_name": "left"}, cat | {"to_name": "right"}]
    with pytest.raises(UserError, match="does not tell which image 'left' "):
        parsed([task(*other, data=two)])
    with pytest.raises(UserError, match="does not tell whether 'right' "):
        parsed([task(other[1], data=two)])
    assert [i.name for i in parsed([task(dog | {"to_name": "img"})]).images] == ["s3://b/a.jpg"]
    old = dog | {"to_name": "img", "source": "$image2"}
    assert [i.name for i in parsed([task(old, data=two)]).images] == ["s3://b/after.jpg"]


def test_a_tag_may_show_several_images() -> None:
    pages = {"pages": ["s3://b/1.jpg", "s3://b/2.jpg", "s3://b/3.jpg"]}
    first = result("a", "rectanglelabels", BOX, to_name="pages", item_index=0)
    last = result("b", "rectanglelabels", BOX, "cat", to_name="pages", item_index=2)
    assert [(i.name, len(i.instances)) for i in parsed([task(first, last, data=pages)]).images] == [
        ("s3://b/1.jpg", 1), ("s3://b/3.jpg", 1),
    ]  # fmt: skip
    with pytest.raises(UserError, match="pages has 3 images, and a region is on number 8"):
        parsed([task(result("a", "rectanglelabels", BOX, to_name="pages", item_index=7), data=pages)])


def test_a_keypoint_is_in_the_turned_rectangle() -> None:
    """And of two whose boxes contain it, in the one whose mask does."""
    dog = result("a", "rectanglelabels", {"x": 50, "y": 50, "width": 30, "height": 10, "rotation": 90}, "dog")
    cat = result(
        "b", "rectanglelabels", {"x": 40.6, "y": 62.5, "width": 18.75, "height": 12.5, "rotation": -60}, "cat"
    )
    keypoints = {
        i.label: len(i.keypoints) for i in image_of(dog, cat, point("p", "nose", 46.9, 70)).instances
    }
    assert keypoints == {"dog": 1, "cat": 0}
    corner = result("a", "polygonlabels", {"points": [[0, 0], [90, 0], [0, 90]]}, "dog")
    inside = result("b", "rectanglelabels", {"x": 70, "y": 70, "width": 15, "height": 15}, "cat")
    keypoints = {
        i.label: len(i.keypoints) for i in image_of(corner, inside, point("p", "nose", 75, 75)).instances
    }
    assert keypoints == {"dog": 0, "cat": 1}


def test_a_hidden_keypoint_stays_hidden_when_the_editor_writes_it() -> None:
    """It writes x, y and width alone, and keeps meta."""
    before = label_set("s3://b/a.jpg", an_instance("person", keypoints=True))
    [exported] = to_label_studio([before])
    for one_result in exported["annotations"][0]["result"]:
        if one_result["type"] == "keypointlabels":
            value = one_result["value"]
            one_result["value"] = {key: value[key] for key in ("x", "y", "width", "keypointlabels")}
    [image] = parsed([exported]).images
    assert [keypoint.visibility for keypoint in image.instances[0].keypoints] == [2, 1, 0]
    [said] = image_of(
        result("a", "rectanglelabels", BOX), point("p", "nose", 30, 30, meta={"text": ["Occluded"]})
    ).instances
    assert [keypoint.visibility for keypoint in said.keypoints] == [1]


def test_old_files_and_other_shapes_of_files() -> None:
    dog = {"id": 9, "result": [result("a", "rectanglelabels", BOX)]}
    old = {"id": 5, "data": {"image": "s3://b/a.jpg"}, "completions": [
        {"id": 1, "created_at": 1600000000, "result": [result("a", "rectanglelabels", BOX, "cat")]},
        {"id": 2, "created_at": 1600000001, "result": [result("a", "rectanglelabels", BOX)]},
        {"id": 3, "created_at": 1600000002, "skipped": True, "result": []},
    ]}  # fmt: skip
    single = {"id": 5, "data": {"image": "s3://b/a.jpg"}, "annotations": [dog]}
    stored = dog | {"task": {"id": 5, "data": {"image": "s3://b/a.jpg"}}}  # as its cloud storage gets them
    for content in ([old], [old | {"annotations": []}], single, stored, [stored]):
        [image] = parsed(content).images
        assert (image.name, [i.label for i in image.instances]) == ("s3://b/a.jpg", ["dog"])


def test_names_that_images_had_before() -> None:
    def aliases(name: str) -> tuple[str, ...]:
        return parsed([task(image=name)]).images[0].aliases

    assert aliases("s3://b/a%20b.jpg") == ()
    assert aliases("/data/local-files/?d=photos/a%20b.jpg") == ("photos/a b.jpg",)
    assert aliases("/data/upload/3/0a1b2c3d-a-b.jpg") == ("0a1b2c3d-a-b.jpg", "a-b.jpg")
    assert aliases("/data/upload/3/a-b.jpg") == ("a-b.jpg",)
    assert aliases("/data/upload/vacation-a.jpg") == (
        "vacation-a.jpg",
    )  # eight letters, and no upload's digits
    # the path of its media folder, as some of its COCO exports have it
    assert aliases("..\\..\\label-studio\\media\\upload\\4\\cb0618f6-a%b.png") == (
        "cb0618f6-a%b.png",
        "a%b.png",
    )
    assert aliases("https://studio.example/data/upload/3/0a1b2c3d-a.jpg") == ("0a1b2c3d-a.jpg", "a.jpg")
    assert aliases("https://s3.example/p/x/a%20b.jpg?X-Amz-Signature=1/2") == ("p/x/a b.jpg",)
    assert aliases("https://s3.example/") == ()
    [image] = parsed([task() | {"data": {"picture": "p.jpg", "n": 3}}]).images
    assert image.name == "p.jpg"


@pytest.mark.parametrize(("tasks", "problem"), [
    (task(result("a", "brushlabels", {"rle": [1, 2]})), "task 5: annotation: region 'a': the brush mask ends before all of its pixels"),
    (task(result("a", "brushlabels", {"rle": brush_rle.encode(np.ones((2, 2)))})), "has 16 values, and an image of 64×48 needs 12288"),
    (task(result("a", "polygonlabels", {"points": [[1, 1], [2, 2]]})), "a polygon has 2 points"),
    (task(result("a", "polygonlabels", {"points": [[1, 1, 3], [2, 2]]})), "points is a list of 3, not a list of 2 numbers"),
    (task(result("a", "rectanglelabels", BOX | {"width": -1})), "negative width or height"),
    (task(result("a", "rectanglelabels", BOX | {"rectanglelabels": ["a", "b"]}, None)), "region 'a': has 2 labels"),
    (task(result("a", "rectanglelabels", BOX | {"rectanglelabels": [7]}, None)), "its label is a number, not a text"),
    (task(result("a", "rectanglelabels", BOX, original_width=None)), "original_width is missing or null"),
    (task(result("a", "rectanglelabels", BOX, image_rotation=90)), "turn it back there"),
    (task(result("a", "rectanglelabels", BOX), result("b", "rectanglelabels", BOX, original_width=32)), "different original sizes"),
    (task(point("p", "nose", 1, 1)), "the key point 'nose' belongs to 0 regions"),
    (task(result("a", "ellipselabels", {"x": 1, "y": 1, "radiusX": 0, "radiusY": 2})), "a radius that is not above 0"),
    (task(result("a", "ellipselabels", {"x": 1, "y": 1, "radiusX": 0.01, "radiusY": 0.01})), "covers no pixel"),
    (task(result("a", "bitmasklabels", {"imageDataURL": "data:image/png;base64,rubbish"})), "the bitmask is no readable PNG"),
    (task(result("a", "bitmasklabels", {"imageDataURL": "https://x/y.png"})), "the bitmask is not a PNG in a data URL"),
    (task(result("a", "bitmasklabels", {"imageDataURL": png(np.zeros((2, 3, 4)))})), "the bitmask is 3×2, and its image 64×48 pixels"),
    (task(result("a", "bitmasklabels", {"imageDataURL": png(np.zeros((HEIGHT, WIDTH)), "L")})), "has no transparency"),
    (task(result("a", "vectorlabels", {"vertices": [{"x": 1, "y": 1}] * 3})), "an open or a curved line"),
    (task(annotations={}), "task 5: annotations is an object, not a list"),
    (task("x"), "annotation: result 1: is a text, not an object"),
    (task() | {"data": {}}, "data: does not tell which of its 0 texts is the image"),
    (task() | {"data": {"a": "x", "b": "y"}}, "does not tell which of its 2 texts is the image"),
])  # fmt: skip
def test_what_cannot_be_read_is_left_out_and_told(tasks: Any, problem: str) -> None:
    """The rest is imported; a file of which nothing is left is refused."""
    good = task(result("a", "rectanglelabels", BOX), image="s3://b/good.jpg")
    label_file = parsed([tasks, good])
    [skipped] = label_file.skipped
    assert problem in f"{skipped.where}: {skipped.problem}"
    assert skipped.where.startswith("0.json: task 5")
    assert [image.name for image in label_file.images] == ["s3://b/good.jpg"]
    with pytest.raises(UserError, match="nothing is left to import"):
        parsed([tasks])


def test_a_keypoint_that_is_nobodys_is_left_out() -> None:
    boxes = [result("a", "rectanglelabels", BOX), result("b", "rectanglelabels", BOX)]
    for points, problem in {
        (("p", 30), ("q", 1)): "the key point 'nose' belongs to 2 regions",
        (("p", 1),): "the key point 'nose' belongs to 0 regions",
    }.items():
        label_file = parsed([task(*boxes, *(point(id_, "nose", x_, x_) for id_, x_ in points))])
        assert problem in label_file.skipped[0].problem
        assert [i.keypoints for i in label_file.images[0].instances] == [(), ()]
    label_file = parsed([task(boxes[0], point("p", "nose", 30, 30), point("q", "nose", 31, 30))])
    assert "is a second 'nose' of region 'a'" in label_file.skipped[0].problem
    assert len(label_file.images[0].instances[0].keypoints) == 1


@settings(max_examples=100, deadline=None)
@given(label_sets())
def test_what_is_exported_comes_back_equal(sets: list[LabelSet]) -> None:
    assert returned(sets, to_label_studio(sets)) == sets


def test_what_was_changed_is_not_what_was_exported() -> None:
    """A mask drawn anew has its own box, a new label no old id, and the labels no longer the source that they had."""
    before = label_set(
        "s3://b/a.jpg", an_instance("dog", box=(8, 4, 16, 12)), an_instance("cat", box=(0, 0, 4, 4))
    )
    before = replace(before, instances=tuple(replace(i, box=(1.5, 2.5, 30, 20)) for i in before.instances))
    tasks = json.loads(json.dumps(to_label_studio([before])))
    [image] = parsed(tasks).images
    assert (image.digest, tuple(image.instances)) == (digest(before.instances), before.instances)
    dog, cat = tasks[0]["annotations"][0]["result"]
    dog["value"]["rle"] = brush_rle.encode(to_pixels(rectangle(20, 20, 5, 5)))
    cat["value"]["brushlabels"] = ["bird"]
    [image] = parsed(tasks).images
    assert [(i.label, i.label_id, i.box) for i in image.instances] == [
        ("dog", 18, (20, 20, 5, 5)), ("bird", None, (1.5, 2.5, 30, 20)),
    ]  # fmt: skip
    assert image.digest != digest(image.instances)


def test_the_labelling_interface_names_every_label() -> None:
    sets = [
        label_set("a", an_instance("person", keypoints=True), replace(an_instance("dog"), label='a "b" <&>'))
    ]
    view = ElementTree.fromstring(interface(*names_of(sets)))  # noqa: S314  # our own text
    named = {tag.tag: [label.get("value") for label in tag] for tag in view}
    assert named == {
        "Image": [], "BrushLabels": ['a "b" <&>', "person"], "RectangleLabels": ['a "b" <&>', "person"],
        "KeyPointLabels": ["nose", "left_eye", "right_eye"],
    }  # fmt: skip
    # label-studio-sdk's converter writes keypoints in this order, and none without it
    assert [label.get("model_index") for label in view.find("KeyPointLabels") or ()] == ["0", "1", "2"]


def test_the_labelling_interface_works_in_label_studios_converter(tmp_path: Path) -> None:
    converter = pytest.importorskip("label_studio_sdk.converter", reason="label-studio-sdk is not installed")
    sets = [label_set("s3://b/a.jpg", replace(an_instance("person", keypoints=True), mask=None))]
    config = interface(*names_of(sets))
    tasks = tmp_path / "tasks.json"
    tasks.write_text(json.dumps(to_label_studio(sets)))
    converter.Converter(config, str(tmp_path)).convert_to_coco(
        str(tasks), str(tmp_path / "out"), is_dir=False
    )
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    [keypoints] = [image_of["keypoints"] for image_of in written["annotations"] if "keypoints" in image_of]
    assert keypoints == [9, 6, 2, 9, 6, 2, 0, 0, 0]
