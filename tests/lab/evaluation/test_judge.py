"""The judge learns, reads what it is shown, and comes back from its file."""

from __future__ import annotations

import json

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from lab.demo import stack
from lab.demo.evaluation import judge as judging
from lab.demo.evaluation import train_judge
from lab.demo.evaluation.judge import CLASSES, INPUT_SIZE, Judge, JudgeFileError
from lab.demo.evaluation.pairs import any_scene
from lab.demo.evaluation.train_judge import Sizes, examples, joined, lots
from lab.train.loop import Schedule
from lab.train.state import TrainingStateError


@pytest.fixture(scope="module")
def few() -> train_judge.Examples:
    scenes = [any_scene(seed) for seed in range(16)]
    parts = [
        examples(scenes, train_judge.drawn_images(scenes, product, 2 * INPUT_SIZE), product)
        for product in (True, False)
    ]
    return joined(parts)


def test_examples_without_product_are_none(few):
    none = {name: CLASSES[name].index("none") for name in ("product_color", "shape")}
    for name, index in none.items():
        assert bool((few.target[name][16:] == index).all())
        assert not bool((few.target[name][:16] == index).any())
    for name in ("wall_color", "pattern", "table"):
        assert torch.equal(few.target[name][:16], few.target[name][16:])
    assert few.image.shape == (32, 3, INPUT_SIZE, INPUT_SIZE)
    assert few.image.dtype == torch.uint8


