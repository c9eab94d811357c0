"""S3 through s3fs's client, with keys taken exactly as they are.

s3fs's own path functions strip trailing slashes and read `*?[` as globs, which loses objects whose keys hold
such characters; calling the client by bucket and key does not. Listings come page by page, so that memory
does not grow with the bucket.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from masklake.pipeline.storage.endpoint import require_endpoint
from masklake.pipeline.storage.objects import Fetched, ObjectInfo, TooLargeError, bare_etag
from masklake.pipeline.storage.s3_answers import decoded, true_error
from masklake.pipeline.storage.s3_pages import parse_fast, read_page

if TYPE_CHECKING:
    import s3fs

# Ceph 16 answers 411 to the chunked uploads that newer clients send to carry a checksum.
_CLIENT_CONFIG = {
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
    "retries": {"max_attempts": 4, "mode": "standard"},
    "max_pool_connections": 64,
    "connect_timeout": 10,
    "read_timeout": 60,
}
_CONCURRENT_GETS = 32
_CONTENDED_TRIES = 5
_REPEATED_PAGES = 3
_PATIENCE, _SLOWEST = 300, 20_000
"""Seconds for an object, all attempts together, and one more for so many bytes."""


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`, the key untouched."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


class S3Store:
    """Object operations on S3. One per process and option set: s3fs is not fork-safe."""

    conditional: str | None = None

    def __init__(
        self,
        endpoint_url: str | None,
        profile: str | None,
        *,
        anonymous: bool,
        requester_pays: bool = False,
        kms_key: str | None = None,
    ) -> None:
        self.endpoint_url = (
            endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        )
        self._profile = profile
        self._anonymous = anonymous
        self._requester_pays = requester_pays
        self._encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key is not None else {}
        )

    @functools.cached_property
    def fs(self) -> s3fs.S3FileSystem:
        import s3fs

        self.require_answer()
        return s3fs.S3FileSystem(
            anon=self._anonymous,
            endpoint_url=self.endpoint_url,
            profile=self._profile,
            config_kwargs=_CLIENT_CONFIG,
            requester_pays=self._requester_pays,
            s3_additional_kwargs=self._encryption,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    @functools.cache  # noqa: B019  # stores live as long as the process
    def require_answer(self) -> None:
        """Raises OSError where the given endpoint does not answer, before the first client waits for it."""
        if self.endpoint_url:
            require_endpoint(self.endpoint_url)

    def _sync(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        from fsspec.asyn import sync

        async def run() -> Any:
            return await coroutine

        return sync(self.fs.loop, run)

    def _call(self, method: str, **arguments: object) -> dict:
        return self.fs.call_s3(method, **arguments)

    async def _get(self, uri: str, max_bytes: int | None) -> Fetched:
        """Raises OSError where it is not read in time, however often it begins again."""
        try:
            async with asyncio.timeout(_PATIENCE) as deadline:
                return await self._get_within(uri, max_bytes, deadline)
        except TimeoutError as late:
            raise OSError("it was not read in time: the storage stalls, or is very slow") from late

    async def _get_within(self, uri: str, max_bytes: int | None, deadline: asyncio.Timeout) -> Fetched:
        import aiohttp

        bucket, key = split(uri)
        start = asyncio.get_running_loop().time()
        for attempt in range(self.fs.retries):
            response = await self.fs._call_s3("get_object", Bucket=bucket, Key=key)
            size = response.get("ContentLength")
            if size is None:
                response["Body"].close()
                raise OSError("the answer has no Content-Length, so that a part of it looks like the whole")
            deadline.reschedule(start + _PATIENCE + size / _SLOWEST)
            if max_bytes is not None and size > max_bytes:
                response["Body"].close()
                raise TooLargeError(size, max_bytes)
            try:
                async with response["Body"] as body:
                    data = await body.read()
            except (TimeoutError, aiohttp.ClientError, ConnectionError) as broken:
                if attempt + 1 == self.fs.retries:
                    raise OSError(f"the connection broke while reading: {broken}") from broken
                await asyncio.sleep(random.uniform(0.1, 0.3) * 2**attempt)  # noqa: S311  # no secret hangs on it
                continue
            plain = decoded(data, response.get("ContentEncoding", ""), max_bytes)
            return Fetched(plain, bare_etag(response.get("ETag")), size, response["LastModified"])
        raise AssertionError("unreachable: the last attempt returns or raises")

    def get_many(self, uris: list[str], max_bytes: int | None = None) -> list[Fetched | Exception]:
        """Objects in the order of `uris`; where one could not be read, the exception stands in its place."""
        try:
            self.require_answer()
        except OSError as error:  # at a worker's first call: reported for each object, as a later failure is
            return [error] * len(uris)

        async def gather() -> list[Fetched | Exception]:
            gate = asyncio.Semaphore(_CONCURRENT_GETS)

            async def one(uri: str) -> Fetched:
                async with gate:
                    try:
                        return await self._get(uri, max_bytes)
                    except OSError as error:
                        raise true_error(error, split(uri)[0]) from error.__cause__

            # gather(return_exceptions=True) also returns CancelledError, which must not be taken for a bad image
            results = await asyncio.gather(*map(one, uris), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException) and not isinstance(result, Exception):
                    raise result
            return results  # type: ignore[return-value]  # only Fetched and Exception remain

        return self._sync(gather())

    def read(self, uri: str) -> bytes:
        self.require_answer()
        return self._sync(self._get(uri, None)).data

    def write(self, uri: str, data: bytes) -> None:
        bucket, key = split(uri)
        self._call("put_object", Bucket=bucket, Key=key, Body=data)

    def _conditional_put(self, uri: str, data: bytes, condition: dict[str, str]) -> bool:
        import time

        from botocore.exceptions import ClientError

        bucket, key = split(uri)
        for attempt in range(_CONTENDED_TRIES):
            try:
                self._call("put_object", Bucket=bucket, Key=key, Body=data, **condition)
            except OSError as error:  # s3fs's own error, with botocore's ClientError as its cause
                cause = error.__cause__
                status = (
                    cause.response["ResponseMetadata"]["HTTPStatusCode"]
                    if isinstance(cause, ClientError)
                    else 0
                )
                if status == 412:
                    # perhaps this process wrote it, and only the answer was lost: every writer's content is its own
                    try:
                        return self.read(uri) == data
                    except FileNotFoundError:  # Ceph answers 412, not 404, for an object that is gone
                        return False
                if status == 404 and "IfMatch" in condition:
                    return False
                if status not in (409, 500, 503) or attempt + 1 == _CONTENDED_TRIES:
                    raise
                time.sleep(random.uniform(0.05, 0.15) * 2**attempt)  # noqa: S311  # as above
            else:
                return True
        raise AssertionError("unreachable: the last attempt returns or raises")

    def put_new(self, uri: str, data: bytes) -> bool:
        return self._conditional_put(uri, data, {"IfNoneMatch": "*"})

    def replace(self, uri: str, data: bytes, etag: str) -> bool:
        return self._conditional_put(uri, data, {"IfMatch": etag})  # unquoted: Ceph refuses the quoted form

    def stat(self, uri: str) -> ObjectInfo | None:
        bucket, key = split(uri)
        try:
            head = self._call("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        return ObjectInfo(uri, bare_etag(head.get("ETag")), head["ContentLength"], head["LastModified"])

    @functools.cache  # noqa: B019  # as many as there are buckets; the store lives as long as the process
    def region(self, bucket: str) -> str | None:
        """The bucket's region, or None where the server does not name it; even a refusal names it."""
        from botocore.exceptions import ClientError

        try:
            answer = self._call("head_bucket", Bucket=bucket)
        except OSError as error:
            if not isinstance(error.__cause__, ClientError):
                return None  # the next request raises the reason
            answer = error.__cause__.response
        region: str | None = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region")
        return region

    def delete(self, uri: str) -> None:
        bucket, key = split(uri)
        self._call("delete_object", Bucket=bucket, Key=key)

    def pages(
        self, bucket: str, prefix: str, *, start_after: str = "", delimiter: str = ""
    ) -> Iterator[tuple[list[ObjectInfo], list[str]]]:
        """Pages of up to 1,000 keys, in key order, each as (objects, common prefixes).

        A page that the server gives twice counts once; none is empty. Raises OSError where the server comes to no next page.
        """
        arguments: dict[str, str] = {"Bucket": bucket, "Prefix": prefix}
        if start_after:
            arguments["StartAfter"] = start_after
        if delimiter:
            arguments["Delimiter"] = delimiter
        parse_fast(self.fs.s3)
        previous: set[str] = set()
        repeated = 0
        while True:
            objects, folders, token = read_page(self._call("list_objects_v2", **arguments), bucket)
            repeated = repeated + 1 if token and token == arguments.get("ContinuationToken") else 0
            if repeated == _REPEATED_PAGES:
                raise OSError("the storage lists the same page again and again")
            new = [info for info in objects if info.uri not in previous]
            if new or folders:  # a page may be empty, and not the last
                yield new, folders
            if token is None:
                return
            previous = {info.uri for info in objects}
            arguments["ContinuationToken"] = token
