"""The stages on a real Ray: separate operators on every size of machine, and streaming from the first object."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from masklake.jobs.cluster.cluster import Cluster, ray_cluster
from masklake.model.decode import DecodeOptions
from masklake.pipeline.decode import DECODED, decode_rows
from masklake.pipeline.lake.run_record import RunFolder
from masklake.pipeline.schema import Status
from masklake.pipeline.segment import manifest as manifest_module
from masklake.pipeline.segment.actor_ledger import ActorLedger
from masklake.pipeline.segment.fetch import FETCHED
from masklake.pipeline.segment.infer import infer_rows
from masklake.pipeline.segment.job import Progress
from masklake.pipeline.segment.listing import Listing
from masklake.pipeline.segment.planned import Planned
from masklake.pipeline.segment.resources import Resources
from masklake.pipeline.segment.run import run
from masklake.pipeline.segment.stages import dataset
from masklake.pipeline.segment.steps import Plan, _undecoded, _undetected
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.store import Storage
from masklake.pipeline.streams.context import packet_context

from tests.helpers.images import solid
from tests.helpers.predictors import VOCABULARY, ContentPredictor
from tests.helpers.runs import assert_exactly_once, execute, fill, make_job

MACHINES = [
    (1, 0),
    (2, 0),
    (4, 0),
    (8, 0),
    (9, 0),
    (16, 0),
    (96, 0),
    (1, 1),
    (4, 1),
    (8, 1),
    (16, 4),
    (192, 8),
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    """This machine's CPUs, and a GPU that exists only in Ray's books. A cluster that someone else has left on
    this machine is not joined."""
    import ray

    init = ray.init
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # TEST-NET-1: nobody answers
        patch.setattr(ray, "init", lambda **options: init(**options | {"num_gpus": 1}))
        with ray_cluster(None, None) as cluster:
            assert cluster.gpus == 1
            yield cluster


def _plan(tmp_path: Path, resources: Resources) -> Plan:
    return Plan(
        folder=RunFolder(str(tmp_path), "r", Storage()),
        attempt=1,
        model="m@1",
        predictor=ContentPredictor,
        vocabulary=VOCABULARY,
        decode=DecodeOptions(),
        max_bytes=1000,
        resources=resources,
    )


def _operators(ds: Any) -> list[str]:
    """Names of the optimised physical plan's operators, source first."""
    from ray.data._internal.logical.optimizers import get_execution_plan

    operator, names = get_execution_plan(ds._logical_plan)[0].dag, []
    while operator.input_dependencies:
        names.append(operator.name)
        operator = operator.input_dependencies[0]
    return names[::-1]


OPERATORS = [
    "ReadManifest",
    "MapBatches(load_packets)",
    "MapBatches(Infer)",
    "MapBatches(encode_packet)",
    "MapBatches(write_packets)",
]


@pytest.mark.parametrize(("cpus", "gpus"), MACHINES)
@pytest.mark.parametrize("actors", [None, (1, 1), (1, 5), (8, 8)])
def test_no_operator_is_fused_with_another(
    tmp_path: Path, cpus: int, gpus: int, actors: tuple[int, int] | None
) -> None:
    resources = Resources.fitted(cpus, gpus, actors=actors)
    operators = [name for name in OPERATORS if gpus or "encode" not in name]  # without GPUs, it is in Infer
    assert _operators(dataset(_plan(tmp_path, resources), ActorLedger(None))) == operators


@pytest.mark.parametrize(("cpus", "gpus"), MACHINES)
@pytest.mark.parametrize("actors", [None, (1, 1), (1, 5), (8, 8)])
def test_every_stage_finds_a_cpu_beside_the_actors(
    cpus: int, gpus: int, actors: tuple[int, int] | None
) -> None:
    """Else a run waits for ever: the actors hold what the tasks that feed them need."""
    r = Resources.fitted(cpus, gpus, actors=actors)
    left = cpus - r.actors[1] * r.infer_cpus
    reading = 0.05
    if r.actors[1] <= 5 * cpus:  # Ray counts shares in hundredths of a CPU here; below that there is no room
        assert left >= reading + max(r.load_cpus, r.encode_cpus, r.write_cpus)


@pytest.mark.parametrize(("nodes", "node_cpus"), [(2, 1), (3, 2), (16, 1), (16, 4), (4, 8), (32, 16)])
@pytest.mark.parametrize("actors", [None, (1, 4), (1, 32)])
def test_when_nodes_go_the_last_has_room_for_all_actors_and_a_task(
    nodes: int, node_cpus: int, actors: tuple[int, int] | None
) -> None:
    """Ray starts the actors again there first, and they wait for what is to be decoded again."""
    r = Resources.fitted(nodes * node_cpus, 0, node_cpus=node_cpus, actors=actors)
    left = node_cpus - r.actors[1] * r.infer_cpus
    reading = 0.05
    assert left >= reading + max(r.load_cpus, r.encode_cpus, r.write_cpus)


