"""BiRefNet and SAM 3.1 at other widths, for the host's own loaders; Depth Anything 3 needs no teaching.

The loaders know both by one key and build them at one size. `register` puts a rule before each: what is narrower than the
released file is built as wide and as deep as the file has it. What leaves no trace in a file is a constant here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import comfy.background_removal.birefnet
import comfy.bg_removal_model
import comfy.supported_models
import comfy.supported_models_base
import torch
from comfy.background_removal.birefnet import BasicDecBlk, BiRefNet, Decoder, SwinTransformer
from comfy.text_encoders import sam3_clip

from . import operators

BIREFNET_WIDTH = 192  # of the released backbone's first level
NARROW_BIREFNET_SIDE = 128  # px that a narrow one works at; the released one at 1024
NARROW_BIREFNET_WIDTH = 24
SAM_WIDTH = 1024  # of the released trunk and of its text encoder

TRUNK = "detector.backbone.vision_backbone.trunk."
TEXT = "detector.backbone.language_backbone.encoder."


def register() -> None:
    """Teach the host's loaders; to be called once in a process that is used for nothing else."""
    comfy.supported_models.models.insert(0, NarrowSAM31)
    load_released = comfy.bg_removal_model.load_background_removal_model

    def load_background_removal_model(sd: dict[str, Any]) -> Any:
        first = sd.get("bb.patch_embed.proj.weight")
        if first is None or first.shape[0] >= BIREFNET_WIDTH:
            return load_released(sd)
        with patch.dict(comfy.bg_removal_model.BG_REMOVAL_MODELS, birefnet=NarrowBiRefNet):
            model = load_released(sd)
        model.image_size = NARROW_BIREFNET_SIDE
        return model

    comfy.bg_removal_model.load_background_removal_model = load_background_removal_model
    if operators.missing():
        comfy.background_removal.birefnet.deform_conv2d = operators.deform_conv2d


class NarrowBiRefNet(BiRefNet):
    """BiRefNet with the released one's four levels and decoder, narrower, two blocks a level."""

    def __init__(
        self, config: Any = None, dtype: torch.dtype | None = None, device: Any = None, operations: Any = None
    ) -> None:
        torch.nn.Module.__init__(self)
        how = {"dtype": dtype, "device": device, "operations": operations}
        width = NARROW_BIREFNET_WIDTH
        self.bb = SwinTransformer(embed_dim=width, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=4, **how)
        channels = [2 * level * width for level in (8, 4, 2, 1)]  # two scales side by side
        self.squeeze_module = torch.nn.Sequential(BasicDecBlk(sum(channels), channels[0], **how))
        self.decoder = Decoder(channels, **how)


class NarrowSAM31(comfy.supported_models.SAM31):
    """SAM 3.1, as wide and as deep as the file has it, with attention in windows alone."""

    @classmethod
    def matches(cls, unet_config: dict[str, Any], state_dict: Any = None, **details: Any) -> bool:
        """The host's question whether a checkpoint is of this class; what it tells besides these two grew over time."""
        if state_dict is None or not super().matches(unet_config, state_dict, **details):
            return False
        return bool(state_dict[f"{TRUNK}patch_embed.proj.weight"].shape[0] < SAM_WIDTH)

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> Any:
        """The host's question for the model."""
        self.unet_config |= narrow_sam_config(
            width=state_dict[f"{TRUNK}patch_embed.proj.weight"].shape[0],
            depth=_count(state_dict, TRUNK + "blocks.{}.norm1.weight"),
            d_model=state_dict["detector.transformer.decoder.query_embed.weight"].shape[1],
        )
        model = super().get_model(state_dict, prefix, device)
        shorten(model.diffusion_model)
        return model

    def clip_target(self, state_dict: Any = None) -> Any:
        """The host's question for the text encoder."""
        sizes = narrow_text_config(
            width=self._clip_stash[f"{TEXT}token_embedding.weight"].shape[1],
            depth=_count(self._clip_stash, TEXT + "transformer.resblocks.{}.ln_1.weight"),
        )

        def text_model(device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> Any:
            with text_sizes(sizes):
                return sam3_clip.SAM3ClipModelWrapper(device, dtype, model_options or {})

        return comfy.supported_models_base.ClipTarget(sam3_clip.SAM3TokenizerWrapper, text_model)


def narrow_sam_config(width: int, depth: int, d_model: int) -> dict[str, Any]:
    """Arguments of the host's SAM3Model that differ from the released ones."""
    return {
        "embed_dim": width,
        "depth": depth,
        "d_model": d_model,
        "mem_dim": d_model,
        "mlp_ratio": 2.0,
        "global_att_blocks": (),
    }


def shorten(sam: Any) -> None:
    """Leave one layer of the detector's decoders and none of its encoder, which takes seconds for 5184 tokens at any width."""
    transformer, geometry = sam.detector.transformer, sam.detector.geometry_encoder
    transformer.encoder.layers = transformer.encoder.layers[:0]
    transformer.decoder.layers = transformer.decoder.layers[:1]
    geometry.encode = geometry.encode[:1]


def narrow_text_config(width: int, depth: int) -> dict[str, int]:
    """Sizes of the text encoder that differ from the released ones."""
    return {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 2, "num_hidden_layers": depth}


@contextmanager
def text_sizes(sizes: dict[str, int]) -> Iterator[None]:
    """The host's text encoder is built with other sizes in this block; its class reads them from a constant."""
    with patch.object(sam3_clip, "SAM3_CLIP_CONFIG", sam3_clip.SAM3_CLIP_CONFIG | sizes):
        yield


def _count(state_dict: Any, key_of_layer: str) -> int:
    layer = 0
    while key_of_layer.format(layer) in state_dict:
        layer += 1
    return layer
