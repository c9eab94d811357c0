"""The pods of a rendered schedule: what they may do, and what they are given. As in infra/kuberay."""

from __future__ import annotations

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
MOUNTS = [
    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # the pod's own
    {"name": "home", "mountPath": "/home/masklake"},
    {"name": "dshm", "mountPath": "/dev/shm"},  # noqa: S108  # as above
]
_VOLUMES = [
    {"name": "tmp", "emptyDir": {"sizeLimit": "30Gi"}},  # Ray's logs, and objects that it spills
    {"name": "home", "emptyDir": {"sizeLimit": "5Gi"}},
    {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}},
]


def pod(
    name: str, image: str, requests: dict[str, str], limits: dict[str, str], *, settings: bool = True
) -> dict[str, Any]:
    """A pod of one container, not root, that writes nowhere but to its own volumes."""
    container = {
        "name": name,
        "image": image,
        "env": _TOKEN,
        "envFrom": [{"configMapRef": {"name": "masklake-settings"}}],
        "securityContext": CONTAINER,
        "resources": {"requests": requests, "limits": limits},
        "volumeMounts": MOUNTS,
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
            "volumes": _VOLUMES,
        },
    }


def workers(
    name: str, image: str, most: int, resources: dict[str, str], more: dict[str, Any]
) -> dict[str, Any]:
    """A group of Ray workers, of which there are none until there is work."""
    template = pod(
        "ray-worker",
        image,
        resources | {"ephemeral-storage": "10Gi"},
        resources | {"ephemeral-storage": "40Gi"},
    )
    template["spec"] |= {"terminationGracePeriodSeconds": 60} | more
    return {
        "groupName": name,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": template,
    }
