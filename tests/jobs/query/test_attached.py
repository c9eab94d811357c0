"""`--attach NAME=FILE`: that file alone is a table, read-only; all other files stay refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Bucket
from tests.helpers.lakes import LakeBuilder, instance
from tests.jobs.query.test_sandbox import READS_FILES, WRITES_FILES

Run = Callable[..., tuple[int, str, str]]
RUN = "20261101T000000-aaaaaa"
ROWS = [{"uri": "s3://p/a.jpg", "n": 1}, {"uri": "s3://p/b.jpg", "n": 2}]
CSV = "uri,n\ns3://p/a.jpg,1\ns3://p/b.jpg,2\n"
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture
def lake(tmp_path: Path) -> LakeBuilder:
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.part(RUN, {"s3://p/a.jpg": [instance("person", 0.9)]})
    return builder


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", CSV.encode()),
        ("t.CSV", CSV.encode()),
        ("t.tsv", CSV.replace(",", "\t").encode()),
        ("t.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("t.json", json.dumps(ROWS).encode()),
        ("t.jsonl", LINES.encode()),
        ("t.ndjson.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("t'[1]*.parquet", b""),
    ],
)
def test_each_kind_of_file(masklake: Run, lake: LakeBuilder, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    if not data:
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / name)
    sql = "select label, n from instances join mine using (uri)"
    code, out, err = masklake("query", lake.uri, sql, "--attach", f"Mine={tmp_path / name}", "--json")
    assert code == 0, err
    assert json.loads(out) == [{"label": "person", "n": 1}]


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_an_object_in_a_bucket(masklake: Run, lake: LakeBuilder, s3_bucket: Bucket) -> None:
    s3_bucket.put("mine/t.csv", CSV.encode())
    code, out, err = masklake(
        "query",
        lake.uri,
        "select sum(n) n from mine",
        "--attach",
        f"mine={s3_bucket.uri}/mine/t.csv",
        "--json",
    )
    assert code == 0, err
    assert json.loads(out) == [{"n": 3}]


def test_no_other_file_becomes_readable(masklake: Run, lake: LakeBuilder, tmp_path: Path) -> None:
    for file in ("mine.csv", "secret.csv"):
        (tmp_path / file).write_text(CSV)
    before = sorted(tmp_path.rglob("*"))
    attach = ["--attach", f"mine={tmp_path / 'mine.csv'}"]
    extra = [
        "from read_csv('masklake://lake/attached/mine.csv')",
        "from read_text('masklake://lake/attached/mine.csv')",
        "from 'masklake://lake/attached/mine.csv'",
        "select * from mine, '{dir}/secret.csv'",
        "insert into mine values ('x', 3)",
        "copy mine to '{dir}/out.csv'",
        "drop view mine",
    ]
    for sql in [*READS_FILES, *WRITES_FILES, *extra]:
        text = sql.replace("{dir}", str(tmp_path)).replace("{run}", RUN)
        code, out, _ = masklake("query", lake.uri, text, *attach)
        assert (code, out) == (2, ""), sql
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mine", "write --attach NAME=FILE"),
        ("1mine=t.csv", "write --attach NAME=FILE"),
        ("images={}/t.csv", "there is a table of this name already"),
        ("mine={}/none.csv", "none.csv: cannot read it: it does not exist"),
        ("mine={}/t.xlsx", "its name must end in .csv, .tsv, .parquet"),
        ("mine={}/t.parquet.gz", "its name must end in"),
        ("mine={}/broken.parquet", "broken.parquet: "),
    ],
)
def test_mistakes(masklake: Run, lake: LakeBuilder, tmp_path: Path, given: str, message: str) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not at all PAR1")
    code, _, err = masklake("query", lake.uri, "from mine", "--attach", given.format(tmp_path))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
