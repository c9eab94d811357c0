"""A labelling interface of Label Studio (a project's XML): the one that our tasks need, what another lacks, and how to extend it.

Three controls hold what Masklake has: brushes hold masks, rectangles the boxes of instances without one, points keypoints. In a
project that people have set up themselves they have other names, and the image is in another field of the tasks.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.sets import Instance, LabelSet
from masklake.pipeline.words import counted

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MOST_LETTERS = 10_000_000


class Control(NamedTuple):
    """A control of an interface: its name, and the labels that it offers."""

    name: str
    labels: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What an interface holds for one image."""

    image: str = "image"
    """The name of its Image tag."""
    data_field: str = "image"
    """The field of a task's data with the image's URL."""
    controls: dict[str, Control] = dataclasses.field(default_factory=dict)
    """By their tags, those of TAGS that are there."""

    def name_of(self, tag: str) -> str:
        """What results call the control; our own name where the interface has none."""
        return self.controls[tag].name if tag in self.controls else TAGS[tag]

    def offers(self, tag: str) -> frozenset[str]:
        """The labels of a control."""
        return self.controls[tag].labels if tag in self.controls else frozenset()


TAGS = {"BrushLabels": "brush", "RectangleLabels": "box", "KeyPointLabels": "joint"}
"""The controls by their tags, with the names that they have in our own interface."""
BRUSH, BOX, POINT = TAGS
OURS = Interface()
"""The names in our own interface."""

Needed = dict[str, list[str]]
"""The labels that each control must offer, by its tag."""


def in_xml(name: str) -> bool:
    """Whether XML can hold the name: it has no place for control characters."""
    return not _NOT_IN_XML.search(name)


def unnameable(names: Iterable[str]) -> str | None:
    """What is to be told of names that XML cannot hold; None where there are none."""
    names = [name for name in names if not in_xml(name)]
    if not names:
        return None
    return f"not in the interface: {counted(len(names), 'names')} with characters that XML has no place for, such as {names[0]!r}"


def interface(labels: Sequence[str], keypoints: Sequence[str]) -> str:
    """The XML of an interface with these classes and keypoints, less those that XML cannot hold (`in_xml`).

    Keypoints are numbered (model_index), which label-studio-sdk's converter needs to write COCO and YOLO.
    """
    lines = ["<View>", '  <Image name="image" value="$image"/>']
    for tag, values in ((BRUSH, labels), (BOX, labels), (POINT, keypoints)):
        lines.append(f'  <{tag} name="{TAGS[tag]}" toName="image">')
        for i, value in enumerate(filter(in_xml, values)):
            index = f' model_index="{i}"' if tag == POINT else ""
            lines.append(f"    <Label value={quoteattr(value)}{index}/>")
        lines.append(f"  </{tag}>")
    return "\n".join([*lines, "</View>", ""])


def needed(sets: Iterable[LabelSet]) -> Needed:
    """What an interface must offer to show the sets; without names that no XML can hold."""
    instances = [instance for label_set in sets for instance in label_set.instances]
    drawn = [keypoint for instance in instances for keypoint in instance.keypoints if keypoint.visibility]
    return {
        **{tag: _names(sorted({i.label for i in instances if _tag(i) == tag})) for tag in (BRUSH, BOX)},
        POINT: _names(dict.fromkeys(keypoint.name for keypoint in drawn)),
    }


def wished(labels: Collection[str], keypoints: Iterable[str]) -> Needed:
    """What an interface should offer to label these classes and keypoints."""
    return {BRUSH: _names(sorted(labels)), BOX: _names(sorted(labels)), POINT: _names(keypoints)}


def _names(names: Iterable[str]) -> list[str]:
    return [name for name in names if in_xml(name)]