def test_given_sizes_are_kept() -> None:
    r = Resources.fitted(8, 0, actors=(2, 3), packet_images=5, commit_images=7)
    assert (r.actors, r.packet_images, r.commit_images) == ((2, 3), 5, 7)


@pytest.mark.parametrize(
    ("actors", "packet", "part", "images"),
    [
        (1, 16, 32_768, 32), (4, 16, 256, 32), (4, 16, 32_768, 128), (64, 16, 32_768, 256), (1, 64, 256, 64), (16, 64, 1024, 128),
        (16, 64, 32_768, 256), (2, 512, 32_768, 512), (4, 16, 1, 16), (4, 24, 32_768, 192),
    ],
)  # fmt: skip
def test_a_task_of_load_has_more_packets_the_more_predictors_it_feeds(
    actors: int, packet: int, part: int, images: int
) -> None:
    """Whole packets; few of them at the start, and never so many that the predictors wait for one task."""
    resources = Resources.fitted(64, 0, actors=(actors, actors), packet_images=packet)
    assert resources.load_images(part) == images
    assert images == packet or images <= min(resources.images_ahead / 4, part / 8)


def test_a_run_on_gpus(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 10)
    job = make_job(str(tmp_path / "photos"), str(tmp_path / "lake"))
    record, _ = execute(job, Resources.fitted(2, 1, packet_images=3, commit_images=4))
    assert record.state == "complete", record.error
    uris = [str(p) for p in sorted((tmp_path / "photos").iterdir())]
    assert assert_exactly_once(job.record.lake, record.run, uris) == {"ok": 10}
    packets, calls = (record.stages[stage]["batches"] for stage in ("decode", "infer"))
    assert (packets, calls) == (4, 1), "packets of 3, 3, 3 and 1 images are predicted together"


@pytest.mark.parametrize("packet_images", [1, 3, 16, 64, 500])
@pytest.mark.parametrize(("cpus", "gpus"), MACHINES)
def test_a_predictor_that_waits_for_packets_gets_them(cpus: int, gpus: int, packet_images: int) -> None:
    """Even where all have the largest load that they may have, so many are handed out."""
    resources = Resources.fitted(cpus, gpus, packet_images=packet_images)
    assert resources.infer_packets == (4 if gpus else 1)
    if gpus:
        fewest = -(-resources.images_ahead // (packet_images + resources.most_load))
        assert fewest >= resources.infer_packets


def test_the_first_images_are_done_before_the_listing_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing waits for the first commit: were it listed to its end first, nothing would ever happen."""
    fill(tmp_path / "photos", 40)
    monkeypatch.setattr(manifest_module, "_FIRST_PART", 8)
    listed, committed, waited = Listing.__iter__, threading.Event(), []

    def slow(listing: Listing) -> Iterator[ObjectInfo]:
        for i, info in enumerate(listed(listing)):
            if i == 30:
                waited.append(committed.wait(120))
            yield info

    monkeypatch.setattr(Listing, "__iter__", slow)
    job = make_job(str(tmp_path / "photos"), str(tmp_path / "lake"))
    folder = RunFolder(job.record.lake, job.record.run, Storage())

    def watch(progress: Progress) -> None:
        if folder.storage.list(folder.table_uri("images")) and not committed.is_set():
            assert not folder.storage.exists(f"{folder.manifest_uri}/complete.json")
            assert not progress.totals.complete
            committed.set()

    record, progress = run(job, Planned(job), Resources.fitted(2, 0, packet_images=4, commit_images=4), watch)
    assert waited == [True]
    assert (record.state, record.error) == ("complete", None)
    assert progress.totals.complete
    uris = [str(p) for p in sorted((tmp_path / "photos").iterdir())]
    assert_exactly_once(job.record.lake, record.run, uris)


def test_many_small_parts_do_not_stop_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow listing makes parts of one image: each counts as one on its way, not as a whole packet."""
    fill(tmp_path / "photos", 14)
    monkeypatch.setattr(manifest_module, "_LONGEST_WAIT_S", -1.0)
    job = make_job(str(tmp_path / "photos"), str(tmp_path / "lake"))
    record, _ = execute(job, Resources.fitted(2, 0, packet_images=64, commit_images=64))
    assert record.state == "complete"
    assert record.manifest["parts"] == 14


def test_the_backlog_is_bounded_by_a_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a predictor that is slow, no more is fetched than what it will need next."""
    fill(tmp_path / "photos", 30)
    most, resources = _largest_backlog(tmp_path, seconds=0.02)
    assert resources.images_ahead == 8
    assert 0 < most <= resources.images_ahead


def test_in_the_backlog_a_large_image_counts_as_several(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 12)
    for path in (tmp_path / "photos").iterdir():
        with path.open("ab") as file:
            file.write(bytes(17 * 2**20))  # what follows an image's end is not looked at
    most, resources = _largest_backlog(tmp_path, seconds=0.2)
    assert 0 < most <= resources.images_ahead / 4


def _largest_backlog(tmp_path: Path, seconds: float) -> tuple[int, Resources]:
    """Of a run over the photos: the most images seen between fetch and a predictor's end."""
    job = make_job(str(tmp_path / "photos"), str(tmp_path / "lake"), seconds=seconds)
    resources = Resources.fitted(2, 0, actors=(1, 1), packet_images=1, commit_images=30)
    most = 0

    def watch(progress: Progress) -> None:
        nonlocal most
        stages = progress.snapshot.get("stages", {})
        fetched, inferred = (int(stages.get(s, {}).get("images", 0)) for s in ("fetch", "infer"))
        most = max(most, fetched - inferred)

    record, _ = run(job, Planned(job), resources, watch)
    assert record.state == "complete"
    return most, resources


def test_accounting_of_every_stage(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 12)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    job = make_job(str(tmp_path / "photos"), str(tmp_path / "lake"), seconds=0.01)
    record, _ = execute(job)
    assert set(record.stages) == {"fetch", "decode", "infer", "encode", "write"}
    assert all(figures["images"] == 13 for figures in record.stages.values())
    assert all(figures["seconds"] > 0 for figures in record.stages.values())
    assert record.stages["infer"]["seconds"] >= 0.12
    assert record.stages["infer"]["idle_seconds"] > 0
    assert record.stages["fetch"]["bytes"] >= sum(p.stat().st_size for p in (tmp_path / "photos").iterdir())
    written = [p for p in (tmp_path / "lake").rglob("part-*.parquet") if "runs" not in p.parts]
    assert record.stages["write"]["bytes"] == sum(p.stat().st_size for p in written)


# ---- rows that are given up ----


def _fetched(n: int) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "image_id": i, "uri": f"u{i}", "etag": None, "size_bytes": 1, "last_modified": None,
                "status": "ok", "error": None, "data": solid((i, 0, 0), (4, 4)),
            }
            for i in range(n)
        ],
        FETCHED,
    )  # fmt: skip


