"""gs:// and az://: what is read and listed, and that of two writers on one condition one wins."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lock import Lock, LockHeldError
from masklake.pipeline.storage import store as store_module
from masklake.pipeline.storage.conditions import require_conditions
from masklake.pipeline.storage.objects import Fetched, TooLargeError
from masklake.pipeline.storage.store import Storage

from tests.helpers.servers.azurite import azurite
from tests.helpers.servers.gcs import Gcs, gcs_server


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of its own for each server."""
    store_module._cloud_store.cache_clear()


@pytest.fixture(params=["gs", "az"])
def lake(request: pytest.FixtureRequest, fresh: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "gs":
        with gcs_server() as server:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
            yield "gs://bucket/lake"
    else:
        with azurite() as server:
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            server.make_container("bucket")
            yield "az://bucket/lake"


KEYS = [
    "a.jpg",
    "with space.jpg",
    "100%.jpg",
    "a?b=c#d.jpg",
    "a+b.jpg",
    "日本/写真 😀.jpg",
    "sub/glob*[x].jpg",
]


def test_objects_are_written_read_listed_and_removed(lake: str) -> None:
    storage = Storage()
    for key in KEYS:
        storage.write(f"{lake}/{key}", key.encode())
    assert storage.list(lake) == sorted(f"{lake}/{key}" for key in KEYS)
    fetched = storage.get_many([f"{lake}/{key}" for key in [*KEYS, "none.jpg"]])
    assert [answer.data.decode() for answer in fetched[:-1] if isinstance(answer, Fetched)] == KEYS
    assert isinstance(fetched[-1], FileNotFoundError)
    listed = {info.uri: info for info in storage.walk(lake)}
    for key, answer in zip(KEYS, fetched, strict=False):
        assert isinstance(answer, Fetched)
        info = listed[f"{lake}/{key}"]
        assert (info.etag, info.size) == (answer.etag, answer.size)
    (large,) = storage.get_many([f"{lake}/a.jpg"], max_bytes=2)
    assert isinstance(large, TooLargeError)
    storage.delete(f"{lake}/a.jpg")
    storage.delete(f"{lake}/a.jpg")  # gone already
    assert not storage.exists(f"{lake}/a.jpg")


def test_of_many_writers_on_one_condition_one_wins(lake: str) -> None:
    storage = Storage()
    uri = f"{lake}/one.json"
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda n: storage.put_new(uri, f"new {n}".encode()), range(16)))
        assert sum(won) == 1
        assert storage.read(uri) == f"new {won.index(True)}".encode()
        info = storage.stat(uri)
        assert info is not None
        assert info.etag is not None
        etag = info.etag
        won = list(threads.map(lambda n: storage.replace(uri, f"next {n}".encode(), etag), range(16)))
        assert sum(won) == 1
    assert storage.read(uri) == f"next {won.index(True)}".encode()
    assert not storage.replace(f"{lake}/gone.json", b"x", etag)


def test_a_lock_is_held_by_one(lake: str) -> None:
    with Lock(lake, "segment", Storage()), pytest.raises(LockHeldError):
        Lock(lake, "segment", Storage()).acquire()
    with Lock(lake, "segment", Storage()):
        pass


def test_arrow_reads_there_too(lake: str) -> None:
    import pyarrow as pa
    from masklake.pipeline.storage import parquet

    table = pa.table({"n": [1, 2, 3]})
    parquet.write_table(table, f"{lake}/t.parquet", Storage())
    fs, path = Storage().arrow(f"{lake}/t.parquet")
    assert pa.parquet.read_table(path, filesystem=fs) == table


@pytest.fixture
def careless(fresh: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gcs]:
    """A server that takes conditions and does not heed them."""
    with gcs_server(heeds=False) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


def test_where_conditions_are_ignored_nothing_is_locked(careless: Gcs) -> None:
    with pytest.raises(UserError, match="ignores the condition of a write that must be the first"):
        require_conditions("gs://bucket/careless", Storage())
    with pytest.raises(UserError, match="only one may do at a time is refused"):
        Lock("gs://bucket/careless", "segment", Storage()).acquire()
    assert careless.objects == {}  # nothing is left behind


def test_what_another_driver_opens_is_not_locked() -> None:
    with pytest.raises(UserError, match="compares a version and then writes"):
        require_conditions("memory://lake", Storage())


def test_a_folder_needs_no_trial(tmp_path: object) -> None:
    require_conditions(str(tmp_path), Storage())


@pytest.mark.parametrize("status", [403, 401])
def test_a_refusal_is_no_missing_object(careless: Gcs, status: int) -> None:
    careless.status = status
    (fetched,) = Storage().get_many(["gs://bucket/a.jpg"])
    assert isinstance(fetched, PermissionError)
