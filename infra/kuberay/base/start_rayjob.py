"""Start a RayJob from its suspended template, unless the one before still runs.

A CronJob runs this: `python start_rayjob.py TEMPLATE`. It needs nothing but Python's library and the pod's own
service account. Exit codes: 0 started, or started by an earlier try of this Job; 1 the Kubernetes API failed, try
again; 3 refused, since a RayJob of this template is not done.
"""

import json
import os
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FROM = "masklake-template"
"""Label of every RayJob made here: the template's name."""
FINISHED = {"Complete", "Failed", "ValidationFailed"}
"""The jobDeploymentStatus of a RayJob that will do nothing more. Suspended is not among them: it may go on."""
KEEP = 7
"""Finished RayJobs that stay to be looked at; KubeRay removes their clusters, but never they themselves."""
SUFFIX = "-ray"
"""KubeRay gives its submitter, a Kubernetes Job, the RayJob's name: this Job's own would be taken for it."""
STARTED, FAILED, REFUSED = 0, 1, 3

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class RayJobs:
    """The RayJobs of one namespace, over the Kubernetes API."""

    url: str
    """`https://HOST:PORT/apis/ray.io/v1/namespaces/NAMESPACE/rayjobs`"""
    token: str = field(repr=False)
    tls: ssl.SSLContext | None = None

    @classmethod
    def of_this_pod(cls) -> "RayJobs":
        """By the service account that Kubernetes mounts into the pod."""
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        host = f"[{host}]" if ":" in host else host
        namespace = (_ACCOUNT / "namespace").read_text().strip()
        return cls(
            url=f"https://{host}:{port}/apis/ray.io/v1/namespaces/{namespace}/rayjobs",
            token=(_ACCOUNT / "token").read_text().strip(),
            tls=ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt")),
        )

    def get(self, name: str) -> dict[str, Any]:
        return self._call("GET", f"/{name}")

    def made_from(self, template: str) -> list[dict[str, Any]]:
        """Every RayJob that was started from `template`."""
        query = urllib.parse.urlencode({"labelSelector": f"{FROM}={template}"})
        return self._call("GET", f"?{query}")["items"]

    def create(self, rayjob: dict[str, Any]) -> None:
        self._call("POST", "", rayjob)

    def delete(self, name: str) -> None:
        self._call("DELETE", f"/{name}")

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


def copy_of(template: dict[str, Any], name: str) -> dict[str, Any]:
    """The RayJob `name` that does what `template` says."""
    labels = template["metadata"].get("labels", {})
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {"name": name, "labels": labels | {FROM: template["metadata"]["name"]}},
        "spec": template["spec"] | {"suspend": False},
    }


def start(rayjobs: RayJobs, template_name: str, name: str) -> int:
    """Start RayJob `name`, and forget finished ones beyond the newest KEEP; the exit code."""
    template = rayjobs.get(template_name)
    made = rayjobs.made_from(template_name)
    if any(job["metadata"]["name"] == name for job in made):
        say(f"{name}: an earlier try has started it")
        return STARTED
    running = [job for job in made if not finished(job)]
    if running:
        states = ", ".join(
            f"{job['metadata']['name']} ({job.get('status', {}).get('jobDeploymentStatus') or 'new'})"
            for job in running
        )
        say(
            f"{name}: not started: {states} is not done; look at it with `kubectl describe rayjob`, or delete it"
        )
        return REFUSED
    rayjobs.create(copy_of(template, name))
    say(f"{name}: started")
    made.sort(key=lambda job: job["metadata"]["creationTimestamp"])
    for job in made[: len(made) - KEEP] if len(made) > KEEP else []:
        rayjobs.delete(job["metadata"]["name"])
    return STARTED


def say(message: str) -> None:
    """To the pod's log."""
    print(message, flush=True)  # noqa: T201


def main() -> int:
    """The command."""
    template, name = sys.argv[1], os.environ["JOB_NAME"] + SUFFIX
    try:
        return start(RayJobs.of_this_pod(), template, name)
    except urllib.error.HTTPError as error:
        say(f"{name}: {error.url}: HTTP {error.code}: {error.read(500).decode(errors='replace')}")
    except (OSError, ValueError) as error:
        say(f"{name}: the Kubernetes API does not answer: {error}")
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
