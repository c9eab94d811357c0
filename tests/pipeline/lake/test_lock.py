"""Locks: one holder at a time, taken over only from the dead, whatever the clocks say."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake import lock as module
from masklake.pipeline.lake.lock import Lock, LockHeldError
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket

LIFE = 0.6
"""Of locks that are to be lost."""
CALM = 2.4
"""Of locks that are to be kept, on a machine that is busy."""


@pytest.fixture(params=["directory", "moto", pytest.param("rgw", marks=pytest.mark.rgw)])
def lake(request: pytest.FixtureRequest, tmp_path: Path, use_s3: Callable[..., None]) -> str:
    """A lake's URI on each kind of storage."""
    if request.param == "directory":
        return str(tmp_path / "lake")
    host = request.getfixturevalue(f"{request.param}_s3")
    use_s3(host.server)
    bucket = f"lock-{time.time_ns():x}"
    host.server.client().create_bucket(Bucket=bucket)
    return f"s3://{bucket}/lake"


@pytest.fixture(autouse=True)
def _nothing_seen() -> Iterator[None]:
    module._seen.clear()
    yield
    module._seen.clear()


def lock(lake: str, *, life: float = 60.0, what: str = "", token: str | None = None) -> Lock:
    return Lock(lake, "train", Storage(), what=what, ttl=life, token=token)


def content(lake: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(Storage().read(f"{lake}/locks/train.json"))
    return fields


def put(lake: str, **changes: Any) -> None:
    """The lock as another machine may have left it."""
    other = lock(lake, what="nightly")
    other._taken_at = "2026-01-01T00:00:00+00:00"
    Storage().write(f"{lake}/locks/train.json", json.dumps(json.loads(other._content()) | changes).encode())


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.01)


def test_one_holds_it_and_the_next_after_it_was_released(lake: str) -> None:
    first = lock(lake, what="schedule nightly")
    first.acquire()
    with pytest.raises(LockHeldError, match=r"train\.json is held by schedule nightly \(process \d+ on"):
        lock(lake).acquire()
    first.release()
    assert content(lake)["released"]
    with lock(lake) as second:
        assert content(lake)["token"] == second.token
        assert not second.lost
    assert content(lake)["released"]


def test_of_many_at_once_one_takes_it(lake: str) -> None:
    contenders = [lock(lake) for _ in range(12)]
    start = threading.Barrier(len(contenders))

    def take(contender: Lock) -> bool:
        start.wait()
        try:
            contender.acquire()
        except LockHeldError:
            return False
        return True

    for _ in range(3):
        with ThreadPoolExecutor(len(contenders)) as threads:
            won = list(threads.map(take, contenders))
        assert sum(won) == 1
        contenders[won.index(True)].release()
        contenders = [lock(lake) for _ in contenders]


def test_a_living_holder_is_not_robbed(lake: str) -> None:
    with lock(lake, life=CALM) as holder:
        wait_until(lambda: content(lake)["beats"] >= 4)  # longer than its life
        with pytest.raises(LockHeldError):
            lock(lake).acquire()
        assert not holder.lost
    assert content(lake)["token"] == holder.token


def test_what_the_dead_held_is_taken_over(lake: str) -> None:
    put(lake, ttl=0.2, expires_at="2026-01-01T00:00:00+00:00")
    with lock(lake) as heir:
        assert content(lake)["token"] == heir.token


def test_of_many_heirs_one_takes_over(lake: str) -> None:
    put(lake, ttl=0.3, expires_at="2026-01-01T00:00:00+00:00")
    heirs = [lock(lake) for _ in range(6)]

    def take(contender: Lock) -> bool:
        try:
            contender.acquire()
        except LockHeldError:
            return False
        return True

    try:
        with ThreadPoolExecutor(len(heirs)) as threads:
            assert sum(threads.map(take, heirs)) == 1
    finally:
        for heir in heirs:  # one that goes on renewing opens clients of S3 in the midst of other tests
            heir.release()


