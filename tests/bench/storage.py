"""What a row of `instances` costs on disk, and what questions cost: ours beside a flat Parquet and pandas on COCO JSON.

    python -m tests.bench.storage [--rows 2000000]

First the same rows, those of a real run over synthetic scenes, under several layouts: bytes a row, CPU time to write and
to read (one thread, median of 5). Then five questions on generated instances: through `masklake query`'s database over a
lake of parts, as a run writes them and after `masklake compact`, through DuckDB over one flat Parquet file of all rows sorted by label and
score, and, on as many rows as fit, in pandas over COCO JSON. Values of the generated rows are a real run's, moved a little so that they do not repeat.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # it ships no types
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from masklake.jobs.query.database import Database
from masklake.model import scenes
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.schema import IMAGES, INSTANCES, with_footer
from masklake.pipeline.segment.write import part_name
from masklake.pipeline.storage.parquet import LAYOUT, write_table
from masklake.pipeline.storage.store import Storage

from tests.bench.job import job
from tests.helpers.lakes import MODEL, WHEN, record

SCENES = 800
PART_ROWS = 100_000
JSON_ROWS = 200_000
RUN = "20261128T000000-aaaaaa"

MASKS = {"mask.counts": "DELTA_LENGTH_BYTE_ARRAY"}
INTEGERS = dict.fromkeys(("image_id", "instance", "area"), "DELTA_BINARY_PACKED")
FLOATS = dict.fromkeys(
    ("score", "x", "y", "w", "h", *(f"keypoints.list.element.{name}" for name in ("x", "y", "score"))),
    "BYTE_STREAM_SPLIT",
)
LAYOUTS: dict[str, dict[str, Any]] = {
    "before: dictionaries everywhere, zstd 1": LAYOUT | {"use_dictionary": True, "compression_level": 1},
    "dictionaries where values repeat, zstd 1": LAYOUT | {"compression_level": 1},
    "the same, zstd 3": LAYOUT | {"compression_level": 3},
    "the same, zstd 6: ours": LAYOUT,
    "the same in groups of 100,000 rows": LAYOUT | {"row_group_size": 100_000},
    "the same, zstd 9": LAYOUT | {"compression_level": 9},
    "the same, zstd 19": LAYOUT | {"compression_level": 19},
    "ours, masks by DELTA_LENGTH_BYTE_ARRAY": LAYOUT | {"column_encoding": MASKS},
    "and integers by DELTA_BINARY_PACKED": LAYOUT | {"column_encoding": MASKS | INTEGERS},
    "and floats by BYTE_STREAM_SPLIT": LAYOUT | {"column_encoding": MASKS | INTEGERS | FLOATS},
    "all of these, zstd 19": LAYOUT | {"column_encoding": MASKS | INTEGERS | FLOATS, "compression_level": 19},
    "ours, pages of 8 MiB": LAYOUT | {"data_page_size": 2**23},
    "ours, data pages v2": LAYOUT | {"data_page_version": "2.0"},
}

QUESTIONS = {
    "instances by class, above 0.5": "select label, count(*) from instances where score > 0.5 group by label order by label",
    "images with most people": "select uri, count(*) n from instances where label = 'person' and score > 0.5 group by uri order by n desc, uri limit 10",
    "mean area and score by class": "select label, avg(area), avg(score) from instances group by label order by label",
    "the 1,000 surest people, with masks": "select uri, x, y, w, h, mask from instances where label = 'person' order by score desc, uri, x, y, w, h limit 1000",
    "images with a person beside a ball": "select count(*) from (select distinct uri from instances where label = 'person' and score > 0.5) join (select distinct uri from instances where label = 'ball' and score > 0.5) using (uri)",
}  # fmt: skip


def _pandas(frame: pd.DataFrame) -> list[Callable[[], Any]]:
    """The questions, in order, as one asks them of COCO's results in pandas."""

    def sure(label: str) -> pd.DataFrame:
        return frame[(frame.label == label) & (frame.score > 0.5)]

    return [
        lambda: frame[frame.score > 0.5].groupby("label").size(),
        lambda: sure("person").groupby("image_id").size().nlargest(10),
        lambda: frame.groupby("label").agg({"area": "mean", "score": "mean"}),
        lambda: frame[frame.label == "person"].nlargest(1000, "score")[["image_id", "bbox", "segmentation"]],
        lambda: len(set(sure("person").image_id).intersection(sure("ball").image_id)),
    ]


def real_parts(folder: str, number: int) -> list[pa.Table]:
    """The `instances` parts of a run of the demo model."""
    source, lake = Path(folder, "scenes"), f"{folder}/real"
    scenes.write(source, number, seed=11)
    (source / "annotations.json").unlink()
    job(source, lake, number, "ray")
    files = sorted(Path(lake, "instances").rglob("*.parquet"))
    return [pq.read_table(file, partitioning=None) for file in files]


