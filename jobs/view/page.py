"""What both kinds of gallery give to a browser: the page's files, what there is to choose from, and a list without scripts."""

from __future__ import annotations

import datetime
import html
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.jobs.terminal.text import printable
from masklake.jobs.view.selection import LABELS, NEWEST, SIZES
from masklake.model.coco import KEYPOINT_NAMES, SKELETON

if TYPE_CHECKING:
    from masklake.jobs.view.gallery import LakeGallery

STATIC = Path(__file__).parent / "static"
FILES = {
    "index.html": "text/html; charset=utf-8",
    "view.css": "text/css; charset=utf-8",
    "masks.js": "text/javascript; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
}

_LIST_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'self'">
<title>Masklake: list of images</title><link rel="stylesheet" href="view.css"></head>
<body><header><h1>Masklake</h1><p><a href="index.html">Gallery</a></p></header><main>
<div class="scroll" tabindex="0" role="region" aria-label="Images"><table class="instances">
<thead><tr><th scope="col">image</th><th scope="col">status</th><th scope="col">instances</th><th scope="col">run</th></tr></thead><tbody>
"""
_LIST_END = "</tbody></table></div>{more}</main></body></html>\n"


def site(
    gallery: LakeGallery, *, source: str, shown: int, sort: str = "newest", **more: Any
) -> dict[str, Any]:
    """The values of `masklake.site` in the page."""
    return {
        **gallery.summary,
        "source": source,
        "sort": sort,
        "shown": shown,
        "skeleton": [[KEYPOINT_NAMES[a], KEYPOINT_NAMES[b]] for a, b in SKELETON],
        "sizes": {name: list(bounds) for name, bounds in SIZES.items()},
        **more,
    }


def first_source(gallery: LakeGallery) -> str:
    """What a gallery shows unless it is asked otherwise: results, or labels where there are no results."""
    return NEWEST if gallery.summary["images"] or not gallery.summary["splits"] else LABELS


def site_script(values: dict[str, Any]) -> bytes:
    """data/site.js."""
    return f"window.masklake = {{site: {text_of(values)}}};\n".encode()


def text_of(values: Any) -> str:
    """JSON in ASCII, times as ISO 8601: as a script it holds no line separator, and no half of a surrogate pair breaks it."""
    return json.dumps(values, default=_plain, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> str:
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    raise TypeError(f"{type(value)} has no place in the page")


def finite(instances: Iterable[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """`instances` as the page can draw them: those with a box of numbers. None stays None."""
    if instances is None:
        return None
    return [row for row in instances if all(abs(side) < 1e9 for side in row["box"])]


def list_page(images: Iterable[dict[str, Any]], more: str = "") -> Iterator[str]:
    """A table of images for browsers without JavaScript. `more` is HTML."""
    yield _LIST_HEAD
    for image in images:
        status = image["status"] if image["status"] == "ok" else f"{image['status']}: {image['error'] or ''}"
        cells = (printable(image["uri"]), printable(status), f"{image['n']:,}", image["run"])
        yield "<tr>{}</tr>\n".format("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    yield _LIST_END.format(more=more)
