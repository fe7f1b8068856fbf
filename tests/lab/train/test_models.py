"""Loading SDXL's and SD1.5's layouts from local files, in miniature, and what is said where they are missing."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.attention import BasicTransformerBlock
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

from lab.diffusers.sample import sample_latents
from lab.train.config import preset
from lab.train.load import DTYPES, load_models
from lab.train.models import ModelsError, prepare_unet, unet_conditions
from pfv_core.reference.vit import EncoderSpec, encode_pixels
from pfv_demo.sizes import VOCABULARY

from .original_layout import original_layout
from .tiny_models import CONTEXT, plain_unet, tiny_unet

WIDTH, SECOND = 16, 24
"""Of the text encoders: SDXL's second one is told from the first in a single file by its width."""


def text_config(tokenizer, width=WIDTH):
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=16,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=20,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folders sdxl, sd15 and vision with random models."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(VOCABULARY, model_max_length=20)
    vae = AutoencoderKL(
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        scaling_factor=0.13025,
    )
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, SECOND)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=plain_unet(WIDTH + SECOND, projection_class_embeddings_input_dim=SECOND + 6 * 8, **sizes),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"),
    ).save_pretrained(folder / "sdxl")
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=plain_unet(WIDTH),
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "sd15")
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        projection_dim=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "vision")
    dinov2 = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(dinov2).save_pretrained(folder / "dinov2")
    return folder


def loaded(files, base):
    return load_models(base, files / base, files / "vision", dtype=torch.float32)


def test_the_encoder_may_be_a_dinov2(files):
    models = load_models("sd15", files / "sd15", files / "dinov2", dtype=torch.float32)
    assert models.vision.spec == EncoderSpec(28, 14, 2, 24, 24)
    everything = torch.ones(1, 4, dtype=torch.bool)
    last, _, _ = encode_pixels(models.vision, torch.zeros(1, 3, 28, 28), everything, everything)
    assert last[0].shape == (5, 24)


@pytest.mark.parametrize(("base", "pooled", "prediction"), [("sdxl", SECOND, "v_prediction"), ("sd15", 0, "epsilon")])
def test_layouts(files, base, pooled, prediction):
    models = loaded(files, base)
    context, pooled_text = models.encode_text(["a red cup", ""])
    assert context.shape == (2, 20, WIDTH + SECOND if base == "sdxl" else WIDTH)
    assert pooled_text.shape == (2, pooled)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    latents = models.encode_latents(image)
    assert latents.shape == (2, 4, 4, 4)
    assert torch.equal(latents, models.encode_latents(image))
    assert models.decode_latents(latents).shape == image.shape
    conditions = unet_conditions(models.unet, context, pooled_text, torch.zeros(2, 6))
    assert ("added_cond_kwargs" in conditions) == (base == "sdxl")
    assert models.unet(latents, 5, **conditions).sample.shape == latents.shape
    assert models.scheduler.config.prediction_type == prediction
    assert models.vision.spec.hidden_size == 16
    assert set(models.identity) == {"unet", "autoencoder", "vision"}
    assert not any(parameter.requires_grad for parameter in models.unet.parameters())


def test_latents_are_scaled(files):
    models = loaded(files, "sdxl")
    vae = AutoencoderKL.from_pretrained(files / "sdxl" / "vae")
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = vae.encode(image * 2 - 1).latent_dist.mean * 0.13025
    torch.testing.assert_close(models.encode_latents(image), expected)


@pytest.mark.parametrize("base", ["sdxl", "sd15"])
def test_the_autoencoder_is_the_file_s_in_the_precision_of_the_preset(files, base):
    """The presets train in bfloat16: rounded to it and widened, its weights and its latents would be others."""
    assert preset(base).precision == "bf16"
    models = load_models(base, files / base, files / "vision", dtype=DTYPES[preset(base).precision])
    assert models.unet.dtype == torch.bfloat16
    vae = models.encode_latents.args[0]
    of_file = load_file(files / base / "vae" / "diffusion_pytorch_model.safetensors")
    assert of_file.keys() == vae.state_dict().keys()
    assert all(torch.equal(value, of_file[name]) for name, value in vae.state_dict().items())
    assert not any(torch.equal(value, value.bfloat16().float()) for value in of_file.values() if value.ndim == 4)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = (
            AutoencoderKL.from_pretrained(files / base / "vae").encode(image * 2 - 1).latent_dist.mode() * 0.13025
        )
    torch.testing.assert_close(models.encode_latents(image), expected, rtol=1e-4, atol=1e-6)


PIPELINES = {"sdxl": StableDiffusionXLPipeline, "sd15": StableDiffusionPipeline}


