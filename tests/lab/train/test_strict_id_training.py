"""Strictly-ID: what a training step changes, what a run leaves behind, and which samples it refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image

from lab.train.config import ConfigError, preset
from lab.train.data import Beside, DataError, seeded
from lab.train.strict_id_batches import prepared
from lab.train.visibility import sight_of
from pfv_core.research.strict_id_file import load_strict_id

from .tiny_models import CONTEXT, SIZE, WIDTH, Changed, Subjects, tiny_models
from .tiny_runs import STRICT_ID, loss_of, opened, state


@pytest.fixture
def start(tmp_path):
    """A run in a folder of its own."""
    return STRICT_ID.starter(tmp_path)


def test_the_papers_numbers():
    config = preset("strict_id_sd15")
    assert (config.base, config.learning_rate, config.std_norm, config.gamma) == ("sd15", 1e-5, True, 400.0)
    assert (config.displacement.turn, config.displacement.flip, config.displacement.area) == (30.0, 0.5, 0.25)
    assert config.steps == pytest.approx(20 * 230_000 / (8 * config.batch_size), rel=0.01)
    assert preset("strict_id_sdxl").base == "sdxl"
    assert all(preset(name).balance_from == preset(name).steps // 10 for name in ("strict_id_sd15", "strict_id_sdxl"))


def test_the_unet_and_the_encoder_stay_and_all_of_the_net_learns(start):
    models = tiny_models()
    frozen = [(module, state(module)) for module in (models.unet, models.vision)]
    training = opened(start(models, steps=4, drop_appearance_share=0.0))
    first = state(training.module)
    training.run()
    for module, before in frozen:
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())
    assert {name for name, value in training.module.state_dict().items() if torch.equal(first[name], value)} == set()
    assert not models.unet._forward_pre_hooks


def test_a_new_net_leaves_the_unet_as_it_is(start):
    training = start()
    batch = training.batches[0]
    plain = loss_of(training, batch)
    changed = dataclasses.replace(batch, hint=1 - batch.hint, poses=-batch.poses)
    assert loss_of(training, changed) == plain
    assert loss_of(opened(training), batch) != plain


@pytest.mark.parametrize("part", ["hint", "poses", "appearances", "pose_weight", "appearance_weight"])
def test_every_part_of_a_batch_counts(start, part):
    training = opened(start(gamma=1000.0, drop_appearance_share=0.0))
    batch = training.batches[0]
    changed = dataclasses.replace(batch, **{part: 0.5 * getattr(batch, part)}, pose_keys=[""] * 4)
    assert loss_of(training, changed) != loss_of(training, batch)


def test_the_scale_map_alone_counts(start):
    training = opened(start())
    batch = training.batches[0]
    hint = batch.hint.clone()
    hint[:, 3] = hint[:, 3].roll(7, 1)
    assert loss_of(training, dataclasses.replace(batch, hint=hint)) != loss_of(training, batch)


def test_what_is_dropped_counts_for_nothing(start):
    training = opened(start(drop_pose_share=0.5, drop_appearance_share=0.5, gamma=0.0))
    batch = training.batches[0]
    assert set(batch.pose_weight.tolist()) == {0.0, 1.0}
    none = dataclasses.replace(batch, pose_weight=torch.zeros(4), appearance_weight=torch.zeros(4), pose_keys=[""] * 4)
    other = dataclasses.replace(none, poses=-none.poses, appearances=-none.appearances)
    assert loss_of(training, none) == loss_of(training, other) != loss_of(training, batch)


def test_the_appearance_is_weighted_by_time(start):
    """A gamma of which every timestep lies above twice is no appearance at all."""
    training, late = (opened(start(name=str(g), gamma=g, drop_appearance_share=0.0)) for g in (0.0, 1e-3))
    batch = training.batches[0]
    without = dataclasses.replace(batch, appearance_weight=torch.zeros(4))
    assert loss_of(late, batch) == loss_of(training, without) != loss_of(training, batch)


def test_the_balance_begins_at_its_step(start):
    """Of optimizer steps, whatever they are made of; from the first one on where nothing is said."""
    for accumulate in (1, 2):
        training = start(name=str(accumulate), balance_from=2, accumulate=accumulate)
        given = [training.inputs(training.batches[step]) for step in range(3 * accumulate)]
        balanced = [(one.std_norm, one.gamma) for one in given]
        assert balanced == [(False, None)] * (2 * accumulate) + [(True, 400.0)] * accumulate
    training = start(name="plain")
    assert training.inputs(training.batches[0]).std_norm


def test_a_file_says_the_balance_of_the_step_that_led_to_it(start):
    """What is balanced while sampling and was not in training is another ControlNet."""
    training = start(balance_from=4)
    found = [load_strict_id(training.train(stop)).config for stop in (4, 5, None)]
    assert [(one.std_norm, one.gamma) for one in found] == [(False, None), (True, 400.0), (True, 400.0)]


def test_a_balance_that_never_begins_is_refused():
    with pytest.raises(
        ConfigError, match=r"balance_from is 7200 of 5000 steps: std_norm and gamma would never be trained"
    ):
        preset("strict_id_sd15").replace(steps=5000)
    preset("strict_id_sd15").replace(steps=5000, balance_from=500)
    preset("strict_id_sd15").replace(steps=5000, std_norm=False, gamma=0)


def test_a_validation_is_balanced_as_its_step_is(start):
    validation = start(balance_from=2).new_validation()
    given = [validation._inputs(validation.look(step)) for step in (0, 2, 3)]
    assert [(one.std_norm, one.gamma) for one in given] == [(False, None), (False, None), (True, 400.0)]


def test_the_subject_s_part_of_the_picture_may_count_more(start):
    """The weighted mean of the errors there and elsewhere; of a mask that is nowhere, or everywhere, the plain one."""
    mask = torch.zeros(SIZE, SIZE)
    mask[:, : SIZE // 4] = 1
    plain, weighed = (
        opened(start(name=f"of {weight}", dataset=Changed(Subjects(), subject_mask=mask), subject_weight=weight))
        for weight in (1.0, 4.0)
    )
    assert plain.batches[0].subject is None
    batch = dataclasses.replace(weighed.batches[0], latents=plain.latents(plain.batches[0]))
    assert batch.subject.flatten(1).mean(1).tolist() == [0.25] * 4
    masks = (batch.subject, 1 - batch.subject, 0 * batch.subject, 0 * batch.subject + 1)
    shown = [dataclasses.replace(batch, subject=one) for one in masks]
    ours, theirs = [loss_of(weighed, one) for one in shown], loss_of(plain, dataclasses.replace(batch, subject=None))
    inside = (
        1.75 * ours[0] - theirs
    ) / 0.75  # of a quarter of the picture, the plain loss is (inside + 3 * outside) / 4
    outside = (4 * theirs - inside) / 3
    assert inside != pytest.approx(outside, rel=1e-3)
    assert ours[1] == pytest.approx((inside + 12 * outside) / 13, rel=1e-4)
    assert ours[2] == pytest.approx(theirs, rel=1e-6)
    assert ours[3] == pytest.approx(theirs, rel=1e-6)


def test_loss_falls(start):
    """The pose tells the colour of the whole picture, the captions do not."""
    training = start(steps=25, learning_rate=1e-2, drop_text_share=0, ema_decay=0)
    batch = training.batches[0]
    before = loss_of(training, batch)
    training.run()
    assert loss_of(training, batch) < before - 0.02


def test_cached_equals_uncached(start, tmp_path):
    plain = start(name="plain")
    plain.run()
    settings = {"cache_latents": str(tmp_path / "cache"), "cache_tokens": str(tmp_path / "cache")}
    start(name="first", **settings).run()
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2 * (len(Subjects()) - 2)  # image and pose each

    def refuse(*_):
        raise AssertionError("everything is cached")

    second = start(dataclasses.replace(tiny_models(), encode_latents=refuse), name="second", **settings)
    second.run()
    for one, other in zip(plain.module.parameters(), second.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)  # tokens are kept in half precision


def test_files_of_a_run(start, tmp_path):
    file = start(validate_every=3, licence="CC-BY-4.0", gamma=0.0).train()
    found = load_strict_id(file)
    config = found.config
    assert (config.base, config.std_norm, config.gamma) == ("sdxl", True, None)
    assert (config.sizes.context_dim, config.sizes.token_dim) == (CONTEXT, WIDTH)
    assert config.encoder == tiny_models().vision.spec
    told = {name: config.metadata[name] for name in ("format", "licence", "preset", "step")}
    assert told == {"format": "strict_id", "licence": "CC-BY-4.0", "preset": "strict_id_sdxl", "step": "6"}
    lines = [json.loads(line) for line in (tmp_path / "run/validation/validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[0]["loss_without_control"] == lines[1]["loss_without_control"]
    assert len({lines[1][name] for name in ("loss_without_control", "loss_with_pose", "loss_with_appearance")}) == 3
    with Image.open(tmp_path / "run/validation/00000006.png") as sheet:
        assert sheet.size == (7 * (SIZE + 8), 2 * (SIZE + 8))


def test_the_file_is_the_averaged_one_and_can_be_started_from(start):
    training = start()
    file = training.train()
    found = load_strict_id(file).branches.state_dict()["pose.projection.weight"]
    names = [name for name, _ in training.module.named_parameters()]
    average = dict(zip(names, training.loop.average.shadow_params, strict=True))
    assert torch.equal(found, average["branches.pose.projection.weight"])
    assert not torch.equal(found, training.module.branches.pose.projection.weight)
    again = start(name="again", start_from=str(file))
    for name, value in again.module.named_parameters():
        assert torch.equal(value, average[name])


@pytest.mark.parametrize(
    ("models", "changes", "message"),
    [
        ({"context": 24}, {}, "does not fit this run: .*has branches of .*context_dim=16.*takes .*context_dim=24"),
        ({"base": "sd15"}, {"base": "sd15"}, "does not fit this run: it was trained on sdxl, here it is sd15"),
    ],
)
def test_start_from_another_net(start, models, changes, message):
    file = start(name="first", steps=1).train()
    with pytest.raises(ConfigError, match=message):
        start(tiny_models(**models), name="other", start_from=str(file), **changes)


def test_a_file_does_not_tell_where_things_lay(start, tmp_path):
    file = start(name="first", steps=1).train()
    places = {
        "start_from": str(file),
        "cache_latents": str(tmp_path / "latents"),
        "cache_tokens": str(tmp_path / "tokens"),
    }
    again = start(name="again", steps=1, **places)
    told = load_strict_id(again.train()).config.metadata["config"]
    assert str(tmp_path) not in told
    assert 'start_from = "strict_id.safetensors"' in told
    assert 'cache_tokens = "tokens"' in told
    assert again.config.start_from == str(file)


def test_start_from_another_kind_of_file(start, tmp_path):
    (tmp_path / "adapter.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"does not fit this run: adapter\.safetensors is no whole safetensors file"):
        start(start_from=str(tmp_path / "adapter.safetensors"))


def rows_of(training, *positions):
    return [training.batches.rows.at(position, []) for position in positions]


def test_the_hint_is_the_cut_out_product_and_the_subjects_rows(start):
    (row,) = rows_of(start(), 0)
    product = row.sample.product_mask > 0
    assert torch.equal(row.hint[:3], row.sample.image * product)
    top, bottom = row.sample.subject
    assert row.hint[3, :, 0].nonzero().flatten().tolist() == list(range(int(top), int(bottom)))
    assert torch.equal(row.hint[3], row.hint[3, :, :1].expand(SIZE, SIZE))


def test_the_appearance_is_the_picture_elsewhere_without_its_product(start):
    """Whatever the product's pixels are, the encoder sees none of them."""
    still = {"appearance_turn": 0.0, "appearance_flip": 0.0, "appearance_area": 1.0}
    training = start(**still)
    (row,) = rows_of(training, 0)
    torch.testing.assert_close(row.appearance_keep_mask, row.sample.product_mask == 0)
    other = [row.appearance for row in rows_of(start(name="moved"), 0)]
    assert not torch.equal(other[0], row.appearance)
    batch = training.batches[0]
    painted = Painted()
    changed = start(name="painted", dataset=painted, **still).batches[0]
    assert not torch.equal(batch.image, changed.image)
    assert torch.equal(batch.appearances, changed.appearances)


