"""`masklake query`, as it is typed."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from masklake.jobs.cli import main
from masklake.jobs.terminal.tables import plain_console

from tests.conftest import Bucket, CliResult
from tests.helpers.lakes import LakeBuilder, image, instance

R1, R2 = "20261101T000000-aaaaaa", "20261102T000000-bbbbbb"
HOSTILE = "s3://p/\x1b[31mred\x1b]0;title\x07\n[bold]:dog:\u202e\x9b2J.jpg"


@pytest.fixture
def lake(tmp_path: Path) -> str:
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.part(R1, {"s3://p/a.jpg": [instance("person", 0.9), instance("dog", 0.7)], "s3://p/b.jpg": []})
    builder.part(R2, {"s3://p/c.jpg": [instance("cat", 0.25)]})
    builder.record(R1)
    return builder.uri


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    builder = LakeBuilder(str(tmp_path / "hostile"))
    broken = image(HOSTILE, status="unreadable", error='\x1b[2Jbroken, "very" \'\r\n')
    builder.part(R1, [(broken, []), (image(HOSTILE + "2"), [instance("dog", 0.5)])])
    return builder.uri


Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capfdbinary: pytest.CaptureFixture[bytes]) -> Ask:
    """Run `masklake query ARGS` in this process: (exit code, standard output, standard error)."""

    def run(*args: str | Path) -> tuple[int, str, str]:
        code = main(["query", *map(str, args)])
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def test_a_table_shows_rows_aligned_and_counted(ask: Ask, lake: str) -> None:
    sql = "select label, score, area, mask, null as nothing from instances order by score desc"
    code, out, _ = ask(sql, "--lake", lake)
    assert code == 0
    head, rule, *rows, count = out.splitlines()
    assert head.split() == ["label", "score", "area", "mask", "nothing"]
    assert set(rule) == {"─"}
    assert [row.split()[:3] for row in rows] == [
        ["person", "0.9", "192"],
        ["dog", "0.7", "192"],
        ["cat", "0.25", "192"],
    ]
    assert len({row.index("192") for row in rows}) == 1
    assert rows[0].index("0.9") == rows[2].index("0.25") + 1  # numbers end in one column
    assert all('{"size":[48,64],"counts":"T<<T1000' in row for row in rows)
    assert count == "3 rows"
    assert "\x1b" not in out


def test_wide_values_are_elided(ask: Ask, lake: str) -> None:
    _, out, _ = ask(
        "select keypoints, repeat('x', 200) from instances where label = 'person'", "--lake", lake
    )
    row = out.splitlines()[2]
    assert row.count("…") == 2
    assert len(row) < 140


def test_a_table_shows_the_first_rows_and_says_that_there_are_more(ask: Ask, lake: str) -> None:
    _, out, _ = ask("from range(1000)", "--lake", lake)
    assert out.splitlines()[-1] == "the first 100 rows; there are more (--limit-rows 0 shows all)"
    assert len(out.splitlines()) == 103
    _, out, _ = ask("from range(1000)", "--lake", lake, "--limit-rows", "0")
    assert out.splitlines()[-1] == "1,000 rows"
    _, out, _ = ask("from range(100)", "--lake", lake)
    assert out.splitlines()[-1] == "100 rows"
    _, out, _ = ask("select 1 where false", "--lake", lake)
    assert out.splitlines()[-1] == "0 rows"


@pytest.mark.parametrize("width", [20, 60, 90, 300])
def test_no_column_is_lost_on_a_narrow_terminal(lake: str, width: int) -> None:
    from masklake.jobs.query.database import Database
    from masklake.jobs.query.results import print_table
    from masklake.pipeline.lake.lake import Lake
    from masklake.pipeline.storage.store import Storage

    file = io.StringIO()
    console = plain_console(file)
    console.width = width
    with Database(Lake(lake, Storage())) as database:
        print_table(database, database.prepare("from instances order by score"), console, 100)
    head, rule, *rows, _ = file.getvalue().splitlines()
    assert head.split() == ["run", "image_id", "uri", "instance", "label_id", "label", "score", "area", "x", "y", "w",
                            "h", "mask", "keypoints", "model"]  # fmt: skip
    assert [row.split()[6] for row in rows] == ["0.25", "0.7", "0.9"]
    assert len({len(line.rstrip()) <= len(rule) for line in rows}) == 1


def test_hostile_text_is_spelled_out(ask: Ask, hostile: str) -> None:
    for query in ("from images", "from errors", f"select 1 as \"\x1b[31m[red]x\", '{HOSTILE}'"):
        code, out, _ = ask(query, "--lake", hostile)
        assert code == 0
        assert not [c for c in out if c != "\n" and not c.isprintable()]
    assert "\\x1b[31mred\\x1b]0;title\\x07\\n[bold]:dog:\\u202e\\x9b2J.jpg" in out
    _, _, err = ask('select "\x1b[31m" from images', "--lake", hostile)
    assert "\x1b" not in err
    assert "\\x1b[31m" in err


def test_json_is_one_array_that_gives_back_every_value(ask: Ask, lake: str, hostile: str) -> None:
    code, out, _ = ask("select * from instances order by score", "--lake", lake, "--format", "json")
    assert code == 0
    assert out.startswith("[\n{") and out.endswith("}\n]\n")
    rows_read = json.loads(out)
    assert [row["score"] for row in rows_read] == [0.25, 0.7, 0.9]  # not 0.699999988079071
    assert rows_read[2]["mask"] == {"size": [48, 64], "counts": instance("person", 1.0)["mask"]["counts"]}
    assert rows_read[2]["keypoints"][0]["name"] == "nose"
    assert rows_read[0]["keypoints"] is None
    _, out, _ = ask(
        "select uri, error from images order by error nulls last", "--lake", hostile, "--format", "json"
    )
    assert not [c for c in out if c != "\n" and not c.isprintable()]
    assert json.loads(out) == [
        {"uri": HOSTILE, "error": "\x1b[2Jbroken, \"very\" '\r\n"}, {"uri": HOSTILE + "2", "error": None}
    ]  # fmt: skip


def test_json_has_no_numbers_that_json_lacks(ask: Ask, lake: str) -> None:
    query = "select 'nan'::float as a, '-inf'::double as b, {'c': 'inf'::double} as n, 'NaN' as t, 1.5 as ok"
    _, out, _ = ask(query, "--lake", lake, "--format", "json")
    strict = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict == [{"a": None, "b": None, "n": {"c": None}, "t": "NaN", "ok": 1.5}]


def test_json_of_no_rows_is_an_empty_array(ask: Ask, lake: str) -> None:
    assert json.loads(ask("from errors", "--lake", lake, "--format", "json")[1]) == []


def test_csv_gives_back_every_value(ask: Ask, lake: str, hostile: str) -> None:
    query = "select label, score, mask, area, processed_at from instances join images using (run, image_id) order by 2"
    code, out, _ = ask(query, "--lake", lake, "--format", "csv")
    assert code == 0
    rows_read = list(csv.DictReader(io.StringIO(out)))
    assert [(row["label"], row["score"], row["area"]) for row in rows_read] == [
        ("cat", "0.25", "192"), ("dog", "0.7", "192"), ("person", "0.9", "192")
    ]  # fmt: skip
    assert json.loads(rows_read[0]["mask"])["size"] == [48, 64]
    assert rows_read[0]["processed_at"] == "2026-11-22 23:54:16.000000Z"
    _, out, _ = ask("select uri, error from errors", "--lake", hostile, "--format", "csv")
    assert list(csv.reader(io.StringIO(out, newline=""))) == [
        ["uri", "error"],
        [HOSTILE, '\x1b[2Jbroken, "very" \'\r\n'],
    ]


@pytest.mark.parametrize("format_", ["csv", "json", "parquet"])
def test_every_type_can_be_written(ask: Ask, lake: str, tmp_path: Path, format_: str) -> None:
    query = """select 1::hugeint as huge, 1::uhugeint as uhuge, 1.5::decimal(4, 2) as dec, now() as t, current_date as d,
        time '10:00' as c, interval 1 day as i, uuid() as u, 'a'::blob as b, '101'::bit as bits, map {'a': 1} as m,
        [1, 2]::int[2] as arr, [[1], null] as nested, union_value(k := 1) as un, '{"a": 1}'::json as j, null as n,
        'a'::enum('a', 'b') as e, 1::variant as v, true as yes, timestamp_ns '2026-01-01' as ns, sum(1) as total, 2 as "a""b" """
    code, _, err = ask(query, "--lake", lake, "--output", tmp_path / f"out.{format_}")
    assert (code, err) == (0, "")
    if format_ == "json":
        [row] = json.loads((tmp_path / "out.json").read_text())
        assert (row["huge"], row["m"], row["nested"], row["j"], row["total"]) == (
            1,
            {"a": 1},
            [[1], None],
            {"a": 1},
            1,
        )
    elif format_ == "csv":
        [row] = csv.DictReader((tmp_path / "out.csv").open())
        assert (row["huge"], row["m"], row["nested"], row["total"]) == ("1", '{"a":1}', "[[1],null]", "1")
        assert row['a"b'] == "2"
    else:
        [row] = pq.read_table(tmp_path / "out.parquet").to_pylist()
        assert (row["huge"], row["m"], row["nested"], row["total"]) == (1, [("a", 1)], [[1], None], 1)


def test_parquet_keeps_types(ask: Ask, lake: str, tmp_path: Path) -> None:
    assert ask("from instances", "--lake", lake, "--output", tmp_path / "out.parquet")[0] == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("score").type == pa.float32()
    assert table.schema.field("label").type == pa.string()
    assert table.schema.field("mask").type.field("counts").type == pa.string()
    assert table.num_rows == 3


def test_the_suffix_decides_the_format_and_the_option_overrides_it(
    ask: Ask, lake: str, tmp_path: Path
) -> None:
    ask("select 1 as a", "--lake", lake, "--output", tmp_path / "a.CSV")
    assert (tmp_path / "a.CSV").read_text() == '"a"\n1\n'
    ask("select 1 as a", "--lake", lake, "--output", tmp_path / "b.csv", "--format", "json")
    assert json.loads((tmp_path / "b.csv").read_text()) == [{"a": 1}]
    ask("select 1 as a", "--lake", lake, "--output", tmp_path / "c.txt")
    assert (tmp_path / "c.txt").read_text().splitlines()[-1] == "1 row"


@pytest.mark.parametrize("format_", ["csv", "json", "parquet", "table"])
def test_a_query_that_fails_midway_leaves_the_old_file(
    ask: Ask, lake: str, tmp_path: Path, format_: str
) -> None:
    output = tmp_path / "out"
    output.write_text("old")
    query = (
        "select case when i = 900_000 then error('too far') else i::varchar end from range(1_000_000) t(i)"
    )
    code, _, err = ask(query, "--lake", lake, "--output", output, "--format", format_, "--limit-rows", "0")
    assert code == 2
    assert "too far" in err
    assert output.read_text() == "old"
    assert list(tmp_path.glob(".out*")) == []


def test_the_query_comes_from_a_file_or_standard_input(
    ask: Ask, lake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "q.sql").write_text("-- how many\nselect count(*) as n\nfrom images;\n")
    assert ask("--file", tmp_path / "q.sql", "--lake", lake, "--format", "csv")[1] == '"n"\n3\n'
    monkeypatch.setattr("sys.stdin", io.StringIO("select count(*) as n from instances"))
    assert ask("-", "--lake", lake, "--format", "csv")[1] == '"n"\n3\n'


def test_explain_prints_the_plan(ask: Ask, lake: str) -> None:
    code, out, _ = ask("explain select uri from instances where label = 'dog'", "--lake", lake)
    assert code == 0
    assert "Read Parquet" in out
    assert "label" in out
    code, out, _ = ask("explain analyze select count(*) from instances", "--lake", lake)
    assert "Total Time" in out


def test_one_run_can_be_chosen(ask: Ask, lake: str) -> None:
    assert (
        ask("select count(*) as n from images", "--lake", lake, "--run", R1, "--format", "csv")[1]
        == '"n"\n2\n'
    )
    assert (
        ask("select count(*) as n from images", "--lake", lake, "--run", "last", "--format", "csv")[1]
        == '"n"\n1\n'
    )


def test_all_columns_are_described_without_a_lake(ask: Ask) -> None:
    from masklake.pipeline.lake.lake import SCHEMAS

    code, out, _ = ask("--columns")
    assert code == 0
    for schema in SCHEMAS.values():
        for field in schema:
            assert field.name in out
            assert field.metadata[b"description"].decode() in out


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["from images"], "no lake is named; add --lake"),
        (["--lake", "x"], "give one query: as an argument"),
        (["from images", "--file", "x", "--lake", "x"], "give one query: as an argument"),
        (["--file", "missing.sql", "--lake", "x"], "missing.sql: cannot read the query: it does not exist"),
        (["from images", "--lake", "/no/such/lake"], "/no/such/lake: there is no such directory"),
        (["from images", "--lake", "s3://"], "no bucket is named"),
        (["from images", "--lake", "gopher://x/y"], "cannot open gopher://"),
        (["from images", "--lake", "LAKE", "--run", "nope"], "has no run 'nope'"),
        (
            ["from images", "--lake", "LAKE", "--format", "parquet"],
            "--format parquet needs a file; add --out",
        ),
        (
            ["from images", "--lake", "LAKE", "--output", "/no/such/dir/x.csv"],
            "/no/such/dir/x.csv: cannot write",
        ),
        (["explain from images", "--lake", "LAKE", "--format", "csv"], "EXPLAIN prints a plan"),
        (["select labl from instances", "--lake", "LAKE"], 'Candidate bindings: "label"'),
        (["copy images to 'x'", "--lake", "LAKE"], "COPY may not run here"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(ask: Ask, lake: str, args: list[str], answer: str) -> None:
    code, out, err = ask(*(lake if arg == "LAKE" else arg for arg in args))
    assert (code, out) == (2, "")
    assert err.startswith("masklake: error: ")
    assert answer in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "args", [["--limit-rows", "-1"], ["--limit-rows", "x"], ["--format", "xml"], ["--output", "s3://b/x.csv"]]
)
def test_options_are_checked_where_they_are_typed(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["query", "from images", "--lake", "x", *args])
    assert stop.value.code == 2
    assert args[0] in capsys.readouterr().err


def test_a_full_disk_is_told(lake: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    for format_ in ("table", "csv", "json"):
        with Path("/dev/full").open("wb") as full:
            process = subprocess.run(
                [sys.executable, "-m", "masklake.jobs.cli", "query", "from instances", "--lake", lake, "--format", format_],
                stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            )  # fmt: skip
        assert (
            process.stderr
            == "masklake: error: standard output: cannot write the result: No space left on device\n"
        )
        assert process.returncode == 2


def test_a_reader_that_stops_early_is_no_error(lake: str) -> None:
    for format_ in ("table", "csv", "json"):
        command = f"from range(2_000_000)' --lake '{lake}' --limit-rows 0 --format {format_} | head -n 2"
        if format_ == "table":
            command = command.replace("2_000_000", "20_000")
        process = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {sys.executable} -m masklake.jobs.cli query '{command}"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (process.stderr, process.returncode) == ("", 0)
        assert len(process.stdout.splitlines()) == 2


@pytest.mark.parametrize("format_", ["table", "csv", "json", "parquet"])
def test_ctrl_c_ends_a_long_query(lake: str, tmp_path: Path, format_: str) -> None:
    query = "select count(*) from range(1_000_000_000_000) a(i) where hash(i) = 1"
    arguments = ["--lake", lake, "--output", tmp_path / "out", "--format", format_]
    process = subprocess.Popen(
        [sys.executable, "-m", "masklake.jobs.cli", "query", query, *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".out*")) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "masklake: interrupted\n")
    assert list(tmp_path.glob("*out*")) == []


def test_nothing_heavy_is_imported_for_a_local_lake(lake: str) -> None:
    script = (
        "import sys; from masklake.jobs.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'ray', 'pandas', 's3fs', 'botocore', 'aiohttp', 'pycocotools', 'PIL'} & set(sys.modules); "
        "sys.exit(code or ','.join(heavy) or 0)"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, "query", "select label, count(*) from instances group by 1", "--lake", lake],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (process.stderr, process.returncode) == ("", 0)
    help_script = (
        "import sys, masklake.jobs.query.command, masklake.jobs.runs.command, masklake.jobs.runs.show; "
        "sys.exit(','.join({'duckdb', 'rich', 'pyarrow', 'torch', 'ray', 'numpy'} & set(sys.modules)) or 0)"
    )
    process = subprocess.run(
        [sys.executable, "-c", help_script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (process.stderr, process.returncode) == ("", 0)


def test_a_lake_in_s3_is_queried_alike(
    s3_bucket: Bucket, run_cli: Callable[..., CliResult], ask: Ask
) -> None:
    builder = LakeBuilder(f"{s3_bucket.uri}/a lake/[x]*")
    builder.part(R1, {"s3://p/a.jpg": [instance("person", 0.9), instance("dog", 0.7)], "s3://p/b.jpg": []})
    builder.part(R2, {"s3://p/b.jpg": [instance("cat", 0.25)]})
    builder.part(R2, {"s3://p/c.jpg": [instance("cat", 0.25)]}, commit=False)
    builder.record(R1)
    query = "select uri, label from instances order by all"
    result = run_cli("query", query, "--lake", builder.uri, "--format", "json")
    assert (result.code, result.stderr) == (0, "")
    assert [tuple(row.values()) for row in json.loads(result.stdout)] == [
        ("s3://p/a.jpg", "dog"), ("s3://p/a.jpg", "person"), ("s3://p/b.jpg", "cat"),
    ]  # fmt: skip
    assert ask("from images", "--lake", f"{s3_bucket.uri}/elsewhere")[2].count("is not a lake") == 1
    code, _, err = ask("from images", "--lake", f"s3://{s3_bucket.name}-no-such-bucket/lake")
    assert (code, "does not exist" in err, len(err.splitlines())) == (2, True, 1)


def test_who_may_not_read_the_lake_is_told(
    s3_bucket: Bucket, use_s3: Callable[[Any], None], ask: Ask
) -> None:
    builder = LakeBuilder(f"{s3_bucket.uri}/lake")
    builder.part(R1, {"s3://p/a.jpg": [instance("dog", 0.7)]})
    use_s3(s3_bucket.guest)
    code, _, err = ask("from images", "--lake", builder.uri)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "permission denied" in err
    assert builder.uri in err
