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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from masklake.pipeline.storage.crash_points import reach
from masklake.pipeline.storage.objects import Fetched, ObjectInfo, TooLargeError

_CONCURRENT_READS = 8


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_SPELLED = re.compile(rb"\\x([89a-f][0-9a-f])")


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
        self._temporary(uri, data).replace(uri)

    def put_new(self, uri: str, data: bytes) -> bool:
        temporary = self._temporary(uri, data)
        try:
            os.link(temporary, uri)
            reach("linked", uri)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

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

    def walk(self, root: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[ObjectInfo]:
        """Files below `root`, a directory at a time, in the order of their paths. Links are followed, except to a
        directory that contains them (`above`: the device and inode of each directory above `root`)."""
        directory = Path(root).stat()
        here = (directory.st_dev, directory.st_ino)
        if here in above:
            return
        with os.scandir(root) as entries:
            # a directory sorts as S3 would sort its keys, so that the order equals that of object storage
            ordered = sorted(entries, key=lambda e: spelled(e.name) + "/" * e.is_dir())
        for entry in ordered:
            if entry.is_dir():
                yield from self.walk(entry.path, above | {here})
            elif entry.is_file():
                with contextlib.suppress(FileNotFoundError):  # deleted since the directory was read
                    yield _info(spelled(entry.path), entry.stat())


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
