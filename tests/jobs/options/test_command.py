"""Options declared once: from the command line, a file, or Python; checked the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options import job_file
from masklake.jobs.options.command import Command, Group, Line, understand
from masklake.jobs.options.declare import Options, argument, flag, included, option
from masklake.jobs.options.kinds import fraction, names, one_of, positive, span
from masklake.jobs.options.parser import as_arguments, resuming, shown
from masklake.jobs.segment.command import COMMAND as SEGMENT
from masklake.pipeline.errors import UserError

from tests.conftest import Bucket


@dataclass(frozen=True, kw_only=True)
class Part(Options):
    url: str | None = option(str, "URL", help="where", again=True)


@dataclass(frozen=True, kw_only=True)
class Toy(Options):
    """One option of each kind."""

    lake: str = argument("LAKE", help="the lake")
    score: float = option(fraction, "0..1", default=0.05, help="least score")
    classes: tuple[str, ...] | None = option(names, "A,B", help="only these")
    actors: tuple[int, int] | None = option(span, "MIN:MAX", help="actors")
    kind: str = option(one_of("table", "json"), default="table", help="of what is printed")
    steps: int | None = option(positive, "N", instead_of="length", former=("updates",), help="updates")
    epochs: int | None = option(positive, "N", instead_of="length", help="rounds")
    promote: bool = flag(help="promote it", again=True)
    resume: str | None = option(str, "RUN", kept=False, help="go on")
    part: Part = included(Part)

    def validate(self) -> None:
        if self.promote and self.score == 1:
            raise UserError("--promote: not with --score 1")


TOY = Command(summary="a toy", options=Toy, run=lambda _: ExitCode.DONE, from_file=True)


def line(*arguments: str) -> Line:
    return understand("toy", TOY, arguments)


def test_nothing_said_is_the_default() -> None:
    assert line("l").options == Toy(lake="l")
    assert line("l").options.explicit == {"lake"}


def test_the_command_line_becomes_typed_values() -> None:
    options = line(
        "l", "--score", "0.5", "--classes=a, b", "--actors", "2", "--promote", "--url", "u"
    ).options
    assert options == Toy(
        lake="l", score=0.5, classes=("a", "b"), actors=(2, 2), promote=True, part=Part(url="u")
    )
    assert options.part.explicit == {"url"}
    assert line(*as_arguments(options)).options == options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["l", "--score", "2"], "argument --score: '2' is not a number from 0 to 1"),
        (["l", "--kind", "jsn"], "'jsn' is not one of table, json; did you mean 'json'?"),
        (["l", "--scor3", "2"], "there is no option --scor3; did you mean '--score'?"),
        (["l", "--steps", "2", "--epochs", "1"], "--epochs: not allowed with argument --steps"),
        (["l", "m"], "unrecognized arguments: m"),
        ([], "required: LAKE"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        line(*arguments)
    assert ended.value.code == ExitCode.MISTAKE
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert err.endswith("(masklake toy --help tells more)\n")


def test_python_code_is_checked_too() -> None:
    with pytest.raises(UserError, match="--score: 2 is not a number from 0 to 1"):
        Toy(lake="l", score=2)
    with pytest.raises(UserError, match="--kind: 'jsn' is not one of table, json; did you mean 'json'"):
        Toy(lake="l", kind="jsn")
    with pytest.raises(UserError, match="--actors: 'x' is not MIN:MAX"):
        Toy(lake="l", actors="x")  # type: ignore[arg-type]  # what a notebook may pass
    with pytest.raises(UserError, match="--epochs: not with --steps"):
        Toy(lake="l", steps=1, epochs=1)
    with pytest.raises(UserError, match="--promote: not with --score 1"):
        Toy(lake="l", score=1, promote=True)


def write(folder: Path, text: str) -> str:
    (folder / "job.toml").write_text(text)
    return str(folder / "job.toml")


def test_options_from_a_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        'lake = "l"\nscore = 0.5\nclasses = ["a", "b"]\nactors = "1:4"\npromote = true\nsteps = 9\nurl = "u"\n',
    )
    options = line("--config", file).options
    assert options == Toy(
        lake="l", score=0.5, classes=("a", "b"), actors=(1, 4), promote=True, steps=9, part=Part(url="u")
    )
    assert understand("toy", TOY, ["--config", "job.toml"], str(tmp_path)).options == options


def test_a_former_name_still_works_and_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line("l", "--updates", "9").options == Toy(lake="l", steps=9)
    assert line("l", "--config", write(tmp_path, "updates = 9\n")).options == Toy(lake="l", steps=9)
    with pytest.raises(SystemExit):
        line("--help")
    assert "--updates" not in capsys.readouterr().out


def test_the_command_line_beats_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'lake = "l"\nscore = 0.5\nsteps = 9\n')
    options = line("m", "--config", file, "--score", "0.05", "--epochs", "3").options
    assert options == Toy(lake="m", epochs=3)
    assert "score" in options.explicit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scores = 1", "'scores' is no option of masklake toy; did you mean 'score'?"),
        ("[toy]\nscore = 1", "'toy' is no option of masklake toy"),
        ("score = 2", "score = 2: '2' is not a number from 0 to 1"),
        ("promote = 1", "promote is given or not; write true or false"),
        ("score = true", "write a text or a number"),
        ("steps = 1\nepochs = 1", "give steps or epochs, not both"),
        ("score", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        line("l", "--config", write(tmp_path, text))
    assert message in str(refused.value)
    assert "job.toml" in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.toml: cannot read the options \(--config\): it does not exist"):
        line("l", "--config", str(tmp_path / "no.toml"))


def test_a_file_in_s3(s3_bucket: Bucket) -> None:
    """Reached by the line's own storage options, and refused as all storage is."""
    s3_bucket.put("jobs/job.toml", b'lake = "l"\nsteps = 9\n')
    file = f"{s3_bucket.uri}/jobs/job.toml"
    assert line("--config", file).options == Toy(lake="l", steps=9)
    with pytest.raises(
        UserError, match=r"jobs/no\.toml: cannot read the options \(--config\): it does not exist"
    ):
        line("--config", f"{s3_bucket.uri}/jobs/no.toml")
    with pytest.raises(UserError, match=r"the endpoint does not answer .*--endpoint-url"):
        understand("segment", SEGMENT, ["--config", file, "--endpoint-url", "http://127.0.0.1:9"])


