"""The views of a lake: what they hold, and how little is read for them."""

from __future__ import annotations

import datetime
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from masklake.jobs.query import database as sql
from masklake.jobs.query.database import Database
from masklake.jobs.query.lake_files import ROOT, LakeFiles
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import SCHEMAS, Lake, Part
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import WHEN, LakeBuilder, empty_label_row, image, instance, label_row

R1, R2, R3 = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb", "20261103T000000-cccccc"


@pytest.fixture
def builder(tmp_path: Path) -> LakeBuilder:
    return LakeBuilder(str(tmp_path / "lake"))


def opened(builder: LakeBuilder, run: str | None = None) -> Database:
    return Database(Lake(builder.uri, Storage()), run=run)


def rows(builder: LakeBuilder, query: str, run: str | None = None) -> list[tuple[Any, ...]]:
    with opened(builder, run) as database:
        return database.rows(query)


@pytest.fixture
def three_runs(builder: LakeBuilder) -> LakeBuilder:
    """a is only in R1; b in R1 and R2; c, which failed last, in all; R2 has a second part with d."""
    builder.part(R1, {"s3://p/a": [instance("dog", 0.9)], "s3://p/b": [instance("dog", 0.8), instance("cat", 0.7)],
                      "s3://p/c": [instance("dog", 0.6)]})  # fmt: skip
    builder.part(R2, {"s3://p/b": [instance("person", 0.5)], "s3://p/c": [instance("cat", 0.4)]})
    builder.part(R2, {"s3://p/d": []})
    builder.part(
        R3, [(image("s3://p/c", status="failed", error="503 SlowDown", width=None, height=None), [])]
    )
    for run in (R1, R2, R3):
        builder.record(run)
    return builder


def test_the_newest_run_of_each_image_counts(three_runs: LakeBuilder) -> None:
    assert rows(three_runs, "select uri, run, status from images order by uri") == [
        ("s3://p/a", R1, "ok"), ("s3://p/b", R2, "ok"), ("s3://p/c", R3, "failed"), ("s3://p/d", R2, "ok"),
    ]  # fmt: skip
    assert rows(three_runs, "select uri, run, label from instances order by all") == [
        ("s3://p/a", R1, "dog"), ("s3://p/b", R2, "person"),
    ]  # fmt: skip
    assert rows(three_runs, "select uri, error from errors") == [("s3://p/c", "503 SlowDown")]


