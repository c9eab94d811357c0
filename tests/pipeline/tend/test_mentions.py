"""What names an image goes out of a file; what is of other images stays."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from masklake.pipeline.tend.chosen import Chosen
from masklake.pipeline.tend.mentions import Mentions

GONE, STAYS, ALSO = (f"s3://p/a/{n}.jpg" for n in (1, 2, 3))
MENTIONS = Mentions(Chosen(uris=frozenset({GONE})))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([GONE, STAYS], [STAYS]),
        ({"batches": [{"images": [GONE, STAYS]}]}, {"batches": [{"images": [STAYS]}]}),
        (
            {"batches": [{"name": "monday", "images": [{"uri": GONE}, {"uri": STAYS}]}, {"images": [GONE]}]},
            {"batches": [{"name": "monday", "images": [{"uri": STAYS}]}]},
        ),
        ([[GONE, STAYS], [ALSO], [GONE]], [[STAYS], [ALSO]]),
        ([[[GONE, STAYS]], [[GONE]]], [[[STAYS]]]),
        ([[GONE, 0.9, 12], [STAYS, 0.8, 13]], [[STAYS, 0.8, 13]]),
        ([[GONE, "dog"], [STAYS, "cat"]], [[STAYS, "cat"]]),
        ([{"data": {"uri": GONE, "tags": ["x"]}, "predictions": [{"score": 1}]}, {"data": {"uri": STAYS}}], [{"data": {"uri": STAYS}}]),
        ([{"data": {"images": [GONE, STAYS]}}], [{"data": {"images": [STAYS]}}]),
        ([{GONE: [1], STAYS: [2]}, {GONE: [1]}], [{STAYS: [2]}]),
        ({"by_day": {"monday": [[GONE], [STAYS]]}}, {"by_day": {"monday": [[STAYS]]}}),
        ([{"images": [], "name": "empty"}, {"images": [GONE]}], [{"images": [], "name": "empty"}]),
    ],
)  # fmt: skip
def test_of_nested_json_only_what_is_of_the_image(before: Any, after: Any) -> None:
    pruned = MENTIONS.pruned_file("q.json", json.dumps(before).encode())
    assert json.loads(pruned or b"") == after
    line = json.dumps({"all": before}).encode() + b'\n{"other": 1}\n'
    lines = (MENTIONS.pruned_file("q.jsonl", line) or b"").decode().splitlines()
    assert [json.loads(text) for text in lines] == [{"all": after}, {"other": 1}]


def test_json_lines_of_the_image_go() -> None:
    lines = "".join(json.dumps({"uri": uri, "boxes": [1]}) + "\n" for uri in (STAYS, GONE, ALSO))
    kept = (MENTIONS.pruned_file("x.ndjson", lines.encode()) or b"").decode()
    assert [json.loads(line)["uri"] for line in kept.splitlines()] == [STAYS, ALSO]
    assert MENTIONS.pruned_file("x.jsonl", json.dumps({"uri": GONE}).encode()) is None


def test_a_row_of_a_table_in_text_goes_with_all_its_lines() -> None:
    text = f'uri,note\n{STAYS},"two\nlines"\n"{GONE}","also\n""two"""\n{ALSO},\n'
    assert (
        MENTIONS.pruned_file("x.csv", text.encode()) == f'uri,note\n{STAYS},"two\nlines"\n{ALSO},\n'.encode()
    )


@pytest.mark.parametrize(
    ("column", "rows", "left"),
    [
        (pa.string(), [GONE, STAYS, None], [STAYS, None]),
        (pa.large_string(), [GONE, STAYS], [STAYS]),
        (pa.dictionary(pa.int32(), pa.string()), [GONE, STAYS, STAYS], [STAYS, STAYS]),
        (pa.list_(pa.string()), [[GONE, STAYS], [ALSO], [GONE], None], [[STAYS], [ALSO], None]),
        (pa.struct({"uri": pa.string()}), [{"uri": GONE}, {"uri": STAYS}], [{"uri": STAYS}]),
        (pa.list_(pa.struct({"uri": pa.string()})), [[{"uri": GONE}, {"uri": STAYS}]], [[{"uri": STAYS}]]),
    ],
)  # fmt: skip
def test_of_a_parquet_table_its_rows_and_entries(
    column: pa.DataType, rows: list[Any], left: list[Any]
) -> None:
    def file(values: list[Any]) -> bytes:
        sink = io.BytesIO()
        table = pa.table(
            {"n": pa.array(range(len(values))), "x": pa.array(values, column)}
        ).replace_schema_metadata({"a": "b"})
        pq.write_table(table, sink, compression="none")
        return sink.getvalue()

    pruned = MENTIONS.pruned_file("x.parquet", file(rows))
    assert pruned is not None
    table = pq.read_table(io.BytesIO(pruned))
    assert table["x"].to_pylist() == left
    assert (table.schema.field("x").type, table.schema.metadata) == (column, {b"a": b"b"})
    other = file(left)
    assert MENTIONS.pruned_file("x.parquet", other) is other
    plain = io.BytesIO()
    pq.write_table(table, plain, compression="none")
    assert GONE.encode() not in plain.getvalue()  # nor in a dictionary of which no row has it
