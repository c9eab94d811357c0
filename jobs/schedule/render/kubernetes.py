"""`masklake schedule render`: a schedule as manifests for Kubernetes, or as systemd units.

For Kubernetes it is two objects beside what infra/kuberay installs in the namespace (accounts, network policies, the
settings, Ray's token and start_rayjob.py): a suspended RayJob, which is the template, and a CronJob that copies it.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from typing import TYPE_CHECKING, Any

from masklake.jobs.schedule.render.pods import (
    CONTAINER,
    FOR_GPUS,
    HEAD,
    HEAD_PARAMS,
    PART,
    POD,
    RAY,
    SUBMITTER,
    mounts,
    pod,
    workers,
)
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.jobs.schedule.store import Schedule, Store

_TIMEOUT_S = 43200
_LONGEST_NAME = 32
"""KubeRay takes 47 characters for a RayJob; its name is the Job's, which adds 11 to the CronJob's, and -ray."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `masklake schedule render`."""
    parser.add_argument("name", metavar="NAME", help="the schedule's name")
    parser.add_argument(
        "--target",
        choices=("kubernetes", "systemd"),
        default="kubernetes",
        help="a CronJob with its RayJob, for a namespace with infra/kuberay; or a service and its timer (default %(default)s)",
    )
    parser.add_argument("--image", default="masklake", help="Masklake's image (default %(default)s)")
    parser.add_argument("--namespace", metavar="NAME", help="for kubernetes (default: the current one)")
    parser.add_argument(
        "--gpus",
        type=int,
        default=0,
        metavar="N",
        help="for kubernetes: up to N workers with a GPU (default 0)",
    )


def render(args: argparse.Namespace, store: Store) -> int:
    """Print the manifests. Raises UserError for a schedule that the target cannot have."""
    import yaml
    from masklake.jobs.schedule.render.systemd import render_systemd

    schedule = store.schedule(args.name)
    if args.target == "systemd":
        for name, text in render_systemd(schedule, store).items():
            sys.stdout.write(f"# {name}\n{text}\n")
        return 0
    documents = render_kubernetes(schedule, image=args.image, namespace=args.namespace, gpus=args.gpus)
    sys.stdout.write(
        "# For a namespace with infra/kuberay. The failure hook is the daemon's, and not in it.\n"
    )
    sys.stdout.write(yaml.safe_dump_all(documents, sort_keys=False, width=110))
    return 0


def render_kubernetes(
    schedule: Schedule, *, image: str = "masklake", namespace: str | None = None, gpus: int = 0
) -> list[dict[str, Any]]:
    """The RayJob that is the schedule's template, and the CronJob that starts copies of it.

    Raises UserError for a schedule that Kubernetes cannot have: seconds, a lake that is a folder, …
    """
    name = _kubernetes_name(schedule.name)
    metadata: dict[str, Any] = {"name": name, "labels": PART}
    if namespace:
        metadata["namespace"] = namespace
    # Copies, so that PyYAML writes no anchors, which not every tool reads.
    return [_copied(_rayjob(schedule, metadata, image, gpus)), _copied(_cronjob(schedule, metadata, image))]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


def _kubernetes_name(name: str) -> str:
    made = re.sub(r"[^a-z0-9-]+", "-", f"schedule-{name}".lower()).strip("-")
    if len(made) > _LONGEST_NAME:
        raise UserError(
            f"schedule {name!r}: the name {made} leaves KubeRay no room ({_LONGEST_NAME} characters); name it shorter"
        )
    return made


def kubernetes_cron(schedule: Schedule) -> str:
    """The schedule's expression as Kubernetes reads it: five fields, Sunday is 0. Raises UserError where it has none."""
    from masklake.jobs.schedule.cron import Cron

    if schedule.every:
        for unit, limit, text in (
            (60, 60, "*/{} * * * *"),
            (3600, 24, "0 */{} * * *"),
            (86400, 2, "0 0 * * *"),
        ):
            count, rest = divmod(schedule.every, unit)
            if not rest and 1 <= count < limit and limit % count == 0:
                return text.format(count).replace("*/1 ", "* ")
        raise UserError(
            f"schedule {schedule.name!r}: every {schedule.every} s is no time of a CronJob; use minutes that divide an "
            "hour or hours that divide a day, or --cron"
        )
    timing = Cron(schedule.cron or "", schedule.timezone)
    if timing.numbers[0] != (0,):
        raise UserError(f"schedule {schedule.name!r}: {schedule.cron!r} has seconds, and a CronJob has none")
    steps = [text for text in (timing.texts[3], timing.texts[5]) if text.startswith("*/")]
    if steps and "*" not in (timing.texts[3], timing.texts[5]):
        raise UserError(
            f"schedule {schedule.name!r}: Kubernetes reads {steps[0]!r} beside another day otherwise than cron; write the days out"
        )
    full = (60, 24, 31, 12, 7)
    return " ".join(
        "*" if len(numbers) == count else ",".join(map(str, numbers))
        for numbers, count in zip(timing.numbers[1:], full, strict=True)
    )


