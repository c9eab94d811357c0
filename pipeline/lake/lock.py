"""A lock in a lake: of all processes that want to do one kind of work there, on any machine, one holds it at a time.

    LAKE/locks/<name>.json      who holds it, until when

It is taken by a conditional write and renewed by compare-and-set, so it is as safe as `Storage.put_new` and `replace`.
They are safe on directories, S3, GCS and Azure; on storage where they are not (pipeline/storage/conditions.py) no lock is
given. Three rules keep two holders apart, whatever their clocks say:

- The holder renews the lock three times in its life. When it could not renew it for two thirds of the life, or sees
  that another process has taken it, the lock is `lost`, and the holder has the last third to stop its work.
- A process that wants the lock uses its own monotonic clock: it may take over only a lock whose object it has seen
  unchanged for a whole life. `expires_at` is by the holder's clock; it only decides whether watching is worth while.
- To release a lock is to write "released" into it: a delete is not conditional, and could remove the next holder's lock.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.registry import check_name
from masklake.pipeline.storage.conditions import require_conditions
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import Storage, join

TTL_S = 60.0
_LONGEST_TTL_S = 3600.0
"""The file's `ttl` can be any number; no process watches a lock for longer than this."""

_seen: dict[str, tuple[str | None, float]] = {}
"""By the lock's URI: the version (etag) that this process saw last, and when it first saw that version."""
_seen_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The content of a lock's object: which process holds it, for which work, and until when (`ttl` is in seconds)."""

    host: str
    pid: int
    token: str
    what: str
    taken_at: str
    expires_at: str
    ttl: float
    beats: int
    released: bool = False

    def __str__(self) -> str:
        return f"{self.what or 'a process'} (process {self.pid} on {self.host}, since {self.taken_at})"


class LockHeldError(Exception):
    """Another process holds the lock."""

    def __init__(self, uri: str, holder: Holder) -> None:
        super().__init__(f"{uri} is held by {holder}")
        self.holder = holder


def new_token() -> str:
    """A random text by which a holder is told from all others."""
    return secrets.token_hex(8)


