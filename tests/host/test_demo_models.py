"""The demo's models in the host's classes compute what diffusers and transformers compute from the same files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import nodes as host_nodes
import pytest
import torch

from lab.demo import stack
from pfv_demo import sizes
from pfv_mepa.nodes.demo.demo_nodes import PFVDemoModels
from pfv_mepa.nodes.host import demo as host_demo
from pfv_mepa.nodes.mepa.apply_nodes import MEPAApply, PFVTokenCompress
from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from pfv_mepa.tests.demo_weights import write_random_weights
from pfv_mepa.tests.host.sampling import outputs, painted, reference

TOLERANCE = 1e-4
WIDE = (12, 20)  # latents: neither square nor of the training's size
CAPTION = "a red bottle on a wooden table, blue wall with dots"


@pytest.fixture(scope="module", params=["random", "shipped"])
def weights(request, tmp_path_factory) -> Path:
    if request.param == "shipped":
        return sizes.WEIGHTS
    return write_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def theirs(weights) -> stack.DemoStack:
    return stack.load_stack(weights)


@pytest.fixture(scope="module")
def ours(weights):
    """Function: name of a model -> the host's, loaded once."""
    return cache(lambda name: getattr(host_demo, f"demo_{name}")(weights))


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return SimpleNamespace(
        latents=random(2, 4, *WIDE),
        timestep=torch.tensor([999.0, 400.0]),
        text=random(2, 24, sizes.CONTEXT_DIM),
        pooled=random(2, sizes.CONTEXT_DIM),
        depth=random(2, 3, 8 * WIDE[0], 8 * WIDE[1]).sigmoid(),
    )


def assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.shape == other.shape
    assert (one - other).norm() / other.norm() < TOLERANCE


def of_diffusers(theirs, inputs, depth_strength=0.0):
    conditions = {"encoder_hidden_states": inputs.text, "added_cond_kwargs": stack.added_conditions(inputs.pooled)}
    residuals = {}
    if depth_strength:
        down, middle = theirs.controlnet(
            inputs.latents,
            inputs.timestep,
            controlnet_cond=inputs.depth,
            conditioning_scale=depth_strength,
            return_dict=False,
            **conditions,
        )
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    return theirs.unet(inputs.latents, inputs.timestep, **conditions, **residuals).sample


def of_host(model, inputs, control=None):
    """The host's own conditioning for a square image of the demo's size, and its U-Net; `encode_adm` embeds the sizes."""
    y = model.model.encode_adm(
        pooled_output=inputs.pooled, width=sizes.IMAGE_SIZE, height=sizes.IMAGE_SIZE, device="cpu"
    )
    residuals = None
    if control is not None:
        net = control.control_model
        found = net(x=inputs.latents, hint=inputs.depth, timesteps=inputs.timestep, context=inputs.text, y=y)
        residuals = control.control_merge(found, None, None)
    return model.model.diffusion_model(
        inputs.latents, inputs.timestep, context=inputs.text, y=y, control=residuals, transformer_options={}
    )


@torch.no_grad()
def test_unet(theirs, ours, inputs):
    assert_close(of_host(ours("model"), inputs), of_diffusers(theirs, inputs))


@torch.no_grad()
def test_controlnet(theirs, ours, inputs):
    control = ours("controlnet").copy()
    control.strength = 0.7
    both = of_host(ours("model"), inputs, control)
    assert_close(both, of_diffusers(theirs, inputs, depth_strength=0.7))
    alone = of_host(ours("model"), inputs)
    assert (both - alone).norm() / alone.norm() > 100 * TOLERANCE  # it does something


@torch.no_grad()
def test_autoencoder(theirs, ours):
    image = reference(height=72, width=96, batch=2)
    latents = ours("vae").encode(image)
    expected = theirs.autoencoder.encode(image.movedim(-1, 1))
    assert_close(latents, expected)
    assert_close(ours("vae").decode(expected), theirs.autoencoder.decode(expected).clamp(0, 1).movedim(1, -1))


