"""Image prompts in the host's cross-attention: the only file that knows its attention hooks.

Each patched block holds a `BlockPatch` in the host's `attn2` replace slot. All blocks of a model share one
`ImagePromptPatch`, which holds the image prompts and what is computed once for a run. The host deep-copies the slots
whenever a model is cloned: a BlockPatch is copied, so that what another pack adds to it stays with that clone, and the
ImagePromptPatch, which nobody changes, is shared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...pfv_core.attention.balance import Balance, balanced_attention, check_gamma
from ...pfv_core.attention.formula import Attend, BranchControl, text_image_attention, text_image_attention_by_image
from .adapter import ImagePrompt
from .applied_prompt import AppliedPrompt, Controls, Grid, Place, RunCache
from .schedule import NoiseSchedule
from .unet import BlockKey, CrossAttentionBlock, cross_attention_blocks, match_adapter

logger = logging.getLogger(__name__)

UNCOND = 1  # the host's mark of a negative chunk in cond_or_uncond; positives are 0
KEY = "pfv_mepa"  # of our wrappers, callbacks and transformer options
ANY_LEVEL = 1.0  # stands for the noise level where nothing asks for it

Options = dict[str, Any]


@dataclass
class SamplingRun:
    """What blocks cannot know by themselves of the sampling they are part of."""

    latent_size: Grid
    told: set[str] = field(default_factory=set)

    def tell(self, message: str) -> None:
        """Say something to the user once in a run."""
        if message not in self.told:
            self.told.add(message)
            logger.warning(message)


class ImagePromptPatch:
    """Image prompts of a model, shared by all its cross-attentions and never changed; its cache lives for one run."""

    def __init__(self, prompts: tuple[AppliedPrompt, ...]) -> None:
        self.prompts = prompts
        self._cache = RunCache(prompts)
        self._sigma: tuple[Any, float] = (None, ANY_LEVEL)
        self._controls: tuple[float | None, Controls] = (None, {})

    def __deepcopy__(self, memo: dict[int, Any]) -> ImagePromptPatch:
        return self

    def clear(self) -> None:
        """Drop what was computed for a run."""
        self._cache.clear()
        self._sigma = (None, ANY_LEVEL)

    def check_latent(self, batch: int, latent_size: Grid) -> None:
        """ValueError if a prompt fits no batch of this size, or a region no frame of this shape."""
        for prompt in self.prompts:
            prompt.check_latent(batch, latent_size)

    def attention(
        self, layers: tuple[int, ...], query: Tensor, key: Tensor, value: Tensor, options: Options, base: Attend | None
    ) -> Tensor:
        """Cross-attention of one block.

        Args:
            layers: per image prompt, the index of this block in its adapter.
            query: (rows, queries, width) after to_q; key, value: (rows, text tokens, width) after to_k, to_v.
            options: the host's extra_options of this block.
            base: what was in the slot before, if anything: the text branch then.
        """
        attend, text = host_attention(options), (key, value)
        batch, chunks = _chunks(query, options)
        controls = self._taking_part(query, options)
        if not controls:
            return (base or attend)(query, key, value)
        images = [self._cache.keys_values(index, layers[index], chunks, batch, query) for index in controls]
        place = _place(query, options)
        normalized = [self.prompts[index].balance.std_norm for index in controls]
        if any(normalized):
            weights, regions = self._cache.sample_weights(controls, place, len(chunks))
            return balanced_attention(query, text, images, weights, regions, normalized, attend, base)
        plans, numbers = self._cache.row_plans(controls, place), list(controls.values())
        if len(plans) == 1:
            return text_image_attention(query, text, images, numbers, plans[0], attend, base)
        return text_image_attention_by_image(query, text, images, numbers, plans, attend, base)

    def noise_level(self, options: Options) -> float:
        """Sigma of this forward pass, read from the device once for all blocks."""
        sigmas = options["sigmas"]
        known, sigma = self._sigma
        if known is not sigmas:
            sigma = float(sigmas[0])
            self._sigma = (sigmas, sigma)
        return sigma

    def _taking_part(self, query: Tensor, options: Options) -> Controls:
        """Controls of the prompts that take part in this call."""
        controls = self._controls_now(options)
        if all(self.prompts[index].region is None for index in controls):
            return controls
        run: SamplingRun | None = options.get(KEY)
        sampled = _size(options, "original_shape")
        if run is None or sampled == run.latent_size:
            _check_grid(query, options)
            return controls
        run.tell(
            f"MEPA Apply: part of the image ({sampled[0]}x{sampled[1]} of {run.latent_size[0]}x{run.latent_size[1]} latent "
            "pixels) is sampled by itself, as area conditioning and tiles do, and the host does not say which part. Image "
            "prompts with a region are left out of it."
        )
        return {index: control for index, control in controls.items() if self.prompts[index].region is None}

    def _controls_now(self, options: Options) -> Controls:
        """Controls at this noise level, which is read only if a window or a time weight needs it."""
        needed = any(prompt.needs_noise_level for prompt in self.prompts)
        sigma = self.noise_level(options) if needed else ANY_LEVEL
        if self._controls[0] != sigma:
            controls = {index: prompt.control_at(sigma) for index, prompt in enumerate(self.prompts)}
            self._controls = (sigma, {index: control for index, control in controls.items() if control is not None})
        return self._controls[1]


class BlockPatch:
    """The callable in the replace slot of one cross-attention block."""

    def __init__(self, patch: ImagePromptPatch, layers: tuple[int, ...], base: Any) -> None:
        self.patch = patch
        self.layers = layers
        self.base = base
        self.added: tuple[tuple[Callable[..., Tensor], Options], ...] = ()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        """q, k, v after their projections -> the attention's output before to_out."""
        base = None if self.base is None else partial(_call_base, self.base, options)
        out = self.patch.attention(self.layers, query, key, value, options, base)
        for callback, kwargs in self.added:
            if self._in_window(kwargs, options):
                out = out + callback(out, query, key, value, options, **kwargs)
        return out

    def _in_window(self, kwargs: Options, options: Options) -> bool:
        """The window of noise levels that an IP-Adapter pack hands over with its callback."""
        if "sigma_start" not in kwargs or "sigma_end" not in kwargs:
            return True
        return kwargs["sigma_end"] <= self.patch.noise_level(options) <= kwargs["sigma_start"]

    def __deepcopy__(self, memo: dict[int, Any]) -> BlockPatch:
        return copy(self)

    def add(self, callback: Callable[..., Tensor], **kwargs: Any) -> None:
        """What IP-Adapter packs call on a slot that is taken: their term is added to the output."""
        self.added = (*self.added, (callback, kwargs))

    def to(self, device_or_dtype: Any) -> BlockPatch:
        """The host moves patches that have `.to`; ours cast where they compute, another pack's may want to move."""
        if hasattr(self.base, "to"):
            self.base = self.base.to(device_or_dtype)
        return self

    def models(self) -> list[Any]:
        """Models that the host must load for this slot: another pack's, if it has any."""
        return self.base.models() if hasattr(self.base, "models") else []


