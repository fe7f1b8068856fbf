"""The arithmetic of each score with features whose answer is known in closed form; and what is said where there is none."""

from __future__ import annotations

import importlib
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from lab.evaluation import learned

SIZE = 8


class FirstPixels(nn.Module):
    """The first `count` pixels of the red channel are the features."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert image.dtype == torch.uint8
        return image[:, 0].flatten(1)[:, : self.num_features].float()


def images_of(features: list[list[float]]) -> torch.Tensor:
    """Images whose first bytes are these numbers."""
    images = torch.zeros(len(features), 3, SIZE, SIZE)
    for image, row in zip(images, features, strict=True):
        image[0].view(-1)[: len(row)] = torch.tensor(row) / 255
    return images


def cross(center: tuple[float, float], reach: tuple[float, float]) -> list[list[float]]:
    """Four points with a diagonal covariance of 4/3 reach^2."""
    return [[center[0] + i * reach[0], center[1] + j * reach[1]] for i in (-1, 1) for j in (-1, 1)]


@pytest.fixture
def torchmetrics():
    return importlib.import_module("torchmetrics")  # of the extra `test`: its absence is a failure here


def test_fid_of_gaussians(torchmetrics):
    real, made = cross((100, 100), (20, 30)), cross((103, 96), (40, 10))
    found = learned.frechet_inception_distance(images_of(real), images_of(made), FirstPixels(2))
    expected = 3**2 + 4**2 + 4 / 3 * ((20 - 40) ** 2 + (30 - 10) ** 2)  # |m - m'|^2 + sum (s - s')^2
    assert found.value == pytest.approx(expected, rel=1e-4), found.note
    assert found.note == "4 images against 4"


def test_fid_of_the_same_images_is_zero(torchmetrics):
    images = images_of(cross((100, 100), (20, 30)))
    assert learned.frechet_inception_distance(images, images, FirstPixels(2)).value == pytest.approx(0, abs=1e-6)


def test_kid_is_the_unbiased_mmd(torchmetrics):
    real, made = np.array(cross((100, 100), (20, 30))), np.array(cross((103, 96), (40, 10)))

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / 2 + 1) ** 3

    def off_diagonal_mean(square: np.ndarray) -> float:
        return float((square.sum() - np.trace(square)) / (len(square) * (len(square) - 1)))

    expected = (
        off_diagonal_mean(kernel(real, real)) + off_diagonal_mean(kernel(made, made)) - 2 * kernel(real, made).mean()
    )
    found = learned.kernel_inception_distance(images_of(real.tolist()), images_of(made.tolist()), FirstPixels(2))
    assert found.value == pytest.approx(expected, rel=1e-3), found.note


def test_inception_score_of_sure_and_even_classes_is_their_number(torchmetrics):
    even = images_of([[12.0 if i == j else 0.0 for i in range(4)] for j in range(4)] * 3)
    assert learned.inception_score(even, FirstPixels(4)).value == pytest.approx(4.0, rel=1e-3)
    alike = images_of([[12.0, 0, 0, 0]] * 8)
    assert learned.inception_score(alike, FirstPixels(4)).value == pytest.approx(1.0, rel=1e-3)


def test_clip_score_is_a_hundred_cosines():
    images = torch.zeros(3, 3, SIZE, SIZE)
    of_text = {"same": [1.0, 0.0], "half": [0.5, math.sqrt(0.75)], "opposite": [-1.0, 0.0]}
    found = learned.clip_score(
        images,
        list(of_text),
        lambda part: torch.tensor([[2.0, 0.0]] * len(part)),
        lambda part: torch.tensor([of_text[caption] for caption in part]),
    )
    assert found.value == pytest.approx(100 * (1 + 0.5 + 0) / 3, rel=1e-5)
    with pytest.raises(ValueError, match="3 images and 1 captions"):
        learned.clip_score(images, ["one"], lambda part: part, lambda part: part)


def absolute(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first - second).abs().mean(1)


def neighbours(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """A distance with a receptive field."""
    return torch.nn.functional.avg_pool2d(absolute(first, second)[:, None], 3, 1, 1)[:, 0]


def test_perceptual_distance_is_the_mean_over_pixels_or_over_a_mask():
    first, second = torch.zeros(2, 3, SIZE, SIZE), torch.zeros(2, 3, SIZE, SIZE)
    second[0, :, :, :4], second[1, :, :, 4:] = 0.5, 1.0
    mask = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    mask[:, :, :4] = True
    assert learned.perceptual_distance(first, second, distance=absolute).value == pytest.approx((0.25 + 0.5) / 2)
    assert learned.perceptual_distance(first, second, mask, absolute).value == pytest.approx((0.5 + 0.0) / 2)


def test_what_differs_outside_the_mask_does_not_reach_in():
    first, second = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, 3, SIZE, SIZE)
    second[:, :, :, 4:] = 1.0
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    mask[:, :, :4] = True
    assert learned.perceptual_distance(first, second, mask, neighbours).value == 0.0


@pytest.mark.parametrize(
    "package", ["torchmetrics.image.fid", "torchmetrics.image.kid", "torchmetrics.image.inception", "lpips"]
)
def test_a_missing_package_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    images = torch.zeros(4, 3, SIZE, SIZE)
    scores = {
        "torchmetrics.image.fid": lambda: learned.frechet_inception_distance(images, images),
        "torchmetrics.image.kid": lambda: learned.kernel_inception_distance(images, images),
        "torchmetrics.image.inception": lambda: learned.inception_score(images),
        "lpips": lambda: learned.perceptual_distance(images, images),
    }
    score = scores[package]()
    assert not score.computed
    assert score.note.startswith("not computed: ")
    assert package.split(".")[0] in score.note


def test_weights_that_cannot_be_fetched_are_told():
    def no_network(_first: torch.Tensor, _second: torch.Tensor) -> torch.Tensor:
        raise ConnectionError("no route to\nhost")

    score = learned.perceptual_distance(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), distance=no_network)
    assert (score.computed, score.note) == (False, "not computed: no route to host")


def test_clip_score_without_a_model_says_how_to_give_one(tmp_path):
    images = torch.zeros(1, 3, SIZE, SIZE)
    assert "--clip FOLDER" in learned.clip_score_of_folder(images, ["x"], None).note
    score = learned.clip_score_of_folder(images, ["x"], tmp_path)
    assert not score.computed
    assert score.note.startswith("not computed: ")
