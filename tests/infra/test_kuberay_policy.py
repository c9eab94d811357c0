"""What every overlay keeps to: hardened pods, few rights, few doors, jobs that end and do not overlap."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.infra.hardening import violations
from tests.helpers.infra.manifests import (
    OVERLAYS,
    Manifest,
    Pod,
    build_with,
    job_specs,
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
    every_pod = [pod for manifest in manifests for pod in pods(manifest)]
    assert len(every_pod) >= 10
    return every_pod


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
    labels = selector.get("matchLabels", {}).items()
    return [pod for pod in all_pods(manifests) if labels <= labels_of(pod).items()]


def test_pods_are_hardened(manifests: list[Manifest]) -> None:
    assert violations(manifests) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("headGroupSpec template spec containers 0 securityContext readOnlyRootFilesystem", False),
        ("workerGroupSpecs 0 template spec containers 0 securityContext runAsNonRoot", False),
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
        with_token = "headGroupSpec" in pod.where or pod.where.startswith("CronJob/")
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
    for _, job in job_specs(manifests):
        model = job["rayClusterSpec"]["workerGroupSpecs"][0]  # gpu, where there is such a group
        assert settings["MASKLAKE_WORKERS"] == f"{model['minReplicas']}:{model['maxReplicas']}"
        assert model["minReplicas"] > 0


def test_prod_puts_gpus_on_spot_nodes_and_heads_never() -> None:
    for _, spec in ray_cluster_specs(overlay("prod")):
        nodes = {group["groupName"]: group["template"]["spec"] for group in spec["workerGroupSpecs"]}
        assert nodes["gpu"]["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
        assert {t["key"] for t in nodes["gpu"]["tolerations"]} == {"nvidia.com/gpu", "spot"}
        head = spec["headGroupSpec"]["template"]
        assert head["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}


@pytest.mark.parametrize(
    ("component", "spot", "on_demand", "tolerated"),
    [
        (
            "spot-karpenter",
            {"karpenter.sh/capacity-type": "spot"},
            {"karpenter.sh/capacity-type": "on-demand"},
            "spot",
        ),
        ("spot-eks", {"eks.amazonaws.com/capacityType": "SPOT"}, {"eks.amazonaws.com/capacityType": "ON_DEMAND"}, "spot"),
        ("spot-gke", {"cloud.google.com/gke-spot": "true"}, None, "cloud.google.com/gke-spot"),
    ],
)  # fmt: skip
def test_spot_nodes_have_other_labels_elsewhere(
    component: str, spot: dict[str, str], on_demand: dict[str, str] | None, tolerated: str, tmp_path: Path
) -> None:
    manifests = build_with(tmp_path, f"components/{component}", "components/one-cluster")
    specs = ray_cluster_specs(manifests)
    assert len(specs) == 2
    for _, spec in specs:
        nodes = {group["groupName"]: group["template"]["spec"] for group in spec["workerGroupSpecs"]}
        assert nodes["gpu"]["nodeSelector"] == spot
        assert {t["key"] for t in nodes["gpu"]["tolerations"]} == {"nvidia.com/gpu", tolerated}
        assert "nodeSelector" not in nodes["decode"]
        head = spec["headGroupSpec"]["template"]["spec"]
        assert head.get("nodeSelector") == on_demand
        if on_demand is None:  # a node that is not spot has no label there
            (term,) = head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
                "nodeSelectorTerms"
            ]
            assert term["matchExpressions"] == [{"key": next(iter(spot)), "operator": "DoesNotExist"}]


def test_only_the_head_that_drives_a_job_holds_its_node(manifests: list[Manifest]) -> None:
    for name, spec in ray_cluster_specs(manifests):
        annotations = spec["headGroupSpec"]["template"]["metadata"].get("annotations", {})
        assert (annotations.get("karpenter.sh/do-not-disrupt") == "true") is (name != "masklake"), name


def test_no_cluster_stands_where_no_component_asks_for_one(tmp_path: Path) -> None:
    assert of_kind(build_with(tmp_path, "components/one-cluster"), "RayCluster") == []


def test_a_worker_leaves_room_on_a_machine_of_eight_cpus() -> None:
    """EKS, GKE and AKS keep at least 0.08 CPUs of 8 for the kubelet, and DaemonSets ask for some tenths."""
    for _, spec in ray_cluster_specs(overlay("prod")):
        for group in spec["workerGroupSpecs"]:
            requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
            assert quantity(requests["cpu"]) <= 7, group["groupName"]


def test_kueue_owns_whether_a_rayjob_is_suspended(tmp_path: Path) -> None:
    manifests = build_with(tmp_path, "components/one-cluster", "components/kueue")
    settings = one(manifests, "ConfigMap", "masklake-settings")["data"]
    for template in of_kind(manifests, "RayCronJob"):
        assert template["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
        job = template["spec"]["jobTemplate"]
        assert "suspend" not in job
        assert job["shutdownAfterJobFinishes"] is True
        # What Kueue's webhook refuses.
        cluster = job["rayClusterSpec"]
        assert cluster["enableInTreeAutoscaling"] is False
        assert len(cluster["workerGroupSpecs"]) <= 7
        workers = cluster["workerGroupSpecs"][0]
        assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
        assert settings["MASKLAKE_WORKERS"].endswith(f":{workers['maxReplicas']}")


def test_every_pod_pulls_with_the_secret(tmp_path: Path) -> None:
    manifests = build_with(tmp_path, "components/one-cluster", "components/pull-secret")
    accounts = of_kind(manifests, "ServiceAccount")
    assert all(account["imagePullSecrets"] == [{"name": "masklake-registry"}] for account in accounts)
    names = {account["metadata"]["name"] for account in accounts}
    assert {pod.spec["serviceAccountName"] for m in manifests for pod in pods(m)} <= names


@pytest.mark.parametrize(
    ("component", "peers", "ports"),
    [
        ("pod-identity", ["169.254.170.23/32", "fd00:ec2::23/128"], [80]),
        ("gke-workload-identity", ["169.254.169.252/32", "169.254.169.254/32"], [988, 80]),
    ],
)
def test_a_cloud_identity_opens_the_way_to_its_server_and_no_other(
    component: str, peers: list[str], ports: list[int], tmp_path: Path
) -> None:
    plain, more = tmp_path / "plain", tmp_path / "more"
    for folder in (plain, more):
        folder.mkdir()
    before = of_kind(build_with(plain, "components/one-cluster"), "NetworkPolicy")
    after = of_kind(build_with(more, f"components/{component}", "components/one-cluster"), "NetworkPolicy")
    (opened,) = [policy for policy in after if policy not in before]
    assert opened["spec"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "masklake-ray"}}
    rules = opened["spec"]["egress"]
    assert [peer["ipBlock"]["cidr"] for rule in rules for peer in rule["to"]] == peers
    assert [port["port"] for rule in rules for port in rule["ports"]] == ports


def test_an_s3_of_this_kubernetes_is_reached_when_its_component_is_there(tmp_path: Path) -> None:
    manifests = build_with(tmp_path, "components/s3-in-cluster", "components/one-cluster")
    (rule,) = one(manifests, "NetworkPolicy", "s3-in-cluster")["spec"]["egress"]
    (peer,) = rule["to"]
    assert peer.keys() == {"namespaceSelector", "podSelector"}  # both: those pods of that namespace
    assert [port["port"] for port in rule["ports"]] == [9000]


def test_rayjobs_clean_up_end_and_are_tried_again(manifests: list[Manifest]) -> None:
    for template in of_kind(manifests, "RayCronJob"):
        assert template["spec"]["suspend"] is True  # a template
        spec = template["spec"]["jobTemplate"]
        assert "suspend" not in spec
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
        assert one(manifests, "RayCronJob", container["args"][0])
        (script,) = [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v]
        assert "start_rayjob.py" in one(manifests, "ConfigMap", script)["data"]
        assert container["command"] == ["python", "/etc/masklake/start_rayjob.py"]


def test_dev_starts_nothing_by_itself() -> None:
    assert all(cron["spec"]["suspend"] for cron in of_kind(overlay("dev"), "CronJob"))
    assert not any(cron["spec"].get("suspend") for cron in of_kind(overlay("prod"), "CronJob"))


def test_the_starter_may_handle_rayjobs_and_nothing_else(manifests: list[Manifest]) -> None:
    (role,) = of_kind(manifests, "Role")
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["raycronjobs"], "verbs": ["get"]},
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["list", "create", "delete"]},
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
    def heads(selected_pods: list[Pod]) -> bool:
        return all("headGroupSpec" in pod.where for pod in selected_pods)

    for policy in of_kind(manifests, "NetworkPolicy"):
        assert selected(policy["spec"]["podSelector"], manifests), policy["metadata"]["name"]
    assert heads(selected(one(manifests, "NetworkPolicy", "operator")["spec"]["podSelector"], manifests))
    budget = one(manifests, "PodDisruptionBudget", "masklake-heads")["spec"]
    assert len(selected(budget["selector"], manifests)) == 2  # of the RayJobs; not the one that stands
    assert heads(selected(budget["selector"], manifests))
    api = selected(one(manifests, "NetworkPolicy", "kubernetes-api")["spec"]["podSelector"], manifests)
    assert all(pod.spec["automountServiceAccountToken"] for pod in api)


def test_prod_lets_kubernetes_refuse_what_is_not_hardened() -> None:
    (namespace,) = of_kind(overlay("prod"), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
