"""The command itself: help that is instant, versions, unknown commands."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from masklake.jobs import cli

from tests.helpers.lakes import LakeBuilder

HEAVY = ("torch", "ray", "torchvision", "s3fs", "duckdb", "matplotlib", "pyarrow")


def _modules_after(*argv: str) -> set[str]:
    """Heavy modules that a command line imports."""
    code = (
        "import sys\nfrom masklake.jobs.cli import main\n"
        f"try:\n    main({list(argv)!r})\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(process.stdout.split("LOADED")[1].split())


@pytest.mark.parametrize(
    "argv",
    [
        ("--help",),
        ("segment", "--help"),
        ("query", "--help"),
        ("view", "--help"),
        ("eval", "--help"),
        ("demo", "--help"),
        ("labels", "import", "--help"),
    ],
)
def test_help_loads_nothing_heavy(argv: tuple[str, ...]) -> None:
    assert not _modules_after(*argv)


def test_every_command_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"    {name} " in text


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "masklake demo" in capsys.readouterr().out


def test_an_unknown_command_names_the_known_ones(run_cli: Callable[..., Any]) -> None:
    result = run_cli("segmnt")
    assert result.code == 2
    assert "segmnt" in result.stderr
    assert "segment, query" in result.stderr
    assert "did you mean 'segment'?" in result.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("masklake 0.")


@pytest.mark.parametrize(
    ("to", "code", "message"),
    [
        (
            ">/dev/full",
            2,
            "masklake: error: standard output: cannot write the result: No space left on device",
        ),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_an_output_that_is_full_or_closed_is_no_traceback(
    tmp_path: Path, to: str, code: int, message: str
) -> None:
    lake = LakeBuilder(str(tmp_path / "lake"))
    lake.record("20261101T000000-aaaaaa")
    command = shlex.join([sys.executable, "-m", "masklake.jobs.cli", "runs", lake.uri])
    process = subprocess.run(
        ["sh", "-c", f"{command} {to}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == code
    assert process.stderr.startswith(message)
    assert process.stderr.count("\n") == bool(message)


def test_scenes_where_no_folder_can_be(tmp_path: Path, masklake: Callable[..., tuple[int, str, str]]) -> None:
    (tmp_path / "file").touch()
    code, out, err = masklake("scenes", tmp_path / "file" / "scenes", "--images", "1")
    assert (code, out) == (2, "")
    assert err == (
        f"masklake: error: {tmp_path}/file/scenes: cannot write the scenes: a file stands where a folder is needed; "
        "choose another name\n"
    )


_SLOW_START = """
import sys, time
from masklake.jobs import cli
from masklake.jobs.cluster import cluster

def started_twice(start):
    try:
        print("starting", flush=True)
        time.sleep(60)
    finally:  # as where Ray's processes are ended
        print("cleaning up", flush=True)
        time.sleep(1)
        print("clean", flush=True)

cluster.started_twice = started_twice
sys.argv = ["masklake", "segment", "photos", "lake", "--model", "demo", "--engine", "ray"]
cli.program()
"""


def test_two_ctrl_cs_while_ray_starts_are_one_line(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "photos").symlink_to(photos)
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW_START],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "starting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "cleaning up\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "clean\n", "masklake: interrupted\n")
