"""The neighbours' demo workflows, node by node in the host: what diffusers draws with the same files, pictures and words."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from itertools import pairwise
from types import SimpleNamespace

import comfy.sample
import comfy.samplers
import folder_paths
import nodes as host_nodes
import numpy as np
import pytest
import torch
from PIL import Image

from headless.ad.pictures import DEMO_INPUTS
from headless.ad.workflow import load_prompt, set_inputs, the_node
from headless.host.find import PACK_ROOT
from lab.demo import stack
from lab.diffusers.fusion import fused
from lab.diffusers.prompts import RegionalPrompt
from lab.diffusers.refadgen import RefAdGen, load_refadgen
from lab.diffusers.strict_id import controlled, load_into, save_strict_id_net, strict_id_from
from lab.diffusers.unet import image_prompts
from lab.diffusers.vision import ClipVisionEncoder
from lab.train.models import TrainingModels
from lab.train.noise import NoiseSchedule
from lab.train.refadgen_training import readings
from lab.train.strict_id_batches import whole
from lab.train.strict_id_inputs import last_tokens
from lab.train.visibility import on_latents, sight_of
from pfv_core.ad.opacity import SEEN_ABOVE
from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.attention.fusion import FusionControl
from pfv_core.research.control_branches import BranchInput, BranchInputs
from pfv_core.research.scale_map import scale_hint, scale_map, subject_height_by_size
from pfv_core.research.strict_id_file import StrictIDConfig
from pfv_demo import sizes
from pfv_mepa.nodes import extension
from pfv_mepa.tests.demo_weights import write_random_weights
from pfv_mepa.tests.host.sampling import outputs

TOLERANCE = 1e-4
FOLDERS = ("model_patches", "controlnet")
STEPS = 4
FRAME = (sizes.IMAGE_SIZE, sizes.IMAGE_SIZE, 1)  # what GetImageSize says, which tells the page too


@pytest.fixture(scope="module", params=["random", "shipped"])
def files(request, tmp_path_factory):
    """The demo's weights, and the neighbours' files for them."""
    if request.param == "shipped":
        return SimpleNamespace(weights=sizes.WEIGHTS, models=sizes.MODELS)
    weights = write_random_weights(tmp_path_factory.mktemp("weights"))
    return SimpleNamespace(weights=weights, models=write_random_models(tmp_path_factory.mktemp("models"), weights))


@torch.no_grad()
def write_random_models(folder, weights):
    """Both files, every weight moved as by a training."""
    generator = torch.Generator().manual_seed(5)
    refadgen = RefAdGen(stack.load_model("unet", weights))
    spec = ClipVisionEncoder(stack.load_model("vision_encoder", weights)).spec
    net = strict_id_from(stack.load_model("controlnet", weights), spec, 0)
    for parameter in (*refadgen.parameters(), *net.parameters()):
        scale = 0.2 if not parameter.any() else 0.3 * float(parameter.abs().mean())
        parameter += scale * torch.randn(parameter.shape, generator=generator)
    for parameter in net.controlnet.controlnet_cond_embedding.parameters():  # untrained it hardly lets a hint through
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    for name in FOLDERS:
        (folder / name).mkdir()
    refadgen.save(folder / "model_patches" / sizes.REFADGEN_FILE, "demo", torch.float16, {})
    config = StrictIDConfig("demo", net.branches.sizes, spec, True, 400.0)
    save_strict_id_net(folder / "controlnet" / sizes.STRICT_ID_FILE, net, config, torch.float16)
    return folder


@pytest.fixture(scope="module")
def theirs(files):
    """The demo's models in diffusers and transformers."""
    loaded = stack.load_stack(files.weights)
    vision = ClipVisionEncoder(loaded.vision_encoder)
    return SimpleNamespace(**vars(loaded), vision=vision, encode_text=lambda texts: encoded(loaded, texts))


def encoded(loaded, texts):
    return stack.encode_text(loaded.text_encoder, stack.tokenize(texts, loaded.tokenizer))


@pytest.fixture
def ours(files, host_base_directory, monkeypatch):
    """Function: a workflow -> a function that gives a node's outputs by its title; each node runs once."""
    shutil.copytree(DEMO_INPUTS, host_base_directory / "input", dirs_exist_ok=True)
    monkeypatch.setattr("pfv_mepa.nodes.demo.demo_nodes.WEIGHTS", files.weights)
    before = {name: list(folder_paths.get_folder_paths(name)) for name in FOLDERS}
    # These alone: where another test has listed the pack's own, the shipped file of this name would be loaded.
    for name in FOLDERS:
        folder_paths.folder_names_and_paths[name][0][:] = [str(files.models / name)]
    yield run
    for name, paths in before.items():
        folder_paths.folder_names_and_paths[name][0][:] = paths


