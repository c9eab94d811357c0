"""No door lets a pickle run code; weights that are no weights are refused in one line that names the file."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.paths import ROOT
from tests.jobs.labels.test_command import Masklake

WEIGHTS = "model.safetensors"


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a lake, an image, and pickles that make a folder `pwned` where they are opened."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"")
    for name in ("evil.pth", "evil.safetensors", "dir/model.safetensors", "only/model.pth"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save({"weight": Evil()}, tmp_path / name)
    shutil.copy(ROOT / "model" / "weights" / "demo" / "model.json", tmp_path / "dir")
    return tmp_path


@pytest.mark.parametrize("model", ["evil.pth", "evil.safetensors", "dir", "only"])
@pytest.mark.parametrize(
    "command",
    [
        "segment images/ lake --model {}",
        "train lake --model {}",
        "models add {} lake",
        "labels check lake --model {}",
        "eval lake --model {} --split all",
    ],
)
def test_no_command_opens_a_pickle(masklake: Masklake, place: Path, command: str, model: str) -> None:
    code, out, err = masklake(*command.format(model).split())
    assert code != 0, out
    assert "Traceback" not in err
    assert not (place / "pwned").exists()


@pytest.mark.parametrize("file", ["evil.pth", "evil.safetensors"])
def test_no_backbone_opens_a_pickle(place: Path, file: str) -> None:
    from masklake.model.errors import ModelError
    from masklake.model.train.start import _backbone_tensors

    with pytest.raises(ModelError, match=rf"{file}: damaged"):
        _backbone_tensors(place / file)
    assert not (place / "pwned").exists()


def _header(text: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + data


HEADERS = {
    "of 2^63 bytes": _header(b"{}", 2**63),
    "of 99 MB of blanks": _header(b" " * 99_000_000),
    "of brackets": _header(b"[" * 200_000),
    "of a shape beyond all": _header(
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'
    ),
    "of a negative shape": _header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', data=bytes(4)),
    "of an unknown type": _header(b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', data=bytes(4)),
    "of a hole": _header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', data=bytes(8)),
    "of offsets outside": _header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_a_clear_error(tmp_path: Path, name: str) -> None:
    from masklake.model.checkpoint import read_tensors
    from masklake.model.errors import ModelError

    (tmp_path / WEIGHTS).write_bytes(HEADERS[name])
    with pytest.raises(ModelError, match=f"{WEIGHTS}: damaged or not safetensors"):
        read_tensors(tmp_path / WEIGHTS)


@pytest.mark.parametrize("name", ["float8_e5m2", "int8", "complex64"])
def test_numbers_of_an_exotic_type_are_named(tmp_path: Path, name: str) -> None:
    """Codes of a quantisation would otherwise be taken for weights."""
    from masklake.model import checkpoint
    from masklake.model.errors import ModelError

    shutil.copytree(ROOT / "model" / "weights" / "demo", tmp_path / "model")
    tensors = load_file(tmp_path / "model" / WEIGHTS)
    key = "rpn.head.cls_logits.bias"
    save_file(tensors | {key: tensors[key].to(getattr(torch, name))}, tmp_path / "model" / WEIGHTS)
    with pytest.raises(ModelError, match=f"{key} is stored as torch.{name}; write it as float32"):
        checkpoint.load(tmp_path / "model")