@pytest.fixture(params=PIPELINES)
def single(request, files, tmp_path):
    """Base, the weights of its folder as one file has them, and a function that loads such weights as one file."""
    base = request.param
    configs = shutil.copytree(files / base, tmp_path / "configs", ignore=shutil.ignore_patterns("*.safetensors"))

    def load(weights):
        save_file(weights, tmp_path / "model.safetensors")
        return load_models(base, tmp_path / "model.safetensors", files / "vision", configs=configs)

    return base, original_layout(PIPELINES[base].from_pretrained(files / base)), load


def parts_of(models):
    """The modules of what was loaded, by name."""
    pipeline = models.encode_text.args[0]
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def test_a_single_file_is_loaded_as_its_folder(files, single):
    """Under the names of its publisher, which are not diffusers', and with configs that have no weights beside them."""
    base, weights, load = single
    models, pipeline = load(weights), PIPELINES[base].from_pretrained(files / base)
    parts = parts_of(models)
    assert set(parts) == {"unet", "vae", "text_encoder", *(["text_encoder_2"] if base == "sdxl" else [])}
    for name, part in parts.items():
        dtype, expected = torch.float32 if name == "vae" else torch.bfloat16, getattr(pipeline, name).state_dict()
        assert part.state_dict().keys() == expected.keys()
        assert {value.dtype for value in part.state_dict().values()} == {dtype}
        assert all(torch.equal(value, expected[key].to(dtype)) for key, value in part.state_dict().items())
    folder = load_models(base, files / base, files / "vision")
    assert models.identity == folder.identity
    assert models.scheduler.config == folder.scheduler.config
    captions, image = ["a red cup", ""], torch.rand(2, 3, 32, 32)
    for one, other in zip(models.encode_text(captions), folder.encode_text(captions), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(models.encode_latents(image), folder.encode_latents(image))


def test_the_autoencoder_of_a_file_in_half_precision_computes_in_float32(single):
    """As SDXL's files are shared, with what they hold beside the weights."""
    _, weights, load = single
    vae = parts_of(load({name: value.half() for name, value in weights.items()} | {"alphas_cumprod": torch.ones(9)}))[
        "vae"
    ]
    assert vae.dtype == torch.float32
    assert torch.equal(vae.encoder.conv_in.weight, weights["first_stage_model.encoder.conv_in.weight"].half().float())


LAST_NORMS = (
    "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    "conditioner.embedders.1.model.ln_final.bias",
)


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("model.diffusion_model.", r"read as a diffusion model: (Failed to load UNet2DConditionModel|'label_emb)"),
        ("first_stage_model.", r"Failed to load AutoencoderKL\. Weights .* missing in the checkpoint\.$"),
        ("cond", r"Failed to load CLIPTextModel\. Weights .* missing in the checkpoint\.$"),
        ("model.diffusion_model.out.2.weight", r"lacks weights of its U-Net, .* text encoder: give one"),
        ("first_stage_model.quant_conv.bias", r"lacks weights of its U-Net, .* text encoder: give one"),
        (LAST_NORMS, r"lacks 1 weights of its (second )?text encoder, [a-z_.]*final_layer_norm\.bias for one"),
    ],
)
def test_a_single_file_that_lacks_weights_is_refused(single, lacking, message):
    """Files of a U-Net alone, or without an autoencoder, are shared too."""
    _, weights, load = single
    with pytest.raises(ModelsError, match=message):
        load({name: value for name, value in weights.items() if not name.startswith(lacking)})


def test_sizes_reach_the_unet_to_the_pixel(files):
    """bfloat16 has 1496 and 1504 around 1500."""
    models = load_models("sdxl", files / "sdxl", files / "vision", dtype=torch.bfloat16)
    seen = []
    models.unet.add_time_proj.register_forward_hook(lambda module, given, out: seen.append(given[0].tolist()))
    context, pooled = models.encode_text(["a red cup"])
    sizes = [1500.0, 1001.0, 3.0, 257.0, 512.0, 512.0]
    latents = torch.zeros(1, 4, 4, 4, dtype=torch.bfloat16)
    models.unet(latents, 5, **unet_conditions(models.unet, context, pooled, torch.tensor([sizes])))
    text = context, pooled
    sample_latents(models.unet, models.scheduler, latents.float(), text=text, steps=1, image_size=(1500, 1001))
    assert seen == [sizes, [1500.0, 1001.0, 0.0, 0.0, 1500.0, 1001.0]]


