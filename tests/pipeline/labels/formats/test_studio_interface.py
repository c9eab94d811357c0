"""Labelling interfaces: what they offer and lack, how they are extended, and names that XML cannot hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.formats import studio_interface as interfaces
from masklake.pipeline.labels.formats.studio_interface import BOX, BRUSH, POINT
from masklake.pipeline.labels.masks import from_polygons
from masklake.pipeline.labels.sets import Instance, Keypoint, LabelSet

MIXED = """<View><Header value="x"/>
<Image name="left" value="$a"/><Image name="right" value="$b"/>
<View><RectangleLabels name="r" toName="right"><Label value="dog" alias="d"/></RectangleLabels></View>
<BrushLabels name="box" toName="right"><Label value="cat"/></BrushLabels></View>"""


def instance(label: str, *keypoints: Keypoint, masked: bool = True) -> Instance:
    mask = from_polygons([[0, 0, 4, 0, 4, 4]], 8, 8) if masked else None
    return Instance(label=label, label_id=1, box=(0, 0, 4, 4), mask=mask, keypoints=keypoints)


def label_set(*instances: Instance) -> LabelSet:
    return LabelSet(uri="a", width=8, height=8, instances=instances, source="model", split="train")


def test_the_image_that_has_controls_is_the_one() -> None:
    offered = interfaces.read(MIXED)
    assert (offered.image, offered.data_field) == ("right", "b")
    assert offered.controls == {BOX: ("r", {"d"}), BRUSH: ("box", {"cat"})}
    assert interfaces.image_fields(MIXED) == {"left": "a", "right": "b"}


def test_what_is_lacking_is_added_and_nothing_taken_away() -> None:
    wanted = interfaces.wished(["cat", "cow"], ["nose"])
    assert interfaces.lacking(interfaces.read(MIXED), wanted) == {
        BRUSH: ["cow"],
        BOX: ["cat", "cow"],
        POINT: ["nose"],
    }
    extended = interfaces.extended(MIXED, wanted)
    offered = interfaces.read(extended)
    assert not interfaces.lacking(offered, wanted)
    assert offered.controls[BOX].labels == {"d", "cat", "cow"}
    root = ElementTree.fromstring(extended)  # noqa: S314  # our own text
    names = [element.get("name") for element in root.iter() if element.get("name")]
    assert len(names) == len(set(names)) == 5
    assert interfaces.extended(extended, wanted) == extended


def test_an_empty_interface_becomes_our_own() -> None:
    wanted = interfaces.wished(["dog"], ["nose", "eye"])
    assert interfaces.extended("<View></View>", wanted) == interfaces.interface(["dog"], ["nose", "eye"])


@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=4))
def test_any_names_are_offered_as_they_are_or_left_out(names: list[str]) -> None:
    xml = interfaces.interface(names, names)
    offered = interfaces.read(xml)
    held = {name for name in names if interfaces.in_xml(name)}
    assert offered.offers(BRUSH) == offered.offers(BOX) == offered.offers(POINT) == held


def test_control_characters_and_surrogates_are_in_no_interface() -> None:
    odd = ["a\x00", "b\x1b[31m", "c\ud800", "d\ufffe"]
    assert "<Label" not in interfaces.interface(odd, odd)
    assert interfaces.needed([label_set(*map(instance, odd))])[BRUSH] == []
    assert interfaces.interface(["e\t\n\r<&\"'é漢"], []).count("<Label ") == 2


def test_what_does_not_fit_is_left_out_and_counted() -> None:
    offered = interfaces.read(
        '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="dog"/></BrushLabels>'
        '<KeyPointLabels name="k" toName="i"><Label value="nose"/></KeyPointLabels></View>'
    )
    nose, eye, unseen = Keypoint("nose", 1, 1, 2), Keypoint("eye", 1, 1, 2), Keypoint("ear", 0, 0, 0)
    dog = instance("dog", nose, eye, unseen)
    left_out: Counter[str] = Counter()
    kept = [
        interfaces.fitted(i, offered, left_out) for i in (dog, instance("cat"), instance("dog", masked=False))
    ]
    assert kept == [replace(dog, keypoints=(nose, unseen)), None, None]
    assert left_out == {
        "instances of 'cat', which the project's BrushLabels do not offer": 1,
        "instances of 'dog', which the project's RectangleLabels do not offer": 1,
        "keypoints that the project's KeyPointLabels do not offer": 1,
    }
    assert interfaces.needed([label_set(dog, instance("cat", masked=False))]) == {
        BRUSH: ["dog"],
        BOX: ["cat"],
        POINT: ["nose", "eye"],
    }


@pytest.mark.parametrize(
    ("xml", "why"),
    [
        ("<View>", "is not XML"),
        ("", "is not XML"),
        ('<View><Image name="\ud800" value="$i"/></View>', "is not XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View><Image name="i" value="$i"/></View>', "a DOCTYPE"),
        ('<View><Text name="t" value="$t"/></View>', "has no Image"),
        ('<View><Image name="i" valueList="$i"/></View>', "which is no field of a task"),
    ],
)
def test_other_interfaces_are_refused(xml: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        interfaces.read(xml)
