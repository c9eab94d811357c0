"""The images that could be reviewed: their newest rows, the rows of another model, and the labelled images.

A lake may have millions of images, so rows are numbers in arrays: a candidate is a position, and only the columns that
decide are read. Masks are read for the chosen images only (`chosen_rows`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from masklake.pipeline.errors import UserError
from masklake.pipeline.lake.lake import Lake
from masklake.pipeline.schema import Status
from masklake.pipeline.storage.explain import explaining
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_IMAGES_OF_A_RUN = 2**40
"""More images than any run has, so that (run, image_id) fits into one number."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The labelled images of a lake, and the number of labelled instances of each class."""

    uris: pa.Array
    counts: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Images to choose from, in the order of the lake's rows.

    run, image_id: of the row that is reviewed, the run as a position in `runs`. other_run, other_id: of the newest row by
    another model, -1 where there is none. copies: how often the row is there; a killed attempt may have left it twice.
    """

    uris: pa.Array
    etags: pa.Array
    sizes: pa.Array
    model: Ints
    run: Ints
    image_id: Ints
    copies: Ints
    other_run: Ints
    other_id: Ints
    runs: list[str]
    models: list[str]
    failed: int
    """Images left out because their newest row is not ok."""
    labelled: int
    """Images left out because they are labelled."""
    labelled_objects: frozenset[tuple[str | None, int | None]]
    """Etag and size of every labelled image of the lake; empty where labelled ones are candidates themselves."""

    def __len__(self) -> int:
        return len(self.uris)


@dataclass(frozen=True, kw_only=True)
class CandidateInstances:
    """Instances of candidates, in narrow numbers: there are many. side: 0 of the row that is reviewed, 1 of the other
    model's."""

    image: NDArray[np.int32]
    side: NDArray[np.int8]
    instance: NDArray[np.int32]
    label: NDArray[np.int32]
    score: NDArray[np.float32]
    box: NDArray[np.float32]
    """(N, 4): x, y, w, h in pixels."""

    def __len__(self) -> int:
        return len(self.image)

    def where(self, chosen: Bools | Ints) -> CandidateInstances:
        return CandidateInstances(**{name: values[chosen] for name, values in vars(self).items()})

    @staticmethod
    def together(parts: list[CandidateInstances]) -> CandidateInstances:
        names = CandidateInstances.__dataclass_fields__
        return CandidateInstances(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        )


def labelled(lake: Lake) -> Labelled:
    """The labelled images of the lake and their classes, of the newest label sets."""
    if not lake.parts("labels"):
        return Labelled(uris=pa.array([], pa.large_string()), counts={})
    dataset = lake.dataset("labels")
    with explaining(lake.uri, "read labels"):
        table = dataset.to_table(columns=["uri", "label", "labelled_at"])
    code, uris = _codes(table["uri"])
    times = table["labelled_at"].cast(pa.int64()).to_numpy()
    newest = np.full(len(uris), np.iinfo(np.int64).min)
    np.maximum.at(newest, code, times)
    current = table["label"].cast(pa.string()).filter(pa.array(times == newest[code])).drop_null()
    return Labelled(
        uris=uris, counts={count["values"]: count["counts"] for count in pc.value_counts(current).to_pylist()}
    )


def candidates(
    lake: Lake,
    known: Labelled,
    *,
    run: str | None = None,
    model: str | None = None,
    again: bool = False,
) -> Candidates:
    """The images whose newest row (of `run`, of `model`: name@fingerprint) is ok and that are not labelled yet.

    `again` takes labelled ones too. Raises UserError when the lake cannot be read.
    """
    dataset = lake.dataset("images")
    columns = ["uri", "run", "image_id", "model", "status", "etag", "size_bytes"]
    with explaining(lake.uri, "read images"):
        table = dataset.to_table(columns=columns)
    image, uris = _codes(table["uri"])
    run_code, run_names = _codes(table["run"])
    model_code, model_names = _codes(table["model"])
    image_id = table["image_id"].to_numpy()
    ok = pc.equal(table["status"].cast(pa.string()), str(Status.OK)).to_numpy()
    age = np.argsort(np.argsort(np.array(run_names.to_pylist(), object)))[run_code]  # ids sort by time

    def newest(rows: Bools) -> Ints:
        """The newest of these rows for each image; -1 where it has none."""
        positions = np.flatnonzero(rows)
        order = positions[np.lexsort((image_id[positions], age[positions], image[positions]))]
        latest = np.full(len(uris), -1)
        latest[image[order]] = order  # of several rows the last one stays
        return latest

    narrowed = np.ones(len(image), bool)
    for code, names, wanted in ((run_code, run_names, run), (model_code, model_names, model)):
        if wanted is not None:
            narrowed &= code == names.index(pa.scalar(wanted, names.type)).as_py()  # -1 where it is not there
    row = newest(narrowed)
    there = row >= 0
    # Rows of another version of the object do not count: a difference there is no dispute.
    etag = table["etag"].combine_chunks()
    same = pc.fill_null(pc.equal(etag, etag.take(pa.array(row[image].clip(0)))), True)
    same_object = same.to_numpy(zero_copy_only=False)
    other = newest(ok & there[image] & same_object & (model_code != model_code[row[image]]))
    is_labelled = pc.is_in(uris, known.uris.cast(uris.type)).to_numpy(zero_copy_only=False)
    left = there & is_labelled & (not again)
    objects = table.select(["etag", "size_bytes"])
    failed = there & ~left & ~ok[row]
    kept = np.flatnonzero(there & ~left & ~failed)
    row, other = row[kept], other[kept]
    keys, times = np.unique(run_code * _IMAGES_OF_A_RUN + image_id, return_counts=True)
    chosen = objects.take(pa.array(row))
    of_labelled = newest(ok)[is_labelled & (not again)]
    known_objects = objects.take(pa.array(of_labelled[of_labelled >= 0]))
    return Candidates(
        uris=uris.take(pa.array(kept)),
        etags=chosen["etag"].combine_chunks(),
        sizes=chosen["size_bytes"].combine_chunks(),
        model=model_code[row],
        run=run_code[row],
        image_id=image_id[row],
        copies=times[np.searchsorted(keys, run_code[row] * _IMAGES_OF_A_RUN + image_id[row])],
        other_run=np.where(other >= 0, run_code[other], -1),
        other_id=np.where(other >= 0, image_id[other], -1),
        runs=run_names.to_pylist(),
        models=model_names.to_pylist(),
        failed=int(failed.sum()),
        labelled=int(left.sum()),
        labelled_objects=frozenset(
            zip(*(column.to_pylist() for column in known_objects.columns), strict=True)
        ),
    )