def test_what_was_used_is_written_and_read_again(tmp_path: Path) -> None:
    options = Toy(
        lake='a "quoted"\n\\lake\x7f',
        classes=("a", "ü"),
        actors=(1, 4),
        promote=True,
        resume="r",
        part=Part(url="u"),
    )
    file = tmp_path / "options.toml"
    file.write_bytes(job_file.written(options, "toy", "The options."))
    again = line("--config", str(file)).options
    assert again == Toy(
        lake='a "quoted"\n\\lake\x7f', classes=("a", "ü"), actors=(1, 4), promote=True, part=Part(url="u")
    )


def test_what_another_option_stands_for_is_not_written(tmp_path: Path) -> None:
    """eval: with --coco there is no split."""
    from masklake.jobs.eval.command import COMMAND
    from masklake.jobs.eval.options import EvalOptions

    file = tmp_path / "options.toml"
    file.write_bytes(job_file.written(EvalOptions(lake="l", coco="c"), "eval", "The options."))
    assert understand("eval", COMMAND, ["--config", str(file)]).options == EvalOptions(lake="l", coco="c")


def test_no_credential_is_written() -> None:
    options = Toy(lake="l", part=Part(url="https://user:hunter2@host/"))
    assert b"hunter2" not in job_file.written(options, "toy", "The options.")


def test_what_is_not_unicode_does_not_spoil_the_file(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_bytes(job_file.written(Toy(lake="a\udc80", score=0.5), "toy", "The options."))
    assert line("l", "--config", str(file)).options == Toy(lake="l", score=0.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (1.0, "1"),
        (0.123456789, "0.123456789"),
        ((0.8, 1.2), "0.8:1.2"),
        (("a", "b"), "a,b"),
        (7, "7"),
    ],
)
def test_values_are_shown_as_they_are_typed(value: object, text: str) -> None:
    assert shown(value) == text


def test_what_resumes_says_again_what_has_to_be_said() -> None:
    options = Toy(lake="l", score=0.5, promote=True, part=Part(url="u"))
    assert resuming(options, "--resume", "r") == ["l", "--resume", "r", "--promote", "--url=u"]


def test_help_tells_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        line("--help")
    assert ended.value.code == 0
    help_text = " ".join(capsys.readouterr().out.split())
    assert "least score (default 0.05)" in help_text
    assert "promote it" in help_text
    assert "promote it (default" not in help_text


GROUP = Group(summary="toys", actions={"make": TOY, "break": TOY}, usual=None)
WITH_USUAL = Group(summary="toys", actions={"make": TOY, "break": TOY}, usual="make")


@pytest.mark.parametrize(
    ("group", "arguments", "action", "lake"),
    [
        (GROUP, ["break", "l"], "break", "l"),
        (GROUP, ["--url", "make", "break", "l"], "break", "l"),
        (GROUP, ["--promote", "--url=x", "make", "l"], "make", "l"),
        (WITH_USUAL, ["l"], None, "l"),
        (WITH_USUAL, ["break", "l"], "break", "l"),
    ],
)
def test_actions(group: Group, arguments: list[str], action: str | None, lake: str) -> None:
    understood = understand("toys", group, arguments)
    assert (understood.action, understood.options.lake) == (action, lake)


def test_an_action_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        understand("toys", GROUP, ["brek", "l"])
    assert (
        "there is no action 'brek'; the actions are make, break; did you mean 'break'?"
        in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        understand("toys", GROUP, [])
    assert "say what to do: make, break" in capsys.readouterr().err
