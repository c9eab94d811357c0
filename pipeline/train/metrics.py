"""Prometheus metrics of trainings, by the rules of those of runs (`pipeline.segment.metrics`)."""

from __future__ import annotations

from collections.abc import Mapping


class TrainingMetrics:
    """The metrics that the driver of a training exports. Ray must be initialised."""

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Counter, Gauge

        self._labels = {"run": run}
        self._last: dict[str, int] = {}
        self._step = Gauge("masklake_train_step", "the step that the training is at", ("run",))
        self._rate = Gauge("masklake_train_learning_rate", "the learning rate", ("run",))
        self._loss = Gauge("masklake_train_loss", "the last step's losses", ("run", "loss"))
        self._steps = Counter("masklake_train_steps", "steps that trainings have taken")
        self._images = Counter("masklake_train_images", "images that trainings have learnt from")
        self._ended = Counter("masklake_trainings", "attempts at trainings that have ended", ("state",))

    def update(self, step: int, images: int, losses: Mapping[str, float]) -> None:
        """Export where the training is: steps and images since its beginning; losses by name, `rate` among them."""
        self._step.set(step, self._labels)
        for counter, total in ((self._steps, step), (self._images, images)):
            name = counter.info["name"]
            # Steps before this process started were exported by another one.
            more = total - self._last.get(name, total)
            self._last[name] = total
            if more > 0:
                counter.inc(more)
        for name, value in losses.items():
            if name == "rate":
                self._rate.set(value, self._labels)
            else:
                self._loss.set(value, self._labels | {"loss": name.removeprefix("loss_")})

    def ended(self, state: str) -> None:
        """Count the end of the attempt, by its state."""
        self._ended.inc(1, {"state": state})
