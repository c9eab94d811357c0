"""Masks as PNG: one picture an image whose values are classes, or one an instance."""

from __future__ import annotations

import csv

import numpy as np
from masklake.pipeline.errors import UserError
from masklake.pipeline.export.folder import ExportFolder
from masklake.pipeline.export.image import Contents, ExportImage
from masklake.pipeline.export.json_file import dumped
from masklake.pipeline.export.names import file_of, stem_of
from masklake.pipeline.labels.masks import to_pixels
from PIL import Image

_NO_MASK = "instances without a mask"
_MOST_CLASSES = 2**16 - 1
_PALETTE_CLASSES = 255


def palette() -> list[int]:
    """PASCAL VOC's colours of 256 values: the bits of a value, spread over red, green and blue."""
    values = np.arange(256)
    bits = (values[:, None] >> np.arange(8)) & 1
    weights = 1 << (7 - np.arange(8) // 3)
    colours = np.stack([(bits * weights)[:, channel::3].sum(axis=1) for channel in range(3)], axis=1)
    flat: list[int] = colours.ravel().tolist()
    return flat


class MasksIndexed:
    """masks/NAME.png: 0 is background, and classes.json says which class the others are.

    Where instances overlap, that of the higher score lies above; of labels, the smaller. Up to 255 classes the picture has
    8 bits and PASCAL VOC's palette, beyond that 16 bits of grey.
    """

    def photos(self, split: str) -> str:
        return "images"

    def __init__(self, folder: ExportFolder, contents: Contents, *, with_photos: bool = False) -> None:
        if len(contents.classes) > _MOST_CLASSES:
            raise UserError(
                f"{len(contents.classes):,} classes do not fit into 16 bits; use --format masks-instances"
            )
        self._folder = folder
        self._values = {name: i for i, name in enumerate(contents.classes, 1)}
        self._palette = palette() if len(self._values) <= _PALETTE_CLASSES else None

    def add(self, image: ExportImage) -> None:
        masked = [instance for instance in image.instances if instance.mask is not None]
        if image.size is None and not masked:
            self._folder.leave_out(image.uri, "its size is not known", "of unknown size")
            return
        self._folder.notes[_NO_MASK] += len(image.instances) - len(masked)
        width, height = image.size or (masked[0].mask.width, masked[0].mask.height)  # type: ignore[union-attr]  # it has one
        values = np.zeros((height, width), np.uint8 if self._palette else np.uint16)
        below = reversed(masked) if image.scores is not None else sorted(masked, key=lambda i: -i.area)
        for instance in below:
            if instance.mask is not None:
                values[to_pixels(instance.mask).astype(bool)] = self._values[instance.label]
        picture = Image.fromarray(values)
        if self._palette:
            picture.putpalette(self._palette)
        with self._folder.open(f"masks/{stem_of(image.uri)}.png", "wb") as file:
            picture.save(file, "PNG")
        self._folder.list_image(file_of(image.uri), image.uri, image.split)

    def finish(self) -> None:
        with self._folder.open("classes.json") as file:
            file.write(
                dumped({"background": 0} | self._values if "background" not in self._values else self._values)
            )


class MasksInstances:
    """masks/NAME/N.png: 255 where instance N is, else 0; instances.csv says what each is."""

    def photos(self, split: str) -> str:
        return "images"

    def __init__(self, folder: ExportFolder, contents: Contents, *, with_photos: bool = False) -> None:
        self._folder = folder
        self._file = folder.open("instances.csv")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(["mask", "uri", "instance", "label", "score", "x", "y", "w", "h", "area"])

    def add(self, image: ExportImage) -> None:
        for i, instance in enumerate(image.instances):
            if instance.mask is None:
                self._folder.notes[_NO_MASK] += 1
                continue
            name = f"masks/{stem_of(image.uri)}/{i}.png"
            with self._folder.open(name, "wb") as file:
                Image.fromarray(to_pixels(instance.mask) * np.uint8(255)).save(file, "PNG")
            score = "" if image.scores is None else f"{image.scores[i]:.6g}"
            self._rows.writerow([name, image.uri, i, instance.label, score, *instance.box, instance.area])
        self._folder.list_image(file_of(image.uri), image.uri, image.split)

    def finish(self) -> None:
        self._file.close()
