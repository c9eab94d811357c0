"""What `masklake schedule render` prints for Kubernetes is the CronJob of infra/kuberay with the schedule's own values."""

from __future__ import annotations

import copy

import pytest
from masklake.jobs.schedule.render.kubernetes import render_kubernetes
from masklake.jobs.schedule.store import Schedule
from masklake.pipeline.errors import UserError

from tests.helpers.infra.hardening import violations
from tests.helpers.infra.manifests import Manifest, one, overlay, problems
from tests.helpers.infra.start_rayjob import start_rayjob


def render(name: str, gpus: int = 0) -> Manifest:
    schedule = Schedule(
        name=name,
        command=["segment", "s3://photos/", "s3://lake/", "--model", "demo"],
        cron="0 2 * * *",
        timezone="Europe/Berlin",
        retries=2,
        timeout=3600.0,
    )
    image = "registry.example.com/masklake:0.1.0-cuda"
    return render_kubernetes(schedule, image=image, namespace="masklake", gpus=gpus)


@pytest.fixture(params=[0, 2], ids=["cpu", "gpu"])
def rendered(request: pytest.FixtureRequest) -> Manifest:
    return render("nightly", request.param)


def test_kubernetes_knows_every_field_and_its_pod_is_hardened(rendered: Manifest) -> None:
    assert problems(rendered) == []
    assert violations([rendered]) == []


def test_it_is_the_installed_cronjob_but_for_its_name_times_and_command(rendered: Manifest) -> None:
    def plain(cronjob: Manifest) -> Manifest:
        spec = {k: v for k, v in cronjob["spec"].items() if k not in ITS_OWN}
        template = copy.deepcopy(spec["jobTemplate"])
        (container,) = template["spec"]["template"]["spec"]["containers"]
        container["image"] = container["args"] = None
        labels = cronjob["metadata"]["labels"]
        return {"labels": labels, "spec": spec | {"jobTemplate": template}}

    assert plain(rendered) == plain(one(overlay("prod"), "CronJob", "masklake-segment"))


ITS_OWN = {"schedule", "timeZone", "suspend", "startingDeadlineSeconds"}


def test_what_it_uses_is_installed(rendered: Manifest) -> None:
    installed = overlay("prod")
    pod = rendered["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert one(installed, "ServiceAccount", pod["serviceAccountName"])
    (container,) = pod["containers"]
    assert one(installed, "RayCronJob", container["args"][0])
    (script,) = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    assert "start_rayjob.py" in one(installed, "ConfigMap", script)["data"]


def test_start_rayjob_understands_its_arguments(rendered: Manifest) -> None:
    (container,) = rendered["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    order = start_rayjob.parse(container["args"], {"JOB_NAME": "schedule-nightly-1", "JOB_UID": "u"})
    assert (order.series, order.changes["backoffLimit"]) == ("schedule-nightly", 2)
    assert order.changes["entrypoint"].startswith("bash -c ")


def test_the_longest_name_that_is_taken_makes_a_rayjob() -> None:
    for length in range(60, 0, -1):
        try:
            cronjob = render("x" * length)
        except UserError:
            continue
        assert len(cronjob["metadata"]["name"]) + 11 + 4 <= 47
        return
