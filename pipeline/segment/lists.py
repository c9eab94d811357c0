"""Sources that are files: lists of URIs, and S3 inventories."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote_plus

from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.store import Storage, join, normalise

LIST_SUFFIXES = (".txt", ".csv", ".parquet")
URI_COLUMNS = ("uri", "url", "path", "image")
"""Names that the column of URIs may have in a .csv or .parquet list; the first of them that exists is taken."""


def is_list(source: str) -> bool:
    """Whether `source` is taken for a list of images, by its name."""
    return source.lower().endswith(LIST_SUFFIXES)


@contextlib.contextmanager
def _reading(source: str, kind: str) -> Iterator[None]:
    """Turn errors of the parsers into UserError. Errors of the storage pass unchanged."""
    import pyarrow as pa

    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: is not UTF-8 ({error}); save it as UTF-8") from error
    # Arrow's own read errors are plain OSErrors; the storage's are subclasses.
    except (ValueError, csv.Error, EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException) as error:
        raise UserError(f"{source}: cannot be read as {kind} ({error}); check that file") from error
    except OSError as error:
        if type(error) is not OSError or "AWS Error" in str(error):
            raise
        raise UserError(f"{source}: cannot be read as {kind} ({error}); check that file") from error


COMMENTS = "lines that begin with # (a name that does is written ./#…)"
DOUBLES = "lines that name an image again"
NAMELESS = "rows that name no image"


def read_list(source: str, storage: Storage, left_out: Counter[str] | None = None) -> Iterator[ObjectInfo]:
    """Objects of a .txt (a URI a line), .csv (with a header) or .parquet list, in its order, each object once.

    Columns etag and size_bytes are used where a .parquet or .csv has them. Relative names are taken to lie
    beside the list. Lines that give no object are counted in `left_out`, by reason. Raises UserError when the list is
    broken or has no column of URIs, FileNotFoundError when it is gone.
    """
    left_out = Counter() if left_out is None else left_out
    seen: set[bytes] = set()
    for info in _listed(source, storage, left_out):
        # 96 bits: among ten million URIs two are taken for one with a probability of 10^-15.
        digest = hashlib.blake2b(info.uri.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if digest in seen:
            left_out[DOUBLES] += 1
            continue
        seen.add(digest)
        yield info


def lines_of(uri: str, source: str, storage: Storage) -> list[int]:
    """The lines of a list that name the image at `uri`, in whichever spelling. Errors as of `read_list`."""
    return [info.line for info in _listed(source, storage, Counter()) if info.uri == uri and info.line]


def _listed(source: str, storage: Storage, left_out: Counter[str]) -> Iterator[ObjectInfo]:
    folder = source.rpartition("/")[0]
    kind = source.lower().rpartition(".")[2]
    rows = {"txt": _text_rows, "csv": _csv_rows, "parquet": _parquet_rows}[kind](source, storage)
    with _reading(source, {"txt": "text", "csv": "CSV", "parquet": "Parquet"}[kind]):
        for line, row in rows:
            uri = (row["uri"] or "").strip("\r\n")
            if not uri or row.get("comment"):
                left_out[COMMENTS if row.get("comment") else NAMELESS] += 1
                continue
            if "://" not in uri and not uri.lower().startswith(("/", "file:/")):
                uri = _beside(folder, uri)
            etag = row.get("etag")
            size = _size(row.get("size_bytes"))
            yield ObjectInfo(normalise(uri), str(etag) if etag else None, size, None, line)


def _size(value: object) -> int | None:
    if value is None or value == "":
        return None
    try:
        return int(str(value))
    except ValueError as error:
        raise ValueError(f"size_bytes {value!r} is not a whole number") from error


def _beside(folder: str, name: str) -> str:
    """`name` below `folder`, its `.` and `..` taken as those of a path, which keys do not know."""
    if "://" not in folder:
        return join(folder, name)
    kept: list[str] = []
    for part in name.split("/"):
        if part == ".." and kept:
            kept.pop()
        elif part == "..":
            if folder.count("/") <= len("//"):
                raise ValueError(f"{name!r} climbs above the bucket")
            folder = folder.rpartition("/")[0]
        elif part != ".":
            kept.append(part)
    return join(folder, *kept)


def _text_rows(source: str, storage: Storage) -> Iterator[tuple[int, dict]]:
    text = io.TextIOWrapper(io.BytesIO(storage.read(source)), encoding="utf-8-sig")
    for number, line in enumerate(text, start=1):
        if line.strip():
            yield number, {"uri": line.rstrip("\n"), "comment": line.startswith("#")}


def _csv_rows(source: str, storage: Storage) -> Iterator[tuple[int, dict]]:
    text = io.TextIOWrapper(io.BytesIO(storage.read(source)), encoding="utf-8-sig", newline="")
    rows = _records(csv.reader(text, strict=True))
    _, header = next(rows, (0, []))
    position = header.index(_uri_column(header, source))
    for line, values in rows:
        if not values:  # an empty line
            continue
        if len(values) > len(header):
            raise UserError(
                f"{source}: line {line} has {len(values)} values, and the header names {len(header)}; "
                "put values that hold commas in quotes"
            )
        named = dict(zip(header, values, strict=False))
        yield line, {**named, "uri": values[position] if position < len(values) else ""}


def _records(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Each record as (line where it begins, values). Raises csv.Error with that line for a quote that is not closed."""
    while True:
        begins = reader.line_num + 1
        try:
            yield begins, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise csv.Error(f"line {begins}: {error}; is a quote opened there and not closed?") from error


