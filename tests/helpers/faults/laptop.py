"""Whoever submits: the command line with nothing but the cluster's address and its token."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from tests.conftest import CliResult
from tests.helpers.servers.ray_nodes import RayNodes


@dataclass(frozen=True, kw_only=True)
class Laptop:
    """Call it with a command's arguments; what is said is printed, too."""

    cluster: RayNodes
    run_cli: Callable[..., CliResult]

    def __call__(self, *args: str) -> CliResult:
        result = self.run_cli(*args, env=self.cluster.env | {"RAY_API_SERVER_ADDRESS": self.cluster.address})
        print(f"$ masklake {' '.join(args)}\n{result.stdout}{result.stderr}")
        return result

    def submit(self, *args: str) -> str:
        """The job's id."""
        result = self("submit", *args)
        assert result.code == 0, result.stderr
        return result.stdout.strip()

    def run_of(self, job: str) -> str:
        """The run that the job is, once it has said so."""

        def run_id() -> str | None:
            facts = json.loads(self("jobs", "status", job, "--json").stdout)
            assert facts["state"] in ("pending", "running"), facts
            run: str | None = facts["run"]
            return run

        return str(self.cluster.wait_until(run_id, 120))
