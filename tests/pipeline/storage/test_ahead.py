"""Work on many items, in their order, with few results at a time."""

from __future__ import annotations

import threading

import pytest
from masklake.pipeline.storage.ahead import ahead


def test_in_order_at_once_and_never_far_ahead() -> None:
    begun: list[int] = []
    together = threading.Barrier(4, timeout=30)

    def work(item: int) -> int:
        begun.append(item)
        if item < 4:
            together.wait()  # passes only where four are at work
        return item * item

    for position, result in enumerate(ahead(work, range(1000), 4)):
        assert result == position**2
        assert len(begun) <= position + 1 + 2 * 4
    assert sorted(begun) == list(range(1000))


def test_an_error_comes_where_its_result_would_have_come() -> None:
    results = ahead(lambda item: 6 // (3 - item), iter(range(100)), 2)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(ahead(str, [])) == []
