"""The wheel: what is in it, and that it works where nothing else of ours is."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

SITE_PACKAGES = Path(pytest.__file__).parents[1]


def uv(*args: str | Path, **env: str) -> None:
    """Run uv, which takes nothing from anywhere else."""
    process = subprocess.run(
        [Path(sys.executable).parent / "uv", "--offline", *args],
        env={"PATH": "/usr/bin:/bin", "HOME": str(Path.home())} | env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def run(*args: str | Path, cwd: Path) -> str:
    process = subprocess.run(
        args, cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, ROOT)
    (wheel,) = folder.glob("masklake-*.whl")
    return wheel


def test_one_package_and_the_demo_model(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].removesuffix(".dist-info").partition("-")[0] for name in names} == {"masklake"}
    sources = {
        f"masklake/{path.relative_to(ROOT).as_posix()}"
        for room in ("jobs", "model", "pipeline")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("masklake/")} == sources | {
        "masklake/__init__.py", "masklake/__main__.py",
    }  # fmt: skip
    assert "masklake/model/weights/demo/model.safetensors" in sources


def test_installed_as_a_tool_it_works_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    tools = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    # What it depends on is the tests' own: gigabytes that need not be fetched to see whether the wheel is whole.
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("".join(f"{name}; sys_platform == 'never'\n" for name in dependencies(wheel)))
    uv("tool", "install", "--python", sys.executable, "--overrides", nothing, wheel, **tools)
    (installed,) = (tmp_path / "tools" / "masklake" / "lib").glob("python3.*/site-packages")
    assert {
        path.name.partition("-")[0] for path in installed.iterdir() if not path.name.startswith("_virtualenv")
    } == {"masklake"}
    (installed / "shared.pth").write_text(f"{SITE_PACKAGES}\n")

    folder = tmp_path / "here"
    folder.mkdir()
    masklake = tmp_path / "bin" / "masklake"
    assert "segment" in run(masklake, "--help", cwd=folder)
    python = tmp_path / "tools" / "masklake" / "bin" / "python"
    lines = run(
        python, "-c",
        "import masklake, masklake.jobs.cli as cli, masklake.model.presets as presets; "
        "print(masklake.__file__); print(cli.__file__); print(len(presets.load_model('demo').spec.classes))",
        cwd=folder,
    ).splitlines()  # fmt: skip
    assert all(Path(line).is_relative_to(installed) for line in lines[:2])
    assert int(lines[2]) > 1


def dependencies(wheel: Path) -> list[str]:
    """The names of what the wheel requires."""
    from email.parser import BytesParser

    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        required = BytesParser().parsebytes(archive.read(metadata)).get_all("Requires-Dist") or []
    return [Requirement(line).name for line in required if "extra ==" not in line]
