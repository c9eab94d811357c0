"""S3's listing pages, read from their XML by the interpreter's own C parser.

botocore builds a page from its service model and parses each date with dateutil, which costs 60 µs a key; this costs 5. Requests,
signatures, retries and errors stay botocore's.
"""

from __future__ import annotations

import datetime
import threading
from typing import Any
from urllib.parse import unquote_plus
from weakref import WeakSet
from xml.etree import ElementTree

from masklake.pipeline.storage.objects import ObjectInfo, bare_etag

PAGE = "MasklakePage"
"""Where `parse_fast` leaves a page in botocore's answer: the root of its XML."""
_EVENT = "before-parse.s3.*"


_prepared: WeakSet[Any] = WeakSet()
_preparing = threading.Lock()


def parse_fast(client: Any) -> None:
    """Let `client`, an S3 client of (aio)botocore, leave listing pages as XML under `PAGE`, and parse nothing of them itself."""
    from botocore import handlers

    with _preparing:
        if client in _prepared:
            return
        events = client.meta.events
        # botocore's own handler parses the whole page to see whether it is an error that is called a success: it goes behind ours.
        check = getattr(handlers, "_handle_200_error", None)
        if check is not None:
            events.unregister(_EVENT, check)
        events.register_first(_EVENT, _keep_xml)
        if check is not None:
            events.register_first(_EVENT, check)
        _prepared.add(client)


def _keep_xml(operation_model: Any, response_dict: dict, customized_response_dict: dict, **_: object) -> None:
    if operation_model.name != "ListObjectsV2" or response_dict["status_code"] != 200:
        return
    try:
        # No more trusting than botocore, which gives the same answer to the same parser.
        root = ElementTree.fromstring(response_dict["body"])  # noqa: S314
    except ElementTree.ParseError:
        return  # botocore takes it for a broken answer, and asks again
    if root.tag.endswith("ListBucketResult"):
        customized_response_dict[PAGE], response_dict["body"] = root, b""


def read_page(answer: dict, bucket: str) -> tuple[list[ObjectInfo], list[str], str | None]:
    """(objects, common prefixes, the token of the next page or None) of an answer to ListObjectsV2, whoever parsed it."""
    if PAGE in answer:
        return _of_xml(answer[PAGE], bucket)
    objects = [
        ObjectInfo(f"s3://{bucket}/{o['Key']}", bare_etag(o.get("ETag")), o["Size"], o["LastModified"])
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
                bare_etag(fields.get(etag)),
                int(fields[size] or 0),
                _moment(fields[modified] or ""),
            )
        )
    folders = [name(prefix.text) for prefix in root.iterfind(f"{space}CommonPrefixes/{space}Prefix")]
    more = root.findtext(f"{space}IsTruncated") == "true"
    return objects, folders, root.findtext(f"{space}NextContinuationToken") if more else None


def _moment(text: str) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:  # not as S3 writes it
        from botocore.utils import parse_timestamp

        return parse_timestamp(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
