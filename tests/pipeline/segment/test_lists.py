"""Sources that are files: .txt, .csv and .parquet lists, and S3 inventories in their three formats."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from masklake.pipeline.errors import UserError
from masklake.pipeline.segment.listing import Listing, gone_on
from masklake.pipeline.segment.lists import COMMENTS, DOUBLES, NAMELESS, read_inventory, read_list
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.store import Storage

from tests.conftest import Bucket

KEYS = [
    "plain.jpg",
    "with space.jpg",
    "plus+and%20percent.jpg",
    'quote"and,comma.jpg',
    "new\nline.jpg",
    "日本語/🖼.jpg",
    "q?x=1&y=2#z.jpg",
    "/leading.jpg",
    "double//slash.jpg",
]
LINES = [2, 3, 4, 5, 6, 8, 9, 10, 11]
"""In a CSV below a header: a key has a line break in it."""


def _read(path: Path | str) -> list[ObjectInfo]:
    return list(read_list(str(path), Storage()))


def _uris(path: Path | str) -> list[str]:
    return [info.uri for info in _read(path)]


def test_txt(tmp_path: Path) -> None:
    source = tmp_path / "list.txt"
    source.write_bytes(
        b"\xef\xbb\xbfs3://b/one.jpg\r\n\n# a comment\n/abs/two.jpg\n  \nsub/three.jpg\ns3://b/four %41.jpg"
    )
    assert _read(source) == [
        ObjectInfo("s3://b/one.jpg", None, None, None, 1),
        ObjectInfo("/abs/two.jpg", None, None, None, 4),
        ObjectInfo(f"{tmp_path}/sub/three.jpg", None, None, None, 6),
        ObjectInfo("s3://b/four %41.jpg", None, None, None, 7),
    ]


def test_txt_keeps_spaces_of_keys(tmp_path: Path) -> None:
    source = tmp_path / "list.txt"
    source.write_text("s3://b/trailing \ns3://b/ leading\n")
    assert _uris(source) == ["s3://b/trailing ", "s3://b/ leading"]


@pytest.mark.parametrize("content", ["", "\n\n", "# only\n"])
def test_an_empty_txt_lists_nothing(tmp_path: Path, content: str) -> None:
    source = tmp_path / "list.txt"
    source.write_text(content)
    assert _read(source) == []


def _write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_csv(tmp_path: Path) -> None:
    rows = [[7, f"s3://b/{key}", "e1" if i % 2 else "", "12" if i % 2 else ""] for i, key in enumerate(KEYS)]
    source = _write_csv(tmp_path / "list.csv", ["id", "uri", "etag", "size_bytes"], rows)
    assert _read(source) == [
        ObjectInfo(f"s3://b/{key}", "e1" if i % 2 else None, 12 if i % 2 else None, None, line)
        for i, (key, line) in enumerate(zip(KEYS, LINES, strict=True))
    ]


@pytest.mark.parametrize("column", ["uri", "url", "path", "image"])
def test_names_of_the_column(tmp_path: Path, column: str) -> None:
    source = _write_csv(tmp_path / "list.CSV", ["n", column], [[1, "a.jpg"]])
    assert _uris(source) == [f"{tmp_path}/a.jpg"]
    table = pa.table({"n": [1], column: ["a.jpg"]})
    pq.write_table(table, tmp_path / "list.parquet")
    assert _uris(tmp_path / "list.parquet") == [f"{tmp_path}/a.jpg"]


def test_short_and_long_csv_rows(tmp_path: Path) -> None:
    source, left_out = tmp_path / "list.csv", Counter[str]()
    source.write_text("n,uri\n1,s3://b/a.jpg\n2\n\n3,s3://b/c.jpg\n4,\n")
    assert [i.uri for i in read_list(str(source), Storage(), left_out)] == ["s3://b/a.jpg", "s3://b/c.jpg"]
    assert left_out == {NAMELESS: 2}
    source.write_text("uri,n\ns3://b/a.jpg,1\ns3://b/b, and c.jpg,2\n")
    assert "line 3 has 3 values, and the header names 2" in _refused(source)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('uri,size\na.jpg,"5 inch pipe\nb.jpg,ok\nc.jpg,ok\n', 2),
        ('uri\na.jpg\n"b.jpg\nc.jpg\n"d.jpg"\n', 3),
        ('uri\n"a\nb.jpg"\n"c.jpg', 4),
    ],
)
def test_a_quote_that_is_not_closed_is_told_with_its_line(tmp_path: Path, content: str, line: int) -> None:
    source = tmp_path / "list.csv"
    source.write_text(content)
    assert f"(line {line}: " in _refused(source)


def test_every_image_of_a_list_comes_once_and_the_rest_is_counted(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "in" / "deep")
    source, left_out = tmp_path / "list.txt", Counter[str]()
    names = [
        "a.jpg",
        "#b.jpg",
        "./#b.jpg",
        "./a.jpg",
        f"file://{tmp_path}/a.jpg",
        "in/../a.jpg",
        "c.jpg",
        "a.jpg",
    ]
    source.write_text("\n".join([*names, "link/../d.jpg", "in/d.jpg"]))
    uris = [info.uri for info in read_list(str(source), Storage(), left_out)]
    # what .. means beyond a link is what the system means by it
    assert uris == [f"{tmp_path}/{name}" for name in ("a.jpg", "#b.jpg", "c.jpg", "in/d.jpg")]
    assert left_out == {COMMENTS: 1, DOUBLES: 5}


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet"])
def test_a_list_with_an_image_twice_goes_on_behind_where_it_stopped(tmp_path: Path, suffix: str) -> None:
    names = ["b.jpg", "a.jpg", "b.jpg", "c.jpg", "a.jpg", "d.jpg"]
    source = tmp_path / f"list{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"uri": names}), source)
    else:
        source.write_text("\n".join(["uri"] * (suffix == ".csv") + names))
    whole = list(Listing(str(source), Storage()))
    assert [info.uri for info in whole] == [
        f"{tmp_path}/{name}" for name in ("b.jpg", "a.jpg", "c.jpg", "d.jpg")
    ]
    for position, info in enumerate(whole):
        rest = Listing(str(source), Storage(), start_after=info.uri, after_line=info.line)
        assert list(rest) == whole[position + 1 :]
        assert rest.left_out == {DOUBLES: 2}
    # as an older Masklake kept it: without the line
    assert list(gone_on(str(source), Storage(), False, whole[0].uri, None)) == whole[1:]
    # a position may be a line that names an image again; without a line, all that name it are behind
    third = 3 + (suffix == ".csv")
    for line in (third, None):
        rest = Listing(str(source), Storage(), start_after=f"{tmp_path}/b.jpg", after_line=line)
        assert list(rest) == whole[2:]
    with pytest.raises(UserError, match=r"no longer holds .*/b\.jpg in line [23], where its listing stopped"):
        list(
            Listing(
                str(source), Storage(), start_after=f"{tmp_path}/b.jpg", after_line=2 + (suffix == ".csv")
            )
        )


def test_names_beside_a_list_on_s3_are_keys(s3_bucket: Bucket) -> None:
    source = f"{s3_bucket.uri}/lists/today.txt"
    s3_bucket.put("lists/today.txt", b"./a.jpg\n../photos/b.jpg\nx/../c.jpg\nd//e.jpg\n")
    assert _uris(source) == [
        f"{s3_bucket.uri}/{key}" for key in ("lists/a.jpg", "photos/b.jpg", "lists/c.jpg", "lists/d//e.jpg")
    ]
    s3_bucket.put("lists/today.txt", b"../../../other/a.jpg\n")
    with pytest.raises(UserError, match="climbs above the bucket"):
        _uris(source)


def test_parquet(tmp_path: Path) -> None:
    sizes = [None if i % 2 else i for i in range(len(KEYS))]
    table = pa.table({
        "uri": pa.array([f"s3://b/{key}" for key in KEYS]).dictionary_encode(),
        "etag": pa.array([str(i) for i in range(len(KEYS))], pa.large_string()),
        "size_bytes": pa.array(sizes, pa.uint32()),
        "blob": pa.array([b"x"] * len(KEYS)),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "list.parquet", row_group_size=2)
    assert _read(tmp_path / "list.parquet") == [
        ObjectInfo(f"s3://b/{key}", str(i), sizes[i], None, i + 1) for i, key in enumerate(KEYS)
    ]


def test_a_lake_can_be_listed_again(tmp_path: Path) -> None:
    """The images part of one run as the source of the next: nulls in the column are left out."""
    pq.write_table(pa.table({"uri": ["s3://b/a.jpg", None], "etag": [None, "e"]}), tmp_path / "l.parquet")
    assert _read(tmp_path / "l.parquet") == [ObjectInfo("s3://b/a.jpg", None, None, None, 1)]


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet"])
def test_lists_on_s3_with_names_beside_them(s3_bucket: Bucket, suffix: str) -> None:
    table = pa.table({"uri": ["a.jpg", "s3://other/b.jpg"]})
    file = io.BytesIO()
    if suffix == ".parquet":
        pq.write_table(table, file)
    else:
        file.write(b"uri\n" * (suffix == ".csv") + b"a.jpg\ns3://other/b.jpg\n")
    s3_bucket.put(f"lists/today{suffix}", file.getvalue())
    assert _uris(f"{s3_bucket.uri}/lists/today{suffix}") == [
        f"{s3_bucket.uri}/lists/a.jpg",
        "s3://other/b.jpg",
    ]


def _refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        _read(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_list_without_a_column_of_uris(tmp_path: Path) -> None:
    said = _refused(_write_csv(tmp_path / "list.csv", ["Key", "ETag"], [["a", "b"]]))
    assert "Key, ETag" in said
    assert "uri" in said
    (tmp_path / "empty.csv").write_text("")
    assert "none" in _refused(tmp_path / "empty.csv")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "list.parquet")
    assert "x" in _refused(tmp_path / "list.parquet")


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_a_list_that_is_no_utf8(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"list{suffix}"
    source.write_bytes(b"uri\ncaf\xe9.jpg\n")
    assert "UTF-8" in _refused(source)
    source.write_bytes("uri\na.jpg\n".encode("utf-16"))
    assert "UTF-8" in _refused(source)


def test_a_parquet_list_that_is_none(tmp_path: Path) -> None:
    source = tmp_path / "list.parquet"
    source.write_bytes(b"uri\na.jpg\n")
    assert "Parquet" in _refused(source)
    pq.write_table(pa.table({"uri": ["a.jpg"] * 100}), source)
    source.write_bytes(source.read_bytes()[:-20])
    assert "Parquet" in _refused(source)


@pytest.mark.parametrize("value", ["twelve", "1e3", "12.5", "-"])
def test_a_size_that_is_no_number(tmp_path: Path, value: str) -> None:
    source = _write_csv(tmp_path / "list.csv", ["uri", "size_bytes"], [["a.jpg", "1"], ["b.jpg", value]])
    said = _refused(source)
    assert "size_bytes" in said
    assert repr(value) in said


def test_columns_of_other_types(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": [1, 2]}), tmp_path / "numbers.parquet")
    assert "uri" in _refused(tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"uri": ["a"], "size_bytes": [1.5]}), tmp_path / "floats.parquet")
    assert "size_bytes" in _refused(tmp_path / "floats.parquet")
    pq.write_table(pa.table({"uri": ["a"], "etag": [77]}), tmp_path / "etags.parquet")
    assert _read(tmp_path / "etags.parquet")[0].etag == "77"


def test_a_csv_field_without_end(tmp_path: Path) -> None:
    source = tmp_path / "list.csv"
    source.write_text('uri\n"' + "x" * 200_000)
    assert "CSV" in _refused(source)


def test_a_list_that_is_gone(tmp_path: Path) -> None:
    for suffix in (".txt", ".csv", ".parquet"):
        with pytest.raises(FileNotFoundError):
            _read(tmp_path / f"gone{suffix}")


# ---- inventories ----

ROWS = [
    {
        "key": key,
        "version_id": f"v{i}",
        "is_latest": True,
        "is_delete_marker": False,
        "size": 10 + i,
        "e_tag": f"e{i}",
    }
    for i, key in enumerate(KEYS)
]
STALE: list[dict[str, Any]] = [
    {
        "key": "old.jpg",
        "version_id": "v",
        "is_latest": False,
        "is_delete_marker": False,
        "size": 1,
        "e_tag": "o",
    },
    {
        "key": "gone.jpg",
        "version_id": "v",
        "is_latest": True,
        "is_delete_marker": True,
        "size": None,
        "e_tag": None,
    },
]
EXPECTED = [("s3://photos/" + key, f"e{i}", 10 + i) for i, key in enumerate(KEYS)]


def _csv_gz(rows: list[dict[str, Any]], *, versions: bool) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for row in rows:
        state = [row["version_id"], str(row["is_latest"]).lower(), str(row["is_delete_marker"]).lower()]
        writer.writerow(
            ["photos", quote_plus(row["key"], safe="/"), *(state if versions else []),
             "" if row["size"] is None else row["size"], row["e_tag"] or ""]
        )  # fmt: skip
    return gzip.compress(text.getvalue().encode())


def _inventory(bucket: Bucket, kind: str, files: list[bytes], schema: str) -> str:
    keys = [f"inv/photos/daily/data/{i}.{kind.lower()}" for i in range(len(files))]
    for key, data in zip(keys, files, strict=True):
        bucket.put(key, data)
    manifest = {
        "sourceBucket": "photos",
        "destinationBucket": f"arn:aws:s3:::{bucket.name}",
        "version": "2016-11-30",
        "creationTimestamp": "1514944800000",
        "fileFormat": kind,
        "fileSchema": schema,
        "files": [{"key": key, "size": 1, "MD5checksum": "x"} for key in keys],
    }
    bucket.put("inv/photos/daily/2026-11-23T01-00Z/manifest.json", json.dumps(manifest).encode())
    return f"{bucket.uri}/inv/photos/daily/2026-11-23T01-00Z/manifest.json"


def _inventoried(source: str) -> list[tuple[str, str | None, int | None]]:
    return [(info.uri, info.etag, info.size) for info in read_inventory(source, Storage())]


@pytest.mark.parametrize("versions", [True, False])
def test_csv_inventory(s3_bucket: Bucket, versions: bool) -> None:
    rows = ROWS + STALE if versions else ROWS
    schema = (
        "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag"
        if versions
        else "Bucket, Key, Size, ETag"
    )
    files = [_csv_gz(rows[:4], versions=versions), _csv_gz(rows[4:], versions=versions)]
    assert _inventoried(_inventory(s3_bucket, "CSV", files, schema)) == EXPECTED


@pytest.mark.parametrize("kind", ["Parquet", "ORC"])
def test_columnar_inventories(s3_bucket: Bucket, kind: str) -> None:
    files = []
    for rows in (ROWS[:4], ROWS[4:] + STALE):
        table = pa.Table.from_pylist([{"bucket": "photos", **row} for row in rows])
        file = io.BytesIO()
        if kind == "Parquet":
            pq.write_table(table, file)
        else:
            pyarrow.orc.write_table(table, file)
        files.append(file.getvalue())
    schema = (
        "message s3.inventory { required binary bucket (UTF8); }"
        if kind == "Parquet"
        else "struct<bucket:string>"
    )
    assert _inventoried(_inventory(s3_bucket, kind, files, schema)) == EXPECTED


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"sourceBucket": "b"}',
        b'{"files": 3, "fileFormat": "CSV"}',
        b"\xff\xfe",
    ],
)
def test_a_manifest_that_is_no_inventorys(s3_bucket: Bucket, content: bytes) -> None:
    s3_bucket.put("manifest.json", content)
    with pytest.raises(UserError, match="is not the manifest"):
        _inventoried(f"{s3_bucket.uri}/manifest.json")


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
@pytest.mark.parametrize(
    "data",
    [
        _csv_gz(ROWS, versions=True)[:-30],
        b"no gzip",
        gzip.compress(b'"photos","one column too few"\n'),
        gzip.compress(b'"photos","a.jpg","large","e"\n'),
        gzip.compress(b"\xff\xfe\n"),
    ],
    ids=["cut", "no-gzip", "columns", "size", "encoding"],
)
def test_broken_data_files_are_named(s3_bucket: Bucket, data: bytes) -> None:
    source = _inventory(s3_bucket, "CSV", [data], "Bucket, Key, Size, ETag")
    with pytest.raises(UserError, match=r"data/0\.csv.*"):
        _inventoried(source)


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
@pytest.mark.parametrize("kind", ["Parquet", "ORC", "AVRO"])
def test_broken_columnar_files_are_named(s3_bucket: Bucket, kind: str) -> None:
    source = _inventory(s3_bucket, kind, [b"PAR1 this is none"], "")
    with pytest.raises(UserError, match=r"data/0\.|AVRO"):
        _inventoried(source)


@pytest.mark.parametrize("s3_bucket", ["moto"], indirect=True)
def test_an_inventory_without_the_columns_that_matter(s3_bucket: Bucket) -> None:
    source = _inventory(s3_bucket, "CSV", [gzip.compress(b'"photos","1"\n')], "Bucket, Size")
    with pytest.raises(UserError, match="Key"):
        _inventoried(source)
