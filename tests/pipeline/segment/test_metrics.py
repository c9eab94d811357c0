"""What is told of runs and trainings, to gauges and counters that only remember."""

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

Told = dict[str, dict[tuple[str, ...], float]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What was told, by the metric's name and its labels' values, in their order."""
    import ray.util.metrics

    values: Told = defaultdict(dict)

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
            at = values[self.info["name"]]
            at[self._at(tags)] = at.get(self._at(tags), 0) + value

    monkeypatch.setattr(ray.util.metrics, "Gauge", Gauge)
    monkeypatch.setattr(ray.util.metrics, "Counter", Counter)
    return values


def snapshot(ok: int, **images: int) -> dict[str, Any]:
    stages = {stage: {"images": n, "batches": 1, "seconds": n / 10} for stage, n in images.items()}
    return {"stages": stages, "counts": {"ok": ok} if ok else {}, "instances": 2 * ok}


def test_counters_rise_by_what_came_since(told: Told) -> None:
    metrics = RunMetrics("r", "m@1")
    for at in (snapshot(0, fetch=8), snapshot(4, fetch=16, decode=8), snapshot(4, fetch=16, decode=8)):
        metrics.update(at, 100, {})
    assert told["masklake_images"] == {("m@1", "ok"): 4}
    assert told["masklake_instances"] == {("m@1",): 8}
    assert told["masklake_stage_images"] == {("m@1", "fetch"): 16, ("m@1", "decode"): 8}
    assert told["masklake_stage_seconds"][("m@1", "fetch")] == pytest.approx(1.6)


def test_a_ledger_that_was_killed_counts_from_nothing_again(told: Told) -> None:
    metrics = RunMetrics("r", "m@1")
    for at in (snapshot(8, fetch=16), snapshot(0), snapshot(2, fetch=4)):
        metrics.update(at, 100, {})
    assert told["masklake_images"] == {("m@1", "ok"): 10}
    assert told["masklake_stage_images"] == {("m@1", "fetch"): 20}


def test_rows_of_earlier_attempts_are_in_the_run_and_not_in_the_counters(told: Told) -> None:
    RunMetrics("r", "m@1").update(snapshot(5), 100, {"ok": 20, "missing": 1})
    assert told["masklake_run_images"][("r", "m@1", "ok")] == 25
    assert told["masklake_run_images"][("r", "m@1", "missing")] == 1
    assert told["masklake_run_images"][("r", "m@1", "failed")] == 0  # every status from the beginning
    assert told["masklake_images"] == {("m@1", "ok"): 5}
    assert told["masklake_run_planned_images"] == {("r", "m@1"): 100}


def test_the_queue_is_what_the_stage_before_is_through_with(told: Told) -> None:
    RunMetrics("r", "m@1").update(snapshot(0, fetch=64, decode=48, infer=50, encode=10), 100, {})
    queue = {key[2]: value for key, value in told["masklake_run_queue_images"].items()}
    assert queue == {"decode": 16, "infer": 0, "encode": 40, "write": 10}  # never below nothing


def test_nothing_is_known_yet(told: Told) -> None:
    metrics = RunMetrics("r", "m@1")
    metrics.update({}, 0, {})
    metrics.ended("failed")
    assert told["masklake_runs"] == {("m@1", "failed"): 1}
    assert set(told["masklake_run_stage_images"].values()) == {0}


def test_gpu_memory_is_told_where_there_is_a_gpu(told: Told) -> None:
    GpuMemory("r", "m@1", read=lambda: None).observe()
    GpuMemory("r", "m@1").observe()  # torch here has none
    assert "masklake_gpu_memory_bytes" not in told
    GpuMemory("r", "m@1", read=lambda: 7).observe()
    assert told["masklake_gpu_memory_bytes"] == {("r", "m@1"): 7}


def test_a_training_that_goes_on_counts_no_step_twice(told: Told) -> None:
    metrics = TrainingMetrics("r")
    for step in (100, 101, 103):  # it was restored at step 100
        metrics.update(step, 8 * step, {"loss_mask": 0.5, "loss": 2.0, "rate": 0.01})
    assert told["masklake_train_steps"] == {(): 3}
    assert told["masklake_train_images"] == {(): 24}
    assert told["masklake_train_step"] == {("r",): 103}
    assert told["masklake_train_loss"] == {("r", "mask"): 0.5, ("r", "loss"): 2.0}
    assert told["masklake_train_learning_rate"] == {("r",): 0.01}


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
    assert [(one["stage"], one["image_id"], one["status"]) for one in lines] == [
        ("fetch", 0, "missing"),
        ("decode", 2, "unreadable"),
    ]
    assert {one["run"] for one in lines} == {"r"}
    assert "abc" not in caplog.text
    assert "secret" not in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)
