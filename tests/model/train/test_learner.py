"""A training step, and that a checkpoint holds all there is of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from masklake.model.networks.build import build
from masklake.model.networks.config import TINY, Network
from masklake.model.train.examples import Example
from masklake.model.train.learner import OPTIMIZER, Learner, NotFiniteError, share_of
from masklake.model.train.recipe import Recipe

from tests.model.train.test_losses import SPEC, _examples

RECIPE = Recipe(batch=2, learning_rate=1e-3, warm_up=0, precision="float32", rois=32, anchors=32)


def learner(recipe: Recipe = RECIPE) -> Learner:
    torch.manual_seed(0)
    return Learner(
        build(replace(SPEC, architecture=Network(family="joint", **TINY).to_dict())),
        recipe,
        torch.device("cpu"),
    )


def tensors(trained: Learner) -> dict[str, torch.Tensor]:
    return {
        f"{kind}.{name}": tensor.clone()
        for kind, module in (("network", trained.network), ("average", trained.average))
        if module is not None
        for name, tensor in module.state_dict().items()
    }


def assert_equal(a: Learner, b: Learner) -> None:
    theirs = tensors(b)
    for name, tensor in tensors(a).items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns_what_it_sees(precision: str) -> None:
    trained, examples = learner(replace(RECIPE, precision=precision)), _examples()
    first = trained.step(examples, 0, 0.0)
    for step in range(1, 25):
        last = trained.step(examples, step, 0.0)
    names = [name for name in first if name.startswith("loss_")]
    assert sum(last[name] for name in names) < 0.75 * sum(first[name] for name in names)


def test_a_checkpoint_holds_everything(tmp_path: Path) -> None:
    """Four steps at once are four steps with a save and a restore between, bit by bit."""
    examples = _examples()
    whole, before, after = learner(), learner(), learner()
    for step in range(4):
        whole.step(examples, step, step / 4)
    for step in range(2):
        before.step(examples, step, step / 4)
    before.save(tmp_path)
    after.restore(tmp_path)
    assert_equal(after, before)
    for step in range(2, 4):
        after.step(examples, step, step / 4)
    assert_equal(after, whole)


def test_a_step_depends_on_nothing_but_its_number() -> None:
    """RoIs are drawn at random: by the seed and the step, not by what was drawn before."""
    a, b = learner(), learner()
    torch.rand(17)
    assert a.step(_examples(), 5, 0.0) == b.step(_examples(), 5, 0.0)
    c = learner(replace(RECIPE, seed=2))
    assert a.step(_examples(), 6, 0.0) != c.step(_examples(), 6, 0.0)


def test_a_loss_that_is_no_number_changes_nothing() -> None:
    trained, examples = learner(), _examples()
    trained.step(examples, 0, 0.0)
    with torch.no_grad():
        next(trained.network.roi_heads.mask_predictor.parameters()).fill_(float("nan"))
    before = {name: parameter.detach().clone() for name, parameter in trained._parameters.items()}
    with pytest.raises(NotFiniteError, match="loss_mask nan"):
        trained.step(examples, 1, 0.0)
    for name, parameter in trained._parameters.items():
        assert torch.equal(parameter.nan_to_num(), before[name].nan_to_num()), name


def test_a_worker_without_examples_takes_part() -> None:
    """All images of its share were gone: its gradient is zero, and every parameter has one."""
    trained = learner()
    before = tensors(trained)
    trained.step([], 0, 0.0)
    assert all(p.grad is not None and not p.grad.any() for p in trained._parameters.values())
    assert before.keys() == tensors(trained).keys()


def test_norms_and_biases_are_not_drawn_to_zero() -> None:
    """With no gradient at all, what is left of a step is the decay."""
    trained = learner(replace(RECIPE, weight_decay=0.5, backbone_rate=0.5))
    before = {name: parameter.detach().clone() for name, parameter in trained._parameters.items()}
    trained.step([], 0, 0.0)
    for name, parameter in trained._parameters.items():
        if parameter.ndim == 1:
            assert torch.equal(parameter, before[name]), name
        else:
            rate = 1e-3 * (0.5 if name.startswith("backbone.body.") else 1.0)
            torch.testing.assert_close(parameter.detach(), before[name] * (1 - rate * 0.5))


def test_groups_change_no_step(tmp_path: Path) -> None:
    """A few groups of many parameters, stepped at once, learn what a group for each parameter does, as older versions had;
    and go on from their checkpoints, which hold the moments by parameter."""
    grouped, single = learner(), learner()
    groups = grouped._optimizer.param_groups
    assert len(groups) == 2 < sum(len(group["params"]) for group in groups)
    assert all(group["fused"] for group in groups)
    single._optimizer = torch.optim.AdamW(
        [group | {"params": [p]} for group in single._optimizer.param_groups for p in group["params"]],
        foreach=False,
        fused=False,
    )
    for step in range(3):
        grouped.step(_examples(), step, 0.0)
        single.step(_examples(), step, 0.0)
    single.save(tmp_path)
    went_on = learner()
    went_on.restore(tmp_path)
    for trained in (grouped, single, went_on):
        trained.step(_examples(), 3, 0.0)
    expected = tensors(single)
    for trained in (grouped, went_on):
        for name, tensor in tensors(trained).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-5)


def test_the_gradient_of_two_workers_is_that_of_their_images() -> None:
    """One has three images, and of the other's four three were skipped: each image counts the same."""
    examples = _examples()
    many, few = [examples[0]] * 3, [examples[1]]

    def gradient(batch: list[Example], share: float) -> dict[str, torch.Tensor]:
        trained = learner(replace(RECIPE, clip=1e9, rois=4096, anchors=10**6))
        trained.step(batch, 0, 0.0, share=share)
        return {n: p.grad.clone() for n, p in trained._parameters.items() if p.grad is not None}

    halves = gradient(many, share_of(3, 4, 2)), gradient(few, share_of(1, 4, 2))
    alone = gradient(many, 1.0), gradient(few, 1.0)
    for name, whole in halves[0].items():
        mean = (whole + halves[1][name]) / 2  # what DistributedDataParallel makes of the workers' gradients
        torch.testing.assert_close(mean, (3 * alone[0][name] + alone[1][name]) / 4, rtol=1e-4, atol=1e-6)
    assert share_of(0, 0, 2) == 0  # all images of the batch are gone


def test_frozen_parameters_stay() -> None:
    torch.manual_seed(0)
    network = build(SPEC)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith("backbone."))
    trained = Learner(network, RECIPE, torch.device("cpu"))
    before = {n: p.clone() for n, p in network.named_parameters()}
    trained.step(_examples(), 0, 0.0)
    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert not any(name.startswith("backbone.") for name in changed)


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    from masklake.model.errors import ModelError

    learner().save(tmp_path)
    assert (tmp_path / OPTIMIZER).is_file()
    other = replace(SPEC, architecture=Network(family="mask_rcnn", **TINY).to_dict(), keypoint_names=(),
                    classes=tuple(replace(info, keypoints=False) for info in SPEC.classes))  # fmt: skip
    with pytest.raises(ModelError, match="is of another network"):
        Learner(build(other), RECIPE, torch.device("cpu")).restore(tmp_path)
