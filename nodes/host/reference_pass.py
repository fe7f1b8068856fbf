"""A pass of a reference U-Net on a product image, of which the keys and values of every self-attention are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from .hypernetworks import Hypernetworks, are_alike, hypernetworks_of
from .refadgen import PROJECTIONS, FusionProjections
from .text_prompt import OF_THE_WHOLE_PICTURE
from .unet import BlockKey, self_attentions

NAME = "RefAdGen Attention Fusion"
NOISE_SEED = 0x5EED_5EED_5EED_5EED  # of the reference's noise: the second part of a run has no seed of its own

COPY = (
    "for weights of its own load a copy of the file under another name, since ComfyUI makes one model of two loaders with the "
    "same file"
)

KeysValues = dict[BlockKey, tuple[Tensor, Tensor]]


class ReferenceNoise(str, Enum):
    """What the reference U-Net sees: the CLEAN product at the lowest noise level, or the product noised as each STEP is."""

    CLEAN = "clean"
    STEP = "step"


@dataclass(frozen=True)
class Changes:
    """What the host changes in the one set of weights of a model and its clones while a patcher is loaded.

    Attributes:
        patches: of weights, by the mark that the host gives every set of them.
        injected: what is put into the model while it runs, by its key, as a LoRA that leaves the weights as they are.
        replaced: objects of the model by their names, such as its noise schedule.
        hypernetworks: which the host has beside the weights, and the pass on a product takes for a part of them.
    """

    patches: Any
    injected: dict[str, list[Any]]
    replaced: dict[str, Any]
    hypernetworks: Hypernetworks

    @classmethod
    def of(cls, patcher: Any) -> Changes:
        """Of a ModelPatcher. A module that is compiled computes what it did."""
        replaced = {name: thing for name, thing in patcher.object_patches.items() if not hasattr(thing, "_orig_mod")}
        return cls(patcher.patches_uuid, dict(patcher.injections), replaced, hypernetworks_of(patcher))

    def beside(self, other: Changes) -> str | None:
        """What is on one of two alone, in words; None where they are alike."""
        if self.patches != other.patches:
            return "a LoRA or another patch of weights"
        if self.injected != other.injected:
            return f"what is put into the running model ({', '.join(sorted(self.injected.keys() | other.injected.keys()))})"
        if not are_alike(self.hypernetworks, other.hypernetworks):
            return "a hypernetwork"
        names = sorted(self.replaced.keys() | other.replaced.keys())
        changed = [name for name in names if self.replaced.get(name) is not other.replaced.get(name)]
        return f"a change of {', '.join(changed)}" if changed else None


@dataclass(frozen=True)
class Reference:
    """A product and the U-Net that reads it.

    Attributes:
        latent: (T, channels, h, w) as VAE Encode gives it; T is 1 or the batch that will be sampled.
        conditioning: of one prompt.
        noise: what the U-Net sees.
        model: another U-Net than the one that generates; None = that one.
        changes: of a `model` that shares its weights with the one that generates: those weights are used as they are
            loaded, so both must have the same.
    """

    latent: Tensor
    conditioning: list[Any]
    noise: ReferenceNoise
    model: Any = None
    changes: Changes | None = None


def check_same_family(model: Any, reference_model: Any) -> None:
    """ValueError, naming the difference, unless each self-attention of the one has its like in the other."""
    own, other = self_attentions(model, NAME), self_attentions(reference_model, NAME)
    advice = "use a reference_model of the same family (SD1.5 with SD1.5, SDXL with SDXL), or disconnect it"
    if own.keys() != other.keys():
        raise ValueError(f"{NAME}: reference_model has {len(other)} self-attentions, model has {len(own)}: {advice}")
    for key, sizes in own.items():
        if sizes != other[key]:
            place = f"{key[0]} {key[1]} block {key[2]}"
            raise ValueError(
                f"{NAME}: at {place} reference_model has {other[key].width} channels in {other[key].heads} heads, model has "
                f"{sizes.width} in {sizes.heads}: {advice}"
            )


def check_conditioning(conditioning: list[Any]) -> None:
    """ValueError unless it is one plain prompt."""
    if len(conditioning) != 1:
        raise ValueError(f"{NAME}: reference_prompt holds {len(conditioning)} prompts, expected 1")
    values = conditioning[0][1]
    ignored = sorted(name for name, value in values.items() if value is not None and name not in OF_THE_WHOLE_PICTURE)
    if ignored:
        raise ValueError(
            f"{NAME}: reference_prompt carries {', '.join(ignored)}, which the pass on the product image does not use: connect "
            "a plain CLIP Text Encode"
        )


def check_latent(latent: Tensor, model: Any) -> None:
    """ValueError unless a LATENT is one that this U-Net can read."""
    channels = model.model.latent_format.latent_channels
    if latent.ndim != 4 or latent.shape[1] != channels:
        raise ValueError(
            f"{NAME}: reference_latent is {tuple(latent.shape)}, expected (batch, {channels}, height / 8, width / 8): encode "
            "the product image with the VAE of this model"
        )


def check_schedules(sampled: Any, reading: Any) -> None:
    """ValueError unless a noise level is as noisy in both of two `model_sampling`s: a flow's is a share of noise, another one's
    how much is added."""
    level, picture, noise = torch.tensor([0.5]), torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    for one, other in ((picture, noise), (noise, picture)):
        mixed, read = (float(sampling.noise_scaling(level, one, other)) for sampling in (sampled, reading))
        if not math.isclose(mixed, read, abs_tol=1e-3):
            raise ValueError(
                f"{NAME}: reference_noise is step, but a step's noise level means another mix of picture and noise to "
                "reference_model than to the model that is sampled, one of which is a flow's: put the same ModelSampling node on "
                "both, or set reference_noise to clean"
            )


@torch.no_grad()
def reference_keys_values(model: Any, reference: Reference, sigma: Tensor | None) -> KeysValues:
    """Run the reference U-Net once.

    Args:
        model: the patcher of the U-Net, loaded by the host. Its patches of weights and its hypernetworks take
            part, other patches of attention do not.
        reference: the product.
        sigma: noise level of the step, (1,) or more equal values; None = the product without noise, at the lowest level of
            the schedule. The noise is the same for each product, at each step and in each run.

    Returns:
        Per self-attention its key and value (T, tokens, width), on the U-Net's device in its dtype.
    """
    unet, device = model.model, model.load_device
    latent = unet.process_latent_in(reference.latent.to(device, torch.float32))
    if sigma is None:
        level = latent.new_full((len(latent),), float(unet.model_sampling.sigma_min))
    else:
        level = sigma[:1].to(latent).expand(len(latent))
        noise = torch.randn(latent.shape[1:], generator=torch.Generator().manual_seed(NOISE_SEED))
        latent = unet.model_sampling.noise_scaling(level, noise.to(latent).expand_as(latent), latent)
    found: KeysValues = {}
    options = {**_recording(model, found), "cond_or_uncond": [0], "sigmas": level}
    unet.apply_model(latent, level, transformer_options=options, **_conditions(unet, reference, latent))
    return found


def _recording(model: Any, found: KeysValues) -> dict[str, Any]:
    """The host's options with which a pass leaves keys and values in `found`: those of trained projections where the model has
    them, else the self-attention's own."""
    projections: FusionProjections | None = getattr(model.model, PROJECTIONS, None)

    def record_projected(hidden: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> tuple[Tensor, ...]:
        assert projections is not None
        block = _block_of(options)
        found[block] = projections(block, hidden)
        return hidden, context, value

    def record(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        found[_block_of(options)] = key, value
        return optimized_attention(query, key, value, options["n_heads"], attn_precision=options.get("attn_precision"))

    patches = hypernetworks_of(model)
    if projections is not None:
        return {"patches": {**patches, "attn1_patch": [*patches.get("attn1_patch", ()), record_projected]}}
    return {"patches": patches, "patches_replace": {"attn1": dict.fromkeys(self_attentions(model, NAME), record)}}


def _block_of(options: dict[str, Any]) -> BlockKey:
    side, number = options["block"]
    return side, number, options["block_index"]


def _conditions(unet: Any, reference: Reference, latent: Tensor) -> dict[str, Tensor]:
    """What the host makes of a prompt for this kind of U-Net. ValueError where it cannot be made of a plain prompt, as for models
    that another pack has changed."""
    prompt = comfy.sampler_helpers.convert_cond(reference.conditioning)
    try:
        (encoded,) = comfy.samplers.encode_model_conds(
            unet.extra_conds,
            prompt,
            latent,
            latent.device,
            "positive",
            latent_image=latent,
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{NAME}: what the model asks of a prompt could not be made of reference_prompt ({type(error).__name__}: {error}). "
            "IC-Light for one asks for a picture beside the latent: connect a reference_model from another loader, without it"
        ) from error
    return {
        name: condition.process_cond(batch_size=len(latent), area=None).cond
        for name, condition in encoded["model_conds"].items()
    }
