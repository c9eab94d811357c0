"""From the names in an annotation file to the lake's images.

In this order: a mapping that names it; the uri that Masklake's own exports carry; below a given prefix; and else the
lake's images, of which the name must be the whole URI or its last parts, and of one image only. What a name may mean is
`names`' to say: all spellings are tried, and nothing is guessed. A name that fits none, or several, is told, and so is one
below a prefix where no such object lies.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from masklake.pipeline.errors import UserError
from masklake.pipeline.labels import names
from masklake.pipeline.labels.formats.detect import parse
from masklake.pipeline.labels.formats.node import Node
from masklake.pipeline.labels.sets import LabelledImage
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.ahead import ahead
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import Storage, join, normalise

_CANDIDATES = 3
"""How many of the images that a name could mean are listed in a message."""

_ASKED_ONE_BY_ONE = 50
"""For this many objects or more it is cheaper to list their folder."""


Size = tuple[int | None, int | None]
"""Width and height, pixels."""


@dataclass(frozen=True, kw_only=True)
class Unplaced:
    """A name of the file that does not mean exactly one image, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The uri of each image that was placed, in the order of the file, and what could not be placed."""

    placed: list[tuple[LabelledImage, str]]
    unplaced: list[Unplaced]
    sizes: Mapping[str, Size]
    """The size of each image that the lake knows, by uri."""
    notes: Counter[str] = field(default_factory=Counter)


def place(
    images: list[LabelledImage],
    lake: Lake,
    *,
    mapping: Mapping[str, str] | None = None,
    prefix: str | None = None,
    by_basename: bool = False,
    unchecked: bool = False,
) -> Placement:
    """Find the uri of each image. `by_basename` compares the last part of names only; `unchecked` takes names below
    `prefix` for objects that are there."""
    candidates = [_candidate_uris(image, mapping or {}, prefix, by_basename=by_basename) for image in images]
    ends = {_last(form) for image in images for name in (image.name, *image.aliases) for form in _forms(name)}
    sizes = _known_images(lake, ends | {_last(uri) for uris in candidates for uri in uris})
    asked = {uri for uris in candidates if not sizes.keys() & set(uris) for uri in uris}
    asked -= {
        uris[0] for image, uris in zip(images, candidates, strict=True) if _is_certain(image, mapping or {})
    }
    missing: set[str] = set()
    notes: Counter[str] = Counter()
    if asked and prefix is not None and not unchecked:
        try:
            missing = asked - _present(lake.storage, prefix, asked)
        except UserError as error:
            notes[f"images were not looked for, their names are taken as they are ({error})"] = sum(
                not asked.isdisjoint(uris) for uris in candidates
            )
    by_last: dict[str, list[str]] = defaultdict(list)
    for known in sizes:
        by_last[_last(known)].append(known)
    placed: list[tuple[LabelledImage, str]] = []
    unplaced: list[Unplaced] = []
    first: dict[str, str] = {}
    for image, uris in zip(images, candidates, strict=True):
        if uris:  # among the meanings of the name: an image that the lake knows, else an object that exists
            matching = [min(uris, key=lambda uri: (uri not in sizes, uri in missing))]
        else:
            matching = _matches(image, by_last, by_basename=by_basename)
        reason = _why_not(image, matching, sizes, first)
        if reason is None and matching[0] in missing:
            reason = f"is not there: {matching[0]} does not exist (--unchecked takes names as they are)"
        if reason is None:
            first[matching[0]] = image.name
            placed.append((image, matching[0]))
        else:
            unplaced.append(Unplaced(name=image.name, reason=reason))
    return Placement(placed=placed, unplaced=unplaced, sizes=sizes, notes=notes)


def _present(storage: Storage, prefix: str, asked: Collection[str]) -> set[str]:
    """Those of the objects that exist. Raises UserError where that cannot be found out."""

    def is_there(uri: str) -> bool:
        try:
            return storage.exists(uri)
        except ValueError:  # a name that no file can have
            return False

    folder = join(prefix, "")
    below = {uri for uri in asked if uri.startswith(folder)}
    listed = below if len(below) > _ASKED_ONE_BY_ONE and "://" in prefix else set()
    single = sorted(set(asked) - listed)
    with explaining(prefix, "look for images"):
        there = {info.uri for info in storage.walk(folder) if info.uri in listed} if listed else set()
        if single:
            is_there(
                single[0]
            )  # one alone first, so that a storage that does not answer is waited for only once
        answers = zip(single, ahead(is_there, single), strict=True)
        return there | {uri for uri, yes in answers if yes}


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


def _is_certain(image: LabelledImage, mapping: Mapping[str, str]) -> bool:
    return image.name in mapping or image.uri is not None


def _candidate_uris(
    image: LabelledImage, mapping: Mapping[str, str], prefix: str | None, *, by_basename: bool
) -> list[str]:
    """The URIs by the mapping, the file or the prefix, the likeliest first; empty where only the lake's images can decide."""
    if image.name in mapping:
        return [mapping[image.name]]
    if image.uri is not None:
        return [image.uri]
    if prefix is None:
        return []
    return list(
        dict.fromkeys(
            uri for name in image.aliases[::-1] or (image.name,) for uri in _below(prefix, name, by_basename)
        )
    )


