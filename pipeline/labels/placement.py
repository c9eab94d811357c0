"""From the names in an annotation file to the lake's images.

In this order: a mapping that names it; the uri that Masklake's own exports carry; below a given prefix; and else the
lake's images, of which the name must be the whole URI or its last parts, and of one image only. Nothing is guessed: a
name that fits none, or several, is told. Names are text: but for a `./` or `/` before them nothing in them has a meaning,
and `..` is two dots.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.formats.node import Node, parse
from masklake.pipeline.labels.sets import LabelledImage
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import join, normalise

_CANDIDATES = 3
"""How many of the images that a name could be are told."""

Size = tuple[int | None, int | None]
"""Width and height, pixels."""


@dataclass(frozen=True, kw_only=True)
class Unplaced:
    """A name of the file that is no one image, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The uri of each image that was placed, in the order of the file, and what could not be placed."""

    placed: list[tuple[LabelledImage, str]]
    unplaced: list[Unplaced]
    sizes: Mapping[str, Size]
    """Of the images that the lake knows, by uri."""


def place(
    images: list[LabelledImage],
    lake: Lake,
    *,
    mapping: Mapping[str, str] | None = None,
    prefix: str | None = None,
    by_basename: bool = False,
) -> Placement:
    """Find the uri of each image. `by_basename` compares the last part of names only."""
    told: list[str | None] = [_told(image, mapping or {}, prefix) for image in images]
    wanted = {_last(name) for image in images for name in (image.name, *image.aliases)}
    sizes = _known_images(lake, wanted | {_last(uri) for uri in told if uri is not None})
    by_last: dict[str, list[str]] = defaultdict(list)
    for known in sizes:
        by_last[_last(known)].append(known)
    placed: list[tuple[LabelledImage, str]] = []
    unplaced: list[Unplaced] = []
    first: dict[str, str] = {}
    for image, uri in zip(images, told, strict=True):
        found = [uri] if uri is not None else _matches(image, by_last, by_basename=by_basename)
        reason = _why_not(image, found, sizes, first)
        if reason is None:
            first[found[0]] = image.name
            placed.append((image, found[0]))
        else:
            unplaced.append(Unplaced(name=image.name, reason=reason))
    return Placement(placed=placed, unplaced=unplaced, sizes=sizes)


def read_mapping(data: bytes, file: str) -> dict[str, str]:
    """Names and their uris: a JSON object, or a CSV with the columns name and uri (rows without a uri are passed over).

    Raises UserError for anything else.
    """
    if data.lstrip()[:1] == b"{":
        content = Node(parse(data, file), file)
        return {name: normalise(content.text(name)) for name in content.value}
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        if not {"name", "uri"} <= set(rows.fieldnames or ()):
            raise ValueError("it lacks the column name or uri")
        return {row["name"]: normalise(row["uri"]) for row in rows if row["uri"]}
    except (ValueError, csv.Error) as error:  # ValueError: not UTF-8, too
        raise UserError(
            f"{file}: is no mapping ({error}); write a CSV with the columns name and uri, or a JSON object of uris by name"
        ) from error


def _told(image: LabelledImage, mapping: Mapping[str, str], prefix: str | None) -> str | None:
    if image.name in mapping:
        return mapping[image.name]
    if image.uri is not None:
        return image.uri
    name = (image.aliases or (image.name,))[-1]
    if prefix is None or name.startswith(join(prefix, "")):
        return name if prefix is not None else None
    return None if "://" in name else join(prefix, name)


def _matches(image: LabelledImage, by_last: Mapping[str, list[str]], *, by_basename: bool) -> list[str]:
    for name in (image.name, *image.aliases):
        candidates = by_last.get(_last(name), [])
        if name in candidates:
            return [name]
        tail = "/" + (_last(name) if by_basename else name.removeprefix("./").lstrip("/"))
        if found := [uri for uri in candidates if uri.endswith(tail)]:
            return found
    return []


def _why_not(
    image: LabelledImage, found: list[str], sizes: Mapping[str, Size], first: Mapping[str, str]
) -> str | None:
    if not found:
        return "is not in the lake's images"
    if len(found) > 1:
        more = ", …" if len(found) > _CANDIDATES else ""
        return f"could be {len(found)} images: {', '.join(sorted(found)[:_CANDIDATES])}{more}"
    [uri] = found
    if uri in first:
        return f"is {uri}, and so is {first[uri]!r}"
    width, height = sizes.get(uri, (None, None))
    if (
        image.size_known
        and None not in (width, height, image.width)
        and (width, height) != (image.width, image.height)
    ):
        return f"is {image.width}×{image.height} in the file and {width}×{height} in the lake ({uri})"
    return None


def _known_images(lake: Lake, wanted: set[str]) -> dict[str, Size]:
    """The size of every image of the lake whose last part is wanted, as its newest run tells it."""
    found: dict[str, tuple[str, Size]] = {}
    if not lake.parts("images"):
        return {}
    dataset = lake.dataset("images")
    with explaining(lake.uri, "read images"):
        for batch in dataset.to_batches(columns=["run", "uri", "width", "height"]):
            columns: Iterable[list] = (column.to_pylist() for column in batch.columns)
            for run, uri, width, height in zip(*columns, strict=True):
                if _last(uri) in wanted and (uri not in found or found[uri][0] < run):
                    found[uri] = run, (width, height)
    return {uri: size for uri, (_, size) in found.items()}


def _last(name: str) -> str:
    return name.rpartition("/")[2]
