"""Options that several commands share, and the types that check them where they are typed."""

from __future__ import annotations

import argparse
import re

from masklake.pipeline.storage.store import Storage


def add_storage_options(parser: argparse.ArgumentParser) -> None:
    """--endpoint-url, --profile and --anonymous; credentials themselves come from the AWS environment only."""
    group = parser.add_argument_group(
        "storage",
        "Credentials come from the standard AWS environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, instance roles, …).",
    )
    group.add_argument(
        "--endpoint-url", metavar="URL", help="another S3 service than AWS (also AWS_ENDPOINT_URL)"
    )
    group.add_argument("--profile", metavar="NAME", help="a profile of ~/.aws/config")
    group.add_argument("--anonymous", action="store_true", help="send no credentials: public buckets")
    group.add_argument(
        "--requester-pays", action="store_true", help="pay for reading buckets whose owner asks for that (S3)"
    )
    group.add_argument(
        "--kms-key",
        metavar="KEY",
        help="the KMS key that S3 encrypts with what is written (id, alias or ARN)",
    )


def storage_from(args: argparse.Namespace) -> Storage:
    """The storage that the options name."""
    return Storage(
        endpoint_url=args.endpoint_url,
        profile=args.profile,
        anonymous=args.anonymous,
        requester_pays=args.requester_pays,
        kms_key=args.kms_key,
    )


def said_before(args: argparse.Namespace) -> list[str]:
    """The options that whoever goes on with a run or training has to give again."""
    given = {
        "endpoint-url": args.endpoint_url,
        "profile": args.profile,
        "kms-key": args.kms_key,
        "lock": args.lock,
    }
    flags = ["--requester-pays"] if args.requester_pays else []
    return [*flags, *(f"--{name}={value}" for name, value in given.items() if value)]


def positive(text: str) -> int:
    """A whole number of at least 1; 10_000 and 10,000 are read too."""
    try:
        value = int(text.replace(",", ""))
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def zero_or_more(text: str) -> int:
    """A whole number of at least 0; 10_000 and 10,000 are read too."""
    try:
        value = int(text.replace(",", ""))
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def span(text: str) -> tuple[int, int]:
    """`MIN:MAX`, or one number for both."""
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN:MAX with 1 <= MIN <= MAX")
    return low, high


def names(text: str) -> tuple[str, ...]:
    """Names parted by commas."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError("names nothing")
    return found
