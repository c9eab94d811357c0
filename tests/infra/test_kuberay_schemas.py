"""The overlays build, and Kubernetes 1.34 and KubeRay 1.7 know every field in them."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helpers.infra.hardening import violations
from tests.helpers.infra.manifests import (
    KUBERAY,
    OVERLAYS,
    Manifest,
    build_with,
    job_specs,
    of_kind,
    one,
    overlay,
    problems,
)

ONE_CLUSTER = "components/one-cluster"
AFTER = {"components/standing", "components/kueue"}
"""Components that come after it."""
COMPONENTS = sorted(
    f"components/{folder.name}"
    for folder in (KUBERAY / "components").iterdir()
    if folder.name not in {"one-cluster", "monitoring"}  # monitoring: test_monitoring.py
)


def pinned(manifests: list[Manifest]) -> list[Manifest]:
    """With a tag on the image, which overlays give."""
    return json.loads(json.dumps(manifests).replace('"image": "masklake"', '"image": "masklake:1.2.3"'))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_manifest_of_an_overlay_is_valid(name: str) -> None:
    assert [line for manifest in overlay(name) for line in problems(manifest)] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_has_everything(name: str) -> None:
    kinds = {manifest["kind"] for manifest in overlay(name)}
    assert kinds >= {
        "ConfigMap", "CronJob", "Namespace", "NetworkPolicy", "PodDisruptionBudget", "RayCluster", "RayCronJob", "Role",
        "RoleBinding", "ServiceAccount",
    }  # fmt: skip


def test_a_misspelt_field_is_found_at_every_depth() -> None:
    cluster = one(overlay("prod"), "RayCluster", "masklake")
    for path in (
        ("spec",),
        ("spec", "authOptions"),
        ("spec", "headGroupSpec", "template", "spec"),
        ("spec", "workerGroupSpecs", 1, "template", "spec", "containers", 0, "securityContext"),
    ):
        broken = copy.deepcopy(cluster)
        node: Any = broken
        for step in path:
            node = node[step]
        node["misspelt"] = True
        assert any("misspelt" in line for line in problems(broken)), path


def test_a_wrong_value_is_found() -> None:
    job = copy.deepcopy(one(overlay("prod"), "RayCronJob", "masklake-train"))
    job["spec"]["jobTemplate"]["submissionMode"] = "ByPost"
    assert any("ByPost" in line for line in problems(job))


def test_a_kind_that_no_schema_knows_is_a_problem() -> None:
    assert problems({"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": {"name": "x"}})


@pytest.mark.parametrize("name", OVERLAYS)
def test_everything_is_in_the_overlays_own_namespace(name: str) -> None:
    manifests = overlay(name)
    (namespace,) = of_kind(manifests, "Namespace")
    names = {m["metadata"].get("namespace") for m in manifests if m["kind"] != "Namespace"}
    assert names == {namespace["metadata"]["name"]}
    binding = one(manifests, "RoleBinding", "masklake-starter")
    assert {s["namespace"] for s in binding["subjects"]} == names


@pytest.mark.parametrize("component", ["gke-workload-identity", "irsa"])
def test_a_cloud_identity_is_an_annotation_of_the_ray_pods_service_account(
    component: str, tmp_path: Path
) -> None:
    manifests = build_with(tmp_path, f"components/{component}", ONE_CLUSTER)
    assert [line for manifest in manifests for line in problems(manifest)] == []
    assert one(manifests, "ServiceAccount", "masklake-ray")["metadata"]["annotations"]
    assert "annotations" not in one(manifests, "ServiceAccount", "masklake-starter")["metadata"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_makes_valid_manifests(component: str, tmp_path: Path) -> None:
    parts = [component, ONE_CLUSTER] if component not in AFTER else [ONE_CLUSTER, component]
    manifests = build_with(tmp_path, *parts)
    assert [line for manifest in manifests for line in problems(manifest)] == []
    assert violations(pinned(manifests)) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_rayjobs_get_the_overlays_cluster(name: str) -> None:
    manifests = overlay(name)
    cluster = _without_what_stands(one(manifests, "RayCluster", "masklake")["spec"])
    jobs = dict(job_specs(manifests))
    assert jobs.keys() == {"masklake-segment", "masklake-train"}
    assert all(_without_what_stands(job["rayClusterSpec"]) == cluster for job in jobs.values())


def _without_what_stands(spec: dict[str, Any]) -> dict[str, Any]:
    """The standing cluster has no worker that waits, and a head that may be evicted; a RayJob's has both."""
    counts = {"replicas", "minReplicas"}
    groups = [
        {key: value for key, value in group.items() if key not in counts}
        for group in spec["workerGroupSpecs"]
    ]
    head = copy.deepcopy(spec["headGroupSpec"])
    head["template"]["metadata"].pop("annotations", None)
    head["template"]["metadata"]["labels"].pop("masklake-drives-a-job", None)
    return spec | {"workerGroupSpecs": groups, "headGroupSpec": head}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_crds_themselves_take_them(name: str) -> None:
    folder = os.environ.get("KUBERAY_CRDS")
    if not folder:
        pytest.skip("KUBERAY_CRDS does not name the folder of KubeRay's CRDs (tests/infra/schemas/README.md)")
    for kind, file in (("RayCluster", "ray.io_rayclusters.yaml"), ("RayCronJob", "ray.io_raycronjobs.yaml")):
        crd = yaml.safe_load((Path(folder) / file).read_text())
        (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
        schema = _strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        for manifest in of_kind(overlay(name), kind):
            errors = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
            assert [f"{e.json_path}: {e.message}" for e in errors] == []


def _strict(schema: Any) -> Any:
    """A structural schema as JSON Schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        strict |= {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    open_ended = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and schema.get("properties") and not open_ended:
        strict["additionalProperties"] = False
    return strict
