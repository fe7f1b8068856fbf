"""RefAdGen and Strictly-ID on the demo's scenes: what is drawn for them, a few steps of each variant, and what is written."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from lab.demo import stack, train_refadgen, train_strict_id
from lab.demo.captions import companion_phrase
from lab.demo.drawn_once import drawn_once
from lab.demo.scene_data import SceneData, draw_scenes
from lab.demo.studio.beside import LEAST_TURN, companion_rows, mannequin, packshot_of
from lab.demo.studio.render import render, render_alone
from lab.demo.studio.scene import sample_scene
from lab.demo.train_refadgen import GROUND, TripletScenes, draw_packshots
from lab.demo.train_strict_id import DemoStrictIDTraining, subject_scenes
from lab.demo.training_command import Prepared
from lab.demo.training_models import training_models
from lab.diffusers.strict_id import strict_id_from
from lab.train.data import seeded
from lab.train.models import vision_of
from lab.train.refadgen_training import RefAdGenTraining
from pfv_core.research.mask_input import MaskInputFileError, load_mask_input
from pfv_core.research.refadgen import open_refadgen
from pfv_core.research.strict_id_file import load_strict_id
from tests.demo_weights import write_random_weights

SCENES, STEPS = 4, 3
SHORT = {
    "steps": STEPS,
    "batch_size": 2,
    "save_every": 1,
    "validate_every": 2,
    "validation_images": 1,
    "validation_steps": 1,
    "save_precision": "fp32",
    "warmup": 0,
    "decay_from": 1.0,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def models(weights):
    return training_models(weights)


@pytest.fixture(scope="module")
def scenes():
    """With a companion each."""
    return [scene for scene in map(sample_scene, range(60)) if scene.companion is not None][:SCENES]


@pytest.fixture(scope="module")
def data(scenes):
    return SceneData([*scenes, *(scene.mirrored() for scene in scenes)], draw_scenes(scenes, stack.IMAGE_SIZE))


@pytest.fixture(scope="module")
def latents(models, data):
    return models.encode_latents(data.images(range(2 * SCENES))).half()


@pytest.fixture(scope="module")
def subjects(data, latents, tmp_path_factory):
    return subject_scenes(tmp_path_factory.mktemp("subjects"), data, latents)


@pytest.fixture
def refadgen(models, data, latents, tmp_path):
    """Function: a run of a variant."""

    def start(variant="whole", name="run"):
        packshots = None if variant == "no_augmentation" else drawn_packshots(data)
        config = train_refadgen.settings(variant, 0, "no").replace(**SHORT)
        dataset = TripletScenes(data, latents, packshots)
        return RefAdGenTraining(models, dataset, config, Accelerator(cpu=True), tmp_path / name)

    return start


@pytest.fixture
def strict_id(models, weights, subjects, tmp_path):
    """Function: a run of a variant."""

    def start(variant="whole", name="run", begin=""):
        config = train_strict_id.settings(variant, 0, "no").replace(**SHORT, start_from=begin, balance_from=1)
        controlnet = stack.load_model("controlnet", weights)
        return DemoStrictIDTraining(models, subjects, config, Accelerator(cpu=True), tmp_path / name, controlnet)

    return start


def drawn_packshots(data):
    shown = [packshot_of(scene, number) for number, scene in enumerate(data.scenes[:SCENES])]
    return draw_packshots(shown, stack.IMAGE_SIZE)


def test_a_packshot_shows_the_same_product_turned_another_way(data):
    for number, scene in enumerate(data.scenes[:SCENES]):
        shown = packshot_of(scene, number)
        assert dataclasses.replace(shown.product, turn=scene.product.turn) == scene.product
        assert abs(shown.product.turn - scene.product.turn) >= LEAST_TURN
        assert shown.companion is None
    assert packshot_of(data.scenes[0], 1) == packshot_of(data.scenes[0], 1) != packshot_of(data.scenes[0], 2)


def test_alone_a_product_is_what_it_is_in_its_scene_and_nothing_else(data):
    scene = data.scenes[0].alone()
    whole, alone = render([scene], 64), render_alone([scene], 64, GROUND)[0]
    inside, outside = whole.product[0] == 1, whole.product[0] == 0
    assert inside.sum() > 200
    assert torch.equal(alone[inside], whole.image[0][inside])
    assert bool((alone[outside] == GROUND).all())


def test_what_is_drawn_once_goes_on_where_it_stopped(data, tmp_path):
    scenes, drawn = [dataclasses.replace(data.scenes[0], eye=float(number)) for number in range(130)], []

    def draw(part, size):
        drawn.append((part[0].eye, len(part)))
        if part[0].eye == limit:
            raise KeyboardInterrupt
        return np.array([[one.eye] * size for one in part], np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.demo.drawn_once._pool", lambda _chunks: nullcontext())
        limit = 64
        with pytest.raises(KeyboardInterrupt):
            drawn_once(tmp_path, "numbers", scenes, 2, draw)
        limit, drawn[:] = None, []
        plane = drawn_once(tmp_path, "numbers", scenes, 2, draw)
    assert drawn == [(0, 1), (64, 64), (128, 2)]  # one for the shape, and what was left
    assert plane.tolist() == [[number] * 2 for number in range(130)]
    drawn.clear()
    assert np.array_equal(drawn_once(tmp_path, "numbers", scenes, 2, draw), plane)
    assert drawn == []
    assert drawn_once(tmp_path, "numbers", scenes[7:9], 1, draw).tolist() == [[7], [8]]


def test_the_rows_of_a_companion_are_those_of_its_picture(scenes):
    drawn = render(scenes, stack.IMAGE_SIZE)
    for scene, covered, product in zip(scenes, drawn.companion, drawn.product, strict=True):
        first, after = companion_rows(scene, stack.IMAGE_SIZE)
        rows = (covered > 0.5).any(1).nonzero().flatten()
        hidden = bool((product[after - 3 : after] > 0).any())  # the product may stand before its foot
        assert abs(int(rows[0]) - first) <= 3
        assert hidden or abs(int(rows[-1]) + 1 - after) <= 3
    assert companion_rows(scenes[0].alone(), stack.IMAGE_SIZE) is None


def test_a_mannequin_leans_as_it_is_told_and_looks_like_nobody():
    left, right = (mannequin(lean, 0.0, 64) for lean in (-0.2, 0.2))

    def slope(picture):
        rows, columns = (picture.sum(2) > 0).nonzero(as_tuple=True)
        return float(columns[rows < rows.min() + 10].float().mean() - columns[rows > rows.max() - 10].float().mean())

    assert slope(left) < -2 < 2 < slope(right)
    assert bool((left[..., 0] == left[..., 2]).all())
    assert not torch.equal(mannequin(0.0, 0.5, 64), mannequin(0.0, -0.5, 64))


@pytest.mark.parametrize("method", ["refadgen", "strict_id"])
def test_a_run_stops_and_goes_on_to_the_bit(request, method):
    start = request.getfixturevalue(method)
    straight = load_file(start(name="straight").train())
    start(name="stopped").train(stop_at=1)
    stopped = load_file(start(name="stopped").train())
    assert straight.keys() == stopped.keys()
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_refadgen_trains_the_reference_the_projections_and_the_mask_s_channel(refadgen, models):
    before = {name: value.clone() for name, value in models.unet.state_dict().items()}
    file = refadgen().train()
    found, tensors = open_refadgen(file), load_file(file)
    assert (found.base, found.combine, found.metadata["preset"]) == ("demo", "add", "demo_refadgen")
    assert bool(load_mask_input(file).kernel.any())
    assert all(torch.equal(before[name], value) for name, value in models.unet.state_dict().items())
    for part in ("reference.conv_in.weight", "fusion.mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight"):
        assert not torch.equal(tensors[part], before[part.partition(".")[2]])


def test_without_a_mask_channel_the_file_has_none(refadgen):
    file = refadgen("no_mask_channel").train()
    open_refadgen(file)
    with pytest.raises(MaskInputFileError, match="holds no mask input"):
        load_mask_input(file)


def test_without_augmentation_the_product_is_the_scene_s_own(refadgen, data):
    own, other = (refadgen(variant, variant).batches[0] for variant in ("no_augmentation", "whole"))
    assert torch.equal(own.image, other.image)
    for image, same, turned in zip(own.image, own.product, other.product, strict=True):
        row = next(row for row in range(2 * SCENES) if torch.equal(data.images([row])[0], image))
        inside = data.products([row])[0] == 1
        assert torch.equal(same[:, inside], image[:, inside])
        assert not torch.equal(turned[:, inside], image[:, inside])


@pytest.mark.parametrize(
    ("variant", "std_norm", "gamma"),
    [("whole", True, 600.0), ("no_time_weighting", True, None), ("no_balance", False, None)],
)
def test_a_strict_id_file_says_how_its_appearance_is_balanced(strict_id, models, variant, std_norm, gamma):
    found = load_strict_id(strict_id(variant).train())
    assert (found.config.base, found.config.std_norm, found.config.gamma) == ("demo", std_norm, gamma)
    found.config.check_encoder(vision_of(models).spec, "a picture")
    assert bool(found.network["controlnet_cond_embedding.conv_in.weight"][:, 3].any())


def test_it_may_begin_with_a_file_instead(strict_id):
    file = strict_id().train()
    begun, new = strict_id("no_balance", "begun", str(file)).module, strict_id("no_balance", "new").module
    trained = load_strict_id(file)
    for name, value in trained.network.items():
        assert torch.equal(begun.controlnet.state_dict()[name], value.float())
    assert any(not torch.equal(one, other) for one, other in zip(begun.parameters(), new.parameters(), strict=True))


def test_without_the_balance_it_goes_on_from_the_first_steps_of_a_balanced_training_in_one_command(
    models, weights, subjects, tmp_path, monkeypatch
):
    """Stopped in the second part and started again it ends with the same weights; the seeds are twice its own and the next."""
    monkeypatch.setattr(
        train_strict_id, "DEMO", train_strict_id.DEMO.replace(**SHORT | {"validate_every": 0}, balance_from=2)
    )
    monkeypatch.setattr(train_strict_id, "BEGUN", 2)
    monkeypatch.setattr(train_strict_id, "subject_scenes", lambda *_given: subjects)
    trainings = []

    class Stopping(DemoStrictIDTraining):
        def train(self, stop_at=None):
            trainings.append((self.folder.name, self.config.seed, self.config.std_norm, stop_at))
            return super().train(1 if len(trainings) == 2 else stop_at)

    def command(work):
        monkeypatch.setattr(
            train_strict_id, "prepare", lambda _given: Prepared(Accelerator(cpu=True), models, None, None, work)
        )
        given = ["--work", str(work), "--out", str(work), "--weights", str(weights), "--seed", "1"]
        train_strict_id.main([*given, "--variant", "no_balance"])
        return load_file(work / "strict_id_no_balance_seed1.safetensors")

    monkeypatch.setattr(train_strict_id, "DemoStrictIDTraining", Stopping)
    command(tmp_path / "stopped")
    stopped, straight = command(tmp_path / "stopped"), command(tmp_path / "straight")
    assert trainings == 3 * [
        ("strict_id_no_balance_seed1_begun", 2, True, 2),
        ("strict_id_no_balance_seed1", 3, False, None),
    ]
    assert straight.keys() == stopped.keys()
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)
    begun = load_strict_id(
        tmp_path / "straight" / "strict_id_no_balance_seed1_begun" / "checkpoints" / "strict_id_00000002.safetensors"
    )
    found = load_strict_id(tmp_path / "straight" / "strict_id_no_balance_seed1.safetensors")
    for file in (begun, found):  # the balance has not begun in the first, and the second has none
        assert (file.config.std_norm, file.config.gamma) == (False, None)
    assert any(not torch.equal(begun.network[name], found.network[name]) for name in begun.network)


def test_it_begins_as_the_depth_controlnet(weights, models, data):
    controlnet = stack.load_model("controlnet", weights)
    state = torch.get_rng_state()
    net = strict_id_from(controlnet, vision_of(models).spec, 0)
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(parameter.requires_grad for parameter in controlnet.parameters())
    depth, side = data.depths([0]), stack.LATENT_SIZE
    noisy, text = torch.randn(1, 4, side, side), torch.randn(1, 24, stack.CONTEXT_DIM)
    given = {"encoder_hidden_states": text, "added_cond_kwargs": stack.added_conditions(text[:, 0])}
    with torch.no_grad():
        theirs = controlnet(noisy, 300, controlnet_cond=depth, return_dict=False, **given)
        ours = net(noisy, torch.tensor([300]), torch.cat([depth, torch.rand(1, 1, 256, 256)], 1), **given)
    for one, other in zip([*theirs[0], theirs[1]], [*ours[0], ours[1]], strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_sample_of_strict_id_is_the_scene_s_companion(subjects, data):
    sample = subjects.sample(0, seeded(0, 0, "data"))
    first, after = companion_rows(data.scenes[0], stack.IMAGE_SIZE)
    companion = data.scenes[0].companion
    assert sample.subject == (float(first), float(after))
    expected = mannequin(companion.lean, companion.turn, 64).permute(2, 0, 1)
    torch.testing.assert_close(sample.pose.image, expected, atol=1 / 255, rtol=0)


def test_the_subject_s_mask_is_the_companion_as_far_as_it_is_seen(subjects, data):
    drawn = render(data.scenes[:SCENES], stack.IMAGE_SIZE).companion > 0.5
    for place, true in enumerate(drawn):
        own, mirrored = (subjects.sample(one, seeded(0, 0, "data")).subject_mask for one in (place, SCENES + place))
        assert own.shape == true.shape
        assert (own.bool() & true).sum() > 0.85 * (own.bool() | true).sum()
        assert torch.equal(own.flip(1), mirrored)
        assert not own[data.products([place])[0] == 1].any()


def test_a_caption_seldom_names_the_companion(subjects, data):
    """Where it does, nothing of it is to be learnt from its picture."""
    phrase = companion_phrase(data.scenes[0])
    captions = [subjects.sample(0, seeded(0, number, "data")).caption for number in range(300)]
    assert 0.15 < sum(phrase in caption for caption in captions) / len(captions) < 0.4


def test_a_mirrored_scene_comes_with_its_packshot_and_pose_mirrored(data, latents, subjects):
    packshots = drawn_packshots(data)
    triplets = TripletScenes(data, latents, packshots)
    assert len(triplets) == len(subjects) == 2 * SCENES
    for dataset in (triplets, subjects):
        own, mirrored = (dataset.sample(place, seeded(0, 0, "data")) for place in (1, SCENES + 1))
        assert torch.equal(own.image.flip(2), mirrored.image)
        assert torch.equal(own.product_mask.flip(1), mirrored.product_mask)
        for part in ("product", "pose", "subject"):
            one, other = getattr(own, part), getattr(mirrored, part)
            if part == "pose" and one is not None:
                assert (one.key, other.key) == ("mannequin 1", f"mannequin {SCENES + 1}")
                one, other = one.image, other.image
            assert one == other if not isinstance(one, torch.Tensor) else torch.equal(one.flip(2), other)
    assert triplets.sample(1, seeded(0, 0, "data")).product is not None
    assert subjects.sample(1, seeded(0, 0, "data")).pose is not None