class Painted(Subjects):
    """Another product in the same places."""

    def sample(self, index, generator):
        scene = super().sample(index, generator)
        return dataclasses.replace(scene, image=torch.where(scene.product_mask > 0, 0.123, scene.image))


def test_an_appearance_of_its_own_takes_the_pictures_place(start):
    own = Beside(torch.full((3, SIZE, SIZE), 0.25), "own")
    (row,) = rows_of(start(dataset=Changed(Subjects(), appearance=own)), 0)
    torch.testing.assert_close(row.appearance, own.image)
    assert bool(row.appearance_keep_mask.all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pose": None, "subject": None}, "square [0-9]+ has no scale or subject mask and no pose"),
        ({"product_mask": None}, "square [0-9]+ has no mask"),
        ({"product_mask": torch.zeros(SIZE, SIZE)}, "the mask of square [0-9]+ selects nothing in the square"),
        (
            {"product_mask": torch.ones(SIZE, SIZE)},
            "the mask of square [0-9]+ hides every patch of it: is white the product",
        ),
        (
            {"subject": (40.0, 50.0)},
            "puts its subject at rows 40 to 50, the square that is trained on has 32: none of them",
        ),
    ],
)
def test_samples_that_lack_something_are_refused(start, changes, message):
    with pytest.raises(DataError, match=message):
        start(dataset=Changed(Subjects(), **changes)).run()


