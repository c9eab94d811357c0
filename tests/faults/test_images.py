"""Six hundred broken, odd and hostile files: each ends as one row with a status and a reason; none crashes, hangs or takes memory."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.helpers.decode_worker import DAMAGED, Outcome, outcomes
from tests.helpers.faults.table import counted
from tests.helpers.strange_files import ANY, Strange, strange_files

FILES = strange_files()


@pytest.fixture(scope="module")
def ended() -> Mapping[str, Outcome]:
    """How each file ended, in a process that may die."""
    return outcomes([strange.name for strange in FILES])


def test_there_are_files_of_every_kind() -> None:
    names = [strange.name for strange in FILES]
    assert len(set(names)) == len(names) > 500


@pytest.mark.parametrize("strange", FILES, ids=lambda strange: strange.name)
def test_each_ends_with_a_status_and_a_reason(strange: Strange, ended: Mapping[str, Outcome]) -> None:
    statuses, reasons = ended[strange.name]
    assert set(statuses) <= set(strange.statuses), reasons
    for status, reason in zip(statuses, reasons, strict=True):
        assert bool(reason) == (status != "ok")
        assert len(reason) < 400
        assert "\n" not in reason


def test_none_is_lost(ended: Mapping[str, Outcome]) -> None:
    lost = sum(not set(statuses) <= set(ANY) for statuses, _ in ended.values())
    counted(len(FILES), len(ended), lost=lost, doubled=0, unit="strange files")
    assert (len(ended), lost) == (len(FILES), 0)


def _damage_ends_with_a_status(seeds: range) -> None:
    ended = outcomes([f"{DAMAGED}{seed}" for seed in seeds])
    without = {name: end for name, end in ended.items() if not set(end[0]) <= set(ANY)}
    counted(len(seeds), len(ended), lost=len(without), doubled=0, unit="damaged files")
    assert without == {}


def test_damage_ends_with_a_status() -> None:
    _damage_ends_with_a_status(range(500))


@pytest.mark.slow
def test_a_lot_of_damage_ends_with_a_status() -> None:
    _damage_ends_with_a_status(range(500, 10_000))