def _rayjob(schedule: Schedule, metadata: dict[str, Any], image: str, gpus: int) -> dict[str, Any]:
    # A job takes what Ray has when it starts for what there is: it is submitted once one worker is there.
    groups = [workers("decode", image, (0 if gpus else 1, 8), {"cpu": "8", "memory": "16Gi"}, {})]
    if gpus:
        resources = {"cpu": "6", "memory": "24Gi", "nvidia.com/gpu": "1"}
        groups.append(workers("gpu", image, (1, gpus), resources, {"tolerations": [FOR_GPUS]}))
    head = pod(
        "ray-head",
        image,
        {"cpu": "1", "memory": "8Gi", "ephemeral-storage": "5Gi"},
        {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "20Gi"},
        HEAD,
    )
    # The autoscaler, which is beside the head, asks Kubernetes for pods.
    head["spec"]["automountServiceAccountToken"] = True
    head["metadata"]["labels"] = RAY | {"masklake-kubernetes-api": "true"}
    head["metadata"]["annotations"] = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    submitter = pod(
        "ray-job-submitter",
        image,
        {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "64Mi"},
        {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
        SUBMITTER,
        settings=False,
    )
    submitter["spec"] |= {"restartPolicy": "Never", "serviceAccountName": "masklake-starter"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "suspend": True,
            "submissionMode": "K8sJobMode",
            "entrypoint": _entrypoint(schedule, gpus),
            "backoffLimit": schedule.retries,
            "preRunningDeadlineSeconds": 1800,
            "activeDeadlineSeconds": int(schedule.timeout or _TIMEOUT_S),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "submitterConfig": {"backoffLimit": 2},
            "submitterPodTemplate": submitter,
            "rayClusterSpec": {
                "rayVersion": _ray_version(),
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {
                    "version": "v2",
                    "idleTimeoutSeconds": 120,
                    "resources": {
                        "requests": {"cpu": "200m", "memory": "512Mi", "ephemeral-storage": "256Mi"},
                        "limits": {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1Gi"},
                    },
                    "securityContext": CONTAINER,
                    "volumeMounts": mounts(name for name in HEAD if name != "dshm"),
                },
                "authOptions": {"mode": "token", "secretName": "masklake-ray-token"},
                "headGroupSpec": {
                    "rayStartParams": HEAD_PARAMS,
                    "template": head,
                },
                "workerGroupSpecs": groups,
            },
        },
    }


def _ray_version() -> str:
    from importlib.metadata import version

    return version("ray")


def _entrypoint(schedule: Schedule, gpus: int) -> str:
    from masklake.jobs.schedule.command_line import parse

    job = parse(schedule.command, schedule.cwd)
    if job.elsewhere:
        raise UserError(
            f"schedule {schedule.name!r}: {job.text()} is for another cluster, and the RayJob is one; schedule the command itself"
        )
    if job.lake is not None and "://" not in job.lake:
        raise UserError(
            f"schedule {schedule.name!r}: the lake {job.lake} is a folder, which pods do not have; use s3://…"
        )
    open_ = job.options - job.given
    more = ["--address", "auto"] if "address" in open_ else []
    if gpus and {"address", "gpus"} <= open_:  # else it would count on the one that is there at the start
        more += ["--gpus", str(gpus)]
    return shlex.join(["masklake", *schedule.command, *more, *job.locking(schedule.lock)])


def _cronjob(schedule: Schedule, metadata: dict[str, Any], image: str) -> dict[str, Any]:
    container = {
        "name": "start",
        "image": image,
        "command": ["python", "/etc/masklake/start_rayjob.py"],
        "args": [metadata["name"]],
        "env": [
            # The Job's name becomes the RayJob's: a pod that is tried again finds what the first one made.
            {
                "name": "JOB_NAME",
                "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}},
            }
        ],
        "securityContext": CONTAINER,
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "16Mi"},
            "limits": {"cpu": "500m", "memory": "256Mi", "ephemeral-storage": "128Mi"},
        },
        "volumeMounts": [
            {"name": "script", "mountPath": "/etc/masklake", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # the pod's own
        ],
    }
    spec = {
        "restartPolicy": "Never",
        "serviceAccountName": "masklake-starter",
        "automountServiceAccountToken": True,
        "securityContext": POD,
        "containers": [container],
        "volumes": [
            {"name": "script", "configMap": {"name": "masklake-start-rayjob"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
        ],
    }
    labels = PART | {"app.kubernetes.io/name": "masklake-starter", "masklake-kubernetes-api": "true"}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata,
        "spec": {
            "schedule": kubernetes_cron(schedule),
            "timeZone": schedule.timezone,
            "suspend": schedule.paused,
            # Forbid keeps two starting pods apart; that the RayJob before still runs is for start_rayjob.py to refuse.
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": max(10, int(schedule.deadline)),
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 7,
            "jobTemplate": {
                "metadata": {"labels": PART},
                "spec": {
                    "backoffLimit": 3,
                    "activeDeadlineSeconds": 600,
                    "ttlSecondsAfterFinished": 604800,
                    "podFailurePolicy": {
                        "rules": [
                            {  # refused: asking again would not help
                                "action": "FailJob",
                                "onExitCodes": {"containerName": "start", "operator": "In", "values": [3]},
                            },
                            {
                                "action": "Ignore",
                                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                            },
                        ]
                    },
                    "template": {"metadata": {"labels": labels}, "spec": spec},
                },
            },
        },
    }
