"""The pods of a rendered schedule: what they may do, and what they are given. As in infra/kuberay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PART = {"app.kubernetes.io/part-of": "masklake"}
RAY = PART | {"app.kubernetes.io/name": "masklake-ray"}
POD = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_TOKEN = [
    {"name": "RAY_AUTH_MODE", "value": "token"},
    {
        "name": "RAY_AUTH_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "masklake-ray-token", "key": "auth_token"}},
    },
]


FOR_GPUS = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
_MOUNTED = {
    "tmp": "/tmp",  # noqa: S108  # the pod's own
    "ray-logs": "/tmp/ray",  # noqa: S108  # as above
    "home": "/home/masklake",
    "dshm": "/dev/shm",  # noqa: S108  # as above
}
_IN_MEMORY = "dshm"
HEAD = {"tmp": "5Gi", "ray-logs": "10Gi", "home": "5Gi", "dshm": "1Gi"}
"""A head's volumes and their limits; its ephemeral storage holds those that are not in memory. KubeRay mounts one
without a limit at /tmp/ray where none is."""
HEAD_PARAMS = {
    "num-cpus": "0",
    "dashboard-host": "0.0.0.0",  # noqa: S104  # in a pod, behind the token and network policies
    "object-store-memory": "1000000000",
}
"""Of `ray start`. The store's bytes fit /dev/shm, or Ray would keep it on the disk with no more than a warning."""
WORKER = {"tmp": "30Gi", "home": "5Gi", "dshm": "4Gi"}
"""A worker's: what Ray spills is in tmp."""
_WORKER_STORE = "4000000000"
SUBMITTER = {"tmp": "512Mi", "home": "128Mi"}


def mounts(volumes: Iterable[str]) -> list[dict[str, str]]:
    """Where these volumes are in a container."""
    return [{"name": name, "mountPath": _MOUNTED[name]} for name in volumes]


def _volumes(limits: dict[str, str]) -> list[dict[str, Any]]:
    def empty(name: str, limit: str) -> dict[str, str]:
        return {"medium": "Memory", "sizeLimit": limit} if name == _IN_MEMORY else {"sizeLimit": limit}

    return [{"name": name, "emptyDir": empty(name, limit)} for name, limit in limits.items()]


def pod(
    name: str,
    image: str,
    requests: dict[str, str],
    limits: dict[str, str],
    volumes: dict[str, str],
    *,
    settings: bool = True,
) -> dict[str, Any]:
    """A pod of one container, not root, that writes nowhere but to its own volumes (by name, with their limits)."""
    container = {
        "name": name,
        "image": image,
        "env": _TOKEN,
        "envFrom": [{"configMapRef": {"name": "masklake-settings"}}],
        "securityContext": CONTAINER,
        "resources": {"requests": requests, "limits": limits},
        "volumeMounts": mounts(volumes),
    }
    if not settings:
        del container["envFrom"]
    return {
        "metadata": {"labels": RAY},
        "spec": {
            "serviceAccountName": "masklake-ray",
            "automountServiceAccountToken": False,
            "securityContext": POD,
            "containers": [container],
            "volumes": _volumes(volumes),
        },
    }


def workers(
    name: str,
    image: str,
    count: tuple[int, int],
    resources: dict[str, str],
    more: dict[str, Any],
) -> dict[str, Any]:
    """A group of Ray workers: the least and the most of them that there are."""
    template = pod(
        "ray-worker",
        image,
        resources | {"ephemeral-storage": "10Gi"},
        resources | {"ephemeral-storage": "40Gi"},
        WORKER,
    )
    template["spec"] |= {"terminationGracePeriodSeconds": 60} | more
    least, most = count
    return {
        "groupName": name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": most,
        "rayStartParams": {"object-store-memory": _WORKER_STORE},
        "template": template,
    }
