"""--where: a user's condition, one expression of SQL on the columns of an instance and its image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from masklake.pipeline.errors import UserError

if TYPE_CHECKING:
    from masklake.jobs.query.database import Database

_LISTED_CLASSES = 10


def require_condition(database: Database, where: str) -> None:
    """Raises UserError where `where` is not one expression that may run. Whether there are such columns shows when it runs."""
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


def no_image_fits(lake: str, where: str | None, classes: Sequence[str]) -> UserError:
    """What is said where `where` is true for no image of the lake, which has these classes."""
    return UserError(f"{lake}: no image fits --where {where!r} ({listed(classes)})")


def listed(classes: Sequence[str]) -> str:
    """The first classes, and how many more there are."""
    more = f" and {len(classes) - _LISTED_CLASSES:,} more" if len(classes) > _LISTED_CLASSES else ""
    return f"classes: {', '.join(classes[:_LISTED_CLASSES]) or 'none'}{more}"
