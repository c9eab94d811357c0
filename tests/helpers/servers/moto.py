"""The demo's moto server with its credential check on, and a second user without permissions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from masklake.jobs.demo.loopback_s3 import LoopbackS3, serve


@dataclass(frozen=True, kw_only=True)
class Moto:
    server: LoopbackS3
    """The endpoint, with the keys of a user who may do anything."""
    guest: LoopbackS3
    """The same endpoint with the keys of a user who may do nothing."""

    def allow_guest(self, bucket: str, *actions: str, prefix: str = "") -> None:
        """Let the guest do only `actions` (`s3:GetObject`, `s3:ListBucket`, …), only in `bucket`; on objects,
        only below `prefix`."""
        # moto reads the policies of users, not those of buckets.
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": list(actions),
                    "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{prefix}*"],
                }
            ],
        }
        iam = self.server.client("iam")
        iam.put_user_policy(UserName="guest", PolicyName="allowed", PolicyDocument=json.dumps(policy))


@contextmanager
def moto() -> Iterator[Moto]:
    """Start and stop one."""
    with serve(strict_credentials=True) as server:
        iam = server.client("iam")
        iam.create_user(UserName="guest")
        key = iam.create_access_key(UserName="guest")["AccessKey"]
        guest = replace(server, access_key=key["AccessKeyId"], secret_key=key["SecretAccessKey"])
        yield Moto(server=server, guest=guest)
