"""Builds the overlays as `kubectl apply -k` would, checks manifests against schemas, finds the pods in them."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helpers.paths import ROOT

KUBERAY = ROOT / "infra" / "kuberay"
SCHEMAS = ROOT / "tests" / "infra" / "schemas"
OVERLAYS = ("dev", "prod")

Manifest = dict[str, Any]


@functools.cache
def _built(folder: Path) -> str:
    kubectl = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if kubectl is None:
        pytest.skip("kubectl is not installed: its package is for Linux only")
    built = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return built.stdout


def build(folder: Path) -> list[Manifest]:
    """The manifests that kustomize makes of a folder; the test is skipped without kubectl."""
    return list(yaml.safe_load_all(_built(folder)))


def overlay(name: str) -> list[Manifest]:
    """The manifests of `infra/kuberay/overlays/NAME`."""
    return build(KUBERAY / "overlays" / name)


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The manifest of that kind and name."""
    (manifest,) = [
        candidate
        for candidate in manifests
        if candidate["kind"] == kind and candidate["metadata"]["name"] == name
    ]
    return manifest


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """All manifests of those kinds."""
    return [m for m in manifests if m["kind"] in kinds]


@functools.cache
def _definitions() -> dict[str, Any]:
    core: dict[str, Any] = json.loads((SCHEMAS / "kubernetes-1.34.json").read_text())["definitions"]
    files = ("kuberay-1.7.yaml", "prometheus-operator.yaml")
    for name in files:
        core |= yaml.safe_load((SCHEMAS / name).read_text())["definitions"]
    return core


@functools.cache
def _validators() -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    definitions = _definitions()
    validators = {}
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            version = f"{kind['group']}/{kind['version']}" if kind["group"] else kind["version"]
            schema = {"$ref": f"#/definitions/{name}", "definitions": definitions}
            validators[version, kind["kind"]] = jsonschema.Draft202012Validator(schema)
    return validators


def problems(manifest: Manifest) -> list[str]:
    """What the API server would refuse, an unknown field included; a line each."""
    label = f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"
    validator = _validators().get((manifest.get("apiVersion", ""), manifest.get("kind", "")))
    if validator is None:
        return [f"{label}: no schema of {manifest.get('apiVersion')} {manifest.get('kind')}"]
    return [f"{label}: {e.json_path}: {e.message}" for e in validator.iter_errors(manifest)]


@dataclass(frozen=True)
class Pod:
    """A pod template somewhere in a manifest."""

    where: str
    metadata: dict[str, Any]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[tuple[str, dict[str, Any]]]:
        """Every container with the words to name it by."""
        everything = self.spec.get("initContainers", []) + self.spec["containers"]
        return [(f"{self.where}: {c['name']}", c) for c in everything]


def pods(manifest: Manifest) -> Iterator[Pod]:
    """Every pod template in it, however deep: Deployments, CronJobs, Ray groups, submitters."""
    yield from _pods(manifest, f"{manifest['kind']}/{manifest['metadata']['name']}")


def _pods(node: Any, where: str) -> Iterator[Pod]:
    if isinstance(node, dict):
        if isinstance(node.get("containers"), list):
            raise AssertionError(f"{where}: a pod that is no template")
        for key, value in node.items():
            if (
                isinstance(value, dict)
                and isinstance(value.get("spec"), dict)
                and "containers" in value["spec"]
            ):
                yield Pod(f"{where}.{node.get('groupName', key)}", value.get("metadata", {}), value["spec"])
            else:
                yield from _pods(value, f"{where}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from _pods(value, where)


def ray_cluster_specs(manifests: list[Manifest]) -> list[tuple[str, dict[str, Any]]]:
    """The spec of the standing cluster and of every RayJob's cluster."""
    standing = [(m["metadata"]["name"], m["spec"]) for m in of_kind(manifests, "RayCluster")]
    return standing + [(name, job["rayClusterSpec"]) for name, job in job_specs(manifests)]


def job_specs(manifests: list[Manifest]) -> list[tuple[str, dict[str, Any]]]:
    """The spec of the RayJobs that each template makes, by the template's name."""
    return [(m["metadata"]["name"], m["spec"]["jobTemplate"]) for m in of_kind(manifests, "RayCronJob")]


def build_with(folder: Path, *components: str, base: str = "base") -> list[Manifest]:
    """The base (or another folder of infra/kuberay) with components, as an overlay in `folder` would have them."""
    # kustomize takes relative paths only
    paths = {part: os.path.relpath(KUBERAY / part, folder.resolve()) for part in (base, *components)}
    written = {"resources": [paths[base]], "components": [paths[part] for part in components]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(written))
    return build(folder)


_UNITS = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: str | int) -> float:
    """The number that a Kubernetes quantity means: bytes, or CPUs."""
    digits = str(text).rstrip("KMGTikm")
    return float(digits) * _UNITS[str(text)[len(digits) :]]
