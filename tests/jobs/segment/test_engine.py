"""Which runs do without Ray, and with how many processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from masklake.jobs.cli import understood
from masklake.jobs.cluster.cluster import Cluster
from masklake.jobs.segment.engine import local_resources
from masklake.jobs.segment.options import LOCAL_IMAGES
from masklake.pipeline.errors import UserError
from masklake.pipeline.segment.listing import Listing
from masklake.pipeline.segment.planned import Planned
from masklake.pipeline.storage.objects import ObjectInfo

from tests.helpers.runs import fill, make_job

BIG = Cluster(cpus=16, gpus=0, memory=2**40, node_cpus=16)


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    fill(tmp_path / "photos", 40)
    return Planned(make_job(str(tmp_path / "photos"), str(tmp_path / "lake")))


def _local(planned: Planned, *options: str, machine: Cluster = BIG, **sizes: int) -> Any:
    line: Any = understood(["segment", "photos/", "lake/", *options])
    return local_resources(line.options, planned, machine, sizes)


def test_a_few_images_are_spread_over_a_few_processes(planned: Planned) -> None:
    resources = _local(planned)
    assert (resources.actors, resources.packet_images, resources.infer_gpus) == ((4, 4), 10, 0)
    assert len(list(planned.objects())) == 40, "they are counted, and still all there"


@pytest.mark.parametrize(
    ("options", "machine", "workers"),
    [
        (("--actors", "1:3"), BIG, 3),
        ((), Cluster(cpus=2, gpus=0, memory=2**40, node_cpus=2), 2),
        ((), Cluster(cpus=16, gpus=0, memory=2**30, node_cpus=16), 1),
        ((), Cluster(cpus=16, gpus=1, memory=2**40, node_cpus=16), 1),
        (("--engine", "local"), BIG, 4),
    ],
)
def test_options_memory_and_a_gpu_count(
    planned: Planned, options: tuple[str, ...], machine: Cluster, workers: int
) -> None:
    assert _local(planned, *options, machine=machine).actors == (workers, workers)


def test_a_given_size_is_kept(planned: Planned) -> None:
    resources = _local(planned, packet_images=3, commit_images=7)
    assert (resources.packet_images, resources.commit_images) == (3, 7)


@pytest.mark.parametrize("options", [("--engine", "ray"), ("--address", "head:6379")])
def test_ray_where_it_is_asked_for(planned: Planned, options: tuple[str, ...]) -> None:
    assert _local(planned, *options) is None


def test_ray_for_several_gpus(planned: Planned) -> None:
    machine = Cluster(cpus=16, gpus=2, memory=2**40, node_cpus=16)
    assert _local(planned, machine=machine) is None
    with pytest.raises(UserError, match="--engine local: uses one GPU"):
        _local(planned, "--engine", "local", machine=machine)


def test_local_and_an_address_contradict(planned: Planned) -> None:
    with pytest.raises(UserError, match=r"--engine local.*--address"):
        _local(planned, "--engine", "local", "--address", "head:6379")


class _Source:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, images: int) -> None:
        def listed(_: Listing) -> Iterator[ObjectInfo]:
            for i in range(images):
                yield ObjectInfo(f"s3://b/{i:06d}.jpg", "e", 1, None)

        monkeypatch.setattr(Listing, "__iter__", listed)


@pytest.mark.parametrize(("images", "local"), [(LOCAL_IMAGES, True), (LOCAL_IMAGES + 1, False)])
def test_ray_for_many_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, local: bool
) -> None:
    _Source(monkeypatch, images)
    planned = Planned(make_job("s3://b/", str(tmp_path / "lake")))
    assert (_local(planned) is not None) == local
    assert len(list(planned.objects())) == images
    assert _local(Planned(make_job("s3://b/", str(tmp_path / "lake"))), "--engine", "local").actors[1] >= 8


def test_counting_gives_up_where_the_listing_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is listed is covered, say: the run shall not wait for the end of it."""
    _Source(monkeypatch, 5)
    planned = Planned(make_job("s3://b/", str(tmp_path / "lake")))
    assert planned.count(100, seconds=-1.0) is None
    assert len(list(planned.objects())) == 5
