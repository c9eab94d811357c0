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
        str, "URL", section=STORAGE, again=True, help="another S3 service than AWS (also AWS_ENDPOINT_URL)"
    )
    profile: str | None = option(str, "NAME", section=STORAGE, again=True, help="a profile of ~/.aws/config")
    anonymous: bool = flag(section=STORAGE, again=True, help="send no credentials: public buckets")
    requester_pays: bool = flag(
        section=STORAGE, again=True, help="pay for reading buckets whose owner asks for that (S3)"
    )
    kms_key: str | None = option(
        str, "KEY", section=STORAGE, again=True,
        help="the KMS key that S3 encrypts with what is written (id, alias or ARN)",
    )  # fmt: skip

    @staticmethod
    def of(storage: Storage) -> StorageOptions:
        """Those that name `storage`."""
        return StorageOptions(**{field.name: getattr(storage, field.name) for field in fields(storage)})

    def open(self) -> Storage:
        """The storage that the options name."""
        return Storage(**{field.name: getattr(self, field.name) for field in fields(Storage)})


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    """Which Ray does the work."""

    address: str | None = option(
        str, "ADDRESS", section=HOW, kept=False,
        help="join a Ray cluster (auto, HOST:6379); default: Ray inside this process",
    )  # fmt: skip
    gpus: int | None = option(
        zero_or_more, "N", section=HOW,
        help="GPUs to use (default: all that Ray finds; 0 for none); a cluster may make their nodes only now",
    )  # fmt: skip


def _lock_name(text: str) -> str:
    from masklake.pipeline.lake.registry import check_name

    try:
        check_name(text, "lock")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def lake_argument(help: str = "the lake: s3://…, a directory, …") -> Any:  # noqa: A002  # argparse's word
    """LAKE."""
    return argument("LAKE", help=help, holds="path")


def lock_option(name: str) -> Any:
    """--lock, whose usual value is the command's `name`."""
    return option(
        _lock_name, "NAME", section=HOW, again=True,
        help=f"work only while nobody else holds LAKE/locks/NAME.json, and hold it; refused (exit code "
        f"{ExitCode.REFUSED.value}) where another does. Schedules of this command hold {name!r}",
    )  # fmt: skip


def json_flag(what: str) -> Any:
    """--json, the same in every command: `what` is printed, for other programs."""
    return flag(kept=False, help=f"print JSON: {what}")
