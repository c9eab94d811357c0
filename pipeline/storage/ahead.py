"""Work on many objects, a few at a time, in their order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 16


def ahead(work: Callable[[Item], Result], items: Iterable[Item], at_once: int = AT_ONCE) -> Iterator[Result]:
    """`work(item)` of each of `items`, in their order, by `at_once` threads.

    At most twice as many results wait for the reader, so memory does not grow with the number of items. The first error of
    `work` is raised where its result would have come.
    """
    rest = iter(items)
    with ThreadPoolExecutor(at_once) as threads:
        waiting: deque[Future[Result]] = deque(
            threads.submit(work, item) for item in itertools.islice(rest, 2 * at_once)
        )
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(threads.submit(work, item) for item in itertools.islice(rest, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
