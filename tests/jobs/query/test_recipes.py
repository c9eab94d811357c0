"""The recipes of jobs/query/README.md, as they are written, over a lake whose answers are known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.lakes import LakeBuilder, image, instance, label_row
from tests.helpers.paths import ROOT

Run = Callable[..., tuple[int, str, str]]
OLD, NEW = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb"
A, B, C = "s3://p/a.jpg", "s3://p/b.jpg", "s3://p/c.jpg"

TEXT = (ROOT / "jobs" / "query" / "README.md").read_text()
RECIPES = dict(re.findall(r"^## (.+?)$.*?^```sql\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))

ANSWERS: dict[str, list[list[Any]]] = {
    "Top classes": [["person", 3, 0.8], ["cat", 1, 0.6], ["dog", 1, 0.7]],
    "Images with more than N persons": [[A, 2]],
    "Overlapping instances of two classes": [[A, 0, 2, round(8 * 12 / (2 * 16 * 12 - 8 * 12), 2)]],
    "Hands above the head": [[A, 1]],
    "What changed between two models": [[A, "dog", 2, 1], [A, "person", 1, 2], [B, "cat", 0, 1], [B, "person", 0, 1]],
    "Failures by reason": [["missing", "gone since it was listed", 2, "s3://p/x.jpg"], ["unreadable", "truncated", 1, "s3://p/z.jpg"]],
    "IoU of two runs": [["dog", 1, 1.0], ["person", 1, 0.6]],
    "Labels joined to predictions": [[C, "dog", None, None], [A, "person", 0.6, 0.9]],
    "A table of your own beside the lake": [["Berlin", 2], ["Oslo", 1]],
}  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    builder = LakeBuilder(str(tmp_path_factory.mktemp("recipes") / "lake"))
    builder.part(
        OLD,
        {
            A: [
                instance("person", 0.8, (8, 7, 16, 12)),
                instance("dog", 0.7, (16, 4, 16, 12)),
                instance("dog", 0.6, (40, 30, 8, 8)),
            ]
        },
    )
    up = instance("person", 0.8, (30, 20, 16, 12))
    for keypoint in up["keypoints"]:
        if keypoint["name"] == "left_wrist":
            keypoint["y"] = 3.0
    builder.part(NEW, {
        A: [instance("person", 0.9), up, instance("dog", 0.7, (16, 4, 16, 12))],
        B: [instance("person", 0.7), instance("cat", 0.6), instance("dog", 0.1)],
        C: [instance("person", 0.2, (40, 30, 8, 8))],
    })  # fmt: skip
    failures = {
        "x": ("missing", "gone since it was listed"),
        "y": ("missing", "gone since it was listed"),
        "z": ("unreadable", "truncated"),
    }
    rows = [
        (image(f"s3://p/{name}.jpg", status=status, error=error), [])
        for name, (status, error) in failures.items()
    ]
    builder.part(NEW, rows)
    builder.labels(
        [
            label_row(A, "person", **dict(zip("xywh", (8.0, 7.0, 16.0, 12.0), strict=True))),
            label_row(C, "dog"),
        ]
    )
    return builder.uri


def test_every_recipe_has_an_answer() -> None:
    assert list(RECIPES) == list(ANSWERS)


@pytest.mark.parametrize("name", ANSWERS)
def test_the_recipe_gives_it(masklake: Run, lake: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "recipe.sql").write_text(RECIPES[name])
    (tmp_path / "places.csv").write_text(f"uri,city\n{A},Berlin\n{B},Oslo\n")
    params = {"least": "2", "old": OLD, "new": NEW}
    arguments = [f"--param={key}={value}" for key, value in params.items() if f"${key}" in RECIPES[name]]
    if "places" in RECIPES[name]:
        arguments.append(f"--attach=places={tmp_path / 'places.csv'}")
    code, out, err = masklake("query", lake, "--file", tmp_path / "recipe.sql", "--json", *arguments)
    assert code == 0, err
    assert [list(row.values()) for row in json.loads(out)] == ANSWERS[name]
