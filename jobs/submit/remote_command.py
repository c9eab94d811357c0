"""A command line for a cluster: it is parsed on this machine, by its own parser, before anything is sent."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from masklake.jobs.options.declare import Options, entries
from masklake.jobs.options.parser import as_arguments
from masklake.jobs.options.shared import ClusterOptions
from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.jobs.terminal.text import printable
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.store import redact

SUBMITTED = ("segment", "train", "eval")
_SECRET = re.compile(r"://[^/\s]*@|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")


@dataclass(frozen=True, kw_only=True)
class RemoteCommand:
    """The command to run on the cluster."""

    command: list[str]
    """The words after `masklake`, without --address."""
    address: str | None
    """The cluster's address, if it was among the command's own options."""
    gpus: int | None

    def text(self) -> str:
        """The command for people."""
        return shlex.join(["masklake", *self.command])

    def entrypoint(self, *, installed: bool) -> str:
        """What the cluster's shell runs: Masklake as it is `installed` there, or as it was sent along."""
        program = ["masklake"] if installed else ["python", "-P", "-m", "masklake.jobs.cli"]
        name, *rest = self.command
        # exec: the signal that asks the job to stop is for Masklake, not for a shell around it.
        return f"exec {shlex.join([*program, name, '--address=auto', *rest])}"


def understood(command: list[str], *, shared_files: bool, folder: str | None = None) -> RemoteCommand:
    """Parse `command`. With `shared_files` its absolute paths are the same on every node. A file of options (--config), looked
    for below `folder`, is read here, and its values are sent.

    Raises UserError for another command than segment, train and eval, for credentials, and for files that the cluster
    does not have. Exits as argparse does if the command's own parser refuses it.
    """
    from masklake.jobs import cli

    submittable = ", ".join(SUBMITTED)
    if not command:
        raise UserError(f"submit: no command is given; write one of {submittable} as after `masklake`")
    if command[0] not in SUBMITTED:
        raise UserError(
            f"submit {printable(command[0])}: is not for a cluster; what can be submitted: {submittable}"
            f"{did_you_mean(command[0], SUBMITTED)}"
        )
    refuse_secrets(command)
    arguments, address = _without_address(command)
    line = cli.understood(arguments, folder)
    options = line.options
    if line.config is not None:
        arguments = [command[0], *as_arguments(options)]
        refuse_secrets(arguments)
    cluster: ClusterOptions = options.cluster
    if cluster.address is not None:
        raise UserError(f"--address {cluster.address}: is that of the cluster; write it before {command[0]}")
    _refuse_files(options, shared=shared_files)
    return RemoteCommand(command=arguments, address=address, gpus=cluster.gpus)


def refuse_secrets(arguments: list[str]) -> None:
    """Raise UserError if an argument has a credential in it: everyone who sees a cluster's jobs can read their commands."""
    for argument in arguments:
        if redact(argument) != argument or _SECRET.search(argument):
            hidden = _SECRET.sub(lambda match: "://…@" if match[0].endswith("@") else "…", redact(argument))
            raise UserError(
                f"{printable(hidden)}: carries a credential, which everyone who sees the cluster's jobs could read; "
                "give the nodes credentials of their own (a role, or the AWS variables where Ray is started)"
            )


def _without_address(command: list[str]) -> tuple[list[str], str | None]:
    """The command without `--address`, and the address."""
    arguments: list[str] = []
    address = None
    remaining = iter(command)
    for argument in remaining:
        if argument == "--":
            return [*arguments, argument, *remaining], address
        if argument == "--address":
            address = next(remaining, None)
        elif argument.startswith("--address="):
            address = argument.partition("=")[2]
        else:
            arguments.append(argument)
    return arguments, address


def _refuse_files(options: Options, *, shared: bool) -> None:
    for entry in entries(type(options)):
        value, holds = entry.value_in(options), entry.declared.holds
        if holds is None or not isinstance(value, str) or not _is_file(value, named=holds == "model"):
            continue
        if shared and Path(value).is_absolute():
            continue
        raise UserError(
            f"{entry.shown} {printable(value)}: is a path, and this machine's files are not the cluster's; put it into storage "
            "that the nodes read (s3://…), or add --shared-files if it is an absolute path that every node has"
        )


def _is_file(value: str, *, named: bool) -> bool:
    """Whether `value` is a path. With `named`, a word without slashes is a name (of a model), and not a path."""
    protocol, separator, _ = value.partition("://")
    if separator:
        return protocol in ("file", "local")
    return not named or "/" in value or value.startswith((".", "~"))
