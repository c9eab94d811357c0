"""What is said in several files is said alike: Ray's version, Masklake's."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.helpers.infra.manifests import OVERLAYS, overlay, pods, ray_cluster_specs
from tests.helpers.paths import ROOT


@pytest.mark.parametrize("name", OVERLAYS)
def test_kuberay_is_told_the_locks_ray(name: str) -> None:
    (locked,) = re.findall(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert {spec["rayVersion"] for _, spec in ray_cluster_specs(overlay(name))} == {locked}


@pytest.mark.parametrize("name", OVERLAYS)
def test_images_are_of_this_version(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {c["image"] for manifest in overlay(name) for pod in pods(manifest) for _, c in pod.containers}
    (image,) = images
    assert image.split(":")[-1].split("-")[0] == version


def test_the_guides_commands_name_what_there_is() -> None:
    guide = (ROOT / "infra" / "README.md").read_text()
    names = {m["metadata"]["name"] for m in overlay("prod")}
    for named in re.findall(r"--from=cronjob/([\w-]+)", guide):
        assert named in names
    for path in re.findall(r"\]\(((?!http)[^)#]+)\)", guide):
        assert (ROOT / "infra" / path).exists(), path
    for path in re.findall(r"`(kuberay/[\w/.-]+)`", guide):
        assert (ROOT / "infra" / path).exists(), path
