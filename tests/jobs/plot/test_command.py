"""`masklake plot`: what is counted, and that it can be drawn of any lake."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.lakes import WHEN, LakeBuilder, image, instance
from tests.jobs.labels.test_command import Masklake

RUN = "20261101T000000-aaaaaa"


def evaluation(lake: LakeBuilder, run: str, model: str, minute: int, ap: float | None) -> None:
    facts = {
        "model": model, "evaluated": "val", "at": f"2026-11-20T00:{minute:02}:00+00:00",
        "figures": {"box": {"AP": ap}, "mask": None if ap is None else {"AP": ap / 2}},
    }  # fmt: skip
    lake.storage.write(f"{lake.uri}/runs/{run}/eval/val/metrics.json", json.dumps(facts).encode())


def test_the_numbers(masklake: Masklake, tmp_path: Path) -> None:
    lake = LakeBuilder(str(tmp_path / "lake"))
    rows = [
        (
            image(f"s3://p/{i}", processed_at=WHEN + datetime.timedelta(seconds=i)),
            [instance("dog", 0.97, area=1024 + i)],
        )
        for i in range(10)
    ]
    rows.append((image("s3://p/x", status="missing", error="gone", processed_at=WHEN), []))
    rows[0][1].append(instance("person", 0.42, area=9))
    lake.part(RUN, rows)
    lake.record(RUN)
    evaluation(lake, "r2", "m@2", 9, 0.5)
    evaluation(lake, "r1", "m@1", 3, 0.25)
    evaluation(lake, "r3", "m@3", 12, None)
    lake.storage.write(f"{lake.uri}/runs/r4/eval/val/metrics.json", b"{broken")
    code, printed, _ = masklake("plot", lake.uri, "--json", "--out", tmp_path / "lake.png")
    facts = json.loads(printed)
    assert code == 0
    assert facts["statuses"] == {"ok": 10, "missing": 1}
    assert facts["classes"] == {"dog": 10, "person": 1}
    assert (facts["scores"][8], facts["scores"][19], sum(facts["scores"])) == (1, 10, 11)
    assert facts["areas"] == {"8-15": 1, "1024-2047": 10}
    assert facts["run"] == RUN
    assert [rate for _, rate in facts["images_per_second"]] == [2, *[1] * 9]
    assert [(e["model"], e["AP"]) for e in facts["evaluations"]] == [
        ("m@1", {"box": 0.25, "mask": 0.125}), ("m@2", {"box": 0.5, "mask": 0.25}),
    ]  # fmt: skip
    assert Image.open(tmp_path / "lake.png").width > 1_000


def test_a_lake_of_failures_alone(masklake: Masklake, tmp_path: Path) -> None:
    lake = LakeBuilder(str(tmp_path / "lake"))
    lake.part(RUN, [(image("s3://p/x", status="failed", error="no"), [])])
    lake.record(RUN)
    assert masklake("plot", lake.uri, "--out", tmp_path / "x.svg")[:2] == (
        0, f"0 instances of 0 classes plotted: {tmp_path}/x.svg\n",
    )  # fmt: skip
    assert "</svg>" in (tmp_path / "x.svg").read_text()


def test_names_that_are_no_mathematics(masklake: Masklake, tmp_path: Path) -> None:
    lake = LakeBuilder(str(tmp_path / "lake"))
    labels = [f"$\\frac{{{i}}}$ \u202e<b>\x1b[31m" for i in range(40)]
    lake.part(RUN, [(image("s3://p/x"), [instance("dog", 0.5) | {"label": label} for label in labels])])
    lake.record(RUN)
    assert masklake("plot", lake.uri, "--run", "last", "--out", tmp_path / "x.png")[0] == 0
    assert Image.open(tmp_path / "x.png").size[0] > 1_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "name the picture"), (["--out", "x.pdf"], "neither .png nor .svg"), (["--out", "no/folder/x.png"], "cannot write the picture")],
)  # fmt: skip
def test_what_cannot_be_written(
    masklake: Masklake, tmp_path: Path, arguments: list[str], message: str
) -> None:
    lake = LakeBuilder(str(tmp_path / "lake"))
    lake.part(RUN, {"s3://p/x": []})
    lake.record(RUN)
    code, _, error = masklake("plot", lake.uri, *arguments)
    assert code == 2
    assert message in error