def _codes(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """(position of each value among the distinct values, the distinct values)."""
    # large_string: the URIs of a large lake are more than the 2 GiB of a string array
    encoded = column.cast(pa.large_string()).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([], pa.large_string())
    encoded = encoded.dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary


class Classes:
    """Class names as positions, in the order in which they first appear."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._codes: dict[str, int] = {}

    def codes(self, labels: pa.DictionaryArray) -> NDArray[np.int32]:
        known = [self._code(name) for name in labels.dictionary.to_pylist()]
        return np.array(known, np.int32)[labels.indices.to_numpy(zero_copy_only=False)]

    def _code(self, name: str) -> int:
        if name not in self._codes:
            self._codes[name] = len(self.names)
            self.names.append(name)
        return self._codes[name]


def detections(
    lake: Lake, chosen: Candidates, classes: Classes, floor: float
) -> Iterator[CandidateInstances]:
    """Instances of the candidates from score `floor` on, of the reviewed row and the other one, part by part."""
    import pyarrow.dataset as ds

    position = np.arange(len(chosen), dtype=np.int32)
    has_other = chosen.other_run >= 0
    keys = np.concatenate([
        chosen.run * _IMAGES_OF_A_RUN + chosen.image_id,
        (chosen.other_run * _IMAGES_OF_A_RUN + chosen.other_id)[has_other],
    ])  # fmt: skip
    owner = np.concatenate([position, position[has_other]])
    side = np.concatenate([np.zeros(len(chosen), np.int8), np.ones(has_other.sum(), np.int8)])
    order = np.argsort(keys)
    keys, owner, side = keys[order], owner[order], side[order]
    used = np.unique(np.concatenate([chosen.run, chosen.other_run[has_other]]))
    runs = [chosen.runs[i] for i in used]
    numbers = {name: i for i, name in enumerate(chosen.runs)}
    dataset = lake.dataset("instances", runs)
    columns = ["run", "image_id", "instance", "label", "score", "x", "y", "w", "h"]
    with explaining(lake.uri, "read instances"):
        for batch in dataset.to_batches(columns=columns, filter=ds.field("score") >= floor):
            if not len(batch):
                continue
            run = batch["run"].dictionary_encode()
            run_code = np.array([numbers[name] for name in run.dictionary.to_pylist()])[run.indices]
            key = run_code * _IMAGES_OF_A_RUN + batch["image_id"].to_numpy()
            place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
            mine = keys[place] == key
            place = place[mine]
            yield CandidateInstances(
                image=owner[place],
                side=side[place],
                instance=batch["instance"].to_numpy()[mine],
                label=classes.codes(batch["label"])[mine],
                score=batch["score"].to_numpy()[mine],
                box=np.stack([batch[name].to_numpy()[mine] for name in "xywh"], 1),
            )


def chosen_rows(lake: Lake, runs: Collection[str], uris: Collection[str]) -> tuple[pa.Table, pa.Table]:
    """The rows of `images` (run, uri, width, height) and of `instances` of a few images, masks and keypoints included.

    Only the parts that hold these images are opened: masks are nearly all of a lake's bytes.
    """
    import pyarrow.dataset as ds

    wanted = ds.field("uri").isin(pa.array(uris, pa.string()))
    dataset = lake.dataset("images", runs)
    with explaining(lake.uri, "read images"):
        images = dataset.to_table(columns=["run", "uri", "width", "height", "__filename"], filter=wanted)
    ends = {"/".join(name.split("/")[-2:]) for name in pc.unique(images["__filename"]).to_pylist()}
    every = lake.dataset("instances", runs)
    parts = [
        fragment for fragment in every.get_fragments() if "/".join(fragment.path.split("/")[-2:]) in ends
    ]
    dataset = ds.FileSystemDataset(parts, every.schema, every.format, every.filesystem)
    columns = [
        "run",
        "uri",
        "instance",
        "label_id",
        "label",
        "score",
        "x",
        "y",
        "w",
        "h",
        "mask",
        "keypoints",
    ]
    with explaining(lake.uri, "read instances"):
        instances = dataset.to_table(columns=columns, filter=wanted)
    return images.drop_columns(["__filename"]), instances


def require_runs(lake: Lake) -> None:
    """Raises UserError when there is no lake, or no run in it."""
    lake.require()
    if not lake.parts("images"):
        raise UserError(
            f"{lake.uri}: has no rows of images to choose from; `masklake segment SOURCE {lake.uri}` makes some"
        )
