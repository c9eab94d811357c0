"""Object operations on directories, and on any other filesystem that fsspec opens."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from masklake.pipeline.storage.crash_points import reach
from masklake.pipeline.storage.objects import Fetched, ObjectInfo, TooLargeError

_CONCURRENT_READS = 8


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_SPELLED = re.compile(rb"\\x([89a-f][0-9a-f])")


def at_home(path: str | Path) -> Path:
    """`path` with a leading ~ or ~user as that home. Of nobody's home, ~x is a name as any other; pathlib would raise RuntimeError."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def spelled(path: str) -> str:
    """`path` as URIs are stored and shown: each byte of a name that is not UTF-8 is written as \\xNN."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _openable(path: str) -> str:
    """The path of the existing file that `spelled` writes as `path`; `path` itself where it exists, or no such file does."""
    if "\\x" not in path or os.path.lexists(path):
        return path
    raw = os.fsdecode(_SPELLED.sub(lambda match: bytes.fromhex(match[1].decode()), os.fsencode(path)))
    return raw if os.path.lexists(raw) else path


def _info(path: str, status: os.stat_result) -> ObjectInfo:
    modified = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC)
    return ObjectInfo(path, f"{status.st_mtime_ns:x}-{status.st_size:x}", status.st_size, modified)


class LocalStore:
    """Files under absolute paths. Writes are atomic: a temporary file beside the target, then a rename."""

    conditional: str | None = ""
    """Why conditional writes cannot be relied on; "" where they can be, None where it has to be tried (conditions.py)."""

    def _temporary(self, path: str, data: bytes) -> Path:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")  # as _TEMPORARY
        try:
            temporary.write_bytes(data)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        reach("written aside", path)
        return temporary

    def get_many(self, uris: list[str], max_bytes: int | None = None) -> list[Fetched | Exception]:
        def get(path: str) -> Fetched | Exception:
            try:
                there = Path(_openable(path))
                mode = there.stat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe waits for its writer
                    raise OSError("not a regular file")
                with there.open("rb") as file:
                    info = _info(path, os.fstat(file.fileno()))
                    if max_bytes is not None and info.size is not None and info.size > max_bytes:
                        raise TooLargeError(info.size, max_bytes)
                    return Fetched(file.read(), info.etag, info.size or 0, info.modified)
            except (OSError, ValueError) as error:  # ValueError: a NUL in the name
                return error

        with ThreadPoolExecutor(_CONCURRENT_READS) as threads:
            return list(threads.map(get, uris))

    def read(self, uri: str) -> bytes:
        return Path(uri).read_bytes()

    def write(self, uri: str, data: bytes) -> None:
        self._place(uri, data, lambda temporary: temporary.replace(uri))

    def put_new(self, uri: str, data: bytes) -> bool:
        def link(temporary: Path) -> None:
            try:
                os.link(temporary, uri)
                reach("linked", uri)
            finally:
                temporary.unlink(missing_ok=True)

        try:
            self._place(uri, data, link)
        except FileExistsError:
            return False
        return True

    def _place(self, uri: str, data: bytes, place: Callable[[Path], object]) -> None:
        for last in (False, False, True):
            temporary = self._temporary(uri, data)
            try:
                place(temporary)
            except (
                FileNotFoundError
            ):  # somebody took this writer for dead, and cleared it away (`clear_unfinished`)
                if last:
                    raise
            else:
                return

    def replace(self, uri: str, data: bytes, etag: str) -> bool:
        directory = os.open(Path(uri).parent, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            info = self.stat(uri)
            if info is None or info.etag != etag:
                return False
            self.write(uri, data)
            return True
        finally:
            os.close(directory)

    def stat(self, uri: str) -> ObjectInfo | None:
        try:
            return _info(uri, Path(uri).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def delete(self, uri: str) -> None:
        Path(uri).unlink(missing_ok=True)

    def clear_unfinished(self, folder: str, seconds: float) -> None:
        """Remove the temporary files below `folder` that were last written so many seconds ago."""
        for directory, _, names in os.walk(folder):
            for path in (Path(directory, name) for name in names if _TEMPORARY.fullmatch(name)):
                with contextlib.suppress(
                    FileNotFoundError, PermissionError
                ):  # its writer lives, or is someone else
                    if time.time() - path.stat().st_mtime >= seconds:
                        path.unlink()

    def walk(self, root: str) -> Iterator[ObjectInfo]:
        """Files below `root`, a directory at a time, in the order of their paths. Links are followed, except to a
        directory that contains them. Raises FileNotFoundError or NotADirectoryError where `root` is no directory."""
        levels = [(_identity(root), _ordered(root))]
        while levels:
            entry = next(levels[-1][1], None)
            if entry is None:
                levels.pop()
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted since the directory was read
                if not entry.is_dir():
                    if entry.is_file():
                        yield _info(spelled(entry.path), entry.stat())
                elif (here := _identity(entry.path)) not in [above for above, _ in levels]:
                    levels.append((here, _ordered(entry.path)))

    def folders(self, root: str) -> Iterator[str]:
        """The names of the directories directly below `root`. Raises what `walk` raises."""
        with os.scandir(root) as entries:
            yield from [spelled(entry.name) for entry in entries if entry.is_dir()]

    def walk_for(self, root: str, names: Collection[str]) -> Iterator[ObjectInfo]:
        """Files of one of these names in the directories directly below `root`. Raises what `walk` raises."""
        for folder in sorted(self.folders(root)):
            for name in names:
                path = f"{root}/{folder}/{name}"
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    status = Path(_openable(path)).stat()
                    if stat.S_ISREG(status.st_mode):
                        yield _info(path, status)


def _identity(directory: str) -> tuple[int, int]:
    status = Path(directory).stat()
    return status.st_dev, status.st_ino


def _ordered(directory: str) -> Iterator[os.DirEntry[str]]:
    """The entries, in the order that S3 would give their keys: a directory sorts as if its name ended in a slash."""
    with os.scandir(directory) as entries:
        return iter(sorted(entries, key=lambda e: spelled(e.name) + "/" * e.is_dir()))


def _true_error(error: Exception) -> Exception:
    """`error`, or its real cause: fsspec's HTTP driver raises FileNotFoundError for every failure."""
    cause = error.__cause__ or error.__context__
    if not isinstance(error, FileNotFoundError) or cause is None:
        return error
    status = getattr(cause, "status", None)  # of aiohttp's ClientResponseError
    if status in (404, 410):
        return error
    if status is not None:
        kind = PermissionError if status in (401, 403, 407) else OSError
        return kind(f"HTTP {status} {getattr(cause, 'message', '')}".rstrip())
    import aiohttp

    if isinstance(cause, aiohttp.ClientError | TimeoutError | ConnectionError):
        return OSError(f"no answer: {type(cause).__name__}: {cause}")
    return error


