"""From the --model of a command line to a predictor in a worker."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklake.jobs.terminal.suggestions import did_you_mean
from masklake.model import presets
from masklake.model.checkpoint import SPEC, WEIGHTS
from masklake.model.errors import ModelError
from masklake.model.networks.torchvision_import import import_torchvision
from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.files import at_home
from masklake.pipeline.storage.store import Storage, join, normalise
from masklake.pipeline.streams.scratch import scratch_folder

if TYPE_CHECKING:
    from masklake.model.engine.int8 import Calibration
    from masklake.model.predictor import Predictor
    from masklake.model.spec import ModelSpec
    from masklake.model.tiles.predictor import TiledPredictor
    from masklake.model.tiles.tiling import Tiling
    from masklake.pipeline.lake.registry import Registry
    from masklake.pipeline.segment.encode import Vocabulary


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """The name of a preset, or the place of a checkpoint: a directory, or a URI that `storage` reads."""

    name: str
    storage: Storage
    weights_dir: str | None = None

    def local(self) -> str:
        """The preset's name, or a local directory with the checkpoint, fetched once per process and URI.

        Raises UserError when it cannot be fetched.
        """
        if "://" not in self.name:
            return self.name
        folder = _kept_folder(os.getpid()) / self.name.replace("/", "_")[-80:]
        folder.mkdir(exist_ok=True)
        for file in (WEIGHTS, SPEC):
            uri = join(normalise(self.name), file)
            with explaining(uri, "read the model"):
                data = self.storage.read(uri)
            with explaining(str(folder), "write the model"):
                (folder / file).write_bytes(data)
        return str(folder)


@functools.cache
def _kept_folder(_process: int) -> Path:
    """Where this process keeps the models that it has fetched."""
    return scratch_folder("masklake-model-")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A model that exists and is complete, as far as can be seen without torch."""

    source: ModelSource
    spec: ModelSpec
    fingerprint: str
    requested: str | None = None
    """The alias or version that was looked up in the lake's registry, if the model is from there."""

    def vocabulary(self) -> Vocabulary:
        from masklake.pipeline.segment.encode import Vocabulary  # it imports Arrow, which help does not need

        return Vocabulary(
            classes={c.id: c.name for c in self.spec.classes},
            with_keypoints=frozenset(c.id for c in self.spec.classes if c.keypoints),
            keypoint_names=self.spec.keypoint_names,
        )

    def record(self) -> dict[str, Any]:
        """The model as the run's record describes it."""
        extra = {} if self.requested is None else {"asked": self.requested}
        return {
            "name": self.spec.name,
            "source": self.source.name,
            "fingerprint": self.fingerprint,
            "classes": [c.name for c in self.spec.classes],
            **extra,
        }


def resolve(
    name: str,
    storage: Storage,
    weights_dir: str | None = None,
    *,
    lake: str | None = None,
    first: str | None = None,
) -> Resolved:
    """The model that `name` means: demo, coco, one of the lake's (an alias, name:alias, name@version), a directory or a
    URI. An alias is looked up once, here. `first` is used instead as long as the lake has no model or alias `name`.

    Raises ModelError or UserError.
    """
    from masklake.pipeline.lake.registry import Registry  # it imports Arrow, which help does not need

    requested = None
    version = Registry(lake, storage).find(name) if lake is not None and name not in presets.PRESETS else None
    if version is None and first is not None and name not in presets.PRESETS and "://" not in name:
        return resolve(first, storage, weights_dir, lake=lake)
    if version is not None:
        requested, name = name, version.uri
    elif "://" not in name and name not in presets.PRESETS:
        path = at_home(name)
        if not path.exists():
            known_presets = ", ".join(presets.PRESETS)
            of_lake = "" if lake is None else f", nor a model or alias of {lake},"
            nearly = [*presets.PRESETS, *(names_in(Registry(lake, storage)) if lake is not None else ())]
            raise ModelError(
                f"--model {name}: neither a preset ({known_presets}){of_lake} nor a directory with {WEIGHTS} and {SPEC}"
                f"{did_you_mean(name, nearly)}"
            )
        name = str(path.absolute())
    source = ModelSource(name=name, storage=storage, weights_dir=weights_dir)
    local = source.local()
    return Resolved(
        source=source,
        spec=presets.describe(local, weights_dir=weights_dir),
        fingerprint=presets.fingerprint(local, weights_dir=weights_dir),
        requested=requested,
    )


def require_alias(registry: Registry, name: str, alias: str) -> None:
    """Raises UserError where the model `name` may not have `alias`."""
    if alias in presets.PRESETS:
        raise UserError(f"--alias {alias}: is the name of a preset; choose another")
    registry.require_alias(name, alias)


def names_in(registry: Registry) -> set[str]:
    """Everything that means a model of the lake: name@version, name:alias, alias."""
    versions = registry.versions()
    aliases = {version.name: registry.aliases(version.name).versions for version in versions}
    return {
        *map(str, versions),
        *(f"{name}:{alias}" for name, named in aliases.items() for alias in named),
        *(alias for named in aliases.values() for alias in named),
    }


@dataclass(frozen=True, kw_only=True)
class PredictorFactory:
    """Makes the predictor inside a worker. Picklable; carries no weights."""

    source: ModelSource
    fingerprint: str
    score_threshold: float
    max_detections: int
    classes: tuple[str, ...] | None
    precision: str
    threads: int | None
    proposals: int | None = None
    calibration: Calibration | None = None
    tiling: Tiling | None = None

    def __call__(self) -> Predictor | TiledPredictor:
        import_torchvision()
        import torch
        from masklake.model.engine.allocator import keep_freed_memory
        from masklake.model.predictor import Predictor
        from masklake.model.tiles.predictor import TiledPredictor

        keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)
        local = self.source.local()
        fingerprint = presets.fingerprint(local, weights_dir=self.source.weights_dir)
        if fingerprint != self.fingerprint:
            raise UserError(
                f"model {self.source.name}: is {fingerprint} on this worker, the run was planned with {self.fingerprint}; "
                "give every node the same weights"
            )
        predictor = Predictor(
            presets.load_model(local, weights_dir=self.source.weights_dir),
            score_threshold=self.score_threshold,
            max_detections=self.max_detections,
            classes=self.classes,
            proposals=self.proposals,
            precision=self.precision,
            calibration=self.calibration,
        )
        return TiledPredictor(predictor, self.tiling) if self.tiling else predictor
