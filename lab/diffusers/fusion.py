"""A reference U-Net's features in the self-attentions of a diffusers U-Net, by the mathematics of `pfv_core.attention.fusion`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from pfv_core.attention.fusion import FusionControl, fused_attention, fusion_rows

from .layers import attention_layers
from .unet import Scores, attend_like

KeysValues = Mapping[str, tuple[Tensor, Tensor]]
"""Name of a self-attention -> key and value of the reference, (B, tokens, width)."""


def self_attentions(unet: UNet2DConditionModel) -> list[str]:
    """Names of every self-attention beside a cross-attention, in the order of adapter files: input, output, middle."""
    return [f"{name.removesuffix('.attn2')}.attn1" for name in attention_layers(unet).values()]


@contextmanager
def recorded(unet: UNet2DConditionModel) -> Iterator[dict[str, Tensor]]:
    """What goes into each self-attention of a pass inside, (B, tokens, width), by the self-attention's name."""
    found: dict[str, Tensor] = {}

    def record(name: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found[name] = args[0]

    with ExitStack() as stack:
        for name in self_attentions(unet):
            stack.callback(unet.get_submodule(name).register_forward_pre_hook(partial(record, name)).remove)
        yield found


@contextmanager
def fused(
    unet: UNet2DConditionModel,
    keys_values: KeysValues,
    control: FusionControl = FusionControl(),  # noqa: B008, frozen
    input_share: Tensor | None = None,
) -> Iterator[None]:
    """Run a U-Net that sees a product.

    Args:
        unet: gradients flow through it into what is given.
        keys_values: of a product for each sample, or for each of some samples where the batch is these samples several times
            over, as guidance has it. Of scale 0 they are left out.
        control: scale and way to combine.
        input_share: (B, C, h, w), what the mask adds to the first convolution (see `pfv_core.research.mask_input`), for as
            many samples; None = nothing.

    Under gradient checkpointing the backward pass recomputes the forward pass: keep it inside this context too.

    Raises:
        ValueError: another U-Net's keys and values, a processor that this one cannot stand in for; inside, a batch that is
            not the samples a whole number of times.
    """
    names = self_attentions(unet)
    if keys_values.keys() != set(names):
        raise ValueError(
            f"the reference has keys and values for {len(keys_values)} self-attentions, the U-Net has {len(names)}: use a "
            "reference U-Net of the same family"
        )
    with ExitStack() as stack:
        if input_share is not None:
            stack.callback(unet.conv_in.register_forward_hook(partial(_add_share, input_share)).remove)
        for name in names if control.scale != 0.0 else ():
            attention = unet.get_submodule(name)
            assert isinstance(attention, Attention)
            plain = attention.processor
            fusing: Any = _Processor(attend_like(plain, name), keys_values[name], control)
            attention.set_processor(fusing)
            stack.callback(attention.set_processor, plain)
        yield


class _Processor:
    """What stands in for the processor of one self-attention."""

    def __init__(self, scores: Scores, reference: tuple[Tensor, Tensor], control: FusionControl) -> None:
        self._scores = scores
        self._reference = reference
        self._control = control

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        residual = hidden_states
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        key_ref, value_ref = (_for_all(tensor.to(query), len(query)) for tensor in self._reference)
        attend: Callable[[Tensor, Tensor, Tensor], Tensor] = partial(self._scores, attn, None)
        layout = [fusion_rows(None, query.shape[1])]
        out = fused_attention(query, (key, value), (key_ref, value_ref), self._control, layout, attend)
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


def _add_share(share: Tensor, _module: nn.Module, _args: Any, hidden: Tensor) -> Tensor:
    return hidden + _for_all(share.to(hidden), len(hidden))


def _for_all(tensor: Tensor, batch: int) -> Tensor:
    """Samples -> the batch that repeats them."""
    times, left = divmod(batch, len(tensor))
    if left:
        raise ValueError(f"the product is given for {len(tensor)} samples, the batch has {batch}: give 1, or as many")
    return tensor if times == 1 else tensor.repeat(times, *(1 for _ in tensor.shape[1:]))
