"""The overlays build, and Kubernetes 1.34 and KubeRay 1.7 know every field in them."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helpers.infra.manifests import KUBERAY, OVERLAYS, build, of_kind, one, overlay, problems


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_manifest_of_an_overlay_is_valid(name: str) -> None:
    assert [line for manifest in overlay(name) for line in problems(manifest)] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_has_everything(name: str) -> None:
    kinds = {manifest["kind"] for manifest in overlay(name)}
    assert kinds >= {
        "ConfigMap", "CronJob", "Namespace", "NetworkPolicy", "PodDisruptionBudget", "RayCluster", "RayJob", "Role",
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
    job = copy.deepcopy(one(overlay("prod"), "RayJob", "masklake-train"))
    job["spec"]["submissionMode"] = "ByPost"
    assert any("ByPost" in line for line in problems(job))


def test_a_kind_that_no_schema_knows_is_a_problem() -> None:
    assert problems({"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": {"name": "x"}})


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
    component: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # kustomize takes relative paths only
    folder = tmp_path_factory.mktemp("kuberay")
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "resources": [os.path.relpath(KUBERAY / "base", folder.resolve())],
                "components": [
                    os.path.relpath(KUBERAY / "components" / part, folder.resolve())
                    for part in (component, "one-cluster")
                ],
            }
        )
    )
    manifests = build(folder)
    assert [line for manifest in manifests for line in problems(manifest)] == []
    assert one(manifests, "ServiceAccount", "masklake-ray")["metadata"]["annotations"]
    assert "annotations" not in one(manifests, "ServiceAccount", "masklake-starter")["metadata"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_rayjobs_get_the_overlays_cluster(name: str) -> None:
    manifests = overlay(name)
    cluster = _without_replicas(one(manifests, "RayCluster", "masklake")["spec"])
    jobs = of_kind(manifests, "RayJob")
    assert {job["metadata"]["name"] for job in jobs} == {"masklake-segment", "masklake-train"}
    assert all(_without_replicas(job["spec"]["rayClusterSpec"]) == cluster for job in jobs)


def _without_replicas(spec: dict[str, Any]) -> dict[str, Any]:
    """The standing cluster has no worker that waits; a RayJob's has one."""
    counts = {"replicas", "minReplicas"}
    groups = [
        {key: value for key, value in group.items() if key not in counts}
        for group in spec["workerGroupSpecs"]
    ]
    return spec | {"workerGroupSpecs": groups}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_crds_themselves_take_them(name: str) -> None:
    folder = os.environ.get("KUBERAY_CRDS")
    if not folder:
        pytest.skip("KUBERAY_CRDS does not name the folder of KubeRay's CRDs (tests/infra/schemas/README.md)")
    for kind, file in (("RayCluster", "ray.io_rayclusters.yaml"), ("RayJob", "ray.io_rayjobs.yaml")):
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
