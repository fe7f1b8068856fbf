"""Both engines with an image prompt: the demo's U-Net in diffusers and in the host, same weights, same adapter file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lab.demo import stack
from lab.diffusers.prompts import RegionalPrompt
from lab.diffusers.unet import image_prompts
from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.attention.balance import time_weight
from pfv_core.attention.control import Gate, PromptControl
from pfv_core.attention.curve import sampling_curve
from pfv_core.attention.layer_weights import LayerWeights
from pfv_core.attention.weights import PromptWeights
from pfv_demo import sizes
from pfv_mepa.nodes.host import demo as host_demo
from pfv_mepa.nodes.host.adapter import HostAdapter, ImagePrompt
from pfv_mepa.nodes.mepa.weights_nodes import MEPAWeights
from pfv_mepa.tests.demo_weights import write_random_weights
from pfv_mepa.tests.host.sampling import apply, options_of_a_call

TOLERANCE = 1e-4
BATCH = 2
COND, UNCOND = 0, 1


@pytest.fixture(scope="module", params=["random", "shipped"])
def weights(request, tmp_path_factory) -> Path:
    if request.param == "shipped":
        return sizes.WEIGHTS
    return write_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def adapter_file(weights) -> Path:
    return weights / sizes.ADAPTER_FILE


@pytest.fixture(scope="module")
def engines(weights, adapter_file):
    unet = stack.new_unet()
    stack.load_weights(unet, weights / "unet.safetensors")
    return SimpleNamespace(
        unet=unet.eval().requires_grad_(False),
        adapter=load_adapter(adapter_file).float(),
        model=host_demo.demo_model(weights),
        host_adapter=HostAdapter.load(adapter_file),
    )


def inputs(rows: int, columns: int) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return SimpleNamespace(
        latents=random(BATCH, 4, rows, columns),
        timestep=torch.tensor([999.0, 400.0]),
        text=random(BATCH, 24, sizes.CONTEXT_DIM),
        pooled=random(BATCH, sizes.CONTEXT_DIM),
        positive=random(BATCH, 8, sizes.CONTEXT_DIM),
        negative=random(1, 8, sizes.CONTEXT_DIM),
    )


def corner(rows: int, columns: int, softness: float = 0.0) -> torch.Tensor:
    """Symmetric in no way: 1 in a box at the top left that is wider than high, `softness` below it."""
    region = torch.zeros(1, 8 * rows, 8 * columns)
    region[:, 5 * rows :] = softness
    region[:, : 3 * rows + 3, : 5 * columns + 1] = 1
    return region


def of_diffusers(engines, given, prompts):
    conditions = {"encoder_hidden_states": given.text, "added_cond_kwargs": stack.added_conditions(given.pooled)}
    with image_prompts(engines.unet, prompts, tuple(given.latents.shape[2:])):
        return engines.unet(given.latents, given.timestep, **conditions).sample


def of_host(model, given, chunks=(COND,), sigma=1.0):
    y = model.model.encode_adm(
        pooled_output=given.pooled, width=sizes.IMAGE_SIZE, height=sizes.IMAGE_SIZE, device="cpu"
    )
    options = options_of_a_call(model, given.latents, tuple(chunk == UNCOND for chunk in chunks), sigma)
    return model.model.diffusion_model(
        given.latents, given.timestep, context=given.text, y=y, transformer_options=options
    )


def host_prompt(engines, given):
    return ImagePrompt(engines.host_adapter, given.positive, given.negative)


def difference(one, other):
    assert one.shape == other.shape
    return float((one - other).norm() / other.norm())


@torch.no_grad()
@pytest.mark.parametrize("gate", [gate.value for gate in Gate])
@pytest.mark.parametrize("text_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("place", ["everywhere", "hard", "soft"])
def test_same_prediction(engines, gate, text_share, place):
    rows, columns = 16, 16
    given = inputs(rows, columns)
    region = {"everywhere": None, "hard": corner(rows, columns), "soft": corner(rows, columns, 0.3)}[place]
    keys_values = engines.adapter.keys_values(given.positive)
    theirs = of_diffusers(engines, given, [RegionalPrompt(keys_values, PromptControl(0.9, text_share, gate), region)])
    options = {"strength": 0.9, "text_share": text_share, "gate": gate, "region": region}
    ours = of_host(apply(engines.model, host_prompt(engines, given), **options), given)
    assert difference(ours, theirs) < TOLERANCE
    plain = of_diffusers(engines, given, [])
    assert difference(of_host(engines.model, given), plain) < TOLERANCE
    assert difference(theirs, plain) > 100 * TOLERANCE  # the adapter does something


@torch.no_grad()
@pytest.mark.parametrize("size", [(10, 15), (13, 9)])
def test_same_prediction_on_frames_that_do_not_halve(engines, size):
    given = inputs(*size)
    region = corner(*size, softness=0.3)
    prompt = RegionalPrompt(engines.adapter.keys_values(given.positive), PromptControl(1.0, 0.0), region)
    ours = of_host(apply(engines.model, host_prompt(engines, given), text_share=0.0, region=region), given)
    assert difference(ours, of_diffusers(engines, given, [prompt])) < TOLERANCE


@torch.no_grad()
def test_same_prediction_of_two_prompts_with_regions_of_their_own(engines):
    """One prompt of each gate; the second's region differs between the two images."""
    given = inputs(16, 16)
    first = corner(16, 16)
    second = torch.cat([first.flip(2), 0.6 * first.flip(1)])
    keys_values = [engines.adapter.keys_values(tokens) for tokens in (given.positive, given.negative)]
    prompts = [
        RegionalPrompt(keys_values[0], PromptControl(1.0, 0.2), first),
        RegionalPrompt(keys_values[1], PromptControl(0.7, 0.0, Gate.QUERY), second),
    ]
    model = apply(engines.model, host_prompt(engines, given), text_share=0.2, region=first)
    other = ImagePrompt(engines.host_adapter, given.negative, given.negative)
    model = apply(model, other, strength=0.7, text_share=0.0, gate="query", region=second)
    assert difference(of_host(model, given), of_diffusers(engines, given, prompts)) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("gate", [gate.value for gate in Gate])
