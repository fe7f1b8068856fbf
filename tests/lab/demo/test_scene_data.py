"""Scenes that are kept in a folder are those that were drawn, and are drawn once."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lab.demo import drawn_once, stack, train
from lab.demo.drawn_once import OutOfTimeError
from lab.demo.evaluation import pairs
from lab.demo.scene_data import TRAIN_SEED, SceneData, draw_scenes, scene_data
from lab.demo.studio import scene, surfaces
from lab.demo.studio.render import render
from lab.demo.studio.scene import sample_scene
from lab.demo.train_refadgen import draw_packshots
from lab.demo.train_strict_id import draw_companions, draw_poses
from lab.demo.trainer import Trainer

COUNT, SIZE = 5, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def data(folder):
    return scene_data(folder, COUNT, SIZE)


def test_kept_scenes_are_the_drawn_ones_to_a_byte(data):
    assert data.scenes[:COUNT] == [sample_scene(TRAIN_SEED + index) for index in range(COUNT)]
    fresh, rows = render(data.scenes[2:COUNT], SIZE), range(2, COUNT)
    most = 0.5 / 255 + 1e-6
    assert (data.images(rows) - fresh.image.permute(0, 3, 1, 2)).abs().max() <= most
    assert (data.products(rows) - fresh.product).abs().max() <= most
    assert (data.walls(rows) - fresh.wall).abs().max() <= most
    assert (data.depths([4])[0, 2] - fresh.depth[2]).abs().max() <= most


def test_each_scene_is_there_mirrored_too(data):
    assert data.scenes[COUNT:] == [one.mirrored() for one in data.scenes[:COUNT]]
    assert torch.equal(data.images([COUNT + 3, 3]), data.images([3, COUNT + 3]).flip(3))
    for planes in (data.products, data.walls, data.depths):
        assert torch.equal(planes([COUNT + 3]), planes([3]).flip(-1))
        assert not torch.equal(planes([COUNT + 3]), planes([3]))


def test_what_lies_there_is_not_drawn_again(data, folder, monkeypatch):
    monkeypatch.setattr(drawn_once, "_draw", None)
    again = scene_data(folder, COUNT, SIZE)
    assert torch.equal(again.images([3]), data.images([3]))
    assert again.identity == data.identity


def test_where_the_time_is_up_what_is_drawn_stays(tmp_path, monkeypatch, data):
    """In one process and in several; the command says how to go on."""
    monkeypatch.setattr(drawn_once, "CHUNK", 1)
    for drawn in (1, 2):
        with pytest.raises(OutOfTimeError, match=rf"{drawn} of {COUNT} are drawn in .*scenes_{COUNT}_.* goes on there"):
            scene_data(tmp_path, COUNT, SIZE, until=0.0)
        monkeypatch.setattr(drawn_once, "_pool", lambda _chunks: nullcontext())
    assert torch.equal(scene_data(tmp_path, COUNT, SIZE).images(range(COUNT)), data.images(range(COUNT)))


def test_the_command_says_that_the_time_is_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stack, "IMAGE_SIZE", SIZE)
    monkeypatch.setattr(train, "Trainer", partial(Trainer, num_scenes=COUNT))
    monkeypatch.setattr(drawn_once, "CHUNK", 1)
    monkeypatch.setattr(drawn_once, "_pool", lambda _chunks: nullcontext())
    given = ["--stage", "further", "--begin", str(stack.WEIGHTS), "--minutes", "0"]
    with pytest.raises(SystemExit) as ended:
        train.main([*given, "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    assert f"the time is up, 1 of {COUNT} are drawn" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_scenes_are_other_data(data, tmp_path):
    """Of as many, of another look."""
    assert scene_data(tmp_path, COUNT, 2 * SIZE).identity != data.identity
    assert scene_data(tmp_path, COUNT - 1, SIZE).identity != data.identity


def test_scenes_are_known_by_what_draws_them_not_by_their_last_bits(data, monkeypatch):
    """Another processor rounds otherwise; another studio draws otherwise."""
    before = data.identity
    other = data.planes.copy()
    other[0, 0, 0, 0] ^= 1
    assert SceneData(data.scenes, other).identity == before
    assert SceneData([scene.mirrored() for scene in data.scenes], data.planes).identity != before
    monkeypatch.setattr(drawn_once, "STUDIO", drawn_once.STUDIO + "BRIGHTER = 2\n")
    assert data.identity != before


def test_the_studio_s_source_is_all_of_it_however_its_lines_end(tmp_path):
    assert all(f"class {name}" in drawn_once.STUDIO for name in ("Scene:", "Rendered:", "Surface:"))
    (tmp_path / "one.py").write_bytes(b"A = 1\r\nB = 2\r\n")
    assert drawn_once.source_of(tmp_path) == "A = 1\nB = 2\n"


class Elsewhere(TorchFunctionMode):
    """Stands for a device on which new tensors are: notes what is computed with one that was made without it, or for the CPU.
    Numbers of no dimension go along with any device, and `to` moves what stays behind."""

    def __init__(self):
        super().__init__()
        self.there, self.kept, self.behind, self.moved, self.brought = set(), [], [], 0, False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor) and one.dim()]
        name = getattr(function, "__name__", "")
        if (kwargs or {}).get("device") != "cpu" and name not in ("to", "__get__"):
            self.behind += [name for one in given if id(one) not in self.there]
        self.moved += name == "to" and any(id(one) not in self.there for one in given)
        self.brought |= name == "numpy" and self.kept[-1][0] == "cpu"
        result = function(*args, **(kwargs or {}))
        if (kwargs or {}).get("device") != "cpu":
            made = [one for one in tree_leaves(result) if isinstance(one, torch.Tensor)]
            self.there |= {id(one) for one in made}
            self.kept.append((name, made))  # an id is one tensor's as long as it lives
        return result


@pytest.mark.parametrize("draw", [draw_scenes, draw_packshots, draw_companions, draw_poses])
def test_all_of_a_picture_is_drawn_on_one_device(draw):
    with_companion = (one for one in map(sample_scene, itertools.count(TRAIN_SEED)) if one.companion is not None)
    scenes = list(itertools.islice(with_companion, 1))
    expected = draw(scenes, SIZE)
    surfaces._table.cache_clear()
    with Elsewhere() as device:
        drawn = draw(scenes, SIZE)
    surfaces._table.cache_clear()
    assert (drawn == expected).all()
    assert device.behind == []
    assert device.brought  # from there, before numpy reads it
    assert device.moved == (draw in (draw_scenes, draw_packshots))  # the noise, which is the same on all


def test_where_there_is_a_device_it_draws(tmp_path, monkeypatch):
    devices = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "device", lambda name: devices.append(name) or nullcontext())
    scene_data(tmp_path, 1, SIZE)
    assert set(devices) == {"cuda"}


@pytest.mark.parametrize("seed", [0, TRAIN_SEED // 2, TRAIN_SEED - 1, 3 * TRAIN_SEED + 1])
def test_held_out_scenes_have_no_seed_of_a_training_one(monkeypatch, seed):
    seeds = []

    def sampled(own, *choices, **named):
        seeds.append(own)
        return sample_scene(own, *choices, **named)

    for module in (scene, pairs):
        monkeypatch.setattr(module, "sample_scene", sampled)
    scene.sample_pair(seed)
    pairs.any_scene(seed)
    assert len(seeds) >= 4
    assert max(seeds) < TRAIN_SEED
