"""The functions of a query: their values, beside pycocotools' and numpy's, and what they refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from masklake.jobs.query.database import Database
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.masks import LabelMask, from_pixels
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.storage.store import Storage

from tests.helpers.lakes import LakeBuilder, instance

RUN = "20261101T000000-aaaaaa"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    builder = LakeBuilder(str(tmp_path_factory.mktemp("functions") / "lake"))
    rows = [
        instance("person", 0.9, (8, 4, 16, 12)),
        instance("dog", 0.8, (16, 4, 16, 12)),
        instance("cat", 0.7, mask=None),
    ]
    builder.part(RUN, {"s3://p/a.jpg": rows})
    with Database(Lake(builder.uri, Storage())) as opened:
        yield opened


def literal(mask: LabelMask) -> str:
    counts = mask.counts.replace("'", "''")
    return f"{{'size': [{mask.height}, {mask.width}], 'counts': '{counts}'}}"


def test_keypoints_by_name(database: Database) -> None:
    rows = database.rows(
        "select label, kp(keypoints, 'nose').y, kp(keypoints, 'tail') from instances order by label"
    )
    assert rows == [("cat", None, None), ("dog", None, None), ("person", 10.0, None)]


def test_boxes_of_two_rows(database: Database) -> None:
    sql = """
        select box_area(a), box_overlap(a, b), box_iou(a, b) from instances a, instances b
        where a.label = 'person' and b.label = 'dog'
    """
    assert database.rows(sql) == [(192.0, 96.0, pytest.approx(96 / 288))]


def test_only_the_columns_of_boxes_are_read(database: Database) -> None:
    query = database.prepare(
        "explain select box_iou(a, b) from instances a join instances b using (run, image_id)"
    )
    with database.explaining():
        plan = database.relation(query.text).fetchall()[0][1]
    assert "counts" not in plan
    assert "mask" not in plan


def test_masks(database: Database) -> None:
    sql = """
        select mask_area(a.mask), mask_iou(a.mask, b.mask), mask_at(a.mask, 8, 4), mask_at(a.mask, 7, 4),
            mask_at(a.mask, -1, 4), mask_at(a.mask, 64, 0), octet_length(mask_pixels(a.mask)), mask_area(c.mask), mask_iou(a.mask, c.mask)
        from instances a, instances b, instances c where a.label = 'person' and b.label = 'dog' and c.label = 'cat'
    """
    assert database.rows(sql) == [
        (192, pytest.approx(96 / 288), True, False, False, False, 64 * 48, None, None)
    ]


def test_any_mask_pixel_by_pixel(database: Database) -> None:
    pixels = np.random.default_rng(1).random((5, 7)) < 0.4
    mask = from_pixels(pixels)
    [(blob,)] = database.rows(f"select mask_pixels({literal(mask)})")
    assert np.array_equal(np.frombuffer(blob, np.uint8).reshape(5, 7), pixels)
    listed = database.rows(
        f"select mask_at({literal(mask)}, x::integer, y::integer) from range(5) ys(y), range(7) xs(x) order by y, x"
    )
    assert [value for (value,) in listed] == pixels.ravel().tolist()
    other = from_pixels(np.ones((5, 8)))
    assert database.rows(f"select mask_iou({literal(mask)}, {literal(other)})") == [(None,)]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("{'size': [48, 64], 'counts': 'zzzz'}", "RLE"),
        ("{'size': [100000000, 100000000], 'counts': '0'}", "is not possible"),
        ("{'size': [-1, 5], 'counts': '5'}", "is not possible"),
        ("{'size': [5], 'counts': '5'}", "a mask needs a size"),
        ("{'size': [40000, 40000], 'counts': 'PPP'}", "RLE"),
        ("{'size': [1, 1], 'counts': chr(0) || chr(65533)}", "RLE"),
    ],
)
def test_what_is_no_mask_is_refused(database: Database, mask: str, message: str) -> None:
    for call in (
        f"mask_area({mask})",
        f"mask_iou({mask}, {mask})",
        f"mask_at({mask}, 0, 0)",
        f"mask_pixels({mask})",
    ):
        with pytest.raises(UserError, match=message) as refused:
            database.rows(f"select {call}")
        assert "Traceback" not in str(refused.value)
        assert "UDF" not in str(refused.value)


def test_too_many_pixels_are_refused(database: Database) -> None:
    from masklake.pipeline.labels.masks import from_counts

    large = from_counts([0, 20_000 * 20_000], [20_000, 20_000], 20_000, 20_000)
    with pytest.raises(UserError, match="too large for mask_pixels"):
        database.rows(f"select mask_pixels({literal(large)})")
    assert database.rows(f"select mask_area({literal(large)})") == [(20_000 * 20_000,)]


def test_no_other_function_of_python_is_there(database: Database) -> None:
    for name in ("_mask", "exec", "eval", "print", "open", "mask_open"):
        with pytest.raises(UserError):
            database.rows(f"select {name}('1')")


def test_parameters_of_a_query(masklake, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.part(RUN, {"s3://p/a.jpg": [instance("person", 0.9), instance("dog", 0.8)]})
    sql = "select label, $word as w, '$word' as text, $$ $word $$ as dollars, $n + 1 as n -- $x\nfrom instances where score > $least order by label limit $n"
    code, out, err = masklake(
        "query",
        builder.uri,
        sql,
        "--param",
        "word=x'; drop table y; --",
        "--param",
        "n=1",
        "--param",
        "least=0.5",
        "--json",
    )
    assert code == 0, err
    assert json.loads(out) == [
        {"label": "dog", "w": "x'; drop table y; --", "text": "$word", "dollars": " $word ", "n": 2}
    ]
    quoted = masklake("query", builder.uri, "select $x as x, typeof($x) as t", "--param", "x='5'", "--json")[
        1
    ]
    assert json.loads(quoted) == [{"x": "5", "t": "VARCHAR"}]
    for arguments, message in {
        ("select $label",): "the query has $label: give --param label=VALUE",
        ("select 1", "--param", "x=1"): "--param x: the query has no $x",
        ("select $x", "--param", "x"): "write --param name=value",
        ("select $x", "--param", "x=1", "--param", "x=2"): "given twice",
        ("from $file", "--param", "file=/etc/passwd"): "there is no table '/etc/passwd'",
    }.items():
        code, _, err = masklake("query", builder.uri, *arguments)
        assert code == 2
        assert message in err


def test_functions_are_of_each_connection(tmp_path: Path) -> None:
    """Two databases at once, each in a thread, as a server has them."""
    builder = LakeBuilder(str(tmp_path / "lake"))
    builder.part(RUN, {"s3://p/a.jpg": [instance("person", 0.9)]})
    results: list[object] = []

    def ask() -> None:
        with Database(Lake(builder.uri, Storage())) as opened:
            results.append(opened.rows("select mask_area(mask) from instances"))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[(192,)]] * 2