def _cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def compare_layouts(parts: list[pa.Table]) -> None:
    rows = sum(map(len, parts))

    def written(layout: dict[str, Any]) -> list[bytes]:
        sinks = [io.BytesIO() for _ in parts]
        for part, sink in zip(parts, sinks, strict=True):
            pq.write_table(part, sink, **layout)
        return [sink.getvalue() for sink in sinks]

    print(f"  {rows:,} rows in {len(parts)} parts; microseconds of CPU time a row")
    print(f"  {'':45} bytes/row   write    read")
    for name, layout in LAYOUTS.items():
        rounds = []
        for _ in range(5):
            writing, files = _cpu(lambda: written(layout))  # noqa: B023
            reading, _ = _cpu(lambda: [pq.read_table(io.BytesIO(f), use_threads=False) for f in files])  # noqa: B023
            rounds.append((1e6 * writing / rows, 1e6 * reading / rows))
        write, read = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"  {name:45} {sum(map(len, files)) / rows:9.1f} {write:7.2f} {read:7.2f}", flush=True)
    sizes: dict[str, int] = defaultdict(int)
    for file in written(LAYOUT):
        footer = pq.read_metadata(io.BytesIO(file))
        sizes["footers"] += footer.serialized_size
        for group in range(footer.num_row_groups):
            for index in range(footer.num_columns):
                column = footer.row_group(group).column(index)
                sizes[column.path_in_schema] += column.total_compressed_size
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    print("  ours by column:", ", ".join(f"{name} {size / rows:.1f}" for name, size in largest[:12]))
    results = coco_results(pa.concat_tables(parts))
    text = "\n".join(result["segmentation"]["counts"] for result in results)
    for name, data in (
        ("COCO JSON of the same, gzip", json.dumps(results)),
        ("the RLE text alone, gzip", text),
    ):
        print(f"  {name:45} {len(gzip.compress(data.encode())) / rows:9.1f}")


