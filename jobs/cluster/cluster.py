"""Ray, embedded in this process or joined."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from masklake.jobs.cluster.gpus import noting_missing_gpus
from masklake.jobs.cluster.start import clearing_session, started_twice
from masklake.pipeline.errors import OutageError, UserError

_OBJECT_STORE_BYTES = 2 * 2**30
_MEMORY_SHARE = 0.25
_WORKERS_KEPT_MS = 600_000
_ANSWER_S = 10.0


@dataclass(frozen=True)
class Cluster:
    """The resources of the Ray cluster."""

    cpus: int
    gpus: int
    memory: float
    """Bytes that Ray gives to workers."""
    node_cpus: int
    """CPUs of the smallest node that has any."""


@contextlib.contextmanager
def ray_cluster(address: str | None, gpus: int | None) -> Iterator[Cluster]:
    """Ray for the length of the block: a cluster joined at `address`, or one started inside this process.

    An embedded Ray listens on the loopback only, and serves this run only. In a cluster that is joined, `gpus` is taken as
    given, even if its nodes are not there yet: Ray starts them, or waits, and the user gets a note. Raises UserError
    when the cluster cannot be reached, or this machine has fewer GPUs than `gpus`.
    """
    # Ray reads these when it is first imported.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not address:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray's core reads it once a process
        # Ray ends a worker that was idle for a second, and starts another, which imports everything again.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(_WORKERS_KEPT_MS))
    import ray
    import ray.data  # sets its own log levels when imported

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    common: dict[str, Any] = {
        "job_config": _own_code(),
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    try:
        if address:
            _require_answer(address)
            with _silent_stderr():
                ray.init(address=address, **common)
        else:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

            def start() -> None:
                with _silent_stderr(), _loopback_only():
                    ray.init(
                        address="local",  # not whatever cluster `ray start` or RAY_ADDRESS has left on this machine
                        include_dashboard=False,
                        num_gpus=0 if gpus == 0 else None,  # a number given would be believed
                        object_store_memory=int(min(_OBJECT_STORE_BYTES, total * _MEMORY_SHARE)),
                        _node_ip_address="127.0.0.1",
                        **common,
                    )

            started_twice(start)
    except Exception as error:  # Ray raises bare Exceptions, too
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if not address:
            raise OutageError(
                f"Ray does not start in this process ({reason}); is there memory and disk space, and is the machine not too busy?"
            ) from error
        raise OutageError(
            f"--address {address}: cannot join the cluster ({reason}); check the address, and RAY_AUTH_MODE and RAY_AUTH_TOKEN"
        ) from error
    with contextlib.nullcontext() if address else clearing_session():
        try:
            resources = ray.cluster_resources()
            cpus = max(1, int(resources.get("CPU", 1)))
            nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
            cluster = Cluster(
                cpus=cpus,
                gpus=int(resources.get("GPU", 0)),
                memory=resources.get("memory", math.inf),
                node_cpus=min(filter(None, nodes), default=cpus),
            )
            if gpus is None:
                yield cluster
            elif address:
                with noting_missing_gpus(gpus, lambda: int(ray.cluster_resources().get("GPU", 0))):
                    yield replace(cluster, gpus=gpus)
            elif cluster.gpus < gpus:
                raise UserError(
                    f"--gpus {gpus}: Ray has {cluster.gpus} GPUs; ask for fewer, or join a cluster by --address"
                )
            else:
                yield replace(cluster, gpus=gpus)
        finally:
            ray.shutdown()


def _own_code() -> Any:
    """A job whose workers import what is installed, and nothing that lies where the command is run.

    Ray puts the driver's working directory and its script's before all else on the workers' path, unless the job has a
    working_dir: then a `torch.py` or a `jobs/` there would be run in place of the one meant. A working_dir of our own
    would do it as well, and cost each start an upload.
    """
    from ray.job_config import JobConfig

    class OwnCode(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return OwnCode()


def _require_answer(address: str) -> None:
    """Raise OSError when nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Bind Ray's servers to 127.0.0.1.

    Ray turns a loopback address into the machine's own before it binds, and has no option against that.
    """
    import ray._private.services as services

    with mock.patch.object(services, "resolve_ip_for_localhost", lambda host: host):
        yield


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what native code writes to the terminal: Ray's core announces its log level whatever that is.
    Errors of `ray.init` come as exceptions."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
