"""What is shown and measured in validations is never trained on."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from accelerate import Accelerator

from lab.train.adapter_training import AdapterTraining
from lab.train.config import ConfigError, preset
from lab.train.data import DataError
from lab.train.state import TrainingStateError

from .tiny_models import Squares, tiny_config, tiny_models


@pytest.fixture
def start(tmp_path):
    def start(dataset=None, shown=None, **changes):
        accelerator = Accelerator(cpu=True)
        return AdapterTraining(
            tiny_models(), dataset or Squares(), tiny_config(**changes), accelerator, tmp_path, shown
        )

    return start


def names(dataset):
    return [dataset.sample(number, torch.Generator()).name for number in range(len(dataset))]


def trained(training, samples=60):
    return {training.batches.rows.at(position, []).sample.name for position in range(samples)}


def test_held_out_images_are_in_no_batch_and_all_others_are(start):
    training = start(validation_images=3)
    shown = names(training.shown)
    assert len(shown) == 3
    assert trained(training) == set(names(Squares())) - set(shown)


def test_which_are_held_out_follows_the_seed_alone(start, tmp_path):
    shown = [names(start(seed=seed, **changes).shown) for seed, changes in ((0, {}), (0, {"batch_size": 2}), (5, {}))]
    assert shown[0] == shown[1] != shown[2]


def test_with_data_of_their_own_nothing_is_held_out(start):
    class Others(Squares):
        def sample(self, index, generator):
            return dataclasses.replace(super().sample(index, generator), name=f"other {index}")

    training = start(shown=Others(4), validation_images=3)
    assert names(training.shown) == ["other 0", "other 1", "other 2"]
    assert trained(training) == set(names(Squares()))
    with pytest.raises(DataError, match="the validation data have 2 images, validation_images is 3: add some"):
        start(shown=Others(2), validation_images=3)


def test_too_few_images_are_said(start):
    with pytest.raises(DataError, match="the dataset has 3 samples, validation_images holds out 3"):
        start(Squares(3), validation_images=3)
    with pytest.raises(
        DataError, match=r"there are 3 samples to train on, a batch takes 4: add images, .*hold out fewer"
    ):
        start(Squares(5), validation_images=2)
    with pytest.raises(ConfigError, match="validation_images is 0 and validate_every 5000: hold out 1 or more"):
        preset("sdxl").replace(validation_images=0)
    assert len(start(Squares(4), validation_images=0).batches.rows.dataset) == 4


def test_a_run_with_others_held_out_is_another_run(start):
    start().run(2)
    with pytest.raises(TrainingStateError, match="held_out is 2 there and 3 here"):
        start(validation_images=3)


class Broken(Squares):
    """Some of its samples cannot be read."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken

    def sample(self, index, generator):
        if index in self.broken:
            raise DataError(f"square {index} is broken")
        return super().sample(index, generator)


def test_broken_images_are_left_out_and_the_figures_say_of_how_many_they_are(start, tmp_path):
    shown = start(validation_images=3).shown.numbers
    settings = {"validation_images": 3, "broken_images": "skip", "validate_every": 1, "steps": 1}
    start(Broken(shown[:1]), **settings).run()
    line = json.loads((tmp_path / "validation" / "validation.jsonl").read_text())
    assert (line["step"], line["images"]) == (1, 2)
    assert (tmp_path / "validation" / "00000001.png").is_file()


@pytest.mark.parametrize(
    ("broken_images", "message"), [("error", "square 1 is broken"), ("skip", "every one of the 2 images")]
)
def test_nothing_but_broken_images_is_an_error(start, broken_images, message):
    settings = {"validation_images": 2, "validate_every": 1, "steps": 1}
    assert start(**settings).shown.numbers == [1, 8]
    with pytest.raises(DataError, match=message):
        start(Broken([1, 8]), broken_images=broken_images, **settings).run()