def _parquet_rows(source: str, storage: Storage) -> Iterator[tuple[int, dict]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    storage.stat(source)  # its error for a refusal is clearer than Arrow's
    filesystem, path = storage.arrow(source)
    file = pq.ParquetFile(path, filesystem=filesystem)
    column = _uri_column(file.schema_arrow.names, source)
    type_ = file.schema_arrow.field(column).type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if not (pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)):
        raise UserError(f"{source}: its column {column} holds {type_}, not text; give a column of URIs")
    wanted = [column, *({"etag", "size_bytes"} & set(file.schema_arrow.names))]
    batches = file.iter_batches(batch_size=10_000, columns=wanted)
    rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
    for number, row in enumerate(rows, start=1):
        yield number, {**row, "uri": row[column]}


def _uri_column(names: Iterable[str], source: str) -> str:
    names = list(names)
    for wanted in URI_COLUMNS:
        if wanted in names:
            return wanted
    raise UserError(
        f"{source}: no column of URIs; name one of its columns ({', '.join(names) or 'none'}) {' or '.join(URI_COLUMNS)}"
    )


def read_inventory(source: str, storage: Storage) -> Iterator[ObjectInfo]:
    """Objects of an S3 inventory, given its manifest.json (CSV, Parquet or ORC data files).

    Only current versions are taken; delete markers and older versions are left out. Format: Amazon S3 User
    Guide, "Amazon S3 Inventory list". Raises UserError when the manifest is not an inventory's.
    """
    try:
        manifest = json.loads(storage.read(source))
        bucket = manifest["sourceBucket"]
        destination = "s3://" + manifest["destinationBucket"].rpartition(":")[2]
        kind = manifest["fileFormat"].upper()
        files = [file["key"] for file in manifest["files"]]
        columns = [name.strip() for name in manifest["fileSchema"].split(",")] if kind == "CSV" else []
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{source}: is not the manifest.json of an S3 inventory ({error!r} is missing or broken)"
        ) from error
    if kind not in ("CSV", "PARQUET", "ORC"):
        raise UserError(f"{source}: lists files of {kind}; make the inventory as CSV, Parquet or ORC")
    if kind == "CSV" and "Key" not in columns:
        raise UserError(f"{source}: its fileSchema has no Key; make the inventory anew")
    for key in files:
        uri = join(destination, key)
        rows = (
            _inventory_csv(uri, columns, storage) if kind == "CSV" else _inventory_table(uri, kind, storage)
        )
        with _reading(uri, f"the {kind} of an inventory"):
            for name, etag, size in rows:
                yield ObjectInfo(f"s3://{bucket}/{name}", etag, size, None)


def _inventory_csv(
    uri: str, columns: list[str], storage: Storage
) -> Iterator[tuple[str, str | None, int | None]]:
    data = gzip.decompress(storage.read(uri))
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    for _, line in _records(csv.reader(text, strict=True)):
        row = dict(zip(columns, line, strict=True))
        if row.get("IsLatest", "true") == "true" and row.get("IsDeleteMarker", "false") != "true":
            # keys are URL-encoded in CSV inventories, and only there
            yield unquote_plus(row["Key"]), row.get("ETag") or None, _size(row.get("Size"))


def _inventory_table(uri: str, kind: str, storage: Storage) -> Iterator[tuple[str, str | None, int | None]]:
    import pyarrow.dataset as ds

    filesystem, path = storage.arrow(uri)
    data = ds.dataset(path, filesystem=filesystem, format=kind.lower())
    wanted = [c for c in ("key", "size", "e_tag", "is_latest", "is_delete_marker") if c in data.schema.names]
    for batch in data.to_batches(columns=wanted):
        for row in batch.to_pylist():
            if row.get("is_latest") is not False and not row.get("is_delete_marker"):
                yield row["key"], row.get("e_tag"), row.get("size")