class Lock:
    """The lock `name` of a lake, for the work `what`: a context manager that takes the lock and releases it.

    `ttl` is its life in seconds. With `token` the holder can be recognised after its death: see `disown`. Raises UserError
    for a name that cannot be a file's name, and when the storage cannot be used.
    """

    def __init__(
        self,
        lake: str,
        name: str,
        storage: Storage,
        *,
        what: str = "",
        ttl: float = TTL_S,
        token: str | None = None,
    ) -> None:
        check_name(name, "lock")
        self._lake = lake
        self.uri = join(lake, "locks", f"{name}.json")
        self.token = token or new_token()
        self._storage = storage
        self._what = what
        self._ttl = ttl
        self._taken_at = ""
        self._beats = 0
        self._etag: str | None = None
        self._confirmed = 0.0
        self._gone = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def lost(self) -> bool:
        """Whether the work must stop: another process holds the lock, or may soon hold it."""
        return self._gone or _now() - self._confirmed > self._ttl * 2 / 3

    def acquire(self, stop: threading.Event | None = None) -> None:
        """Take the lock. Raises LockHeldError while another process holds it, and UserError on storage that could give it twice.

        Where its holder seems to have died, this watches the lock for up to its life, or until `stop` is set.
        """
        stop = stop or threading.Event()
        self._taken_at = _utc(0)
        with explaining(self.uri, "take the lock"):
            require_conditions(self._lake, self._storage)
        while True:
            began = _now()
            data = self._content()
            with explaining(self.uri, "take the lock"):
                won = self._storage.put_new(self.uri, data)
            if not won:
                holder, etag = self._read()
                if holder is None:
                    continue  # removed by hand since
                if not holder.released and not self._died(holder, etag, stop):
                    raise LockHeldError(self.uri, holder)
                began = _now()
                data = self._content()
                with explaining(self.uri, "take the lock"):
                    won = self._storage.replace(self.uri, data, etag or "")
            if won:
                break
        self._etag = None  # learnt at the first beat
        self._confirmed = began
        self._thread = threading.Thread(target=self._renew, name=f"lock {self.uri}", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Release the lock, if it is still held. When the storage fails, the lock expires instead."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if not self._gone:
            with contextlib.suppress(UserError):
                self.disown()

    def disown(self) -> bool:
        """Release the lock for a dead holder with this token; False where it does not hold the lock.

        Call it only when it is known that the holder's work has ended.
        """
        holder, etag = self._read()
        if holder is None or holder.token != self.token or holder.released:
            return False
        self._taken_at = holder.taken_at
        with explaining(self.uri, "release the lock"):
            return self._storage.replace(self.uri, self._content(released=True), etag or "")

    def _died(self, holder: Holder, etag: str | None, stop: threading.Event) -> bool:
        """Whether the lock stayed unchanged for its whole life; it is watched for that long where this is possible."""
        life = min(max(holder.ttl, 0.0), _LONGEST_TTL_S)
        while True:
            with _seen_lock:
                version, first = _seen.get(self.uri, (None, 0.0))
                if version != etag:
                    first = _now()
                    _seen[self.uri] = (etag, first)
            left = first + life - _now()
            if left <= 0:
                return True
            if holder.expires_at > _utc(0) or stop.wait(min(left, life / 6)):
                return False
            current, etag = self._read()
            if current is None or current.released:
                return True  # whether it can be taken is decided by the compare-and-set, or by the next look
            if current.token != holder.token or current.beats != holder.beats:
                return False

    def _renew(self) -> None:
        wait = self._ttl / 3
        while not self._stop.wait(wait):
            began = _now()
            try:
                won = self._beat()
            except Exception:  # noqa: BLE001  # storage drivers raise errors of their own; `lost` is true if it lasts
                wait = self._ttl / 12
                continue
            if not won:
                self._gone = True
                return
            self._confirmed = began
            wait = self._ttl / 3

    def _beat(self) -> bool:
        """Renew the lock; False when another process holds it."""
        if self._etag is None:
            holder, self._etag = self._read()
            if holder is None or holder.token != self.token or holder.released:
                return False
        self._beats += 1
        # Whether this succeeds or fails, and even if the answer is lost: the version has to be read again.
        etag, self._etag = self._etag, None
        if self._storage.replace(self.uri, self._content(), etag or ""):
            return True
        holder, self._etag = self._read()
        return holder is not None and holder.token == self.token and not holder.released

    def _read(self) -> tuple[Holder | None, str | None]:
        with explaining(self.uri, "read the lock"):
            try:
                fetched = self._storage.fetch(self.uri)
            except FileNotFoundError:
                return None, None
        return _parse(fetched.data, self.uri), fetched.etag

    def _content(self, *, released: bool = False) -> bytes:
        holder = Holder(
            host=socket.gethostname(),
            pid=os.getpid(),
            token=self.token,
            what=self._what,
            taken_at=self._taken_at,
            expires_at=_utc(self._ttl),
            ttl=self._ttl,
            beats=self._beats,
            released=released,
        )
        return json.dumps(asdict(holder), indent=1).encode()


def _parse(data: bytes, uri: str) -> Holder:
    try:
        content: dict[str, Any] = json.loads(data)
        return Holder(
            host=str(content["host"]),
            pid=int(content["pid"]),
            token=str(content["token"]),
            what=str(content["what"]),
            taken_at=str(content["taken_at"]),
            expires_at=str(content["expires_at"]),
            ttl=float(content["ttl"]),
            beats=int(content["beats"]),
            released=bool(content["released"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{uri}: is not a lock ({error!r}); if nothing of that name runs, remove it"
        ) from error


def _utc(ahead: float) -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead)
    return moment.isoformat(timespec="seconds")


def _now() -> float:
    """Seconds on a clock that nobody sets; where the system has such a clock, it also runs while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
