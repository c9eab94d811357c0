"""CPU time an image of everything around the model, beside one GET and one decode.

A whole job with a predictor that costs nothing, in two sizes: the difference is the steady state, the rest the start.
All processes are counted, by kind. Beside it one thread that only reads and decodes the same objects.

    python -m tests.bench overhead          # local disk and an S3 server on the loopback (moto)
    RGW=1 python -m tests.bench overhead    # and Ceph RGW, where it is installed
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from masklake.jobs.demo.loopback_s3 import LoopbackS3, serve
from masklake.model.decode import DecodeOptions, decode
from masklake.pipeline.storage.store import Storage
from PIL import Image

from tests.bench.decode import photo
from tests.bench.null_job import TARGET
from tests.bench.process_cpu import Used, measured
from tests.helpers.servers import rgw

PHOTOS = {(640, 480): (256, 1536), (4000, 3000): (32, 160)}
"""The numbers of images of the two jobs, by the photos' size."""
DISTINCT = 32
ENGINES = ("local", "ray")
_PACKET = 16


@dataclass(frozen=True)
class Place:
    """Where the photos lie: a folder, or a bucket of `server`."""

    name: str
    uris: dict[tuple[int, int], list[str]]
    server: LoopbackS3 | None = None


def files(size: tuple[int, int]) -> list[bytes]:
    """JPEG photos of this size, each its own."""
    pixels = np.asarray(photo().resize(size, Image.Resampling.BICUBIC))
    written = []
    for i in range(DISTINCT):
        file = io.BytesIO()
        Image.fromarray(np.roll(pixels, 8 * i, axis=1)).save(file, "JPEG", quality=90)
        written.append(file.getvalue())
    return written


def on_disk(photos: dict[tuple[int, int], list[bytes]], scratch: Path) -> Place:
    uris = {}
    for size, contents in photos.items():
        folder = scratch / f"photos-{size[0]}"
        folder.mkdir()
        for i in range(max(PHOTOS[size])):
            (folder / f"{i:05d}.jpg").write_bytes(contents[i % DISTINCT])
        uris[size] = [str(path) for path in sorted(folder.iterdir())]
    return Place("local disk", uris)


def in_s3(name: str, server: LoopbackS3, photos: dict[tuple[int, int], list[bytes]]) -> Place:
    client = server.client()
    client.create_bucket(Bucket="overhead")
    uris = {}
    for size, contents in photos.items():
        keys = [f"{size[0]}/{i:05d}.jpg" for i in range(max(PHOTOS[size]))]
        for i, key in enumerate(keys):
            client.put_object(Bucket="overhead", Key=key, Body=contents[i % DISTINCT])
        uris[size] = [f"s3://overhead/{key}" for key in keys]
    return Place(name, uris, server)


@contextlib.contextmanager
def places(photos: dict[tuple[int, int], list[bytes]], scratch: Path) -> Iterator[Iterator[Place]]:
    def each() -> Iterator[Place]:
        yield on_disk(photos, scratch)
        with serve() as moto:
            yield in_s3("moto", moto, photos)
        if os.environ.get("RGW"):
            with rgw.RGW() as ceph:
                yield in_s3("Ceph RGW", ceph.server, photos)

    yield each()


def bare(place: Place, size: tuple[int, int], images: int) -> tuple[float, float]:
    """CPU milliseconds of one GET and of one decode in this process, objects read in packets as the job reads them."""
    # The endpoint is named, as a process keeps its client of the environment's.
    storage = Storage(endpoint_url=place.server.endpoint if place.server else None)
    options = DecodeOptions(target=TARGET)
    got = decoded = 0.0
    for start in range(-_PACKET, images, _PACKET):  # the packet before the first one warms up
        packet = place.uris[size][max(start, 0) :][:_PACKET]
        began = time.process_time()
        answers = storage.get_many(packet)
        read = time.process_time()
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
            decode(answer.data, options)
        if start >= 0:
            got, decoded = got + read - began, decoded + time.process_time() - read
    return 1000 * got / images, 1000 * decoded / images


def job(place: Place, size: tuple[int, int], images: int, engine: str, scratch: Path) -> Used:
    uris = place.uris[size]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        listing = Path(folder, "list.txt")
        listing.write_text("".join(f"{uri}\n" for uri in uris[:images]))
        command = [sys.executable, "-m", "tests.bench.null_job", str(listing), f"{folder}/lake", engine]
        return measured(command)


def compare(place: Place, size: tuple[int, int], scratch: Path) -> None:
    few, many = PHOTOS[size]
    get_ms, decode_ms = bare(place, size, few)
    both = get_ms + decode_ms
    print(f"  {place.name}, {size[0]} × {size[1]}, {few:,} and {many:,} images")
    print(f"    GET {get_ms:.2f} + decode {decode_ms:.2f} = {both:.2f} ms of CPU an image", flush=True)
    for engine in ENGINES:
        small, large = (job(place, size, images, engine, scratch) for images in (few, many))
        steady = Counter({k: 1000 * (v - small.cpu[k]) / (many - few) for k, v in large.cpu.items()})
        total = steady.total()
        kinds = ", ".join(f"{kind} {ms:.2f}" for kind, ms in steady.most_common() if abs(ms) >= 0.05)
        start = small.total - few * total / 1000
        print(
            f"    {engine}, steady: {total:.2f} ms, {total / both:.2f} × that ({kinds}); start and end {start:.1f} CPU-s; "
            f"{large.processes} processes, {large.seconds:.1f} s",
            flush=True,
        )


def main() -> None:
    photos = {size: files(size) for size in PHOTOS}
    with tempfile.TemporaryDirectory() as folder, places(photos, Path(folder)) as each:
        for place in each:
            with place.server.applied() if place.server else contextlib.nullcontext():
                for size in PHOTOS:
                    compare(place, size, Path(folder))
