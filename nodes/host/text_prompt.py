"""A text that rules in a region, and its keys and values by the projections of the network that runs.

They are computed while sampling and not when a node runs: only then are LoRAs, hooks and the device in force, and a ControlNet
has projections of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .unet import BlockKey, CrossAttentionBlock, cross_attention_at, family_of_context

NODE = "MEPA Apply Text"

OF_THE_WHOLE_PICTURE = frozenset(
    ("pooled_output", "width", "height", "crop_w", "crop_h", "target_width", "target_height", "aesthetic_score")
)
"""What SDXL takes of a text beside its tokens, once for the picture: a region has no part in it, and the page says so."""

INSTEAD = {  # what a conditioning may carry, and which input of the node says it
    "area": "use the node's own region",
    "mask": "use the node's own region",
    "start_percent": "use the node's own start_percent",
    "end_percent": "use the node's own end_percent",
    "clip_start_percent": "encode the text without a schedule of hooks",
    "clip_end_percent": "encode the text without a schedule of hooks",
    "control": "put Apply ControlNet on the main text, and this text into the ControlNet with MEPA Apply to ControlNet",
    "hooks": "put the hooks on the main text, or the LoRA on the model",
}


class TextPrompt:
    """A text for a region, as its tokens: (N, T, C), of one text for all images of a batch or one each."""

    def __init__(self, context: Tensor) -> None:
        self.context = context

    def __len__(self) -> int:
        return len(self.context)

    @classmethod
    def of(cls, conditioning: list[Any]) -> TextPrompt:
        """From the host's CONDITIONING.

        Raises:
            ValueError: several entries, tokens that are no numbers, or an entry that carries what would count for nothing in a
                cross-attention.
        """
        if len(conditioning) != 1:
            raise ValueError(
                f"{NODE}: text has {len(conditioning)} entries, as from Conditioning Combine: give each a node of its own"
            )
        ((context, values),) = conditioning
        ignored = [name for name, value in values.items() if value is not None and name not in OF_THE_WHOLE_PICTURE]
        if ignored:
            known = next((name for name in INSTEAD if name in ignored), ignored[0])
            raise ValueError(
                f"{NODE}: text carries {', '.join(sorted(ignored))}, which would count for nothing here: "
                f"{INSTEAD.get(known, 'give the text as CLIP Text Encode made it')}"
            )
        if not bool(context.isfinite().all()):
            raise ValueError(
                f"{NODE}: text has tokens that are not finite numbers: the text encoder that made it is broken"
            )
        return cls(context.detach().clone())

    def check(self, blocks: list[CrossAttentionBlock]) -> None:
        """ValueError unless it has the width that these cross-attentions take."""
        width, expected = self.context.shape[-1], blocks[0].context_dim
        if width != expected:
            raise ValueError(
                f"{NODE}: the text has {width} channels ({family_of_context(width)}), the model's context has {expected} "
                f"({family_of_context(expected)}): encode it with the CLIP of this model"
            )

    def project(self, network: Any, block: BlockKey, query: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value (N, T, width) of a block, by the network's own weights, on the query's device and in its dtype.

        Raises:
            RuntimeError: the call of the network does not say which one it is.
        """
        context = self.context.to(query)
        return projected(network, block, context, context, query)


def projected(network: Any, block: BlockKey, keys: Tensor, values: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """`TextPrompt.project` of what keys and values are made of, (N, T, C) each."""
    if network is None:
        raise RuntimeError(
            f"{NODE}: the model is being run outside the host's samplers: remove the node from this model"
        )
    attention = cross_attention_at(network, block)
    return attention.to_k(keys).to(query), attention.to_v(values).to(query)


def order_of(rows: tuple[int, ...], count: int, device: torch.device) -> Tensor | None:
    """(rows,) int64, which of `count` texts each row has; None where they are the rows."""
    if rows == tuple(range(count)):
        return None
    return torch.tensor(rows).to(device)
