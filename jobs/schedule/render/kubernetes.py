"""`masklake schedule render`: a schedule as a manifest for Kubernetes, or as systemd units.

For Kubernetes it is one object beside what infra/kuberay installs in the namespace: a CronJob, which is that of
infra/kuberay/base/nightly with the schedule's own name, times and command. It starts copies of an installed RayJob's
template, so its clusters are as large, as cheap and as safe as those of the nightly jobs.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.jobs.schedule.options import ScheduleRenderOptions
    from masklake.jobs.schedule.store import Schedule, Store

_TIMEOUT_S = 43200
_LONGEST_NAME = 32
"""KubeRay takes 47 characters for a RayJob; its name is the Job's, which adds 11 to the CronJob's, and -ray."""
_CRONJOB = Path(__file__).with_name("cronjob.yaml")  # a link to infra/kuberay/base/nightly/cronjob.yaml
_TEMPLATES = {"train": "masklake-train"}
_TEMPLATE = "masklake-segment"
"""The installed template whose cluster other commands run on."""


def render(options: ScheduleRenderOptions, store: Store) -> int:
    """Print the manifests. Raises UserError for a schedule that the target cannot have."""
    import yaml
    from masklake.jobs.schedule.render.systemd import render_systemd

    schedule = store.schedule(options.name)
    if options.target == "systemd":
        for name, text in render_systemd(schedule, store).items():
            sys.stdout.write(f"# {name}\n{text}\n")
        return ExitCode.DONE
    manifest = render_kubernetes(
        schedule, image=options.image, namespace=options.namespace, gpus=options.gpus
    )
    sys.stdout.write(
        "# For a namespace with infra/kuberay. The failure hook is the daemon's, and not in it.\n"
    )
    sys.stdout.write(yaml.safe_dump(manifest, sort_keys=False, width=110))
    return ExitCode.DONE


def render_kubernetes(
    schedule: Schedule, *, image: str = "masklake", namespace: str | None = None, gpus: int = 0
) -> dict[str, Any]:
    """The CronJob that starts the schedule's command on a RayJob's cluster.

    Raises UserError for a schedule that Kubernetes cannot have: seconds, a lake that is a folder, …
    """
    import yaml

    manifest: dict[str, Any] = yaml.safe_load(_CRONJOB.read_text())
    name = _kubernetes_name(schedule.name)
    manifest["metadata"]["name"] = name
    if namespace:
        manifest["metadata"]["namespace"] = namespace
    manifest["spec"] |= {
        "schedule": kubernetes_cron(schedule),
        "timeZone": schedule.timezone,
        "suspend": schedule.paused,
        "startingDeadlineSeconds": max(10, int(schedule.deadline)),
    }
    (container,) = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    container["image"] = image
    container["args"] = [
        _TEMPLATES.get(schedule.command[0], _TEMPLATE),
        f"--series={name}",
        f"--entrypoint={_entrypoint(schedule, gpus)}",
        f"--backoff-limit={schedule.retries}",
        f"--active-deadline-seconds={int(schedule.timeout or _TIMEOUT_S)}",
    ]
    return manifest


def _kubernetes_name(name: str) -> str:
    kubernetes_name = re.sub(r"[^a-z0-9-]+", "-", f"schedule-{name}".lower()).strip("-")
    if len(kubernetes_name) > _LONGEST_NAME:
        raise UserError(
            f"schedule {name!r}: the name {kubernetes_name} leaves KubeRay no room ({_LONGEST_NAME} characters); name it shorter"
        )
    return kubernetes_name


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
    unset = job.options - job.explicit
    more = ["--address", "auto"] if "address" in unset else []
    if gpus and {"address", "gpus"} <= unset:  # else it would count on the one that is there at the start
        more += ["--gpus", str(gpus)]
    command = shlex.join(["masklake", *schedule.command, *more, *job.locking(schedule.lock)])
    # A refusal must not count as a failure: KubeRay would start a new cluster and try again.
    say_refused = 'echo "nothing done: another holder of the lock is at work"'
    return shlex.join(
        [
            "bash",
            "-c",
            f'{command}; code=$?; [ "$code" -ne {ExitCode.REFUSED} ] || {{ {say_refused}; code=0; }}; exit "$code"',
        ]
    )