@torch.no_grad()
@pytest.mark.parametrize("prompt", [CAPTION, "", "photo of a zebra"])
def test_text(theirs, ours, prompt):
    (conditioning,) = host_nodes.CLIPTextEncode().encode(ours("clip"), prompt)
    context, extras = conditioning[0]
    ids = stack.tokenize([prompt], theirs.tokenizer)
    expected, pooled = stack.encode_text(theirs.text_encoder, ids)
    assert_close(context, expected)
    assert_close(extras["pooled_output"], pooled)


def test_a_prompt_longer_than_the_positions_goes_into_sections(ours):
    (conditioning,) = host_nodes.CLIPTextEncode().encode(ours("clip"), f"{CAPTION}, {CAPTION}")
    assert conditioning[0][0].shape == (1, 48, sizes.CONTEXT_DIM)


@torch.no_grad()
def test_vision(theirs, ours):
    pixels = stack.pixel_values(reference(height=sizes.IMAGE_SIZE, width=sizes.IMAGE_SIZE).movedim(-1, 1))
    _, penultimate, embeds, _ = ours("clip_vision").model(pixel_values=pixels, intermediate_output=-2)
    expected = theirs.vision_encoder(pixels, output_hidden_states=True)
    assert_close(penultimate, expected.hidden_states[-2])
    assert_close(embeds, expected.image_embeds)
    assert ours("clip_vision").image_mean == list(sizes.CLIP_MEAN)


def test_noise_schedule(ours):
    """Level by level that of diffusers' scheduler, but for the last, whose signal the host keeps above 0."""
    expected = stack.new_scheduler().alphas_cumprod
    alphas = 1 / (1 + ours("model").model.model_sampling.sigmas ** 2)
    torch.testing.assert_close(alphas[:-1], expected[:-1], rtol=1e-3, atol=1e-7)
    assert expected[-1] == 0
    assert alphas[-1] < 1e-7


@torch.no_grad()
@pytest.mark.parametrize("timestep", [999, 949, 49])
def test_prediction(theirs, ours, inputs, timestep):
    """What the host makes of the U-Net's answer is diffusers' predicted image, at the very first step too."""
    model = ours("model").model
    alpha = stack.new_scheduler().alphas_cumprod[timestep]
    sigma = model.model_sampling.sigmas[timestep].expand(2)
    level = SimpleNamespace(**{**vars(inputs), "timestep": torch.tensor(float(timestep))})
    expected = alpha.sqrt() * level.latents - (1 - alpha).sqrt() * of_diffusers(theirs, level)
    y = model.encode_adm(pooled_output=inputs.pooled, width=sizes.IMAGE_SIZE, height=sizes.IMAGE_SIZE, device="cpu")
    scaled = inputs.latents * (1 + sigma[0] ** 2).sqrt()
    found = model.apply_model(scaled, sigma, c_crossattn=inputs.text, y=y)
    assert (found - expected).norm() / expected.norm() < 1e-3  # the host's schedule ends a little before pure noise


def test_a_lora_reaches_the_model_and_the_text(ours):
    rank, width = 2, 128
    generator = torch.Generator().manual_seed(0)
    names = ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_q",)
    names += ("lora_te_text_model_encoder_layers_0_self_attn_q_proj",)
    lora = {}
    for name in names:
        lora[f"{name}.lora_down.weight"] = torch.randn(rank, width, generator=generator)
        lora[f"{name}.lora_up.weight"] = torch.randn(width, rank, generator=generator)
    model, clip = host_demo.comfy.sd.load_lora_for_models(ours("model"), ours("clip"), lora, 1.0, 1.0)
    assert [len(patcher.patches) for patcher in (model, clip.patcher)] == [1, 1]


