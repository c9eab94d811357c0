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
        """A JSON value without what is of the images: entries of lists and of objects that name them; COCO's annotations too."""
        if isinstance(value, list):
            return [self.pruned(entry) for entry in value if not self._names(entry)]
        if isinstance(value, dict):
            gone = self._coco_ids(value)
            kept = {key: self.pruned(entry) for key, entry in value.items() if not self.in_text(key)}
            if gone:
                kept["annotations"] = [a for a in kept["annotations"] if _image_id(a) not in gone]
            return kept
        return self.without(value) if isinstance(value, str) else value

    def _names(self, value: Any) -> bool:
        if isinstance(value, dict):
            return any(self.in_text(key) or self._names(entry) for key, entry in value.items())
        if isinstance(value, list):
            return any(map(self._names, value))
        return isinstance(value, str) and self.in_text(value)

    def _coco_ids(self, value: dict[str, Any]) -> set[Any]:
        if not isinstance(value.get("images"), list) or not isinstance(value.get("annotations"), list):
            return set()
        return {
            image.get("id") for image in value["images"] if isinstance(image, dict) and self._names(image)
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
        mask = None
        for column in table.columns:
            kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
            if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                names = self._chosen.among(column.cast(pa.string()))
                mask = names if mask is None else pc.or_(mask, names)
        if mask is None or not pc.any(mask).as_py():
            return data
        return encode(table.filter(pc.invert(mask)))

    def _pruned_json(self, text: str) -> bytes | None:
        try:
            value = json.loads(text)
        except ValueError:
            return None
        kept = self.pruned(value)
        indent = 1 if text[1:2] == "\n" else None
        return json.dumps(kept, ensure_ascii=False, indent=indent).encode("utf-8", "surrogatepass")

    def _pruned_lines(self, text: str) -> bytes | None:
        kept = [line for line in text.splitlines(keepends=True) if not self.in_text(line)]
        return "".join(kept).encode("utf-8", "surrogatepass") if kept else None


_TEXTS: dict[str, Callable[[Mentions, str], bytes | None]] = {
    "json": Mentions._pruned_json,
    **dict.fromkeys(("jsonl", "ndjson", "txt", "csv", "tsv", "log"), Mentions._pruned_lines),
}


def _image_id(annotation: Any) -> Any:
    return annotation.get("image_id") if isinstance(annotation, dict) else None
