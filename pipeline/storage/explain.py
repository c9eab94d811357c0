"""The one door for storage errors: what failed, on which object, why, and what to do, in one line."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator

from masklake.pipeline.errors import OutageError, UserError
from masklake.pipeline.storage.s3 import split
from masklake.pipeline.storage.store import redact

_DRIVERS = frozenset({"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "adlfs", "obstore"})
"""Packages whose errors have no base class that could be named here without importing the package."""

_LOCAL = {
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOSPC: "No space left on device; make room, or choose another folder",
    errno.EDQUOT: "the disk quota is used up; make room, or choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another name",
    errno.EEXIST: "a file stands where a folder is needed; choose another name",
    errno.EISDIR: "it is a directory; name a file in it",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
    errno.ELOOP: "its links lead in a circle; mend them",
    errno.ENOENT: "it does not exist; check the name",
    errno.EMFILE: "this process may open no more files; raise the limit (ulimit -n)",
    errno.EIO: "the device fails (input/output error); check the disk or mount",
    errno.ESTALE: "the network file system has lost it; mount it again",
}

_CREDENTIALS_REFUSED = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure", "InvalidToken", "ExpiredToken", "InvalidClientTokenId"}
)  # fmt: skip
_BUSY = frozenset({"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "503"})
"""S3's codes for what may work later."""
_ARROW_CODE = re.compile(r"AWS Error ([A-Z_]+)")
_ARROW_CODES = {
    "ACCESS_DENIED": "AccessDenied",
    "NO_SUCH_BUCKET": "NoSuchBucket",
    "INVALID_ACCESS_KEY_ID": "InvalidAccessKeyId",
    "SIGNATURE_DOES_NOT_MATCH": "SignatureDoesNotMatch",
    "INVALID_CLIENT_TOKEN_ID": "InvalidClientTokenId",
}
"""From the text of an error of Arrow's S3 client to the error code of S3."""


_NO_ANSWER = "the endpoint does not answer"


@contextlib.contextmanager
def explaining(uri: str, doing: str) -> Iterator[None]:
    """Turn the errors of any storage into UserError: `uri` is the object or folder, `doing` an infinitive ("read it")."""
    try:
        yield
    except Exception as error:
        if not of_storage(error):
            raise
        raise explain(error, uri, doing) from error


def of_storage(error: BaseException) -> bool:
    """Whether `error` is one that a storage or its driver raises."""
    return isinstance(error, OSError) or any(
        type_.__module__.partition(".")[0] in _DRIVERS for type_ in type(error).__mro__
    )


def explain(error: BaseException, uri: str, doing: str) -> UserError:
    """`error`, raised while `doing` something with `uri`, as one line: the object, the cause, the remedy."""
    remote = "://" in uri
    cause = _s3_cause(error, uri, doing) if remote else _local_cause(error, uri, doing)
    outage = remote and (cause.startswith(_NO_ANSWER) or _code(error) in _BUSY)
    return (OutageError if outage else UserError)(redact(f"{uri}: cannot {doing}: {cause}"))


def _local_cause(error: BaseException, uri: str, doing: str) -> str:
    if isinstance(error, PermissionError):
        may = "write there" if _writes(doing) else "read it"
        return f"permission denied; this user may not {may} (ls -ld {getattr(error, 'filename', None) or uri} tells who may)"
    if isinstance(error, FileNotFoundError):  # it has no errno where Masklake raised it
        return _LOCAL[errno.ENOENT]
    if isinstance(error, OSError) and error.errno in _LOCAL:
        return _LOCAL[error.errno]
    return _text(error)


def _s3_cause(error: BaseException, uri: str, doing: str) -> str:
    code, text, name = _code(error), _text(error), type(error).__name__
    if code in _CREDENTIALS_REFUSED:
        return f"the server refuses the credentials ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or --profile"
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return (
            "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give --profile, "
            "or --anonymous for a public bucket"
        )
    if name == "ProfileNotFound":
        return f"{text}; check --profile against ~/.aws/config"
    if code == "NoSuchBucket":
        return f"bucket {split(uri)[0]!r} does not exist; check the name, or --endpoint-url for another S3 service"
    if isinstance(error, PermissionError) or code == "AccessDenied":
        which = "these" if code == "AccessDenied" else "check them, the"  # S3 refuses HEAD without a reason
        right = f"; {which} credentials need {_right(doing)}" if uri.startswith("s3://") else ""
        return f"permission denied ({code or text}){right}"
    if "connect" in text.lower() or name in ("EndpointConnectionError", "ConnectTimeoutError"):
        which = "--endpoint-url and the network" if uri.startswith("s3://") else "the address and the network"
        return f"{_NO_ANSWER} ({text}); check {which}"
    if isinstance(error, FileNotFoundError):
        return "it does not exist; check the name"
    return text


def _right(doing: str) -> str:
    if _writes(doing):
        return "s3:PutObject"
    return "s3:ListBucket" if doing.startswith("list") else "s3:ListBucket and s3:GetObject"


def _writes(doing: str) -> bool:
    return doing.startswith(("write", "take", "release", "make"))


def _code(error: BaseException) -> str:
    """S3's own code of the error, or "". (s3fs keeps botocore's ClientError as the cause of what it raises.)"""
    for exception in (error, error.__cause__):
        response = getattr(exception, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    match = _ARROW_CODE.search(str(error))
    return _ARROW_CODES.get(match[1], "") if match else ""


def _text(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return " ".join(str(strerror or error).split()) or type(error).__name__
