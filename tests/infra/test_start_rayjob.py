"""start_rayjob.py against an API server that keeps RayJobs in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.helpers.infra.manifests import one, overlay, problems
from tests.helpers.infra.start_rayjob import SCRIPT, start_rayjob

PATH = "/apis/ray.io/v1/namespaces/masklake"
TOKEN = "of-the-service-account"


class Kubernetes(ThreadingHTTPServer):
    """As much of the API as the script uses."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        template = one(overlay("prod"), "RayCronJob", "masklake-train")
        self.templates: dict[str, dict[str, Any]] = {"masklake-train": template}
        self.rayjobs: dict[str, dict[str, Any]] = {}
        self.count = 0
        self.fails = False

    def add(self, name: str, state: str | None, template: str = "masklake-train") -> None:
        """A RayJob that was started before; `state` None: the operator has not seen it yet."""
        self.keep(
            {
                "metadata": {
                    "name": name,
                    "labels": {"masklake-template": template, "masklake-job-uid": f"uid of {name}"},
                },
                "status": {} if state is None else {"jobDeploymentStatus": state},
            }
        )

    def keep(self, rayjob: dict[str, Any]) -> None:
        self.count += 1
        rayjob["metadata"]["creationTimestamp"] = f"2026-11-25T00:00:{self.count:02}Z"
        self.rayjobs[rayjob["metadata"]["name"]] = rayjob


class _Handler(BaseHTTPRequestHandler):
    server: Kubernetes

    def _answer(self, code: int, body: Any) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def _refused(self) -> bool:
        if self.server.fails:
            self._answer(503, {"message": "etcd is away"})
            return True
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {"message": "Unauthorized"})
            return True
        return False

    def do_GET(self) -> None:
        if self._refused():
            return
        url = urllib.parse.urlsplit(self.path)
        if url.path == f"{PATH}/rayjobs":
            (selector,) = urllib.parse.parse_qs(url.query)["labelSelector"]
            key, value = selector.split("=")
            rayjobs = [
                j for j in self.server.rayjobs.values() if j["metadata"].get("labels", {}).get(key) == value
            ]
            self._answer(200, {"items": rayjobs})
            return
        name = url.path.removeprefix(f"{PATH}/raycronjobs/")
        template = self.server.templates.get(name)
        self._answer(200 if template else 404, template or {"message": f"{name} not found"})

    def do_POST(self) -> None:
        if self._refused():
            return
        rayjob = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if rayjob["metadata"]["name"] in self.server.rayjobs:
            self._answer(409, {"message": "AlreadyExists"})
            return
        self.server.keep(rayjob)
        self._answer(201, rayjob)

    def do_DELETE(self) -> None:
        if self._refused():
            return
        self._answer(200, self.server.rayjobs.pop(self.path.removeprefix(f"{PATH}/rayjobs/")))

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def kubernetes() -> Iterator[Kubernetes]:
    server = Kubernetes()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def rayjobs(kubernetes: Kubernetes) -> Any:
    return start_rayjob.RayJobs(url=f"http://127.0.0.1:{kubernetes.server_port}{PATH}", token=TOKEN)


JOB = "masklake-train-29401920"
MADE = f"{JOB}-ray"


def start(rayjobs: Any, job: str = JOB, uid: str = "6f1c2d3e-0", words: list[str] | None = None) -> int:
    """What the pod of the Kubernetes Job `job` does."""
    order = start_rayjob.parse(words or ["masklake-train"], {"JOB_NAME": job, "JOB_UID": uid})
    code: int = start_rayjob.start(rayjobs, order)
    return code


def test_a_rayjob_is_made_from_the_template_and_runs(kubernetes: Kubernetes, rayjobs: Any) -> None:
    assert start(rayjobs) == 0
    rayjob = kubernetes.rayjobs[MADE]
    template = kubernetes.templates["masklake-train"]
    assert rayjob["kind"] == "RayJob"
    assert rayjob["spec"] == template["spec"]["jobTemplate"]
    assert rayjob["metadata"]["labels"]["masklake-template"] == "masklake-train"
    assert rayjob["metadata"]["labels"]["masklake-job-uid"] == "6f1c2d3e-0"
    assert "masklake-template" not in template["metadata"]["labels"]
    del rayjob["metadata"]["creationTimestamp"]
    assert problems(rayjob) == []


def test_queue_and_priority_pass_on_to_the_rayjob(kubernetes: Kubernetes, rayjobs: Any) -> None:
    """And whether it is suspended is left to the queue's controller."""
    metadata = kubernetes.templates["masklake-train"]["metadata"]
    metadata["labels"] |= {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "nightly"}
    metadata["annotations"] = {"cost-centre": "7", "kubectl.kubernetes.io/last-applied-configuration": "{}"}
    assert start(rayjobs) == 0
    rayjob = kubernetes.rayjobs[MADE]
    assert rayjob["metadata"]["labels"].items() >= metadata["labels"].items()
    assert rayjob["metadata"]["annotations"] == {"cost-centre": "7"}
    assert "suspend" not in rayjob["spec"]


