"""The records of many runs in one object, so that a lake of ten thousand runs is read with a few requests.

    LAKE/runs/records.parquet      of each run: the version (ETag) of its run.json, and its content

The listing says which version of a run.json is there; what is packed counts only where it is of that version. So the pack may be
old, or be gone, and nobody is told anything wrong.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import pyarrow as pa
from masklake.pipeline.storage.objects import ObjectInfo
from masklake.pipeline.storage.parquet import read_table, write_table
from masklake.pipeline.storage.store import Storage

PACK = "records.parquet"
WORTH_IT = 64
"""With fewer records that are read one by one, no pack is read or written."""

_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("run", "etag")]
    + [pa.field("record", pa.binary(), nullable=False)]
)


class RecordReader:
    """Reads the contents of run.json files, with the pack at `uri`."""

    def __init__(self, uri: str, storage: Storage) -> None:
        self._uri = uri
        self._storage = storage
        self._packed: dict[str, tuple[str, bytes]] | None = None
        """By run: the ETag of its run.json, and the content."""
        self._loose: dict[str, tuple[str, bytes]] = {}
        """Likewise, of those that were read one by one."""

    def read(self, listed: Mapping[str, ObjectInfo]) -> dict[str, bytes | Exception]:
        """The contents of the run.json files in `listed`, by run; where one cannot be read, the exception stands in its place."""
        packed = self._pack() if len(listed) >= WORTH_IT else {}
        contents: dict[str, bytes | Exception] = {}
        loose = []
        for run, info in listed.items():
            etag, content = packed.get(run, (None, b""))
            if etag is None or etag != info.etag:
                loose.append(run)
            else:
                contents[run] = content
        answers = self._storage.get_many([listed[run].uri for run in loose])
        for run, answer in zip(loose, answers, strict=True):
            contents[run] = answer if isinstance(answer, Exception) else answer.data
            if not isinstance(answer, Exception) and answer.etag is not None:
                self._loose[run] = answer.etag, answer.data
        return contents

    def _pack(self) -> dict[str, tuple[str, bytes]]:
        """What is packed; nothing where the pack cannot be read, and then the records themselves are."""
        if self._packed is None:
            self._packed = {}
            try:
                table = read_table(self._uri, self._storage)
            except (FileNotFoundError, PermissionError, pa.ArrowInvalid):
                return self._packed
            if table.schema.names == _SCHEMA.names:
                runs, etags, contents = (column.to_pylist() for column in table.columns)
                self._packed = dict(zip(runs, zip(etags, contents, strict=True), strict=True))
        return self._packed

    def write(self, runs: Container[str]) -> None:
        """Renew the pack where many records were read one by one; of what was packed, `runs` are kept.

        Of two processes that do so at the same time, one's pack stays, which does no harm.
        """
        if len(self._loose) < WORTH_IT:
            return
        kept = {run: packed for run, packed in self._pack().items() if run in runs} | self._loose
        rows = [(run, etag, content) for run, (etag, content) in sorted(kept.items())]
        columns = zip(zip(*rows, strict=True), _SCHEMA, strict=True)
        table = pa.table([pa.array(values, field.type) for values, field in columns], schema=_SCHEMA)
        write_table(table, self._uri, self._storage)
