"""What `masklake review` gives out: a file of tasks, a labelling interface, tasks in a project of a Label Studio server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from masklake.jobs.review.options import ReviewOptions
from masklake.jobs.studio.client import StudioClient
from masklake.jobs.studio.push import Pushed, push, require_interface
from masklake.jobs.terminal.bar import with_bar
from masklake.jobs.terminal.text import note
from masklake.pipeline.labels import store as label_store
from masklake.pipeline.labels.formats import studio_interface
from masklake.pipeline.labels.formats.studio_interface import OURS, Interface, needed, wished
from masklake.pipeline.labels.formats.studio_writer import names_of
from masklake.pipeline.labels.sets import LabelSet
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.review import score
from masklake.pipeline.review.tasks import Prediction
from masklake.pipeline.review.tasks import tasks as review_tasks
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.presign import signed
from masklake.pipeline.storage.store import Storage, normalise
from masklake.pipeline.words import counted


@dataclass(frozen=True, kw_only=True)
class ReviewedImages:
    """The chosen images: what was found in each, why it was chosen, and the model that found it."""

    predictions: list[Prediction]
    reasons: list[dict[str, Any]]
    models: list[str]

    @property
    def sets(self) -> list[LabelSet]:
        return [prediction.set for prediction in self.predictions]

    def above(self, score: float) -> ReviewedImages:
        """With the instances of at least this score."""
        return replace(self, predictions=[prediction.above(score) for prediction in self.predictions])

    def tasks(
        self, positions: Sequence[int], urls: Sequence[str], names: Interface = OURS
    ) -> list[dict[str, Any]]:
        """The tasks of the images at these positions."""
        return review_tasks(
            [self.predictions[i] for i in positions],
            [self.reasons[i] for i in positions],
            [self.models[i] for i in positions],
            urls,
            names,
        )


def write(chosen: ReviewedImages, options: ReviewOptions, lake: Lake) -> None:
    """Write the files that the options name. Raises UserError where one cannot be written."""
    file, interface = options.files
    contents: dict[str, str] = {}
    if file:
        urls = _urls(chosen, options, lake.storage)
        tasks = chosen.above(options.score).tasks(range(len(urls)), urls)
        contents[file] = json.dumps(tasks, ensure_ascii=False, separators=(",", ":"))
    if interface:
        labels, keypoints = names_of(chosen.sets, _classes(lake))
        contents[interface] = studio_interface.interface(labels, keypoints)
        if unnameable := studio_interface.unnameable([*labels, *keypoints]):
            note(unnameable)
    for name, text in contents.items():
        with explaining(name, "write the tasks"):
            lake.storage.write(normalise(name), text.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a project of Label Studio was given."""

    url: str
    project: int
    pushed: Pushed
    left_out: Counter[str]

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "url": self.url, "project": self.project, "added": self.pushed.added, "there": self.pushed.there,
            "left_out": dict(sorted(self.left_out.items())),
        }  # fmt: skip


def give(chosen: ReviewedImages, client: StudioClient, options: ReviewOptions, lake: Lake) -> Given:
    """Add tasks to the project. Raises UserError where its interface does not fit, or an image cannot be given."""
    assert options.project is not None  # noqa: S101  # with --push it is there
    number, left_out = options.project, Counter[str]()
    offered = chosen.above(options.score)
    names = require_interface(
        client,
        number,
        needed(offered.sets),
        wished(*names_of(chosen.sets, _classes(lake))),
        setup=options.setup,
    )
    fitting = [prediction.fitted(names, left_out) for prediction in offered.predictions]
    offered = replace(offered, predictions=fitting)

    def make(positions: Sequence[int]) -> list[dict[str, Any]]:
        if options.urls == "upload":
            urls = list(
                with_bar(
                    _uploaded(client, number, offered, positions, lake.storage), "uploading", len(positions)
                )
            )
        else:
            every = _urls(offered, options, lake.storage)
            urls = [every[i] for i in positions]
        return offered.tasks(positions, urls, names)

    pushed = push(client, number, [label_set.uri for label_set in chosen.sets], make)
    if options.urls == "plain" and (local := sum("://" not in label_set.uri for label_set in chosen.sets)):
        note(
            f"{counted(local, 'images')} on a disk of this machine, which a browser cannot open: --urls upload gives Label Studio copies"
        )
    return Given(url=client.url, project=number, pushed=pushed, left_out=left_out)


def _urls(chosen: ReviewedImages, options: ReviewOptions, storage: Storage) -> list[str]:
    uris = [label_set.uri for label_set in chosen.sets]
    return signed(uris, storage, options.expires) if options.urls == "presigned" else uris


def _uploaded(
    client: StudioClient, number: int, chosen: ReviewedImages, positions: Sequence[int], storage: Storage
) -> Iterator[str]:
    for i in positions:
        uri = chosen.sets[i].uri
        with explaining(uri, "read it for Label Studio"):
            data = storage.read(normalise(uri))
        yield client.upload(number, uri.rpartition("/")[2], data)


def _classes(lake: Lake) -> set[str]:
    """What the models of the lake can find, and what is labelled."""
    able = {name for reach in score.reach(lake, lake.run_ids()) for name in reach.classes or ()}
    return able.union(label_store.classes(lake))
