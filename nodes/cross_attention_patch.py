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

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ..pfv_core.attention import (
    Attend,
    BranchControl,
    RowPlan,
    plan_rows,
    text_image_attention,
    text_image_attention_by_image,
)
from ..pfv_core.query_mask import LATENT_SCALE, frame_matches, query_mask
from .host_adapter import ImagePrompt, LayerKeysValues
from .host_unet import BlockKey, CrossAttentionBlock, cross_attention_blocks, match_adapter

logger = logging.getLogger(__name__)

UNCOND = 1  # the host's mark of a negative chunk in cond_or_uncond; positives are 0
KEY = "pfv_mepa"  # of our wrappers, callbacks and transformer options

Options = dict[str, Any]


@dataclass(frozen=True)
class AppliedPrompt:
    """One MEPA Apply: an image prompt with its region and its window of noise levels."""

    keys_values: tuple[LayerKeysValues, LayerKeysValues]  # of positive and negative, (T, c, width)
    control: BranchControl
    region: Tensor | None  # (R, H, W) 0..1, None = the whole frame
    sigma_start: float
    sigma_end: float

    @property
    def num_images(self) -> int:
        """References in the prompt: one for all images of a batch, or one each."""
        return self.keys_values[0][0][0].shape[0]

    @property
    def num_regions(self) -> int:
        """Regions: one for all images of a batch, or one each."""
        return 1 if self.region is None else self.region.shape[0]

    def active(self, sigma: float) -> bool:
        """Whether this noise level lies in the window."""
        return self.sigma_end <= sigma <= self.sigma_start


@dataclass
class SamplingRun:
    """What blocks cannot know by themselves of the sampling they are part of."""

    latent_size: tuple[int, int]
    told: set[str] = field(default_factory=set)

    def tell(self, message: str) -> None:
        """Say something to the user once in a run."""
        if message not in self.told:
            self.told.add(message)
            logger.warning(message)


