"""Whatever JSON an annotation file holds, it is understood or refused in one line; nothing else happens."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.formats import brush_rle
from masklake.pipeline.labels.importing import read
from masklake.pipeline.labels.masks import to_pixels
from masklake.pipeline.labels.sets import to_table

from tests.helpers.label_sets import rectangle
from tests.pipeline.labels.formats.test_coco_reader import annotation, coco, returned
from tests.pipeline.labels.formats.test_studio_reader import BOX, point, result, task
from tests.pipeline.labels.test_sets import NOW

COCO = coco(
    annotation(1, attributes={"occluded": False, "rotation": 30.0}, segmentation=[], iscrowd=1),
    annotation(2, category_id=1, keypoints=[1, 1, 2] * 3, bbox=...),
    annotation(3, segmentation={"size": [48, 64], "counts": [3000, 72]}),
    annotation(4, segmentation={"size": [48, 64], "counts": rectangle(1, 1, 5, 5).counts}),
) | {"images": [{"id": 7, "file_name": "a", "width": 64, "height": 48, "masklake": {"uri": "s3://b/a", "split": "val"}}]}  # fmt: skip
STUDIO = [
    task(
        result(
            "a",
            "brushlabels",
            {"rle": brush_rle.encode(to_pixels(rectangle(8, 4, 16, 12)))},
            meta={"text": ["crowd"]},
        ),
        result(
            "b",
            "rectanglelabels",
            BOX | {"rotation": 10},
            meta={"masklake": {"label": "dog", "label_id": 3, "joints": ["n"]}},
        ),
        result("c", "polygonlabels", {"points": [[1, 1], [50, 1], [1, 50]]}),
        point("d", "nose", 20, 30, parentID="b", hidden=True),
        {"type": "relation", "from_id": "d", "to_id": "b"},
        predictions=[{}],
        data={"image": "a", "masklake": {"width": 64, "height": 48}},
    ),
    task(annotations=[{"result": [], "was_cancelled": False, "ground_truth": True, "updated_at": "2026"}]),
]
# JSON values of every kind, the awkward ones among them.
values = st.sampled_from([
    None, True, False, 0, 1, -1, 2**31, 10**400, 1.5, float("nan"), float("inf"), -1e300, "", "x", "\ud800", "../\n'%", "0", "~",
    [], [1], [[]], [None], [{}], ["a", "a"], {}, {"a": 1}, {"size": [48, 64]}, {"size": [1, 1], "counts": "1"},
])  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON document, of lists only the first few."""
    if isinstance(value, dict):
        below = list(value.items())
    else:
        below = list(enumerate(value))[:5] if isinstance(value, list) else []
    return [path, *(place_ for key, item in below for place_ in places(item, (*path, key)))]


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_any_change_of_a_file_is_understood_or_refused(data: st.DataObject) -> None:
    content: Any = copy.deepcopy(data.draw(st.sampled_from([COCO, STUDIO])))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places(content)[1:] or [(0,)]))
        node = content
        for key in path[:-1]:
            node = node[key]
        if isinstance(node, dict) and data.draw(st.booleans()):
            node.pop(path[-1], None)
        elif node:
            node[path[-1]] = copy.deepcopy(data.draw(values))
    try:
        read([("f.json", json.dumps(content).encode())])
        sets = returned([], content)
    except UserError as error:
        assert str(error).startswith(("f.json: ", "0.json: "))
    else:
        to_table(sets, NOW)