def test_same_prediction_in_both_halves_of_guidance(engines, gate):
    """The uncond half gets the negative prompt in both."""
    given = inputs(16, 16)
    region = corner(16, 16)
    tokens = torch.cat([given.negative, given.positive[:1]])
    prompt = RegionalPrompt(engines.adapter.keys_values(tokens), PromptControl(1.0, 0.0, gate), region)
    theirs = of_diffusers(engines, given, [prompt])
    prompt = ImagePrompt(engines.host_adapter, given.positive[:1], given.negative)
    model = apply(engines.model, prompt, text_share=0.0, gate=gate, region=region)
    assert difference(of_host(model, given, (UNCOND, COND)), theirs) < TOLERANCE
    assert difference(of_host(model, given, (COND, UNCOND)), theirs) > 10 * TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("gate", [gate.value for gate in Gate])
@pytest.mark.parametrize("text_share", [0.0, 1.0])
@pytest.mark.parametrize(("std_norm", "gamma"), [(True, None), (False, 400.0), (True, 400.0)])
def test_same_prediction_of_a_balanced_prompt(engines, gate, text_share, std_norm, gamma):
    """Beside one that is not balanced, at timesteps where the time weight is 0, between, and 1."""
    given, region = inputs(16, 16), corner(16, 16, 0.3)
    keys_values = [engines.adapter.keys_values(tokens) for tokens in (given.positive, given.negative)]
    prompts = [
        RegionalPrompt(keys_values[0], PromptControl(0.9, text_share, gate, std_norm, gamma), region),
        RegionalPrompt(keys_values[1], PromptControl(0.5)),
    ]
    options = {"strength": 0.9, "text_share": text_share, "gate": gate, "region": region, "std_norm": std_norm}
    if gamma is not None:
        options |= {"time_weighting": True, "gamma": int(gamma)}
    model = apply(engines.model, host_prompt(engines, given), **options)
    model = apply(model, ImagePrompt(engines.host_adapter, given.negative, given.negative), strength=0.5)
    sampling = model.get_model_object("model_sampling")
    for timestep in (900.0, 600.0, 300.0):
        given.timestep = torch.full((BATCH,), timestep)
        theirs = of_diffusers(engines, given, prompts)
        ours = of_host(model, given, sigma=float(sampling.sigma(torch.tensor(timestep))))
        assert difference(ours, theirs) < TOLERANCE
        unbalanced = of_diffusers(
            engines, given, [RegionalPrompt(keys_values[0], PromptControl(0.9, text_share, gate), region), prompts[1]]
        )
        acts = std_norm or time_weight(timestep, gamma) != 1.0
        assert (difference(theirs, unbalanced) > 10 * TOLERANCE) == acts


@torch.no_grad()
@pytest.mark.parametrize("text_share", [0.0, 1.0])
@pytest.mark.parametrize(
    ("layers", "curve"), [("input: 0.5, output 1.1: 0, middle: 1.5", "0: 1"), ("all: 1", "0: 0, 0.5: 1.2, 1: 0.3")]
)
def test_same_prediction_of_a_weighted_prompt(engines, text_share, layers, curve):
    """By layer and over the sampling, in a region that is soft somewhere; the host reads a noise level, diffusers a timestep."""
    given, region = inputs(16, 16), corner(16, 16, 0.3)
    weights = PromptWeights(LayerWeights.of("custom", layers), sampling_curve("custom", curve))
    control = PromptControl(0.9, text_share)
    keys_values = engines.adapter.keys_values(given.positive)
    prompt = RegionalPrompt(keys_values, control, region, weights)
    options = {"strength": 0.9, "text_share": text_share, "region": region, "weights": host_weights(layers, curve)}
    model = apply(engines.model, host_prompt(engines, given), **options)
    sampling = model.get_model_object("model_sampling")
    for timestep in (999.0, 700.0, 300.0):
        given.timestep = torch.full((BATCH,), timestep)
        theirs = of_diffusers(engines, given, [prompt])
        ours = of_host(model, given, sigma=float(sampling.sigma(torch.tensor(timestep))))
        assert difference(ours, theirs) < TOLERANCE
        assert (
            difference(theirs, of_diffusers(engines, given, [RegionalPrompt(keys_values, control, region)]))
            > 10 * TOLERANCE
        )


def host_weights(layers, curve):
    return MEPAWeights.execute("custom", layers, "custom", curve).args[0]


@torch.no_grad()
def test_an_inverted_region_is_seen(engines):
    given = inputs(16, 16)
    region = corner(16, 16)
    prompt = RegionalPrompt(engines.adapter.keys_values(given.positive), region=region)
    for other in (1 - region, region.flip(2), region.mT):
        ours = of_host(apply(engines.model, host_prompt(engines, given), region=other), given)
        assert difference(ours, of_diffusers(engines, given, [prompt])) > 10 * TOLERANCE
