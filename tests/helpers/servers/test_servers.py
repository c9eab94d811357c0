"""The test servers themselves: what other tests rely on."""

from __future__ import annotations

import http.client
import socket

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Bucket
from tests.helpers.servers import rgw


def test_guest_may_do_only_what_is_allowed(s3_bucket: Bucket) -> None:
    s3_bucket.put("k", b"v")
    guest = s3_bucket.guest.client()
    with pytest.raises(ClientError, match="AccessDenied"):
        guest.get_object(Bucket=s3_bucket.name, Key="k")
    s3_bucket.allow_guest("s3:GetObject")
    assert guest.get_object(Bucket=s3_bucket.name, Key="k")["Body"].read() == b"v"
    for refused in (
        lambda: guest.list_objects_v2(Bucket=s3_bucket.name),
        lambda: guest.put_object(Bucket=s3_bucket.name, Key="k", Body=b"new"),
        lambda: guest.delete_object(Bucket=s3_bucket.name, Key="k"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()
    assert s3_bucket.get("k") == b"v"


def test_tests_cannot_leave_this_machine() -> None:
    with pytest.raises(RuntimeError, match=r"192\.0\.2\.1"):  # TEST-NET-1, which is nobody's
        http.client.HTTPConnection("192.0.2.1", timeout=1).connect()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))


@pytest.mark.rgw
@pytest.mark.slow
def test_rgw_keeps_what_it_acknowledged_when_killed() -> None:
    reason = rgw.available()
    if reason is not None:
        pytest.skip(reason)
    with rgw.RGW(store="bluestore") as host:
        client = host.server.client()
        client.create_bucket(Bucket="kept")
        for i in range(50):
            client.put_object(Bucket="kept", Key=f"{i:02d}", Body=b"x" * i)
        host.kill()
        host.start()
        sizes = {entry["Key"]: entry["Size"] for entry in client.list_objects_v2(Bucket="kept")["Contents"]}
        assert sizes == {f"{i:02d}": i for i in range(50)}
