"""The files of a lake as DuckDB sees them: `masklake://lake/PATH`, read-only, and nothing else.

DuckDB's own Parquet reader runs on top, so that it prunes columns and row groups on every storage that
Arrow reaches, without its httpfs extension, which would have to be downloaded.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from fsspec.spec import AbstractFileSystem
from masklake.pipeline.lake.lake import Part

ROOT = "masklake://lake/"

_UNCHANGING = datetime.datetime.fromtimestamp(0, datetime.UTC)


class LakeFiles(AbstractFileSystem):
    """Serves the parts given to `serve`, and no other path.

    `keep_open` is for object storage: an open file there holds no descriptor, and opening it costs a request.
    """

    protocol = "masklake"
    cachable = False

    def __init__(self, arrow_fs: Any, root: str, *, keep_open: bool = False) -> None:
        super().__init__()
        self.keep_open = keep_open
        self.failure: tuple[str, Exception] | None = None
        """(path below the lake, error) of the last read that failed; DuckDB itself reports only a traceback."""
        self.spill: object = None
        """An object that must live as long as the connection that these files are registered with."""
        self._arrow_fs = arrow_fs
        self._root = root.rstrip("/")
        self._open_files: dict[str, Any] = {}
        self._sizes: dict[str, int | None] = {}
        self._memory: dict[str, bytes] = {}

    def serve(self, parts: Iterable[Part]) -> list[str]:
        """Make `parts` readable; their URIs."""
        sizes = {ROOT + part.path: part.size for part in parts}
        self._sizes.update(sizes)
        return list(sizes)

    def serve_bytes(self, path: str, data: bytes) -> list[str]:
        """Make `data` readable as a file; its URI."""
        self._memory[ROOT + path] = data
        self._sizes[ROOT + path] = len(data)
        return [ROOT + path]

    def glob(self, path: str, **_: object) -> list[str]:
        """`path` itself: parts are named exactly, and a `[` in a name is no pattern."""
        return [path] if path in self._sizes else []

    def modified(self, path: str) -> datetime.datetime:
        """A constant: parts never change."""
        return _UNCHANGING

    def size(self, path: str) -> int:
        size = self._sizes[path]
        if size is None:
            reader = self.open(path)
            size = self._sizes[path] = reader.size()
            reader.close()
        return size

    def open(self, path: str, mode: str = "rb", **_: object) -> _Reader:
        if mode != "rb" or path not in self._sizes:
            raise PermissionError(f"{path}: is not a part of the lake")
        return _Reader(self, path)

    def native(self, path: str) -> Any:
        """`path` as an open pyarrow file."""
        if path in self._memory:
            return pa.BufferReader(self._memory[path])
        file = self._open_files.get(path)
        if file is None:
            file = self._arrow_fs.open_input_file(f"{self._root}/{path.removeprefix(ROOT)}")
            if self.keep_open:
                self._open_files[path] = file
        return file


class _Reader:
    """A file that many threads read at once: DuckDB seeks and then reads, with no lock between the two.

    Opened by the first read: DuckDB also opens files whose footer it has kept, and on S3 that costs a request.
    """

    def __init__(self, files: LakeFiles, path: str) -> None:
        self._files = files
        self._path = path
        self._native: Any = None
        self._opening = threading.Lock()
        self._position = threading.local()

    def _file(self) -> Any:
        with self._opening:
            if self._native is None:
                self._native = self._files.native(self._path)
            return self._native

    def size(self) -> int:
        return int(self._file().size())

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0:
            raise ValueError("only positions from the start of the file are asked for")
        self._position.value = offset
        return offset

    def read(self, size: int) -> bytes:
        offset = getattr(self._position, "value", 0)
        try:
            data: bytes = self._file().read_at(size, offset)
        except Exception as error:
            self._files.failure = self._path.removeprefix(ROOT), error
            raise
        self._position.value = offset + len(data)
        return data

    def close(self) -> None:
        if self._native is not None and not self._files.keep_open:
            self._native.close()
