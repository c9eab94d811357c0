"""No credential leaves the environment: after a tour of the commands the bytes of everything they left are searched."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from masklake.model import scenes

from tests.conftest import Bucket, CliResult

pytestmark = pytest.mark.slow

TOKEN = "sentinel-session-token-7f3a"  # it is looked for, and opens nothing
WRONG = "sentinel-wrong-secret-91bc"
TINY = ("--backbone", "tiny", "--batch-size", "4", "--steps", "4", "--name", "t", "--precision", "float32")


class Watch:
    """Looks, as long as commands run, into what they write for a while only, and at how processes are called."""

    def __init__(self, folder: Path, secrets: list[bytes]) -> None:
        self.folder, self.secrets, self.leaks = folder, secrets, set[str]()
        self.looked = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.look()

    def look(self) -> None:
        for path in [*self.folder.rglob("*"), *Path("/proc").glob("[0-9]*/cmdline")]:
            try:
                data = path.read_bytes() if path.is_file() else b""
            except OSError:  # gone meanwhile
                continue
            self.check(str(path), data)

    def check(self, name: str, data: bytes) -> None:
        self.looked += bool(data)
        if any(secret in data for secret in self.secrets):
            self.leaks.add(name)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Sockets of Ray have names of at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="ml-", dir="/tmp"))  # as above
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def values(data: bytes) -> bytes:
    """All that a Parquet file says, uncompressed."""
    file = pq.ParquetFile(io.BytesIO(data))
    return repr((file.metadata.metadata, file.schema_arrow.metadata, file.read().to_pydict())).encode()


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_a_tour_of_the_commands_leaves_no_credential(
    s3_bucket: Bucket, tmp_path: Path, run_cli: object, short_folder: Path
) -> None:
    assert callable(run_cli)
    server = s3_bucket.server
    truth = scenes.write(tmp_path / "scenes", 8, 3)
    for photo in (tmp_path / "scenes").glob("*.jpg"):
        s3_bucket.put(f"photos/{photo.name}", photo.read_bytes())
    s3_bucket.put("photos/broken.jpg", b"\xff\xd8 no more")
    source, lake = f"{s3_bucket.uri}/photos/", f"{s3_bucket.uri}/lake"
    (tmp_path / "home").mkdir()
    env = {"HOME": str(tmp_path / "home"), "TMPDIR": str(short_folder), "RAY_TMPDIR": str(short_folder)}
    secrets = [server.access_key, server.secret_key, TOKEN, WRONG]
    with Watch(short_folder, [secret.encode() for secret in secrets]) as watch:

        def ran(*args: str | Path, codes: tuple[int, ...] = (0,), **more: str) -> None:
            result = run_cli(*args, env=env | more)
            assert isinstance(result, CliResult)
            watch.check(f"what {args} printed", (result.stdout + result.stderr).encode())
            assert result.code in codes, (args, result)

        ran("segment", source, lake, "--model", "demo", "--actors", "1", "--debug")
        ran("runs", lake, "--json")
        ran("runs", "show", lake, "last", "--json")
        ran("query", "select * from images", "--lake", lake, "--json")
        ran("query", "select * from getenv('AWS_SECRET_ACCESS_KEY')", "--lake", lake, codes=(2,))
        ran("query", "select * from duckdb_secrets()", "--lake", lake, codes=(0, 2))
        ran("query", "select * from duckdb_settings()", "--lake", lake, codes=(0, 2))
        ran("labels", "import", truth, lake, "--uri-prefix", source)
        ran("labels", "stats", lake)
        ran("labels", "check", lake, codes=(0, 1))
        ran("labels", "export", lake, tmp_path / "labels.json")
        ran("review", lake, "--out", tmp_path / "tasks.json", "--again")
        ran("review", lake, "--again", "--dry-run")
        ran("train", lake, *TINY)
        ran("models", "list", lake)
        ran("eval", lake, "--split", "all")
        at = ("--store", tmp_path / "schedules.db")
        ran("schedule", "add", "nightly", "--cron", "0 3 * * *", *at, "--", "runs", lake)
        ran("schedule", "run-now", "nightly", *at)
        ran("schedule", "history", *at)
        # And where it goes wrong.
        wrong = {"AWS_SECRET_ACCESS_KEY": WRONG, "AWS_SESSION_TOKEN": TOKEN}
        ran("segment", source, lake, "--model", "demo", codes=(1, 2), **wrong)
        ran("query", "select 1 from images", "--lake", lake, "--debug", codes=(1, 2), **wrong)
        ran("train", lake, *TINY, codes=(1, 2), **wrong)
        ran("segment", source, lake, "--endpoint-url", "http://127.0.0.1:9", "--model", "demo", codes=(1, 2))
        for key in s3_bucket.all_keys():
            data = s3_bucket.get(key)
            watch.check(key, data)
            if key.endswith(".parquet"):
                watch.check(f"{key}, uncompressed", values(data))
        for path in tmp_path.rglob("*"):
            if path.is_file():
                watch.check(str(path), path.read_bytes())
        assert server.secret_key in os.environ.values()  # they had it
    assert watch.looked > 1000
    assert watch.leaks == set()
