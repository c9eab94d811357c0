"""JPEG: the pixels that libjpeg gives where it has nothing to warn of, and a reason where pixels are missing."""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib

import numpy as np
import pytest
from masklake.model.decode import DecodeOptions, Fault, UndecodableError, decode
from PIL import Image, ImageFilter

from tests.helpers.images import oriented, quadrants, save

PLAIN = DecodeOptions()
_NOISE = np.random.default_rng(3).integers(0, 255, (96, 128, 3), np.uint8)
PHOTO = Image.fromarray(_NOISE).filter(ImageFilter.GaussianBlur(2)).resize((160, 120))
EOI = b"\xff\xd9"


def _by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _refused(data: bytes) -> tuple[Fault, str]:
    with pytest.raises(UndecodableError) as caught:
        decode(data, PLAIN)
    return caught.value.fault, str(caught.value)


FILES = {
    "baseline": save(PHOTO, "JPEG", quality=90),
    "progressive": save(PHOTO, "JPEG", quality=90, progressive=True),
    "444": save(PHOTO, "JPEG", quality=90, subsampling=0),
    "422": save(PHOTO, "JPEG", quality=90, subsampling=1),
    "restarts": save(PHOTO, "JPEG", quality=90, restart_marker_blocks=5),
    "grey": save(PHOTO.convert("L"), "JPEG", quality=90),
    "cmyk": save(PHOTO.convert("CMYK"), "JPEG", quality=90),
    "rgb": save(PHOTO, "JPEG", quality=90, keep_rgb=True),
}


