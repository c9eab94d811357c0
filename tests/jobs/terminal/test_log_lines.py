"""What a log says of a run is found again by who reads the log."""

from __future__ import annotations

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
