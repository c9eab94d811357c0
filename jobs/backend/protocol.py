"""The protocol of Label Studio's ML backends: what is answered to which request (label_studio/ml/api_connector.py asks them)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from masklake.jobs.backend.predicting import TaskPredictor
from masklake.jobs.terminal.text import note
from masklake.pipeline.errors import UserError
from masklake.pipeline.labels.formats import studio_interface
from masklake.pipeline.storage.store import redact
from masklake.pipeline.words import counted

PREDICT_S = 90.0
"""How long one request for predictions is worked on: Label Studio waits for 100 s, and then takes nothing of it."""
_MOST_TASKS = 1_000
_LISTED = 5
_TRAINING = "this backend does not train: `masklake labels pull` takes the annotations in, and `masklake train` trains"


class RefusedError(Exception):
    """A request that is not answered as it asks; `code` is HTTP's, and the reason says why in one line."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Protocol:
    """Answers requests by their paths. An answer is a JSON object. Raises RefusedError."""

    def __init__(self, predictor: TaskPredictor, *, seconds: float = PREDICT_S) -> None:
        self._predictor = predictor
        self._seconds = seconds
        self._posts: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "/setup": self.setup,
            "/predict": self.predict,
            "/webhook": self.webhook,
            "/train": self.train,
        }

    @property
    def _version(self) -> str:
        return self._predictor.model.version

    def get(self, path: str) -> dict[str, Any]:
        """The answer to a GET."""
        if path in ("/", "/health"):
            return {"status": "UP", "model_class": "masklake", "model_version": self._version}
        if path == "/versions":
            return {"versions": [self._version]}
        raise RefusedError(404, "there is no such page")

    def post(self, path: str, request: Any) -> dict[str, Any]:
        """The answer to a POST with this JSON."""
        answer = self._posts.get(path)
        if answer is None:
            raise RefusedError(404, "there is no such page")
        if not isinstance(request, dict):
            raise RefusedError(400, "the request is no JSON object")
        return answer(request)

    def setup(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sent when a project is connected, and before each batch of predictions."""
        interface = _interface(request.get("schema"))
        if not interface.controls:
            tags = ", ".join(studio_interface.TAGS)
            raise RefusedError(400, f"the labelling interface has none of {tags} on its Image")
        return {"model_version": self._version}

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """A list with a prediction for each task: of a task without one an empty list, which Label Studio takes for none."""
        tasks = request.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise RefusedError(400, "tasks is no list of tasks")
        if len(tasks) > _MOST_TASKS:
            raise RefusedError(413, f"{counted(len(tasks), 'tasks')} at once; {_MOST_TASKS:,} is the most")
        answer = self._predictor.predict(tasks, _interface(request.get("label_config")), self._seconds)
        for problem in answer.problems[:_LISTED]:
            note(f"no prediction: {redact(problem)}")  # a task may name its image by a signed URL
        if (more := len(answer.problems) - _LISTED) > 0:
            note(f"no prediction: … and {more:,} more")
        for reason, count in sorted(answer.left_out.items()):
            note(f"left out: {counted(count, reason)}")
        return {
            "results": [[] if prediction is None else prediction for prediction in answer.predictions],
            "model_version": self._version,
        }

    def webhook(self, request: dict[str, Any]) -> dict[str, Any]:
        """Events of a project. Nothing follows from them; a wish to train is refused, so that nobody waits for it."""
        if request.get("action") == "START_TRAINING":
            return self.train(request)
        return {"status": "ignored"}

    def train(self, _: dict[str, Any]) -> dict[str, Any]:
        raise RefusedError(501, _TRAINING)


def _interface(xml: Any) -> studio_interface.Interface:
    if not isinstance(xml, str):
        raise RefusedError(400, "the labelling interface is missing")
    try:
        return studio_interface.read(xml)
    except UserError as error:
        raise RefusedError(400, str(error)) from None
