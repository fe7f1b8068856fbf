"""What a Strictly-ID ControlNet's branches are given of a picture, in steps and validations alike."""

from __future__ import annotations

import torch
from torch import Tensor

from pfv_core.reference.vit import VisionEncoder, encode_pixels


def last_tokens(vision: VisionEncoder, pixels: Tensor, patches: Tensor) -> Tensor:
    """(B, 3, S, S) pixels and (B, N) bool, True = visible -> (B, 1 + N, E) last tokens, float32; hidden patches stay, empty.

    Paper: section 3.3, "the final classification token and the patch tokens in the DINO-V2 output".
    """
    tokens, _, _ = encode_pixels(vision, pixels, patches, torch.ones_like(patches))
    return torch.stack(tokens)
