"""Image prompts, and texts with regions of their own, in the host's cross-attention.

Each patched block holds a `PromptSlot` in the host's `attn2` replace slot. All blocks of a model share one
`ImagePromptPatch`, which holds the image prompts and never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor

from ...pfv_core.attention.control import Attend, PromptControl
from ...pfv_core.attention.formula import text_image_attention
from ...pfv_core.attention.general import general_attention
from .adapter import ImagePrompt
from .facts import HIDDEN, Call, Options, Run, call_of
from .regional_prompt import NODE, Place, PromptRun, RegionalPrompt
from .schedule import Window
from .slots import Slot, fill_slot, host_attention, slot_of, tell_what_is_taken
from .text_prompt import TextPrompt
from .tracking import track
from .unet import BlockKey, CrossAttentionBlock, cross_attention_blocks, match_adapter


class ImagePromptPatch:
    """Image prompts of a model, shared by all its cross-attentions and never changed."""

    def __init__(self, prompts: tuple[RegionalPrompt, ...], blocks: Collection[BlockKey]) -> None:
        self.prompts = prompts
        self.blocks = blocks

    def __deepcopy__(self, memo: dict[int, Any]) -> ImagePromptPatch:
        return self

    def begin(self, run: Run) -> PromptRun:
        """What is computed once for a run; ValueError if a prompt does not fit it."""
        tell_what_is_taken(run, self, PromptSlot.kind, self.blocks, NODE)
        return PromptRun(self.prompts, run)

    def attention(
        self,
        layers: tuple[Place, ...],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        options: Options,
        base: Attend | None,
    ) -> Tensor:
        """Cross-attention of one block.

        Args:
            layers: per prompt, the index of this block in its adapter, or a text's own name for it.
            query: (rows, queries, width) after to_q; key, value: (rows, text tokens, width) after to_k, to_v.
            options: the host's extra_options of this block.
            base: what was in the slot before, if anything: the text's attention then.
        """
        attend, text, call = host_attention(options), (key, value), call_of(options, NODE)
        run: PromptRun = call.run.state(self)
        part = run.part(call, query, options, run.weights_at(layers))
        images = [run.keys_values(index, layers[index], part, query, options) for index in part.controls]
        if part.weights is not None:
            return general_attention(query, text, images, part.weights, attend, base)
        if part.plans is not None:
            return text_image_attention(query, text, images, part.plans, attend, base)
        return (base or attend)(query, key, value)


class PromptSlot(Slot):
    """The callable in the replace slot of one cross-attention block."""

    kind = "attn2"
    patch: ImagePromptPatch

    def __init__(self, patch: ImagePromptPatch, block: BlockKey, base: Any, layers: tuple[Place, ...]) -> None:
        super().__init__(patch, block, base)
        self.layers = layers
        self.added: tuple[tuple[Callable[..., Tensor], Options], ...] = ()

    @classmethod
    def on(cls, before: Any, patch: ImagePromptPatch, block: BlockKey, layer: Place) -> PromptSlot:
        """The slot with one prompt more than `before`, which is another pack's callable, one of these, or None."""
        if not isinstance(before, PromptSlot):
            return cls(patch, block, before, (layer,))
        slot = cls(patch, block, before.base, (*before.layers, layer))
        slot.added = before.added
        return slot

    def attention(self, query: Tensor, key: Tensor, value: Tensor, options: Options, base: Attend | None) -> Tensor:
        """The image prompts' attention, and what other packs added to it."""
        out = self.patch.attention(self.layers, query, key, value, options, base)
        for callback, kwargs in self.added:
            if _in_window(kwargs, call_of(options, NODE)):
                out = out + callback(out, query, key, value, options, **kwargs)
        return out

    def reaches_others(self, options: Options) -> bool:
        """What was added is called too, and with a text what changes its tokens."""
        return bool(self.added) or HIDDEN in options or super().reaches_others(options)

    def add(self, callback: Callable[..., Tensor], **kwargs: Any) -> None:
        """What IP-Adapter packs call on a slot that is taken: their term is added to the output."""
        self.added = (*self.added, (callback, kwargs))


def apply_image_prompt(
    model: Any,
    image_prompt: ImagePrompt,
    control: PromptControl,
    region: Tensor | None = None,
    window: Window = Window(),  # noqa: B008, frozen
) -> Any:
    """`apply_prompt` of one that is not at hand as a whole."""
    return apply_prompt(model, RegionalPrompt(image_prompt, control, region, window))


def apply_prompt(model: Any, prompt: RegionalPrompt) -> Any:
    """Put a prompt into every cross-attention of a model.

    Args:
        model: the host's ModelPatcher of a U-Net.
        prompt: an image's, from an adapter made for this kind of U-Net, or a text's. Scale 0 returns the model as it is.

    Returns:
        A patched clone. The model itself, and every other clone of it, stays as it is.

    Raises:
        ValueError: a model without cross-attention, or of another family than the adapter's or the text's, or without a layer
            that has a weight. What only the run can tell (batch, frame, schedule) is looked at when sampling begins.
    """
    blocks = cross_attention_blocks(model)
    index = places(prompt, blocks)
    prompt = prompt.on([block.layer for block in blocks])
    if prompt.control.image_scale == 0.0:
        return model
    if not isinstance(prompt.image_prompt, TextPrompt):
        _ = prompt.image_prompt.keys_values  # computed now: the adapter's weights are not needed while sampling
    clone = model.clone()
    extended: dict[ImagePromptPatch | None, ImagePromptPatch] = {}  # one, unless another pack has taken some slots over
    for block in blocks:
        before = slot_of(clone, PromptSlot.kind, block.key)
        old = before.patch if isinstance(before, PromptSlot) else None
        if old not in extended:
            extended[old] = ImagePromptPatch((*(old.prompts if old else ()), prompt), index)
            track(clone, extended[old], instead_of=old)
        fill_slot(clone, PromptSlot.on(before, extended[old], block.key, index[block.key]))
    return clone


def places(prompt: RegionalPrompt, blocks: list[CrossAttentionBlock]) -> dict[BlockKey, Place]:
    """What a prompt knows each block of a network by; ValueError names both sides where they do not belong together."""
    if isinstance(prompt.image_prompt, TextPrompt):
        prompt.image_prompt.check(blocks)
        return {block.key: block.key for block in blocks}
    return {**match_adapter(prompt.image_prompt.adapter.config, blocks)}


def image_prompt_patches(model: Any) -> list[ImagePromptPatch]:
    """The image prompts that a model carries; one entry unless another pack has taken some of the slots over."""
    slots = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {}).values()
    return list({id(slot.patch): slot.patch for slot in slots if isinstance(slot, PromptSlot)}.values())


def _in_window(kwargs: Options, call: Call) -> bool:
    """The window of noise levels that an IP-Adapter pack hands over with its callback."""
    if "sigma_start" not in kwargs or "sigma_end" not in kwargs:
        return True
    start, end = kwargs["sigma_start"], kwargs["sigma_end"]
    return bool(end <= call.sigma <= start)
