"""The fields that records of runs and of trainings share, and how a record is read."""

from __future__ import annotations

import datetime
import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

from masklake.pipeline.errors import UserError
from masklake.pipeline.schema import SCHEMA_VERSION

HEARTBEAT_S = 10.0
SIGN_OF_LIFE_S = 6 * HEARTBEAT_S


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def new_run_id() -> str:
    """An id that sorts by time and that two runs of the same second do not share."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of work in a lake. No field holds a credential; `command` and `options` hold what the user typed."""

    KIND: ClassVar[str] = "a record"
    """The name of the JSON file in errors."""
    REMEDY: ClassVar[str] = "remove it"
    """The remedy when the file is broken, for errors."""

    run: str
    lake: str
    command: list[str]
    options: dict[str, Any]
    versions: dict[str, str]
    state: str = "running"
    attempt: int = 1
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)
    finished_at: str | None = None
    error: str | None = None
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")

    @classmethod
    def parse(cls, data: bytes, uri: str) -> Self:
        """The record in `data`. Raises UserError when it is broken or was written by a newer Masklake."""
        try:
            content = json.loads(data)
            version = content["schema_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise cls._broken(uri, repr(error)) from error
        if not isinstance(version, int):
            raise cls._broken(uri, f"schema_version {version!r}")
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{uri}: written with lake schema {version}, this Masklake knows {SCHEMA_VERSION}; upgrade Masklake"
            )
        names = cls.__dataclass_fields__
        try:
            return cls(**{name: value for name, value in content.items() if name in names})
        except TypeError as error:
            raise cls._broken(uri, str(error)) from error

    @classmethod
    def _broken(cls, uri: str, reason: str) -> UserError:
        return UserError(f"{uri}: is not {cls.KIND} ({reason}); {cls.REMEDY}")

    def taken_over(self, **changes: Any) -> Self:
        """The record for the next attempt, which this process makes."""
        return replace(
            self,
            attempt=self.attempt + 1,
            host=socket.gethostname(),
            pid=os.getpid(),
            updated_at=now(),
            **changes,
        )
