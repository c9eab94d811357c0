"""A JPEG's segments (ITU-T T.81, annex B): what is needed to decode it, and whether its scans are all there.

libjpeg takes a file for whole when each scan that is in it ends well. So the scans' headers are read, which show whether
scans are missing at the end (a progressive JPEG that was cut between two scans, and closed).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from masklake.model.decode.exif import orientation
from masklake.model.decode.frame import unreadable, unsupported

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_SOS, _DAC, _COM = 0xDA, 0xCC, 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, _DAC}
_TABLES = frozenset({0xC4, _DAC, 0xDB, 0xDD})
"""DHT, DAC, DQT, DRI."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_PLAIN_JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_MOST_SCANS, _ANY_SCANS, _MOST_PASSES = 500, 64, 2_000_000_000
"""A scan of a few bytes costs a pass over all coefficients: as many as scans times pixels say, and in any picture those
that encoders make."""


@dataclass(frozen=True)
class Stream:
    """What stands before the first scan.

    kind: the SOF marker's low half: 0 and 1 sequential, 2 progressive, 3 lossless, 9 and 10 arithmetic …
    needed: the segments that decoding takes, without the others.
    lies: whether the length of some other segment is wrong.
    scans: where the first SOS marker stands.
    """

    width: int
    height: int
    bits: int
    components: tuple[int, ...]
    kind: int
    orientation: int
    needed: bytes
    scans: int
    lies: bool = False

    @property
    def progressive(self) -> bool:
        """Whether the pixels come in several scans of rising precision (SOF2, SOF10)."""
        return self.kind in (2, 10)

    @property
    def arithmetic(self) -> bool:
        """Whether the codes are arithmetic ones (SOF9, SOF10), not Huffman's."""
        return self.kind in (9, 10)

    def bare(self, data: bytes) -> bytes:
        """The file with the segments that decoding needs, and no others."""
        return SOI + self.needed + data[self.scans :]


def parse(data: bytes) -> Stream:
    """Raises UndecodableError where no frame and scan are found, or the process is not decoded here."""
    stream = _walk(data, 2, resync=True)
    if stream is None:
        raise unreadable("broken JPEG header: no frame and scan are in it")
    if stream.kind in (3, 7, 11, 15) or stream.kind in (5, 6, 13, 14):
        process = "lossless" if stream.kind in (3, 7, 11, 15) else "hierarchical"
        reason = f"a {process} JPEG (SOF{stream.kind}) is not decoded here; convert it to PNG"
        raise unsupported(reason, (stream.width, stream.height))
    if stream.bits != 8:
        reason = f"a JPEG of {stream.bits} bits a sample is not decoded here; convert it to 16-bit PNG"
        raise unsupported(reason, (stream.width, stream.height))
    if not stream.height:
        raise unsupported(
            "the JPEG tells its height only behind its pixels (DNL); write it anew with another program"
        )
    if not stream.width or not stream.components:
        raise unreadable("broken JPEG header: a frame without pixels")
    if len(stream.components) not in (1, 3, 4):
        raise unsupported(f"a JPEG of {len(stream.components)} components has no agreed colours")
    return stream


def _walk(data: bytes, position: int, *, resync: bool) -> Stream | None:
    """The stream whose segments begin at `position`; None where they lead to no frame and scan."""
    frame: Stream | None = None
    needed, upright = bytearray(), 1
    while True:
        marker = data.find(b"\xff", position)
        while marker >= 0 and data[marker + 1 : marker + 2] == b"\xff":
            marker += 1
        code = data[marker + 1] if 0 <= marker < len(data) - 1 else None
        if code is None or (not resync and marker - position > 1):
            return None
        position = marker + 2
        if code in _ALONE or code == 0:
            continue
        length = max(2, int.from_bytes(data[position : position + 2], "big"))
        body, end = data[position + 2 : position + length], position + length
        if code == _SOS:
            return replace(frame, needed=bytes(needed), scans=marker, orientation=upright) if frame else None
        if code == 0xD9:
            return None
        if resync and (code & 0xF0 == 0xE0 or code == _COM) and _lies(data, position, end):
            # Several places may lead on to a scan, such as a thumbnail's; the picture is the largest frame.
            streams = (_walk(data, match.start(), resync=False) for match in _starts(data, position))
            best = max(
                (stream for stream in streams if stream),
                key=lambda stream: stream.width * stream.height,
                default=None,
            )
            if best is None or frame is not None:
                return None
            return replace(best, needed=bytes(needed) + best.needed, orientation=upright, lies=True)
        if code in _FRAMES and len(body) >= 6:
            if frame is not None:
                return None
            frame = _frame(code, body)
        if code in _FRAMES or code in _TABLES:
            needed += data[marker:end]
        elif code == 0xE1 and body.startswith(b"Exif\0"):
            upright = orientation(body) if upright == 1 else upright
        elif code == 0xE0 and body.startswith(b"JFIF\0"):
            needed += _PLAIN_JFIF
        elif code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12 and body[11] in (0, 1, 2):
            needed += data[marker:end]
        position = end


def _lies(data: bytes, position: int, end: int) -> bool:
    """Whether the length at `position`, of a segment that is not needed, leads to no other segment."""
    follows = data[end : end + 1] == b"\xff" and data[end + 1 : end + 2] not in (b"", b"\0")
    return not follows or int.from_bytes(data[position : position + 2], "big") < 2


def _starts(data: bytes, position: int) -> list[re.Match[bytes]]:
    return list(re.compile(rb"\xff[\xc0-\xcf\xdb\xdd]").finditer(data, position, position + 2**17))[:64]


def _frame(code: int, body: bytes) -> Stream:
    components = tuple(body[6 : 6 + 3 * body[5] : 3])
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    return Stream(width, height, body[0], components, code & 15, 1, b"", 0)


def check_scans(data: bytes, stream: Stream) -> None:
    """Raises UndecodableError where some component, or some bits of its coefficients, are in no scan."""
    first = _scan(data, stream.scans + 2)
    if not stream.progressive and len(first[0]) == len(stream.components):
        return
    # For each component the bits that are still missing of each of its 64 coefficients; 14 is more than there are.
    missing = {component: [14] * 64 for component in stream.components}
    position, count = stream.scans, 0
    while (marker := _MARKER.search(data, position)) and marker[1] != b"\xd9":
        position = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))
        if marker[1][0] != _SOS:
            continue
        count += 1
        components, start, stop, low = _scan(data, marker.end())
        if not stream.progressive:
            start, stop, low = 0, 63, 0
        for component in components:
            bits = missing.get(component)
            if bits is not None:
                bits[start : stop + 1] = [low] * len(bits[start : stop + 1])
    most = min(_MOST_SCANS, max(_ANY_SCANS, _MOST_PASSES // max(1, stream.width * stream.height)))
    if count > most:
        raise unsupported(f"a JPEG of {count} scans; no more than {most} are decoded at its size")
    if any(any(bits) for bits in missing.values()):
        raise unreadable("broken JPEG content: its last scans are missing")


def _scan(data: bytes, position: int) -> tuple[bytes, int, int, int]:
    """Components, first and last coefficient, and the lowest bit of the scan whose header's length is at `position`."""
    count = data[position + 2] if position + 2 < len(data) else 0
    end = position + 3 + 2 * count
    tail = data[end : end + 3]
    if len(tail) < 3:
        return b"", 0, 0, 0
    return data[position + 3 : end : 2], tail[0], min(tail[1], 63), tail[2] & 15
