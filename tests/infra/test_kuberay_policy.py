"""What every pod of every overlay keeps to: not root, nothing writable but scratch, bounded, unreachable, tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.infra.manifests import (
    OVERLAYS,
    Manifest,
    Pod,
    of_kind,
    one,
    overlay,
    pods,
    quantity,
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


def containers(manifests: list[Manifest]) -> list[tuple[str, dict[str, Any]]]:
    """Every container, and what KubeRay makes its autoscaler's container of."""
    found = [container for pod in all_pods(manifests) for container in pod.containers]
    return found + [
        (f"{name}: autoscaler", spec["autoscalerOptions"]) for name, spec in ray_cluster_specs(manifests)
    ]


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


def test_containers_are_not_root_and_cannot_become_it(manifests: list[Manifest]) -> None:
    for where, container in containers(manifests):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True, where
        assert context["allowPrivilegeEscalation"] is False, where
        assert context["capabilities"] == {"drop": ["ALL"]}, where
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert "privileged" not in context, where
        assert "runAsUser" not in context, where


def test_pods_run_as_the_images_user_and_see_nothing_of_the_host(manifests: list[Manifest]) -> None:
    for pod in all_pods(manifests):
        context = pod.spec["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (10001, 10001, 10001), (
            pod.where
        )
        assert context["runAsNonRoot"] is True, pod.where
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, pod.where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod.where
        kinds = {key for volume in pod.spec["volumes"] for key in volume if key != "name"}
        assert kinds <= {"emptyDir", "configMap"}, pod.where


def test_only_scratch_is_writable(manifests: list[Manifest]) -> None:
    scratch = {"/tmp", "/tmp/ray", "/home/masklake", "/dev/shm"}
    for where, container in containers(manifests):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, where
        writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert {"/tmp", "/home/masklake"} <= writable <= scratch, where
    for pod in all_pods(manifests):
        mounts = {m["name"] for _, container in pod.containers for m in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod.spec["volumes"]}, pod.where
        assert all("sizeLimit" in v["emptyDir"] for v in pod.spec["volumes"] if "emptyDir" in v), pod.where


def test_every_container_asks_for_and_is_limited_in_cpu_memory_and_disk(manifests: list[Manifest]) -> None:
    for where, container in containers(manifests):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        for resource in ("cpu", "memory", "ephemeral-storage"):
            assert 0 < quantity(requests[resource]) <= quantity(limits[resource]), f"{where}: {resource}"
        assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu"), where


def test_scratch_fits_the_limits(manifests: list[Manifest]) -> None:
    for pod in all_pods(manifests):
        limits = pod.spec["containers"][0]["resources"]["limits"]
        sizes = {True: 0.0, False: 0.0}  # in memory, on disk
        for volume in pod.spec["volumes"]:
            if "emptyDir" in volume:
                sizes[volume["emptyDir"].get("medium") == "Memory"] += quantity(
                    volume["emptyDir"]["sizeLimit"]
                )
        assert sizes[False] <= quantity(limits["ephemeral-storage"]), pod.where
        assert sizes[True] <= quantity(limits["memory"]) / 2, pod.where


def test_the_object_store_fits_its_memory_volume(manifests: list[Manifest]) -> None:
    for name, spec in ray_cluster_specs(manifests):
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            pod = group["template"]["spec"]
            (shm,) = [m["name"] for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == "/dev/shm"]
            (volume,) = [v["emptyDir"] for v in pod["volumes"] if v["name"] == shm]
            assert volume["medium"] == "Memory", name
            assert int(group["rayStartParams"]["object-store-memory"]) <= quantity(volume["sizeLimit"]), name


def test_images_are_pinned(manifests: list[Manifest]) -> None:
    for pod in all_pods(manifests):
        for where, container in pod.containers:
            assert re.search(r"[:@](?!latest)[\w.:-]+$", container["image"]), where


def test_every_pod_has_an_account_and_few_have_its_token(manifests: list[Manifest]) -> None:
    for pod in all_pods(manifests):
        with_token = "headGroupSpec" in pod.where or "CronJob" in pod.where
        assert pod.spec["automountServiceAccountToken"] is with_token, pod.where
        if "Deployment/s3" not in pod.where:
            assert pod.spec["serviceAccountName"] in {"masklake-ray", "masklake-starter"}, pod.where


def test_no_secret_is_in_the_manifests(manifests: list[Manifest]) -> None:
    assert of_kind(manifests, "Secret") == []
    for where, container in containers(manifests):
        for variable in container.get("env", []):
            if re.search("TOKEN|SECRET|PASSWORD|KEY", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], f"{where}: {variable['name']}"


def test_prod_keeps_no_cloud_keys_in_its_settings() -> None:
    settings = one(overlay("prod"), "ConfigMap", "masklake-settings")["data"]
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & settings.keys()


def test_ray_asks_for_a_token_everywhere(manifests: list[Manifest]) -> None:
    secret = {"secretKeyRef": {"name": "masklake-ray-token", "key": "auth_token"}}
    for name, spec in ray_cluster_specs(manifests):
        assert spec["authOptions"] == {"mode": "token", "secretName": "masklake-ray-token"}, name
    for where, container in containers(manifests):
        if container.get("name") in {"ray-head", "ray-worker", "ray-job-submitter"}:
            env = {variable["name"]: variable for variable in container["env"]}
            assert env["RAY_AUTH_MODE"]["value"] == "token", where
            assert env["RAY_AUTH_TOKEN"]["valueFrom"] == secret, where


def test_the_head_does_no_work_and_workers_come_when_needed(manifests: list[Manifest]) -> None:
    for name, spec in ray_cluster_specs(manifests):
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", name
        assert spec["enableInTreeAutoscaling"] is True, name
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"], name
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
        # Kubernetes adds 11 characters to make a Job's name; KubeRay takes RayJob names of up to 47.
        assert len(cron["metadata"]["name"]) <= 36


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