@pytest.mark.parametrize("name", FILES)
def test_in_full_the_pixels_are_those_of_pillow(name: str) -> None:
    """To the last bit: `--precision exact` is compared with torchvision, which is given Pillow's pixels."""
    assert np.array_equal(decode(FILES[name], PLAIN)[0], _by_pillow(FILES[name]))


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("name", FILES)
def test_scaled_the_pixels_are_those_of_pillow(name: str, factor: int) -> None:
    size = (160 // factor, 120 // factor)
    image = Image.open(io.BytesIO(FILES[name]))
    image.draft(None, size)
    pixels, frame = decode(FILES[name], DecodeOptions(target=(size[1], size[0])))
    assert frame == (160, 120)
    assert pixels.shape == (*size[::-1], 3)
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


# ---- what lacks pixels ----


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_part_of_a_file_is_unreadable_closed_or_not(name: str, closed: bool, share: float) -> None:
    """Pillow gives a picture whose lower part is grey."""
    data = FILES[name][: int(len(FILES[name]) * share)] + (EOI if closed else b"")
    assert _refused(data)[0] == Fault.UNREADABLE


def test_a_progressive_file_that_ends_between_scans() -> None:
    """libjpeg has nothing to warn of: each scan that is there is whole."""
    data = FILES["progressive"]
    scans = [match.start() for match in re.finditer(rb"\xff\xda", data)]
    for scan in scans[1:]:
        for end in (b"", EOI):
            assert _refused(data[:scan] + end) == (
                Fault.UNREADABLE,
                "broken JPEG content: its last scans are missing",
            )


def test_a_component_without_a_scan() -> None:
    """Planes one after the other, of which the last is missing."""
    data = FILES["444"]
    scan = data.index(b"\xff\xda")
    header = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\x01\x00" + b"\0\x3f\0"
    assert "last scans are missing" in _refused(data[:scan] + header + data[scan + 14 :])[1]


@pytest.mark.parametrize("name", ["baseline", "progressive", "restarts", "grey", "cmyk"])
def test_a_hole(name: str) -> None:
    data = FILES[name]
    middle = len(data) * 2 // 3
    for hole in (data[:middle] + data[middle + 900 :], data[:middle] + bytes(900) + data[middle + 900 :]):
        assert _refused(hole)[0] == Fault.UNREADABLE


def test_a_restart_that_is_missing() -> None:
    data = FILES["restarts"]
    first, third = data.index(b"\xff\xd1"), data.index(b"\xff\xd3")
    assert _refused(data[:first] + data[third:])[0] == Fault.UNREADABLE
    assert _refused(data[:first] + data[first + 2 :])[0] == Fault.UNREADABLE


# ---- what lacks none ----


@pytest.mark.parametrize("name", FILES)
def test_only_the_end_marker_is_missing(name: str) -> None:
    """Decided: all pixels are there, so it is a whole picture. Cameras and loggers write such files."""
    whole = _by_pillow(FILES[name])
    for data in (FILES[name][:-2], FILES[name][:-1], FILES[name][:-2] + bytes(500)):
        assert np.array_equal(decode(data, PLAIN)[0], whole)


@pytest.mark.parametrize(
    "slack", [b"\0", b"abc", bytes(1000), b"\x20" * 77, b"1234567890"], ids=lambda slack: str(len(slack))
)
def test_a_little_slack_before_the_end(slack: bytes) -> None:
    """Padding, or the few bytes that some cameras leave; many bytes of anything else are pixels that were not used."""
    data = FILES["baseline"]
    assert np.array_equal(decode(data[:-2] + slack + EOI, PLAIN)[0], _by_pillow(data))
    assert _refused(data[:-2] + np.random.default_rng(0).integers(0, 200, 90, np.uint8).tobytes() + EOI)[0]


def test_what_follows_the_end_is_not_looked_at() -> None:
    data = FILES["baseline"]
    for tail in (b"junk" * 100, FILES["progressive"], data[: len(data) // 2]):
        assert np.array_equal(decode(data + tail, PLAIN)[0], _by_pillow(data))


THUMBNAIL = save(PHOTO.resize((16, 16)), "JPEG")
BODIES = [
    b"",
    b"\0",
    b"JFIF\0",
    b"JFIF\0\2\1\0",
    b"JFIF\0\7\7\0\0\1\0\1\x20\x20",
    b"Exif\0\0",
    b"Exif\0\0MM\0*\xff\xff\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    b"Adobe",
    b"Adobe\0d\0\0\0\0\x63",
    b"ICC_PROFILE\0\5\1x",
    b"http://ns.adobe.com/xap/1.0/\0<x",
    b"MPF\0II*\0\xff\xff\xff\xff",
    b"Photoshop 3.0\0008BIM\xff\xff\xff",
    b"x" * 60_000,
    b"Exif\0\0" + THUMBNAIL,
]


@pytest.mark.parametrize("name", ["baseline", "progressive"])
def test_broken_segments_cost_their_own_meaning(name: str) -> None:
    """APP0 to APP15 and comments of every content, with a length that is right, short, long, none or endless."""
    data, whole = FILES[name], _by_pillow(FILES[name])
    for marker in (0xE0, 0xE1, 0xE2, 0xE3, 0xED, 0xEE, 0xEF, 0xFE):
        for body in BODIES:
            right = len(body) + 2
            for length in {right, max(2, right - 5), right + 9, 0, 1, 65535}:
                segment = bytes([0xFF, marker]) + struct.pack(">H", length) + body
                for position in (2, 20):
                    pixels = decode(data[:position] + segment + data[position:], PLAIN)[0]
                    assert np.array_equal(pixels, whole), (hex(marker), body[:20], length, position)


def test_garbage_between_segments() -> None:
    data = FILES["baseline"]
    for stuff in (b"garbage", b"\xff\xff\xff", b"\0\0"):
        assert np.array_equal(decode(data[:20] + stuff + data[20:], PLAIN)[0], _by_pillow(data))


# ---- orientation ----


def test_orientation_in_xmp_alone_is_not_honoured() -> None:
    """As in browsers and OpenCV; Pillow turns it. Labels are drawn in browsers."""
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    scene = quadrants(160, 120)
    data = save(scene, "JPEG", xmp=xmp)
    assert decode(data, PLAIN)[1] == (160, 120)
    assert decode(save(scene, "JPEG", xmp=xmp, exif=oriented(8)), PLAIN)[1] == (120, 160)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "code"), [(1, "B"), (3, "H"), (4, "I")])
def test_orientation_of_any_number_type(order: str, kind: int, code: str) -> None:
    value = struct.pack(order + code, 6).ljust(4, b"\0")
    exif = (
        (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IHHHI", 8, 1, 0x0112, kind, 1) + value
    )
    data = save(quadrants(160, 120), "JPEG", exif=b"Exif\0\0" + exif + bytes(4))
    assert decode(data, PLAIN)[1] == (120, 160)


def test_profiles_are_not_applied() -> None:
    """Decided: models are trained on pixels as stored (OpenCV, torchvision)."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for format_ in ("JPEG", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format_ == "WEBP" else {}
        plain = decode(save(PHOTO, format_, **options), PLAIN)[0]
        assert np.array_equal(decode(save(PHOTO, format_, icc_profile=profile, **options), PLAIN)[0], plain)


# ---- other processes ----


# 32 x 32 pixels of four colours, by libjpeg-turbo's cjpeg -arithmetic: nothing that is installed with us writes it.
ARITHMETIC = zlib.decompress(
    base64.b85decode(
        "c%1ux<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=Xi3x;&fCY$HIapa)SXjB(+1WUFxOjNDxwyG``Gf>``2_j6xdp@o1cgOJMMZh|#U;c<B!om"
        "nML>oyG6VInuyV4pa*FVB^NNrR{-0zJ<X})>P+(?MVqg+vWEN!ne};jJK|p|&Q9zLO|1Aa{W=5a{vmk>#!+(aG-aOF_Q$-|}%4@XjypZ"
        "d5{^P3u49)AM%O;;z_<s`soW&<J"
    )
)


def test_arithmetic_coding() -> None:
    """The decoder cannot warn of codes that end early, so here the end marker is needed."""
    pixels = decode(ARITHMETIC, PLAIN)[0]
    assert np.array_equal(pixels, _by_pillow(ARITHMETIC))
    assert pixels[4, 4, 0] > 200
    for part in (ARITHMETIC[:-2], ARITHMETIC[: len(ARITHMETIC) * 9 // 10]):
        assert _refused(part)[0] == Fault.UNREADABLE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((1, b"\xc3"), "lossless JPEG (SOF3)"),
        ((1, b"\xc5"), "hierarchical JPEG (SOF5)"),
        ((4, b"\x0c"), "12 bits"),
        ((5, b"\0\0"), "DNL"),
    ],
)
def test_processes_that_are_not_decoded_are_named(change: tuple[int, bytes], reason: str) -> None:
    data = FILES["baseline"]
    position = data.index(b"\xff\xc0") + change[0]
    fault, text = _refused(data[:position] + change[1] + data[position + len(change[1]) :])
    assert fault == Fault.UNSUPPORTED
    assert reason in text


def test_scans_without_end() -> None:
    """Each costs a pass over all coefficients."""
    data = FILES["progressive"]
    start = data.rindex(b"\xff\xda")
    fault, reason = _refused(data[:-2] + data[start:-2] * 600 + EOI)
    assert fault == Fault.UNSUPPORTED
    assert "scans" in reason
