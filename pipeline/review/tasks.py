"""The chosen images as Label Studio tasks: the model's result as a prediction to correct, and the reason for the choice.

`data.masklake` says which image of the lake a task is, whatever its URL, so `masklake labels import` needs no names.
Who corrects the tasks is the source of those labels; so, unlike an export of labels, a task claims none, nor a split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.detected import detected_instance
from masklake.pipeline.labels.formats import studio_writer as label_studio_export
from masklake.pipeline.labels.formats.studio_interface import OURS, Interface, fitted
from masklake.pipeline.labels.sets import Instance, LabelSet
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.review.candidates import Candidates, chosen_rows
from masklake.pipeline.review.pick import RANDOM, REST, Pick
from masklake.pipeline.review.score import KINDS, Figures
from masklake.pipeline.words import counted

_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The instances that the model found in a chosen image, of all scores, the highest first."""

    set: LabelSet
    scores: tuple[float, ...]

    def above(self, score: float) -> Prediction:
        """Only the instances of at least this score."""
        return self._with(
            (instance, own)
            for instance, own in zip(self.set.instances, self.scores, strict=True)
            if own >= score
        )

    def fitted(self, names: Interface, left_out: Counter[str]) -> Prediction:
        """Only what an interface can hold; `left_out` counts the rest by reason."""
        pairs = zip(self.set.instances, self.scores, strict=True)
        kept = ((fitted(instance, names, left_out), own) for instance, own in pairs)
        return self._with((instance, own) for instance, own in kept if instance is not None)

    def _with(self, scored: Iterable[tuple[Instance, float]]) -> Prediction:
        kept = list(scored)
        return Prediction(
            set=replace(self.set, instances=tuple(instance for instance, _ in kept)),
            scores=tuple(own for _, own in kept),
        )


def predictions(lake: Lake, candidates: Candidates, chosen: Sequence[Pick]) -> list[Prediction]:
    """The prediction of each chosen image, in order. Raises UserError when the rows cannot be read, or are gone."""
    run_of = {
        candidates.uris[pick.image].as_py(): candidates.runs[candidates.run[pick.image]] for pick in chosen
    }
    images, instances = chosen_rows(lake, sorted(set(run_of.values())), run_of.keys())
    sizes = {row["uri"]: (row["width"], row["height"]) for row in _rows_of(images, run_of)}
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for row in _rows_of(instances, run_of):
        rows.setdefault(row["uri"], {})[row["instance"]] = (
            row  # what a killed attempt left twice is there once
        )
    if gone := run_of.keys() - sizes.keys():
        raise UserError(
            f"run {run_of[min(gone)]}: rows of {counted(len(gone), 'images')} have gone since they were chosen (a run is at work?); "
            "try again"
        )
    ranked_predictions = []
    for uri in run_of:
        ranked = [row for _, row in sorted(rows.get(uri, {}).items())]
        width, height = sizes[uri]
        ranked_predictions.append(
            Prediction(
                set=LabelSet(
                    uri=uri, width=width, height=height, instances=tuple(map(detected_instance, ranked)), source="model", split="train"
                ),
                scores=tuple(row["score"] for row in ranked),
            )
        )  # fmt: skip
    return ranked_predictions


def _rows_of(table: pa.Table, run_of: dict[str, str]) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if run_of.get(row["uri"]) == row["run"]]


def why(pick: Pick, figures: Figures) -> dict[str, Any]:
    """The reason for a choice, in words and figures."""
    i = pick.image
    rarest = figures.classes[figures.rarest[i]] if figures.rarest[i] >= 0 else None
    doubt, dispute, rarity = (float(getattr(figures, kind)[i]) for kind in KINDS)
    words = {
        "doubt": "scores between noise and certainty",
        "dispute": "the two newest models disagree",
        "rarity": f"rare class: {rarest}",
        RANDOM: "drawn at random",
        REST: "nothing speaks for it, but the budget was not used up",
    }
    return {
        "kind": pick.kind,
        "reason": words[pick.kind],
        "score": round(float(figures.score[i]), _DIGITS),
        "doubt": round(doubt, _DIGITS),
        "dispute": round(dispute, _DIGITS),
        "rarity": round(rarity, _DIGITS),
        "rarest": rarest,
    }


def tasks(
    predictions: Sequence[Prediction],
    reasons: Sequence[dict[str, Any]],
    models: Sequence[str],
    urls: Sequence[str],
    names: Interface = OURS,
) -> list[dict[str, Any]]:
    """A task of each image. `reasons` come from `why`; `models` name the model of each prediction; `names` are the project's."""
    return [
        {
            "id": i,
            "data": {
                **reason,
                names.data_field: url,
                "masklake": label_studio_export.identity(prediction.set),
            },
            "predictions": [label_studio_export.prediction(prediction.set, prediction.scores, model, names)],
        }
        for i, (prediction, reason, model, url) in enumerate(
            zip(predictions, reasons, models, urls, strict=True), 1
        )
    ]
