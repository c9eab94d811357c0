"""What S3's answer about an object means: its encoding, and why it cannot be read."""

from __future__ import annotations

import zlib

from masklake.pipeline.storage.objects import NoBucketError, TooLargeError

_GZIP = b"\x1f\x8b"
_PLAIN = frozenset(["", "identity", "aws-chunked", "utf-8"])
"""Content-Encodings that do not change the bytes; `utf-8` is a common mistake."""


def decoded(data: bytes, encoding: str, max_bytes: int | None) -> bytes:
    """`data` decoded from its Content-Encoding, as a browser would decode it; gzip is the only one known.

    Raises OSError for any other encoding and for broken gzip, and TooLargeError for more than `max_bytes` of content.
    """
    for name in reversed([part.strip().lower() for part in encoding.split(",")]):
        if name in _PLAIN or (name in ("gzip", "x-gzip") and not data.startswith(_GZIP)):
            continue  # the header is wrong: some tools unpack the file and keep its header
        if name not in ("gzip", "x-gzip"):
            raise OSError(f"Content-Encoding {name!r} is not known; store it plain, or with gzip")
        data = _gunzipped(data, max_bytes)
    return data


def _gunzipped(data: bytes, max_bytes: int | None) -> bytes:
    plain = bytearray()
    try:
        while data.startswith(_GZIP):  # members, one after the other
            member = zlib.decompressobj(wbits=31)
            limit = 0 if max_bytes is None else max_bytes - len(plain) + 1
            plain += member.decompress(data, limit)
            if max_bytes is not None and len(plain) > max_bytes:
                raise TooLargeError(len(plain), max_bytes)
            if not member.eof:
                raise OSError("its Content-Encoding is gzip, and the end of that is missing")
            data = member.unused_data
    except zlib.error as error:
        raise OSError(f"its Content-Encoding is gzip, and that is broken ({error})") from error
    return bytes(plain)


def true_error(error: OSError, bucket: str) -> OSError:
    """The error that says what happened: `error` itself, or one that names the missing bucket, the archive or the key.

    s3fs raises FileNotFoundError for a bucket that does not exist, and PermissionError for an object in an archive.
    """
    from botocore.exceptions import ClientError

    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return error
    said = cause.response.get("Error", {})
    if said.get("Code") == "NoSuchBucket":
        return NoBucketError(f"bucket {bucket!r} does not exist")
    if said.get("Code") == "InvalidObjectState":
        storage_class = said.get("StorageClass", "an archive class such as GLACIER")
        return OSError(
            f"it lies in {storage_class}; restore it (aws s3api restore-object), and resume when the copy is there"
        )
    message = said.get("Message") or ""  # Ceph sends an empty one, which botocore reads as None
    if said.get("Code") == "AccessDenied" and "kms:" in message:
        return PermissionError(f"the key of its encryption: {message}")
    return error
