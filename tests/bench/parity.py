"""How exact each precision is: the demo model on unseen scenes, against torchvision's operations one for one.

    python -m tests.bench.parity

Of the reference's detections above 0.5: the share that has one of the same class at IoU 0.99 or more, and 0.9; then the
difference in AP, in per cent. `precision="exact"` is the reference; tests hold it to torchvision eager bit by bit.

Before that, what it costs that a JPEG at least twice as large as the network's input is decoded at a fraction (`segment`'s
default; not with `--precision exact` or `--full-decode`): of scenes, which the demo model knows, and of the COCO sample's
photos, which it does not, and whose weak scores move more.
"""

import io
from collections.abc import Iterable

import numpy as np
from masklake.model import presets, scenes
from masklake.model.checkpoint import LoadedModel
from masklake.model.detections import Detections
from masklake.model.eval.coco_ap import coco_ap
from masklake.model.predictor import Predictor
from masklake.model.scenes import Scene
from masklake.pipeline.decode import DecodeOptions, decode
from numpy.typing import NDArray
from PIL import Image

from tests.helpers import reference
from tests.model.test_demo_weights import as_results

SETS: tuple[tuple[int, tuple[int, int] | None], ...] = ((600, None), (100, (480, 640)), (60, (800, 1067)))
"""How many scenes, and their height and width; None for the sizes that the model was trained on."""
SEED = 77
PRECISIONS = ("float32", "bfloat16")


def draw(count: int, size: tuple[int, int] | None = None) -> list[Scene]:
    """Unseen scenes, of the sizes that the model was trained on where none is given."""
    return [
        scenes.scene(SEED, index, size or scenes.DEFAULT_SIZES[index % len(scenes.DEFAULT_SIZES)])
        for index in range(count)
    ]


def ap(drawn: list[Scene], detected: list[Detections]) -> dict[str, float]:
    """AP by kind, per cent."""
    results = [
        result
        for index, (scene, detections) in enumerate(zip(drawn, detected, strict=True))
        for result in as_results(detections, index, scene.segments.shape)
    ]
    return {kind: 100 * stats["AP"] for kind, stats in coco_ap(scenes.coco(drawn), results).items() if stats}


def predict(predictor: Predictor, drawn: list[Scene]) -> list[Detections]:
    images = [scene.image for scene in drawn]
    results = [
        detections
        for start in range(0, len(images), 8)
        for detections in predictor.predict(images[start : start + 8])
    ]
    assert all(isinstance(detections, Detections) for detections in results)
    return results  # type: ignore[return-value]  # as asserted


def fractions(title: str, model: LoadedModel, files: Iterable[bytes]) -> None:
    """Print how many of the detections in whole JPEGs are those in JPEGs decoded at a fraction."""
    predictor = Predictor(model, device="cpu", precision="float32")
    sizes = model.spec.preprocessing
    best, smaller = [], 0
    for data in files:
        whole, (width, height) = decode(data, DecodeOptions())
        fraction, _ = decode(data, DecodeOptions(target=(sizes.min_size, sizes.max_size)))
        if fraction.shape == whole.shape:
            continue
        smaller += 1
        a, b = (predictor.predict([image], [(height, width)])[0] for image in (whole, fraction))
        assert isinstance(a, Detections)
        assert isinstance(b, Detections)
        best += reference.closest(a, b)[0].tolist()
    shares = [100 * np.mean(np.asarray(best) >= iou) for iou in (0.99, 0.9)]
    print(
        f"{smaller:>4} {title} at a fraction {len(best):>5} detections: "
        f"{shares[0]:6.2f} % at IoU 0.99, {shares[1]:6.2f} % at 0.9",
        flush=True,
    )


def jpeg(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=92)
    return file.getvalue()


def main() -> None:
    demo = presets.load_model("demo")
    fractions(
        "scenes of 800 x 600",
        demo,
        (jpeg(scenes.scene(SEED, index, (600, 800)).image) for index in range(60)),
    )
    photos = sorted(reference.PHOTOS.glob("*.jpg"))
    if photos:  # which the demo model was not made for
        files = (path.read_bytes() for path in photos[:60])
        fractions("photos, an input of 200", reference.at_size(demo, 200), files)
    for count, size in SETS:
        drawn = draw(count, size)
        model = demo if size is None else reference.at_size(demo, size[0])
        exact = predict(Predictor(model, device="cpu", precision="exact"), drawn)
        expected = ap(drawn, exact)
        for precision in PRECISIONS:
            results = predict(Predictor(model, device="cpu", precision=precision), drawn)
            best = np.concatenate([reference.closest(a, b)[0] for a, b in zip(exact, results, strict=True)])
            differs = ap(drawn, results)
            aps = "  ".join(f"{kind} {differs[kind] - expected[kind]:+.2f}" for kind in expected)
            print(
                f"{count:>4} scenes {size or 'as trained'!s:<12} {precision:<9} {len(best):>5} detections: "
                f"{100 * np.mean(best >= 0.99):6.2f} % at IoU 0.99, {100 * np.mean(best >= 0.9):6.2f} % at 0.9   AP {aps}",
                flush=True,
            )


if __name__ == "__main__":
    main()
