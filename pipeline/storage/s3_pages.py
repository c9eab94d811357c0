"""S3's listing pages, read from their XML by the interpreter's own C parser.

botocore builds a page from its service model and parses each date with dateutil, which costs 60 µs a key; this costs 5. Requests,
signatures, retries and errors stay botocore's.
"""

from __future__ import annotations

import datetime
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from masklake.pipeline.storage.objects import ObjectInfo

PAGE = "MasklakePage"
"""Where `parse_fast` leaves a page in botocore's answer: the root of its XML."""


def parse_fast(client: Any) -> None:
    """Let `client`, an S3 client of (aio)botocore, leave listing pages as XML under `PAGE`, and parse nothing of them itself."""
    client.meta.events.register("before-parse.s3.ListObjectsV2", _keep_xml, unique_id=PAGE)


def _keep_xml(response_dict: dict, customized_response_dict: dict, **_: object) -> None:
    if response_dict["status_code"] != 200:
        return
    try:
        # No more trusting than botocore, which gives the same answer to the same parser.
        customized_response_dict[PAGE] = ElementTree.fromstring(response_dict["body"])  # noqa: S314
    except ElementTree.ParseError:
        return  # botocore raises its own error, and tries again
    response_dict["body"] = b""


def read_page(answer: dict, bucket: str) -> tuple[list[ObjectInfo], list[str], str | None]:
    """(objects, common prefixes, the token of the next page or None) of an answer to ListObjectsV2, whoever parsed it."""
    if PAGE in answer:
        return _of_xml(answer[PAGE], bucket)
    objects = [
        ObjectInfo(f"s3://{bucket}/{o['Key']}", _unquoted(o.get("ETag")), o["Size"], o["LastModified"])
        for o in answer.get("Contents", ())
    ]
    token = answer["NextContinuationToken"] if answer.get("IsTruncated") else None
    return objects, [p["Prefix"] for p in answer.get("CommonPrefixes", ())], token


def _of_xml(root: ElementTree.Element, bucket: str) -> tuple[list[ObjectInfo], list[str], str | None]:
    space = root.tag.removesuffix(
        "ListBucketResult"
    )  # "{http://s3.amazonaws.com/doc/2006-03-01/}" or, from some servers, ""
    key, etag, size, modified = (f"{space}{name}" for name in ("Key", "ETag", "Size", "LastModified"))
    encoded = root.findtext(f"{space}EncodingType") == "url"  # botocore asks for it

    def name(text: str | None) -> str:
        return unquote_plus(text or "") if encoded else text or ""

    objects = []
    for contents in root.iterfind(f"{space}Contents"):
        fields = {field.tag: field.text for field in contents}
        objects.append(
            ObjectInfo(
                f"s3://{bucket}/{name(fields[key])}",
                _unquoted(fields.get(etag)),
                int(fields[size] or 0),
                _moment(fields[modified] or ""),
            )
        )
    folders = [name(prefix.text) for prefix in root.iterfind(f"{space}CommonPrefixes/{space}Prefix")]
    more = root.findtext(f"{space}IsTruncated") == "true"
    return objects, folders, root.findtext(f"{space}NextContinuationToken") if more else None


def _unquoted(etag: str | None) -> str | None:
    """An ETag without its quotes; gateways to other storage may leave it out."""
    return None if etag is None else etag.strip('"')


def _moment(text: str) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:  # not as S3 writes it
        from botocore.utils import parse_timestamp

        return parse_timestamp(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