def test_an_expiry_by_another_machines_clock_robs_nobody(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder's clock is behind: its lock looks long expired, and yet it is renewed."""
    holder = lock(lake, life=CALM)
    monkeypatch.setattr(holder, "_content", _with_expiry(holder, "2020-01-01T00:00:00+00:00"))
    with holder:
        for _ in range(2):
            with pytest.raises(LockHeldError):
                lock(lake).acquire()
        assert not holder.lost


def _with_expiry(holder: Lock, expires_at: str) -> Callable[..., bytes]:
    real = holder._content
    return lambda **options: json.dumps(json.loads(real(**options)) | {"expires_at": expires_at}).encode()


def test_a_holder_whose_clock_was_ahead_is_outlived(lake: str) -> None:
    """Its expiry lies in another century; that it has not moved for a life is what counts."""
    put(lake, ttl=0.1, expires_at="2126-01-01T00:00:00+00:00")
    with pytest.raises(LockHeldError):
        lock(lake).acquire()
    time.sleep(0.2)
    with lock(lake) as heir:
        assert content(lake)["token"] == heir.token


def test_watching_ends_when_asked(lake: str) -> None:
    put(lake, ttl=3600, expires_at="2026-01-01T00:00:00+00:00")
    stop = threading.Event()
    stop.set()
    with pytest.raises(LockHeldError):
        lock(lake).acquire(stop)


def test_a_lock_that_another_took_is_lost(lake: str) -> None:
    holder = lock(lake, life=LIFE)
    holder.acquire()
    put(lake, token="another's")
    wait_until(lambda: holder.lost)
    holder.release()
    assert content(lake)["token"] == "another's"
    assert not content(lake)["released"]


def test_a_lock_that_cannot_be_renewed_is_lost(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = lock(lake, life=LIFE)
    holder.acquire()

    def broken(*_: object) -> bool:
        raise ConnectionError("no route")

    monkeypatch.setattr(Storage, "replace", broken)
    wait_until(lambda: holder.lost)
    monkeypatch.undo()
    holder.release()


def test_a_renewal_whose_answer_got_lost_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = str(tmp_path)
    real = Storage.replace
    unheard: list[bool] = []

    def deaf(self: Storage, uri: str, data: bytes, etag: str) -> bool:
        won = real(self, uri, data, etag)
        if won and len(unheard) < 3:
            unheard.append(True)
            raise ConnectionError("the answer got lost")
        return won

    with lock(lake, life=3.0) as holder:
        monkeypatch.setattr(Storage, "replace", deaf)
        wait_until(lambda: len(unheard) == 3)
        beats = holder._beats
        wait_until(lambda: holder._beats > beats)
        assert not holder._gone


def _held_until_killed(lake: str, token: str) -> None:
    lock(lake, token=token).acquire()
    time.sleep(600)


def test_who_knows_that_the_holder_is_dead_releases_it_by_its_token(tmp_path: Path) -> None:
    lake = str(tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=_held_until_killed, args=(lake, "t" * 16))
    process.start()
    wait_until((tmp_path / "locks" / "train.json").exists)
    process.kill()
    process.join()
    assert not lock(lake).disown()
    assert lock(lake, token="t" * 16).disown()
    with lock(lake):
        pass


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lock name '\.\./x'"):
        Lock(str(tmp_path), "../x", Storage())
    (tmp_path / "locks").mkdir()
    for broken in (b"", b"[]", b'{"host": 1}', b"null"):
        (tmp_path / "locks" / "train.json").write_bytes(broken)
        with pytest.raises(UserError, match="is not a lock"):
            lock(str(tmp_path)).acquire()


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_a_lake_that_cannot_be_written_is_explained(s3_bucket: Bucket, use_s3: Callable[..., None]) -> None:
    use_s3(s3_bucket.guest)
    with pytest.raises(UserError, match="cannot take the lock: permission denied"):
        lock(f"{s3_bucket.uri}/lake").acquire()
