"""Files that go to object storage while they are written: small ones as one object, several at once; large ones in parts.

None is there before it is closed, and none is there half.
"""

from __future__ import annotations

import contextlib
import io
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import Storage

WHOLE_BYTES = 8 * 2**20
"""Up to so many bytes a file is held and sent as one object."""
_PART_BYTES = 32 * 2**20
"""S3 takes 10,000 parts: a file may have 320 GB."""
_AT_ONCE = 16


class ObjectUploads:
    """Sends files. An error of one is raised by the next call, or by `finish`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._threads = ThreadPoolExecutor(_AT_ONCE)
        self._free = threading.Semaphore(_AT_ONCE)
        self._failure: BaseException | None = None
        self.cancelled = False

    def open(self, uri: str) -> UploadedFile:
        """A new file, for bytes."""
        self._raise_failure()
        return UploadedFile(self, uri)

    def send(self, uri: str, data: bytes) -> None:
        """Write an object beside others; it waits while too many are under way."""
        self._raise_failure()
        self._free.acquire()
        self._threads.submit(self._write, uri, data).add_done_callback(self._sent)

    def stream(self, uri: str) -> Any:
        """A file of fsspec, which sends its parts."""
        fs, path = self._storage.filesystem(uri)
        return fs.open(path, "wb", block_size=_PART_BYTES)

    def finish(self) -> None:
        """Wait for all. Raises the error of the first that failed."""
        self._threads.shutdown()
        self._raise_failure()

    def cancel(self) -> None:
        """Send no more: what is open is dropped."""
        self.cancelled = True
        self._threads.shutdown(cancel_futures=True)

    def _write(self, uri: str, data: bytes) -> None:
        with explaining(uri, "write it"):
            self._storage.write(uri, data)

    def _sent(self, future: Future[None]) -> None:
        self._free.release()
        if not future.cancelled():
            self._failure = self._failure or future.exception()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


class UploadedFile(io.RawIOBase):
    """A file to write; it becomes an object when it is closed."""

    def __init__(self, uploads: ObjectUploads, uri: str) -> None:
        super().__init__()
        self._uploads, self._uri = uploads, uri
        self._held = bytearray()
        self._stream: Any = None
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        data = memoryview(data).cast("B")
        if self._uploads.cancelled:
            return len(data)
        self._held += data
        self._written += len(data)
        if self._stream is not None or len(self._held) > WHOLE_BYTES:
            with explaining(self._uri, "write it"):
                self._stream = self._stream or self._uploads.stream(self._uri)
                self._stream.write(bytes(self._held))
            self._held.clear()
        return len(data)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        if self._uploads.cancelled:
            self._drop()
        elif self._stream is None:
            self._uploads.send(self._uri, bytes(self._held))
        else:
            with explaining(self._uri, "write it"):
                self._stream.close()

    def _drop(self) -> None:
        if self._stream is None:
            return
        if hasattr(self._stream, "discard"):
            with contextlib.suppress(OSError):  # the parts stay; a rule of the bucket ends old uploads
                self._stream.discard()
        self._stream.closed = True  # else it would be sent when it is collected
