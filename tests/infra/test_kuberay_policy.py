"""What every overlay keeps to: hardened pods, few rights, few doors, jobs that end and do not overlap."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.helpers.infra.hardening import violations
from tests.helpers.infra.manifests import (
    OVERLAYS,
    Manifest,
    Pod,
    of_kind,
    one,
    overlay,
    pods,
    ray_cluster_specs,
)

HEAD = {"ray.io/node-type": "head"}  # KubeRay's label
WORKER = {"ray.io/node-type": "worker"}


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return overlay(request.param)


def all_pods(manifests: list[Manifest]) -> list[Pod]:
    found = [pod for manifest in manifests for pod in pods(manifest)]
    assert len(found) >= 10
    return found


def labels_of(pod: Pod) -> dict[str, str]:
    """A pod's labels, with KubeRay's own."""
    kind = (
        HEAD
        if "headGroupSpec" in pod.where
        else WORKER
        if "masklake-ray" in pod.metadata["labels"].values()
        else {}
    )
    return pod.metadata["labels"] | ({} if "submitter" in pod.where else kind)


def selected(selector: dict[str, Any], manifests: list[Manifest]) -> list[Pod]:
    """The pods that a label selector means."""
    wanted = selector.get("matchLabels", {}).items()
    return [pod for pod in all_pods(manifests) if wanted <= labels_of(pod).items()]


def test_pods_are_hardened(manifests: list[Manifest]) -> None:
    assert violations(manifests) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("headGroupSpec template spec containers 0 securityContext readOnlyRootFilesystem", False),
        ("workerGroupSpecs 1 template spec containers 0 securityContext runAsNonRoot", False),
        ("autoscalerOptions securityContext capabilities", {"drop": ["NET_RAW"]}),
        ("autoscalerOptions resources limits", {"cpu": "1", "memory": "1Gi"}),
        ("headGroupSpec template spec securityContext runAsUser", 0),
        ("headGroupSpec template spec hostNetwork", True),
        ("headGroupSpec template spec containers 0 image", "masklake:latest"),
        ("headGroupSpec template spec containers 0 env 1", {"name": "RAY_AUTH_TOKEN", "value": "abc"}),
        ("headGroupSpec template spec volumes 0", {"name": "tmp", "hostPath": {"path": "/tmp"}}),
        ("headGroupSpec template spec volumes 0", {"name": "tmp", "emptyDir": {}}),
        ("headGroupSpec template spec volumes 0", {"name": "tmp", "emptyDir": {"sizeLimit": "1Ti"}}),
        ("headGroupSpec template spec volumes 3 emptyDir sizeLimit", "100Mi"),
        ("authOptions mode", "disabled"),
    ],
)
def test_what_is_not_hardened_is_found(path: str, value: Any) -> None:
    cluster = copy.deepcopy(one(overlay("prod"), "RayCluster", "masklake"))
    node: Any = cluster["spec"]
    *steps, last = (int(step) if step.isdigit() else step for step in path.split())
    for step in steps:
        node = node[step]
    node[last] = value
    assert violations([cluster])


def test_every_pod_has_an_account_and_few_have_its_token(manifests: list[Manifest]) -> None:
    for pod in all_pods(manifests):
        with_token = "headGroupSpec" in pod.where or "CronJob" in pod.where
        assert pod.spec["automountServiceAccountToken"] is with_token, pod.where
        if "Deployment/s3" not in pod.where:
            assert pod.spec["serviceAccountName"] in {"masklake-ray", "masklake-starter"}, pod.where


def test_prod_keeps_no_cloud_keys_in_its_settings() -> None:
    settings = one(overlay("prod"), "ConfigMap", "masklake-settings")["data"]
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & settings.keys()


def test_the_head_does_no_work_and_workers_come_when_needed(manifests: list[Manifest]) -> None:
    for name, spec in ray_cluster_specs(manifests):
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", name
        assert spec["enableInTreeAutoscaling"] is True, name
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] == group["replicas"] <= group["maxReplicas"], name
            # what autoscaler v2 demands
            assert group["template"]["spec"].get("restartPolicy", "Never") == "Never", name


def test_prod_has_gpus_dev_has_none() -> None:
    for name, groups in (("prod", {"decode", "gpu"}), ("dev", {"decode"})):
        for _, spec in ray_cluster_specs(overlay(name)):
            assert {group["groupName"] for group in spec["workerGroupSpecs"]} == groups
    for _, spec in ray_cluster_specs(overlay("prod")):
        for group in spec["workerGroupSpecs"]:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert ("nvidia.com/gpu" in limits) is (group["groupName"] == "gpu")


def test_the_standing_cluster_costs_a_head(manifests: list[Manifest]) -> None:
    groups = one(manifests, "RayCluster", "masklake")["spec"]["workerGroupSpecs"]
    assert {group["minReplicas"] for group in groups} == {0}


def test_a_job_finds_a_worker_when_it_starts_and_may_use_all_there_can_be(manifests: list[Manifest]) -> None:
    """Masklake takes what Ray has at the start for what there is; KubeRay submits when minReplicas are there."""
    settings = one(manifests, "ConfigMap", "masklake-settings")["data"]
    for job in of_kind(manifests, "RayJob"):
        model = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][-1]  # gpu, where there is such a group
        assert settings["MASKLAKE_WORKERS"] == f"{model['minReplicas']}:{model['maxReplicas']}"
        assert model["minReplicas"] > 0


def test_prod_puts_gpus_on_spot_nodes_and_heads_never() -> None:
    for _, spec in ray_cluster_specs(overlay("prod")):
        nodes = {group["groupName"]: group["template"]["spec"] for group in spec["workerGroupSpecs"]}
        assert nodes["gpu"]["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
        assert {t["key"] for t in nodes["gpu"]["tolerations"]} == {"nvidia.com/gpu", "spot"}
        head = spec["headGroupSpec"]["template"]
        assert head["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
        assert head["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"


def test_rayjobs_clean_up_end_and_are_tried_again(manifests: list[Manifest]) -> None:
    for job in of_kind(manifests, "RayJob"):
        spec = job["spec"]
        assert spec["suspend"] is True  # a template
        assert spec["submissionMode"] == "K8sJobMode"
        assert spec["shutdownAfterJobFinishes"] is True
        assert spec["ttlSecondsAfterFinished"] > 0
        assert spec["backoffLimit"] > 0
        assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]


def test_cronjobs_do_not_overlap_and_keep_a_history(manifests: list[Manifest]) -> None:
    for cron in of_kind(manifests, "CronJob"):
        spec = cron["spec"]
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["timeZone"] == "Etc/UTC"
        assert spec["startingDeadlineSeconds"] >= 600
        assert spec["successfulJobsHistoryLimit"] > 0
        assert spec["failedJobsHistoryLimit"] > 0
        # Kubernetes adds 11 characters to make a Job's name, start_rayjob.py 4; KubeRay takes RayJob names of up to 47.
        assert len(cron["metadata"]["name"]) + 11 + 4 <= 47


def test_a_cronjob_starts_the_template_of_its_name(manifests: list[Manifest]) -> None:
    for cron in of_kind(manifests, "CronJob"):
        pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["args"] == [cron["metadata"]["name"]]
        assert one(manifests, "RayJob", container["args"][0])
        (script,) = [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v]
        assert "start_rayjob.py" in one(manifests, "ConfigMap", script)["data"]
        assert container["command"] == ["python", "/etc/masklake/start_rayjob.py"]


def test_dev_starts_nothing_by_itself() -> None:
    assert all(cron["spec"]["suspend"] for cron in of_kind(overlay("dev"), "CronJob"))
    assert not any(cron["spec"].get("suspend") for cron in of_kind(overlay("prod"), "CronJob"))


def test_the_starter_may_handle_rayjobs_and_nothing_else(manifests: list[Manifest]) -> None:
    (role,) = of_kind(manifests, "Role")
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "list", "create", "delete"]}
    ]
    (binding,) = of_kind(manifests, "RoleBinding")
    assert [s["name"] for s in binding["subjects"]] == ["masklake-starter"]
    assert of_kind(manifests, "ClusterRole", "ClusterRoleBinding") == []


def test_what_no_policy_names_is_denied(manifests: list[Manifest]) -> None:
    deny = one(manifests, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_ray_is_reached_from_inside_only(manifests: list[Manifest]) -> None:
    """Other namespaces: the operator to the dashboard, Prometheus to the metrics. Other pods: Ray's own."""
    for policy in of_kind(manifests, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            for peer in rule["from"]:
                assert "ipBlock" not in peer
                if "namespaceSelector" in peer:
                    source = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                    ports = [port["port"] for port in rule["ports"]]
                    assert (source, ports) in [("kuberay-system", [8265]), ("monitoring", [8080])]
                else:
                    assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "masklake-ray"}


