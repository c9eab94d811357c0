"""The job server of a Ray cluster; each of its errors becomes one line."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import shlex
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from masklake.jobs.terminal.text import elide, one_line
from masklake.pipeline.errors import OutageError, UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_PORT = 8265
_CONNECT_S = 10.0
_ANSWER_S = 60.0
STOP_WAIT_S = 60
"""Seconds that a job has to stop before the cluster kills it; Ray's own 3 s are too few to end a run well."""
ADDRESS_HELP = "the cluster's job server, http://HOST:8265 (default: RAY_API_SERVER_ADDRESS)"


class UnreachableError(OutageError):
    """The job server does not answer (any more)."""


def checked_address(address: str | None) -> str:
    """`address`, or that of the environment, as a URL. Raises UserError if it is not valid, or has a credential in it."""
    from masklake.jobs.submit.remote_command import refuse_secrets

    if address is None:
        address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not address:
        raise UserError(
            f"--address: is missing; give {ADDRESS_HELP.partition(' (')[0]}, or set RAY_API_SERVER_ADDRESS"
        )
    refuse_secrets([address])
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in ("http", "https") or address == "auto" or port == 0:
        raise UserError(
            f"--address {one_line(address)}: is not that of a job server; write http://HOST:{_PORT}, the dashboard's address"
        )
    if port is None and parts.scheme == "http":
        port = _PORT
    host_text = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host_text}" + (f":{port}" if port else "") + parts.path.rstrip("/")


class JobServer:
    """A connection to the job server at `address`. Raises UserError when it does not answer, or refuses the token."""

    def __init__(self, address: str | None) -> None:
        self.address = checked_address(address)
        self.option = "" if address is None else f" --address {shlex.quote(self.address)}"
        """The option that other commands need to find the server, with a space before it; empty if the environment names it."""
        # Ray uses these two instead of any argument, and reads the others when it is first imported.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        os.environ.pop("RAY_ADDRESS", None)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        self._require_answer()
        with self._explaining():
            self._client = _client(self.address)
            self._versions = self._get("/api/version")
        if not isinstance(self._versions, dict) or "ray_version" not in self._versions:
            raise self._stranger()

    def _require_answer(self) -> None:
        """Raise UserError when nothing listens at the address; Ray itself would wait for minutes."""
        parts = urlsplit(self.address)
        port = parts.port or (443 if parts.scheme == "https" else _PORT)
        try:
            socket.create_connection((cast(str, parts.hostname), port), timeout=_CONNECT_S).close()
        except OSError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> UnreachableError:
        reason = getattr(error, "strerror", None) or (
            "no answer in time" if isinstance(error, TimeoutError) else ""
        )
        return UnreachableError(
            f"{self.address}: the cluster's job server does not answer{f' ({reason.lower()})' if reason else ''}; check the "
            "address, that the head runs, and the tunnel or port-forward to it"
        )

    def _stranger(self) -> UserError:
        return UserError(
            f"{self.address}: what answers is no Ray job server; give the dashboard's address, http://HOST:{_PORT}"
        )

    @contextlib.contextmanager
    def _explaining(self, job: str | None = None) -> Iterator[None]:
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise UserError(f"{self.address}: {_refusal(str(error))}") from error
        except (requests.exceptions.JSONDecodeError, requests.exceptions.HTTPError) as error:
            raise self._stranger() from error
        except OSError as error:  # of requests, too
            raise self._unreachable(error) from error
        except (RuntimeError, ValueError) as error:
            reason = str(error)
            if job is not None and "404" in reason.partition(":")[0]:
                raise UserError(
                    f"job {job}: is not known at {self.address}; `masklake jobs{self.option}` lists those that are"
                ) from error
            if "404" in reason.partition(".")[0]:
                raise self._stranger() from error
            raise UserError(
                f"{self.address}: the job server refuses ({elide(one_line(_inner(reason)), 300)}); see the head's dashboard log"
            ) from error

    def _get(self, path: str) -> Any:
        return cast(Any, self._client).get(path)

    def require_same_versions(self) -> None:
        """Raise UserError if the cluster runs another Ray or Python than this machine, whose code is sent there."""
        import ray

        cluster_ray = str(self._versions["ray_version"])
        with self._explaining():
            cluster_python = str(self._get("/api/v0/cluster_metadata")["data"]["pythonVersion"])
        if cluster_ray != ray.__version__:
            raise UserError(
                f"{self.address}: runs Ray {cluster_ray}, this machine {ray.__version__}; install the same here, or use "
                "--image-has-it if Masklake is installed there"
            )
        own_python = platform.python_version()
        if cluster_python.split(".")[:2] != own_python.split(".")[:2]:
            raise UserError(
                f"{self.address}: runs Python {cluster_python}, this machine {own_python}; use the same here, or --image-has-it if Masklake "
                "is installed there"
            )

    def gpus(self) -> tuple[int, int]:
        """How many GPUs the cluster's nodes have now, and how many nodes there are."""
        with self._explaining():
            nodes = self._get("/api/v0/nodes?detail=1&limit=10000")["data"]["result"]["result"]
        alive = [node for node in nodes if node["state"] == "ALIVE"]
        return int(sum(node["resources_total"].get("GPU", 0) for node in alive)), len(alive)

    def submit(
        self, job: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> None:
        """Start a job under the new name `job`. Raises UserError when it is refused."""
        with self._explaining():
            self._client.submit_job(
                submission_id=job, entrypoint=entrypoint, runtime_env=runtime_env, metadata=metadata
            )

    def info(self, job: str) -> Any:
        """What Ray knows of a job (its JobDetails). Raises UserError when there is no such job."""
        with self._explaining(job):
            return self._client.get_job_info(_named(job))

    def all(self) -> list[Any]:
        """Every job that was submitted, newest first."""
        with self._explaining():
            jobs = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(jobs, key=lambda job: job.start_time or 0, reverse=True)

    def logs(self, job: str) -> str:
        """What a job has printed. Raises UserError when there is no such job."""
        with self._explaining(job):
            return self._client.get_job_logs(_named(job))

    def tail(self, job: str) -> Any:
        """The output of a job as an asynchronous iterator, which ends when the job ends."""
        return self._client.tail_job_logs(_named(job))

    def stop(self, job: str) -> bool:
        """Ask a job to stop; returns whether it was running. Raises UserError when there is no such job."""
        with self._explaining(job):
            return self._client.stop_job(_named(job))


def _named(job: str) -> str:
    if not re.fullmatch(r"[\w.-]{1,200}", job):
        raise UserError(f"job {one_line(job)}: is no job's id; `masklake jobs` lists them")
    return job


def _client(address: str) -> JobSubmissionClient:
    from ray.dashboard.modules.dashboard_sdk import logger
    from ray.job_submission import JobSubmissionClient

    logger.setLevel(logging.ERROR)
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.ERROR)

    class Client(JobSubmissionClient):
        """Ray's client with a timeout, and with `get` for other paths."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": _ANSWER_S, **options})

        def get(self, path: str) -> Any:
            answer = self._do_request("GET", path)
            answer.raise_for_status()
            return answer.json()

    return Client(address)


def _refusal(reason: str) -> str:
    if "Authentication failed" in reason:
        return "the cluster refuses the token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's own"
    return "the cluster wants a token, and there is none; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"


def _inner(reason: str) -> str:
    """The last line of a traceback that the server sent along."""
    lines = [line.strip() for line in reason.replace("\\n", "\n").splitlines() if line.strip(" .'\"}")]
    return lines[-1] if lines else reason
