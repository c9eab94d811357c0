"""A cluster on one machine: a run over Ceph RGW is submitted, stopped and resumed; nodes are killed, join, are cut off."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from masklake.model import scenes
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket, CliResult
from tests.helpers.faults.laptop import Laptop
from tests.helpers.faults.table import counted, struck
from tests.helpers.runs import part_names, table
from tests.helpers.servers import network
from tests.helpers.servers.ray_nodes import RayNodes, ray_nodes

pytestmark = pytest.mark.slow
ON_RGW = pytest.mark.parametrize("s3_bucket", [pytest.param("rgw", marks=pytest.mark.rgw)], indirect=True)

N = 160
# Tiles make each image several times the work: the run has to outlast a node's start.
OPTIONS = ("--model", "demo", "--actors", "1:4", "--batch-size", "4", "--commit-images", "8", "--tile", "128")


def used(cluster: RayNodes) -> Counter[str]:
    """How many tasks of the pipeline each node has finished, by the nodes' names."""
    names = cluster.node_ids()
    return Counter(
        names.get(task["node_id"], "?")
        for name in ("MapBatches(load_packets)", "MapBatches(write_packets)")
        for task in cluster.listed("tasks", name=name)
        if task["state"] == "FINISHED"
    )


def committed(lake: str, run_id: str) -> int:
    return len(part_names(lake, "images", run_id))


def put_scenes(bucket: Bucket, folder: Path, n: int) -> tuple[str, set[str]]:
    """`n` scenes in the bucket: where, and their URIs."""
    scenes.write(folder, n, 3)
    photos = sorted(folder.glob("*.jpg"))
    for photo in photos:
        bucket.put(f"photos/{photo.name}", photo.read_bytes())
    source = f"{bucket.uri}/photos/"
    return source, {f"{source}{photo.name}" for photo in photos}


def begin(masklake: Laptop, source: str, lake: str) -> tuple[str, str]:
    """Two nodes join and a run is submitted: the job and the run, once both nodes work and some of it is committed."""
    cluster = masklake.cluster
    cluster.add("one", 1)
    cluster.add("two", 1)
    job = masklake.submit("segment", source, lake, *OPTIONS)
    run_id = masklake.run_of(job)
    cluster.wait_until(lambda: committed(lake, run_id) >= 2, 180)
    assert used(cluster).keys() == {"one", "two"}
    return job, run_id


def assert_whole(lake: str, run_id: str, uris: set[str], attempt: int) -> None:
    """Each image is there once, with its instances."""
    record = RunFolder(lake, run_id, Storage()).load()
    assert (record.state, record.attempt) == ("complete", attempt)
    assert record.verification is not None
    images, instances = table(lake, "images", run_id), table(lake, "instances", run_id)
    rows = Counter(images["uri"].to_pylist())
    counted(len(uris), len(images), lost=len(uris - rows.keys()), doubled=len(images) - len(rows))
    assert rows == Counter(uris)
    assert set(images["status"].to_pylist()) == {"ok"}
    owners = Counter(instances["uri"].to_pylist())
    assert [owners[uri] for uri in images["uri"].to_pylist()] == images["n_instances"].to_pylist()
    assert part_names(lake, "images", run_id) == part_names(lake, "instances", run_id)


@ON_RGW
def test_submitted_stopped_resumed_while_nodes_go_and_come(
    s3_bucket: Bucket, tmp_path: Path, run_cli: Callable[..., CliResult]
) -> None:
    source, uris = put_scenes(s3_bucket, tmp_path / "scenes", N)
    lake = f"{s3_bucket.uri}/lake"
    # Only the nodes have the credentials: what is sent to them has none.
    with ray_nodes(s3=s3_bucket.server) as cluster:
        masklake = Laptop(cluster=cluster, run_cli=run_cli)
        first, run_id = begin(masklake, source, lake)
        assert cluster.exposed() == set()

        stopped = masklake("jobs", "stop", first)
        assert stopped.code == 0
        assert f"segment {source} {lake} --resume {run_id}" in stopped.stderr
        assert RunFolder(lake, run_id, Storage()).load().state == "stopped"
        before = committed(lake, run_id)
        assert before * 8 < N

        second = masklake.submit("segment", source, lake, "--resume", run_id, *OPTIONS[2:8])
        cluster.wait_until(lambda: committed(lake, run_id) > before, 180)
        began = time.monotonic()
        struck()
        cluster.kill("one")
        cluster.add("three", 1)
        done = masklake("jobs", "logs", second, "--follow")
        print(f"{time.monotonic() - began:.0f} s from the kill to the end")
        assert done.code == 0, done.stdout[-4000:] + done.stderr
        assert used(cluster)["three"] > 0

        answer = json.dumps(cluster.ask("/api/jobs/"))
        assert s3_bucket.server.secret_key not in answer
        assert cluster.token not in answer

    assert_whole(lake, run_id, uris, attempt=2)


@ON_RGW
def test_a_node_whose_network_vanishes(
    s3_bucket: Bucket, tmp_path: Path, run_cli: Callable[..., CliResult]
) -> None:
    """It is given up, and the other does all of its work; then it is back, and what it still had to write comes late."""
    if reason := network.unavailable():
        pytest.skip(f"nodes on the loopback have no network of their own: {reason}")
    source, uris = put_scenes(s3_bucket, tmp_path / "scenes", N // 2)
    lake = f"{s3_bucket.uri}/lake"
    with ray_nodes(s3=s3_bucket.server) as cluster:
        masklake = Laptop(cluster=cluster, run_cli=run_cli)
        job, run_id = begin(masklake, source, lake)

        struck()
        cluster.unplug("one")
        began = time.monotonic()
        cluster.wait_until(lambda: "one" not in cluster.names(), 120)
        print(f"{time.monotonic() - began:.0f} s until it was given up; {committed(lake, run_id)} parts")
        cluster.plug("one")
        done = masklake("jobs", "logs", job, "--follow")
        print(f"{time.monotonic() - began:.0f} s until the end")
        assert done.code == 0, done.stdout[-4000:] + done.stderr
    assert_whole(lake, run_id, uris, attempt=1)