def coco_results(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of `instances` as COCO results, floats as short as float32 allows."""
    short = {
        name: [float(str(value)) for value in table[name].to_numpy()]
        for name in ("x", "y", "w", "h", "score")
    }
    columns = {
        name: table[name].to_pylist()
        for name in ("image_id", "label_id", "label", "area", "mask", "keypoints")
    }
    return [
        {
            "image_id": columns["image_id"][i],
            "category_id": columns["label_id"][i],
            "label": columns["label"][i],
            "bbox": [short[name][i] for name in "xywh"],
            "score": short["score"][i],
            "area": columns["area"][i],
            "segmentation": columns["mask"][i],
            "keypoints": [
                float(str(np.float32(keypoint[key])))
                for keypoint in columns["keypoints"][i] or ()
                for key in ("x", "y", "score")
            ],
        }
        for i in range(len(table))
    ]


def generated(pool: pa.Table, rows: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Pairs of (instances, images), each sorted as the write stage sorts it."""
    chance = np.random.default_rng(0)
    first = 0
    for start in range(0, rows, PART_ROWS):
        n = min(PART_ROWS, rows - start)
        table = pool.take(pa.array(chance.integers(0, len(pool), n)))
        image = first + np.sort(chance.integers(0, -(-n // 7), n))
        columns = {name: table[name] for name in INSTANCES.names}
        for name in ("score", "x", "y", "w", "h"):
            values = table[name].to_numpy() * (1 + 0.01 * (chance.random(n) - 0.5))
            columns[name] = pa.array(np.minimum(values, 1 if name == "score" else 1e6).astype(np.float32))
        columns |= {
            "image_id": pa.array(image),
            "uri": pa.array([f"s3://photos/2026/{i:010d}.jpg" for i in image.tolist()]),
            "run": pa.array([RUN] * n),
        }
        columns["label"] = table["label"].cast(pa.string())
        keys = pa.table({name: columns[name] for name in ("label", "score", "image_id")})
        order = pc.sort_indices(
            keys, [("label", "ascending"), ("score", "descending"), ("image_id", "ascending")]
        )
        instances = pa.table([columns[f.name].take(order).cast(f.type) for f in INSTANCES], schema=INSTANCES)
        ids, counts = np.unique(image, return_counts=True)
        constant = {
            "run": RUN, "etag": "e", "size_bytes": 1, "last_modified": WHEN, "width": 320, "height": 240, "status": "ok",
            "error": None, "model": MODEL, "processed_at": WHEN,
        }  # fmt: skip
        own = {
            "image_id": pa.array(ids),
            "uri": pa.array([f"s3://photos/2026/{i:010d}.jpg" for i in ids.tolist()]),
            "n_instances": pa.array(counts.astype(np.int32)),
        }
        images = [
            own[f.name] if f.name in own else pa.array([constant[f.name]] * len(ids), f.type) for f in IMAGES
        ]
        yield instances, pa.table(images, schema=IMAGES)
        first = int(ids[-1]) + 1


def make_lakes(folder: str, pool: pa.Table, rows: int) -> None:
    lake, storage = f"{folder}/lake", Storage()
    for instances, images in generated(pool, rows):
        name = part_name(1, images["image_id"].to_numpy())
        for table, kind in ((instances, "instances"), (images, "images")):
            footed = table.replace_schema_metadata(with_footer(table.schema, MODEL).metadata)
            write_table(footed, f"{lake}/{kind}/run={RUN}/{name}", storage)
    storage.write(f"{lake}/runs/{RUN}/run.json", record(RUN, lake).to_json())
    with duckdb.connect(config={"memory_limit": "3GB", "temp_directory": f"{folder}/spill"}) as connection:
        connection.execute(
            f"copy (from read_parquet('{lake}/instances/*/*.parquet', hive_partitioning = false) order by label, score desc) "
            f"to '{folder}/flat.parquet' (format parquet, compression zstd, row_group_size {PART_ROWS})"
        )


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _least(call: Callable[[], Any], rounds: int = 9) -> tuple[float, float, Any]:
    """(wall seconds, CPU seconds of all threads, the result): the least of each, since other work on the machine only adds."""
    seconds = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = map(min, zip(*seconds, strict=True))
    return wall, cpu, result


def compare_questions(folder: str, rows: int, lake: str) -> None:
    """`lake`: in which state the lake is, for the title."""
    flat = f"{folder}/flat.parquet"
    head = ds.dataset(f"{folder}/lake/instances", format="parquet", schema=INSTANCES).head(JSON_ROWS)
    Path(folder, "coco.json").write_text(json.dumps(coco_results(head)))
    json_rows = len(head)
    del head
    gc.collect()
    start = time.perf_counter()
    frame = pd.DataFrame(json.loads(Path(folder, "coco.json").read_text()))
    loading = time.perf_counter() - start
    print(
        f"\n  {rows:,} generated rows, the lake {lake}; milliseconds: wall / CPU of all threads, the least of 9"
    )
    print(
        f"  pandas: {json_rows:,} of them, after {loading:.1f} s to read {Path(folder, 'coco.json').stat().st_size / 1e6:.0f} MB of COCO JSON"
    )
    print(
        f"  {'':37}         masklake    DuckDB on parts    on the flat file             pandas   flat / masklake: wall, CPU"
    )
    with (
        Database(Lake(f"{folder}/lake", Storage())) as database,
        duckdb.connect() as parts,
        duckdb.connect() as connection,
    ):
        for plain, files in ((parts, f"{folder}/lake/instances/*/*.parquet"), (connection, flat)):
            plain.execute("set parquet_metadata_cache = true")
            plain.execute(f"create view instances as from read_parquet('{files}', hive_partitioning = false)")
        for (name, sql), in_pandas in zip(QUESTIONS.items(), _pandas(frame), strict=True):
            ours, on_parts, theirs = (
                _least(ask)
                for ask in (
                    lambda: database.rows(sql),  # noqa: B023
                    lambda: rows_of(parts.sql(sql).to_arrow_table()),  # noqa: B023
                    lambda: rows_of(connection.sql(sql).to_arrow_table()),  # noqa: B023
                )
            )
            columns = "".join(
                f"{1000 * wall:9.1f} /{1000 * cpu:7.1f} "
                for wall, cpu, _ in (ours, on_parts, theirs, _least(in_pandas))
            )
            same = len(ours[2]) == len(theirs[2]) and ("avg" in sql or ours[2] == theirs[2])
            print(
                f"  {name:37}{columns} {theirs[0] / ours[0]:6.2f} {theirs[1] / ours[1]:6.2f}{'' if same else '   answers differ'}",
                flush=True,
            )


def main(rows: int = 2_000_000, scenes_read: int = SCENES) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = real_parts(folder, scenes_read)
        compare_layouts(parts)
        make_lakes(folder, pa.concat_tables(parts).unify_dictionaries(), rows)
        compare_questions(folder, rows, "as a run writes it")
        compact = [
            sys.executable,
            "-m",
            "masklake",
            "compact",
            f"{folder}/lake",
            "--grace-minutes",
            "0",
            "-q",
        ]
        subprocess.run(compact, check=True)
        compare_questions(folder, rows, "after `masklake compact`")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--scenes", type=int, default=SCENES)
    options = parser.parse_args()
    main(options.rows, options.scenes)
