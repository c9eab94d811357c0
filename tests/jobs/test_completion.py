"""Shell completion, as the shells themselves give it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from masklake.jobs.cli import COMMANDS, main
from masklake.jobs.completion import SHELLS, script


@pytest.fixture(scope="module")
def for_bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("no bash on this machine")
    file = tmp_path_factory.mktemp("completion") / "masklake"
    file.write_text(script("bash"))
    return file


def completed(file: Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    typed = " ".join(f"'{word}'" for word in words)
    asked = f"source {file}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _shtab_masklake; printf '%s\\n' ${{COMPREPLY[@]}}"
    return set(
        subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    )


def test_bash_completes_commands_actions_and_options(for_bash: Path) -> None:
    assert completed(for_bash, "masklake", "") >= set(COMMANDS)
    assert completed(for_bash, "masklake", "segm") == {"segment"}
    assert completed(for_bash, "masklake", "labels", "im") == {"import"}
    assert completed(for_bash, "masklake", "segment", "--precis") == {"--precision"}
    assert "--seed" in completed(for_bash, "masklake", "scenes", "--")
    assert completed(for_bash, "masklake", "models", "promote", "--no-such") == set()


def test_former_names_are_not_offered(for_bash: Path) -> None:
    options = completed(for_bash, "masklake", "schedule", "serve", "--l")
    assert "--lock-seconds" in options
    assert "--lease-seconds" not in options


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "masklake" in text
    assert "lock-seconds" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_a_shell_that_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "bsh"])
    assert "did you mean 'bash'" in capsys.readouterr().err
