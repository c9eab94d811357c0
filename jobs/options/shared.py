"""Options that several commands share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import Any

from masklake.jobs.exit_codes import ExitCode
from masklake.jobs.options.declare import Options, Section, argument, flag, option
from masklake.jobs.options.kinds import zero_or_more
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.store import Storage

STORAGE = Section(
    "storage",
    "Credentials come from the standard AWS environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, instance roles, …).",
)
HOW = Section("how")


@dataclass(frozen=True, kw_only=True)
class StorageOptions(Options):
    """How storage is reached; credentials themselves come from the AWS environment only."""

    endpoint_url: str | None = option(
        str,
        "URL",
        section=STORAGE,
        again=True,
        help="the address of an S3 service other than AWS, such as http://minio:9000 (or set AWS_ENDPOINT_URL)",
    )
    profile: str | None = option(
        str, "NAME", section=STORAGE, again=True, help="the profile of ~/.aws/config to use"
    )
    anonymous: bool = flag(section=STORAGE, again=True, help="send no credentials, for public buckets")
    requester_pays: bool = flag(
        section=STORAGE,
        again=True,
        help="agree to pay for reading, where a bucket's owner asks for that (S3)",
    )
    kms_key: str | None = option(
        str, "KEY", section=STORAGE, again=True,
        help="the KMS key with which S3 encrypts what is written: its id, alias or ARN",
    )  # fmt: skip

    @staticmethod
    def from_storage(storage: Storage) -> StorageOptions:
        """The options that describe `storage`."""
        return StorageOptions(**{field.name: getattr(storage, field.name) for field in fields(storage)})

    def open(self) -> Storage:
        """The storage that the options name."""
        return Storage(**{field.name: getattr(self, field.name) for field in fields(Storage)})


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    """The Ray cluster that does the work."""

    address: str | None = option(
        str, "ADDRESS", section=HOW, kept=False,
        help="join this Ray cluster: auto, or HOST:6379 (default: Ray runs on this machine, for this command alone)",
    )  # fmt: skip
    gpus: int | None = option(
        zero_or_more, "N", section=HOW,
        help="how many GPUs to use (default: all that Ray finds; 0: none); a cluster that grows may start their nodes only then",
    )  # fmt: skip


def _lock_name(text: str) -> str:
    from masklake.pipeline.lake.registry import check_name

    try:
        check_name(text, "lock")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def lake_argument(help: str = "the lake: s3://…, a directory, …") -> Any:  # noqa: A002  # argparse's word
    """The argument LAKE, the same in every command."""
    return argument("LAKE", help=help, holds="path")


def run_option(help: str, *, section: Section | None = None) -> Any:  # noqa: A002  # as above
    """--run (an id, or last), the same in every command."""
    return option(str, "RUN|last", section=section, help=help)


def where_option(which: str, *, such_as: str, section: Section | None = None) -> Any:
    """--where, a condition in SQL, the same in every command: `which` rows or images are chosen, and an example."""
    return option(
        str, "SQL", section=section, help=f'{which} of which this condition is true, such as "{such_as}"'
    )


def lock_option(name: str) -> Any:
    """--lock, whose usual value is the command's `name`."""
    return option(
        _lock_name, "NAME", section=HOW, again=True,
        help=f"hold the lock LAKE/locks/NAME.json while working; where another holds it, end with exit code {ExitCode.REFUSED.value}. "
        f"Schedules of this command hold {name!r}",
    )  # fmt: skip


def json_flag(what: str) -> Any:
    """--json, the same in every command: `what` is printed, for other programs."""
    return flag(kept=False, help=f"print JSON: {what}")
