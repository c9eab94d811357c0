"""Functions that a query over a lake has beside DuckDB's own: boxes and keypoints in SQL, masks in Python.

The Python functions get values and give values: no file, no table and no object of this process can be reached through them,
and what they are given is checked before pycocotools sees it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType

if TYPE_CHECKING:
    from masklake.pipeline.labels.masks import LabelMask

_OVERLAP = (
    "greatest(0, least(a.x + a.w, b.x + b.w) - greatest(a.x, b.x))"
    " * greatest(0, least(a.y + a.h, b.y + b.h) - greatest(a.y, b.y))"
)
MACROS = {
    "kp(keypoints, keypoint)": "list_filter(keypoints, lambda k: k.name = keypoint)[1]",
    "box_area(a)": "a.w * a.h",
    "box_overlap(a, b)": _OVERLAP,
    "box_iou(a, b)": f"({_OVERLAP}) / nullif(a.w * a.h + b.w * b.h - ({_OVERLAP}), 0)",
}
_MOST_PIXELS = 2**26


def add(connection: duckdb.DuckDBPyConnection) -> None:
    """Give the connection these functions. They are null where an argument is."""
    for signature, expression in MACROS.items():
        connection.execute(f"create macro {signature} as {expression}")
    rle: Any = duckdb.struct_type({"size": "INTEGER[]", "counts": "VARCHAR"})
    signatures: list[tuple[Callable[..., Any], list[Any], str, pa.DataType]] = [
        (mask_area, [rle], "BIGINT", pa.int64()),
        (mask_iou, [rle, rle], "DOUBLE", pa.float64()),
        (mask_at, [rle, "INTEGER", "INTEGER"], "BOOLEAN", pa.bool_()),
        (mask_pixels, [rle], "BLOB", pa.binary()),
    ]
    for function, parameters, result, type_ in signatures:
        connection.create_function(
            function.__name__,
            _of_columns(function, type_),
            parameters,
            result,
            type=PythonUDFType.ARROW,
            null_handling=FunctionNullHandling.SPECIAL,
        )


def _of_columns(function: Callable[..., Any], type_: pa.DataType) -> Callable[..., pa.Array]:
    """`function` of values as one of whole columns."""

    def of_columns(*columns: pa.ChunkedArray) -> pa.Array:
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        return pa.array([None if None in row else function(*row) for row in rows], type_)

    names = inspect.signature(function).parameters
    # DuckDB looks how many parameters there are, and would take annotations for SQL types.
    positional = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names]
    of_columns.__signature__ = inspect.Signature(positional)  # type: ignore[attr-defined]  # as inspect documents it
    of_columns.__annotations__ = {}
    return of_columns


def _mask(value: dict[str, Any]) -> LabelMask:
    """Raises ValueError for what is no mask."""
    from masklake.pipeline.labels.masks import from_counts

    size, counts = value["size"], value["counts"]
    if size is None or counts is None or len(size) != 2 or None in size:
        raise ValueError("a mask needs a size [height, width] and counts")
    return from_counts(counts, size, *size)


def mask_area(mask: dict[str, Any]) -> int:
    """The pixels in the mask."""
    return _mask(mask).area


def mask_iou(mask: dict[str, Any], other: dict[str, Any]) -> float | None:
    """Intersection over union; None for masks of different frames."""
    from pycocotools import mask as coco_mask

    a, b = _mask(mask), _mask(other)
    if (a.height, a.width) != (b.height, b.width):
        return None
    return float(coco_mask.iou([a.as_coco()], [b.as_coco()], [0])[0, 0])


def mask_at(mask: dict[str, Any], x: int, y: int) -> bool:
    """Whether the pixel is in the mask."""
    import numpy as np
    from masklake.model.masks.rle_text import runs_of_text

    checked = _mask(mask)
    if not (0 <= x < checked.width and 0 <= y < checked.height):
        return False
    ends = np.cumsum(runs_of_text(checked.counts))
    return int(np.searchsorted(ends, x * checked.height + y, side="right")) % 2 == 1


def mask_pixels(mask: dict[str, Any]) -> bytes:
    """(H, W) bytes, 0 or 1, rows first."""
    import numpy as np
    from masklake.pipeline.labels.masks import to_pixels

    checked = _mask(mask)
    if checked.height * checked.width > _MOST_PIXELS:
        raise ValueError(f"a mask of {checked.width}×{checked.height} pixels is too large for mask_pixels")
    return np.ascontiguousarray(to_pixels(checked)).tobytes()