class ImagePromptPatch:
    """Image prompts of a model, shared by all its cross-attentions and never changed.

    Its caches live for one run: row plans for each grid, keys and values on the sampling device in its dtype.
    """

    def __init__(self, prompts: tuple[AppliedPrompt, ...]) -> None:
        self.prompts = prompts
        self._plans: dict[Any, list[RowPlan]] = {}
        self._keys_values: dict[Any, tuple[Tensor, Tensor]] = {}
        self._sigma: tuple[Any, float] = (None, 0.0)

    def __deepcopy__(self, memo: dict[int, Any]) -> ImagePromptPatch:
        return self

    def clear(self) -> None:
        """Drop what was computed for a run."""
        self._plans, self._keys_values, self._sigma = {}, {}, (None, 0.0)

    def check_latent(self, batch: int, latent_size: tuple[int, int]) -> None:
        """ValueError if a prompt fits no batch of this size, or a region no frame of this shape."""
        for prompt in self.prompts:
            for count, what in ((prompt.num_images, "image prompt"), (prompt.num_regions, "region")):
                if count not in (1, batch):
                    raise ValueError(
                        f"MEPA Apply: the {what} is a batch of {count}, {batch} image(s) are being sampled: give 1, or one "
                        "for each image"
                    )
            if prompt.region is None or frame_matches((prompt.region.shape[1], prompt.region.shape[2]), latent_size):
                continue
            height, width = (LATENT_SCALE * side for side in latent_size)
            raise ValueError(
                f"MEPA Apply: the region is {prompt.region.shape[1]}x{prompt.region.shape[2]}, the image being sampled is "
                f"{height}x{width} (height x width): give the region the image's shape"
            )

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
        attend = host_attention(options)
        batch, chunks = _chunks(query, options)
        active = self._active(query, options)
        if not active:
            return (base or attend)(query, key, value)
        images = [self._image_keys_values(index, layers[index], chunks, batch, query) for index in active]
        controls = [self.prompts[index].control for index in active]
        plans = self._row_plans(active, query, options)
        if len(plans) == 1:
            return text_image_attention(query, (key, value), images, controls, plans[0], attend, base)
        return text_image_attention_by_image(query, (key, value), images, controls, plans, attend, base)

    def _active(self, query: Tensor, options: Options) -> tuple[int, ...]:
        """Prompts that take part in this call."""
        sigma = self._noise_level(options)
        active = [index for index, prompt in enumerate(self.prompts) if prompt.active(sigma)]
        if all(self.prompts[index].region is None for index in active):
            return tuple(active)
        run: SamplingRun | None = options.get(KEY)
        sampled = tuple(options["original_shape"][-2:])
        if run is None or sampled == run.latent_size:
            _check_grid(query, options)
            return tuple(active)
        run.tell(
            f"MEPA Apply: part of the image ({sampled[0]}x{sampled[1]} of {run.latent_size[0]}x{run.latent_size[1]} latent "
            "pixels) is sampled by itself, as area conditioning and tiles do, and the host does not say which part. Image "
            "prompts with a region are left out of it."
        )
        return tuple(index for index in active if self.prompts[index].region is None)

    def _noise_level(self, options: Options) -> float:
        """Sigma of this forward pass. Read from the device once for all blocks, and only if a window needs it."""
        if all(prompt.sigma_end <= 0.0 and prompt.sigma_start == float("inf") for prompt in self.prompts):
            return 1.0
        sigmas = options["sigmas"]
        known, sigma = self._sigma
        if known is not sigmas:
            sigma = float(sigmas[0])
            self._sigma = (sigmas, sigma)
        return sigma

    def _row_plans(self, active: tuple[int, ...], query: Tensor, options: Options) -> list[RowPlan]:
        """One plan, or one for each image of the batch where regions differ."""
        grid = tuple(options["activations_shape"][-2:])
        latent_size = tuple(options["original_shape"][-2:])
        cache_key = (active, grid, latent_size, query.shape[1], query.device, query.dtype)
        if cache_key not in self._plans:
            prompts = [self.prompts[index] for index in active]
            masks = [None if p.region is None else query_mask(p.region, grid, latent_size) for p in prompts]
            count = max((len(mask) for mask in masks if mask is not None), default=1)
            self._plans[cache_key] = [
                plan_rows(
                    [None if mask is None else mask[image % len(mask)] for mask in masks],
                    [prompt.control for prompt in prompts],
                    query.shape[1],
                ).to(query.device, query.dtype)
                for image in range(count)
            ]
        return self._plans[cache_key]

    def _image_keys_values(
        self, index: int, layer: int, chunks: tuple[int, ...], batch: int, query: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Key and value (rows, c, width) of a prompt for the chunks of this call."""
        cache_key = (index, layer, chunks, query.device, query.dtype)
        if cache_key not in self._keys_values:
            positive, negative = (pairs[layer] for pairs in self.prompts[index].keys_values)
            count = self.prompts[index].num_images
            pairs = [
                tuple(t.expand(count, -1, -1) for t in negative) if chunk == UNCOND else positive for chunk in chunks
            ]
            key, value = (torch.stack(tensors).to(query.device, query.dtype) for tensors in zip(*pairs, strict=True))
            self._keys_values[cache_key] = key, value  # (chunks, T, c, width)
        key, value = (t.expand(-1, batch, -1, -1).flatten(0, 1) for t in self._keys_values[cache_key])
        return key, value


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
            if _in_window(kwargs, options):
                out = out + callback(out, query, key, value, options, **kwargs)
        return out

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
) -> Any:
    """Put an image prompt into every cross-attention of a model.

    Args:
        model: the host's ModelPatcher of a U-Net.
        image_prompt: from an adapter made for this kind of U-Net.
        control: strength, text share and gate. Strength 0 returns the model as it is.
        region: (R, H, W) float, 0..1, 1 = the image prompt rules; None = the whole frame.
        start_percent, end_percent: window of the sampling, 0..1.

    Returns:
        A patched clone. The model itself, and every other clone of it, stays as it is.

    Raises:
        ValueError: a model without cross-attention, of another family than the adapter's, or an empty window.
    """
    if not 0.0 <= start_percent <= end_percent <= 1.0:
        raise ValueError(
            f"start_percent is {start_percent}, end_percent {end_percent}: expected 0 <= start <= end <= 1"
        )
    blocks = cross_attention_blocks(model)
    index = match_adapter(image_prompt.adapter.config, blocks)
    if control.image_scale == 0.0:
        return model
    sampling = model.get_model_object("model_sampling")
    prompt = AppliedPrompt(
        image_prompt.keys_values,
        control,
        region,
        float("inf") if start_percent == 0.0 else float(sampling.percent_to_sigma(start_percent)),
        0.0 if end_percent == 1.0 else float(sampling.percent_to_sigma(end_percent)),
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


def _in_window(kwargs: Options, options: Options) -> bool:
    """The window of noise levels that an IP-Adapter pack hands over with its callback."""
    if "sigma_start" not in kwargs or "sigma_end" not in kwargs:
        return True
    return kwargs["sigma_end"] <= float(options["sigmas"][0]) <= kwargs["sigma_start"]


def _chunks(query: Tensor, options: Options) -> tuple[int, tuple[int, ...]]:
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
            return rows // len(chunks), tuple(chunks)
    raise RuntimeError(
        f"MEPA Apply: another patch changed the number of rows in cross-attention to {rows} without saying which are "
        f"negative (the host says {options['cond_or_uncond']}): remove that patch"
    )


def _check_grid(query: Tensor, options: Options) -> None:
    rows, columns = options["activations_shape"][-2:]
    if rows * columns != query.shape[1]:
        raise RuntimeError(
            f"MEPA Apply: another patch changed the number of queries to {query.shape[1]}, the grid is {rows}x{columns}: "
            "without a grid no region can be placed; disconnect the region or remove that patch"
        )
