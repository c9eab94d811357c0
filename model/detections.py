"""The result of a predictor for one image. Free of torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from masklake.model.boxes import as_xywh
from masklake.model.errors import ModelError
from numpy.typing import NDArray

if TYPE_CHECKING:
    from masklake.model.masks.rle_text import Rle
    from masklake.model.spec import ModelSpec
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """N instances of one image, highest score first. Pixels are those of the original image frame.

    boxes: (N, 4) float32, x1 y1 x2 y2 in pixels.
    labels: (N,) int32, class ids (`ClassInfo.id`).
    scores: (N,) float32, 0 to 1.
    masks: (N, M, M) float32, probability of the mask over its box, or None where the model has no masks.
        M x M is the mask head's grid, 28 x 28 unless the model has another (Mask R-CNN, figure 4); `model.masks.rle` makes COCO RLE of it.
    keypoints: (N, K, 3) float32, x and y in pixels and the heat-map logit there (torchvision's
        `keypoints_scores`), or None where the model has no keypoints. Rows of classes without keypoints are NaN.
    rles: COCO RLE of each instance's mask in the frame, in place of `masks`: where they were asked for, and for
        images that were predicted by tiles (`model.tiles.predictor`), where an instance can be made of several masks.
    frame: height and width in pixels of the frame that the boxes are in. spec: of the model that found them. A
        `Predictor` gives both; without them there are only the arrays.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    scores: NDArray[np.float32]
    masks: NDArray[np.float32] | None = None
    keypoints: NDArray[np.float32] | None = None
    rles: "list[Rle] | None" = None
    frame: tuple[int, int] | None = None
    spec: "ModelSpec | None" = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The N class names. Raises ModelError where the model is not known."""
        names = {info.id: info.name for info in self._spec.classes}
        return [names[label] for label in self.labels.tolist()]

    def rle(self) -> "list[Rle] | None":
        """COCO RLE of the N masks in the frame; None where the model has no masks."""
        if self.rles is not None or self.masks is None:
            return self.rles
        from masklake.model.masks.rle import encode_masks

        return encode_masks(self.masks, self.boxes, self._frame)

    def full_masks(self) -> NDArray[np.bool_]:
        """(N, H, W) bool, the masks in the frame: H x W bytes each, so for a few images at a time.

        Raises ModelError where the model has no masks.
        """
        from masklake.model.masks import rle

        rles = self.rle()
        if rles is None:
            raise ModelError("the model has no masks; its boxes are in `boxes`")
        return rle.decode(rles).astype(bool) if rles else np.zeros((0, *self._frame), bool)

    def rows(self) -> list[dict[str, Any]]:
        """N rows as those of a lake's table `instances`: instance, label_id, label, score, x, y, w, h (pixels), mask (COCO
        RLE or None), keypoints (name, x, y in pixels, score as a logit; None where the class has none)."""
        rles: Sequence[Rle | None] = self.rle() or [None] * len(self)
        extents = as_xywh(self.boxes).tolist()
        return [
            {
                "instance": i, "label_id": int(self.labels[i]), "label": name, "score": float(self.scores[i]),
                **dict(zip("xywh", extents[i], strict=True)),
                "mask": rle and {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
                "keypoints": self._named(i),
            }
            for i, (name, rle) in enumerate(zip(self.names, rles, strict=True))
        ]  # fmt: skip

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """N entries of a COCO results file, which `json.dump` writes and `pycocotools` (`COCO.loadRes`) reads.

        image_id: of the image in the annotations that the results are for.
        """
        entries = []
        for row in self.rows():
            entry = {
                "image_id": image_id, "category_id": row["label_id"], "score": row["score"],
                "bbox": [row[side] for side in "xywh"],
            }  # fmt: skip
            if row["mask"] is not None:
                entry["segmentation"] = row["mask"]
            if row["keypoints"] is not None:  # COCO's third number of a keypoint is not read in results
                entry["keypoints"] = [v for point in row["keypoints"] for v in (point["x"], point["y"], 1)]
            entries.append(entry)
        return entries

    def draw(self, image: "NDArray[np.uint8] | Image") -> "Image":
        """A picture of `image` with the instances drawn onto it: tinted masks, boxes, keypoints, names and scores.

        image: RGB, uint8, (H, W, 3), or a PIL image, upright (EXIF orientation applied), of the size of the frame.
        Raises ValueError where it is another.
        """
        from masklake.model.draw import draw_instances

        pixels = np.asarray(image)
        if pixels.shape[:2] != self._frame:
            raise ModelError(
                f"the image is {pixels.shape[:2]}, the detections are in a frame of {self._frame}"
            )
        return draw_instances(pixels, self.rows(), skeleton=self._spec.skeleton)

    def _named(self, i: int) -> list[dict[str, Any]] | None:
        if self.keypoints is None or np.isnan(self.keypoints[i]).all():
            return None
        return [
            {"name": name, "x": x, "y": y, "score": score}
            for name, (x, y, score) in zip(self._spec.keypoint_names, self.keypoints[i].tolist(), strict=True)
        ]

    @property
    def _spec(self) -> "ModelSpec":
        if self.spec is None:
            raise ModelError("the detections do not say which model found them; take them from a Predictor")
        return self.spec

    @property
    def _frame(self) -> tuple[int, int]:
        if self.frame is None:
            raise ModelError("the detections do not say the size of their frame; take them from a Predictor")
        return self.frame


@dataclass(frozen=True)
class PredictFailure:
    """Why one image of a batch has no result; the others of the batch have theirs."""

    reason: str
