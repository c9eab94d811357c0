"""An S3 server that holds more objects than a disk would: `python -m tests.helpers.servers.simulated_s3 --keys N [--folder DIR]`.

Bucket `big` has N images that are computed, not stored: key i is `photos/FFFFF/IIIIIIIII.jpg`, with folders of `--per-folder`
keys, and every one of them is the same small JPEG. Bucket `lake` is the directory DIR, to be read and written. `--latency`
seconds pass before each answer, as on a network. It answers what listing and reading need: ListObjectsV2 in pages of 1,000 keys, HEAD,
GET with ranges, PUT with If-None-Match and If-Match, DELETE. Signatures are not looked at: for the loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from masklake.jobs.demo.loopback_s3 import HOST, LoopbackS3
from PIL import Image

PAGE_KEYS = 1000
MODIFIED = "2026-11-28T04:22:34.000Z"
_HTTP_DATE = "Sat, 28 Nov 2026 04:22:34 GMT"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def computed_key(number: int, per_folder: int) -> str:
    """The key of object `number` of the bucket `big`; keys sort by number."""
    return f"photos/{number // per_folder:05d}/{number:09d}.jpg"


def computed_etag(number: int) -> str:
    """Its ETag: 32 hexadecimal digits that no two objects share."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}"


def jpeg() -> bytes:
    """The content of every object of the bucket `big`."""
    data = io.BytesIO()
    Image.new("RGB", (32, 32), (201, 40, 40)).save(data, "JPEG")
    return data.getvalue()


@dataclass(frozen=True)
class Computed:
    """Bucket `big`."""

    keys: int
    per_folder: int
    content: bytes

    def __len__(self) -> int:
        return self.keys

    def __getitem__(self, position: int) -> str:
        if position >= self.keys:
            raise IndexError(position)
        return computed_key(position, self.per_folder)

    def described(self, key: str) -> tuple[str, int]:
        return computed_etag(int(key[-13:-4])), len(self.content)

    def read(self, key: str) -> bytes | None:
        position = bisect.bisect_left(self, key)
        return self.content if position < self.keys and self[position] == key else None


