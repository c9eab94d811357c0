"""compact and forget, killed at random moments, under readers in a loop: no reader ever counts a row twice or misses one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.store import Storage

from tests.helpers.paths import ROOT
from tests.helpers.tended_lakes import (
    EXACT,
    all_bytes,
    by_published_views,
    by_read_table,
    small_parts,
    uri_of,
)

SEED = int(os.environ.get("SEED", "12"))
GRACE_S = 3.0
"""Longer than a reader takes here."""
GONE = {uri_of(n) for n in (2, 5, 25, 49)}
BEFORE, LEFT = (56, 55), (52, 49)


def command(lake: str, *arguments: str) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-P", "-m", "masklake.jobs.cli", arguments[0], lake, *arguments[1:]]
    return subprocess.Popen(
        [*line, "--grace-minutes", str(GRACE_S / 60)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class Readers:
    """Threads that count the lake's rows until the context ends."""

    def __init__(self, lake: str, right: set[tuple[int, int]]) -> None:
        self._lake, self._right = lake, right
        self._over = threading.Event()
        self.answers: Counter[tuple[str, str]] = Counter()
        readers = EXACT | {"published views": by_published_views, "read_table": by_read_table}
        self._threads = [threading.Thread(target=self._loop, args=reader) for reader in readers.items()]

    def _loop(self, name: str, read: object) -> None:
        while not self._over.is_set():
            try:
                counts = read(self._lake, Storage())  # type: ignore[operator]  # by its name
            except UserError:
                answer = "refused"
            except Exception as error:  # noqa: BLE001  # other programs' own errors for a file that has gone
                answer = "refused" if name in ("published views", "read_table") else repr(error)
            else:
                answer = "right" if counts in self._right else f"wrong {counts}"
            self.answers[name, answer] += 1
            time.sleep(0.05)

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.slow
def test_killed_at_random_moments_under_readers_in_a_loop(tmp_path: Path) -> None:
    chance = random.Random(SEED)  # noqa: S311  # moments, and no secrets
    answers: Counter[tuple[str, str]] = Counter()
    kills = 0
    forget = ("forget", *(word for uri in sorted(GONE) for word in ("--uri", uri)))
    for number, arguments in enumerate([("compact",), forget, ("compact",), forget]):
        lake = str(tmp_path / f"lake-{number}")
        assert small_parts(lake) == BEFORE
        right = {BEFORE, LEFT} if arguments[0] == "forget" else {BEFORE}
        with Readers(lake, right) as readers:
            process = command(lake, *arguments)
            time.sleep(chance.uniform(1.0, 2 * GRACE_S))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
            Path(lake, "locks", "tending.json").unlink(missing_ok=True)  # it is forgotten after a minute
            assert command(lake, *arguments).wait() in (0, 2)  # 2: there is nothing left to forget
        answers += readers.answers
        assert by_read_table(lake, Storage()) == by_published_views(lake, Storage()) == min(right)
        assert not list(Path(lake, "replacing").rglob("*.parquet"))
        if arguments[0] == "forget":
            assert not [
                n for n, data in all_bytes(Path(lake)).items() if any(u.encode() in data for u in GONE)
            ]
    print(f"\nseed {SEED}, {kills} kills")
    for (name, answer), times in sorted(answers.items()):
        print(f"{name:16} {answer:16} {times:5}")
    for name in EXACT:
        assert answers[name, "right"] > 20
        assert {answer for reader, answer in answers if reader == name} <= {"right", "refused"}
