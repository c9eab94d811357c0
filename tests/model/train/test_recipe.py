"""The numbers of a training."""

import math

import pytest
from masklake.model.errors import ModelError
from masklake.model.train.recipe import Recipe


def test_the_rate_rises_and_falls() -> None:
    recipe = Recipe(learning_rate=1.0, warm_up=9)
    assert [recipe.rate(step, 0.0) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    falling = [recipe.rate(100, done / 10) for done in range(11)]
    assert falling == sorted(falling, reverse=True)
    assert falling[5] == pytest.approx(0.505)
    assert recipe.rate(100, 1.0) == recipe.rate(100, 1.7) == pytest.approx(0.01)


def test_the_step_schedule_is_the_papers() -> None:
    """Mask R-CNN, section 4: divided by ten at 60k and 80k of 90k."""
    recipe = Recipe(learning_rate=1.0, warm_up=0, schedule="step")
    rates = [recipe.rate(9, hundredth / 90) for hundredth in (0, 59, 61, 79, 81)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_constant_is_constant() -> None:
    recipe = Recipe(learning_rate=0.25, warm_up=0, schedule="constant")
    assert {recipe.rate(step, 0.9) for step in range(5)} == {0.25}


def test_a_record_gives_the_recipe_back() -> None:
    recipe = Recipe(batch=3, jitter=(0.5, 2.0), seed=7)
    assert Recipe.from_dict(recipe.to_dict() | {"of_a_newer_version": 1}) == recipe


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"flip": 1.5},
        {"schedule": "linear"},
        {"precision": "float16"},
        {"jitter": (1.2, 0.8)},
        {"jitter": (0.0, 1.0)},
        {"warm_up": -1},
    ],
)
def test_numbers_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(ModelError, match=next(iter(wrong))):
        Recipe(**wrong)