def test_all_tables_hold_every_run(three_runs: LakeBuilder) -> None:
    assert rows(three_runs, "select count(*), count(distinct run) from all_images") == [(7, 3)]
    assert rows(three_runs, "select label, count(*) from all_instances group by 1 order by 1") == [
        ("cat", 2), ("dog", 3), ("person", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("run", "uris"), [(R1, "abc"), (R2, "bcd"), (R3, "c"), ("last", "c")])
def test_one_run_can_be_chosen(three_runs: LakeBuilder, run: str, uris: str) -> None:
    for table in ("images", "all_images"):
        rows_of_run = rows(three_runs, f"select uri from {table} order by 1", run)
        assert [uri[-1] for (uri,) in rows_of_run] == list(uris)
    assert rows(three_runs, "select count(*) from runs", run) == [(1,)]


def test_a_run_that_does_not_exist_is_named(three_runs: LakeBuilder) -> None:
    with pytest.raises(UserError, match=rf"has no run 'x'; its newest run is {R3}; `masklake runs"):
        opened(three_runs, "x")


@pytest.mark.parametrize("seed", range(8))
def test_newest_rows_agree_with_a_plain_reading_of_all_of_them(builder: LakeBuilder, seed: int) -> None:
    """Runs that replace others whole, in part, or not at all, against the rule written out in Python."""
    chance = random.Random(seed)  # noqa: S311  # test data
    newest: dict[str, tuple[str, list[str]]] = {}
    for i in range(5):
        run = f"2026110{i}T000000-aaaaaa"
        folder = chance.choice(["x", "x", "y", str(i)])
        for _ in range(chance.randint(1, 3)):
            names = [f"s3://p/{folder}/é{n:03d}" for n in chance.sample(range(12), chance.randint(1, 8))]
            images = {name: [instance(chance.choice(["dog", "cat"]), chance.random())] for name in names}
            already = {uri for uri, (owner, _) in newest.items() if owner == run}
            images = {name: rows for name, rows in images.items() if name not in already}
            builder.part(run, images)
            newest.update({name: (run, [row["label"] for row in rows]) for name, rows in images.items()})
    expected_images = sorted((uri, run) for uri, (run, _) in newest.items())
    expected_instances = sorted(
        (uri, run, label) for uri, (run, labels) in newest.items() for label in labels
    )
    with opened(builder) as database:
        assert sorted(database.rows("select uri, run from images")) == expected_images
        assert sorted(database.rows("select uri, run, label from instances")) == expected_instances


def test_uncommitted_and_foreign_files_are_not_read(builder: LakeBuilder) -> None:
    builder.part(R1, {"s3://p/a": [instance("dog", 0.9)]})
    builder.part(R1, {"s3://p/b": [instance("cat", 0.9)]}, commit=False)
    builder.part(R2, {"s3://p/c": [instance("cat", 0.9)]}, commit=False)
    for name in (
        "part-2.parquet.tmp",
        ".part-3.parquet",
        "part-'4.parquet",
        "part-[5].parquet",
        "other.parquet",
    ):
        for table in ("images", "instances"):
            path = Path(builder.uri) / table / f"run={R1}" / name
            path.write_bytes(b"not Parquet")
    assert rows(builder, "select uri, label from all_instances") == [("s3://p/a", "dog")]
    assert rows(builder, "select uri from all_images") == [("s3://p/a",)]


@pytest.mark.parametrize("name", ["a b", "100%", "[x]*?", "it's", "ü\u202e", "run=1", "#&;--"])
def test_a_lake_may_have_any_name(tmp_path: Path, name: str) -> None:
    builder = LakeBuilder(str(tmp_path / name))
    builder.part(R1, {"s3://p/a": [instance("dog", 0.9)]})
    assert rows(builder, "select run, uri, label from instances") == [(R1, "s3://p/a", "dog")]


def test_any_key_comes_back_as_it_is(builder: LakeBuilder) -> None:
    keys = [
        "s3://p/a'b\"c",
        "s3://p/\x1b[31m\n\x00",
        "s3://p/%41?*[",
        "s3://p/\U0001f600\u202e",
        "s3://p/;drop table images",
    ]
    builder.part(R1, {key: [instance("dog", 0.9)] for key in keys})
    builder.part(R2, {keys[0]: []})
    assert sorted(rows(builder, "select uri from images")) == sorted((key,) for key in keys)


@pytest.mark.parametrize("part", ["none", "empty"])
def test_a_lake_without_rows_has_the_same_views(builder: LakeBuilder, part: str) -> None:
    builder.record(R1)
    if part == "empty":
        builder.part(R1, {})
    types = {}
    with opened(builder) as database:
        for table in SCHEMAS:
            assert database.rows(f"select count(*) from {table}") == [(0,)]
            types[table] = [row[:2] for row in database.rows(f"describe {table}")]
        assert database.rows("select count(*) from errors") == [(0,)]
    builder.part(R1, {"s3://p/a": [instance("person", 0.9)]})
    builder.labels([label_row("s3://p/a", "person")])
    with opened(builder) as database:
        for table, schema in SCHEMAS.items():
            assert [row[:2] for row in database.rows(f"describe {table}")] == types[table]
            assert [name for name, _ in types[table]] == schema.names
    assert ("label", "VARCHAR") in types["instances"]
    assert ("mask", "STRUCT(size INTEGER[], counts VARCHAR)") in types["instances"]
    assert ("keypoints", 'STRUCT("name" VARCHAR, x FLOAT, y FLOAT, score FLOAT)[]') in types["instances"]
    assert ("processed_at", "TIMESTAMP WITH TIME ZONE") in types["images"]


def test_the_newest_label_set_of_each_image_counts(builder: LakeBuilder) -> None:
    later = WHEN + datetime.timedelta(days=1)
    builder.labels(
        [label_row("s3://p/a", "dog"), label_row("s3://p/a", "cat", instance=1), label_row("s3://p/b", "dog")]
    )
    builder.labels(
        [label_row("s3://p/a", "person", labelled_at=later), label_row("s3://p/a", "dog", labelled_at=later)]
    )
    assert rows(builder, "select uri, label from labels order by all") == [
        ("s3://p/a", "dog"), ("s3://p/a", "person"), ("s3://p/b", "dog"),
    ]  # fmt: skip
    assert rows(builder, "select count(*) from all_labels") == [(5,)]
    assert rows(builder, "select keypoints[1].visibility, mask.size from labels where label = 'person'") == [
        (2, [48, 64])
    ]


def test_an_image_labelled_as_empty_is_labelled_and_has_no_labels(builder: LakeBuilder) -> None:
    later = WHEN + datetime.timedelta(days=1)
    builder.labels(
        [label_row("s3://p/a", "dog"), label_row("s3://p/a", "cat", instance=1), label_row("s3://p/b", "dog")]
    )
    builder.labels(
        [empty_label_row("s3://p/b", labelled_at=later, split="val"), empty_label_row("s3://p/c", width=None)]
    )
    assert rows(builder, "select uri, count(*) from labels group by all") == [("s3://p/a", 2)]
    result = rows(
        builder, "select uri, width, n_instances, source, split, labelled_at from labelled order by uri"
    )
    assert result == [
        ("s3://p/a", 64, 2, "human", "train", WHEN),
        ("s3://p/b", 64, 0, "human", "val", later),
        ("s3://p/c", None, 0, "human", "train", WHEN),
    ]
    assert rows(builder, "select count(*) from all_labels where instance = -1") == [(2,)]


def test_runs_tell_what_their_records_tell(builder: LakeBuilder) -> None:
    builder.record(R1, manifest={"images": 10, "complete": True}, counts={"ok": 7, "missing": 2, "failed": 1},
                   instances=70, seconds=5.0)  # fmt: skip
    builder.raw_record(R2, counts=None)
    builder.part(R3, {"s3://p/a": []})
    result = rows(
        builder, "select run, state, model, images, done, ok, failures, instances, seconds, attempt from runs"
    )
    assert result == [
        (R3, "unreadable", None, None, 0, 0, 0, None, None, None),
        (R2, "unreadable", None, None, 0, 0, 0, None, None, None),
        (R1, "complete", "demo@0123456789ab", 10, 10, 7, 3, 70, 5.0, 1),
    ]
    query = "select created_at, epoch(finished_at - created_at), json_extract_string(record, '$.host') from runs where error is null"
    assert rows(builder, query) == [(WHEN, 60.0, "worker-1")]
    assert dict(rows(builder, "select run, error from runs where error is not null")) == {
        R2: f"{builder.uri}/runs/{R2}/run.json: is not a run record (counts is NoneType)",
        R3: "it has no run.json",
    }


def test_a_record_with_odd_texts_does_not_hide_the_other_runs(builder: LakeBuilder) -> None:
    """Half characters are what Python makes of bytes that are not UTF-8, in a name on a disk for example."""
    builder.record(R1)
    builder.record(
        R2, command=["segment", "caf\udce9"], source="/caf\udce9", finished_at="never", error="no \ud800"
    )
    query = (
        "select run, source, finished_at is null, error, record->>'$.command[1]' from runs where run = $run"
    )
    [row] = rows(builder, query.replace("$run", f"'{R2}'"))
    assert row == (R2, "/caf?", True, "no ?", "caf?")
    assert rows(builder, "select count(*), count(finished_at) from runs") == [(2, 1)]


def test_a_newer_schema_is_refused_wherever_it_shows(builder: LakeBuilder, tmp_path: Path) -> None:
    newer = r"written with lake schema 2, and this Masklake reads up to schema 1; upgrade Masklake"
    builder.part(R1, {"s3://p/a": [instance("dog", 0.9)]})
    builder.part(R2, {"s3://p/b": [instance("dog", 0.9)]}, version=2)
    builder.labels([label_row("s3://p/a", "dog")], version=2)
    for table in ("images", "instances", "errors", "all_images", "labels"):
        with pytest.raises(UserError, match=rf"part-.*\.parquet: was {newer}"):
            rows(builder, f"from {table}")
    assert rows(builder, "select count(*) from instances", R1) == [(1,)]
    other_lake = LakeBuilder(str(tmp_path / "other"))
    other_lake.part(R1, {"s3://p/a": [instance("dog", 0.9)]})
    other_lake.raw_record(R1, schema_version=2)
    for table in ("images", "runs"):
        with pytest.raises(UserError, match=rf"run\.json: was {newer}"):
            rows(other_lake, f"from {table}")


def test_what_is_no_lake_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: there is no such directory; check the lake's name"):
        Database(Lake(str(tmp_path / "nothing"), Storage()))
    with pytest.raises(UserError, match=r"is not a lake \(it has no runs, images or labels\)"):
        Database(Lake(str(tmp_path), Storage()))


def test_wrong_sql_is_answered_in_one_line_with_candidates(three_runs: LakeBuilder) -> None:
    with opened(three_runs) as database:
        for query, answer in {
            "select labl from instances": r'Referenced column "labl" not found.*Candidate bindings: "label"',
            "from instanzes": r"there is no table 'instanzes'; did you mean instances\? \(the tables are all_images, ",
            "select mask.sizes from instances": r'Could not find key "sizes" in struct.*"size"',
            "selekt 1": r"syntax error at or near \"selekt\"",
            "select lenght(uri) from images": r"Scalar Function with name lenght does not exist!.*length",
            "select ? from images": r"Values were not provided",
            "select uri::int from images": r"Could not convert string 's3://p/.' to INT32",
            "from images; from runs": r"2 SQL statements were given; give exactly one",
        }.items():
            with pytest.raises(UserError, match=answer) as error:
                database.rows(query)
            assert "\n" not in str(error.value)
            assert "LINE 1" not in str(error.value)


def test_a_part_that_has_gone_is_named(three_runs: LakeBuilder) -> None:
    with opened(three_runs) as database:
        database.lake.parts("instances")
        for path in (Path(three_runs.uri) / "instances" / f"run={R1}").iterdir():
            path.unlink()
        with pytest.raises(UserError, match=rf"instances/run={R1}/part-.*: has gone since .*; query again"):
            database.rows("from all_instances")


def test_a_broken_part_is_named(three_runs: LakeBuilder) -> None:
    [path] = (Path(three_runs.uri) / "instances" / f"run={R1}").iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"instances/run={R1}/{path.name}"):
        rows(three_runs, "from all_instances")


