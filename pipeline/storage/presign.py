"""The address at which an annotator's browser opens an image: its URI, or a signed URL that works for some hours.

A signed URL is a credential: anybody who has it can open the image. It is written to the file of tasks and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.clouds import CloudStore
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.s3 import S3Store, split
from masklake.pipeline.storage.store import Storage

MOST_HOURS = 7 * 24
"""S3 signs a URL for a week at most."""


def signed(uris: Sequence[str], storage: Storage, hours: float) -> list[str]:
    """A URL for each image. A URI that cannot be signed (a path, https://…) stays as it is.

    Raises UserError when there are no credentials to sign with, or the bucket cannot be asked where it is.
    """
    clients: dict[str, Any] = {}
    return [_signed(uri, storage, round(hours * 3600), clients) for uri in uris]


def _signed(uri: str, storage: Storage, seconds: int, clients: dict[str, Any]) -> str:
    with explaining(uri, "sign a URL of it"):
        store = storage.store(uri)
        if isinstance(store, S3Store):
            bucket, key = split(uri)
            if bucket not in clients:
                clients[bucket] = _client(bucket, store, storage)
            url: str = clients[bucket].generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds
            )
            return url
        if isinstance(store, CloudStore):
            return store.signed(uri, seconds)
        if "://" in uri and hasattr(store, "fs"):
            try:
                return str(store.fs.sign(uri, expiration=seconds))
            except NotImplementedError:  # raised by those of fsspec's drivers that cannot sign
                return uri
    return uri


def _client(bucket: str, store: S3Store, storage: Storage) -> Any:
    """A botocore client in the region of the bucket: a signature names the region, and is not valid in another one."""
    from botocore.config import Config
    from botocore.exceptions import ClientError
    from botocore.session import Session

    if storage.anonymous:
        raise UserError(
            f"s3://{bucket}: URLs cannot be signed with --anonymous; leave it out, or take --urls plain"
        )
    session = Session(profile=storage.profile)
    # By default botocore signs in the old way, which newer regions and services refuse.
    config = Config(signature_version="s3v4")

    def client(region: str | None) -> Any:
        return session.create_client("s3", region_name=region, endpoint_url=store.endpoint_url, config=config)

    first = client(None)
    try:
        answer = first.head_bucket(Bucket=bucket)
    except ClientError as error:  # an account may read objects and not be allowed to ask; the answer names the region nevertheless
        answer = error.response
    region = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region")
    return first if region in (None, first.meta.region_name) else client(region)
