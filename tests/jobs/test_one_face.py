"""The same word for the same thing in every command; what was documented before still works."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from masklake.jobs import cli
from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command, Group
from masklake.jobs.options.declare import Entry, entries
from masklake.jobs.schedule.command_line import parse
from masklake.jobs.submit.remote_command import understood
from masklake.pipeline.errors import UserError

from tests.helpers.lakes import LakeBuilder, image, instance
from tests.helpers.paths import ROOT
from tests.jobs.labels.test_command import Masklake

RUN = "20261101T000000-aaaaaa"


def commands() -> Iterator[tuple[str, Command]]:
    for name in cli.COMMANDS:
        command = cli.command_named(name)
        if isinstance(command, Group):
            for action, subcommand in command.actions.items():
                yield f"{name} {action}", subcommand
        else:
            yield name, command


def options_of(command: Command) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries(command.options)}


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_option_says_what_it_does(name: str, command: Command) -> None:
    for entry in entries(command.options):
        assert len(entry.declared.help) > 7, f"{name}: {entry.shown} has no help"


def test_no_two_options_of_a_command_have_one_name() -> None:
    for name, command in commands():
        names = [entry.name for entry in entries(command.options)]
        assert len(names) == len(set(names)), name


def test_what_comes_in_stands_first_and_then_the_lake() -> None:
    incoming = {"source", "files", "folder", "url"}
    for name, command in commands():
        places = [entry.name for entry in entries(command.options) if entry.declared.positional]
        if "lake" in places:
            assert set(places[: places.index("lake")]) <= incoming, name
        elif "lake" in options_of(command):
            assert name == "query"  # LAKE SQL, or --lake


def test_json_is_asked_for_by_one_option() -> None:
    silent = {
        "segment", "train", "submit", "scenes", "demo", "completion", "backend", "jobs logs", "jobs stop", "models add", "models promote",
        "models rollback", "models unalias", "schedule add", "schedule pause", "schedule resume", "schedule remove", "schedule run-now",
        "schedule serve", "schedule render",
    }  # fmt: skip
    assert {name for name, command in commands() if "json" not in options_of(command)} <= silent


def test_a_file_to_write_is_named_by_one_option() -> None:
    for name, command in commands():
        options = options_of(command)
        assert "output" not in options, name
        if "out" in options:
            assert "--output" in options["out"].declared.short, name


@pytest.fixture
def lake(tmp_path: Path) -> str:
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.part(RUN, [(image("s3://p/a"), [instance("dog", 0.9)])])
    builder.record(RUN, state="stopped")
    return builder.uri


def test_runs_show_and_its_older_name(masklake: Masklake, lake: str) -> None:
    printed = masklake("runs", "show", lake, RUN)
    assert printed[0] == 0
    assert masklake("run", "show", lake, RUN) == printed
    assert masklake("runs", "list", lake) == masklake("runs", lake)


def test_how_a_run_is_resumed_names_the_storage_that_was_named(masklake: Masklake, lake: str) -> None:
    printed = masklake(
        "runs", "show", lake, "last", "--endpoint-url", "http://127.0.0.1:9", "--profile", "night"
    )[1]
    assert f"--resume {RUN} --endpoint-url=http://127.0.0.1:9 --profile=night" in " ".join(printed.split())


def test_query_in_all_its_forms(masklake: Masklake, lake: str, tmp_path: Path) -> None:
    sql = "select label from instances"
    (tmp_path / "q.sql").write_text(sql)
    expected = masklake("query", sql, "--lake", lake, "--format", "json")
    assert json.loads(expected[1]) == [{"label": "dog"}]
    for form in (
        ["query", lake, sql, "--json"],
        ["query", "--json", lake, sql],
        ["query", lake, "--json", sql],
        ["query", "--lake", lake, sql, "--json"],
        ["query", lake, "--file", tmp_path / "q.sql", "--json"],
        ["query", "--file", tmp_path / "q.sql", "--lake", lake, "--json"],
    ):
        assert masklake(*form) == expected, form
    for option in ("--out", "--output"):
        assert masklake("query", lake, sql, option, tmp_path / "x.json")[0] == 0
        assert json.loads((tmp_path / "x.json").read_text()) == [{"label": "dog"}]
    assert "'c': give one query, in quotes" in masklake("query", "a", "b", "c")[2]


def test_models_as_json(masklake: Masklake, tmp_path: Path) -> None:
    assert masklake("models", "list", tmp_path / "lake", "--json") == (0, "[]\n", "")


def test_the_demos_lake_in_both_places() -> None:
    assert cli.understood(["demo", "x"]).options == cli.understood(["demo", "--lake", "x"]).options
    assert cli.understood(["demo"]).options.lake == "demo-lake"


def codes_in(text: str) -> set[int]:
    """The numbers that a text lists as exit codes: each begins an entry, and a dot in the middle of the line ends one."""
    listed = " ".join(text.split()).partition("xit codes: ")[2].split(" · ")
    return {int(match[1]) for entry in listed if (match := re.match(r"(\d+)\b", entry))}


def test_exit_codes_are_listed_in_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert codes_in(capsys.readouterr().out) == codes_in((ROOT / "README.md").read_text()) == set(ExitCode)


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_a_commands_exit_codes_are_of_the_list(name: str, command: Command) -> None:
    codes = codes_in(command.epilog or "")
    assert codes <= set(ExitCode)
    assert not codes or {ExitCode.DONE, ExitCode.MISTAKE} <= codes


def test_no_command_has_an_exit_code_of_its_own() -> None:
    """Numbers come from ExitCode; processes of our own that are no command (a worker, a test server) are not looked at."""
    own = []
    for file in (ROOT / "jobs").rglob("command.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "run":
                returned = (end.value for end in ast.walk(node) if isinstance(end, ast.Return))
                own += [f"{file}: {value.value}" for value in returned if isinstance(value, ast.Constant)]
            if isinstance(node, ast.Attribute) and node.attr in ("exit", "_exit"):
                own.append(f"{file}: {ast.unparse(node)}")
    assert own == []


def test_what_a_file_says_is_sent_to_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('source = "s3://p"\nlake = "s3://l"\nscore = 0.5\ntile = 1024\n')
    remote = understood(
        ["segment", "--config", "job.toml", "--limit", "5"], shared_files=False, folder=str(tmp_path)
    )
    assert remote.command == ["segment", "s3://p", "s3://l", "--score=0.5", "--tile=1024", "--limit=5"]
    assert "job.toml" not in remote.entrypoint(installed=True)


def test_a_file_of_this_machine_names_no_files_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('source = "photos/"\nlake = "s3://l"\n')
    with pytest.raises(UserError, match="SOURCE photos/: is a path"):
        understood(["segment", "--config", str(tmp_path / "job.toml")], shared_files=False)


def test_a_schedule_reads_its_file_where_it_was_made(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('source = "photos"\nlake = "lake"\n')
    job = parse(["segment", "--config", "job.toml"], str(tmp_path))
    assert job.lake == str(tmp_path / "lake")
    assert job.command == ["segment", "--config", "job.toml"]
    assert "resume" in job.options - job.explicit


def test_debug_may_stand_anywhere(masklake: Masklake, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        masklake("runs", "--debug", tmp_path / "none")
    with pytest.raises(UserError, match="no such directory"):
        masklake("labels", "--debug", "stats", tmp_path / "none")
