"""One worker's training: the step, the running average, and everything that a checkpoint has to hold.

AdamW (Loshchilov & Hutter 2019) on the sum of the losses, gradients clipped. A checkpoint is three files of safetensors
and nothing else; what is random in a step depends on the seed, the step and the worker only. So a training that goes on
from a checkpoint makes the steps that it would have made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from masklake.model.engine.precision import chosen
from masklake.model.errors import ModelError
from masklake.model.train.examples import Example
from masklake.model.train.losses import Losses
from masklake.model.train.recipe import Recipe
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

NETWORK, AVERAGE, OPTIMIZER = "network.safetensors", "average.safetensors", "optimizer.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_LARGEST_SEED = 2**63 - 1


class NotFiniteError(Exception):
    """The loss of a step, or its gradient, is not a number; the parameters are those of the step before."""


def share_of(here: int, everywhere: int, workers: int) -> float:
    """The factor for the gradient of a worker that has `here` of the `everywhere` examples of a batch (some may have been
    skipped). With it every example counts the same once gradients are averaged over workers."""
    return here * workers / everywhere if everywhere else 0.0


class Learner:
    """Trains `network` on `device`. `wrapped` gives it to DistributedDataParallel where there are several workers."""

    def __init__(
        self,
        network: FasterRCNN,
        recipe: Recipe,
        device: torch.device,
        wrapped: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> None:
        self.recipe, self.device = recipe, device
        self.precision = chosen(recipe.precision, device)
        self.network = network.to(device, memory_format=torch.channels_last).train()
        self._losses = wrapped(Losses(self.network, recipe))
        self.average = copy.deepcopy(self.network).eval() if recipe.average else None
        self._parameters = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            _groups(self._parameters, recipe), lr=recipe.learning_rate, fused=True
        )
        self._blank = Example(
            image=torch.zeros(3, 64, 64, dtype=torch.uint8),
            boxes=torch.zeros(0, 4),
            outputs=torch.zeros(0, dtype=torch.int64),
            crops=(),
            corners=torch.zeros(0, 2, dtype=torch.int64),
            keypoints=torch.zeros(0, 0, 3),
            crowds=torch.zeros(0, 4),
        )

    @property
    def result(self) -> nn.Module:
        """The network that the training is for: the running average, or the network itself."""
        return self.network if self.average is None else self.average

    def step(
        self, examples: Sequence[Example], step: int, progress: float, *, worker: int = 0, share: float = 1.0
    ) -> dict[str, float]:
        """Learn from `examples`, the part of the batch that this worker has; returns the losses by name, and the rate.

        step: from 0. progress: 0 to 1, how much of the training is done. share: this worker's part of the batch, times
        the number of workers, by which its gradient counts. Raises NotFiniteError, and then has learnt nothing.
        """
        torch.manual_seed(hash((self.recipe.seed, step, worker)) & _LARGEST_SEED)
        rate = self.recipe.rate(step, progress)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with autocast:
            losses = self._losses(examples or [self._blank])
        weights = {"loss_keypoint": self.recipe.keypoint_weight}
        loss = torch.stack([weights.get(name, 1.0) * value for name, value in losses.items()]).sum()
        self._optimizer.zero_grad(set_to_none=True)
        (loss * (share if examples else 0.0)).backward()
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self.recipe.clip)
        # All workers see the same norm, since gradients are shared: they stop together.
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not bool(torch.isfinite(norm)):
            raise NotFiniteError(
                ", ".join(f"{name} {value:g}" for name, value in values.items())
                + f", norm of the gradient {float(norm):g}"
            )
        self._optimizer.step()
        if self.average is not None:
            _towards(self.average, self.network, min(self.recipe.average, (1 + step) / (10 + step)))
        return values | {"rate": rate}

    def save(self, folder: Path) -> None:
        """Write the checkpoint's weights and moments into `folder`."""
        save_file(_tensors(self.network), folder / NETWORK)
        if self.average is not None:
            save_file(_tensors(self.average), folder / AVERAGE)
        moments = {"step": torch.zeros(())}
        for name, parameter in self._parameters.items():
            state = self._optimizer.state.get(parameter, {})
            for moment in _MOMENTS:
                if moment in state:
                    moments[f"{moment}.{name}"] = state[moment].contiguous()
            moments["step"] = state.get("step", moments["step"]).cpu()
        save_file(moments, folder / OPTIMIZER)

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises ModelError when it is of another network."""
        _fill(self.network, load_file(folder / NETWORK), folder / NETWORK)
        if self.average is not None:
            _fill(self.average, load_file(folder / AVERAGE), folder / AVERAGE)
        moments = load_file(folder / OPTIMIZER)
        for name, parameter in self._parameters.items():
            own_moments = {moment: moments.get(f"{moment}.{name}") for moment in _MOMENTS}
            if any(moment is None for moment in own_moments.values()):
                continue
            state: dict[str, Any] = {
                moment: torch.empty_like(parameter).copy_(value)
                for moment, value in own_moments.items()
                if value is not None
            }
            self._optimizer.state[parameter] = state | {"step": moments["step"].clone()}


def _groups(parameters: dict[str, nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    """The optimiser's groups: the backbone has a rate of its own, and what shifts or scales a channel (biases and norms,
    of one dimension) is not drawn to zero."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        factor = recipe.backbone_rate if name.startswith("backbone.body.") else 1.0
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": members, "factor": factor, "weight_decay": decay}
        for (factor, decay), members in groups.items()
    ]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def _fill(module: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"{source}: is of another network ({str(error).splitlines()[0]})") from error


@torch.no_grad()
def _towards(average: nn.Module, module: nn.Module, decay: float) -> None:
    pairs = list(zip(average.state_dict().values(), module.state_dict().values(), strict=True))
    floats = [(averaged, new) for averaged, new in pairs if averaged.is_floating_point()]
    torch._foreach_lerp_([averaged for averaged, _ in floats], [new for _, new in floats], 1 - decay)
    for averaged, new in pairs:
        if not averaged.is_floating_point():
            averaged.copy_(new)