class FsspecStore:
    """Any other fsspec filesystem. `put_new` is as atomic as the filesystem's own exclusive create;
    `replace` compares and then writes, so two writers at the same time can both succeed."""

    conditional: str | None = (
        "what it is written through compares a version and then writes, which two can both pass"
    )

    def __init__(self, fs: Any, protocol: str) -> None:
        self.fs = fs
        self._protocol = protocol

    def _uri(self, path: str) -> str:
        return f"{self._protocol}://{path.lstrip('/')}"

    def _info(self, uri: str, info: dict) -> ObjectInfo:
        modified = info.get("LastModified") or info.get("mtime") or info.get("created") or info.get("updated")
        if isinstance(modified, int | float):
            modified = datetime.datetime.fromtimestamp(modified, datetime.UTC)
        if not isinstance(modified, datetime.datetime):
            modified = None
        etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
        if etag is None and modified is not None:
            etag = f"{modified.timestamp():f}-{info.get('size')}"
        return ObjectInfo(uri, str(etag).strip('"') if etag is not None else None, info.get("size"), modified)

    def get_many(self, uris: list[str], max_bytes: int | None = None) -> list[Fetched | Exception]:
        def get(uri: str) -> Fetched | Exception:
            try:
                info = self._info(uri, self.fs.info(uri))
                if max_bytes is not None and info.size is not None and info.size > max_bytes:
                    raise TooLargeError(info.size, max_bytes)
                data = self.fs.cat_file(uri)
            except Exception as error:  # noqa: BLE001  # drivers raise errors of their own; only this object fails
                return _true_error(error)
            return Fetched(data, info.etag, len(data), info.modified)

        with ThreadPoolExecutor(_CONCURRENT_READS) as threads:
            return list(threads.map(get, uris))

    def read(self, uri: str) -> bytes:
        return self.fs.cat_file(uri)

    def write(self, uri: str, data: bytes) -> None:
        self.fs.makedirs(self.fs._parent(uri), exist_ok=True)
        self.fs.pipe_file(uri, data)

    def put_new(self, uri: str, data: bytes) -> bool:
        if self.fs.exists(uri):
            return False
        self.fs.makedirs(self.fs._parent(uri), exist_ok=True)
        try:
            self.fs.pipe_file(uri, data, mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, uri: str, data: bytes, etag: str) -> bool:
        info = self.stat(uri)
        if info is None or info.etag != etag:
            return False
        self.write(uri, data)
        return True

    def stat(self, uri: str) -> ObjectInfo | None:
        try:
            return self._info(uri, self.fs.info(uri))
        except FileNotFoundError:
            return None

    def delete(self, uri: str) -> None:
        self.fs.rm_file(uri)

    def walk(self, root: str) -> Iterator[ObjectInfo]:
        for _, _, files in self.fs.walk(root, detail=True):
            for name in sorted(files):
                yield self._info(self._uri(files[name]["name"]), files[name])
