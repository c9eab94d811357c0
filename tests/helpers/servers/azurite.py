"""Azurite, Microsoft's emulator of Azure Blob Storage, where it is installed (`npm install --global azurite`)."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.helpers.servers.ports import free_port

# Published, and the same in every Azurite.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True, kw_only=True)
class Azurite:
    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """By which a client finds it."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
            "AZURE_ALLOW_HTTP": "true",
        }

    def make_container(self, name: str) -> None:
        """By a request that is signed as "Authorize with Shared Key" of Azure's REST reference says."""
        date, version = email.utils.formatdate(usegmt=True), "2021-12-02"
        resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n{resource}"
        signed = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        request = urllib.request.Request(  # noqa: S310  # of this machine's server
            f"{self.endpoint}/{name}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": date,
                "x-ms-version": version,
                "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}",
                "Content-Length": "0",
            },
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310  # as above


@contextmanager
def azurite() -> Iterator[Azurite]:
    """Start and stop one; the test is skipped where there is none."""
    binary = shutil.which("azurite-blob")
    if binary is None:
        pytest.skip("azurite is not installed (npm install --global azurite)")
    port = free_port()
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    process = subprocess.Popen([binary, "--silent", "--inMemoryPersistence", "--skipApiVersionCheck", *where])
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield Azurite(endpoint=f"http://127.0.0.1:{port}/{ACCOUNT}")
    finally:
        process.terminate()
        process.wait(30)