def test_it_learns_a_few_examples(few, tmp_path):
    schedule = Schedule(steps=24, learning_rate=4e-3, warmup=5, save_every=1000)
    trained, loop = train_judge.train_judge(
        tmp_path, few, Sizes(schedule=schedule, batch_size=16), 0, Accelerator(), ""
    )
    lines = [json.loads(line) for line in (tmp_path / "judge" / "losses.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert loop.step == 24
    read = trained.eval().read(few.images(torch.arange(32)))
    hits = torch.stack([(read[name] == few.target[name]).double().mean() for name in CLASSES])
    chance = sum(1 / len(values) for values in CLASSES.values()) / len(CLASSES)
    assert float(hits.mean()) > 1.5 * chance


def test_it_is_small():
    assert sum(parameter.numel() for parameter in Judge().parameters()) < 250_000


def test_file_round_trip(tmp_path):
    made = Judge().eval()
    judging.save_judge(made, tmp_path / "judge.safetensors", {"accuracy": "{}"})
    image = torch.rand(5, 3, 128, 128)
    loaded = judging.load_judge(tmp_path / "judge.safetensors")
    half = Judge().eval()
    half.load_state_dict({key: value.half().float() for key, value in made.state_dict().items()})
    for name, scores in half(judging.shrink(image)).items():
        assert torch.equal(loaded(judging.shrink(image))[name], scores)
    assert {name: value.shape for name, value in loaded.read(image, batch=2).items()} == dict.fromkeys(CLASSES, (5,))


def test_files_of_something_else_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m lab\.demo\.evaluation\.train_judge"):
        judging.load_judge(tmp_path / "nothing.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(JudgeFileError, match="is no judge of these scenes"):
        judging.load_judge(tmp_path / "other.safetensors")
    judging.save_judge(Judge(), tmp_path / "judge.safetensors", {})
    state = load_file(tmp_path / "judge.safetensors")
    classes = json.dumps({**CLASSES, "table": ["glass"]})
    save_file(state, tmp_path / "judge.safetensors", {"format": judging.FORMAT, "classes": classes})
    with pytest.raises(JudgeFileError, match="make it again"):
        judging.load_judge(tmp_path / "judge.safetensors")


def test_images_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"image is \(1, 3, 96, 128\)"):
        judging.shrink(torch.zeros(1, 3, 96, 128))


def test_images_come_mirrored_as_often_as_not(few):
    image = few.images(torch.arange(32))
    shown = train_judge.mirrored(image, torch.Generator().manual_seed(0))
    flipped = [torch.equal(one, other.flip(2)) for one, other in zip(shown, image, strict=True)]
    kept = [torch.equal(one, other) for one, other in zip(shown, image, strict=True)]
    assert [one != other for one, other in zip(flipped, kept, strict=True)] == [True] * 32
    assert 8 <= sum(flipped) <= 24


def test_augmentation_is_mild_and_seeded(few):
    image = few.images(torch.arange(8))
    one, same, other = (train_judge.augmented(image, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float((one - image).abs().mean()) < 0.1
    assert float(one.min()) >= 0
    assert float(one.max()) <= 1


def test_it_learns_from_scenes_of_each_kind_and_from_none_twice():
    found = list(lots(Sizes(drawn=130, decoded=64, empty=1, empty_decoded=2)))
    assert [(lot.start, lot.count, lot.product, lot.decoded) for lot in found] == [
        (0, 64, True, False),
        (64, 64, True, False),
        (128, 2, True, False),
        (130, 64, True, True),
        (194, 1, False, False),
        (195, 2, False, True),
    ]


def test_lots_that_are_stored_are_not_drawn_again(tmp_path, monkeypatch):
    autoencoder = stack.UnshuffledAutoencoder().eval()
    sizes = Sizes(drawn=3, decoded=2, empty=1, empty_decoded=1)
    made = train_judge.training_examples(tmp_path, autoencoder, sizes)
    calls = []
    draw = train_judge.Lot.examples
    monkeypatch.setattr(train_judge.Lot, "examples", lambda lot, coder: calls.append(lot) or draw(lot, coder))
    again = train_judge.training_examples(tmp_path, autoencoder, sizes)
    assert not calls
    assert torch.equal(again.image, made.image)
    assert all(torch.equal(again.target[name], made.target[name]) for name in CLASSES)
    assert len(made) == 7
    assert [int(shape == CLASSES["shape"].index("none")) for shape in made.target["shape"]] == [0] * 5 + [1] * 2


def test_other_scenes_are_other_examples(tmp_path, monkeypatch):
    autoencoder, sizes = stack.UnshuffledAutoencoder().eval(), Sizes(drawn=1, decoded=0, empty=0, empty_decoded=0)
    train_judge.training_examples(tmp_path, autoencoder, sizes)
    monkeypatch.setattr(train_judge, "any_scene", lambda seed: any_scene(seed + 1))
    train_judge.training_examples(tmp_path, autoencoder, sizes)
    assert len(list(tmp_path.glob("examples_*"))) == 2


def test_examples_are_known_by_all_of_their_scenes_and_by_the_autoencoder(monkeypatch):
    """One scene that looks as before says nothing of the others; a judge of other examples is another training."""
    autoencoder, other = stack.UnshuffledAutoencoder().eval(), stack.UnshuffledAutoencoder().eval()
    sizes = Sizes(drawn=2, decoded=1, empty=0, empty_decoded=0)
    own = train_judge.examples_identity(autoencoder, sizes)
    assert own == train_judge.examples_identity(autoencoder, sizes)
    assert own != train_judge.examples_identity(other, sizes)
    monkeypatch.setattr(train_judge, "any_scene", lambda seed: any_scene(seed + (seed == 2)))
    assert own != train_judge.examples_identity(autoencoder, sizes)


def test_a_judge_of_other_examples_is_not_the_one_that_was_trained(few, tmp_path):
    sizes = Sizes(schedule=Schedule(steps=1, learning_rate=1e-3, save_every=1), batch_size=16)
    train_judge.train_judge(tmp_path, few, sizes, 0, Accelerator(), "one")
    train_judge.train_judge(tmp_path, few, sizes, 0, Accelerator(), "one")
    with pytest.raises(TrainingStateError, match="examples"):
        train_judge.train_judge(tmp_path, few, sizes, 0, Accelerator(), "another")