def _below(prefix: str, name: str, by_basename: bool) -> Iterable[str]:
    folder = join(prefix, "")
    if name.startswith(folder):
        yield name
    elif names.is_location(name):
        yield normalise(name)
    elif "://" not in name:
        protocol, separator, rest = prefix.partition("://")
        if separator:  # a URL's path, which may begin with the bucket, or be the whole key
            roots = (f"{protocol}://", f"{protocol}://{rest.partition('/')[0]}/")
            yield from (
                uri for uri in (root + names.cleaned(name) for root in roots) if uri.startswith(folder)
            )
        for form in names.relative(name):
            yield join(prefix, form.rpartition("/")[2] if by_basename else form)


def _forms(name: str) -> list[str]:
    """The texts with which the URI of `name` may end, the name as it is written first."""
    return [
        form for form in dict.fromkeys([name.removeprefix("./").lstrip("/"), *names.relative(name)]) if form
    ]


def _matches(image: LabelledImage, by_last: Mapping[str, list[str]], *, by_basename: bool) -> list[str]:
    for name in (image.name, *image.aliases):
        if name in by_last.get(_last(name), []):
            return [name]
        for form in _forms(name):
            tail = "/" + (_last(form) if by_basename else names.composed(form))
            candidates = by_last.get(_last(form), [])
            if matching := [uri for uri in candidates if names.composed(uri).endswith(tail)]:
                return matching
    return []


def _why_not(
    image: LabelledImage, uris: list[str], sizes: Mapping[str, Size], first: Mapping[str, str]
) -> str | None:
    if not uris:
        return "is not in the lake's images"
    if len(uris) > 1:
        more = ", …" if len(uris) > _CANDIDATES else ""
        return f"could be {len(uris)} images: {', '.join(sorted(uris)[:_CANDIDATES])}{more}"
    [uri] = uris
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
    """The size of every image of the lake whose last part is wanted, from its newest run."""
    newest: dict[str, tuple[str, Size]] = {}
    if not lake.parts("images"):
        return {}
    dataset = lake.dataset("images")
    with explaining(lake.uri, "read images"):
        for batch in dataset.to_batches(columns=["run", "uri", "width", "height"]):
            columns: Iterable[list] = (column.to_pylist() for column in batch.columns)
            for run, uri, width, height in zip(*columns, strict=True):
                if _last(uri) in wanted and (uri not in newest or newest[uri][0] < run):
                    newest[uri] = run, (width, height)
    return {uri: size for uri, (_, size) in newest.items()}


def _last(name: str) -> str:
    """The file name, in the form in which names are compared."""
    return names.composed(name.rpartition("/")[2])
