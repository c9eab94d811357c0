"""`masklake schedule`: the command itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from masklake.jobs.schedule.store import default_path

from tests.helpers.paths import ROOT
from tests.helpers.schedules import diary, use_job
from tests.helpers.terminals import lines_without_styles, terminal
from tests.jobs.test_cli import _modules_after

Do = Callable[..., tuple[int, str, str]]


@pytest.fixture
def do(masklake: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Do:
    """Run `masklake schedule ACTION --store … ARGS`, in a folder of its own."""
    use_job(monkeypatch)
    (tmp_path / "lake").mkdir()
    monkeypatch.chdir(tmp_path)
    return lambda action, *args: masklake("schedule", action, "--store", "state/s.db", *args)


def test_a_schedule_from_its_first_day_to_its_last(do: Do, tmp_path: Path) -> None:
    code, out, err = do(
        "add", "nightly", "--cron", "0 2 * * *", "--timezone", "Europe/Berlin", "--", "segment", "run", "lake"
    )
    assert (code, err) == (0, "")
    assert out.startswith("nightly added: masklake segment run lake, next at ")
    assert " 02:00:00 CE" in out.splitlines()[0]
    assert out.splitlines()[0].endswith(f"under {tmp_path}/lake/locks/segment.json")
    assert out.splitlines()[1] == "no daemon serves this store yet: masklake schedule serve"
    do("add", "often", "--every", "15m", "--", "labels", "stats", "lake")
    rows = [line.split("  ")[0] for line in do("list")[1].splitlines()]
    assert rows[0].startswith("schedule")
    assert rows[2:4] == ["nightly", "often"]
    facts = json.loads(do("show", "often")[1])
    assert (facts["every"], facts["lock"], len(facts["next"])) == (
        900,
        f"{tmp_path}/lake/locks/labels-stats.json",
        3,
    )
    assert do("pause", "often")[1] == "often is paused; masklake schedule resume often\n"
    assert do("pause", "often")[1].startswith("often is paused already")
    assert json.loads(do("list", "--json")[1])[1]["paused"] is True
    assert json.loads(do("show", "often")[1])["next"] == []
    assert do("resume", "often")[1].startswith("often fires next at ")
    assert do("history")[1] == "nothing has fired yet\n"
    assert do("run-now", "nightly")[0] == 0
    [firing] = json.loads(do("history", "nightly", "--json")[1])
    assert (firing["state"], firing["run"], firing["manual"]) == ("ok", "20261125T020000-abcdef", True)
    assert do("remove", "nightly")[1] == "nightly is removed\n"
    assert " by hand " in do("history", "nightly")[1]
    assert [entry["name"] for entry in json.loads(do("list", "--json")[1])] == ["often"]


def test_once_fires_what_is_due_and_no_more(do: Do, tmp_path: Path) -> None:
    do("add", "soon", "--every", "1s", "--", "segment", "run", "lake")
    do("add", "later", "--cron", "0 0 1 1 *", "--", "segment", "run", "lake")
    while not diary(tmp_path / "lake"):
        assert do("serve", "--once")[0] == 0
    assert {entry["schedule"] for entry in json.loads(do("history", "--json")[1])} == {"soon"}
    do("add", "bad", "--every", "1s", "--", "segment", "exit=1", "lake")
    while do("serve", "--once")[0] == 0:
        pass
    assert "bad" in {
        entry["schedule"] for entry in json.loads(do("history", "--json")[1]) if entry["state"] == "failed"
    }


def test_run_now_tries_again_and_tells_how_it_ended(do: Do) -> None:
    do("add", "bad", "--every", "1d", "--retries", "1", "--backoff", "1s", "--", "segment", "exit=1", "lake")
    code, out, _ = do("run-now", "bad")
    assert code == 1
    assert [line.split()[1] for line in out.splitlines()] == ["event=started", "event=failed"] * 2
    assert [entry["attempt"] for entry in json.loads(do("history", "--json")[1])] == [2, 1]


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["--cron", "61 * * * *", "--", "segment", "a", "lake"], "'61' is no minute; it takes 0 to 59"),
        (
            ["--cron", "0 2 * * *", "--timezone", "Mars/Base", "--", "segment", "a", "lake"],
            "'Mars/Base': there is no such",
        ),
        (
            ["--every", "1h", "--timezone", "Europe/Berlin", "--", "segment", "a", "lake"],
            "an interval has no time zone",
        ),
        (["--every", "1h", "--", "segmnt", "a", "lake"], "there is no command 'segmnt'"),
        (["--every", "1h", "--", "segmnt", "a", "lake"], "did you mean 'segment'?"),
        (["--every", "1h", "--", "segment", "a"], "the following arguments are required: LAKE"),
        (
            ["--every", "1h", "--", "segment", "a", "lake", "--scoer", "1"],
            "there is no option --scoer; did you mean '--score'?",
        ),
        (["--every", "1h", "--", "segment", "a", "lake", "--score", "7"], "'7' is not a number from 0 to 1"),
        (["--every", "1h", "--", "segment", "--help"], "it only shows its help"),
        (["--every", "1h", "--", "schedule", "serve"], "a schedule that makes schedules never ends"),
        (["--every", "1h", "--", "demo"], "cannot be scheduled"),
        (["--every", "1h", "--", "segment", "https://u:secret@h/a", "lake"], "carries a credential"),
        (["--every", "1h", "--lock", "../x", "--", "segment", "a", "lake"], "lock name '../x'"),
        (["--every", "1h", "--lock", "x", "--", "scenes", "out"], "has no lake to keep a lock in"),
        (
            ["--every", "1h", "--", "segment", "a", "lake", "--lock", "x"],
            "give --lock x to masklake schedule add, before --",
        ),
        (["--every", "1h", "--", "submit", "segment", "a", "lake"], "SOURCE a: is a path"),
        (["--every", "1h", "--", "submit", "query", "x"], "submit query: is not for a cluster"),
        (
            ["--every", "1h", "--on-failure-webhook", "ftp://h", "--", "segment", "a", "lake"],
            "is no http:// or https:// URL",
        ),
    ],
)
def test_mistakes_get_one_line_and_add_nothing(do: Do, args: list[str], answer: str) -> None:
    code, out, err = do("add", "s", *args)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert answer in err
    assert "secret" not in err
    assert json.loads(do("list", "--json")[1]) == []


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["--every", "0s", "--", "segment", "a", "lake"], "'0s' is not a time span"),
        (["--every", "5 parsecs", "--", "segment", "a", "lake"], "is not a time span"),
        (["--every", "1h", "--cron", "* * * * *", "--", "segment", "a", "lake"], "not allowed with argument"),
        (["--every", "1h"], "the following arguments are required: -- COMMAND"),
    ],
)
def test_bad_options_are_told_as_everywhere(
    do: Do, capsys: pytest.CaptureFixture[str], args: list[str], answer: str
) -> None:
    with pytest.raises(SystemExit):
        do("add", "s", *args)
    assert answer in capsys.readouterr().err


def test_a_narrow_terminal_shows_the_outcomes(do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("--", "segment", "say=complete: 60 of 60 images in the lake", "lake")
    do("add", "nightly", "--cron", "0 2 * * *", "--timezone", "America/Argentina/Buenos_Aires", *command)
    do("run-now", "nightly")
    terminal(monkeypatch, 60)
    heading, _, row, missing, *_ = lines_without_styles(do("list")[1])
    assert heading.split() == ["schedule", "next", "last", "command"]
    assert " ok " in row
    assert missing == "(too narrow for: when; --json has all)"
    heading, _, row, *_ = lines_without_styles(do("history")[1])
    assert heading.split() == ["schedule", "time", "(UTC)", "outcome", "detail"]
    assert " ok " in row
    assert "complete: 6" in row
    assert len(row) <= 60


def test_names_that_are_not_there_or_not_names(do: Do) -> None:
    assert "there is no store of schedules" in do("list")[2]
    assert "say when: --cron EXPRESSION or --every SPAN" in do("add", "s", "--", "segment", "a", "lake")[2]
    assert "schedule name '../x'" in do("add", "../x", "--every", "1h", "--", "segment", "a", "lake")[2]
    for action in ("show", "pause", "resume", "remove", "run-now", "history", "render"):
        code, out, err = do(action, "nothing")
        assert (code, out) == (2, "")
        assert "has no schedule 'nothing'; it has none yet" in err


def test_the_store_lies_where_systemd_or_the_user_keeps_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert default_path() == Path("/x/masklake/schedules.db")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/masklake")
    assert default_path() == Path("/var/lib/masklake/schedules.db")


def test_its_help_loads_nothing_heavy() -> None:
    assert not _modules_after("schedule", "add", "--help")


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = (ROOT / "infra" / "systemd" / "masklake-schedule.service").read_text()
    settings: dict[str, str] = dict(
        line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#")
    )
    assert settings["ExecStart"].endswith("/masklake schedule serve")
    expected = {
        "Restart": "on-failure",
        "KillMode": "mixed",
        "User": "masklake",
        "StateDirectory": "masklake",
        "StateDirectoryMode": "0700",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
    }
    assert {name: settings.get(name) for name in expected} == expected
    if shutil.which("systemd-analyze"):
        unit = tmp_path / "masklake-schedule.service"
        masklake = Path(sys.executable).with_name("masklake")
        unit.write_text(text.replace("/opt/masklake/.venv/bin/masklake", str(masklake)))
        process = subprocess.run(
            ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
        )
        assert (process.returncode, process.stderr) == (0, "")