def test_nothing_reaches_the_nodes_metadata_service(manifests: list[Manifest]) -> None:
    for policy in of_kind(manifests, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            assert rule["to"], policy["metadata"]["name"]
            for peer in rule["to"]:
                if "ipBlock" in peer:
                    assert peer["ipBlock"]["except"] == ["169.254.0.0/16"]
                    assert {port["port"] for port in rule["ports"]} <= {443, 6443}


def test_policies_and_budgets_select_the_pods_they_are_for(manifests: list[Manifest]) -> None:
    def heads(found: list[Pod]) -> bool:
        return all("headGroupSpec" in pod.where for pod in found)

    for policy in of_kind(manifests, "NetworkPolicy"):
        assert selected(policy["spec"]["podSelector"], manifests), policy["metadata"]["name"]
    assert heads(selected(one(manifests, "NetworkPolicy", "operator")["spec"]["podSelector"], manifests))
    budget = one(manifests, "PodDisruptionBudget", "masklake-heads")["spec"]
    assert len(selected(budget["selector"], manifests)) == 3
    assert heads(selected(budget["selector"], manifests))
    api = selected(one(manifests, "NetworkPolicy", "kubernetes-api")["spec"]["podSelector"], manifests)
    assert all(pod.spec["automountServiceAccountToken"] for pod in api)


def test_prod_lets_kubernetes_refuse_what_is_not_hardened() -> None:
    (namespace,) = of_kind(overlay("prod"), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