def test_a_schedule_says_what_differs_from_the_template(kubernetes: Kubernetes, rayjobs: Any) -> None:
    kubernetes.add("masklake-train-29400480-ray", "Running")  # of the template's own series
    words = ["masklake-train", "--series", "schedule-mine", "--entrypoint", "masklake train s3://lake/"]
    assert start(rayjobs, words=[*words, "--backoff-limit", "0", "--active-deadline-seconds", "60"]) == 0
    rayjob = kubernetes.rayjobs[MADE]
    assert rayjob["metadata"]["labels"]["masklake-template"] == "schedule-mine"
    assert rayjob["spec"]["entrypoint"] == "masklake train s3://lake/"
    assert (rayjob["spec"]["backoffLimit"], rayjob["spec"]["activeDeadlineSeconds"]) == (0, 60)
    assert rayjob["spec"]["rayClusterSpec"]


@pytest.mark.parametrize("state", [None, "Initializing", "Running", "Suspended", "Retrying", "Waiting"])
def test_it_refuses_while_the_one_before_is_not_done(
    kubernetes: Kubernetes, rayjobs: Any, state: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    kubernetes.add("masklake-train-29400480", state)
    assert start(rayjobs) == 75
    assert MADE not in kubernetes.rayjobs
    assert "masklake-train-29400480" in capsys.readouterr().out


@pytest.mark.parametrize("state", ["Complete", "Failed", "ValidationFailed"])
def test_one_that_is_done_is_no_hindrance(kubernetes: Kubernetes, rayjobs: Any, state: str) -> None:
    kubernetes.add("masklake-train-29400480", state)
    assert start(rayjobs) == 0
    assert MADE in kubernetes.rayjobs


def test_rayjobs_of_other_templates_are_no_hindrance(kubernetes: Kubernetes, rayjobs: Any) -> None:
    kubernetes.add("masklake-segment-1", "Running", template="masklake-segment")
    assert start(rayjobs) == 0


def test_a_pod_that_is_tried_again_finds_what_the_first_one_made(
    kubernetes: Kubernetes, rayjobs: Any
) -> None:
    assert start(rayjobs) == 0
    assert start(rayjobs) == 0
    assert kubernetes.count == 1


def test_a_second_job_of_the_same_name_starts_another(kubernetes: Kubernetes, rayjobs: Any) -> None:
    """`kubectl delete job segment-now`, and the documented command again: the finished RayJob is still there."""
    assert start(rayjobs, "train-now", "11111111-aaaa") == 0
    assert start(rayjobs, "train-now", "22222222-bbbb") == 75  # the first one is not done
    kubernetes.rayjobs["train-now-ray"]["status"] = {"jobDeploymentStatus": "Complete"}
    assert start(rayjobs, "train-now", "22222222-bbbb") == 0
    assert start(rayjobs, "train-now", "22222222-bbbb") == 0
    assert kubernetes.rayjobs.keys() == {"train-now-ray", "train-now-22222-ray"}


def test_only_the_newest_finished_ones_are_kept(kubernetes: Kubernetes, rayjobs: Any) -> None:
    for number in range(9):
        kubernetes.add(f"old-{number}", "Complete")
    kubernetes.add("masklake-segment-1", "Complete", template="masklake-segment")
    assert start(rayjobs) == 0
    assert sorted(kubernetes.rayjobs) == [
        "masklake-segment-1", MADE, *[f"old-{n}" for n in range(2, 9)]
    ]  # fmt: skip


def test_a_missing_template_is_an_error_of_the_api(rayjobs: Any) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        start(rayjobs, words=["masklake-nothing"])


def test_the_command_asks_to_be_tried_again_when_the_api_fails(
    kubernetes: Kubernetes, rayjobs: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start_rayjob.RayJobs, "of_this_pod", lambda: rayjobs)
    monkeypatch.setattr(sys, "argv", ["start_rayjob.py", "masklake-train"])
    monkeypatch.setenv("JOB_NAME", "masklake-train-1")
    monkeypatch.setenv("JOB_UID", "1")
    kubernetes.fails = True
    assert start_rayjob.main() == 1
    assert "etcd is away" in capsys.readouterr().out
    kubernetes.fails = False
    assert start_rayjob.main() == 0


def test_the_rayjob_is_not_named_as_the_job_that_starts_it(
    kubernetes: Kubernetes, rayjobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KubeRay would take that Job for its own submitter, and never submit."""
    monkeypatch.setattr(start_rayjob.RayJobs, "of_this_pod", lambda: rayjobs)
    monkeypatch.setattr(sys, "argv", ["start_rayjob.py", "masklake-train"])
    monkeypatch.setenv("JOB_NAME", JOB)
    monkeypatch.setenv("JOB_UID", "1")
    assert start_rayjob.main() == 0
    assert kubernetes.rayjobs.keys() == {MADE}
    assert MADE != JOB


def test_it_needs_nothing_but_pythons_library() -> None:
    code = f"import runpy; runpy.run_path({str(SCRIPT)!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