def run(prompt):
    classes = host_nodes.NODE_CLASS_MAPPINGS | {node.GET_SCHEMA().node_id: node for node in extension.NODES}
    made = {}

    def of_node(node_id):
        node = prompt[node_id]
        if node["class_type"] == "GetImageSize":
            return FRAME
        if node_id not in made:
            given = {
                name: of_node(value[0])[value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            }
            made[node_id] = outputs(classes[node["class_type"]], **given)
        return made[node_id]

    titles = {node["_meta"]["title"]: node_id for node_id, node in prompt.items()}
    return lambda title: of_node(titles[title])


def shipped(name):
    prompt = load_prompt(PACK_ROOT / "workflows" / "api" / f"{name}.json")
    set_inputs(the_node(prompt, "KSampler"), steps=STEPS)
    return prompt


def picture(prompt, title):
    """(1, 3, H, W) and (1, H, W), 0..1: a picture that a workflow names, and how opaque it is."""
    with Image.open(DEMO_INPUTS / the_node(prompt, "LoadImage", title)["inputs"]["image"]) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGBA"), np.float32) / 255)
    return pixels[..., :3].permute(2, 0, 1)[None], pixels[None, ..., 3]


def drawn_by_diffusers(prompt, theirs, model):
    """The host's Euler steps, each prediction from diffusers' U-Net."""
    settings, sampling = the_node(prompt, "KSampler")["inputs"], model.model.model_sampling
    texts = [the_node(prompt, "CLIPTextEncode", title)["inputs"]["text"] for title in ("Negative prompt", "Prompt")]
    context, pooled = theirs.encode_text(texts)
    both = {"encoder_hidden_states": context, "added_cond_kwargs": stack.added_conditions(pooled)}
    noise = comfy.sample.prepare_noise(torch.zeros(1, 4, sizes.LATENT_SIZE, sizes.LATENT_SIZE), settings["seed"])
    sigmas = comfy.samplers.calculate_sigmas(sampling, settings["scheduler"], settings["steps"])
    x = sampling.noise_scaling(sigmas[:1], noise, torch.zeros_like(noise), True)
    for sigma, following in pairwise(sigmas):
        rows, at = torch.cat([x, x]), sigma.view(1)
        timestep = sampling.timestep(at).float().expand(2)
        predicted = theirs.unet(sampling.calculate_input(at, rows), timestep, **both).sample
        uncond, cond = sampling.calculate_denoised(at, predicted, rows).chunk(2)
        denoised = uncond + settings["cfg"] * (cond - uncond)
        x = denoised + (x - denoised) / sigma * following
    return x


def difference(one, other):
    assert one.shape == other.shape
    return float((one - other).norm() / other.norm())


def seeing(prompt, theirs, files):
    """Function: place, lambda -> diffusers' U-Net sees the packshot, as `lab.demo.train_refadgen` has it."""
    scheduler = stack.new_scheduler()
    models = TrainingModels(
        "demo", theirs.unet, theirs.vision, theirs.encode_text, theirs.autoencoder.encode, scheduler
    )
    photo, _ = picture(prompt, "Product photo")
    reading = readings(models, NoiseSchedule.of(scheduler), theirs.autoencoder.encode(photo), photo)
    module = load_refadgen(theirs.unet, files.models / "model_patches" / sizes.REFADGEN_FILE)

    def seen(place, scale=1.0):
        keys_values, share = module(*reading, on_latents(place))
        return fused(theirs.unet, keys_values, FusionControl(scale), share)

    return seen


def accompanied(prompt, theirs, files):
    """Hint, tokens of the pictures, and the function: hint, tokens -> diffusers' U-Net with the ControlNet, as
    `lab.demo.train_strict_id` has it."""
    net = strict_id_from(theirs.controlnet, theirs.vision.spec, 0)
    config = load_into(net, files.models / "controlnet" / sizes.STRICT_ID_FILE, theirs.vision.spec)
    net.eval().requires_grad_(False)
    asked, sight = the_node(prompt, "PFVScaleMap")["inputs"], sight_of(theirs.vision)
    (product, opacity), (pose, _), (company, seen) = (
        picture(prompt, title) for title in ("Product photo", "Pose", "Appearance")
    )
    mask = opacity > SEEN_ABOVE
    heights = subject_height_by_size(mask, asked["product_cm"], asked["subject_cm"])
    hint = scale_hint(product, mask, scale_map(mask, heights, asked["center"]))
    tokens = {
        "pose": last_tokens(theirs.vision, *whole(sight, pose[0])),
        "appearance": last_tokens(theirs.vision, *sight.seen(company, seen > 0.5)),
    }

    def with_hint(hint, negative=0.0, **tokens):
        """The negative, whose rows come first, has the hint without the pictures."""
        weight = torch.tensor([negative, 1.0])
        given = {name: BranchInput(torch.cat([part, part]), weight) for name, part in tokens.items()}
        inputs = BranchInputs(given.get("pose"), given.get("appearance"), config.std_norm, config.gamma)
        return controlled(theirs.unet, net, torch.cat([hint, hint]), inputs)

    return hint, tokens, with_hint


@torch.no_grad()
def test_refadgen_draws_what_diffusers_draws(files, theirs, ours):
    prompt = shipped("demo_refadgen")
    node = ours(prompt)
    (latents,), (decoded,) = node("Sampler"), node("VAE Decode")
    _, opacity = picture(prompt, "Place of the product")
    seen = seeing(prompt, theirs, files)

    def drawn(place, scale=1.0):
        with seen(place, scale):
            return drawn_by_diffusers(prompt, theirs, node("PFV Demo Models")[0])

    found = latents["samples"]
    expected = drawn(1 - opacity)  # what is transparent is painted
    assert difference(found, expected) < TOLERANCE
    assert difference(found, drawn(opacity)) > 10 * TOLERANCE
    assert difference(found, drawn(1 - opacity, scale=0.0)) > 10 * TOLERANCE
    assert difference(decoded, theirs.autoencoder.decode(expected).clamp(0, 1).movedim(1, -1)) < TOLERANCE


@torch.no_grad()
def test_strict_id_draws_what_diffusers_draws(files, theirs, ours):
    prompt = shipped("demo_strict_id")
    node = ours(prompt)
    (latents,) = node("Sampler")
    hint, tokens, with_hint = accompanied(prompt, theirs, files)

    def drawn(hint, **given):
        with with_hint(hint, **given):
            return drawn_by_diffusers(prompt, theirs, node("PFV Demo Models")[0])

    found = latents["samples"]
    others = (
        drawn(torch.cat([hint[:, :3], 1 - hint[:, 3:]], 1), **tokens),
        drawn(hint, negative=1.0, **tokens),
        drawn(hint, pose=tokens["pose"]),
        drawn(hint, appearance=tokens["appearance"]),
    )
    assert difference(found, drawn(hint, **tokens)) < TOLERANCE
    assert all(difference(found, other) > 10 * TOLERANCE for other in others)


def joined(*prompts):
    """One graph of several: the first one's sampler, its model patched by one after the other; the others' titles begin with
    their number."""
    nodes, model = {}, None
    for number, prompt in enumerate(prompts):
        before = f"{number}-" if number else ""
        for node_id, node in prompt.items():
            inputs = {
                name: [before + value[0], value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            }
            title = before + node["_meta"]["title"]
            nodes[before + node_id] = node | {"inputs": inputs, "_meta": {"title": title}}
        if number:
            patched = the_node(prompt, "KSampler")["inputs"]["model"][0]
            model, begun = [before + patched, 0], model
            while prompt[prompt[patched]["inputs"]["model"][0]]["class_type"] != "PFVDemoModels":
                patched = prompt[patched]["inputs"]["model"][0]
            if begun is not None:
                nodes[before + patched]["inputs"]["model"] = begun
    sampler = next(name for name, node in prompts[0].items() if node["class_type"] == "KSampler")
    nodes[sampler]["inputs"]["model"] = model
    return nodes


@torch.no_grad()
def test_all_three_in_one_graph_draw_what_diffusers_draws(files, theirs, ours):
    """RefAdGen's model, then MEPA's image prompt in it, and Strictly-ID's ControlNet beside them."""
    with_companion, with_product, with_scene = map(shipped, ("demo_strict_id", "demo_refadgen", "demo_minimal"))
    node = ours(joined(with_companion, with_product, with_scene))
    (latents,), (image_prompt,) = node("Sampler"), node("2-Image prompt")
    _, opacity = picture(with_product, "Place of the product")
    seen, (hint, tokens, with_hint) = (
        seeing(with_product, theirs, files),
        accompanied(with_companion, theirs, files),
    )
    adapter = load_adapter(files.weights / "adapter.safetensors").float()
    prompt = RegionalPrompt(adapter.keys_values(torch.cat([image_prompt.negative, image_prompt.positive])))

    def drawn(*systems):
        with ExitStack() as together:
            for system in systems:
                together.enter_context(system)
            return drawn_by_diffusers(with_companion, theirs, node("PFV Demo Models")[0])

    def mepa():
        return image_prompts(theirs.unet, [prompt], (sizes.LATENT_SIZE, sizes.LATENT_SIZE))

    found = latents["samples"]
    assert difference(found, drawn(seen(1 - opacity), with_hint(hint, **tokens), mepa())) < TOLERANCE
    for two in (
        (with_hint(hint, **tokens), mepa()),
        (seen(1 - opacity), mepa()),
        (seen(1 - opacity), with_hint(hint, **tokens)),
    ):
        assert difference(found, drawn(*two)) > 10 * TOLERANCE