def apply_image_prompt(
    model: Any,
    image_prompt: ImagePrompt,
    control: BranchControl,
    region: Tensor | None,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    balance: Balance | None = None,
) -> Any:
    """Put an image prompt into every cross-attention of a model.

    Args:
        model: the host's ModelPatcher of a U-Net.
        image_prompt: from an adapter made for this kind of U-Net.
        control: strength, text share and gate. Strength 0 returns the model as it is.
        region: (R, H, W) float, 0..1, 1 = the image prompt rules; None = the whole frame.
        start_percent, end_percent: window of the sampling, 0..1.
        balance: normalisation and time weighting of the branch; None = neither.

    Returns:
        A patched clone. The model itself, and every other clone of it, stays as it is.

    Raises:
        ValueError: a model without cross-attention, of another family than the adapter's, an empty window,
            or a gamma outside the model's schedule.
    """
    if not 0.0 <= start_percent <= end_percent <= 1.0:
        raise ValueError(
            f"start_percent is {start_percent}, end_percent {end_percent}: expected 0 <= start <= end <= 1"
        )
    blocks = cross_attention_blocks(model)
    index = match_adapter(image_prompt.adapter.config, blocks)
    balance = balance or Balance()
    schedule = _schedule(model, balance)
    if control.image_scale == 0.0:
        return model
    sampling = model.get_model_object("model_sampling")
    prompt = AppliedPrompt(
        image_prompt.keys_values,
        image_prompt.adapter.config,
        control,
        region,
        float("inf") if start_percent == 0.0 else float(sampling.percent_to_sigma(start_percent)),
        0.0 if end_percent == 1.0 else float(sampling.percent_to_sigma(end_percent)),
        balance,
        schedule,
    )
    clone = model.clone()
    _install(clone, blocks, index, prompt)
    return clone


