"""A throw-away Ceph RGW (one mon, one OSD, one radosgw) on loopback: a real object store to test against.

    apt-get install -y --no-install-recommends radosgw ceph-mon ceph-osd

No systemd and no manager daemon: the daemons are children of this process, and the kernel kills them when
the thread that started them ends.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from masklake.jobs.demo.loopback_s3 import HOST, LoopbackS3

from tests.helpers.servers.ports import free_port

_PROGRAMS = (
    "radosgw",
    "radosgw-admin",
    "ceph-mon",
    "ceph-osd",
    "ceph",
    "ceph-authtool",
    "monmaptool",
    "setpriv",
)

# Timeouts and sizes are cut down from production values so that the cluster is ready in seconds.
_CONF = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
mon initial members = a
public network = 127.0.0.0/8
ms bind ipv6 = false
ms bind msgr1 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
run dir = {root}/run
pid file = {root}/run/$name.pid
admin socket = {root}/run/$name.asok
log file = {root}/run/$name.log
mon cluster log file = {root}/run/cluster.log
crash dir = {root}/run
heartbeat file = {root}/run/$name.hb
keyring = {root}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon allow pool delete = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
[mon.a]
mon data = {root}/mon
public addr = v2:127.0.0.1:{mon_port}
mon election timeout = 1
mon tick interval = 1
paxos propose interval = 0.02
paxos min wait = 0.01
[osd]
osd data = {root}/osd
osd objectstore = {store}
memstore device bytes = 4294967296
bluestore block size = 10737418240
osd memory target = 939524096
osd class load list = *
osd class default list = *
[client]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 64
rgw override bucket index max shards = 1
rgw run sync thread = false
rgw dynamic resharding = false
rgw max concurrent requests = {max_concurrent}
debug rgw = 0
"""


def available() -> str | None:
    """Why RGW cannot run on this machine, or None when it can."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if not missing:
        return None
    return f"Ceph RGW: {', '.join(missing)} not installed (apt-get install radosgw ceph-mon ceph-osd)"


@dataclass(kw_only=True)
class RGW:
    """One cluster; a context manager that creates it and removes it.

    `max_concurrent`: requests served at once; above it RGW answers 503 SlowDown.
    `store`: `memstore` is quick and forgets on `kill()`; `bluestore` keeps every acknowledged object.
    """

    max_concurrent: int = 1024
    store: str = "memstore"
    server: LoopbackS3 = field(init=False)
    """The endpoint, with the keys of a user who may do anything."""
    guest: LoopbackS3 = field(init=False)
    """The same endpoint with the keys of a user who owns no bucket."""
    _root: Path = field(init=False, repr=False)
    _mon_port: int = field(init=False, repr=False)
    _daemons: dict[str, subprocess.Popen[bytes]] = field(init=False, repr=False, default_factory=dict)

    def __enter__(self) -> RGW:
        # Unix socket paths end at 107 bytes, which TMPDIR may already fill.
        self._root = Path(tempfile.mkdtemp(prefix="rgw", dir="/tmp"))
        self._mon_port = free_port()
        self.server = LoopbackS3(
            endpoint=f"http://{HOST}:{free_port()}", access_key="AKTEST", secret_key="SKTEST"
        )
        self.guest = replace(self.server, access_key="AKGUEST", secret_key="SKGUEST")
        try:
            self._create()
        except BaseException:
            self.kill()  # the directory stays: its logs say what went wrong
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._root, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL every daemon: the fault to inject, and the quick way to stop."""
        for daemon in self._daemons.values():
            daemon.kill()
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()

    def start(self, *, timeout: float = 90) -> None:
        """Start the daemons again on what `store="bluestore"` kept, and wait until they serve (seconds)."""
        self._spawn("mon", "ceph-mon", "-f", "-i", "a")
        self._spawn("osd", "ceph-osd", "-f", "-i", "0")
        self._spawn("rgw", "radosgw", "-f", "-n", "client.rgw.a")
        self._wait_ready(timeout)

    def allow_guest(self, bucket: str, *actions: str, prefix: str = "") -> None:
        """Let the guest do only `actions` (`s3:GetObject`, `s3:ListBucket`, …) in `bucket`; on objects,
        only below `prefix`."""
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": ["arn:aws:iam:::user/guest"]},
            "Action": list(actions),
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{prefix}*"],
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        self.server.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))

    def _create(self) -> None:
        for name in ("mon", "osd", "run"):
            (self._root / name).mkdir()
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        (self._root / "ceph.conf").write_text(
            _CONF.format(
                fsid=fsid,
                root=self._root,
                port=self._port,
                mon_port=self._mon_port,
                store=self.store,
                max_concurrent=self.max_concurrent,
            )
        )
        keys = str(self._root / "keyring")
        everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
        self._run("ceph-authtool", "-C", keys, "-g", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", keys, "-g", "-n", "client.admin", *everything, "--cap", "mgr", "allow *")
        self._run("ceph-authtool", keys, "-g", "-n", "client.rgw.a", *everything)
        osd_caps = ("--cap", "mon", "allow profile osd", "--cap", "osd", "allow *")
        self._run("ceph-authtool", keys, "-g", "-n", "osd.0", *osd_caps)
        address = f"[v2:{HOST}:{self._mon_port}]"
        self._run("monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", fsid, "monmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", keys)
        self._spawn("mon", "ceph-mon", "-f", "-i", "a")
        self._run("ceph", "--connect-timeout", "20", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._spawn("osd", "ceph-osd", "-f", "-i", "0")
        # A pool made before the OSD is up waits for a tick of the monitor.
        end = time.monotonic() + 60
        while " 1 up" not in self._run("ceph", "--connect-timeout", "20", "osd", "stat"):
            if time.monotonic() > end:
                raise TimeoutError(f"Ceph OSD not up, see {self._root}/run")
            time.sleep(0.1)
        for name, user in (("test", self.server), ("guest", self.guest)):
            keys_of = (f"--access-key={user.access_key}", f"--secret-key={user.secret_key}")
            self._run("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}", *keys_of)
        self._spawn("rgw", "radosgw", "-f", "-n", "client.rgw.a")
        self._wait_ready(60)

    @property
    def _port(self) -> int:
        return int(self.server.endpoint.rpartition(":")[2])

    def _environ(self) -> dict[str, str]:
        # Ceph's own Python tools must not see ours.
        ours = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        return ours | {"CEPH_CONF": f"{self._root}/ceph.conf", "CEPH_ARGS": "--no-mon-config"}

    def _run(self, *command: str) -> str:
        process = subprocess.run(
            command,
            cwd=self._root,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} exited {process.returncode}: {process.stderr[-2000:]}")
        return process.stdout

    def _spawn(self, name: str, *command: str) -> None:
        with (self._root / "run" / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                ("setpriv", "--pdeathsig", "KILL", "--", *command),
                cwd=self._root,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _wait_ready(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for name, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    raise RuntimeError(f"{name} exited {daemon.returncode}, see {self._root}/run/{name}.out")
            connection = http.client.HTTPConnection(HOST, self._port, timeout=5)
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            else:
                return
            finally:
                connection.close()
        raise TimeoutError(f"radosgw not ready after {timeout} s, see {self._root}/run")
