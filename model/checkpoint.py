"""The checkpoint format: a directory with `model.safetensors` (weights) and `model.json` (all else).

No pickle is ever opened. torch is imported only where weights are read or written.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from masklake.model.errors import ModelError
from masklake.model.networks.config import parse
from masklake.model.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = "model.safetensors"
SPEC = "model.json"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class LoadedModel:
    """A network in evaluation mode, float32, on the CPU, and what is known of it."""

    spec: ModelSpec
    module: "nn.Module"


def read_spec(directory: str | os.PathLike[str]) -> ModelSpec:
    """The spec in `directory`. Free of torch. Raises ModelError where there is no readable checkpoint."""
    path = _checked(Path(directory)) / SPEC
    return ModelSpec.from_json(path.read_bytes(), path)


def fingerprint(directory: str | os.PathLike[str]) -> str:
    """12 hex digits that change when results may change. Free of torch. Raises ModelError.

    SHA-256 over the weights file and the parts of the spec that the network reads; names, lineage and metrics
    are left out.
    """
    with (_checked(Path(directory)) / WEIGHTS).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    return spec_fingerprint(read_spec(directory), [weights])


def spec_fingerprint(spec: ModelSpec, weights: list[str]) -> str:
    """The fingerprint of `spec` with weights files of the given hashes."""
    body = json.loads(spec.to_json())
    used = {key: body[key] for key in ("classes", "keypoint_names", "preprocessing")}
    used["architecture"] = parse(spec.architecture).to_dict()
    text = json.dumps([used, *weights], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def save(
    directory: str | os.PathLike[str], module: "nn.Module", spec: ModelSpec, *, half: bool = False
) -> None:
    """Write a checkpoint, replacing one that is there; `directory` and its parents are made.

    half: store convolution and linear weights as float16, half the size; norms and biases stay float32.
    Raises ModelError where the module is not the network that `spec` describes, or a weight is not finite.
    """
    from masklake.model.networks.build import build
    from masklake.model.networks.empty import without_weights
    from safetensors.torch import save_file

    spec = replace(spec, architecture=parse(spec.architecture).to_dict())
    tensors = {key: t.detach().cpu().contiguous() for key, t in module.state_dict().items()}
    with without_weights():
        expected = build(spec).state_dict()
    source = f"model {spec.name!r}"
    _check_keys(source, expected, tensors)
    _check_finite(source, tensors)
    if half:
        tensors = {k: t.half() if t.ndim >= 2 and t.is_floating_point() else t for k, t in tensors.items()}
        _check_finite(f"{source} as float16", tensors)
    text = spec.to_json()
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    # model.json goes last: a directory with one is whole.
    (target / SPEC).unlink(missing_ok=True)
    new_spec, new_weights = (target / f"{name}.partial" for name in (SPEC, WEIGHTS))
    new_spec.write_text(text, encoding="utf-8")
    save_file(tensors, new_weights, metadata={"format": "pt"})
    shutil.copymode(new_spec, new_weights)  # safetensors makes files that only their owner may read
    new_weights.replace(target / WEIGHTS)
    new_spec.replace(target / SPEC)


def load(directory: str | os.PathLike[str]) -> LoadedModel:
    """Read a checkpoint onto the CPU as float32, in evaluation mode, whatever precision it is stored in.

    Raises ModelError, in one line that names the file: a pickle, a missing or damaged file, a newer format, an
    unknown architecture, keys or shapes that do not fit it, weights that are not finite.
    """
    from masklake.model.networks.build import build
    from masklake.model.networks.empty import without_weights

    spec = read_spec(directory)
    path = Path(directory) / WEIGHTS
    with without_weights():  # no time spent on random weights that are replaced at once
        module = build(spec)
    fill(module, read_tensors(path), path)
    return LoadedModel(spec, module)


def require_safetensors(directory: str | os.PathLike[str]) -> None:
    """Raises ModelError where the weights in `directory` are no whole safetensors file. Reads its header alone; free of torch."""
    from safetensors import SafetensorError, safe_open

    path = _checked(Path(directory)) / WEIGHTS
    try:
        with safe_open(path, framework="numpy"):
            return
    except (SafetensorError, OSError) as err:
        raise ModelError(_damaged(path, err)) from err


def _damaged(path: Path, err: Exception) -> str:
    return f"{path}: damaged or not safetensors ({err}); copy it again from its source"


def read_tensors(path: Path) -> "dict[str, torch.Tensor]":
    """All tensors of a safetensors file. Raises ModelError where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as err:
        raise ModelError(f"{path}: no such file; copy the weights there") from err
    except (SafetensorError, OSError) as err:
        raise ModelError(_damaged(path, err)) from err


def fill(module: "nn.Module", tensors: "dict[str, torch.Tensor]", source: object) -> None:
    """Put `tensors` into `module` (which may be on "meta") as float32 and set it to evaluation mode.

    Raises ModelError, naming `source`, unless keys and shapes are exactly the module's and all values finite.
    """
    expected = module.state_dict()
    _check_keys(source, expected, tensors)
    require_floats(source, expected, tensors)
    tensors = {k: t.to(expected[k].dtype) for k, t in tensors.items()}
    _check_finite(source, tensors)
    module.load_state_dict(tensors, strict=True, assign=True)
    module.eval()


def require_floats(
    source: object, expected: "Mapping[str, torch.Tensor]", tensors: "Mapping[str, object]"
) -> None:
    """Raises ModelError, naming `source`, unless all are tensors, and those for a float of `expected` are float16, bfloat16,
    float32 or float64. (Whole numbers would be codes of some quantisation, whose scales nobody reads here.)"""
    import torch

    for key, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(
                f"{source}: {key} is {type(tensor).__name__}, not a tensor; give a file of weights alone"
            )
        floats = tensor.is_floating_point() or (key in expected and expected[key].is_floating_point())
        if floats and tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ModelError(f"{source}: {key} is stored as {tensor.dtype}; write it as float32 or float16")


def _checked(directory: Path) -> Path:
    if directory.suffix.lower() in _PICKLES and not directory.is_dir():
        raise ModelError(
            f"{directory}: a pickle can run code when it is opened and is refused; where you trust it, load it "
            "with torch.load(weights_only=True) and write it with model.checkpoint.save"
        )
    if directory.is_file():
        raise ModelError(f"{directory}: a file; name the directory that holds {SPEC} and {WEIGHTS}")
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such directory; a checkpoint is one with {SPEC} and {WEIGHTS}")
    missing = [name for name in (SPEC, WEIGHTS) if not (directory / name).is_file()]
    if missing:
        pickles = sorted(p.name for p in directory.iterdir() if p.suffix.lower() in _PICKLES)
        hint = f"; {pickles[0]} is a pickle and is not opened" if pickles else ""
        raise ModelError(f"{directory}: lacks {' and '.join(missing)}; not a complete checkpoint{hint}")
    return directory


def _check_keys(
    source: object, expected: "dict[str, torch.Tensor]", tensors: "dict[str, torch.Tensor]"
) -> None:
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    for problem, keys in (("lacks", missing), ("has unknown", unknown)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ModelError(f"{source}: {problem} {keys[0]}{more}; the weights are of another architecture")
    for key, tensor in expected.items():
        if tensors[key].shape != tensor.shape:
            raise ModelError(
                f"{source}: {key} has shape {tuple(tensors[key].shape)}, not {tuple(tensor.shape)}; "
                "the weights are of another architecture"
            )


def _check_finite(source: object, tensors: "dict[str, torch.Tensor]") -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{source}: {key} has values that are not finite; the training has diverged")
