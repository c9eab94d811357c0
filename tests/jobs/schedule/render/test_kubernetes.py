"""`masklake schedule render`: what of a schedule goes into manifests (tests/infra holds them to schemas), and units."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from masklake.jobs.schedule.render.kubernetes import kubernetes_cron, render_kubernetes
from masklake.jobs.schedule.render.systemd import render_systemd
from masklake.jobs.schedule.store import Schedule, Store
from masklake.pipeline.errors import UserError


def nightly(**values: Any) -> Schedule:
    command = ["segment", "s3://photos/2026 07/", "s3://lake", "--model", "production"]
    return Schedule(**{"name": "nightly", "command": command, "cron": "0 2 * * 1-5"} | values)


def _start(manifest: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The template that its pod copies, and what differs from it."""
    (container,) = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    template, *options = container["args"]
    return template, dict(option.removeprefix("--").split("=", 1) for option in options)


def _command(manifest: dict[str, Any]) -> str:
    """The masklake command in its entrypoint."""
    bash, c, script = shlex.split(_start(manifest)[1]["entrypoint"])
    assert (bash, c) == ("bash", "-c")
    return script.partition("; ")[0]


def test_a_schedule_becomes_a_cronjob_that_starts_a_rayjob() -> None:
    schedule = nightly(timezone="Europe/Berlin", retries=2, timeout=3600.0, deadline=7200.0, paused=True)
    cronjob = render_kubernetes(schedule, image="masklake:1", namespace="lake")
    assert cronjob["metadata"] | {"labels": None} == {
        "name": "schedule-nightly",
        "namespace": "lake",
        "labels": None,
    }
    template, options = _start(cronjob)
    assert template == "masklake-segment"
    assert _command(cronjob) == (
        "masklake segment 's3://photos/2026 07/' s3://lake --model production --address auto --lock segment"
    )
    del options["entrypoint"]
    assert options == {
        "series": "schedule-nightly",
        "backoff-limit": "2",
        "active-deadline-seconds": "3600",
    }
    cron = cronjob["spec"]
    assert (cron["schedule"], cron["timeZone"], cron["suspend"]) == (
        "0 2 * * 1,2,3,4,5",
        "Europe/Berlin",
        True,
    )
    assert (cron["concurrencyPolicy"], cron["startingDeadlineSeconds"]) == ("Forbid", 7200)