def image_prompt_patches(model: Any) -> list[ImagePromptPatch]:
    """The image prompts that a model carries; one entry unless another pack has taken some of the slots over."""
    slots = _slots(model).values()
    return list({id(slot.patch): slot.patch for slot in slots if isinstance(slot, BlockPatch)}.values())


def host_attention(options: Options) -> Attend:
    """The host's own attention, with its backends and overrides, as the core's `Attend`."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return optimized_attention(
            query,
            key,
            value,
            options["n_heads"],
            attn_precision=options.get("attn_precision"),
            transformer_options=options,
        )

    return attend


def _schedule(model: Any, balance: Balance) -> NoiseSchedule | None:
    if balance.gamma is None:
        return None
    schedule = NoiseSchedule.of(model.get_model_object("model_sampling"))
    check_gamma(balance.gamma, schedule.num_timesteps)
    return schedule


def _install(model: Any, blocks: list[CrossAttentionBlock], index: dict[BlockKey, int], prompt: AppliedPrompt) -> None:
    """Put the prompt into every slot of a clone, on top of whatever is there."""
    slots = _slots(model)
    extended: dict[int, ImagePromptPatch] = {}
    for block in blocks:
        slot = slots.get(block.key, slots.get(block.key[:2]))
        if isinstance(slot, BlockPatch):
            patch = extended.setdefault(id(slot.patch), ImagePromptPatch((*slot.patch.prompts, prompt)))
            new = BlockPatch(patch, (*slot.layers, index[block.key]), slot.base)
            new.added = slot.added
        else:
            patch = extended.setdefault(0, ImagePromptPatch((prompt,)))
            new = BlockPatch(patch, (index[block.key],), slot)
        model.set_model_attn2_replace(new, *block.key)
    patches = list(extended.values())
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, partial(_outer_sample, patches))
    model.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, KEY)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, partial(_clear, patches))


def _slots(model: Any) -> dict[tuple[Any, ...], Callable[..., Tensor]]:
    return model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})


def _outer_sample(patches: list[ImagePromptPatch], executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Before the first step: check what only the latent can tell, and publish the size of the whole frame."""
    latent_size = (noise.shape[-2], noise.shape[-1])
    for patch in patches:
        patch.check_latent(noise.shape[0], latent_size)
    options = executor.class_obj.model_options  # the guider's own copy for this run
    options.setdefault("transformer_options", {})[KEY] = SamplingRun(latent_size)
    return executor(noise, *args, **kwargs)


def _clear(patches: list[ImagePromptPatch], model: Any) -> None:
    for patch in patches:
        patch.clear()


def _call_base(base: Callable[..., Tensor], options: Options, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return base(query, key, value, options)


def _place(query: Tensor, options: Options) -> Place:
    grid, latent_size = _size(options, "activations_shape"), _size(options, "original_shape")
    return Place(query.shape[1], grid, latent_size, query.device, query.dtype)


def _size(options: Options, shape: str) -> Grid:
    rows, columns = options[shape][-2:]
    return rows, columns


def _chunks(query: Tensor, options: Options) -> tuple[int, tuple[bool, ...]]:
    """Images in a chunk, and for each chunk of rows whether it is negative.

    Attention-couple packs repeat the rows and publish what they made of them under a name of their own.
    """
    rows = query.shape[0]
    for name in ("cond_or_uncond_couple", "cond_or_uncond"):
        chunks = options.get(name)
        if (
            chunks
            and rows % len(chunks) == 0
            and rows // len(chunks) == options["original_shape"][0] // len(options["cond_or_uncond"])
        ):
            return rows // len(chunks), tuple(chunk == UNCOND for chunk in chunks)
    raise RuntimeError(
        f"MEPA Apply: another patch changed the number of rows in cross-attention to {rows} without saying which are "
        f"negative (the host says {options['cond_or_uncond']}): remove that patch"
    )


def _check_grid(query: Tensor, options: Options) -> None:
    rows, columns = _size(options, "activations_shape")
    if rows * columns != query.shape[1]:
        raise RuntimeError(
            f"MEPA Apply: another patch changed the number of queries to {query.shape[1]}, the grid is {rows}x{columns}: "
            "without a grid no region can be placed; disconnect the region or remove that patch"
        )
