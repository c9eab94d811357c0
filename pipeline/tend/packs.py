"""Packs (pipeline/lake/row_pack.py) with rows of what is forgotten go as a whole: they are copies, and runs make new ones.

Since the parts of those rows are replaced, no reader counts them in a pack any more; but the pack's other rows are read. So it is
withdrawn when the change is committed, and removed when nobody reads it any longer.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.lake.row_pack import LIST, TABLES, Pack, packs
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.parquet import decode
from masklake.pipeline.tend.chosen import Chosen


def withdraw_packs(lake: Lake, chosen: Chosen) -> None:
    """Let nobody begin to read packs with rows of `chosen`. Raises UserError."""
    _remove(lake, chosen, [LIST])


def remove_packs(lake: Lake, chosen: Chosen) -> list[str]:
    """Remove packs with rows of `chosen`. Returns what was removed. Raises UserError."""
    return _remove(lake, chosen, [LIST, *TABLES])


def _remove(lake: Lake, chosen: Chosen, names: list[str]) -> list[str]:
    removed = []
    with explaining(lake.uri, "look through its packs"):
        for pack in packs(lake):
            if _holds(lake, pack, chosen):
                uris = [pack.files[name].uri for name in names if name in pack.files]
                removed += uris
                for uri in uris:
                    lake.storage.delete(uri)
    return removed


def _holds(lake: Lake, pack: Pack, chosen: Chosen) -> bool:
    """Whether a file of the pack has a row of `chosen`, or is broken, so that nobody can tell."""
    column = "uri" if chosen.run is None else "run"
    for table in TABLES:
        try:
            rows = decode(lake.storage.read(pack.files[table].uri), [column]) if table in pack.files else None
        except FileNotFoundError:  # a run has replaced the pack
            continue
        except pa.ArrowInvalid:
            return True
        if rows is None:
            continue
        texts = rows[column].cast(pa.string())
        mask = chosen.among(texts) if chosen.run is None else pc.equal(texts, chosen.run)
        if pc.any(mask).as_py():
            return True
    return False
