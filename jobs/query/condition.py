"""--where: a user's condition, one expression of SQL on the columns of an instance and its image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.jobs.query.database import Database


def require_condition(database: Database, where: str) -> None:
    """Raises UserError where `where` is not one expression that may run. What its columns are is not looked at."""
    if not where.strip():
        raise UserError(
            "--where '': is no condition; write one, such as \"label = 'person'\", or leave it out"
        )
    with blaming(database, where):
        database.prepare(f"select (\n{where}\n) is true")


@contextlib.contextmanager
def blaming(database: Database, where: str | None) -> Iterator[None]:
    """A UserError of the block names --where, unless there is none, or storage failed."""
    try:
        yield
    except UserError as error:
        if where is None or database.storage_failure():
            raise
        raise UserError(f"--where {where!r}: {error}") from error
