"""Two states of a run: one of them is always whole."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from lab.train import state as state_module
from lab.train.state import DAMAGED, NEWEST, OLDER, TrainingStateError, load_state, save_state


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def folder(tmp_path):
    for step in (1, 2, 3):
        save_state(tmp_path, {"step": step, "weights": torch.full((1000,), float(step))})
    return tmp_path


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-200])


def one_bit_of_a_weight_turned(file):
    content = bytearray(file.read_bytes())
    place = content.index(torch.full((4,), 3.0).numpy().tobytes())
    content[place + 400] ^= 1
    file.write_bytes(content)


def not_there(file):
    """Killed between the two renames."""
    file.unlink()


def test_the_newest_two_are_kept(folder, accelerator):
    assert sorted(file.name for file in folder.iterdir()) == sorted([NEWEST, OLDER])
    assert torch.load(folder / OLDER, weights_only=True)["step"] == 2
    file, state = load_state(folder, accelerator)
    assert (file, state["step"]) == (folder / NEWEST, 3)


def test_the_older_one_is_read_only_where_the_newest_is_not_whole(folder, accelerator, monkeypatch):
    """They are large, and every process waits."""
    read = []
    damage = state_module._damage
    monkeypatch.setattr(state_module, "_damage", lambda file: read.append(file) or damage(file))
    assert load_state(folder, accelerator)[1]["step"] == 3
    assert read == [folder / NEWEST]
    cut_short(folder / NEWEST)
    assert load_state(folder, accelerator)[1]["step"] == 2
    assert read[1:] == [folder / NEWEST, folder / OLDER]


@pytest.mark.parametrize("damage", [cut_short, one_bit_of_a_weight_turned, not_there])
def test_a_run_goes_on_from_the_older_one_and_says_so(folder, accelerator, capsys, damage):
    damage(folder / NEWEST)
    file, state = load_state(folder, accelerator)
    assert (file, state["step"]) == (folder / OLDER, 2)
    said = capsys.readouterr().out
    assert said.startswith(f"{folder / NEWEST} ")
    assert f"going on from {folder / OLDER}" in said
    assert (folder / DAMAGED).exists() == (damage is not not_there)
    save_state(folder, {"step": 3})
    assert torch.load(folder / OLDER, weights_only=True)["step"] == 2, "the whole one is not lost to the damaged one"


def test_two_damaged_ones_are_refused_by_name(folder, accelerator):
    cut_short(folder / NEWEST)
    one = folder / OLDER
    one.write_bytes(b"nothing")
    with pytest.raises(
        TrainingStateError, match=rf"{NEWEST} cannot be read .*; .*{OLDER} cannot be read .*delete it to start"
    ):
        load_state(folder, accelerator)


def test_a_folder_without_a_state_begins(tmp_path, accelerator):
    assert load_state(tmp_path, accelerator) is None


def test_what_a_killed_process_had_not_finished_is_removed(folder, accelerator):
    (folder / f".{NEWEST}.123").write_bytes(b"half of it")
    load_state(folder, accelerator)
    assert sorted(file.name for file in folder.iterdir()) == sorted([NEWEST, OLDER])


def test_a_state_of_another_version_is_refused(folder, accelerator):
    torch.save({"step": 1}, folder / NEWEST)
    with pytest.raises(
        TrainingStateError, match="has format None, expected 2: another version of the trainer wrote it"
    ):
        load_state(folder, accelerator)
