"""What a log says of a run is found again by who reads the log."""

from __future__ import annotations

import pytest
from masklake.jobs.terminal import log_lines


def test_what_is_written_is_read_again() -> None:
    again = ["segment", "s3://p/a b", "s3://l", "--resume", "r", "--profile=x"]
    log = "\n".join(
        [
            "x",
            log_lines.first_line("20261125T020000-abcdef", "demo over s3://p", ", attempt 2"),
            log_lines.go_on(again),
        ]
    )
    assert log_lines.run_in(log) == "20261125T020000-abcdef"
    assert log_lines.resuming_in(log) == "segment 's3://p/a b' s3://l --resume r --profile=x"


def test_a_log_without_them() -> None:
    assert log_lines.run_in("a run 20261125T020000-abcdef\n") is None
    assert log_lines.resuming_in("nothing") is None


@pytest.mark.parametrize(
    ("log", "outcome"),
    [
        (
            "complete: 60 of 60 images in the lake, 474 instances, 20 s\n  ok 60\nnext:  masklake query …\nnote: rows begin",
            "complete: 60 of 60 images in the lake, 474 instances, 20 s",
        ),
        (
            "failed: 3 of 60 images in the lake\n  because: the disk is full\ngo on with:  masklake x",
            "the disk is full",
        ),
        (
            "complete: 8 of 8 images in the lake\ntrained: m@0 after 5 steps\nnot promoted: production stays: mask.AP 0.1\n",
            "not promoted: production stays: mask.AP 0.1",
        ),
        (
            "trained: m@0 after 5 steps\nmasklake models promote l m@0    # makes it production",
            "trained: m@0 after 5 steps",
        ),
        (
            "diverged: the loss is nan\ndiverged at step 7: the last checkpoint is kept",
            "diverged: the loss is nan",
        ),
        ("complete: 8 of 8 images\nmasklake: error: l: cannot write\nmasklake: bye", "l: cannot write"),
        ("complete: 8 of 8 images\r\n", "complete: 8 of 8 images"),
        ("12 rows\nincomplete rows: 3", None),
        ("", None),
    ],
)
def test_what_became_of_it_is_found(log: str, outcome: str | None) -> None:
    assert log_lines.outcome_in(log) == outcome
