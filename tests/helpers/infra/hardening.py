"""What every pod keeps to: not root, nothing writable but bounded scratch, limits, pinned images, no secret in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.helpers.infra.manifests import Manifest, Pod, of_kind, pods, quantity, ray_cluster_specs

USER = 10001
"""The image's."""
SCRATCH = {"/tmp", "/tmp/ray", "/home/masklake", "/dev/shm"}
RAY = {"ray-head", "ray-worker", "ray-job-submitter"}
_TOKEN = {"secretKeyRef": {"name": "masklake-ray-token", "key": "auth_token"}}
_SECCOMP = {"type": "RuntimeDefault"}


def containers(manifests: list[Manifest]) -> list[tuple[str, dict[str, Any]]]:
    """Every container, and what KubeRay makes its autoscaler's container of."""
    in_pods = [container for manifest in manifests for pod in pods(manifest) for container in pod.containers]
    autoscalers = [
        (f"{name}: autoscaler", spec["autoscalerOptions"])
        for name, spec in ray_cluster_specs(manifests)
        if spec["enableInTreeAutoscaling"]
    ]
    return in_pods + autoscalers


def violations(manifests: list[Manifest]) -> list[str]:
    """Where the manifests break a rule; a line each."""
    broken = [
        f"{where}: {rule}" for where, container in containers(manifests) for rule in _container(container)
    ]
    for manifest in manifests:
        for pod in pods(manifest):
            broken += [f"{pod.where}: {rule}" for rule in _pod(pod)]
    for name, spec in ray_cluster_specs(manifests):
        broken += [f"{name}: {rule}" for rule in _ray_cluster(spec)]
    return broken + [f"{secret['metadata']['name']}: a Secret" for secret in of_kind(manifests, "Secret")]


def _container(container: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    required = {
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": _SECCOMP,
    }
    if context != required:
        yield f"securityContext is {context}"

    writable = {m["mountPath"] for m in container.get("volumeMounts", []) if not m.get("readOnly")}
    if not {"/tmp"} <= writable <= SCRATCH:
        yield f"writable: {sorted(writable)}"

    requests, limits = (container.get("resources", {}).get(part, {}) for part in ("requests", "limits"))
    for resource in ("cpu", "memory", "ephemeral-storage"):
        if not 0 < quantity(requests.get(resource, 0)) <= quantity(limits.get(resource, 0)):
            yield f"{resource}: asks for {requests.get(resource)} of at most {limits.get(resource)}"
    if requests.get("nvidia.com/gpu") != limits.get("nvidia.com/gpu"):
        yield "GPUs are not shared: requests and limits must be equal"

    env = {variable["name"]: variable for variable in container.get("env", [])}
    for name, variable in env.items():
        if re.search("TOKEN|SECRET|PASSWORD|KEY", name) and "secretKeyRef" not in variable.get(
            "valueFrom", {}
        ):
            yield f"{name} is written out"
    if container.get("name") in RAY:
        if env.get("RAY_AUTH_MODE", {}).get("value") != "token":
            yield "RAY_AUTH_MODE is not token"
        if env.get("RAY_AUTH_TOKEN", {}).get("valueFrom") != _TOKEN:
            yield "RAY_AUTH_TOKEN is not the Secret's"


def _pod(pod: Pod) -> Iterator[str]:
    context = pod.spec.get("securityContext", {})
    required = {"runAsNonRoot": True, "seccompProfile": _SECCOMP}
    if context != required | dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), USER):
        yield f"securityContext is {context}"
    if host := {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys():
        yield f"shares the host's {sorted(host)}"
    if "automountServiceAccountToken" not in pod.spec:
        yield "does not say whether it needs its account's token"
    for where, container in pod.containers:
        if not re.search(r"[:@](?!latest)[\w.:-]+$", container["image"]):
            yield f"{where}: image {container['image']} has no tag"

    sizes = {"Memory": 0.0, "": 0.0}
    for volume in pod.spec["volumes"]:
        if not {"emptyDir", "configMap"} & volume.keys():
            yield f"volume {volume}"
        elif "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']} has no limit"
        elif "emptyDir" in volume:
            sizes[volume["emptyDir"].get("medium", "")] += quantity(volume["emptyDir"]["sizeLimit"])
    limits = pod.spec["containers"][0]["resources"]["limits"]
    if sizes[""] > quantity(limits["ephemeral-storage"]):
        yield "the volumes are larger than its ephemeral-storage"
    if sizes["Memory"] > quantity(limits["memory"]) / 2:
        yield "the volumes in memory take more than half of it"


def _ray_cluster(spec: dict[str, Any]) -> Iterator[str]:
    if spec.get("authOptions") != {"mode": "token", "secretName": "masklake-ray-token"}:
        yield f"authOptions are {spec.get('authOptions')}"
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        name = group.get("groupName", "head")
        pod = group["template"]["spec"]
        shm = {m["name"] for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == "/dev/shm"}
        sizes = [
            quantity(volume["emptyDir"]["sizeLimit"])
            for volume in pod["volumes"]
            if volume["name"] in shm and volume["emptyDir"].get("medium") == "Memory"
        ]
        store = group["rayStartParams"].get("object-store-memory")
        if store is None or not sizes or int(store) > sizes[0]:
            # Ray would keep its objects on the disk instead, with no more than a warning.
            yield f"{name}: an object store of {store} bytes does not fit /dev/shm of {sizes}"
