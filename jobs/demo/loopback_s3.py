"""An S3 endpoint on 127.0.0.1 that needs nothing installed: moto in a process of its own.

For `masklake demo` and the tests. Objects live in memory and are gone with the server. Any process of this
machine can connect to it, so it is for throw-away data only.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from masklake.pipeline.errors import UserError

HOST = "127.0.0.1"
REGION = "us-east-1"
_START_SECONDS = 90
_STOP_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class LoopbackS3:
    """A running server: where it is and how to log in."""

    endpoint: str
    """`http://127.0.0.1:PORT`"""
    access_key: str
    secret_key: str = field(repr=False)

    @property
    def env(self) -> dict[str, str]:
        """The settings that send every AWS client here, and keep the user's own account out of it."""
        bypass = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "", HOST, "localhost"]
        no_proxy = ",".join(entry for entry in bypass if entry)
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            # Newer checksums travel as HTTP trailers, which many S3-compatible servers refuse.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }

    def environ(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """`base` with `env` in place of its own AWS settings (profile, session token, …): for a child."""
        return {key: value for key, value in base.items() if not key.startswith("AWS_")} | self.env

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Make `environ()` the environment of this process, and of what it starts, for the block."""
        before = dict(os.environ)
        after = self.environ(before)
        try:
            _set_environ(after)
            yield
        finally:
            _set_environ(before)

    def client(self, service: str = "s3") -> Any:
        """A botocore client of `service` (`s3`, `iam`) on this server."""
        import botocore.config
        import botocore.session

        with self.applied():
            return botocore.session.Session().create_client(
                service, config=botocore.config.Config(proxies={}), endpoint_url=self.endpoint
            )


@contextmanager
def serve(*, strict_credentials: bool = False) -> Iterator[LoopbackS3]:
    """Start a server, wait until it answers, and stop it when the block ends.

    The server also ends when this process dies, however it dies. Its log stays off the terminal.

    With `strict_credentials` only the yielded keys are accepted and wrong ones get 403, as on AWS;
    without, moto takes any.

    Raises UserError when the server does not come up.
    """
    with tempfile.TemporaryFile() as log:
        # Ctrl-C in a terminal goes to the whole process group: in its own session the server outlives
        # the job's last writes. The stdin pipe is its lifeline; see `_main`.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "masklake.jobs.demo.loopback_s3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            server = LoopbackS3(endpoint=_endpoint(process, log), access_key="demo", secret_key="demo")  # noqa: S106 - any will do
            yield _strict(server) if strict_credentials else server
        finally:
            _stop(process)


def _endpoint(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Wait for the port that the server announces, and for its first answer."""
    assert process.stdout is not None  # noqa: S101 - narrows the type
    ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
    line = process.stdout.readline().strip() if ready else b""
    if not line.isdigit():
        cause = f"the server did not start within {_START_SECONDS} s" if not ready else "the server exited"
        raise UserError(
            f"loopback S3: {cause} ({_last_line(log)}). Run `make setup` to repair the installation."
        )
    port = int(line)
    try:
        # The first request makes moto load its S3 backend, which takes about a second.
        _request(port, "GET", "/")
    except OSError as error:
        raise UserError(
            f"loopback S3: {HOST}:{port} does not answer ({error}). Allow connections to {HOST} here."
        ) from error
    return f"http://{HOST}:{port}"


def _strict(server: LoopbackS3) -> LoopbackS3:
    """Turn moto's credential check on; it works only for IAM users that have a policy."""
    iam = server.client("iam")
    iam.create_user(UserName="masklake")
    allow_all = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.put_user_policy(UserName="masklake", PolicyName="all", PolicyDocument=json.dumps(allow_all))
    key = iam.create_access_key(UserName="masklake")["AccessKey"]
    _request(int(server.endpoint.rpartition(":")[2]), "POST", "/moto-api/reset-auth", b"0")
    return LoopbackS3(
        endpoint=server.endpoint, access_key=key["AccessKeyId"], secret_key=key["SecretAccessKey"]
    )


def _request(port: int, method: str, path: str, body: bytes | None = None) -> None:
    # http.client, unlike urllib, knows no proxies.
    connection = http.client.HTTPConnection(HOST, port, timeout=_START_SECONDS)
    try:
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"{method} {path}: HTTP {answer.status}")
    except http.client.HTTPException as error:
        raise OSError(f"{method} {path}: {error!r}") from error
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - narrows the type
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")


def _set_environ(wanted: Mapping[str, str]) -> None:
    for key in set(os.environ) - set(wanted):
        del os.environ[key]
    os.environ.update(wanted)


def _main() -> None:
    """The server process: serve, announce the port, and end when stdin does (the parent stopped or died)."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=HOST, port=0, verbose=False)
    server.start()
    sys.stdout.write(f"{server.get_host_and_port()[1]}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    # Open keep-alive connections would delay an orderly exit.
    os._exit(0)


if __name__ == "__main__":
    _main()
