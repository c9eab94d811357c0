"""`masklake submit`: segment, train or eval on a Ray cluster, through its job server."""

from __future__ import annotations

import argparse
import re
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.command import Command
from masklake.jobs.options.declare import Options, argument, flag, option
from masklake.jobs.submit.job_server import ADDRESS_HELP
from masklake.jobs.terminal.text import note
from masklake.pipeline.errors import UserError
from masklake.pipeline.words import counted

if TYPE_CHECKING:
    from masklake.jobs.submit.job_server import JobServer

SUMMARY = "run segment, train or eval on a Ray cluster; masklake jobs looks after it"
DESCRIPTION = """\
Run a command on a Ray cluster instead of on this machine, by Ray Jobs. The command is checked on this machine first. Then
this machine's Masklake is sent to the cluster, and the job's id is printed. The nodes need the packages that Masklake
depends on (requirements.lock), and the same Ray and Python as this machine. With --image-has-it nothing is sent, and the
Masklake that is installed on the nodes runs.

No environment variable is sent but those of --env. The job uses the credentials of the nodes; an argument with a credential
in it is refused. Paths of this machine are refused, too: the nodes must be able to read the source and write the lake.

For a cluster with a token (RAY_AUTH_MODE=token) set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."""
EPILOG = """\
examples:
  masklake submit --address http://head:8265 segment s3://photos/2026/ s3://lake
  masklake submit --address http://head:8265 --wait train s3://lake --promote --gpus 2
  export RAY_API_SERVER_ADDRESS=http://head:8265
  masklake submit segment s3://photos/ s3://lake --resume last
  masklake jobs
  masklake jobs logs segment-20261125T130501-a1b2c3 -f
  masklake jobs stop segment-20261125T130501-a1b2c3        # the run stays resumable

exit codes: 0 submitted · 2 a mistake, which the message names · with --wait: those of the command, 1 if it could not start,
130 if it was stopped (Ctrl-C ends only the waiting; SIGTERM stops the job, too)"""

_SECRET_NAME = re.compile(r"(?i)key|secret|token|passw|credential|auth")


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if _SECRET_NAME.search(name):
        raise argparse.ArgumentTypeError(
            f"{name} looks like a secret, which anyone who sees the cluster's jobs could read; set it where Ray is started"
        )
    return name, value


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(Options):
    """The options of `masklake submit`."""

    address: str | None = option(str, "URL", help=ADDRESS_HELP)
    wait: bool = flag(help="wait for the job: print its output, and exit with its exit code")
    image_has_it: bool = flag(help="do not send this machine's code; the nodes have `masklake` on their PATH")
    shared_files: bool = flag(
        help="allow absolute paths: they are the same on every node (a shared file system)"
    )
    env: tuple[tuple[str, str], ...] = option(
        _setting, "NAME=VALUE", default=(), repeated=True,
        help="set an environment variable of the job, for example AWS_REGION=eu-west-1; not for secrets: everyone who sees the "
        "cluster's jobs can read them",
    )  # fmt: skip
    command: tuple[str, ...] = argument(
        "COMMAND …",
        nargs=argparse.REMAINDER,
        default=(),
        help="segment, train or eval, with its arguments and options",
    )


def run(options: SubmitOptions) -> int:
    """Submit a job. Raises UserError for a mistake; with --wait the exit code of the job."""
    from masklake.jobs.submit.job_server import JobServer
    from masklake.jobs.submit.remote_command import refuse_secrets, understood
    from masklake.pipeline.lake.record import new_run_id

    order = understood(list(options.command), shared_files=options.shared_files)
    if options.address and order.address and options.address != order.address:
        raise UserError(f"--address: {options.address} or {order.address}? give it once")
    refuse_secrets([value for _, value in options.env])
    server = JobServer(options.address or order.address)
    if not options.image_has_it:
        server.require_same_versions()
    if order.gpus:
        _tell_of_gpus(server, order.gpus)
    job = f"{order.command[0]}-{new_run_id()}"
    entrypoint = order.entrypoint(installed=options.image_has_it)
    metadata = {"command": order.text()}
    with tempfile.TemporaryDirectory() as folder:
        server.submit(job, entrypoint, _runtime_env(options, Path(folder)), metadata)
    address_option = server.option
    if not options.wait:
        print(job, flush=True)  # noqa: T201  # for $(…)
        note(f"submitted: {order.text()}")
        note(f"follow it: masklake jobs logs {job} -f{address_option}")
        note(f"stop it: masklake jobs stop {job}{address_option}")
        return ExitCode.DONE
    note(f"submitted as {job}: {order.text()}")
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        return waited(server, job)
    except _Terminated:  # as `masklake schedule` ends a job that takes too long: what it started ends with it
        server.stop(job)
        note(f"{job} is asked to stop; masklake jobs status {job}{server.option}")
        return ExitCode.STOPPED
    finally:
        signal.signal(signal.SIGTERM, before)


COMMAND = Command(
    summary=SUMMARY,
    description=DESCRIPTION,
    epilog=EPILOG,
    usage="[--address URL] [options] segment|train|eval …",
    options=SubmitOptions,
    run=run,
)


class _Terminated(BaseException):  # no error, and not for anyone to catch on its way
    """SIGTERM came."""


def _terminated(*_: object) -> None:
    raise _Terminated


def _tell_of_gpus(server: JobServer, requested: int) -> None:
    """Say that the cluster has fewer GPUs than asked for: that is no mistake where it makes their nodes when a job asks."""

    gpus, nodes = server.gpus()
    if gpus < requested:
        note(
            f"--gpus {requested}: the cluster has {counted(gpus, 'GPUs')} on {counted(nodes, 'nodes')}; the job waits until nodes with GPUs join (an "
            "autoscaler's, or `ray start`). If none will: stop it, and submit it with --gpus 0"
        )


def _runtime_env(options: SubmitOptions, folder: Path) -> dict[str, Any]:
    from masklake.jobs.submit.job_server import STOP_WAIT_S
    from masklake.jobs.submit.package import package

    settings = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **dict(options.env)}
    if options.image_has_it:
        return {"env_vars": settings}
    return {"env_vars": settings, "working_dir": str(package(folder))}


def waited(server: JobServer, job: str) -> int:
    """Follow a job to its end: its exit code. Raises UserError when the cluster has gone."""
    from masklake.jobs.submit import follow

    address_option = server.option
    try:
        info = follow.follow(server, job)
    except KeyboardInterrupt:
        note(
            f"{job} goes on; masklake jobs logs {job} -f{address_option}, masklake jobs stop {job}{address_option}"
        )
        return ExitCode.STOPPED
    if info.status == "FAILED":
        note(f"{job} failed: {follow.reason(info)}")
    elif info.status == "STOPPED":
        note(f"{job} was stopped")
    return follow.exit_code(info)