def test_rows_that_are_given_up_fit_beside_the_others() -> None:
    """`guarded` concatenates them: names, order and types must be those of the rows that went well."""
    fetched = _fetched(2)
    decoded = decode_rows(fetched.slice(0, 1), DecodeOptions())
    undecoded = _undecoded(fetched.slice(1, 1), "killed")
    both = pa.concat_tables([decoded, undecoded])
    assert both["status"].to_pylist() == ["ok", "failed"]
    assert both["error"].to_pylist() == [None, "killed"]
    assert [both.schema.field(f.name).type for f in DECODED] == [f.type for f in DECODED]
    inferred = infer_rows(decode_rows(fetched.slice(0, 1), DecodeOptions()), ContentPredictor())
    undetected = _undetected(decode_rows(fetched.slice(1, 1), DecodeOptions()), "killed")
    both = pa.concat_tables([inferred, undetected])
    assert both["status"].to_pylist() == ["ok", str(Status.FAILED)]
    assert both["boxes"].null_count == 1
    assert both["width"].to_pylist() == [4, 4]


def test_ray_keeps_nothing_of_packets_that_are_done() -> None:
    """Its statistics of blocks would make the driver grow as long as the run goes on."""
    import ray
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    kept = []

    class Look(ExecutionCallback):
        def after_execution_succeeds(self, executor: Any) -> None:
            kept.extend(len(operator._output_blocks_stats) for operator in list(executor._topology)[1:])

    context = packet_context()
    context.custom_execution_callback_classes.append(Look)
    try:
        ds = ray.data.range(60, override_num_blocks=60).map_batches(lambda rows: rows, num_cpus=0.3)
        assert ds.materialize().count() == 60
    finally:
        context.custom_execution_callback_classes.remove(Look)
    assert len(kept) == 2
    assert sum(kept) < 30


@pytest.mark.slow
def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    """Ray Data has counted 1.57 of two CPUs after some seconds, and left none for the last operator until the source had ended."""
    fill(tmp_path / "photos", 2000)
    job = make_job(str(tmp_path / "photos"), str(tmp_path / "lake"))
    behind: list[float] = []

    def watch(progress: Progress) -> None:
        inferred, written = (
            progress.snapshot.get("stages", {}).get(stage, {}).get("images", 0)
            for stage in ("infer", "write")
        )
        behind.append(inferred - written)

    resources = Resources.fitted(2, 0, packet_images=4, commit_images=32)
    record, _ = run(job, Planned(job), resources, watch)
    assert record.state == "complete"
    assert max(behind) < 500