def test_the_whole_chain(ours):
    """Every kind of node around the models: reference, adapter, depth, text, sampler, VAE; hidden pixels change nothing."""
    ad, other, visible = (chain(ours, change) for change in ("none", "hidden", "visible"))
    assert ad.shape == (1, sizes.IMAGE_SIZE, sizes.IMAGE_SIZE, 3)
    assert torch.isfinite(ad).all()
    assert torch.equal(ad, other)
    assert not torch.equal(ad, visible)


def chain(ours, change: str) -> torch.Tensor:
    size = sizes.IMAGE_SIZE
    image, mask = reference(size, size), painted(size, size)
    change_at = {"none": mask < 0, "hidden": mask > 0.5, "visible": mask <= 0.5}[change]
    image = torch.where(change_at[..., None], 1 - image, image)
    with torch.inference_mode():
        vision = ours("clip_vision")
        patch_mask, _ = outputs(
            PFVMaskRebinarize, clip_vision=vision, reference=image, fit="pad", threshold=0.0, mask=mask
        )
        tokens, _ = outputs(PFVImageEncode, clip_vision=vision, reference=image, patch_mask=patch_mask, mode="drop")
        adapter = ours("adapter")
        (prompt,) = outputs(PFVTokenCompress, image_tokens=tokens, adapter=adapter, method="adapter", num_tokens=0)
        (model,) = outputs(
            MEPAApply,
            model=ours("model"),
            image_prompt=prompt,
            strength=1.0,
            text_share=0.0,
            gate="output",
            start_percent=0.0,
            end_percent=1.0,
            region=(torch.arange(size) < 140).float().view(1, -1, 1).expand(1, size, size),
        )
        positive, negative = (host_nodes.CLIPTextEncode().encode(ours("clip"), text)[0] for text in (CAPTION, ""))
        depth = torch.linspace(0, 1, size).view(1, -1, 1, 1).expand(1, size, size, 3)
        positive, negative = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
            positive, negative, ours("controlnet"), depth, 1.0, 0.0, 1.0
        )
        latent = {"samples": torch.zeros(1, 4, sizes.LATENT_SIZE, sizes.LATENT_SIZE)}
        (sampled,) = host_nodes.KSampler().sample(model, 1, 2, 3.0, "euler", "simple", positive, negative, latent, 1.0)
        (decoded,) = host_nodes.VAEDecode().decode(ours("vae"), sampled)
    return decoded


# --- the node -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def random_node(tmp_path, monkeypatch):
    monkeypatch.setattr("pfv_mepa.nodes.demo.demo_nodes.WEIGHTS", write_random_weights(tmp_path))
    return PFVDemoModels


def test_the_node_gives_one_of_each(random_node):
    models = outputs(random_node)
    assert len(models) == len(random_node.GET_SCHEMA().outputs) == 6
    assert [type(model).__name__ for model in models] == [
        "ModelPatcher",
        "CLIP",
        "VAE",
        "ClipVisionModel",
        "ControlNet",
        "HostAdapter",
    ]


def test_a_replaced_file_is_noticed(random_node, tmp_path):
    before = random_node.fingerprint_inputs()
    assert random_node.fingerprint_inputs() == before
    (tmp_path / "unet.safetensors").touch()
    assert random_node.fingerprint_inputs() != before


def test_missing_files_are_named(random_node, tmp_path):
    (tmp_path / "unet.safetensors").unlink()
    (tmp_path / "adapter.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"unet.safetensors, adapter.safetensors missing in .*download it again"
    ):
        outputs(random_node)


def test_files_of_another_version_are_refused(random_node, tmp_path):
    stack.save_weights(stack.new_vision_encoder(), tmp_path / "unet.safetensors", {})
    with pytest.raises(ValueError, match=r"unet.safetensors does not hold the demo's unet: \d+ tensors are missing"):
        outputs(random_node)


def test_a_file_cut_short_is_called_damaged(random_node, tmp_path):
    file = tmp_path / "unet.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"unet.safetensors is damaged"):
        outputs(random_node)
