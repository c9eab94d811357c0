"""The metrics of runs and trainings, with gauges and counters that only remember their values."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest
from masklake.pipeline.segment.failure_log import log_failures
from masklake.pipeline.segment.metrics import GpuMemory, RunMetrics
from masklake.pipeline.train.metrics import TrainingMetrics

Values = dict[str, dict[tuple[str, ...], float]]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Values:
    """The values set, by the metric's name and the values of its labels, in their order."""
    import ray.util.metrics

    values: Values = defaultdict(dict)

    class Metric:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = ()) -> None:
            assert description
            self.info = {"name": name}
            self._keys = tag_keys

        def _at(self, tags: dict[str, str] | None) -> tuple[str, ...]:
            assert set(tags or {}) == set(self._keys)
            return tuple((tags or {})[key] for key in self._keys)

    class Gauge(Metric):
        def set(self, value: float, tags: dict[str, str] | None = None) -> None:
            values[self.info["name"]][self._at(tags)] = value

    class Counter(Metric):
        def inc(self, value: float, tags: dict[str, str] | None = None) -> None:
            assert value > 0, "Ray refuses it"
            figures = values[self.info["name"]]
            figures[self._at(tags)] = figures.get(self._at(tags), 0) + value

    monkeypatch.setattr(ray.util.metrics, "Gauge", Gauge)
    monkeypatch.setattr(ray.util.metrics, "Counter", Counter)
    return values


def snapshot(ok: int, **images: int) -> dict[str, Any]:
    stages = {stage: {"images": n, "batches": 1, "seconds": n / 10} for stage, n in images.items()}
    return {"stages": stages, "counts": {"ok": ok} if ok else {}, "instances": 2 * ok}


def test_counters_rise_by_what_came_since(exported: Values) -> None:
    metrics = RunMetrics("r", "m@1")
    for figures in (snapshot(0, fetch=8), snapshot(4, fetch=16, decode=8), snapshot(4, fetch=16, decode=8)):
        metrics.update(figures, 100, {})
    assert exported["masklake_images"] == {("m@1", "ok"): 4}
    assert exported["masklake_instances"] == {("m@1",): 8}
    assert exported["masklake_stage_images"] == {("m@1", "fetch"): 16, ("m@1", "decode"): 8}
    assert exported["masklake_stage_seconds"][("m@1", "fetch")] == pytest.approx(1.6)


def test_a_ledger_that_was_killed_counts_from_nothing_again(exported: Values) -> None:
    metrics = RunMetrics("r", "m@1")
    for figures in (snapshot(8, fetch=16), snapshot(0), snapshot(2, fetch=4)):
        metrics.update(figures, 100, {})
    assert exported["masklake_images"] == {("m@1", "ok"): 10}
    assert exported["masklake_stage_images"] == {("m@1", "fetch"): 20}


def test_rows_of_earlier_attempts_are_in_the_run_and_not_in_the_counters(exported: Values) -> None:
    RunMetrics("r", "m@1").update(snapshot(5), 100, {"ok": 20, "missing": 1})
    assert exported["masklake_run_images"][("r", "m@1", "ok")] == 25
    assert exported["masklake_run_images"][("r", "m@1", "missing")] == 1
    assert exported["masklake_run_images"][("r", "m@1", "failed")] == 0  # every status from the beginning
    assert exported["masklake_images"] == {("m@1", "ok"): 5}
    assert exported["masklake_run_planned_images"] == {("r", "m@1"): 100}


def test_the_queue_is_what_the_stage_before_is_through_with(exported: Values) -> None:
    RunMetrics("r", "m@1").update(snapshot(0, fetch=64, decode=48, infer=50, encode=10), 100, {})
    queue = {key[2]: value for key, value in exported["masklake_run_queue_images"].items()}
    assert queue == {"decode": 16, "infer": 0, "encode": 40, "write": 10}  # never below nothing


def test_nothing_is_known_yet(exported: Values) -> None:
    metrics = RunMetrics("r", "m@1")
    metrics.update({}, 0, {})
    metrics.ended("failed")
    assert exported["masklake_runs"] == {("m@1", "failed"): 1}
    assert set(exported["masklake_run_stage_images"].values()) == {0}


def test_gpu_memory_is_exported_where_there_is_a_gpu(exported: Values) -> None:
    GpuMemory("r", "m@1", read=lambda: None).observe()
    GpuMemory("r", "m@1").observe()  # torch here has none
    assert "masklake_gpu_memory_bytes" not in exported
    GpuMemory("r", "m@1", read=lambda: 7).observe()
    assert exported["masklake_gpu_memory_bytes"] == {("r", "m@1"): 7}


def test_a_training_that_goes_on_counts_no_step_twice(exported: Values) -> None:
    metrics = TrainingMetrics("r")
    for step in (100, 101, 103):  # it was restored at step 100
        metrics.update(step, 8 * step, {"loss_mask": 0.5, "loss": 2.0, "rate": 0.01})
    assert exported["masklake_train_steps"] == {(): 3}
    assert exported["masklake_train_images"] == {(): 24}
    assert exported["masklake_train_step"] == {("r",): 103}
    assert exported["masklake_train_loss"] == {("r", "mask"): 0.5, ("r", "loss"): 2.0}
    assert exported["masklake_train_learning_rate"] == {("r",): 0.01}


def rows(*statuses: str) -> pa.Table:
    errors = [
        None if status == "ok" else "its URL https://h/p?X-Amz-Signature=abc fails" for status in statuses
    ]
    return pa.table(
        {
            "image_id": range(len(statuses)),
            "uri": [f"https://user:secret@host/{i}.jpg\n" for i in range(len(statuses))],
            "status": pa.array(statuses, pa.string()),
            "error": pa.array(errors, pa.string()),
        }
    )


def test_an_image_is_logged_where_it_fails_once_and_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    listed = rows("ok").drop_columns(["status", "error"])
    with caplog.at_level(logging.WARNING, "masklake.images"):
        log_failures("r", "fetch", listed, rows("ok", "ok"))
        log_failures("r", "fetch", listed, rows("missing", "ok", "ok"))
        log_failures("r", "decode", rows("missing", "ok", "ok"), rows("missing", "ok", "unreadable"))
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    assert [(line["stage"], line["image_id"], line["status"]) for line in lines] == [
        ("fetch", 0, "missing"),
        ("decode", 2, "unreadable"),
    ]
    assert {line["run"] for line in lines} == {"r"}
    assert "abc" not in caplog.text
    assert "secret" not in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)
