"""Broken, odd and hostile image files, made here: each with the statuses that it may end with."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.helpers.images import gif_bomb, oriented, png_bomb, png_chunk, quadrants, save, tiff, tiff_bomb

SCENE = quadrants(64, 48)
NOISE = np.random.default_rng(7).integers(0, 255, (48, 64, 3), np.uint8)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 16_000_000
"""The limit that the cases are made for."""

OK = ("ok",)
BROKEN = ("unreadable",)
NO_PICTURE = ("unreadable", "unsupported", "too_large")
TOO_LARGE = ("too_large",)
OTHER = ("unsupported",)
ANY = ("ok", *NO_PICTURE)


class Strange(NamedTuple):
    """A file, and the statuses of which it ends with one."""

    name: str
    data: bytes
    statuses: tuple[str, ...]


def strange_files() -> list[Strange]:
    """All of them; names differ."""
    makers = (
        _no_images, _cut_off, _no_pixels, _lying_lengths, _loops, _bombs, _unusual, _broken_profiles, _polyglots, _odd_headers
    )  # fmt: skip
    return [Strange(*case) for maker in makers for case in maker()]


def damaged(files: dict[str, bytes], seed: int) -> bytes:
    """One of the smaller files with a few bytes changed, cut out or put in, or a piece of another one."""
    rnd = random.Random(seed)  # noqa: S311  # damage, not secrets
    small = [data for data in files.values() if 0 < len(data) < 20_000]
    out, other = bytearray(rnd.choice(small)), rnd.choice(small)
    for _ in range(rnd.choice([1, 2, 4, 8])):
        place = rnd.randrange(min(len(out), rnd.choice([64, 400, 20_000])) or 1)
        size = rnd.choice([1, 2, 4, 40])
        match rnd.randrange(4):
            case 0:
                out[place : place + size] = rnd.choice([b"\xff", b"\0", b"\x7f", b"\x80", b"\1"]) * size
            case 1:
                out[place : place + size] = rnd.randbytes(size)
            case 2:
                del out[place : place + size]
            case 3:
                start = rnd.randrange(len(other))
                out[place:place] = other[start : start + 8 * size]
    return bytes(out)


Cases = Iterator[tuple[str, bytes, tuple[str, ...]]]


def _no_images() -> Cases:
    page = b"<!DOCTYPE html><html><body><h1>503 Service Unavailable</h1></body></html>\n"
    yield "empty", b"", BROKEN
    yield "html error page", page, OTHER
    yield "html after a byte order mark", b"\xef\xbb\xbf" + page, OTHER
    yield "s3 error", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', OTHER
    yield "json error", b'{"error": "not found"}', OTHER
    yield "text", b"hello, this is text\n" * 50, OTHER
    yield "utf-16 text", "hello".encode("utf-16"), OTHER
    yield "zeros", bytes(100_000), OTHER
    yield "ones", b"\xff" * 100_000, NO_PICTURE
    yield "one byte", b"\xff", OTHER
    yield "git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", OTHER
    yield "base64 of a jpeg", b"/9j/4AAQSkZJRgABAQAAAQABAAD/", OTHER
    yield "data uri", b"data:image/png;base64,iVBORw0KGgo=", OTHER
    yield "gzip of a jpeg", gzip.compress(save(SCENE, "JPEG")), OTHER
    yield "jpeg through a text filter", save(NOISE, "JPEG").replace(b"\n", b"\r\n"), NO_PICTURE
    yield "png through a text filter", save(NOISE, "PNG").replace(b"\r\n", b"\n"), NO_PICTURE
    yield "jpeg as utf-8", save(NOISE, "JPEG").decode("latin-1").encode(), OTHER
    yield "text that begins like a BMP", b"BMW and Bombardier are makers of vehicles.\n" * 9, NO_PICTURE
    yield "text that begins like a GIF", b"GIF89a is a format of 1989, with frames.\n" * 9, NO_PICTURE
    yield "text that begins like a PPM", b"P5 is the name of a band; P6 was never one\n" * 9, NO_PICTURE
    yield "text that begins like a TIFF", b"II*\0 is how a TIFF begins\n" * 9, NO_PICTURE
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", OTHER
    yield "wav in riff", b"RIFF\x24\0\0\0WAVEfmt " + bytes(24), OTHER
    yield "mp4", b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2" + bytes(64), OTHER
    yield "camera raw", b"II*\0\x10\0\0\0CR\x02\0" + bytes(64), OTHER


def _cut_off() -> Cases:
    """At each border between two structures, and in the middle of each structure."""
    wholes = {
        "jpeg": (save(NOISE, "JPEG", exif=oriented(6), comment=b"a comment"), jpeg_borders),
        "jpeg progressive": (save(NOISE, "JPEG", progressive=True), jpeg_borders),
        "png": (save(NOISE, "PNG", exif=oriented(3), dpi=(72, 72)), png_borders),
        "png palette": (save(Image.fromarray(NOISE).quantize(16), "PNG", transparency=3), png_borders),
        "webp": (save(NOISE, "WEBP", exif=oriented(6)), webp_borders),
        "webp animated": (save(NOISE, "WEBP", save_all=True, append_images=[Image.fromarray(SCENE)]), webp_borders),
        "gif": (save(Image.fromarray(NOISE).quantize(8), "GIF", comment=b"a comment"), gif_borders),
        "bmp": (save(NOISE, "BMP"), lambda _: [2, 6, 10, 14, 18, 26, 34, 54]),
        "tiff": (_tiff(), lambda data: [2, 4, 8, *range(len(data) - 2 - 12 * 8 - 4, len(data), 12)]),
        "ico": (save(NOISE, "ICO"), lambda _: [4, 6, 14, 22, 30]),
        "jp2": (save(NOISE, "JPEG2000"), lambda data: [12, 32, 40, 60, data.find(b"\xff\x4f"), data.find(b"\xff\x93")]),
        "avif": (save(NOISE, "AVIF"), lambda data: [8, 16, 32, data.find(b"iloc"), data.find(b"mdat") + 4]),
        "tga": (save(NOISE, "TGA", compression="tga_rle"), lambda _: [18, 30]),
        "ppm": (save(NOISE, "PPM"), lambda _: [3, 5, 8, 13]),
    }  # fmt: skip
    for name, (data, borders) in wholes.items():
        places = sorted({place for place in borders(data) if 0 < place < len(data)})
        for start, end in zip([0, *places], [*places, len(data)], strict=True):
            for place in {start, (start + end) // 2} - {0}:
                yield (
                    f"{name} cut off at {place}",
                    data[:place],
                    ANY if _only_end_is_missing(data, place) else NO_PICTURE,
                )
    jpeg = save(NOISE, "JPEG")
    for compression in (6, 7):
        tags = {**_TAGS, 259: ("H", compression), 262: ("H", 6)}
        yield f"tiff of jpeg {compression}, whole", tiff(tags, jpeg), OK  # type: ignore[arg-type]  # tags are numbers
        yield f"tiff of jpeg {compression}, cut off", tiff(tags, jpeg[:-60]), BROKEN  # type: ignore[arg-type]  # as above


def _only_end_is_missing(data: bytes, place: int) -> bool:
    """Whether nothing but an end marker, or what follows the first frame, is cut off."""
    if data.startswith(b"\xff\xd8"):
        return len(data) - place <= 2
    if data.startswith(SIGNATURE):
        return place >= len(data) - 12
    if data[8:12] == b"WEBP":
        after = max(data.find(b"EXIF", 40), data.find(b"ANMF", data.find(b"ANMF") + 4))
        return 0 < after - 4 <= place
    return data.startswith(b"GIF") and place >= len(data) - 2


def jpeg_borders(data: bytes) -> list[int]:
    """Where the segments before the first scan begin."""
    position, places = 2, []
    while data[position + 1] != 0xDA:
        places.append(position)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return [*places, position, position + 2, len(data) - 2, len(data) - 1]


def png_borders(data: bytes) -> list[int]:
    """Where each chunk, its type, its content and its checksum begin."""
    position, places = 8, []
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        places += [position, position + 4, position + 8, end - 4]
        position = end
    return places


def webp_borders(data: bytes) -> list[int]:
    """Where each chunk and its content begin."""
    position, places = 12, [4, 8]
    while position < len(data):
        places += [position, position + 8]
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + length + length % 2
    return places


def gif_borders(data: bytes) -> list[int]:
    frame = data.find(b",", 13)
    return [6, 10, 13, data.find(b"!"), frame, frame + 10, frame + 11, len(data) - 1]


def _tiff(**more: object) -> bytes:
    return tiff({**_TAGS, **more}, NOISE.tobytes())  # type: ignore[dict-item]  # tags are numbers


_TAGS: dict[int, tuple[str, object]] = {
    256: ("I", 64), 257: ("I", 48), 258: ("H", [8, 8, 8]), 262: ("H", 2), 277: ("H", 3), 278: ("H", 48)
}  # fmt: skip


def _jpeg_header(width: int, height: int, data: bytes | None = None) -> bytes:
    """A JPEG whose frame says these sides."""
    out = bytearray(data or save(NOISE, "JPEG"))
    frame = max(out.find(b"\xff\xc0"), out.find(b"\xff\xc2"))
    out[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(out)


def _png(width: int, height: int, image: bytes, *, bits: int = 8, colour: int = 2, more: bytes = b"", interlace: int = 0) -> bytes:  # fmt: skip
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    return SIGNATURE + png_chunk(b"IHDR", header) + more + png_chunk(b"IDAT", image) + png_chunk(b"IEND", b"")


def _bmp(
    width: int, height: int, *, bits: int = 24, compression: int = 0, colours: int = 0, size: int = 40
) -> bytes:
    head = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, 0, 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 200, 0, 0, 54) + head + bytes(200)


def _no_pixels() -> Cases:
    for width, height in ((0, 48), (64, 0), (0, 0)):
        yield f"png of {width}x{height}", _png(width, height, zlib.compress(b"")), BROKEN
        yield f"jpeg of {width}x{height}", _jpeg_header(width, height), NO_PICTURE
        yield f"bmp of {width}x{height}", _bmp(width, height), BROKEN
        yield f"gif of {width}x{height}", gif_bomb(width, height), BROKEN
        yield (
            f"tiff of {width}x{height}",
            tiff({**_TAGS, 256: ("I", width), 257: ("I", height)}, b"\0"),
            BROKEN,
        )  # type: ignore[dict-item]  # as above
        yield f"ppm of {width}x{height}", b"P6 %d %d 255\n" % (width, height), BROKEN
        jp2 = bytearray(save(NOISE, "JPEG2000"))
        ihdr = jp2.find(b"ihdr")
        jp2[ihdr + 4 : ihdr + 12] = struct.pack(">II", height, width)
        yield f"jp2 of {width}x{height}", bytes(jp2), NO_PICTURE
        vp8 = bytearray(save(NOISE, "WEBP"))
        start = vp8.find(b"VP8 ") + 8 + 6
        vp8[start : start + 4] = struct.pack("<HH", width, height)
        yield f"webp of {width}x{height}", bytes(vp8), NO_PICTURE


def _lying_lengths() -> Cases:
    jpeg, png, webp = (
        save(NOISE, "JPEG", comment=b"abc"),
        save(NOISE, "PNG"),
        save(NOISE, "WEBP", lossless=True),
    )
    for length in (0, 1, 0xFFFF):
        for place in jpeg_borders(jpeg)[:-4]:
            out = jpeg[: place + 2] + struct.pack(">H", length) + jpeg[place + 4 :]
            yield f"jpeg segment {jpeg[place + 1]:x} at {place} of length {length}", out, ANY
    for length in (0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        for kind in (b"IHDR", b"IDAT", b"IEND"):
            place = png.find(kind)
            out = png[: place - 4] + struct.pack(">I", length) + png[place:]
            yield f"png {kind.decode()} of length {length:x}", out, ANY if kind == b"IEND" else BROKEN
        yield f"webp chunk of length {length:x}", webp[:16] + struct.pack("<I", length) + webp[20:], BROKEN
        yield f"tiff count {length:x}", tiff_entry(_tiff(), 258, count=length), NO_PICTURE
        yield f"tiff strip offset {length:x}", tiff_entry(_tiff(), 273, value=length), BROKEN
        yield f"tiff directory at {length:x}", b"II*\0" + struct.pack("<I", length) + _tiff()[8:], NO_PICTURE
        yield f"bmp header of {length:x}", _bmp(64, 48, size=length), BROKEN
        yield f"bmp of {length:x} colours", _bmp(64, 48, bits=8, colours=length), NO_PICTURE
        box = struct.pack(">I", length)
        jp2, avif = save(NOISE, "JPEG2000"), save(NOISE, "AVIF")
        yield f"jp2 box of {length:x}", jp2[:12] + box + jp2[16:], NO_PICTURE
        yield (
            f"avif box of {length:x}",
            avif[: avif.find(b"meta") - 4] + box + avif[avif.find(b"meta") :],
            ANY if length == 0 else NO_PICTURE,
        )
    yield "ico of 65535 pictures", b"\0\0\1\0\xff\xff" + bytes(1000), BROKEN
    yield (
        "ico whose picture is elsewhere",
        b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 9, 9, 0, 0, 1, 32, 99, 2**32 - 1),
        BROKEN,
    )
    yield "png with 50,000 empty chunks", png[:33] + png_chunk(b"tEXt", b"") * 50_000 + png[33:], OK
    # Each looks like a chunk of half a megabyte, whose checksum would have to be computed.
    yield (
        "png with 100,000 false chunks",
        png[:33] + b"\xff\xff\xff\xff!!!!" + b"\0\x05\0\0IDAT" * 100_000 + png[33:],
        BROKEN,
    )
    yield "jpeg with 10,000 comments", jpeg[:2] + b"\xff\xfe\0\4ab" * 10_000 + jpeg[2:], OK
    yield "jpeg with 100,000 bytes of padding", jpeg[:2] + b"\xff" * 100_000 + jpeg[2:], OK
    yield (
        "jpeg with 20,000 false starts",
        jpeg[:2] + b"\xff\xe0\0\1" + b"\xff\xc0\0\x0b" * 20_000 + jpeg[2:],
        ANY,
    )


def tiff_entry(data: bytes, tag: int, *, count: int | None = None, value: int | None = None) -> bytes:
    """A little-endian TIFF with another count or value in the entry `tag`."""
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    out = bytearray(data)
    for position in range(start + 2, start + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, position)[0] == tag:
            if count is not None:
                struct.pack_into("<I", out, position + 4, count)
            if value is not None:
                struct.pack_into("<I", out, position + 8, value)
    return bytes(out)


def _loops() -> Cases:
    def exif(body: bytes) -> bytes:
        return b"Exif\0\0II*\0" + body

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        return struct.pack("<HHII", tag, kind, count, value)

    itself = struct.pack("<IH", 8, 1) + entry(0x8769, 4, 1, 8) + struct.pack("<I", 8)
    blocks = {
        "whose directory is itself": itself,
        "whose directories follow each other": struct.pack("<IH", 8, 1) + entry(0x0112, 4, 2**31, 8) + struct.pack("<I", 8),
        "of 65535 entries": struct.pack("<IH", 8, 65535) + entry(0x010E, 2, 2**32 - 1, 2**32 - 1) * 3,
        "whose directory is outside": struct.pack("<I", 2**32 - 1),
        "of an unknown type": struct.pack("<IH", 8, 1) + entry(0x0112, 99, 1, 6) + bytes(4),
        "of noise": NOISE.tobytes()[:200],
        "of nothing": b"",
    }  # fmt: skip
    jpeg = save(NOISE, "JPEG")
    for name, body in blocks.items():
        block = exif(body)
        yield (
            f"jpeg with exif {name}",
            jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block + jpeg[2:],
            OK,
        )
        yield f"png with exif {name}", _with_chunk(b"eXIf", block[6:]), OK
        yield f"webp with exif {name}", save(NOISE, "WEBP", exif=block), OK
    plain = _tiff()
    (start,) = struct.unpack_from("<I", plain, 4)
    (entries,) = struct.unpack_from("<H", plain, start)
    after = start + 2 + 12 * entries
    yield "tiff whose next page is itself", plain[:after] + struct.pack("<I", start) + plain[after + 4 :], OK
    reduced = tiff({**_TAGS, 254: ("I", 1)}, NOISE.tobytes())  # type: ignore[dict-item]  # as above
    (start,) = struct.unpack_from("<I", reduced, 4)
    after = start + 2 + 12 * struct.unpack_from("<H", reduced, start)[0]
    yield (
        "tiff of one thumbnail, again and again",
        reduced[:after] + struct.pack("<I", start) + reduced[after + 4 :],
        ANY,
    )
    for kind, length in ((330, "its pages"), (34665, "its exif"), (34853, "its position")):
        yield (
            f"tiff in which {length} are itself",
            tiff({**_TAGS, kind: ("I", 8 + NOISE.nbytes)}, NOISE.tobytes()),
            ANY,
        )  # type: ignore[dict-item]  # as above
        thumbnail = {**_TAGS, 254: ("I", 1), kind: ("I", 8 + NOISE.nbytes)}
        yield f"tiff of a thumbnail in which {length} are itself", tiff(thumbnail, NOISE.tobytes()), ANY  # type: ignore[arg-type]  # as above


def _with_chunk(kind: bytes, body: bytes) -> bytes:
    png = save(NOISE, "PNG")
    return png[:33] + png_chunk(kind, body) + png[33:]


def _bombs() -> Cases:
    side = 60_000
    yield "png of 30000x30000", png_bomb(30_000, 30_000), TOO_LARGE
    yield "png of 2^31-1 squared", png_bomb(2**31 - 1, 2**31 - 1), TOO_LARGE
    yield "png of 2^32-1 squared", png_bomb(2**32 - 1, 2**32 - 1), NO_PICTURE
    yield "png of one enormous row", png_bomb(2**31 - 1, 1), TOO_LARGE
    yield "gif of 40000x40000", gif_bomb(40_000, 40_000), TOO_LARGE
    yield "jpeg of 65000x65000", _jpeg_header(65_000, 65_000), TOO_LARGE
    yield (
        "progressive jpeg of 65000x65000",
        _jpeg_header(65_000, 65_000, save(NOISE, "JPEG", progressive=True)),
        TOO_LARGE,
    )
    yield "bmp of 30000x30000", _bmp(30_000, 30_000), TOO_LARGE
    yield "bmp of 2^31-1 and -2^31", _bmp(2**31 - 1, -(2**31)), TOO_LARGE
    yield "bmp with runs of 30000x30000", _bmp(30_000, 30_000, bits=8, compression=1), TOO_LARGE
    yield "ppm of 30000x30000", b"P6 30000 30000 255\n" + bytes(9), TOO_LARGE
    yield "plain ppm of digits", b"P3 9 9 255\n" + b"9" * 100_000, NO_PICTURE
    yield "ppm whose header is digits", b"P6 " + b"1" * 100_000, NO_PICTURE
    yield "tiff tile of 40000x40000", tiff_bomb(40_000), TOO_LARGE
    large = {**_TAGS, 256: ("I", side), 257: ("I", side)}
    yield "tiff of 60000x60000", tiff(large, bytes(99)), TOO_LARGE  # type: ignore[arg-type]  # as above
    yield (
        "tiff of 65535 samples",
        tiff({**_TAGS, 277: ("H", 65535), 258: ("H", 8), 262: ("H", 1)}, bytes(99)),
        NO_PICTURE,
    )  # type: ignore[dict-item]  # as above
    zeros = zlib.compress(bytes(400_000_000), 9)
    yield "tiff whose deflate holds 400 MB", tiff({**_TAGS, 259: ("H", 8)}, zeros), ANY  # type: ignore[dict-item]  # as above
    yield "png whose pixels hold 400 MB", _png(64, 48, zeros), ANY
    yield "png whose profile holds 400 MB", _with_chunk(b"iCCP", b"p\0\0" + zeros), OK
    yield "png whose text holds 400 MB", _with_chunk(b"zTXt", b"p\0\0" + zeros), OK
    flat = save(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    scan = flat[flat.rfind(b"\xff\xda") : -2]
    yield "jpeg of 460 scans", flat[:-2] + scan * 450 + flat[-2:], OTHER
    inner = _jpeg_header(side, side)
    in_tiff = {**_TAGS, 259: ("H", 7), 262: ("H", 6)}
    yield "tiff whose jpeg is of 60000x60000", tiff(in_tiff, inner), NO_PICTURE  # type: ignore[arg-type]  # as above
    yield "tiff whose jpeg is whole and of 4000x4000", tiff({**in_tiff, 262: ("H", 2)}, flat), TOO_LARGE  # type: ignore[dict-item]  # as above
    yield (
        "tiff whose jpeg of 12 bits is of 60000x60000",
        tiff(in_tiff, inner.replace(b"\0\x11\x08", b"\0\x11\x0c", 1)),
        NO_PICTURE,
    )  # type: ignore[arg-type]  # as above
    yield "tiff whose old jpeg is of 60000x60000", tiff({**in_tiff, 259: ("H", 6)}, inner), NO_PICTURE  # type: ignore[dict-item]  # as above
    webp = bytearray(save(NOISE, "WEBP"))
    start = webp.find(b"VP8 ") + 8 + 6
    webp[start : start + 4] = struct.pack("<HH", 16383, 16383)
    yield "webp of 16383x16383", bytes(webp), TOO_LARGE
    yield "tiff whose webp is of 16383x16383", tiff({**_TAGS, 259: ("H", 50001)}, bytes(webp)), NO_PICTURE  # type: ignore[dict-item]  # as above
    jp2 = save(NOISE, "JPEG2000", no_jp2=True)
    yield "jpeg 2000 of 60000x60000", _sides_of_jpeg_2000(jp2, side), TOO_LARGE
    yield (
        "tiff whose jpeg 2000 is of 60000x60000",
        tiff({**_TAGS, 259: ("H", 33005)}, _sides_of_jpeg_2000(jp2, side)),
        NO_PICTURE,
    )  # type: ignore[dict-item]  # as above
    yield "jpeg 2000 of 16384 components", _components_of_jpeg_2000(jp2, 16384), NO_PICTURE
    avif = bytearray(save(NOISE, "AVIF"))
    place = avif.find(b"ispe") + 8
    avif[place : place + 8] = struct.pack(">II", side, side)
    yield "avif of 60000x60000", bytes(avif), NO_PICTURE
    yield (
        "jpeg xl of 2^30 squared",
        b"\xff\x0a" + (0x3FFFFFFE << 3 | 3 << 1 | 1 << 36).to_bytes(14, "little"),
        NO_PICTURE,
    )
    tga = bytearray(save(NOISE, "TGA", compression="tga_rle"))
    tga[12:16] = struct.pack("<HH", 65535, 65535)
    yield "tga of 65535x65535", bytes(tga), TOO_LARGE
    yield "ico whose png is of 30000x30000", _ico(png_bomb(30_000, 30_000)), TOO_LARGE
    yield "ico whose bitmap is of 30000x30000", _ico(_bmp(30_000, 60_000, bits=32)[14:]), NO_PICTURE


def _ico(picture: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture


def _sides_of_jpeg_2000(data: bytes, side: int) -> bytes:
    """A codestream with other sides, in one tile."""
    out = bytearray(data)
    struct.pack_into(">II", out, 8, side, side)
    struct.pack_into(">II", out, 24, side, side)
    return bytes(out)


def _components_of_jpeg_2000(data: bytes, count: int) -> bytes:
    """A codestream that says so many components of 12 bits."""
    end = 4 + int.from_bytes(data[4:6], "big")
    size = data[6:40] + struct.pack(">H", count) + b"\x0b\1\1" * count
    return data[:4] + struct.pack(">H", (2 + len(size)) & 0xFFFF) + size + data[end:]


def _unusual() -> Cases:
    frames = {"save_all": True, "append_images": [Image.fromarray(SCENE), Image.fromarray(NOISE)]}
    for format_ in ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"):
        yield f"animated {format_.lower()}", save(NOISE, format_, **frames), OK
    bits, deep = Image.fromarray(NOISE).convert("1"), np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    for format_ in ("PNG", "TIFF", "BMP", "PPM", "GIF"):
        yield f"1-bit {format_.lower()}", save(bits, format_), OK
    for format_ in ("PNG", "TIFF", "PPM", "JPEG2000"):
        yield f"16-bit {format_.lower()}", save(Image.fromarray(deep), format_), OK
    for format_ in ("PNG", "TIFF", "WEBP", "TGA", "ICO", "AVIF"):
        clear = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
        yield f"wholly transparent {format_.lower()}", save(clear, format_), OK
    for format_ in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "TGA"):
        yield f"one pixel {format_.lower()}", save(NOISE[:1, :1].copy(), format_), OK
    for format_ in ("PNG", "JPEG", "TIFF", "BMP"):
        yield f"{format_.lower()} of one row", save(np.zeros((1, 20_000, 3), np.uint8), format_), OK
        yield f"{format_.lower()} of one column", save(np.zeros((20_000, 1, 3), np.uint8), format_), OK
    yield "lab tiff", save(Image.fromarray(NOISE).convert("LAB"), "TIFF"), OK
    yield "float tiff of NaN", save(Image.fromarray(np.full((48, 64), np.nan, np.float32)), "TIFF"), BROKEN
    yield "jpeg that follows a jpeg", save(NOISE, "JPEG") + save(SCENE, "JPEG"), OK
    yield "jpeg with 10 MB after it", save(NOISE, "JPEG") + bytes(10_000_000), OK
    yield "interlaced png", _png(64, 48, zlib.compress(bytes(40_000)), interlace=1), ANY


def _broken_profiles() -> Cases:
    profiles = {
        "of noise": NOISE.tobytes()[:3000],
        "of one byte": b"x",
        "that is larger than it says": struct.pack(">I", 2**32 - 1) + b"acsp" * 100,
        "of 20 MB": bytes(20_000_000),
    }
    cmyk = Image.fromarray(NOISE).convert("CMYK")
    for name, profile in profiles.items():
        if len(profile) < 2**16:
            yield f"cmyk jpeg with a profile {name}", save(cmyk, "JPEG", icc_profile=profile), OK
            yield f"jpeg with a profile {name}", save(NOISE, "JPEG", icc_profile=profile), OK
        yield f"cmyk tiff with a profile {name}", save(cmyk, "TIFF", icc_profile=profile), OK
        yield f"png with a profile {name}", save(NOISE, "PNG", icc_profile=profile), OK
        yield f"webp with a profile {name}", save(NOISE, "WEBP", icc_profile=profile), OK
    yield "cmyk jpeg without its adobe marker", _without_adobe(save(cmyk, "JPEG")), OK


def _without_adobe(data: bytes) -> bytes:
    place = data.find(b"\xff\xee")
    return data[:place] + data[place + 2 + int.from_bytes(data[place + 2 : place + 4], "big") :]


def _polyglots() -> Cases:
    jpeg, png = save(NOISE, "JPEG"), save(NOISE, "PNG")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("payload.py", "raise SystemExit")
    script = b"<?php system($_GET['c']); ?><script>alert(1)</script>"
    yield "jpeg and zip", jpeg + archive.getvalue(), OK
    yield "png and zip", png + archive.getvalue(), OK
    yield "png and html", _with_chunk(b"tEXt", b"Comment\0" + script), OK
    yield "jpeg and php", save(NOISE, "JPEG", comment=script), OK
    yield (
        "gif and javascript",
        b"GIF89a/*" + save(Image.fromarray(NOISE).quantize(8), "GIF")[8:] + b"*/=1;alert(1)",
        ANY,
    )
    yield "bmp and javascript", b"BM/*" + save(NOISE, "BMP")[4:] + b"*/=1;", OK
    yield (
        "pdf that holds a jpeg",
        b"%PDF-1.4\n1 0 obj<</Filter/DCTDecode>>stream\n" + jpeg + b"endstream",
        OTHER,
    )
    yield "jpeg and pdf", jpeg + b"%PDF-1.4\n", OK
    yield "jpeg in png", png[:33] + png_chunk(b"tEXt", jpeg) + png[33:], OK
    yield "png in jpeg", save(NOISE, "JPEG", comment=png[:60_000]), OK
    yield "jpeg named twice", jpeg[:2] + jpeg, ANY
    yield "tiff and dng", tiff({**_TAGS, 50706: ("B", [1, 4, 0, 0])}, NOISE.tobytes()), OK  # type: ignore[dict-item]  # as above
    yield (
        "encapsulated postscript",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        OTHER,
    )
    yield "msl for imagemagick", b'<?xml version="1.0"?><image><read filename="/etc/passwd"/></image>', OTHER
    yield "mvg for imagemagick", b"push graphic-context\nimage over 0,0 0,0 'ephemeral:/etc/passwd'\n", OTHER
    yield "a FLI animation", struct.pack("<IHHHHH", 128, 0xAF11, 9, 64, 48, 8) + bytes(116), OTHER
    yield "a sun raster", b"\x59\xa6\x6a\x95" + bytes(28), OTHER


def _odd_headers() -> Cases:
    jpeg = save(NOISE, "JPEG")
    frame, scan, quant, huffman = (jpeg.find(b"\xff" + bytes([code])) for code in (0xC0, 0xDA, 0xDB, 0xC4))
    for name, place, value in (
        ("no components", frame + 9, 0), ("255 components", frame + 9, 255), ("sampling of 0", frame + 11, 0),
        ("sampling of 15", frame + 11, 0xFF), ("a quantisation table that is none", frame + 12, 9),
        ("1 bit", frame + 4, 1), ("12 bits", frame + 4, 12), ("a scan of 9 components", scan + 4, 9),
        ("a scan of no components", scan + 4, 0), ("a huffman table that is none", scan + 6, 0x99),
        ("a quantisation table of 16 bits", quant + 4, 0x10), ("codes without end", huffman + 5, 255),
    ):  # fmt: skip
        yield f"jpeg of {name}", jpeg[:place] + bytes([value]) + jpeg[place + 1 :], NO_PICTURE
    pixels = zlib.compress(bytes(48 * (1 + 64 * 3)))
    for bits, colour in ((0, 2), (3, 2), (8, 1), (8, 5), (16, 3), (255, 255), (1, 2), (2, 6)):
        yield (
            f"png of {bits} bits and colour {colour}",
            _png(64, 48, pixels, bits=bits, colour=colour),
            BROKEN,
        )
    yield "png with a filter that is none", _png(64, 48, zlib.compress(b"\x09" + bytes(48 * 193 - 1))), BROKEN
    yield "png palette without a palette", _png(64, 48, zlib.compress(bytes(48 * 65)), colour=3), BROKEN
    yield (
        "png palette of one colour",
        _png(64, 48, zlib.compress(b"\0" + b"\xff" * 64) * 1, colour=3, more=png_chunk(b"PLTE", b"abc")),
        BROKEN,
    )
    yield "png of noise for pixels", _png(64, 48, NOISE.tobytes()), BROKEN
    for tag, name, value in (
        (258, "bits", 0), (258, "bits", 65535), (259, "compression", 65535), (262, "photometric", 65535), (277, "samples", 0),
        (278, "rows a strip", 0), (278, "rows a strip", 2**32 - 1), (284, "planes", 9), (317, "predictor", 9),
        (317, "predictor", 3), (322, "tile width", 0), (339, "sample format", 99), (338, "extra samples", 99),
        (266, "fill order", 9), (32997, "depth", 2**31), (530, "subsampling", 0),
    ):  # fmt: skip
        kind = "I" if value >= 2**16 or tag in (278, 322, 32997) else "H"
        yield f"tiff of {name} {value}", tiff({**_TAGS, tag: (kind, value)}, NOISE.tobytes()), ANY  # type: ignore[dict-item]  # as above
    for bits, compression in (
        (0, 0),
        (7, 0),
        (33, 0),
        (65535, 0),
        (8, 1),
        (4, 2),
        (24, 1),
        (24, 99),
        (32, 3),
        (16, 6),
    ):
        yield (
            f"bmp of {bits} bits and compression {compression}",
            _bmp(64, 48, bits=bits, compression=compression),
            NO_PICTURE,
        )
    for value in (0, 1, 12, 255):
        gif = bytearray(save(Image.fromarray(NOISE).quantize(8), "GIF"))
        gif[gif_borders(bytes(gif))[5]] = value
        yield f"gif of {value} bits a code", bytes(gif), ANY
    for top in (b"0", b"-1", b"65536", b"1e9", b"99999999999999999999"):
        yield f"ppm up to {top.decode()}", b"P6 8 8 " + top + b"\n" + bytes(400), NO_PICTURE
    yield "pfm without a scale", b"PF 8 8 0\n" + bytes(768), ANY
