"""The sizes of an image encoder, and how they are read from its file's tensors. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from ..headers import Shapes


@dataclass(frozen=True)
class EncoderSpec:
    """What an adapter must know of the encoder it was trained with.

    Attributes:
        image_size, patch_size: side of the input and of a patch, pixels.
        num_layers: transformer blocks.
        hidden_size: channels of a token.
        projection_size: channels of the pooled image embedding.
    """

    image_size: int
    patch_size: int
    num_layers: int
    hidden_size: int
    projection_size: int

    @property
    def name(self) -> str:
        """The public name of these sizes, or the sizes."""
        sizes = f"{self.num_layers} layers, hidden {self.hidden_size}, projection {self.projection_size}"
        known = {
            (32, 1280, 1024): "ViT-H/14",
            (48, 1664, 1280): "ViT-bigG/14",
            (24, 1024, 768): "ViT-L/14",
            (24, 1024, 1024): "DINOv2-L/14",
            (40, 1536, 1536): "DINOv2-g/14",
        }
        name = known.get((self.num_layers, self.hidden_size, self.projection_size))
        return f"{name} ({sizes})" if name else f"a ViT of {sizes}"


REGISTERS = "embeddings.register_tokens"
"""Of DINOv2's other kind, whose tokens attend to these too: read as plain DINOv2 it would give other tokens than its own."""

VIT_H = EncoderSpec(image_size=224, patch_size=14, num_layers=32, hidden_size=1280, projection_size=1024)


@dataclass(frozen=True)
class _Layout:
    """Names of the tensors that tell an encoder's sizes; `projection_axis` of `projection` has the embedding's channels."""

    class_token: str
    patches: str
    positions: str
    block: str
    projection: str
    projection_axis: int


_LAYOUTS = (
    _Layout(
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
        "vision_model.encoder.layers.{}.layer_norm1.weight",
        "visual_projection.weight",
        0,
    ),
    _Layout(  # open_clip's own
        "visual.class_embedding",
        "visual.conv1.weight",
        "visual.positional_embedding",
        "visual.transformer.resblocks.{}.ln_1.weight",
        "visual.proj",
        1,
    ),
    _Layout(  # DINOv2, whose pooled embedding is the class token itself
        "embeddings.cls_token",
        "embeddings.patch_embeddings.projection.weight",
        "embeddings.position_embeddings",
        "encoder.layer.{}.layer_scale2.lambda1",
        "embeddings.cls_token",
        -1,
    ),
)


def read_encoder_spec(shapes: Shapes) -> EncoderSpec | None:
    """The sizes of the encoder that a file's tensors are.

    Args:
        shapes: of the file's tensors, from `read_shapes`.

    Returns:
        The sizes; None where the tensors are no CLIP vision model with class token and projection, and no DINOv2 without
        registers (SigLIP, a text encoder, a checkpoint, no file of tensors at all).
    """
    if REGISTERS in shapes:
        return None
    for layout in _LAYOUTS:
        names = (layout.class_token, layout.patches, layout.positions, layout.projection, layout.block.format(0))
        if all(name in shapes for name in names) and len(shapes[layout.patches]) == 4:
            return _spec(layout, shapes)
    return None


def _spec(layout: _Layout, shapes: Shapes) -> EncoderSpec | None:
    hidden_size, _, patch_size, _ = shapes[layout.patches]
    positions, projection = shapes[layout.positions], shapes[layout.projection]
    if len(positions) < 2 or not projection or positions[-2] < 2:  # a class token and at least one patch
        return None
    num_patches = positions[-2] - 1
    side = isqrt(num_patches)
    if side * side != num_patches:
        return None
    num_layers = 0
    while layout.block.format(num_layers) in shapes:
        num_layers += 1
    axis = layout.projection_axis
    if axis >= len(projection):
        return None
    return EncoderSpec(side * patch_size, patch_size, num_layers, hidden_size, projection[axis])
