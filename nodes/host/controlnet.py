"""Image prompts in a ControlNet's cross-attentions, by the hooks of the U-Net's.

The host hands its ControlNets no options, and a block without options runs no patch (0.3.64: `cldm.ControlNet.forward`
calls `module(h, emb, context)`). Two doors are open all the same. Whatever a ControlNet names in `extra_conds` is passed
to its network, and the options and the map of the call's facts are among it; and a network's blocks take options where they
are given some. So the network is wrapped: while it runs, each block with cross-attention is handed options that hold our
patches alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from comfy.controlnet import ControlLora

from ...pfv_core.attention.transformers import transformer_of
from .cross_attention import ImagePromptPatch, PromptSlot, image_prompt_patches, places
from .facts import CALL, KEY, MAP, Options, Run
from .taken_apart import map_of
from .told import tell
from .tracking import facts_hook, read_map
from .unet import BlockKey, CrossAttentionBlock, cross_attentions

NODE = "MEPA Apply to ControlNet"
OPTIONS = "transformer_options"

Slots = dict[BlockKey, PromptSlot]


class Unhooked:
    """A ControlNet whose hook of ours the host does not count among those that change weights: where it moves weights as they are
    needed (dynamic VRAM) it would load the model of the sampling once more for such.

    Mixed into the ControlNet's own class, which keeps it in copies. The hook itself is found all the same: what it lets a run
    carry the host looks for in `extra_hooks`.
    """

    extra_hooks: Any
    hooks_of_others: Any

    @classmethod
    def of(cls, control_net: Any) -> Any:
        """A copy of a ControlNet, which lets the runs that it is part of carry their facts."""
        made = control_net.copy()
        kind = type(control_net)
        made.__class__ = kind if issubclass(kind, cls) else type(kind.__name__, (cls, kind), {})
        made.hooks_of_others = getattr(control_net, "hooks_of_others", control_net.extra_hooks)
        made.extra_hooks = facts_hook(made.hooks_of_others)
        return made

    def copy(self) -> Any:
        """The host's way to make another one of the same network."""
        made: Any = super().copy()  # type: ignore[misc]
        made.__class__ = type(self)
        made.hooks_of_others = self.hooks_of_others
        return made

    def get_control(
        self, x_noisy: torch.Tensor, t: Any, cond: Options, batched_number: int, transformer_options: Options
    ) -> Any:
        """The host's call for the residuals of some rows. Their map is found here: the network gets a latent of other values."""
        known = {**cond, MAP: map_of(x_noisy, cond.get(MAP), transformer_options)}
        return super().get_control(x_noisy, t, known, batched_number, transformer_options)  # type: ignore[misc]

    def get_extra_hooks(self) -> list[Any]:
        """The host's question what changes weights, of this ControlNet and those before it."""
        own, self.extra_hooks = self.extra_hooks, self.hooks_of_others
        try:
            found: list[Any] = super().get_extra_hooks()  # type: ignore[misc]
        finally:
            self.extra_hooks = own
        return found


class PromptedNetwork:
    """Stands where the host has a ControlNet's network, and is that network but for its cross-attentions."""

    def __init__(self, network: torch.nn.Module, patch: ImagePromptPatch, slots: Slots) -> None:
        self.network = network
        self.patch = patch
        self.slots = slots

    def __getattr__(self, name: str) -> Any:
        if name == "network":  # not set yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.network, name)

    def __call__(self, x: torch.Tensor, **inputs: Any) -> Any:
        """What the network returns; the host's arguments, with what `extra_conds` adds to them."""
        options = self._options(x, inputs.pop(OPTIONS, None) or {}, inputs.pop(MAP, None))
        handles = [
            block.register_forward_pre_hook(partial(_give_options, options, key), with_kwargs=True)
            for key, block in self._blocks().items()
        ]
        try:
            return self.network(x=x, **inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _options(self, x: torch.Tensor, given: Options, facts: torch.Tensor | None) -> Options:
        run: Run | None = given.get(KEY)
        if run is None:
            raise RuntimeError(
                f"{NODE}: the sampler did not hand this ControlNet its options, without which nobody knows which rows are "
                "negative: use the host's own samplers"
            )
        options = {
            KEY: run,
            CALL: read_map(run, map_of(x, facts, given), x, given["sigmas"], given, network=self.network),
            "cond_or_uncond": given.get("cond_or_uncond"),
        }
        return options | {"original_shape": list(x.shape), "patches_replace": {"attn2": self.slots}}

    def _blocks(self) -> dict[tuple[str, int], torch.nn.Module]:
        network: Any = self.network
        return {
            key: network.middle_block if key[0] == "middle" else network.input_blocks[key[1]]
            for key in {key[:2] for key in self.slots}
        }


def apply_to_control_net(control_net: Any, model: Any) -> Any:
    """Put a model's image prompts into a ControlNet.

    Args:
        control_net: the host's ControlNet of a U-Net.
        model: the host's ModelPatcher, after `apply_image_prompt`.

    Returns:
        A copy with the same regions, windows and balance, which shares the network's weights; the ControlNet itself
        where the model carries no image prompt.

    Raises:
        ValueError: no ControlNet with cross-attention, or one of another family than the adapters.
    """
    patches = image_prompt_patches(model)
    if not patches:
        tell(f"{NODE}: the model carries no image prompt, the ControlNet stays as it is")
        return control_net
    patch = max(patches, key=lambda found: len(found.prompts))
    network = _network(control_net)
    blocks = cross_attentions(network)
    known = [places(prompt, blocks) for prompt in patch.prompts]
    _check_weights(patch, blocks)
    slots = {
        block.key: PromptSlot(patch, block.key, None, tuple(of_prompt[block.key] for of_prompt in known))
        for block in blocks
    }
    prompted = Unhooked.of(control_net)  # the model that is sampled may be another one, without prompts
    prompted.control_model = PromptedNetwork(network, patch, slots)
    prompted.extra_conds = [*(name for name in prompted.extra_conds if name not in (OPTIONS, MAP)), OPTIONS, MAP]
    return prompted


def _check_weights(patch: ImagePromptPatch, blocks: list[CrossAttentionBlock]) -> None:
    """A ControlNet of a fuller model may have transformers that the U-Net, whose layers the weights are for, has not."""
    own = {transformer_of(block.layer) for block in blocks}
    for prompt in patch.prompts:
        missing = own.difference(own if prompt.of_layers is None else prompt.of_layers)
        if missing:
            raise ValueError(
                f"{NODE}: the ControlNet has {min(map(str, missing))}, which the model has not, so nobody says what weight an "
                "image prompt has there: use a ControlNet made for this model, or weights with layers all"
            )


def _network(control_net: Any) -> Any:
    if isinstance(control_net, ControlLora):
        raise ValueError(
            "MEPA Apply to ControlNet: a control-LoRA has no network of its own before sampling: use a full ControlNet"
        )
    network: Any = getattr(control_net, "control_model", None)
    network = getattr(network, "network", network)
    if not all(hasattr(network, name) for name in ("input_blocks", "middle_block")):
        raise ValueError(
            f"MEPA Apply to ControlNet: this is a {type(control_net).__name__} of {type(network).__name__}, which has no "
            "cross-attention to put an image prompt into: use a ControlNet for SDXL or SD1.5"
        )
    return network


def _give_options(
    options: Options, block: tuple[str, int], module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A forward hook of torch's: the block's own options, which its transformers write to."""
    return args, {**kwargs, OPTIONS: {**options, "block": block}}
