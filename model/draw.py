"""Instances drawn onto their image: tinted masks with a contour, boxes, keypoints and limbs, labels with scores."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
Rect = tuple[float, float, float, float]
"""left, top, right, bottom in pixels of the picture."""

_SMALLEST_SIDE = 640
"""The longer side of a picture, at least: below it labels would cover the image."""
_TINT = 0.42
_GOLDEN = 0.618034
_DARK: Colour = (24, 24, 24)
_LABEL_CHARACTERS = 28
_BACKGROUND: Colour = (32, 32, 32)


@dataclass(frozen=True)
class _Scale:
    """Sizes in pixels of the picture; they grow with it, so that pictures of any size look alike."""

    factor: float
    """Pixels of the picture per pixel of the frame that the rows speak of."""
    line: int
    keypoint: float
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_instances(
    image: NDArray[np.uint8],
    rows: Sequence[Mapping[str, Any]],
    *,
    skeleton: Sequence[tuple[int, int]] = (),
    side: int | None = None,
) -> Image.Image:
    """`image` with the instances in `rows` drawn onto it, small ones above large ones.

    image: (H, W, 3) uint8 RGB. rows: rows of `instances` or `labels` as dicts, of which x, y, w, h, label,
    score, mask and keypoints are used, in pixels of the same H×W frame; score, mask and keypoints may be absent
    or None. skeleton: limbs as pairs of positions in keypoints. Keypoints are drawn where their heat-map logit is
    above 0, or, for labels, where they are labelled. side: the longer side of the picture, pixels; None leaves an image
    as large as it is, but for one below 640 pixels, which is enlarged to that. Masks are drawn at the picture's scale.

    Raises ValueError when `image` has another shape or type, or a mask another size.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"the image is {image.dtype} {image.shape}; (H, W, 3) uint8 is drawn on")
    height, width = image.shape[:2]
    factor = max(1.0, _SMALLEST_SIDE / max(height, width)) if side is None else side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    extent = math.sqrt(size[0] * size[1])
    scale = _Scale(
        factor=factor,
        line=max(1, round(extent / 420)),
        keypoint=max(2.0, extent / 260),
        font=ImageFont.load_default(max(11, extent / 46)),
    )
    painted = [(row, _colour(i)) for i, row in enumerate(rows)]
    painted.sort(key=lambda item: -item[0]["w"] * item[0]["h"])
    for row, colour in painted:
        if row.get("mask") is not None:
            _paint_mask(picture, _decode(row["mask"], height, width), colour, scale)
    draw = ImageDraw.Draw(picture)
    for row, colour in painted:
        left, top, right, bottom = _rect(row, scale)
        edges = left, top, max(left, right - 1), max(top, bottom - 1)
        draw.rectangle(edges, outline=colour, width=scale.line)
    for row, colour in painted:
        _draw_keypoints(draw, row.get("keypoints") or (), skeleton, colour, scale)
    placed: list[Rect] = []
    for row, colour in sorted(painted, key=lambda item: -(item[0].get("score") or 0.0)):
        _draw_label(draw, row, colour, scale, size, placed)
    return picture


def contact_sheet(
    pictures: Sequence[Image.Image], *, columns: int = 2, cell: tuple[int, int] = (800, 600)
) -> Image.Image:
    """`pictures` in a grid, each fitted into a cell of (width, height) pixels. Raises ValueError for none."""
    if not pictures:
        raise ValueError("there are no pictures to put on a sheet")
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    margin = 8
    step = cell[0] + margin, cell[1] + margin
    sheet = Image.new("RGB", (columns * step[0] + margin, rows * step[1] + margin), _BACKGROUND)
    for i, picture in enumerate(pictures):
        factor = min(cell[0] / picture.width, cell[1] / picture.height)
        size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
        left = margin + i % columns * step[0] + (cell[0] - size[0]) // 2
        top = margin + i // columns * step[1] + (cell[1] - size[1]) // 2
        sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top))
    return sheet