class Folder:
    """Bucket `lake`: the files of a directory, whose names are read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> str:
        return self.names[position]

    def described(self, key: str) -> tuple[str, int]:
        status = (self.root / key).stat()
        return f"{status.st_mtime_ns:032x}", status.st_size

    def read(self, key: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return (self.root / key).read_bytes()
        return None

    def write(self, key: str, content: bytes, headers: dict[str, str]) -> int:
        old = self.read(key)
        if (headers.get("if-none-match") and old is not None) or (
            headers.get("if-match")
            and (old is None or self.described(key)[0] != headers["if-match"].strip('"'))
        ):
            return 412
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(content)
        if old is None:
            bisect.insort(self.names, key)
        return 200

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.root / key).unlink()
            del self.names[bisect.bisect_left(self.names, key)]


Bucket = Computed | Folder


def page(name: str, bucket: Bucket, query: dict[str, list[str]], largest: int = PAGE_KEYS) -> bytes:
    """A page of ListObjectsV2 in the XML that S3 answers with."""
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    after = max(query.get("start-after", [""])[0], query.get("continuation-token", [""])[0])
    largest = min(largest, int(query.get("max-keys", [str(largest)])[0]))
    position = max(bisect.bisect_left(bucket, prefix), bisect.bisect_right(bucket, after))
    entries: list[str] = []
    last = after
    while len(entries) < largest and position < len(bucket) and (key := bucket[position]).startswith(prefix):
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            last = prefix + rest[: rest.index(delimiter) + 1]
            position = bisect.bisect_left(bucket, last + "\U0010ffff")
            if last > after or not after.startswith(last):
                entries.append(f"<CommonPrefixes><Prefix>{quote(last)}</Prefix></CommonPrefixes>")
            last += "\U0010ffff"
            continue
        etag, size = bucket.described(key)
        entries.append(
            f"<Contents><Key>{quote(key)}</Key><LastModified>{MODIFIED}</LastModified><ETag>&quot;{etag}&quot;</ETag>"
            f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
        last, position = key, position + 1
    more = position < len(bucket) and bucket[position].startswith(prefix)
    token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{name}</Name><Prefix>{quote(prefix)}</Prefix><KeyCount>{len(entries)}</KeyCount><MaxKeys>{largest}</MaxKeys>"
        f"<EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(entries)}</ListBucketResult>"
    ).encode()


class Server:
    """The connections of one process."""

    def __init__(self, buckets: dict[str, Bucket], latency: float) -> None:
        self.buckets, self.latency = buckets, latency

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ", 2)
                pairs = (line.partition(":") for line in head[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                if headers.get("expect", "").lower() == "100-continue":  # else the client sends no body
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    await writer.drain()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if self.latency:
                    await asyncio.sleep(self.latency)
                writer.write(self.answer(method, target, headers, body))
                await writer.drain()
        writer.close()

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
        url = urlsplit(target)
        name, _, key = unquote(url.path).lstrip("/").partition("/")
        bucket = self.buckets.get(name)
        if bucket is None:
            return _answer(404, _error("NoSuchBucket"))
        if not key:
            return _answer(200, b"" if method == "HEAD" else page(name, bucket, parse_qs(url.query)))
        if method == "PUT" and isinstance(bucket, Folder):
            status = bucket.write(key, body, headers)
            return _answer(status, b"" if status == 200 else _error("PreconditionFailed"))
        if method == "DELETE" and isinstance(bucket, Folder):
            bucket.delete(key)
            return _answer(204, b"")
        content = bucket.read(key)
        if content is None:
            return _answer(404, b"" if method == "HEAD" else _error("NoSuchKey"))
        extra = (
            f'ETag: "{bucket.described(key)[0]}"\r\nLast-Modified: {_HTTP_DATE}\r\nAccept-Ranges: bytes\r\n'
        )
        if method == "HEAD":
            return _answer(200, b"", extra, length=len(content))
        if asked := _RANGE.fullmatch(headers.get("range", "")):
            first, end = (
                (int(asked[1]), int(asked[2] or len(content) - 1))
                if asked[1]
                else (len(content) - int(asked[2]), len(content) - 1)
            )
            extra += f"Content-Range: bytes {first}-{min(end, len(content) - 1)}/{len(content)}\r\n"
            return _answer(206, content[first : end + 1], extra)
        return _answer(200, content, extra)


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()


def _answer(status: int, body: bytes, headers: str = "", length: int | None = None) -> bytes:
    kind = "application/xml" if body.startswith(b"<?xml") else "binary/octet-stream"
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body) if length is None else length}\r\n{headers}\r\n"
    ).encode() + body


@contextlib.contextmanager
def running(
    keys: int, per_folder: int = 100_000, folder: Path | None = None, latency: float = 0.0
) -> Iterator[LoopbackS3]:
    """The server in a process of its own."""
    command = [
        sys.executable,
        "-m",
        __spec__.name,
        "--keys",
        str(keys),
        "--per-folder",
        str(per_folder),
        "--latency",
        str(latency),
    ]
    with subprocess.Popen(
        [*command, *(["--folder", str(folder)] if folder else [])], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield LoopbackS3(
                endpoint=f"http://{HOST}:{port}", access_key="simulated", secret_key="simulated"
            )  # no secret
        finally:
            process.terminate()


async def serve(buckets: dict[str, Bucket], latency: float) -> None:
    server = await asyncio.start_server(Server(buckets, latency).connected, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=0)
    parser.add_argument("--per-folder", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    options = parser.parse_args()
    buckets: dict[str, Bucket] = {"big": Computed(options.keys, options.per_folder, jpeg())}
    if options.folder:
        buckets["lake"] = Folder(options.folder)
    asyncio.run(serve(buckets, options.latency))


if __name__ == "__main__":
    main()
