"""What a model is, apart from its weights: the content of `model.json`. Free of torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from masklake.model.errors import ModelError
from masklake.model.flip_pairs import mirrored

FORMAT = "masklake.model"
FORMAT_VERSION = 1
"""Raised when an older reader would build the wrong network from a newer file."""

_T = TypeVar("_T")

_LONGEST = 100_000
_FAR = 1e6

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ClassInfo:
    """One class: its id in results (a COCO category id for COCO models), its name, whether it has keypoints."""

    id: int
    name: str
    keypoints: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.id, int) or isinstance(self.id, bool) or not 1 <= self.id < 2**31:
            raise ModelError(f"class {self.name!r}: id {self.id!r} is not an integer from 1 to 2^31 - 1")
        if not isinstance(self.name, str) or not self.name:
            raise ModelError(f"class {self.id}: name {self.name!r} is not a text of at least one character")
        if not isinstance(self.keypoints, bool):
            raise ModelError(f"class {self.name!r}: keypoints is {self.keypoints!r}, not true or false")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the network's input, as torchvision's GeneralizedRCNNTransform does it.

    The image is scaled so that its short side is `min_size` pixels, or, where that would make the long side
    longer than `max_size`, so that the long side is `max_size`. `mean` and `std` are RGB, on a 0 to 1 scale.
    """

    min_size: int = 800
    max_size: int = 1333
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if not 1 <= self.min_size <= self.max_size <= _LONGEST:
            raise ModelError(
                f"preprocessing: 1 <= min_size {self.min_size} <= max_size {self.max_size} <= {_LONGEST} does not hold"
            )
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ModelError("preprocessing: mean and std need three numbers each (red, green, blue)")
        if not all(math.isfinite(v) for v in self.mean) or not all(v > 0 for v in self.std):
            raise ModelError(f"preprocessing: mean {self.mean} must be finite and std {self.std} positive")
        # Beyond these float32 overflows, which activations would make a 0 of, and an image without instances.
        if (
            any(isinstance(v, bool) or abs(v) > _FAR for v in (*self.mean, *self.std))
            or min(self.std) < 1 / _FAR
        ):
            raise ModelError(f"preprocessing: mean {self.mean} or std {self.std} is not on a scale of 0 to 1")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that `model.json` says.

    `architecture` is read by `model.networks.config`. `skeleton` holds pairs of positions in `keypoint_names`,
    counted from 0, for drawing. `flip_pairs` holds pairs of such positions that change places when an image is mirrored;
    None, as in files without it, for those that the names tell. `lineage` (where the weights come from) and `metrics` are free JSON objects.
    Raises ModelError where the parts contradict each other.
    """

    name: str
    architecture: Mapping[str, Any]
    classes: tuple[ClassInfo, ...]
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "keypoint_names", tuple(self.keypoint_names))
        object.__setattr__(self, "skeleton", tuple((int(a), int(b)) for a, b in self.skeleton))
        if not self.classes:
            raise ModelError(f"model {self.name!r} has no classes")
        for key in ("id", "name"):
            values = [getattr(c, key) for c in self.classes]
            twice = sorted({str(v) for v in values if values.count(v) > 1})
            if twice:
                raise ModelError(f"model {self.name!r}: more than one class with {key} {', '.join(twice)}")
        if any(c.keypoints for c in self.classes) and not self.keypoint_names:
            raise ModelError(f"model {self.name!r} has classes with keypoints but no keypoint_names")
        if any(not 0 <= end < len(self.keypoint_names) for pair in self.skeleton for end in pair):
            raise ModelError(
                f"model {self.name!r}: skeleton names a keypoint beyond {len(self.keypoint_names)}"
            )
        if self.flip_pairs is not None:
            object.__setattr__(self, "flip_pairs", tuple((int(a), int(b)) for a, b in self.flip_pairs))
            ends = [end for pair in self.flip_pairs for end in pair]
            if len(set(ends)) < len(ends) or any(not 0 <= end < len(self.keypoint_names) for end in ends):
                raise ModelError(
                    f"model {self.name!r}: flip_pairs names a keypoint twice, or beyond {len(self.keypoint_names)}"
                )

    @property
    def mirror(self) -> list[int] | None:
        """For each keypoint the position of its counterpart in a mirrored image; None where the pairs are not known."""
        return mirrored(self.keypoint_names, self.flip_pairs)

    def to_json(self) -> str:
        """The text of `model.json`. Raises ModelError for lineage or metrics that JSON cannot hold."""
        body = {"format": FORMAT, "version": FORMAT_VERSION}
        body |= {f.name: getattr(self, f.name) for f in fields(self)}
        if self.flip_pairs is None:  # so that older readers, which do not know the field, read the file
            del body["flip_pairs"]
        try:
            return json.dumps(body, indent=2, allow_nan=False, default=_plain) + "\n"
        except (TypeError, ValueError) as err:
            raise ModelError(f"model {self.name!r} cannot be written as JSON: {err}") from err

    @classmethod
    def from_json(cls, text: str | bytes, source: object) -> "ModelSpec":
        """Read the text of `model.json`; `source` (its path) is named in errors. Raises ModelError."""
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as err:  # also undecodable bytes; thousands of brackets
            raise ModelError(f"{source}: not JSON ({err}); the file is damaged or not a model.json") from err
        if not isinstance(body, dict) or body.pop("format", None) != FORMAT:
            raise ModelError(f"{source}: not a Masklake model.json (no format {FORMAT!r})")
        version = body.pop("version", None)
        if not isinstance(version, int) or version < 1:
            raise ModelError(f"{source}: format version {version!r} is not a positive integer")
        if version > FORMAT_VERSION:
            raise ModelError(
                f"{source}: format version {version} is newer than this program reads ({FORMAT_VERSION}); "
                "upgrade Masklake"
            )
        try:
            classes = tuple(_read(ClassInfo, c) for c in body.pop("classes"))
            preprocessing = _read(Preprocessing, body.pop("preprocessing"))
            return _read(cls, body | {"classes": classes, "preprocessing": preprocessing})
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            reason = f"lacks {err}" if isinstance(err, KeyError) else str(err)
            raise ModelError(f"{source}: {reason}") from err


def _plain(value: object) -> Any:
    if isinstance(value, ClassInfo | Preprocessing):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} {value!r}")


def _read(kind: type[_T], body: Any) -> _T:
    if not isinstance(body, dict):
        raise ModelError(f"{kind.__name__} is {type(body).__name__}, not an object")
    unknown = sorted(body.keys() - {f.name for f in fields(kind)})  # type: ignore[arg-type]  # always a dataclass
    if unknown:
        raise ModelError(f"unknown key {', '.join(unknown)}")
    return kind(**body)
