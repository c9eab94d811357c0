"""Label Studio: tasks with results as predictions, or labels as annotations, and the labelling interface that shows them."""

from __future__ import annotations

from masklake.pipeline.export.folder import ExportFolder
from masklake.pipeline.export.image import Contents, ExportImage
from masklake.pipeline.export.json_file import JsonArray
from masklake.pipeline.export.names import file_of
from masklake.pipeline.labels.formats import studio_interface, studio_writer


class LabelStudioTasks:
    """tasks.json and interface.xml. Images are their URIs: connect their bucket as cloud storage."""

    def photos(self, split: str) -> str:
        return "images"

    def __init__(self, folder: ExportFolder, contents: Contents, *, with_photos: bool = False) -> None:
        self._folder, self._contents = folder, contents
        self._tasks = JsonArray(folder, "tasks.json")
        self._count = 0

    def add(self, image: ExportImage) -> None:
        self._count += 1
        if image.scores is None:
            self._tasks.add(studio_writer.task(image.labels, self._count))
        else:
            self._tasks.add({
                "id": self._count,
                "data": {"image": image.uri, "masklake": studio_writer.identity(image.labels)},
                "predictions": [studio_writer.prediction(image.labels, image.scores, image.model)],
            })  # fmt: skip
        self._folder.list_image(file_of(image.uri), image.uri, image.split)

    def finish(self) -> None:
        self._tasks.finish()
        labels = sorted(self._contents.classes)
        keypoints = list(dict.fromkeys(name for names in self._contents.keypoints.values() for name in names))
        if unnameable := sum(not studio_interface.in_xml(name) for name in (*labels, *keypoints)):
            self._folder.remarks[
                "names of classes and keypoints, with characters that XML has no place for, not in interface.xml"
            ] = unnameable
        with self._folder.open("interface.xml") as file:
            file.write(studio_interface.interface(labels, keypoints))