def test_a_training_runs_on_a_cluster_for_trainings() -> None:
    manifest = render_kubernetes(nightly(command=["train", "s3://lake", "--promote"]))
    assert _start(manifest)[0] == "masklake-train"


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1), (3, 3), (75, 0)])
def test_a_refusal_by_the_lock_makes_no_new_cluster(code: int, ends: int, tmp_path: Path) -> None:
    fake = tmp_path / "masklake"
    fake.write_text(f"#!/bin/sh\nexit {code}\n")
    fake.chmod(0o755)
    entrypoint = _start(render_kubernetes(nightly()))[1]["entrypoint"]
    process = subprocess.run(["sh", "-c", entrypoint], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert process.returncode == ends


def test_an_address_that_is_given_stays() -> None:
    schedule = nightly(command=["segment", "s3://p/", "s3://lake", "--address", "ray://h:1"])
    assert _command(render_kubernetes(schedule, gpus=3)).endswith("--address ray://h:1 --lock segment")


def test_a_job_counts_on_the_gpus_that_it_may_have() -> None:
    assert "--gpus" not in _command(render_kubernetes(nightly()))
    gpus = render_kubernetes(nightly(), gpus=2)
    assert _command(gpus).endswith("--address auto --gpus 2 --lock segment")
    command = ["segment", "s3://p/", "s3://lake", "--gpus", "1"]
    manifest = render_kubernetes(nightly(command=command), gpus=2)
    assert _command(manifest).endswith("--gpus 1 --address auto --lock segment")


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"cron": "*/15 * * * *"}, "0,15,30,45 * * * *"),
        ({"cron": "@weekly"}, "0 0 * * 0"),
        ({"cron": "0 0 * * 7"}, "0 0 * * 0"),
        ({"cron": "0 0 1 * fri-sun"}, "0 0 1 * 0,5,6"),
        ({"cron": None, "every": 900}, "*/15 * * * *"),
        ({"cron": None, "every": 60}, "* * * * *"),
        ({"cron": None, "every": 3600}, "0 * * * *"),
        ({"cron": None, "every": 21600}, "0 */6 * * *"),
        ({"cron": None, "every": 86400}, "0 0 * * *"),
    ],
)
def test_times_as_kubernetes_reads_them(when: dict[str, Any], expected: str) -> None:
    assert kubernetes_cron(nightly(**when)) == expected


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ({"cron": "*/30 * * * * *"}, "has seconds"),
        ({"cron": None, "every": 30}, "every 30 s is no time of a CronJob"),
        ({"cron": None, "every": 7 * 60}, "every 420 s is no time"),
        ({"cron": "0 0 */2 * mon"}, "otherwise than cron"),
        ({"command": ["segment", "s3://p/", "/srv/lake"]}, "the lake /srv/lake is a folder"),
        ({"command": ["segment", "s3://p/", "lake"], "cwd": "/srv"}, "the lake /srv/lake is a folder"),
        ({"name": "n" * 24}, "leaves KubeRay no room (32 characters)"),
    ],
)
def test_what_kubernetes_cannot_have_is_refused(values: dict[str, Any], answer: str) -> None:
    with pytest.raises(UserError, match="schedule 'n") as error:
        render_kubernetes(nightly(**values))
    assert answer in str(error.value)


def test_manifests_are_printed_as_yaml(
    masklake: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    masklake(
        "schedule",
        "add",
        "n",
        "--cron",
        "0 2 * * *",
        "--store",
        "s.db",
        "--",
        "segment",
        "s3://p/",
        "s3://lake",
    )
    code, out, _ = masklake(
        "schedule", "render", "n", "--store", "s.db", "--image", "m:1", "--namespace", "lake"
    )
    assert code == 0
    assert yaml.safe_load(out)["kind"] == "CronJob"
    code, out, _ = masklake("schedule", "render", "n", "--store", "s.db", "--target", "systemd")
    assert (code, "# masklake-n.service" in out, "OnCalendar=*-*-* 02:00:00 UTC" in out) == (0, True, True)


@pytest.mark.parametrize(
    ("when", "times"),
    [
        (
            {"cron": "0 2 * * 1-5", "timezone": "Europe/Berlin"},
            ["OnCalendar=Mon,Tue,Wed,Thu,Fri *-*-* 02:00:00 Europe/Berlin"],
        ),
        ({"cron": "*/30 5 6 7 1,7 *"}, ["OnCalendar=*-01,07-07 06:05:00,30 UTC"]),
        ({"cron": "0 0 13 * 5"}, ["OnCalendar=*-*-13 00:00:00 UTC", "OnCalendar=Fri *-*-* 00:00:00 UTC"]),
        ({"cron": None, "every": 30}, ["OnActiveSec=0", "OnUnitActiveSec=30"]),
    ],
)
def test_units_fire_at_the_same_times(when: dict[str, Any], times: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path / "a folder, 100% $HOME" / "s.db")
    files = render_systemd(nightly(**when), store)
    assert files.keys() == {"masklake-nightly.service", "masklake-nightly.timer"}
    timer = files["masklake-nightly.timer"].splitlines()
    assert [line for line in timer if line.startswith(("OnCal", "OnAct", "OnUnit"))] == times
    assert 'a folder, 100%% $$HOME/s.db"' in files["masklake-nightly.service"]
    if shutil.which("systemd-analyze"):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        paths = [tmp_path / name for name in files]
        process = subprocess.run(
            ["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False
        )
        assert (process.returncode, process.stderr) == (0, "")
