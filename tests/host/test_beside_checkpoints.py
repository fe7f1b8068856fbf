"""Beside checkpoints that read a picture beside the latent: inpainting models, and those of InstructPix2Pix.

The host puts that picture there for each prompt. The yardsticks are runs for one prompt alone, and the base: a checkpoint that
gives the picture no weight computes what the base does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from pfv_mepa.tests.host.beside import (
    HEIGHT,
    WIDTH,
    Pack,
    assert_apart,
    assert_near,
    assert_same,
    basic,
    cfg,
    controlled,
    guided,
    host_node,
    mixed,
    prediction,
    prompted_control_net,
    prompts,
)
from pfv_mepa.tests.host.sampling import outputs, reference
from pfv_mepa.tests.support.tiny_stack import adapter_files, models
from pfv_mepa.tests.support.tiny_stack.models import INPAINTING, INSTRUCTED, LATENT_CHANNELS

SCALE = 5.0
FIRST = "input_blocks.0.0.weight"
KINDS = {
    "SDXL inpainting": ("few", "sdxl", INPAINTING),
    "SD1.5 inpainting": ("sd15", "sd15", INPAINTING),
    "SDXL InstructPix2Pix": ("few", "sdxl", INSTRUCTED),
    "SD1.5 InstructPix2Pix": ("sd15", "sd15", INSTRUCTED),
}
PARTS = pytest.mark.parametrize("part", ["prompt", "branches", "fusion"])


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a kind, the same with no weight for the picture, the base with its other weights, the pack's parts."""

    model: Any
    blind: Any
    base: Any
    pack: Pack
    vae: Any

    def pictured(self, seed: int = 2) -> Any:
        """Positive, negative and LATENT with a picture; an inpainting model sees the left quarter of it."""
        positive, negative = prompts(self.model)
        inputs = {
            "positive": positive,
            "negative": negative,
            "vae": self.vae,
            "pixels": reference(HEIGHT, WIDTH, seed=seed),
        }
        if self.model.model.model_config.unet_config["in_channels"] == INSTRUCTED:
            return outputs(host_node("InstructPixToPixConditioning"), **inputs)
        mask = torch.zeros(1, HEIGHT, WIDTH)
        mask[..., WIDTH // 4 :] = 1
        return outputs(host_node("InpaintModelConditioning"), **inputs, mask=mask, noise_mask=True)


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request, host_base_directory, tiny_clip_vision, tiny_vae, tiny_model_of):
    topology, released, channels = KINDS[request.param]
    model, base = (models.tiny_model(topology, in_channels=count) for count in (channels, LATENT_CHANNELS))
    weights = model.model.diffusion_model.state_dict()
    base.model.diffusion_model.load_state_dict(weights | {FIRST: weights[FIRST][:, :LATENT_CHANNELS]})
    blind, unseen = model.clone(), -weights[FIRST]
    unseen[:, :LATENT_CHANNELS] = 0
    blind.add_patches({f"diffusion_model.{FIRST}": (unseen,)})
    file = adapter_files.write_plus_adapter(
        host_base_directory / "models" / "ipadapter" / f"beside-{topology}-{channels}.safetensors",
        adapter_files.cross_attention_widths(tiny_model_of(released).model.diffusion_model),
        encoder_width=models.VISION_WIDTH,
        context_dim=models.CONTEXT_DIM,
    )
    return Checkpoint(model, blind, base, Pack.of(host_base_directory, tiny_clip_vision, file), tiny_vae)


@PARTS
def test_each_prompt_is_what_it_is_alone(checkpoint, part):
    positive, negative, latent = checkpoint.pictured()
    pack, model = checkpoint.pack, checkpoint.model
    made = prediction(cfg(pack.put(part, model), positive, negative, SCALE), latent=latent)
    above, below = (
        prediction(basic(pack.put(part, model, side), text), latent=latent)
        for side, text in (("positive", positive), ("negative", negative))
    )
    assert_near(made, mixed(above, below, SCALE))
    assert_apart(made, prediction(cfg(model, positive, negative, SCALE), latent=latent))


@PARTS
def test_the_picture_is_seen_beside_every_part(checkpoint, part):
    """Without weights for it the checkpoint is the base, with them another picture is another result."""
    positive, negative, latent = checkpoint.pictured()
    others = checkpoint.pictured(seed=3)
    made, other, unseen, base = (
        guided(cfg(checkpoint.pack.put(part, model), *sides, SCALE), latent=latent)
        for model, sides in (
            (checkpoint.model, (positive, negative)),
            (checkpoint.model, others[:2]),
            (checkpoint.blind, (positive, negative)),
            (checkpoint.base, prompts(checkpoint.base)),
        )
    )
    assert_near(unseen, base)
    assert_apart(made, base)
    assert_apart(made, other)


def test_strength_0_is_the_checkpoint(checkpoint):
    positive, negative, latent = checkpoint.pictured()
    off = checkpoint.pack.prompt(checkpoint.model, strength=0.0)
    vanilla = guided(cfg(checkpoint.model, positive, negative, SCALE), latent=latent)
    assert_same(guided(cfg(off, positive, negative, SCALE), latent=latent), vanilla)


def test_a_prompted_controlnet(checkpoint):
    """It reads the latent alone, and each prompt is what it is alone."""
    positive, negative, latent = checkpoint.pictured()
    pack, control_net = checkpoint.pack, models.tiny_controlnet(checkpoint.base)

    def controlled_by(model, *texts):
        return controlled(prompted_control_net(control_net, model), *texts)

    patched = pack.prompt(checkpoint.model)
    made = prediction(cfg(patched, *controlled_by(patched, positive, negative), SCALE), latent=latent)
    sides = []
    for side, text in (("positive", positive), ("negative", negative)):
        own = pack.prompt(checkpoint.model, side)
        sides.append(prediction(basic(own, *controlled_by(own, text)), latent=latent))
    assert_near(made, mixed(*sides, SCALE))
    assert_apart(
        made, prediction(cfg(patched, *controlled(control_net, positive, negative), SCALE), latent=latent), 1e-3
    )


def test_a_mask_input_is_for_the_base(checkpoint):
    with pytest.raises(ValueError, match=r"input has [89] channels.*expected 4: use the base checkpoint"):
        checkpoint.pack.mask(checkpoint.model)
