"""Predictions of Label Studio's tasks: their images found, read, and given to the model as `masklake segment` does it.

A task is answered only for an image that the lake knows, whatever the task names: who can write tasks must not have this
machine read what it could not. Files that Label Studio keeps itself come from there, under the token, where its address was given.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from masklake.jobs.studio.client import StudioClient
from masklake.model.decode import DecodeOptions
from masklake.pipeline.decode import decode_rows
from masklake.pipeline.errors import OutageError, UserError
from masklake.pipeline.labels import names
from masklake.pipeline.labels.detected import detected_instance
from masklake.pipeline.labels.formats.studio_interface import Interface, fitted
from masklake.pipeline.labels.formats.studio_writer import prediction
from masklake.pipeline.labels.sets import LabelSet
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.schema import MANIFEST, Status
from masklake.pipeline.segment.encode import Vocabulary, encode_rows
from masklake.pipeline.segment.fetch import FETCHED, fetch
from masklake.pipeline.segment.infer import Predicts, infer_rows
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import normalise
from masklake.pipeline.words import counted

_KEPT_BY_STUDIO = re.compile(r"/data/(upload|local-files)/(?!.*(\.|%2[Ee]){2})\S+")
"""No path that leads out of these folders: %2e is read as a point on the way there."""

_FRESH_S = 60.0
"""After this time the lake is listed again, so that what has been taken in meanwhile is known."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that is ready, and what its numbers mean."""

    version: str
    predictor: Predicts
    vocabulary: Vocabulary
    decode: DecodeOptions
    max_bytes: int
    """Of an image's file."""
    at_once: int
    """Images that it is given at once; time is looked at between them."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Of each task its prediction, None where there is none; why there is none, and what no prediction could hold, counted."""

    predictions: list[dict[str, Any] | None]
    problems: list[str]
    left_out: Counter[str]


