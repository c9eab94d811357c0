"""A bucket of small images, a lake in it, and drivers that work on it and are disturbed."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

import psutil
from masklake.pipeline.lake.record import new_run_id
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.segment.proof import verify
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket
from tests.helpers.faults.processes import Driver, driving
from tests.helpers.images import solid
from tests.helpers.runs import assert_exactly_once, colour

_OWN = re.compile(
    r"lake/(?:(?:images|instances)/run=[^/]+/part-[^/]+\.parquet|runs/[^/]+/(?:run\.json|options\.toml|attempts/\d{6}\.json"
    r"|(?:manifest|covered)/(?:part-\d{6}\.parquet|complete\.json)))"
)
"""What a run leaves in its lake."""


@dataclass(frozen=True)
class Setting:
    """A bucket of images and a lake in it."""

    bucket: Bucket
    run: str
    uris: list[str]

    @property
    def source(self) -> str:
        return f"{self.bucket.uri}/photos/"

    @property
    def lake(self) -> str:
        return f"{self.bucket.uri}/lake"

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.lake, self.run, Storage())

    def drive(self, *options: object) -> contextlib.AbstractContextManager[Driver]:
        """`tests.helpers.faults.driver` with these options, in a process of its own."""
        return driving(self.source, self.lake, self.run, *options)

    def committed(self) -> int:
        """Parts of `images` in the lake."""
        return len(self.bucket.all_keys(f"lake/images/run={self.run}/"))

    def await_commits(self, driver: Driver, parts: int) -> None:
        driver.wait_until(lambda: self.committed() >= parts)

    def listed(self) -> list[str]:
        return self.bucket.all_keys(f"lake/runs/{self.run}/manifest/")

    def assert_whole(self) -> None:
        """Each image once, each instance counted, and no file that is not the run's."""
        assert_exactly_once(self.lake, self.run, self.uris)
        assert [key for key in self.bucket.all_keys("lake/") if not _OWN.fullmatch(key)] == []

    def finish(self, *options: object, attempt: int | None = 2) -> dict[str, Any]:
        """Resume, and prove that nothing is lost or doubled. `attempt` None: whichever it is."""
        with self.drive("--resume", *options) as driver:
            result = driver.result()
            assert driver.process.returncode == 0, result
        assert (result["state"], result["error"]) == ("complete", None)
        assert attempt in (None, result["attempt"])
        self.assert_whole()
        record = self.folder.load()
        assert record.state == "complete"
        assert record.counts == result["counts"]
        assert sum(record.counts.values()) == len(self.uris)
        before = self.bucket.all_keys("lake/")
        again = verify(self.folder, len(self.uris), record.attempt)
        assert (again.missing, again.doubled, again.mismatched) == (0, 0, 0)
        assert self.bucket.all_keys("lake/") == before
        return result

    def whole_in_one_attempt(self, driver: Driver) -> dict[str, Any]:
        """What the driver says at its end: it has come through by itself."""
        result = driver.result()
        assert (result["state"], result["error"], result["attempt"]) == ("complete", None, 1)
        proven = {"images": len(self.uris), "missing": 0, "doubled": 0, "mismatched": 0, "forgotten": 0}
        assert result["verification"] == proven
        self.assert_whole()
        return result


def new_setting(bucket: Bucket, n: int) -> Setting:
    """`n` images in `bucket`."""
    keys = [f"photos/{i:05d}.png" for i in range(n)]
    for i, key in enumerate(keys):
        bucket.put(key, solid(colour(i), (12, 8)))
    return Setting(bucket, new_run_id(), [f"{bucket.uri}/{key}" for key in keys])


def title(process: psutil.Process) -> str:
    """The command line, by which Ray's processes are known."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return "Agent, or whatever it was"
