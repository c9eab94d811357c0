"""A process that takes strange files through decode, inference and encode: `python -m tests.helpers.decode_worker`.

Names come on stdin, one a line; a line of JSON answers each: [statuses, reasons], a JPEG's in full and scaled. It has little memory,
so that a file that takes too much of it says so. It may die or hang: whoever started it starts another one.
"""

from __future__ import annotations

import json
import resource
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MEMORY = 400 * 2**20
"""Address space beyond what an idle worker has: MOST_PIXELS take 48 MB as RGB."""
PATIENCE = 120
"""Seconds after which a file is said to hang; the slowest takes a few on a busy machine."""
DAMAGED = "damaged by seed "
"""With a number behind it: the name of a file that `strange_files.damaged` makes."""

Outcome = tuple[list[str], list[str]]


def outcomes(names: list[str]) -> dict[str, Outcome]:
    """Statuses and reasons of each of the files; `crashed` or `hung` of those that a worker did not survive."""
    answers: dict[str, Outcome] = {}
    left = list(names)
    while left:
        before = len(left)
        for name, outcome in _until_it_ends(left):
            answers[name] = outcome
            left.remove(name)
        if len(left) == before:
            raise RuntimeError("the worker does not start")
    return answers


def _until_it_ends(names: list[str]) -> Iterator[tuple[str, Outcome]]:
    """What one worker says of the files, in their order; the last one may be what ended it."""
    command = [sys.executable, "-m", __spec__.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.readline()  # it is ready
        for name in list(names):
            worker.stdin.write(name + "\n")
            worker.stdin.flush()
            if not select.select([worker.stdout], [], [], PATIENCE)[0]:
                worker.kill()
                yield name, (["hung"], [f"no answer in {PATIENCE} s"])
                return
            line = worker.stdout.readline()
            if not line:
                yield name, (["crashed"], [f"the worker ended with {worker.wait()}"])
                return
            statuses, reasons = json.loads(line)
            yield name, (statuses, reasons)
        worker.stdin.close()


def main() -> None:
    from tests.helpers.strange_files import MOST_PIXELS, damaged, strange_files

    files = {strange.name: strange.data for strange in strange_files()}
    _through(b"", MOST_PIXELS, None)
    _limit_memory()
    print("ready", flush=True)
    for line in sys.stdin:
        name = line.rstrip("\n")
        data = files[name] if name in files else damaged(files, int(name.removeprefix(DAMAGED)))
        targets = [None, (16, 16)] if data.startswith(b"\xff\xd8") else [None]
        rows = [_through(data, MOST_PIXELS, target) for target in targets]
        print(json.dumps([[row["status"] for row in rows], [row["error"] or "" for row in rows]]), flush=True)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _through(data: bytes, max_pixels: int, target: tuple[int, int] | None) -> dict:
    """The file's row of the lake, and the pixels' sizes that fit it."""
    import pyarrow as pa
    from masklake.model.decode import DecodeOptions
    from masklake.pipeline.decode import decode_rows
    from masklake.pipeline.segment.encode import encode_rows
    from masklake.pipeline.segment.fetch import FETCHED
    from masklake.pipeline.segment.infer import infer_rows

    from tests.helpers.predictors import VOCABULARY, ContentPredictor

    fetched = {"image_id": 0, "uri": "s3://b/k", "size_bytes": len(data), "status": "ok", "data": data}
    decoded = decode_rows(
        pa.Table.from_pylist([fetched], FETCHED), DecodeOptions(max_pixels=max_pixels, target=target)
    )
    [row] = encode_rows(infer_rows(decoded, ContentPredictor()), VOCABULARY).to_pylist()
    assert row["n_instances"] == len(row["instances"])
    return row


if __name__ == "__main__":
    main()