class TaskPredictor:
    """Predicts on tasks, one request at a time. `studio` is the server whose files may be asked for, if any."""

    def __init__(self, lake: Lake, model: Model, studio: StudioClient | None) -> None:
        self._lake, self.model, self._studio = lake, model, studio
        self._opened_s = time.monotonic()
        self._images: ds.Dataset | None = None
        """Kept while the lake is: with it the footers of its parts, which else were read for every task that is opened."""
        self.turn = threading.Lock()
        """Held while tasks are predicted on."""

    def predict(self, tasks: Sequence[dict[str, Any]], names_: Interface, seconds: float) -> Answer:
        """The predictions, for an interface with these names. Tasks that `seconds` do not suffice for have none."""
        deadline = time.monotonic() + seconds
        answer = Answer(predictions=[None] * len(tasks), problems=[], left_out=Counter())
        if not self.turn.acquire(timeout=seconds):
            answer.problems.append(f"{counted(len(tasks), 'tasks')} waited for others all of {seconds:.0f} s")
            return answer
        try:
            known = self._known({place for task in tasks for place in _places(task, names_)})
            for start in range(0, len(tasks), self.model.at_once):
                if time.monotonic() > deadline:
                    answer.problems.append(
                        f"{len(tasks) - start:,} of {counted(len(tasks), 'tasks')} were not reached in {seconds:.0f} s"
                    )
                    break
                part = range(start, min(start + self.model.at_once, len(tasks)))
                self._predict(part, tasks, names_, known, answer)
        finally:
            self.turn.release()
        return answer

    def _known(self, places: Collection[str]) -> set[str]:
        """Those of the places that are images of the lake, as it was listed at most _FRESH_S ago."""
        if time.monotonic() - self._opened_s > _FRESH_S:
            self._reopen()
        try:
            return self._listed(places)
        except OutageError:
            raise
        except (UserError, pa.ArrowInvalid):
            # Compact and forget put other parts in the place of those whose footers are held, also under their names.
            self._reopen()
            return self._listed(places)

    def _reopen(self) -> None:
        self._lake, self._opened_s = Lake(self._lake.uri, self._lake.storage), time.monotonic()
        self._images = None

    def _listed(self, places: Collection[str]) -> set[str]:
        if not places or not self._lake.parts("images"):
            return set()
        if self._images is None:
            self._images = self._lake.dataset("images")
        among = ds.field("uri").isin(pa.array(sorted(places), pa.string()))
        with explaining(self._lake.uri, "read images"):
            table = self._images.to_table(columns=["uri"], filter=among)
        return set(table["uri"].to_pylist())

    def _predict(
        self,
        part: Sequence[int],
        tasks: Sequence[dict[str, Any]],
        names_: Interface,
        known: Collection[str],
        answer: Answer,
    ) -> None:
        rows = self._encoded([self._read(i, tasks[i], names_, known) for i in part])
        for i, row in zip(part, rows.to_pylist(), strict=True):
            if row["status"] != Status.OK:
                answer.problems.append(f"task {tasks[i].get('id', i)}: {row['uri']}: {row['error']}")
                continue
            offered = [
                (instance, detected["score"])
                for detected in row["instances"]
                if (instance := fitted(detected_instance(detected), names_, answer.left_out)) is not None
            ]
            label_set = LabelSet(
                uri=row["uri"], width=row["width"], height=row["height"], source="model", split="train",
                instances=tuple(instance for instance, _ in offered),
            )  # fmt: skip
            scores = [score for _, score in offered]
            answer.predictions[i] = prediction(label_set, scores, self.model.version, names_)

    def _encoded(self, fetched: Sequence[pa.Table]) -> pa.Table:
        decoded = decode_rows(pa.concat_tables(fetched), self.model.decode)
        return encode_rows(infer_rows(decoded, self.model.predictor), self.model.vocabulary)

    def _read(self, i: int, task: dict[str, Any], names_: Interface, known: Collection[str]) -> pa.Table:
        """A row of FETCHED."""
        places = _places(task, names_)
        row: dict[str, Any] = dict.fromkeys(FETCHED.names) | {"image_id": i, "uri": "".join(places[:1])}
        if inside := [place for place in places if place in known]:
            manifest = pa.Table.from_pylist([row | {"uri": inside[0]}], FETCHED).select(MANIFEST.names)
            return fetch(manifest.cast(MANIFEST), self._lake.storage, self.model.max_bytes)
        try:
            row |= {"data": self._from_studio(places), "status": str(Status.OK)}
        except UserError as error:
            row |= {"status": str(Status.FAILED), "error": str(error)}
        return pa.Table.from_pylist([row], FETCHED)

    def _from_studio(self, places: Sequence[str]) -> bytes:
        """Raises UserError where Label Studio has no such file, or must not be asked for it."""
        for place in places:
            path = place if self._studio is None else place.removeprefix(self._studio.url)
            if _KEPT_BY_STUDIO.fullmatch(path):
                if self._studio is None:
                    raise UserError(
                        "lies in Label Studio, whose address is not known here (--label-studio URL)"
                    )
                return self._studio.file(path, self.model.max_bytes)
        raise UserError(f"is no image of {self._lake.uri}; `masklake segment` takes it in")


def _places(task: dict[str, Any], names_: Interface) -> list[str]:
    """Where the image of a task may lie, the likeliest first."""
    data = task.get("data")
    if not isinstance(data, dict):
        return []
    own, url = data.get("masklake"), data.get(names_.data_field)
    places = [own["uri"]] if isinstance(own, dict) and isinstance(own.get("uri"), str) else []
    if isinstance(url, str):
        places += [url, *names.aliases(url)]
    return [*dict.fromkeys(other for place in places for other in _spellings(place))]


def _spellings(place: str) -> list[str]:
    """What a task says of a place, as it is and as the lake would write it; nothing of what can be no place."""
    if not place or not place.isprintable():
        return []
    with contextlib.suppress(UserError):
        return [place, normalise(place)] if names.is_location(place) else [place]
    return []
