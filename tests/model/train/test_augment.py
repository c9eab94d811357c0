"""Labels move with their pixels."""

import numpy as np
import torch
from masklake.model.spec import Preprocessing
from masklake.model.train.augment import Augment, ImageLabels
from masklake.model.train.recipe import Recipe
from masklake.pipeline.labels.masks import from_pixels


def _scene() -> tuple[np.ndarray, ImageLabels]:
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[10:30, 20:50] = 255
    truth = ImageLabels(
        width=80,
        height=60,
        boxes=np.array([[20, 10, 50, 30]], np.float32),
        outputs=[1],
        masks=[from_pixels(pixels[..., 0] > 0).as_coco()],
        keypoints=np.array([[[21, 11, 2], [49, 29, 1]]], np.float32),
        crowds=np.array([[0, 0, 8, 6]], np.float32),
    )
    return pixels, truth


def test_mirrored_and_enlarged() -> None:
    pixels, truth = _scene()
    recipe = Recipe(flip=1, jitter=(1, 1), colour=0)
    example = Augment(recipe, Preprocessing(min_size=120, max_size=400), [1, 0])(pixels, truth, 0)
    assert example.image.shape == (3, 120, 160)
    assert example.boxes.tolist() == [[60, 20, 120, 60]]
    assert example.crowds.tolist() == [[144, 0, 160, 12]]
    # what was the left eye is the right one in the mirror
    assert example.keypoints.tolist() == [[[62, 58, 1], [118, 22, 2]]]
    (crop,), ((x, y),) = example.crops, example.corners.tolist()
    mask = torch.zeros(120, 160, dtype=torch.uint8)
    mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    assert torch.equal(mask, (example.image[0] > 127).to(torch.uint8))


def test_nothing_is_mirrored_where_nobody_knows_by_what_pairs() -> None:
    pixels, truth = _scene()
    recipe = Recipe(flip=1, jitter=(1, 1), colour=0)
    example = Augment(recipe, Preprocessing(min_size=60, max_size=400), None)(pixels, truth, 0)
    assert example.boxes.tolist() == [[20, 10, 50, 30]]
    assert example.keypoints.tolist() == truth.keypoints.tolist()


def test_the_same_seed_gives_the_same_example() -> None:
    pixels, truth = _scene()
    augment = Augment(Recipe(), Preprocessing(min_size=100, max_size=400), [1, 0])
    a, b, other = (augment(pixels, truth, seed) for seed in (3, 3, 4))
    assert torch.equal(a.image, b.image)
    assert torch.equal(a.boxes, b.boxes)
    assert a.image.shape != other.image.shape or not torch.equal(a.image, other.image)


def test_what_becomes_too_small_is_left_out() -> None:
    pixels, truth = _scene()
    example = Augment(Recipe(flip=0, jitter=(1, 1), min_box=2), Preprocessing(min_size=4, max_size=8), [])(
        pixels, ImageLabels(**{**vars(truth), "keypoints": np.zeros((1, 0, 3), np.float32)}), 0
    )
    assert len(example.boxes) == len(example.crops) == 0
