"""Each stage of the base training, a few steps of it: it learns, it stops and goes on, and it writes what loads."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file

from lab.demo import stack
from lab.demo.denoising import Denoising, rims
from lab.demo.evaluation.ablations import ADAPTERS
from lab.demo.train import main, train_stage
from lab.demo.train_controlnet import AROUND_SHARE, WALL_SHARE, Prompts
from lab.demo.trainer import BEGINS_WITH, CONTROLNET, FURTHER, STAGES, BeginError, Recipe, Trainer
from lab.train.loop import Schedule
from tests.support.devices import Device

STEPS = 3
SCENES = 3  # rendered; each serves as its mirror image too


def toy_recipe(**changes):
    schedule = Schedule(STEPS, 1e-3, weight_decay=0.0, ema_decay=0.5, save_every=1)
    settings = dict.fromkeys((*STAGES, *BEGINS_WITH), schedule) | changes
    return Recipe(**settings, batch_sizes=dict.fromkeys((*STAGES, *BEGINS_WITH), 4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    run = Trainer(folder / "work", folder / "out", toy_recipe(), num_scenes=SCENES)
    for stage in STAGES:
        train_stage(run, stage)
    return folder


@pytest.mark.parametrize("name", list(stack.NEW))
def test_what_is_written_loads(trained, name):
    model = stack.load_model(name, trained / "out")
    assert all(torch.isfinite(value).all() for value in model.state_dict().values() if value.is_floating_point())


def test_files_say_how_they_were_made(trained):
    with safe_open(trained / "out" / "unet.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["steps"] == str(STEPS)
    assert {"made_by", "seed", "batch_size", "scenes", "seconds", "machine", "license"} <= metadata.keys()


def test_a_file_says_what_its_own_training_began_with(trained, tmp_path):
    run = Trainer(tmp_path / "work", tmp_path / "out", toy_recipe(), num_scenes=SCENES, begin=trained / "out")
    for stage in STAGES:
        train_stage(run, stage)
    found = {}
    for name in stack.NEW:
        with safe_open(tmp_path / "out" / f"{name}.safetensors", "pt") as file:
            found[name] = file.metadata().get("begun_from", "").partition(" of sha256 ")[0]
    of_unet = dict.fromkeys(("unet", "text_encoder", "controlnet"), "unet")
    assert found == {"autoencoder": "autoencoder", "vision_encoder": "", **of_unet}


def test_latents_are_of_unit_size(trained):
    autoencoder = stack.load_model("autoencoder", trained / "out")
    side = stack.LATENT_SIZE
    (file,) = (trained / "work").glob(f"latents32_{stack.IMAGE_SIZE}_*.pt")
    latents = torch.load(file, weights_only=True).float()
    assert latents.shape == (2 * SCENES, 4, side, side)
    assert autoencoder.deviation.min() > 0
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=0.5, rtol=0)


def test_a_finished_stage_is_not_trained_again(trained):
    run = Trainer(trained / "work", trained / "again", toy_recipe(), num_scenes=SCENES)
    for name in ("autoencoder", "text_encoder"):
        stack.save_weights(stack.load_model(name, trained / "out"), trained / "again" / f"{name}.safetensors", {})
    before = (trained / "work" / "together" / "losses.jsonl").read_text()
    train_stage(run, "together")
    assert (trained / "work" / "together" / "losses.jsonl").read_text() == before
    first, second = (stack.load_model("unet", trained / name).state_dict() for name in ("out", "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("stage", "name"), [("unet_half", "autoencoder"), ("together", "text_encoder")])
def test_what_a_stage_read_decides_whether_it_is_finished(trained, tmp_path, stage, name):
    """Latents of another autoencoder, or another text encoder to begin with, are another training."""
    shutil.copytree(trained / "work", tmp_path / "work")
    shutil.copytree(trained / "out", tmp_path / "out")
    folder = tmp_path / "out" if stage == "unet_half" else tmp_path / "work" / "unet_half"
    moved = stack.load_model(name, folder)
    with torch.no_grad():
        next(moved.parameters()).add_(0.01)
    stack.save_weights(moved, folder / f"{name}.safetensors", {})
    run = Trainer(tmp_path / "work", tmp_path / "out", toy_recipe(), num_scenes=SCENES)
    with pytest.raises(RuntimeError, match=rf"belongs to another run, 3 steps .*: read is '.*{name} .* here"):
        train_stage(run, stage)


def test_other_settings_in_the_same_folder_are_refused(trained):
    other = toy_recipe(unet_half=Schedule(STEPS, 2e-3, weight_decay=0.0, ema_decay=0.5, save_every=1))
    with pytest.raises(
        RuntimeError, match=r"belongs to another run, 3 steps .*: learning_rate is 0.001 there and 0.002 here"
    ):
        train_stage(Trainer(trained / "work", trained / "out", other, num_scenes=SCENES), "unet_half")


def test_together_the_controlnet_keeps_the_hint_it_was_given(trained):
    """Trained alone before, and not moved again; all else is."""
    hint = load_file(trained / "work" / "hint" / "hint.safetensors")
    controlnet = stack.load_model("controlnet", trained / "out")
    kept = controlnet.controlnet_cond_embedding.state_dict()
    assert all(torch.equal(kept[key], hint[key].float()) for key in kept)
    assert any(block.weight.any() for block in controlnet.controlnet_down_blocks)


def test_finished_weights_go_on_in_an_empty_folder(trained, tmp_path):
    """On another machine: no state, none of the stages before."""
    run = Trainer(tmp_path / "work", tmp_path / "out", toy_recipe(), num_scenes=SCENES, begin=trained / "out")
    train_stage(run, FURTHER)
    assert not (tmp_path / "out" / "autoencoder.safetensors").exists()
    for name in ("unet", "text_encoder", "controlnet"):
        first, second = (stack.load_model(name, folder / "out").state_dict() for folder in (trained, tmp_path))
        moved = {key for key in first if not torch.equal(first[key], second[key])}
        assert moved
        assert not any(key.startswith("controlnet_cond_embedding") for key in moved)
        with safe_open(tmp_path / "out" / f"{name}.safetensors", "pt") as file:
            metadata = file.metadata()
        begun = metadata["begun_from"].split(" and ")
        assert (metadata["stage"], [part.split()[0] for part in begun]) == (
            "further",
            ["unet", "text_encoder", "controlnet"],
        )


@pytest.fixture
def finished(trained, tmp_path):
    """The weights of all stages, and an adapter."""
    shutil.copytree(trained / "out", tmp_path / "finished")
    shutil.copyfile(stack.WEIGHTS / "adapter.safetensors", tmp_path / "finished" / "adapter.safetensors")
    return tmp_path / "finished"


def test_the_controlnet_alone_goes_on_beside_finished_weights(finished, tmp_path):
    run = Trainer(tmp_path / "work", tmp_path / "out", toy_recipe(), num_scenes=SCENES, begin=finished)
    train_stage(run, CONTROLNET)
    (file,) = (tmp_path / "out").iterdir()
    first, second = (stack.load_model("controlnet", folder).state_dict() for folder in (finished, tmp_path / "out"))
    moved = {key for key in first if not torch.equal(first[key], second[key])}
    assert moved
    assert not any(key.startswith("controlnet_cond_embedding") for key in moved)
    with safe_open(file, "pt") as weights:
        metadata = weights.metadata()
    assert (metadata["stage"], metadata["begun_from"].split()[0]) == ("controlnet", "controlnet")


def test_beside_another_adapter_the_controlnet_s_run_is_another(finished, tmp_path):
    """It learns beside its image prompts."""

    def train():
        run = Trainer(tmp_path / "work", tmp_path / "out", toy_recipe(), num_scenes=SCENES, begin=finished)
        train_stage(run, CONTROLNET)

    train()
    shutil.copyfile(ADAPTERS / "eq3_c16_seed1.safetensors", finished / "adapter.safetensors")
    with pytest.raises(RuntimeError, match=r"belongs to another run, 3 steps .*: read is 'adapter"):
        train()


def test_a_scene_s_own_image_prompt_hides_its_product_and_rules_beside_it():
    count, side = 400, stack.IMAGE_SIZE
    prompts = Prompts(stack.WEIGHTS, torch.device("cpu"))
    product, wall = torch.zeros(count, side, side), torch.zeros(count, side, side)
    product[:, 64:128, 64:128] = 1
    wall[:, :64] = 1
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).repeat(count, 1, 1, 1)
    hidden = image.clone()
    hidden[:, :, 64:128, 64:128] = 0.5
    prompt, same = (prompts.of(one, product, wall, torch.Generator().manual_seed(1)) for one in (image, hidden))
    assert prompt.control.text_share == 0.0
    around, on_wall = ((prompt.region == one).all((1, 2)).float().mean() for one in (1 - product, wall))
    nowhere = (prompt.region == 0).all((1, 2)).float().mean()
    torch.testing.assert_close(around, torch.tensor(AROUND_SHARE), atol=0.06, rtol=0)
    torch.testing.assert_close(on_wall, torch.tensor(WALL_SHARE), atol=0.06, rtol=0)
    torch.testing.assert_close(nowhere, 1 - around - on_wall)
    keys = prompt.keys_values[0][0]
    torch.testing.assert_close(keys, same.keys_values[0][0])  # whatever the product looks like
    kinds = (keys - keys[:1]).abs().amax((1, 2)) < 1e-4
    assert 0 < min(int(kinds.sum()), int((~kinds).sum())) < 0.2 * count  # guidance's other half


def test_to_go_further_it_takes_what_to_begin_with(trained, tmp_path):
    for begin, message in (
        (None, "give --begin FOLDER with autoencoder.safetensors, unet.safetensors, text_encoder.safetensors, cont"),
        (tmp_path, "give --begin FOLDER"),
        (trained / "out", "--begin and --out are both"),
    ):
        run = Trainer(trained / "work", trained / "out", toy_recipe(), num_scenes=SCENES, begin=begin)
        with pytest.raises(BeginError, match=message):
            train_stage(run, FURTHER)


def test_what_has_no_more_time_ends_and_writes_what_it_has(trained, tmp_path):
    """The file says how many steps it is of, and the same folder goes on from there."""
    for until, steps in ((0.0, 0), (math.inf, STEPS)):
        where = {"num_scenes": SCENES, "begin": trained / "out", "until": until}
        train_stage(Trainer(tmp_path / "work", tmp_path / "out", toy_recipe(), **where), FURTHER)
        with safe_open(tmp_path / "out" / "unet.safetensors", "pt") as file:
            assert file.metadata()["steps"] == str(steps)
    losses = (tmp_path / "work" / FURTHER / "losses.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in losses] == [1, 2, 3]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--minutes", "-1"], "--minutes is a number of 0 or more, and of --stage further or controlnet alone"),
        (["--batch-size", "0"], "--batch-size is a number of 1 or more"),
        (["--stage", "together", "--steps", "3"], "--steps is a number of 1 or more, and of --stage further or"),
    ],
)
def test_what_only_finished_weights_have_is_refused_before_anything_is_drawn(option, message, tmp_path, capsys):
    stage = [] if "--stage" in option else ["--stage", FURTHER]
    given = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--begin", str(stack.WEIGHTS)]
    with pytest.raises(SystemExit):
        main([*given, *stage, *option])
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_to_go_further_from_other_weights_is_another_run(trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained / "out", other)
    moved = stack.load_model("unet", other)
    with torch.no_grad():
        next(moved.parameters()).add_(0.01)
    stack.save_weights(moved, other / "unet.safetensors", {})
    for begin in (trained / "out", other):
        run = Trainer(tmp_path / "work", tmp_path / "out", toy_recipe(), num_scenes=SCENES, begin=begin)
        if begin == other:
            with pytest.raises(RuntimeError, match=r"belongs to another run, 3 steps .*: read is 'autoencoder .* unet"):
                train_stage(run, FURTHER)
        else:
            train_stage(run, FURTHER)


def test_the_pooled_text_is_silent_in_some_rows_and_the_words_are_not(trained):
    run = Trainer(trained / "work", trained / "out", toy_recipe(), num_scenes=SCENES)
    denoising = Denoising(run, "together")
    text = stack.load_model("text_encoder", trained / "out")
    ids = stack.tokenize(["a red bottle"] * 64, denoising.tokenizer)
    conditions = denoising.conditions(text, ids, torch.Generator().manual_seed(0))
    context, pooled = stack.encode_text(text, ids)
    _, empty = stack.encode_text(text, stack.tokenize([""], denoising.tokenizer))
    given = conditions["added_cond_kwargs"]["text_embeds"]
    silent = (given - empty).abs().amax(1) < 1e-5
    assert 16 < int(silent.sum()) < 48
    torch.testing.assert_close(given[~silent], pooled[~silent])
    torch.testing.assert_close(conditions["encoder_hidden_states"], context)


def test_a_rim_is_a_cell_with_both_in_it():
    product = torch.zeros(1, 32, 32)
    product[:, 8:20, 8:16] = 1
    expected = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    assert torch.equal(rims(product)[0, 0].int(), expected.int())


def test_placed_samples_are_of_the_noisiest_timesteps(trained):
    run = Trainer(trained / "work", trained / "out", toy_recipe(), num_scenes=SCENES)
    denoising = Denoising(run, "together")
    some, none = (
        torch.cat([denoising.batch(i, torch.Generator().manual_seed(i), share).timesteps for i in range(40)]).float()
        for share in (1.0, 0.0)
    )
    assert some.min() >= 800
    assert none.min() < 200
    assert max(some.max(), none.max()) < 1000


def test_the_controlnet_begins_as_the_unet_s_encoder():
    unet = stack.new_unet()
    controlnet = stack.new_controlnet(unet)
    assert torch.equal(controlnet.conv_in.weight, unet.conv_in.weight)
    assert not any(block.weight.any() for block in controlnet.controlnet_down_blocks)


def test_a_stage_alone_gives_the_weights_of_all_in_turn(trained, tmp_path):
    train_stage(Trainer(tmp_path / "work", tmp_path / "out", toy_recipe(), num_scenes=SCENES), "encoders")
    alone, in_turn = (stack.load_model("vision_encoder", f / "out").state_dict() for f in (tmp_path, trained))
    assert all(torch.equal(alone[key], in_turn[key]) for key in alone)


def test_to_go_further_on_a_gpu_mixes_no_devices_and_reads_nothing_back(tmp_path, monkeypatch):
    """Shown on `meta`: models there, scenes and cached latents in main memory."""
    meta, device, losses = torch.device("meta"), Device("meta", gradients=True), []
    latents = torch.zeros(2 * SCENES, 4, stack.LATENT_SIZE, stack.LATENT_SIZE, dtype=torch.float16)

    def one_step(_run, _stage, loop, loss_of_step):
        with device:
            loss, _ = loss_of_step(0, torch.Generator())
            loss.backward()
        losses.append((loss.device, {parameter.grad.device for parameter in loop.parameters}))
        raise InterruptedError

    run = Trainer(tmp_path / "work", tmp_path / "out", toy_recipe(), num_scenes=SCENES, begin=stack.WEIGHTS)
    monkeypatch.setattr(Accelerator, "device", property(lambda _accelerator: meta))
    monkeypatch.setattr("lab.demo.denoising.cached_latents", lambda *_given: latents)
    monkeypatch.setattr(Trainer, "train", one_step)
    with pytest.raises(InterruptedError):
        train_stage(run, FURTHER)
    assert losses == [(meta, {meta})]
    assert device.reads == []