def test_a_subject_that_counts_more_needs_its_mask(start):
    message = r"square [0-9]+ has no subject mask \(name.subject.png\), and subject_weight is 2: add it, or set subject_weight 1"
    with pytest.raises(DataError, match=message):
        start(subject_weight=2.0).run()


def test_settings_that_make_no_sense_are_refused():
    small = preset("strict_id_sd15")
    for changes, message in (
        ({"drop_pose_share": 1.0}, "drop_pose_share is 1.0: input should be less than 1"),
        ({"gamma": -1.0}, "gamma is -1.0: input should be greater than or equal to 0"),
        ({"subject_weight": 0.0}, "subject_weight is 0.0: input should be greater than 0"),
        ({"balance_from": -1}, "balance_from is -1: input should be greater than or equal to 0"),
        ({"appearance_area": 0.0}, "appearance_area is 0.0, expected 0 to 1"),
        ({"appearance_turn": 200.0}, "appearance_turn is 200.0, expected 0 to 180"),
        ({"augment_share": 0.5}, "augment_share is 0.5: an appearance is turned"),
        ({"num_tokens": 4}, r"no such setting: num_tokens\. Of preset strict_id_sd15 there are"),
    ):
        with pytest.raises(ConfigError, match=message):
            small.replace(**changes)


def test_a_sample_is_the_same_whoever_makes_it(start):
    one, other = start(name="one").batches[1], start(name="other").batches[1]
    assert torch.equal(one.appearances, other.appearances)
    sample = Subjects().sample(3, seeded(0, 0, "data"))
    assert prepared(sample, sight_of(tiny_models().vision)).has_appearance
