"""RefAdGen's trained file in the real host: what diffusers computes with it, what it leaves alone, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import comfy.model_detection
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from lab.demo import stack
from lab.diffusers.fusion import fused, self_attentions
from lab.diffusers.refadgen import RefAdGen
from lab.train.models import TrainingModels
from lab.train.noise import NoiseSchedule
from lab.train.refadgen_training import readings
from pfv_core.attention.fusion import FusionControl
from pfv_demo import sizes
from pfv_mepa.nodes.host import demo as host_demo
from pfv_mepa.nodes.host.unet import self_attention_names
from pfv_mepa.nodes.research.fusion_nodes import RefAdGenAttentionFusion, RefAdGenLoad, RefAdGenMaskInput
from pfv_mepa.pfv_core.attention.query_mask import query_mask
from pfv_mepa.tests.host.sampling import outputs, right_half, sample
from pfv_mepa.tests.host.test_fusion import product
from pfv_mepa.tests.support.tiny_stack import models

STEPS, CFG, SEED = 2, 4.0, 1
HEIGHT, WIDTH = 72, 56
LAYOUTS = {  # of the released U-Nets, at the tiny models' widths
    "sd15": {
        "block_out_channels": (32, 64, 128, 128),
        "attention_head_dim": 8,
        "cross_attention_dim": models.CONTEXT_DIM,
    },
    "sdxl": {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (2, 4, 8),
        "cross_attention_dim": models.CONTEXT_DIM,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": models.POOLED_DIM + models.SIZE_EMBEDDING_DIM,
    },
}


class Trained:
    """A base in both engines, and what RefAdGen trained beside it."""

    def __init__(self, base, folder):
        self.base = base
        if base == "demo":
            self.unet, self.model = stack.new_unet(), host_demo.demo_model(sizes.WEIGHTS)
            stack.load_weights(self.unet, sizes.WEIGHTS / "unet.safetensors")
        else:
            self.unet = models.randomize(UNet2DConditionModel(**LAYOUTS[base]), seed=0)
            self.model = models.tiny_model(base)
            names = comfy.utils.unet_to_diffusers(self.model.model.model_config.unet_config)
            renamed = {names[name]: value for name, value in self.unet.state_dict().items()}
            self.model.model.diffusion_model.load_state_dict(renamed)
        self.unet.eval().requires_grad_(False)
        self.module = RefAdGen(self.unet)
        self.fresh, self.file = folder / f"{base}_fresh.safetensors", folder / f"{base}_trained.safetensors"
        self.module.save(self.fresh, base, torch.float32, {})
        changed(self.module).save(self.file, base, torch.float32, {})

    def training_models(self):
        """The U-Net and its noise as a training has them, with the prompt of the reference pass as the empty one."""
        ((context, extra),) = conditioning(self, 8)
        pooled = extra.get("pooled_output", torch.zeros(1, 0))
        settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
        scheduler = stack.new_scheduler() if self.base == "demo" else DDIMScheduler(**settings)
        models = TrainingModels(self.base, self.unet, None, lambda _: (context, pooled), lambda _: None, scheduler)
        return models, NoiseSchedule.of(scheduler)


@torch.no_grad()
def changed(module):
    """As a training leaves it: every weight has moved."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        scale = 0.2 if parameter is module.mask_kernel else 0.3 * float(parameter.abs().mean())
        parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.fixture(scope="module")
def folder(host_base_directory):
    folder = host_base_directory / "models" / "model_patches"
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    yield folder
    for file in set(folder.iterdir()) - before:
        file.unlink()


@pytest.fixture(scope="module")
def sd15(folder):
    return Trained("sd15", folder)


@pytest.fixture(scope="module", params=["sd15", "sdxl", "demo"])
def trained(request, folder):
    return request.getfixturevalue("sd15") if request.param == "sd15" else Trained(request.param, folder)


def conditioning(trained, seed):
    return models.tiny_conditioning(trained.model, seed=seed)


def load(model, file):
    (reference_model,) = outputs(RefAdGenLoad, model=model, refadgen_name=file.name)
    return reference_model


