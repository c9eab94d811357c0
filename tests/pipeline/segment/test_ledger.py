"""The ledger's memory of who died over what, without Ray."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest
from masklake.pipeline.segment.ledger import Ledger, Meter, guarded


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


class WorkerDiedError(BaseException):
    """Stands for SIGKILL: no code of the worker runs after it."""


def _rows(*ids: int) -> pa.Table:
    return pa.table({"image_id": pa.array(ids, pa.int64()), "out": ["untouched"] * len(ids)})


def _done(rows: pa.Table) -> pa.Table:
    return rows.set_column(1, "out", pa.array(["done"] * len(rows)))


def _given_up(row: pa.Table, reason: str) -> pa.Table:
    return row.set_column(1, "out", pa.array([reason]))


def _deadly(*poison: int) -> Callable[[pa.Table], pa.Table]:
    def work(rows: pa.Table) -> pa.Table:
        if set(poison) & set(rows["image_id"].to_pylist()):
            raise WorkerDiedError
        return _done(rows)

    return work


def _retried(
    ledger: Ledger, rows: pa.Table, work: Callable[[pa.Table], pa.Table], tries: int = 20
) -> tuple[dict, int]:
    """What comes of it when Ray retries for ever, and how many workers died."""
    for deaths in range(tries):
        try:
            out = guarded(ledger, "infer", rows, work, _given_up)
        except WorkerDiedError:
            continue
        assert out["image_id"].to_pylist() == rows["image_id"].to_pylist()
        return dict(zip(out["image_id"].to_pylist(), out["out"].to_pylist(), strict=True)), deaths
    raise AssertionError("retried for ever")


def test_nothing_dies(ledger: Ledger) -> None:
    out, deaths = _retried(ledger, _rows(3, 1, 2), _done)
    assert (set(out.values()), deaths) == ({"done"}, 0)


@pytest.mark.parametrize("poison", [(1,), (5,), (9,), (1, 9), (1, 5, 9)])
def test_only_the_images_that_kill_are_given_up(ledger: Ledger, poison: tuple[int, ...]) -> None:
    out, deaths = _retried(ledger, _rows(1, 5, 7, 9), _deadly(*poison))
    for image, said in out.items():
        assert said == ("its infer worker was killed 2 times over it alone" if image in poison else "done")
    assert deaths == 1 + 2 * len(poison)


@pytest.mark.parametrize("ids", [(4,), (4, 5, 6)])
def test_a_worker_that_is_killed_from_outside_costs_no_image(ledger: Ledger, ids: tuple[int, ...]) -> None:
    """The kernel, a lost node: once or twice is no proof against an image, not even one that was alone."""
    killed = 0

    def work(rows: pa.Table) -> pa.Table:
        nonlocal killed
        if killed < 2:
            killed += 1
            raise WorkerDiedError
        return _done(rows)

    out, deaths = _retried(ledger, _rows(*ids), work)
    assert (set(out.values()), deaths) == ({"done"}, 2)


def test_a_poison_that_is_alone_in_its_packet(ledger: Ledger) -> None:
    out, deaths = _retried(ledger, _rows(4), _deadly(4))
    assert (out, deaths) == ({4: "its infer worker was killed 2 times over it alone"}, 3)


def test_stages_and_packets_do_not_share_their_dead(ledger: Ledger) -> None:
    with pytest.raises(WorkerDiedError):
        guarded(ledger, "decode", _rows(1, 2), _deadly(1), _given_up)
    assert guarded(ledger, "infer", _rows(1, 2), _done, _given_up)["out"].to_pylist() == ["done"] * 2
    assert guarded(ledger, "decode", _rows(3, 4), _done, _given_up)["out"].to_pylist() == ["done"] * 2


def test_an_exception_is_no_death(ledger: Ledger) -> None:
    """It ends the run by itself, with its reason."""

    def work(rows: pa.Table) -> pa.Table:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        guarded(ledger, "infer", _rows(1), work, _given_up)


def test_nothing_is_remembered_of_work_that_is_done(ledger: Ledger) -> None:
    for first in range(0, 60, 3):
        _retried(ledger, _rows(first, first + 1, first + 2), _deadly(first + 1) if first % 2 else _done)
    assert not ledger._held


def test_no_write_begins_once_it_is_closed(ledger: Ledger) -> None:
    assert ledger.begin_write(0)
    assert ledger.begin_write(8)
    ledger.end_write(0)
    assert ledger.close() == 1
    assert not ledger.begin_write(16)
    assert ledger.close() == 1
    ledger.end_write(8)
    ledger.end_write(16)  # which has not begun
    assert ledger.close() == 0


def test_accounting() -> None:
    ledger = Ledger()
    ledger.report("fetch", {"images": 3, "seconds": 0.5, "bytes": 10})
    ledger.report("fetch", {"images": 2, "seconds": 0.25, "bytes": 1})
    ledger.committed({"ok": 4, "failed": 1}, 9)
    ledger.committed({"ok": 1}, 2)
    snapshot = ledger.snapshot()
    assert snapshot["stages"]["fetch"] == {"images": 5, "seconds": 0.75, "bytes": 11}
    assert snapshot["stages"]["write"] == {}
    assert (snapshot["counts"], snapshot["instances"]) == ({"ok": 5, "failed": 1}, 11)


def test_a_meter_counts_this_process() -> None:
    meter = Meter()
    sum(range(200_000))
    figures = meter.figures(7, bytes=3)
    assert (figures["images"], figures["bytes"]) == (7, 3)
    assert figures["seconds"] > 0
    assert figures["cpu_seconds"] > 0
