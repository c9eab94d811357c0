"""Whether an S3 endpoint answers at all: learnt in seconds, without waiting for botocore's many retries."""

from __future__ import annotations

import socket
import time
import urllib.request
from urllib.parse import urlsplit

from masklake.pipeline.errors import UserError

_TRIES_AFTER_S = (0.0, 0.5, 1.0)
_ANSWER_S = 5.0


def require_endpoint(url: str) -> None:
    """Raises UserError where `url` is no URL of an endpoint, OSError where nothing listens there after three tries.

    Nothing is sent. An endpoint that is reached through a proxy is not tried.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"--endpoint-url {url}: is not the URL of a server; write http://HOST:PORT or https://HOST"
        )
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname):
        return
    address = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    for number, wait in enumerate(_TRIES_AFTER_S, 1):
        time.sleep(wait)
        try:
            socket.create_connection(address, timeout=_ANSWER_S).close()
        except OSError as error:
            if number == len(_TRIES_AFTER_S) or isinstance(error, TimeoutError):
                raise ConnectionError(f"cannot connect to {address[0]}:{address[1]}: {error}") from error
        else:
            return
