"""Tasks into a project of Label Studio: those whose images are not there yet, for an interface that can hold them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklake.jobs.terminal.bar import with_bar
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels import names
from masklake.pipeline.labels.formats.studio_interface import Interface, extended, is_empty, lacking, read

if TYPE_CHECKING:
    from masklake.jobs.studio.client import StudioClient
    from masklake.pipeline.labels.formats.studio_interface import Needed

_BATCH = 100
_BATCH_BYTES = 8_000_000
"""Of one request: servers and the proxies before them have limits."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did."""

    added: int
    there: int
    """Tasks of images that the project had already."""


def require_interface(
    client: StudioClient, number: int, needed: Needed, wished: Needed, *, setup: bool
) -> Interface:
    """The interface of the project, which offers what is `needed`; with `setup` it is extended by what is `wished`.

    Raises UserError where it does not and is not to be extended, after the interface that would was printed.
    """
    xml = client.interface(number)
    try:
        offered = _offered(xml)
        fitting = extended(xml, wished)
    except UserError as error:
        raise UserError(f"{client.url}: project {number}: {error}") from None
    if setup and (offered is None or lacking(offered, wished)):
        client.set_interface(number, fitting)
        offered = read(fitting)
    lacks = lacking(offered or Interface(), needed)
    if lacks or offered is None:
        sys.stderr.write(fitting.rstrip() + "\n")
        raise UserError(
            f"{client.url}: the labelling interface of project {number} lacks {_in_words(lacks) or 'an Image'}; --setup adds it and "
            "takes nothing away, or put the interface above into Settings > Labeling Interface"
        )
    return offered


def _offered(xml: str) -> Interface | None:
    """What the interface offers; None where it is empty, as in a new project."""
    return None if is_empty(xml) else read(xml)


def _in_words(lacks: Needed) -> str:
    return ", ".join(f"{tag} ({', '.join(labels)})" for tag, labels in lacks.items())


def push(
    client: StudioClient,
    number: int,
    uris: Sequence[str],
    make: Callable[[Sequence[int]], list[dict[str, Any]]],
) -> Pushed:
    """Add a task of each image that has none in the project; `make` gives the tasks of those at these positions."""
    there = present(client, number)
    missing = [i for i, uri in enumerate(uris) if uri not in there]
    tasks = make(missing)
    batches = list(_batches(tasks))
    for batch in with_bar(batches, "pushing", len(batches), "these tasks"):
        client.add_tasks(number, batch)
    if missing:
        lost = {uris[i] for i in missing} - present(client, number)
        if lost:
            raise UserError(
                f"{client.url}: took {len(missing):,} tasks, and {len(lost):,} are not in project {number}, such as {min(lost)}; "
                "see the server's log"
            )
    return Pushed(added=len(missing), there=len(uris) - len(missing))


def present(client: StudioClient, number: int) -> set[str]:
    """The URIs of the images that have a task in the project, and what else the fields of the tasks could mean."""
    uris: set[str] = set()
    for task in client.tasks(number, labels=False):
        data = task["data"] if isinstance(task.get("data"), dict) else {}
        own = data.get("masklake")
        if isinstance(own, dict) and isinstance(own.get("uri"), str):
            uris.add(own["uri"])
        for value in data.values():
            if isinstance(value, str):
                uris.update((value, *names.aliases(value)))
    return uris


def _batches(tasks: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for task in tasks:
        own = len(json.dumps(task))
        if batch and (len(batch) == _BATCH or size + own > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(task)
        size += own
    if batch:
        yield batch
