"""The fast path from images to instances: same results as torchvision in eager mode, in less time and memory."""

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from masklake.model.checkpoint import LoadedModel
from masklake.model.detections import Detections, PredictFailure
from masklake.model.engine import int8
from masklake.model.engine.inference import PRECISIONS, Engine, Limits, padded
from masklake.model.engine.int8 import INT8, Calibration
from masklake.model.engine.memory import Budget, says_out_of_memory
from masklake.model.engine.pixels import Image, to_arrays
from masklake.model.engine.precision import AUTO, chosen
from masklake.model.engine.results import NotFinite
from masklake.model.errors import ModelError
from numpy.typing import NDArray

# Padded pixels that go through the network at once: two large photos, or more small ones. Larger batches bring a CPU
# nothing, and it has no out-of-memory error that one could count on.
_CPU_PIXELS = 800 * 1344 * 2
_CUDA_PIXELS = 800 * 1344 * 16


class Predictor:
    """Runs one model on one device.

    model: from `model.presets.load_model` or `model.checkpoint.load`; it is copied, not changed.
    device: "cpu", "cuda", "cuda:1", …; "auto" is CUDA where there is one.
    score_threshold: detections score above it; 0 to 1.
    max_detections: an image, the best of the wanted classes.
    classes: names of the wanted classes; None for all. The others are left out before NMS and the cut to
        max_detections, so that they take no place.
    proposals: an image, the most that reach the box head, whose work is in proportion to them; None for as many as the model
        says. Fewer find fewer things: `tests.bench proposals`.
    precision: "auto" is bfloat16 where the device computes in it natively, else float32 (`model.engine.precision`); the
        attribute `precision` says which. "exact" does torchvision's operations one for one and one image at a time, for
        results that are the same to the last bit.
        "float32" folds batch norm into convolutions and keeps channels last; only rounding differs, on CUDA too: it
        does not use TF32, as torch does by default. "bfloat16" runs
        convolutions and linear layers in it: faster where the hardware has it, less exact. "int8", on CPUs, runs convolutions in
        8 bits, and all else as "auto" does; it needs a `calibration`.
    calibration: for "int8", of this model (`model.calibrate`).

    Raises ModelError for settings that are out of range or unknown.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        device: str = "auto",
        score_threshold: float = 0.05,
        max_detections: int = 100,
        classes: Sequence[str] | None = None,
        proposals: int | None = None,
        precision: str = AUTO,
        calibration: Calibration | None = None,
    ) -> None:
        if not 0 <= score_threshold < 1:
            raise ModelError(f"score_threshold {score_threshold} is not from 0 to below 1")
        if max_detections < 1:
            raise ModelError(f"max_detections {max_detections} is less than 1")
        if proposals is not None and proposals < 1:
            raise ModelError(f"proposals {proposals} is less than 1")
        if precision not in (AUTO, *PRECISIONS):
            raise ModelError(f"precision {precision!r} is unknown; known: {', '.join((AUTO, *PRECISIONS))}")
        self.spec = model.spec
        self.device = _device(device)
        self.precision = precision = chosen(precision, self.device)
        if (precision == INT8) != (calibration is not None):
            raise ModelError(
                "precision int8 needs a calibration of the model, and only it; model.calibrate makes one"
            )
        if precision == INT8:
            _require_int8(self.device, calibration)
        self.redone = 0
        limits = Limits(
            score_threshold=score_threshold,
            max_detections=max_detections,
            labels=_labels(model, classes),
            proposals=proposals,
        )
        self._engine = Engine(model.module, model.spec, limits, self.device, precision, calibration)
        # An image alone is what torchvision's results are compared with: in a batch convolutions round otherwise.
        whole = _CUDA_PIXELS if self.device.type == "cuda" else _CPU_PIXELS
        # A GPU computes one batch while the next is sent to it, and detections are made of the one before.
        self._at_once = 2 if self.device.type == "cuda" else 1
        self._budget = Budget(1 if precision == "exact" else whole)
        self._full: Engine | None = None
        self._make_full = (
            partial(Engine, model.module, model.spec, limits, self.device, "float32")
            if precision in ("bfloat16", "float16", INT8)
            else None
        )

    def predict(
        self,
        images: Sequence[Image],
        frames: Sequence[tuple[int, int]] | None = None,
        *,
        as_rle: bool = False,
    ) -> list[Detections | PredictFailure]:
        """Detections of each image, in the order of the images.

        images: RGB, uint8; numpy arrays (H, W, 3) or torch tensors (3, H, W), of any sizes; or the bytes of encoded
            images (`model.engine.pixels`).
        frames: height and width of the frame that results are scaled to, one for each image; the image's own
            where None. For images that were made smaller when they were decoded.
        as_rle: masks come as `rles` in those frames instead of probabilities.

        An image has the same result in any batch, up to float32 rounding. Where memory does not suffice, smaller
        batches are tried; an image that does not fit alone gives PredictFailure, and so do bytes that are no whole
        image; the others go on. An image for which the network gives values that are not finite is done again in float32
        (`redone` counts them), and is a PredictFailure where they are not finite there either.
        Raises ModelError for images and frames that are not as described.
        """
        if frames is not None:
            frames = _frames(frames, len(images))
        arrays = to_arrays(images)
        results: list[Detections | PredictFailure | None] = [
            array if isinstance(array, PredictFailure) else None for array in arrays
        ]
        pixels = {index: array for index, array in enumerate(arrays) if not isinstance(array, PredictFailure)}
        sizes = {index: (array.shape[0], array.shape[1]) for index, array in pixels.items()}
        # Zero padding changes what convolutions see at the edge: only images that pad to one shape share a batch.
        by_shape: dict[tuple[int, int], list[int]] = {}
        for index, size in sizes.items():
            by_shape.setdefault(padded(self._engine.resized(*size)), []).append(index)

        def predict_alike(height: int, width: int, members: list[int]) -> None:
            start = 0
            while start < len(members):
                count = self._count(len(members) - start, height * width)
                part = members[start : start + count]
                outcomes = self._run(
                    [pixels[index] for index in part], [(frames or sizes)[index] for index in part], as_rle
                )
                if outcomes is None and count > 1:
                    self._budget.shrink(height * width * (count // 2))
                    continue
                if outcomes is None:
                    outcomes = [PredictFailure(self._too_large(*sizes[part[0]]))]
                for index, result in zip(part, outcomes, strict=True):
                    results[index] = self._with_frame(result, (frames or sizes)[index])
                start += count

        if self._at_once == 1:
            for shape, members in by_shape.items():
                predict_alike(*shape, members)
        else:
            batches: list[tuple[int, int, list[int]]] = []
            for (height, width), members in by_shape.items():
                start = 0
                while start < len(members):
                    count = self._count(len(members) - start, height * width)
                    batches.append((height, width, members[start : start + count]))
                    start += count
            with ThreadPoolExecutor(self._at_once) as pool:
                list(
                    pool.map(lambda batch: predict_alike(*batch), batches)
                )  # raises what one of them has raised
        return [result for result in results if result is not None]

    def _count(self, left: int, pixels: int) -> int:
        """How many of the images left, of so many padded pixels each, go through the network at once.

        On a GPU a power of two: cuDNN takes a tenth of a second to plan for each new size of a batch.
        """
        count = min(left, max(1, self._budget.now // pixels))
        return count if self._at_once == 1 else 1 << (count.bit_length() - 1)

    def _with_frame(
        self, result: Detections | PredictFailure, frame: tuple[int, int]
    ) -> Detections | PredictFailure:
        """`result` with its frame and spec, which rows and pictures need."""
        if isinstance(result, PredictFailure):
            return result
        return dataclasses.replace(result, frame=frame, spec=self.spec)

    def _too_large(self, height: int, width: int) -> str:
        to_height, to_width = self._engine.resized(height, width)
        return (
            f"out of memory on {self.device}: an image of {width} x {height} pixels, {to_width} x {to_height} for "
            "the network, does not fit alone"
        )

    def _run(
        self, images: list[NDArray[np.uint8]], frames: list[tuple[int, int]], as_rle: bool
    ) -> list[Detections | PredictFailure] | None:
        """None where memory does not suffice."""
        outcomes = self._fitting(lambda: self._engine.run(images, frames, as_rle))
        if outcomes is None:
            return None
        self._budget.went_well()
        return [
            self._again(image, frame, as_rle, outcome.values) if isinstance(outcome, NotFinite) else outcome
            for outcome, image, frame in zip(outcomes, images, frames, strict=True)
        ]

    def _again(
        self, image: NDArray[np.uint8], frame: tuple[int, int], as_rle: bool, values: str
    ) -> Detections | PredictFailure:
        """The detections, computed in float32, of an image whose `values` are not finite in a narrower type."""
        if self._make_full is None:
            return PredictFailure(f"the network's {values} have values that are not finite")
        make_full = self._make_full

        def run() -> list[Detections | NotFinite]:
            if self._full is None:
                self._full = make_full()
            return self._full.run([image], [frame], as_rle)

        outcomes = self._fitting(run)
        if outcomes is None:
            return PredictFailure(self._too_large(*image.shape[:2]))
        self.redone += 1
        if isinstance(outcomes[0], NotFinite):
            return PredictFailure(
                f"the network's {outcomes[0].values} have values that are not finite, in float32 too"
            )
        return outcomes[0]

    def _fitting(
        self, run: Callable[[], list[Detections | NotFinite]]
    ) -> list[Detections | NotFinite] | None:
        """The result of `run`; None where memory does not suffice."""
        try:
            return run()
        except (RuntimeError, MemoryError) as err:  # torch.OutOfMemoryError is a RuntimeError
            if not says_out_of_memory(err):
                raise
        # After the except block: until then the traceback holds the tensors that are in the way.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None


def _require_int8(device: torch.device, calibration: Calibration | None) -> None:
    """Raises ModelError where the device cannot compute what was calibrated."""
    if device.type != "cpu" or not int8.supported():
        raise ModelError(f"precision int8 is for CPUs with oneDNN, not for {device}; use auto")
    if calibration is not None and calibration.levels > int8.levels_here():
        raise ModelError(
            "precision int8: the calibration is for processors with VNNI, and here sums would overflow; calibrate on this machine"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise ModelError(f"device {name!r} is unknown; use cpu, cuda, cuda:<n> or auto") from err
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"device {name!r} is not supported; use cpu, cuda, cuda:<n> or auto")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            have = f"{count} CUDA devices" if count else "no CUDA device"
            raise ModelError(f"device {name!r} is not there: torch finds {have}; use cpu or auto")
    return device


def _labels(model: LoadedModel, classes: Sequence[str] | None) -> frozenset[int]:
    ids = {c.name: c.id for c in model.spec.classes}
    if classes is None:
        return frozenset(ids.values())
    if isinstance(classes, str) or not classes:
        raise ModelError(f"classes is {classes!r}, not a list of at least one class name")
    for name in classes:
        if name not in ids:
            near = difflib.get_close_matches(str(name), ids, n=3) or list(ids)[:5]
            raise ModelError(
                f"class {name!r} is not one of the {len(ids)} classes of model {model.spec.name!r}; near: "
                + ", ".join(near)
            )
    return frozenset(ids[name] for name in classes)


def _frames(frames: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    if len(frames) != count:
        raise ModelError(f"{len(frames)} frames for {count} images")
    for index, frame in enumerate(frames):
        if len(frame) != 2 or min(frame) < 1:
            raise ModelError(f"frame {index} is {frame!r}, not (height, width) of at least 1 pixel")
    return [(int(height), int(width)) for height, width in frames]
