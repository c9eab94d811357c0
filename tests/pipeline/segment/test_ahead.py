"""What is on its way is bounded, and no count that is lost stops a run."""

from __future__ import annotations

from masklake.pipeline.segment.ahead import Ahead
from masklake.pipeline.segment.ledger import Ledger


def filled(most: int = 16) -> Ahead:
    """With `most` handed out at 0 s, and nothing inferred."""
    ahead = Ahead(most)
    assert ahead.has_room(0, 0.0)
    ahead.hand_out(most)
    assert not ahead.has_room(0, 1.0)
    return ahead


def test_what_is_inferred_makes_room() -> None:
    ahead = filled()
    assert ahead.has_room(8, 2.0)
    ahead.hand_out(8)
    assert not ahead.has_room(8, 3.0)


def test_a_ledger_that_was_killed_is_followed_by_one_that_takes_all_for_done() -> None:
    ahead, first = filled(), Ledger()
    first.pace(0)
    first.add_inferred(8)
    assert first.pace(ahead.handed_out) == (8, False)
    second = Ledger()
    assert ahead.has_room(second.pace(ahead.handed_out)[0], 3.0)
    ahead.hand_out(16)
    assert not ahead.has_room(second.pace(ahead.handed_out)[0], 4.0)


def test_a_count_that_is_lost_stops_nothing_for_ever() -> None:
    """All that was on its way was inferred, and the ledger killed before anybody looked."""
    ahead = filled()
    assert not ahead.has_room(0, 120.0)
    assert ahead.has_room(0, 121.0)
    ahead.hand_out(16)
    assert not ahead.has_room(0, 122.0)
    assert ahead.has_room(16, 123.0)


def test_a_slow_predictor_is_waited_for() -> None:
    """Nothing is taken for lost before five times its longest time, or a quarter of an hour."""
    ahead = filled()
    assert ahead.has_room(8, 100.0)
    ahead.hand_out(8)
    assert not ahead.has_room(8, 599.0)
    assert ahead.has_room(8, 601.0)
    ahead.hand_out(16)
    assert not ahead.has_room(8, 1500.0)
    assert ahead.has_room(8, 1502.0)


def test_a_source_that_is_started_again_goes_on_after_a_ledger_was_killed() -> None:
    """It hands out all from the beginning, and the ledger has counted all that was done."""
    source, ledger = Ahead(16), Ledger()
    source.hand_out(100)
    ledger.pace(source.handed_out)
    again, seconds = Ahead(16), 0.0
    while again.handed_out < 112:
        seconds += 1.0
        assert again.has_room(ledger.pace(again.handed_out)[0], seconds)
        again.hand_out(4)
    assert again.has_room(ledger.pace(again.handed_out)[0], seconds)
    again.hand_out(4)
    assert not again.has_room(ledger.pace(again.handed_out)[0], seconds)
