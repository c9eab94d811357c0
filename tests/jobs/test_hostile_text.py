"""Keys and labels of a lake are anybody's text: no command gives a terminal what it would act on or hide."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from tests.helpers.lakes import LakeBuilder, instance
from tests.jobs.labels.test_command import Masklake

RUN = "20261101T000000-aaaaaa"
KEYS = [
    "s3://b/\x1b[31mred\x1b]0;title\x07.jpg",
    "s3://b/\u202egpj.exe",
    "s3://b/../../etc/passwd",
    "s3://b/<script>alert(1)</script>.jpg",
    "s3://b/'; drop table images; --.jpg",
    "s3://b/$(touch pwned).jpg",
    "s3://b/a\nb\r\tc\x00.jpg",
    "s3://b/\x9b31m\u2066x\u2069\u200b.jpg",
]
LABELS = ["\x1b[2Jcls", "\u202eedoc", "<img src=x onerror=alert(1)>", "a\nb\x9b", "../../x"]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    builder = LakeBuilder(str(tmp_path / "lake"))
    rows = {key: [instance("dog", 0.9) | {"label": LABELS[i % 5]}] for i, key in enumerate(KEYS)}
    builder.part(RUN, rows)
    builder.record(RUN)
    return tmp_path / "lake"


COMMANDS = [
    ["query", "{lake}", "select uri, label from instances"],
    ["query", "{lake}", "select uri, label from instances", "--json"],
    ["query", "{lake}", "select \x1b[31m\u202e from images"],
    ["query", "{lake}", "select error(uri || label) from instances"],
    ["runs", "{lake}"],
    ["runs", "show", "{lake}", "last"],
    ["runs", "show", "{lake}", "\x1b[2J\u202e"],
    ["models", "show", "{lake}", "\x1b[31m\u202e"],
    ["labels", "stats", "{lake}"],
    ["export", "{lake}", "--format", "coco", "--out", "{lake}/../coco"],
    ["export", "{lake}", "--format", "masks-instances", "--out", "{lake}/../masks"],
    ["export", "{lake}", "--format", "coco", "--out", "{lake}/../none", "--where", "label = '\x1b[31m'"],
    ["\x1b[31m\u202e"],
    ["query", "--\x1b[31m\u202e"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: repr(" ".join(command)))
def test_nothing_hidden_reaches_a_terminal(masklake: Masklake, lake: Path, command: list[str]) -> None:
    try:
        _, out, err = masklake(*(word.replace("{lake}", str(lake)) for word in command))
    except SystemExit:  # argparse's own
        return
    hidden = [c for c in out + err if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\n\t"]
    assert hidden == [], out + err
    assert "Traceback" not in err
