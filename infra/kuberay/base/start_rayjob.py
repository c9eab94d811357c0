"""Start a RayJob from its template, unless the one before still runs.

A CronJob runs this: `python start_rayjob.py TEMPLATE`. A schedule that `masklake schedule render` made has a series of
its own (`--series`) and says what differs from the template. It needs nothing but Python's library and the pod's own
service account. Exit codes: 0 started, or started by an earlier try of this Job; 1 the Kubernetes API failed, try
again; 75 refused, since a RayJob of this series is not done.
"""

import argparse
import json
import os
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SERIES = "masklake-template"
"""Label of every RayJob made here: the series, of which one runs at a time; the template's name where none is given."""
STARTED_BY = "masklake-job-uid"
"""Label: the Kubernetes Job that started it. Jobs of one name, made one after the other, have different UIDs."""
FINISHED = {"Complete", "Failed", "ValidationFailed"}
"""The jobDeploymentStatus of a RayJob that will do nothing more. Suspended is not among them: it may go on."""
KEEP = 7
"""Finished RayJobs that stay to be looked at; KubeRay removes their clusters, but never they themselves."""
SUFFIX = "-ray"
"""KubeRay gives its submitter, a Kubernetes Job, the RayJob's name: this Job's own would be taken for it."""
STARTED, FAILED, REFUSED = 0, 1, 75  # those of `masklake` (masklake/jobs/exit_codes.py)
_KUBECTLS = "kubectl.kubernetes.io/"

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class RayJobs:
    """The RayJobs and their templates of one namespace, over the Kubernetes API."""

    url: str
    """`https://HOST:PORT/apis/ray.io/v1/namespaces/NAMESPACE`"""
    token: str = field(repr=False)
    tls: ssl.SSLContext | None = None

    @classmethod
    def of_this_pod(cls) -> "RayJobs":
        """By the service account that Kubernetes mounts into the pod."""
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        host = f"[{host}]" if ":" in host else host
        namespace = (_ACCOUNT / "namespace").read_text().strip()
        return cls(
            url=f"https://{host}:{port}/apis/ray.io/v1/namespaces/{namespace}",
            token=(_ACCOUNT / "token").read_text().strip(),
            tls=ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt")),
        )

    def template(self, name: str) -> dict[str, Any]:
        """The RayCronJob that holds a RayJob's spec as its spec.jobTemplate."""
        return self._call("GET", f"/raycronjobs/{name}")

    def in_series(self, series: str) -> list[dict[str, Any]]:
        """Every RayJob of `series`."""
        query = urllib.parse.urlencode({"labelSelector": f"{SERIES}={series}"})
        return self._call("GET", f"/rayjobs?{query}")["items"]

    def create(self, rayjob: dict[str, Any]) -> None:
        self._call("POST", "/rayjobs", rayjob)

    def delete(self, name: str) -> None:
        self._call("DELETE", f"/rayjobs/{name}")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310  # https, to the API server that Kubernetes names
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=self.tls) as answer:  # noqa: S310
            return json.load(answer)


def finished(rayjob: dict[str, Any]) -> bool:
    """Whether it will do nothing more. One that the operator has not yet seen has no status, and is not."""
    return rayjob.get("status", {}).get("jobDeploymentStatus") in FINISHED


def made_of(
    template: dict[str, Any], name: str, labels: dict[str, str], changes: dict[str, Any]
) -> dict[str, Any]:
    """The RayJob `name` that does what `template` says, but for `changes` of its spec.

    Who may start it is left open (spec.suspend): a queue's controller says so, where there is one.
    """
    metadata = template["metadata"]
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if not k.startswith(_KUBECTLS)}
    return {
        "apiVersion": template["apiVersion"],
        "kind": "RayJob",
        "metadata": {
            "name": name,
            "labels": metadata.get("labels", {}) | labels,
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": template["spec"]["jobTemplate"] | changes,
    }


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one Job is to start."""

    template: str
    series: str
    job: str
    """The Kubernetes Job's name."""
    uid: str
    changes: dict[str, Any] = field(default_factory=dict)


def start(rayjobs: RayJobs, order: Start) -> int:
    """Start a RayJob, and forget finished ones beyond the newest KEEP; the exit code."""
    template = rayjobs.template(order.template)
    jobs = rayjobs.in_series(order.series)
    for job in jobs:
        if job["metadata"]["labels"].get(STARTED_BY) == order.uid:
            say(f"{job['metadata']['name']}: an earlier try has started it")
            return STARTED
    running = [job for job in jobs if not finished(job)]
    if running:
        states = ", ".join(
            f"{job['metadata']['name']} ({job.get('status', {}).get('jobDeploymentStatus') or 'new'})"
            for job in running
        )
        say(
            f"{order.job}: not started: {states} is not done; look at it with `kubectl describe rayjob`, or delete it"
        )
        return REFUSED
    name = order.job + SUFFIX
    if any(job["metadata"]["name"] == name for job in jobs):  # of a Job of this name that was there before
        name = f"{order.job}-{order.uid[:5]}{SUFFIX}"
    rayjobs.create(made_of(template, name, {SERIES: order.series, STARTED_BY: order.uid}, order.changes))
    say(f"{name}: started")
    jobs.sort(key=lambda job: job["metadata"]["creationTimestamp"])
    for job in jobs[: len(jobs) - KEEP] if len(jobs) > KEEP else []:
        rayjobs.delete(job["metadata"]["name"])
    return STARTED


def say(message: str) -> None:
    """To the pod's log."""
    print(message, flush=True)  # noqa: T201


def parse(words: list[str], environment: Mapping[str, str]) -> Start:
    """The command line and the Job that Kubernetes tells this pod of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("template", help="the RayCronJob whose jobTemplate is copied")
    parser.add_argument("--series", help="RayJobs of which one runs at a time (default: the template's)")
    parser.add_argument("--entrypoint", help="the RayJob's command instead of the template's")
    parser.add_argument("--backoff-limit", type=int, help="tries after the first one")
    parser.add_argument("--active-deadline-seconds", type=int, help="the longest that it may take")
    args = parser.parse_args(words)
    changes = {
        "entrypoint": args.entrypoint,
        "backoffLimit": args.backoff_limit,
        "activeDeadlineSeconds": args.active_deadline_seconds,
    }
    return Start(
        template=args.template,
        series=args.series or args.template,
        job=environment["JOB_NAME"],
        uid=environment["JOB_UID"],
        changes={key: value for key, value in changes.items() if value is not None},
    )


def main() -> int:
    """The command."""
    order = parse(sys.argv[1:], os.environ)
    try:
        return start(RayJobs.of_this_pod(), order)
    except urllib.error.HTTPError as error:
        say(f"{order.job}: {error.url}: HTTP {error.code}: {error.read(500).decode(errors='replace')}")
    except (OSError, ValueError) as error:
        say(f"{order.job}: the Kubernetes API does not answer: {error}")
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
