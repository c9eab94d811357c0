"""What the READMEs say: paths are there, commands and Python work as they are written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from masklake.model import scenes

from tests.helpers.lakes import LakeBuilder, instance
from tests.helpers.paths import ROOT

READMES = [
    ROOT / "README.md",
    *(ROOT / room / "README.md" for room in ("pipeline", "model", "jobs", "infra", "tests")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections(text: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(text) if name == language]


README = sections((ROOT / "README.md").read_text())


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(readme: Path) -> None:
    text = readme.read_text()
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    dead = [link for link in links if "://" not in link and not (readme.parent / link).exists()]
    assert dead == []
    assert links


def python_examples() -> Iterator[tuple[str, str]]:
    for heading, text in README.items():
        for example in blocks(text, "python"):
            yield heading, example


def test_python_examples_run(tmp_path: Path) -> None:
    """In the order of the README, each with what those before it have left."""
    scenes.write(tmp_path / "scenes", 2, 1)
    lake = LakeBuilder(str(tmp_path / "lake"))
    lake.part("20261101T000000-aaaaaa", {
        f"{tmp_path}/scenes/scene-{i:06}.jpg": [instance("person", 0.9), instance("dog", 0.4)] for i in range(2)
    })  # fmt: skip
    lake.record("20261101T000000-aaaaaa")
    examples = list(python_examples())
    assert len(examples) > 1
    script = "\n".join(f"# {heading}\n{example}" for heading, example in examples)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_five_minutes_as_they_are_written(tmp_path: Path) -> None:
    """Copied into a shell line by line, none of them fails."""
    text = "\n".join(blocks(README["Five minutes"], ""))
    assert text.count("masklake ") > 10
    bin_ = Path(sys.executable).parent
    script = re.sub(r"^\. \.venv/bin/activate$", f"PATH={bin_}:$PATH", text, flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-e", "-x", "-o", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