def read(xml: str) -> Interface:
    """What an interface offers. Raises UserError where it is no XML, or has no single image that could be labelled."""
    root = _parsed(xml)
    images = {element.get("name", ""): element for element in root.iter("Image")}
    if not images:
        raise UserError("the labelling interface has no Image")
    brushed = [element.get("toName") for tag in TAGS for element in root.iter(tag)]
    name = next((to for to in brushed if to in images), next(iter(images)))
    value = images[name].get("value", "")
    if not re.fullmatch(r"\$\w+", value):
        raise UserError(f"the labelling interface's Image shows {value!r}, which is no field of a task")
    controls: dict[str, Control] = {}
    for tag in TAGS:
        for element in root.iter(tag):
            if element.get("toName") == name:
                labels = frozenset(_value(label) for label in element.iter("Label"))
                controls.setdefault(tag, Control(element.get("name", ""), labels))
    return Interface(image=name, data_field=value[1:], controls=controls)


def image_fields(xml: str) -> dict[str, str]:
    """The field of a task's data that each Image tag shows, by the tag's name. Raises UserError where it is no XML."""
    values = {element.get("name", ""): element.get("value", "") for element in _parsed(xml).iter("Image")}
    return {name: value[1:] for name, value in values.items() if re.fullmatch(r"\$\w+", value)}


def is_empty(xml: str) -> bool:
    """Whether nothing is in it, as in a new project."""
    return not len(_parsed(xml))


def lacking(offered: Interface, wanted: Needed) -> Needed:
    """The part of `wanted` that is not offered."""
    lacks = {tag: [n for n in names if n not in offered.offers(tag)] for tag, names in wanted.items()}
    return {tag: names for tag, names in lacks.items() if names}


def extended(xml: str, wanted: Needed) -> str:
    """The interface with what it lacks of `wanted` added, and nothing taken away. Raises UserError as `read` does.

    One without any control, as a new project has, becomes our own.
    """
    if is_empty(xml):
        return interface(wanted[BRUSH], wanted[POINT])
    root, offered = _parsed(xml), read(xml)
    for tag, labels in lacking(offered, wanted).items():
        control = next(
            (element for element in root.iter(tag) if element.get("toName") == offered.image), None
        )
        if control is None:
            control = ElementTree.SubElement(root, tag, name=_free(root, TAGS[tag]), toName=offered.image)
        for label in labels:
            ElementTree.SubElement(control, "Label", value=label)
    return ElementTree.tostring(root, encoding="unicode")


def fitted(instance: Instance, offered: Interface, left_out: Counter[str]) -> Instance | None:
    """The part of an instance that an interface can hold, None where that is nothing; `left_out` counts the rest by reason."""
    tag, points = _tag(instance), offered.offers(POINT)
    if instance.label not in offered.offers(tag):
        left_out[f"instances of {instance.label!r}, which the project's {tag} do not offer"] += 1
        return None
    keypoints = tuple(k for k in instance.keypoints if not k.visibility or k.name in points)
    if unplaced := len(instance.keypoints) - len(keypoints):
        left_out[f"keypoints that the project's {POINT} do not offer"] += unplaced
    return replace(instance, keypoints=keypoints)


def _tag(instance: Instance) -> str:
    return BOX if instance.mask is None else BRUSH


def _value(label: ElementTree.Element) -> str:
    """What results call a label: its alias, if it has one."""
    return label.get("alias", "") or label.get("value", "")


def _parsed(xml: str) -> ElementTree.Element:
    if len(xml) > _MOST_LETTERS or "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise UserError("the labelling interface is none that Label Studio would take (a DOCTYPE, or 10 MB)")
    try:
        return ElementTree.fromstring(xml)  # noqa: S314  # entities, which could ask for any memory, were refused
    except (ElementTree.ParseError, UnicodeEncodeError) as error:  # half a character is no text
        raise UserError(f"the labelling interface is not XML ({error})") from None


def _free(root: ElementTree.Element, name: str) -> str:
    taken: Collection[str | None] = {element.get("name") for element in root.iter()}
    return (
        name if name not in taken else next(f"{name}{i}" for i in range(2, 1000) if f"{name}{i}" not in taken)
    )
