"""`masklake demo`, whole."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masklake.jobs.demo import command
from masklake.pipeline.errors import UserError
from PIL import Image


def test_the_demo_shows_the_whole_job(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    result = run_cli("demo", "--lake", "my lake", "--images", "30")
    assert result.code == 0, result.stdout + result.stderr
    text = result.stdout
    assert "complete: 32 of 32 images in the lake" in text
    assert "unreadable 1" in text
    assert "unsupported 1" in text
    assert text.count("$ masklake query") == 3
    ap = {m[1]: float(m[2]) for m in re.finditer(r"^(box|mask|keypoints) +([\d.]+)", text, re.MULTILINE)}
    assert ap.keys() == {"box", "mask", "keypoints"}
    assert min(ap.values()) > 0.4, "the shipped model really detects"
    with Image.open(tmp_path / "my lake" / "demo.png") as picture:
        assert min(picture.size) >= 240
        assert np.asarray(picture.convert("L")).std() > 10
    # what it tells people to type next must work
    typed = re.search(r" runs show (.*) last", text)
    assert typed
    assert typed[1] == "'my lake'"
    # Once more, as where moto is not installed.
    again = run_cli("demo", "--lake", "my lake", "--images", "5", "--bucket", "folder")
    assert again.code == 0, again.stdout + again.stderr
    assert "complete: 7 of 7" in again.stdout


def test_without_moto_the_bucket_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with command._bucket(None, tmp_path) as (source, where):
        assert source == f"{tmp_path}/photos/2026/"
        assert where == f"in {tmp_path}"
    with pytest.raises(UserError, match=r"pip install 'masklake\[demo\]'"), command._bucket("s3", tmp_path):
        pytest.fail("a server without moto")