def _colour(index: int) -> Colour:
    """A bright colour, far in hue from those of the instances before."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + index * _GOLDEN) % 1.0, 0.85 - 0.25 * (index % 2), 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _text_colour(background: Colour) -> Colour:
    luminance = 0.299 * background[0] + 0.587 * background[1] + 0.114 * background[2]
    return _DARK if luminance > 110 else (255, 255, 255)


def _decode(rle: Mapping[str, Any], height: int, width: int) -> Image.Image:
    from pycocotools import mask

    if list(rle["size"]) != [height, width]:
        raise ValueError(f"a mask is for {list(rle['size'])} pixels, the image has [{height}, {width}]")
    counts = rle["counts"]
    counts = counts.encode("ascii") if isinstance(counts, str) else counts
    # Runs that end early leave memory as it was: only ones are mask.
    return Image.fromarray(
        (mask.decode({"size": [height, width], "counts": counts}) == 1).view(np.uint8) * 255
    )


def _paint_mask(picture: Image.Image, mask: Image.Image, colour: Colour, scale: _Scale) -> None:
    """Tint the mask and draw its contour, both with soft edges, inside the mask's own box."""
    box = mask.getbbox()
    if box is None:
        return
    left, top, right, bottom = (round(side * scale.factor) for side in box)
    crop = _enlarged(mask.crop(box), (max(1, right - left), max(1, bottom - top)), scale.factor)
    padded = Image.new("L", (crop.width + 2 * scale.line, crop.height + 2 * scale.line))
    padded.paste(crop, (scale.line, scale.line))
    inner = padded
    for _ in range(scale.line):
        inner = inner.filter(ImageFilter.MinFilter(3))
    contour = ImageChops.subtract(padded, inner)
    picture.paste(colour, (left, top), crop.point(lambda value: round(value * _TINT)))
    picture.paste(colour, (left - scale.line, top - scale.line), contour)


def _enlarged(mask: Image.Image, size: tuple[int, int], factor: float) -> Image.Image:
    """The mask at another size, 0 to 255. The steps of one that is enlarged become a line between the pixels' centres."""
    if factor <= 1:
        return mask.resize(size, Image.Resampling.BOX)
    # What lies beyond the box counts as what is at its edge, so that straight sides stay where they are.
    around = Image.fromarray(np.pad(np.asarray(mask), 2, mode="edge"))
    margin = round(2 * factor)
    wide = around.resize((size[0] + 2 * margin, size[1] + 2 * margin), Image.Resampling.BICUBIC)
    blurred = wide.filter(ImageFilter.GaussianBlur(0.6 * factor))
    steep = max(1.0, 0.9 * factor)
    sharp = blurred.point(lambda value: round(min(255.0, max(0.0, (value - 127.5) * steep + 127.5))))
    return sharp.crop((margin, margin, margin + size[0], margin + size[1]))


def _rect(row: Mapping[str, Any], scale: _Scale) -> Rect:
    left, top = row["x"] * scale.factor, row["y"] * scale.factor
    return left, top, left + max(0.0, row["w"] * scale.factor), top + max(0.0, row["h"] * scale.factor)


def _draw_keypoints(
    draw: ImageDraw.ImageDraw,
    keypoints: Sequence[Mapping[str, Any]],
    skeleton: Sequence[tuple[int, int]],
    colour: Colour,
    scale: _Scale,
) -> None:
    visible = {
        i: (keypoint["x"] * scale.factor, keypoint["y"] * scale.factor)
        for i, keypoint in enumerate(keypoints)
        if (keypoint["visibility"] if "visibility" in keypoint else keypoint["score"]) > 0
    }
    limbs = [(*visible[a], *visible[b]) for a, b in skeleton if a in visible and b in visible]
    # A dark edge below all limbs keeps them apart from a tint of their own colour.
    for limb in limbs:
        draw.line(limb, fill=_DARK, width=3 * scale.line + 2)
    for limb in limbs:
        draw.line(limb, fill=colour, width=2 * scale.line + 1)
    for x, y in visible.values():
        draw.circle((x, y), scale.keypoint, fill="white", outline=_DARK, width=max(1, scale.line // 2))


def _draw_label(
    draw: ImageDraw.ImageDraw,
    row: Mapping[str, Any],
    colour: Colour,
    scale: _Scale,
    size: tuple[int, int],
    placed: list[Rect],
) -> None:
    """Label and score at the box: the first place of a few that no other label has and that lies in the picture."""
    text = "".join(c if c.isprintable() else "�" for c in str(row["label"]))
    if len(text) > _LABEL_CHARACTERS:
        text = text[: _LABEL_CHARACTERS - 1] + "…"
    if row.get("score") is not None:
        text += f" {row['score']:.2f}"
    left, top, right, bottom = draw.textbbox((0, 0), text, font=scale.font)
    pad = scale.line + 1
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x0, y0, x1, y1 = _rect(row, scale)
    places = [
        (x0, y0 - height),
        (x0, y0),
        (x1 - width, y0 - height),
        (x0, y1),
        (x0, y1 - height),
        (x1 - width, y0),
    ]
    inside = [
        (min(max(x, 0), max(0, size[0] - width)), min(max(y, 0), max(0, size[1] - height))) for x, y in places
    ]
    free = [
        (x, y)
        for x, y in inside
        if not any(_overlap((x, y, x + width, y + height), other) for other in placed)
    ]
    x, y = (free or inside)[0]
    placed.append((x, y, x + width, y + height))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    draw.text((x + pad - left, y + pad - top), text, fill=_text_colour(colour), font=scale.font)


def _overlap(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