def with_product(trained, reference_model=None, **options):
    """RefAdGen Attention Fusion with its defaults."""
    defaults = {
        "reference_latent": product(),
        "reference_prompt": conditioning(trained, 8),
        "strength": 1.0,
        "combine": "as_trained",
        "reference_noise": "clean",
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    given = {"model": trained.model, **defaults, "reference_model": reference_model, **options}
    (patched,) = outputs(RefAdGenAttentionFusion, **given)
    return patched


def with_mask(model, file, mask):
    (patched,) = outputs(RefAdGenMaskInput, model=model, mask_input_name=file.name, product_mask=mask)
    return patched


def mask_of_the_product():
    mask = right_half(HEIGHT, WIDTH)
    mask[:, : HEIGHT // 3] *= 0.4
    return mask


def drawn(trained, model):
    return sample(
        model,
        conditioning(trained, 6),
        conditioning(trained, 7),
        height=HEIGHT,
        width=WIDTH,
        steps=STEPS,
        cfg=CFG,
        seed=SEED,
    )


def conditions(trained, prompts, height, width):
    """A diffusers U-Net's keyword arguments, as the host makes them of conditionings."""
    given = {"encoder_hidden_states": torch.cat([context for ((context, _),) in prompts])}
    if trained.base != "sd15":
        pooled = torch.cat([extra["pooled_output"] for ((_, extra),) in prompts])
        sizes_of_all = torch.tensor([[height, width, 0, 0, height, width]] * len(prompts), dtype=torch.float32)
        given["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes_of_all}
    return given


@torch.no_grad()
def drawn_by_diffusers(trained, scale=1.0, mask=None):
    """The host's Euler steps, each prediction from diffusers' U-Net with what the training's own module reads, as it reads it."""
    sampling, formats = trained.model.model.model_sampling, trained.model.model.latent_format
    latent_mask = None
    if mask is not None:
        size = (HEIGHT // 8, WIDTH // 8)
        latent_mask = query_mask(mask, size, size).view(1, *size)
    seen = formats.process_in(product()["samples"])
    picture = torch.zeros(1, 3, *(8 * side for side in seen.shape[2:]))
    keys_values, share = trained.module(*readings(*trained.training_models(), seen, picture), latent_mask)
    noise = comfy.sample.prepare_noise(torch.zeros(1, 4, HEIGHT // 8, WIDTH // 8), SEED)
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
    x = sampling.noise_scaling(sigmas[:1], noise, torch.zeros_like(noise), True)
    both = conditions(trained, [conditioning(trained, 7), conditioning(trained, 6)], HEIGHT, WIDTH)
    with fused(trained.unet, keys_values, FusionControl(scale), share):
        for sigma, following in pairwise(sigmas):
            rows, at = torch.cat([x, x]), sigma.view(1)
            timestep = sampling.timestep(at).float().expand(2)
            predicted = trained.unet(sampling.calculate_input(at, rows), timestep, **both).sample
            uncond, cond = sampling.calculate_denoised(at, predicted, rows).chunk(2)
            denoised = uncond + CFG * (cond - uncond)
            x = denoised + (x - denoised) / sigma * following
    return formats.process_out(x)


def difference(one, other):
    assert one.shape == other.shape
    return float((one - other).norm() / other.norm())


def test_the_host_draws_what_diffusers_draws(trained):
    """Product, mask, both halves of guidance and every self-attention, in the layouts of SD1.5, SDXL and the demo."""
    mask = mask_of_the_product()
    model = with_mask(with_product(trained, load(trained.model, trained.file)), trained.file, mask)
    ours = drawn(trained, model)
    assert difference(ours, drawn_by_diffusers(trained, mask=mask)) < 1e-3
    assert difference(ours, drawn_by_diffusers(trained, mask=1 - mask)) > 1e-2
    assert difference(ours, drawn_by_diffusers(trained, scale=0.0, mask=mask)) > 1e-2
    assert difference(ours, drawn_by_diffusers(trained)) > 1e-2


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_a_files_keys_are_those_of_the_released_models(base):
    """At their full widths, without numbers: what the host itself takes a U-Net of diffusers' names for has the same weights."""
    wide = {"cross_attention_dim": {"sd15": 768, "sdxl": 2048}[base]}
    wide["block_out_channels"] = tuple(10 * width for width in LAYOUTS[base]["block_out_channels"])
    if base == "sdxl":
        wide |= {"attention_head_dim": (5, 10, 20), "projection_class_embeddings_input_dim": 2816}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**LAYOUTS[base] | wide)
    config = comfy.model_detection.model_config_from_diffusers_unet(unet.state_dict())
    config.set_inference_dtype(torch.float16, None)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    there = {names[name]: value.shape for name, value in unet.state_dict().items()}
    module = config.get_model({}, "", device=torch.device("meta")).diffusion_model
    assert there == {name: value.shape for name, value in module.state_dict().items()}
    attentions = {names[f"{name}.to_k.weight"].removesuffix(".to_k.weight") for name in self_attentions(unet)}
    assert attentions == self_attention_names(module).keys()


def test_the_reference_unets_weights_come_from_the_file(sd15):
    own = drawn(sd15, with_product(sd15, combine="add"))
    fresh = drawn(sd15, with_product(sd15, load(sd15.model, sd15.fresh)))
    learned = drawn(sd15, with_product(sd15, load(sd15.model, sd15.file)))
    assert difference(fresh, own) < 1e-5  # where training starts the model reads the product itself
    assert difference(learned, own) > 1e-2


def test_strength_0_is_the_base_to_the_bit(sd15):
    model = with_product(sd15, load(sd15.model, sd15.file), strength=0.0)
    assert (drawn(sd15, model) - drawn(sd15, sd15.model)).abs().max() == 0.0


def test_an_untrained_mask_channel_changes_no_bit(sd15):
    model = with_mask(sd15.model, sd15.fresh, mask_of_the_product())
    assert (drawn(sd15, model) - drawn(sd15, sd15.model)).abs().max() == 0.0


def test_it_joins_as_it_was_trained_for(sd15):
    """add with a trained file, blend without one, and by hand either."""
    loaded = load(sd15.model, sd15.file)
    by_default, added, blended = (
        drawn(sd15, with_product(sd15, loaded, combine=how)) for how in ("as_trained", "add", "blend")
    )
    assert torch.equal(by_default, added)
    assert not torch.equal(by_default, blended)
    untrained = [drawn(sd15, with_product(sd15, combine=how)) for how in ("as_trained", "blend")]
    assert torch.equal(*untrained)


def test_the_base_stays_as_it_was(sd15):
    before = drawn(sd15, sd15.model)
    patched = with_product(sd15, load(sd15.model, sd15.file), reference_noise="step")
    assert not torch.equal(drawn(sd15, patched), before)
    del patched
    assert (drawn(sd15, sd15.model) - before).abs().max() == 0.0


def test_the_host_counts_the_projections(sd15):
    """They lie in the reference model, which the host loads beside the one that generates."""
    loaded = load(sd15.model, sd15.file)
    projections = 2 * sum(sd15.unet.get_submodule(name).to_k.weight.nbytes for name in sd15.module.names)
    assert loaded.model_size() - sd15.model.model_size() == projections


def test_half_precision_files(sd15, folder):
    sd15.module.save(folder / "half.safetensors", "sd15", torch.float16, {})
    half, whole = (
        drawn(sd15, with_product(sd15, load(sd15.model, file))) for file in (folder / "half.safetensors", sd15.file)
    )
    assert difference(half, whole) < 2e-2


def rewritten(folder, file, change, **metadata):
    """A copy of a file with its tensors or metadata changed."""
    tensors = load_file(file)
    change(tensors)
    about = {"base": "sd15", "context_dim": str(models.CONTEXT_DIM), "combine": "add", **metadata}
    path = folder / "changed.safetensors"
    save_file(tensors, path, {name: value for name, value in about.items() if value})
    return path


FIRST = "reference.down_blocks.0.resnets.0.conv1.weight"
PROJECTION = "fusion.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight"


def without(prefix):
    return lambda tensors: [tensors.pop(key) for key in list(tensors) if key.startswith(prefix)]


def also(name, *shape):
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (
            without("nothing"),
            {"context_dim": "2048", "base": "sdxl"},
            "is for sdxl with a text context of 2048 channels, the model's has 64",
        ),
        (without(FIRST), {}, r"of its reference\.\* weights 1 are missing, .*: missing in the file, .* in the model"),
        (
            also(FIRST, 32, 16, 3, 3),
            {},
            r"input_blocks\.1\.0\.in_layers\.2\.weight: \(32, 16, 3, 3\) in the file, \(32, 32, 3, 3\) in the model",
        ),
        (without(PROJECTION), {}, r"of its fusion\.\* weights 1 are missing"),
        (also("fusion.more.weight", 2, 2), {}, r"more\.weight: \(2, 2\) in the file, missing in the model"),
        (
            without("nothing"),
            {"combine": "mix"},
            r"does not say what it was trained for: .*'combine': 'mix'.*\['add', 'blend'\]",
        ),
        (without("nothing"), {"combine": ""}, r"does not say what it was trained for: .*'combine': None"),
        (without("fusion."), {}, "does not hold the fusion's projections"),
        (without("reference."), {}, r"does not hold a reference U-Net \(its first keys: fusion"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_any_sampling(sd15, folder, change, metadata, message):
    with pytest.raises(ValueError, match=message):
        load(sd15.model, rewritten(folder, sd15.file, change, **metadata))


def test_a_model_of_another_family_is_refused(sd15, folder, tiny_model):
    loaded = load(sd15.model, sd15.file)
    with pytest.raises(ValueError, match="reference_model has 16 self-attentions, model has 70"):
        with_product(sd15, loaded, model=tiny_model)
    with pytest.raises(
        ValueError, match=r"of its reference\.\* weights \d+ are missing, unexpected or of another size"
    ):
        load(tiny_model, sd15.file)
    path = rewritten(folder, sd15.file, lambda t: t.update({"mask_input.weight": torch.zeros(16, 1, 3, 3)}))
    with pytest.raises(ValueError, match=r"first convolution is \(16, 4, 3, 3\), the model's is \(32, 4, 3, 3\)"):
        with_mask(sd15.model, path, mask_of_the_product())


def test_a_mask_input_of_sdxl_is_refused_on_a_distilled_model(folder):
    """Its first convolution and text context are the same."""
    trained = Trained("sdxl", folder)
    with pytest.raises(ValueError, match="a reference U-Net of 70 self-attentions, the model has 34"):
        with_mask(models.tiny_model("ssd1b"), trained.file, mask_of_the_product())


def test_files_that_are_none(sd15, folder):
    (folder / "cut.safetensors").write_bytes(sd15.file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.safetensors is no whole safetensors file"):
        load(sd15.model, folder / "cut.safetensors")