@pytest.mark.parametrize(
    "error", [OSError("AWS Error SLOW_DOWN"), ValueError("no region"), PermissionError("no")]
)
def test_storage_that_fails_while_it_is_read_is_named(
    three_runs: LakeBuilder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Failing(CountingFilesystem):
        def open_input_file(self, path: str) -> CountingFile:
            raise error

    monkeypatch.setattr(Lake, "arrow", lambda lake: (Failing(), lake.uri))
    with pytest.raises(
        UserError, match=rf"{three_runs.uri}/images/run=.*parquet: cannot read it: .*{error}"
    ) as caught:
        rows(three_runs, "from all_images")
    assert "Traceback" not in str(caught.value)


class CountingFile:
    def __init__(self, file: Any, path: str, reads: list[tuple[str, int, int]]) -> None:
        self._file, self._path, self._reads = file, path, reads

    def read_at(self, size: int, offset: int) -> bytes:
        data: bytes = self._file.read_at(size, offset)
        self._reads.append((self._path, offset, len(data)))
        return data

    def size(self) -> int:
        return int(self._file.size())

    def close(self) -> None:
        self._file.close()


class CountingFilesystem:
    """Notes (path, offset, bytes) of every read."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, int, int]] = []
        self._fs = pyarrow.fs.LocalFileSystem()

    def open_input_file(self, path: str) -> CountingFile:
        return CountingFile(self._fs.open_input_file(path), path, self.reads)

    @property
    def bytes(self) -> int:
        return sum(size for _, _, size in self.reads)

    def columns(self) -> set[tuple[str, str]]:
        """(label of the row group's first row, column) of the column chunks that reads touched."""
        touched = set()
        for path in {path for path, _, _ in self.reads}:
            file = pq.ParquetFile(path)
            for group in range(file.metadata.num_row_groups):
                first = file.read_row_group(group, ["label"])["label"][0].as_py()
                for index in range(file.metadata.num_columns):
                    chunk = file.metadata.row_group(group).column(index)
                    start = chunk.dictionary_page_offset or chunk.data_page_offset
                    end = start + chunk.total_compressed_size
                    for read_path, offset, size in self.reads:
                        if read_path == path and offset < end and offset + size > start:
                            touched.add((first, chunk.path_in_schema))
        return touched


@pytest.fixture
def wide(builder: LakeBuilder) -> LakeBuilder:
    """Two runs of a part each, of ten row groups, each of one label, and far larger than a footer."""
    chance = random.Random(0)  # noqa: S311  # test data
    labels = ["bed", "bird", "boat", "book", "bowl", "bus", "cake", "car", "cat", "cow"]
    for run in (R1, R2):
        noise = [
            instance(label, (i + 1) / 500, mask={"size": [48, 64], "counts": chance.randbytes(200).hex()})
            for label in labels
            for i in range(400)
        ]
        builder.part(run, {f"s3://{run}/a": noise}, row_group_size=400)
        builder.record(run)
    return builder


@pytest.fixture
def counted(
    wide: LakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Database, CountingFilesystem]]:
    fs = CountingFilesystem()
    monkeypatch.setattr(Lake, "arrow", lambda lake: (fs, lake.uri))
    with opened(wide) as database:
        database.rows("select count(*) from instances")
        fs.reads.clear()
        yield database, fs


def test_only_the_columns_that_are_asked_for_are_read(
    counted: tuple[Database, CountingFilesystem], wide: LakeBuilder
) -> None:
    database, fs = counted
    assert database.rows("select count(*) from instances where score > .5") == [(3000,)]
    assert {column for _, column in fs.columns()} == {"score"}
    size = sum(path.stat().st_size for path in Path(wide.uri).glob("instances/*/*"))
    assert fs.bytes < size / 20


def test_only_the_row_groups_that_may_match_are_read(counted: tuple[Database, CountingFilesystem]) -> None:
    database, fs = counted
    query = "select sum(length(mask.counts)), max(score) from instances where label = 'car' and score > .7"
    [(total, best)] = database.rows(query)
    assert (int(total), best) == (2 * 50 * 400, pytest.approx(0.8))
    assert {label for label, _ in fs.columns()} == {"car"}
    assert {column.split(".")[0] for _, column in fs.columns()} == {"label", "score", "mask"}


def test_a_value_outside_all_statistics_reads_no_column(counted: tuple[Database, CountingFilesystem]) -> None:
    database, fs = counted
    assert database.rows("select count(mask) from instances where score > .9") == [(0,)]
    assert not fs.columns()


def test_a_run_in_the_query_opens_no_other_run(counted: tuple[Database, CountingFilesystem]) -> None:
    database, fs = counted
    [(total,)] = database.rows(f"select sum(score) from all_instances where run = '{R1}'")
    assert total == pytest.approx(4000 * 401 / 1000)
    assert fs.reads
    assert all(f"run={R1}/" in path for path, _, _ in fs.reads)


def test_footers_are_read_once(wide: LakeBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = CountingFilesystem()
    monkeypatch.setattr(Lake, "arrow", lambda lake: (fs, lake.uri))
    with opened(wide) as database:
        assert database.rows("select count(*) from instances") == [(8000,)]
    assert len({path for path, _, _ in fs.reads}) == 4  # images and instances of two runs
    assert len(fs.reads) == len(set(fs.reads))


def test_filters_and_columns_are_pushed_into_the_scan(counted: tuple[Database, CountingFilesystem]) -> None:
    database, _ = counted
    [(_, plan)] = database.relation(
        database.prepare("explain select uri from instances where label = 'cat' and score > .5").text
    ).fetchall()
    scan = plan[plan.index("Read Parquet") :]
    assert "Projections: uri" in scan
    assert "label" in scan[scan.index("Filters") :]
    assert "ANTI" not in plan  # runs that share no image need no join


def test_overlapping_runs_are_pruned_too(wide: LakeBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    wide.part(R3, {f"s3://{R1}/a": [instance("dog", 0.9)], "s3://new": [instance("zebra", 0.9)]})
    wide.part(R2, {f"s3://{R3}/b": [instance("dog", 0.9)]})
    fs = CountingFilesystem()
    monkeypatch.setattr(Lake, "arrow", lambda lake: (fs, lake.uri))
    with opened(wide) as database:
        assert database.rows("select count(*) from instances") == [(4000 + 3,)]
        fs.reads.clear()
        query = "select run, count(*) from instances where label = 'car' and score > .7 group by 1"
        assert database.rows(query) == [(R2, 50)]
        # R1 is replaced whole: its file is not even opened. The join needs run and image_id of what is left.
        assert all(f"run={R1}/" not in path for path, _, _ in fs.reads)
        assert {label for label, _ in fs.columns()} == {"car"}


def test_many_threads_read_one_file_each_at_its_own_place(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(1_000_000)  # noqa: S311  # test data
    files = LakeFiles(pyarrow.fs.LocalFileSystem(), str(tmp_path))
    [uri] = files.serve_bytes("part-0.parquet", content)
    reader = files.open(uri)
    wrong: list[int] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311  # test data
        for _ in range(300):
            offset, size = chance.randrange(900_000), chance.randrange(1, 5000)
            reader.seek(offset)
            if reader.read(size) + reader.read(3) != content[offset : offset + size + 3]:
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(("uri", "times"), [("s3://bucket/lake", 1), ("/lake", 2)])
def test_a_remote_file_is_opened_once(tmp_path: Path, uri: str, times: int) -> None:
    """Opening costs a request there; a local one costs a file descriptor while it is open."""
    (tmp_path / "a").write_bytes(b"0123456789")

    class Opening(CountingFilesystem):
        opened = 0

        def open_input_file(self, path: str) -> CountingFile:
            self.opened += 1
            return super().open_input_file(str(tmp_path / "a"))

    fs = Opening()
    files = LakeFiles(fs, "bucket/lake", keep_open="://" in uri)
    [name] = files.serve([Part(run="", name="a", path="labels/a", size=10)])
    for position in (2, 5):
        reader = files.open(name)
        assert fs.opened < 2
        reader.seek(position)
        assert reader.read(3) == b"0123456789"[position : position + 3]
        reader.close()
    assert fs.opened == times


def test_only_files_that_are_served_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "part-0.parquet").write_bytes(b"x")
    files = LakeFiles(pyarrow.fs.LocalFileSystem(), str(tmp_path))
    for path in (f"{ROOT}part-0.parquet", f"{ROOT}../{tmp_path.name}/part-0.parquet"):
        with pytest.raises(PermissionError):
            files.open(path)
        assert files.glob(path) == []
    with pytest.raises(PermissionError):
        files.open(files.serve_bytes("part-1.parquet", b"x")[0], "wb")


def test_a_remote_lake_is_read_by_many_threads_at_once(three_runs: LakeBuilder) -> None:
    remote = LakeBuilder("memory://many/threads")
    remote.part(R1, {"s3://p/a": [instance("dog", 0.9)]})
    threads = []
    for builder in (three_runs, remote):
        with opened(builder) as database:
            assert database.rows("select count(*) from instances where label = 'dog'")[0][0] > 0
            threads += database.connection.execute("select current_setting('threads')").fetchone() or ()
    with duckdb.connect() as plain:
        [(default,)] = plain.execute("select current_setting('threads')").fetchall()
    assert threads == [default, sql.REMOTE_THREADS]


def test_a_query_over_one_run_opens_only_the_table_it_reads(
    builder: LakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.part(R1, {"s3://p/a": [instance("dog", 0.9)]})
    fs = CountingFilesystem()
    monkeypatch.setattr(Lake, "arrow", lambda lake: (fs, lake.uri))
    assert rows(builder, "select label from instances") == [("dog",)]
    assert {Path(path).parts[-3] for path, _, _ in fs.reads} == {"instances"}


def test_a_memory_limit_is_set(three_runs: LakeBuilder) -> None:
    with opened(three_runs) as database:
        [(limit,)] = database.connection.execute("select current_setting('memory_limit')").fetchall()
    with duckdb.connect() as plain:
        [(default,)] = plain.execute("select current_setting('memory_limit')").fetchall()
    assert float(limit.split()[0]) < float(default.split()[0])
    assert sql.MEMORY == "60%"
