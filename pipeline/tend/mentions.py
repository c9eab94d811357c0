"""Where a text, a table or a JSON value names images that are to be forgotten, and the same without them."""

from __future__ import annotations

import hashlib
import html
import io
import json
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from masklake.pipeline.storage.parquet import encode
from masklake.pipeline.tend.chosen import Chosen

_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")
"""What `masklake export` puts into the names of an image's files: 64 bits of the SHA-256 of its URI."""
_SEARCHED_FOR = 1000
"""Up to so many images are looked for inside of longer texts; of more, only texts that are a URI, or have a digest, are seen."""
FORGOTTEN = "(forgotten)"


class Mentions:
    """What names the images of `chosen`: URIs, also as JSON, HTML and URLs write them, and the digests in names of exported files."""

    def __init__(self, chosen: Chosen) -> None:
        self._chosen = chosen
        self._digests = {
            hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16] for uri in chosen.uris
        }
        spelled: set[str] = set(chosen.folders)
        if len(chosen.uris) <= _SEARCHED_FOR:
            for uri in chosen.uris:
                spelled |= {
                    uri,
                    json.dumps(uri)[1:-1],
                    json.dumps(uri, ensure_ascii=False)[1:-1],
                    html.escape(uri),
                }
                spelled |= {urllib.parse.quote(uri), urllib.parse.quote(uri, safe="")}
        # No longer name goes on after it: x/1.jpg is not named by x/1.jpg.png. A folder names all that begins with it.
        ends = [
            f"{re.escape(text)}(?:[^\\s\"'<>,;]*)"
            if text in chosen.folders
            else f"{re.escape(text)}(?![\\w.-])"
            for text in spelled
        ]
        self._pattern = re.compile("|".join(sorted(ends, key=len, reverse=True))) if ends else None

    def in_text(self, text: str) -> bool:
        """Whether the text names one of the images."""
        if self._chosen.has(text) or (self._pattern is not None and self._pattern.search(text)):
            return True
        return any(digest in self._digests for digest in _DIGEST.findall(text))

    def without(self, text: str) -> str:
        """The text, with the names blotted out."""
        if self._chosen.has(text):
            return FORGOTTEN
        if self._pattern is not None:
            text = self._pattern.sub(FORGOTTEN, text)
        return _DIGEST.sub(lambda match: FORGOTTEN if match[0] in self._digests else match[0], text)

    def pruned(self, value: Any) -> Any:
        """A JSON value without what is of the images: entries of lists, entries of objects under their names, COCO's annotations."""
        if isinstance(value, list):
            return [self.pruned(entry) for entry in value if not self._is_of(entry)]
        if isinstance(value, dict):
            gone = self._coco_ids(value)
            kept = {key: self.pruned(entry) for key, entry in value.items() if not self.in_text(key)}
            if gone:
                kept["annotations"] = [a for a in kept["annotations"] if _image_id(a) not in gone]
            return kept
        return self.without(value) if isinstance(value, str) else value

    def _is_of(self, entry: Any) -> bool:
        """Whether an entry of a list is of one of the images, or of nothing else: then it goes as a whole.

        An object is, where one of its texts names an image; where a list in it does, among others, that list alone loses an entry.
        """
        if isinstance(entry, dict):
            named = [self.in_text(key) for key in entry]
            return any(map(self._is_of, entry.values())) or (bool(named) and all(named))
        if isinstance(entry, list):
            return bool(entry) and (all if _gathers(entry) else any)(map(self._is_of, entry))
        return isinstance(entry, str) and self.in_text(entry)

    def _coco_ids(self, value: dict[str, Any]) -> set[Any]:
        if not isinstance(value.get("images"), list) or not isinstance(value.get("annotations"), list):
            return set()
        return {
            image.get("id") for image in value["images"] if isinstance(image, dict) and self._is_of(image)
        }

    def pruned_file(self, name: str, data: bytes) -> bytes | None:
        """The content of a file without what names the images: `data` itself where nothing does, None where nothing is left.

        Of a table its rows, of a text its lines, of JSON its entries. A file of another kind that names one of them goes as a whole.
        """
        if name.endswith(".parquet"):
            return self._pruned_table(data)
        try:
            text = data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
            return None if self.in_text(text) else data
        if not self.in_text(text):
            return data
        kind = _TEXTS.get(name.rpartition(".")[2].lower())
        return None if kind is None else kind(self, text)

    def _pruned_table(self, data: bytes) -> bytes | None:
        try:
            table = pq.read_table(io.BytesIO(data))
        except (pa.ArrowInvalid, OSError):  # a file that was cut off: what it holds cannot be told
            return None
        gone, changed = np.zeros(len(table), bool), False
        columns = []
        for column in table.columns:
            kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
            if _is_text(kind):
                plain = column.cast(kind)  # a dictionary keeps texts that no row has any more
                gone |= self._chosen.among(plain).to_numpy()
                columns.append(plain)
            elif pa.types.is_nested(kind) and any(map(self._in_column, column.chunks)):
                values = column.to_pylist()
                kept = [self.pruned(value) for value in values]
                gone |= np.array([self._is_of(value) for value in values], bool)
                changed = changed or kept != values
                columns.append(pa.chunked_array([kept], column.type))
            else:
                columns.append(column)
        if not changed and not gone.any():
            return data
        stays = pa.array(~gone)
        columns = [
            column.filter(stays).cast(field.type) for column, field in zip(columns, table.schema, strict=True)
        ]
        return encode(pa.table(columns, schema=table.schema))

    def _in_column(self, values: pa.Array) -> bool:
        """Whether one of these values, or of what they hold, is the name of an image."""
        if pa.types.is_dictionary(values.type):
            values = values.dictionary
        if _is_text(values.type):
            return bool(pc.any(self._chosen.among(values)).as_py())
        if pa.types.is_struct(values.type):
            return any(map(self._in_column, values.flatten()))
        if pa.types.is_map(values.type):
            return self._in_column(values.keys) or self._in_column(values.items)
        if pa.types.is_nested(values.type):
            return self._in_column(values.flatten())
        return False

    def _pruned_json(self, text: str) -> bytes | None:
        try:
            value = json.loads(text)
        except ValueError:
            return None
        kept = self.pruned(value)
        indent = 1 if text[1:2] == "\n" else None
        return json.dumps(kept, ensure_ascii=False, indent=indent).encode("utf-8", "surrogatepass")

    def _pruned_json_lines(self, text: str) -> bytes | None:
        kept = []
        for line in text.splitlines(keepends=True):
            if not self.in_text(line):
                kept.append(line)
                continue
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if not self._is_of(value):
                kept.append(json.dumps(self.pruned(value), ensure_ascii=False) + "\n")
        return "".join(kept).encode("utf-8", "surrogatepass") if kept else None

    def _pruned_lines(self, text: str) -> bytes | None:
        return self._without_rows(text.splitlines(keepends=True))

    def _pruned_csv(self, text: str) -> bytes | None:
        rows = [""]
        for line in text.splitlines(keepends=True):
            rows[-1] += line
            if rows[-1].count('"') % 2 == 0:  # else the row goes on in the next line
                rows.append("")
        return self._without_rows(rows)

    def _without_rows(self, rows: list[str]) -> bytes | None:
        kept = [row for row in rows if not self.in_text(row)]
        return "".join(kept).encode("utf-8", "surrogatepass") if any(kept) else None


_TEXTS: dict[str, Callable[[Mentions, str], bytes | None]] = {
    "json": Mentions._pruned_json,
    **dict.fromkeys(("jsonl", "ndjson"), Mentions._pruned_json_lines),
    **dict.fromkeys(("csv", "tsv"), Mentions._pruned_csv),
    **dict.fromkeys(("txt", "log"), Mentions._pruned_lines),
}


def _gathers(entries: list[Any]) -> bool:
    """Whether a list in JSON gathers things of one kind (objects, lists, names of files), and is no row of a table."""
    return (
        all(isinstance(entry, dict) for entry in entries)
        or all(isinstance(entry, list) for entry in entries)
        or all(isinstance(entry, str) and "/" in entry for entry in entries)
    )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _image_id(annotation: Any) -> Any:
    return annotation.get("image_id") if isinstance(annotation, dict) else None
