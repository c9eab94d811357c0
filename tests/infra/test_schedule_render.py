"""What `masklake schedule render` prints for Kubernetes keeps to the schemas and rules of infra/kuberay."""

from __future__ import annotations

from typing import Any

import pytest
from masklake.jobs.schedule.render import kubernetes as schedule_render

from tests.helpers.infra.hardening import violations
from tests.helpers.infra.manifests import Manifest, one, overlay, pods, problems


def render(name: str, gpus: int = 0) -> list[Manifest]:
    from masklake.jobs.schedule.store import Schedule

    schedule = Schedule(
        name=name,
        command=["segment", "s3://photos/", "s3://lake/", "--model", "demo"],
        cron="0 2 * * *",
        timezone="Europe/Berlin",
        retries=2,
        timeout=3600.0,
    )
    image = "registry.example.com/masklake:0.1.0-cuda"
    made: list[Manifest] = schedule_render.render_kubernetes(
        schedule, image=image, namespace="masklake", gpus=gpus
    )
    return made


@pytest.fixture(params=[0, 2], ids=["cpu", "gpu"])
def rendered(request: pytest.FixtureRequest) -> list[Manifest]:
    return render("nightly", request.param)


def test_kubernetes_and_kuberay_know_every_field(rendered: list[Manifest]) -> None:
    assert [line for manifest in rendered for line in problems(manifest)] == []


def test_its_pods_are_hardened(rendered: list[Manifest]) -> None:
    assert violations(rendered) == []


def test_it_uses_what_infra_kuberay_has_installed(rendered: list[Manifest]) -> None:
    installed = overlay("prod")
    accounts: set[Any] = {pod.spec["serviceAccountName"] for m in rendered for pod in pods(m)}
    for account in accounts:
        assert one(installed, "ServiceAccount", account)


def test_the_rayjob_is_a_template_that_the_cronjob_starts(rendered: list[Manifest]) -> None:
    rayjob, cronjob = rendered
    assert rayjob["spec"]["suspend"] is True
    (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == [rayjob["metadata"]["name"]]
    assert cronjob["spec"]["concurrencyPolicy"] == "Forbid"


def test_the_longest_name_that_is_taken_makes_a_rayjob() -> None:
    from masklake.pipeline.errors import UserError

    for length in range(60, 0, -1):
        try:
            cronjob = render("x" * length)[1]
        except UserError:
            continue
        assert len(cronjob["metadata"]["name"]) + 11 + 4 <= 47
        return