def test_how_the_unet_computes_changes_its_prediction_by_rounding_alone(monkeypatch):
    """Compiled are the self-attentions and feed-forwards, and no cross-attention: image prompts are put into those anew."""
    compiled = []
    compile_module = torch.nn.Module.compile

    def with_quick_backend(module):
        compiled.append(type(module).__name__)
        compile_module(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", with_quick_backend)
    plain, prepared = tiny_unet().eval(), tiny_unet().eval()
    prepared.load_state_dict(plain.state_dict())
    prepare_unet(prepared, channels_last=True, compiled=True, gradient_checkpointing=True)
    prepare_unet(plain)
    blocks = sum(isinstance(module, BasicTransformerBlock) for module in prepared.modules())
    assert sorted(compiled) == ["Attention"] * blocks + ["FeedForward"] * blocks
    assert prepared.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert (prepared.is_gradient_checkpointing, plain.is_gradient_checkpointing) == (True, False)
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    latents, context = torch.randn(2, 4, 4, 4), torch.randn(2, 5, CONTEXT)
    given = unet_conditions(plain, context, torch.randn(2, CONTEXT), torch.full((2, 6), 32.0))
    torch.testing.assert_close(
        prepared(latents, 7, **given).sample, plain(latents, 7, **given).sample, rtol=1e-4, atol=1e-5
    )


def test_checkpoint_of_another_base(files):
    with pytest.raises(ModelsError, match=r"without SDXL's added conditions, which is no sdxl"):
        load_models("sdxl", files / "sd15", files / "vision", dtype=torch.float32)


def test_missing_files_say_where_they_come_from(files, tmp_path):
    with pytest.raises(ModelsError, match=r"no sdxl model at .*stabilityai/stable-diffusion-xl-base-1.0"):
        load_models("sdxl", tmp_path, files / "vision")
    with pytest.raises(ModelsError, match=r"no image encoder at .*laion/CLIP-ViT-H-14"):
        load_models("sdxl", files / "sdxl", tmp_path / "none", dtype=torch.float32)
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"")
    with pytest.raises(ModelsError, match="single file without configs and tokenizers: also give a folder"):
        load_models("sdxl", single, files / "vision")
    with pytest.raises(ModelsError, match="cannot be read as a diffusion model"):
        load_models("sdxl", single, files / "vision", configs=files / "sdxl")
    with pytest.raises(ModelsError, match="base is 'sd3', expected one of"):
        load_models("sd3", single, files / "vision")


def changed_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_an_image_encoder_that_is_none_of_these_is_refused(files, tmp_path):
    """It would be read as a CLIP's, with random weights wherever a name differs."""
    folder = shutil.copytree(files / "dinov2", tmp_path / "registers")
    changed_config(folder, model_type="dinov2_with_registers")
    with pytest.raises(
        ModelsError, match=r"of kind 'dinov2_with_registers', expected one of \['clip', 'clip_vision_model', 'd"
    ):
        load_models("sd15", files / "sd15", folder, dtype=torch.float32)


@pytest.mark.parametrize("encoder", ["vision", "dinov2"])
def test_an_image_encoder_that_lacks_weights_is_refused(files, tmp_path, encoder):
    folder = shutil.copytree(files / encoder, tmp_path / encoder)
    weights = load_file(folder / "model.safetensors")
    lacking = next(name for name in weights if "layernorm" in name.lower() and name.endswith("weight"))
    del weights[lacking]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelsError, match=r"lacks 1 weights of a \w+, [\w.]+ for one: .* random numbers"):
        load_models("sd15", files / "sd15", folder, dtype=torch.float32)


@pytest.mark.parametrize(
    ("base", "part"), [("sd15", "text_encoder"), ("sdxl", "text_encoder"), ("sdxl", "text_encoder_2")]
)
def test_a_text_encoder_that_lacks_weights_is_refused(files, tmp_path, base, part):
    """transformers would fill them with random numbers."""
    folder = shutil.copytree(files / base, tmp_path / base)
    file = folder / part / "model.safetensors"
    weights = load_file(file)
    del weights[next(name for name in weights if name.endswith("final_layer_norm.weight"))]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(
        ModelsError, match=rf"{part} lacks 1 weights of a CLIPTextModel\w*, [\w.]+ for one: .* random numbers"
    ):
        load_models(base, folder, None, dtype=torch.float32)


@pytest.mark.parametrize(
    ("context", "channels", "message"),
    [
        (WIDTH, 9, "a U-Net of 9 input channels, as an inpainting model has, expected 4"),
        (1024, 4, "contexts of 1024 channels, SD2's, which is no sd15"),
    ],
)
def test_a_unet_of_another_kind_is_refused(files, tmp_path, context, channels, message):
    folder = shutil.copytree(files / "sd15", tmp_path / "sd15")
    plain_unet(context, in_channels=channels).save_pretrained(folder / "unet")
    with pytest.raises(ModelsError, match=message):
        load_models("sd15", folder, None, dtype=torch.float32)


def test_a_unet_that_lacks_weights_is_refused(files, tmp_path):
    folder = shutil.copytree(files / "sd15", tmp_path / "sd15")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelsError, match=r"lacks 1 weights of its U-Net, conv_out\.weight for one"):
        load_models("sd15", folder, None, dtype=torch.float32)
