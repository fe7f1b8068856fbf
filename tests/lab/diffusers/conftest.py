"""The narrow U-Net, once for each of diffusers' two processors."""

from __future__ import annotations

import pytest
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from .models import new_unet


@pytest.fixture(scope="module")
def demo_unet():
    return new_unet("demo")


@pytest.fixture(params=[AttnProcessor, AttnProcessor2_0], ids=["plain", "fused"])
def unet(request, demo_unet):
    demo_unet.set_attn_processor(request.param())
    return demo_unet
