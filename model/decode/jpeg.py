"""JPEG by libjpeg-turbo, whose warnings count: a picture with a part that is grey or shifted is no picture."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from masklake.model.decode.frame import Frame, Pixels, unreadable
from masklake.model.decode.jpeg_stream import EOI, SOI, Stream, check_scans, parse
from masklake.model.decode.rgb import from_ink

_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_TRIES = {"end": 1, "slack": 4, "bare": 1}
"""libjpeg reads a few bytes ahead, so that of much slack some is left."""
_SLACK = 8
"""Bytes of anything that may stand before the end: some cameras leave a few. More are pixels that were not used."""


@dataclass(frozen=True)
class JpegFrame(Frame):
    """data: the file, from SOI on. stream: its header."""

    format: ClassVar[str] = "JPEG"

    data: bytes
    stream: Stream

    def scaled(self, target: tuple[int, int] | None) -> tuple[int, int]:
        factor = self._factor(target)
        return -(-self.width // factor), -(-self.height // factor)

    def _factor(self, target: tuple[int, int] | None) -> int:
        if target is None or max(self.width, self.height) < 8:
            return 1
        # The smallest frame that still holds all that the model's resize would keep.
        scale = min(target[0] / min(self.width, self.height), target[1] / max(self.width, self.height), 1.0)
        width, height = (max(1, round(side * scale)) for side in (self.width, self.height))
        most = min(self.width // width, self.height // height)
        return next(factor for factor in (8, 4, 2, 1) if factor <= most or factor == 1)

    def pixels(self, target: tuple[int, int] | None) -> Pixels:
        check_scans(self.data, self.stream)
        return decode_whole(self.data, self.stream, self.scaled(target))


def open_jpeg(data: bytes) -> JpegFrame:
    """The frame of a JPEG file. Raises UndecodableError for a broken header and for processes that are not decoded."""
    stream = parse(data)
    if stream.lies:
        data = stream.bare(data)
        stream = replace(parse(data), orientation=stream.orientation)
    return JpegFrame(stream.width, stream.height, stream.orientation, data, stream)


def decode_whole(data: bytes, stream: Stream, size: tuple[int, int]) -> Pixels:
    """RGB of `size`, (width, height): the frame's own, or that at 1/2, 1/4 or 1/8.

    Raises UndecodableError where libjpeg warns of anything that costs pixels. (It reports its first warning only: so what is
    harmless is removed from the data, and the data is decoded again.)
    """
    import simplejpeg

    scaled = size != (stream.width, stream.height)
    space = "CMYK" if len(stream.components) == 4 else "RGB"
    tried: Counter[str] = Counter()
    while True:
        try:
            # The slow DCT and the fine upsampling: the pixels that Pillow, OpenCV and torchvision give.
            planes: Pixels = simplejpeg.decode_jpeg(
                data,
                space,
                fastdct=False,
                fastupsample=False,
                min_width=size[0] if scaled else 0,
                min_height=size[1] if scaled else 0,
            )
            break
        except ValueError as error:
            data = _mended(data, stream, str(error), tried)
    # Stored inverted, as Adobe does; other readers take that for granted as well.
    return from_ink(np.subtract(255, planes)) if space == "CMYK" else planes


def _mended(data: bytes, stream: Stream, warning: str, tried: Counter[str]) -> bytes:
    """The file without the part that libjpeg warns of. Raises UndecodableError where that part may hold pixels."""
    end = data.find(EOI, len(SOI) + len(stream.needed) if tried["bare"] else stream.scans)
    extraneous = _EXTRANEOUS.search(warning)
    slack = data[max(0, end - int(extraneous[1])) : end] if extraneous else b""
    # Arithmetic codes may end anywhere: without an end marker, a whole file looks like half a file.
    if "Premature end of JPEG file" in warning and end < 0 and not stream.arithmetic:
        mend, out = "end", data + EOI
    elif slack and (len(slack) <= _SLACK or slack.count(slack[:1]) == len(slack)):
        mend, out = "slack", data[: end - len(slack)] + data[end:]
    elif not extraneous and "premature end" not in warning and "bad Huffman" not in warning:
        mend, out = "bare", stream.bare(data)
    else:
        raise unreadable(f"broken JPEG content: {warning}")
    tried[mend] += 1
    if tried[mend] > _TRIES[mend]:
        raise unreadable(f"broken JPEG content: {warning}")
    return out
