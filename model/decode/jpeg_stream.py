"""A JPEG's segments (ITU-T T.81, annex B): what is needed to decode it, and whether its scans are all there.

libjpeg takes a file for whole when each scan that is in it ends well. That scans are missing at the end (a progressive
JPEG cut between two of them, and closed) has to be seen from the scans' headers.
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
_MOST_SCANS = 500
"""A scan of a few bytes costs a pass over all coefficients."""


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
        return self.kind in (2, 10)

    @property
    def arithmetic(self) -> bool:
        return self.kind in (9, 10)

    def bare(self, data: bytes) -> bytes:
        """The file without what is not needed."""
        return SOI + self.needed + data[self.scans :]


def parse(data: bytes) -> Stream:
    """Raises UndecodableError where no frame and scan are found, or the process is not decoded here."""
    stream = _walk(data, 2, resync=True)
    if stream is None:
        raise unreadable("broken JPEG header: no frame and scan are in it")
    if stream.kind in (3, 7, 11, 15) or stream.kind in (5, 6, 13, 14):
        what = "lossless" if stream.kind in (3, 7, 11, 15) else "hierarchical"
        raise unsupported(f"a {what} JPEG (SOF{stream.kind}) is not decoded here; convert it to PNG")
    if stream.bits != 8:
        raise unsupported(
            f"a JPEG of {stream.bits} bits a sample is not decoded here; convert it to 16-bit PNG"
        )
    if not stream.height:
        raise unsupported(
            "the JPEG tells its height only behind its pixels (DNL); write it anew with another program"
        )
    if not stream.width or not stream.components:
        raise unreadable("broken JPEG header: a frame without pixels")
    if len(stream.components) not in (1, 3, 4):
        raise unsupported(f"a JPEG of {len(stream.components)} components has no agreed colours")
    return stream


def _walk(data: bytes, at: int, *, resync: bool) -> Stream | None:
    """The stream whose segments stand at `at`; None where they lead to no frame and scan."""
    frame: Stream | None = None
    needed, upright = bytearray(), 1
    while True:
        marker = data.find(b"\xff", at)
        while marker >= 0 and data[marker + 1 : marker + 2] == b"\xff":
            marker += 1
        code = data[marker + 1] if 0 <= marker < len(data) - 1 else None
        if code is None or (not resync and marker - at > 1):
            return None
        at = marker + 2
        if code in _ALONE or code == 0:
            continue
        length = max(2, int.from_bytes(data[at : at + 2], "big"))
        body, end = data[at + 2 : at + length], at + length
        if code == _SOS:
            return replace(frame, needed=bytes(needed), scans=marker, orientation=upright) if frame else None
        if code == 0xD9:
            return None
        if resync and (code & 0xF0 == 0xE0 or code == _COM) and _lies(data, at, end):
            # Of all places where segments lead on to a scan, the largest frame's is not a thumbnail's inside.
            rests = (_walk(data, found.start(), resync=False) for found in _starts(data, at))
            best = max((rest for rest in rests if rest), key=lambda of: of.width * of.height, default=None)
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
        at = end


def _lies(data: bytes, at: int, end: int) -> bool:
    """Whether the length at `at`, of a segment that is not needed, leads to no other segment."""
    follows = data[end : end + 1] == b"\xff" and data[end + 1 : end + 2] not in (b"", b"\0")
    return not follows or int.from_bytes(data[at : at + 2], "big") < 2


def _starts(data: bytes, at: int) -> list[re.Match[bytes]]:
    return list(re.compile(rb"\xff[\xc0-\xcf\xdb\xdd]").finditer(data, at, at + 2**17))[:64]


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
    at, count = stream.scans, 0
    while (found := _MARKER.search(data, at)) and found[1] != b"\xd9":
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
        if found[1][0] != _SOS:
            continue
        count += 1
        components, start, stop, low = _scan(data, found.end())
        if not stream.progressive:
            start, stop, low = 0, 63, 0
        for component in components:
            bits = missing.get(component)
            if bits is not None:
                bits[start : stop + 1] = [low] * len(bits[start : stop + 1])
    if count > _MOST_SCANS:
        raise unsupported(f"a JPEG of {count} scans; no more than {_MOST_SCANS} are decoded")
    if any(any(bits) for bits in missing.values()):
        raise unreadable("broken JPEG content: its last scans are missing")


def _scan(data: bytes, at: int) -> tuple[bytes, int, int, int]:
    """Components, first and last coefficient, and the lowest bit of the scan whose header's length stands at `at`."""
    count = data[at + 2] if at + 2 < len(data) else 0
    end = at + 3 + 2 * count
    tail = data[end : end + 3]
    if len(tail) < 3:
        return b"", 0, 0, 0
    return data[at + 3 : end : 2], tail[0], min(tail[1], 63), tail[2] & 15
