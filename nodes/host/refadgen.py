"""A trained reference U-Net in the host: a model of its own beside the one that generates, made like it from a RefAdGen file.

The fusion's projections are a part of that model, so that the host loads, counts and frees them with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import Tensor, nn

from ...pfv_core.attention.fusion import Combine
from ...pfv_core.research.refadgen import FUSION, REFERENCE, RefAdGenFile, RefAdGenFileError
from .unet import BlockKey, SelfAttention, family_of_context, self_attention_names, self_attentions
from .whole_layers import whole_layers

NAME = "RefAdGen Load"
FILE = "pfv_refadgen"  # of the file among a model's attachments
PROJECTIONS = "pfv_fusion"  # of its projections among the modules of the host's model
PACKING = ("custom_operations", "scaled_fp8", "quant_config")  # how the base's file is packed, not what the base is


class FusionProjections(nn.Module):
    """K_ref and V_ref of each self-attention, from what goes into the reference U-Net's.

    Args:
        blocks: the self-attentions.
        operations: the host's, for layers that it moves and casts.
        dtype, device: of the weights, which are filled later.
    """

    def __init__(self, blocks: Mapping[BlockKey, SelfAttention], operations: Any, dtype: Any, device: Any) -> None:
        super().__init__()
        self.places = {block: number for number, block in enumerate(blocks)}
        self.to_k, self.to_v = (
            nn.ModuleList(
                operations.Linear(found.width, found.width, bias=False, dtype=dtype, device=device)
                for found in blocks.values()
            )
            for _ in range(2)
        )

    def forward(self, block: BlockKey, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(B, tokens, width) -> key and value of a block, of that size."""
        place = self.places[block]
        return self.to_k[place](hidden), self.to_v[place](hidden)


@whole_layers()
def load_reference(model: Any, file: RefAdGenFile) -> comfy.model_patcher.ModelPatcher:
    """Build the reference U-Net of a file.

    Args:
        model: the host's ModelPatcher of the base that the file was trained with; it stays as it is.
        file: opened.

    Returns:
        A model of the same architecture with the file's weights, for `apply_attention_fusion`.

    Raises:
        RefAdGenFileError: a file for another base, or weights that do not fit.
        ValueError: a model that is no U-Net with self-attention.
    """
    blocks = self_attentions(model, NAME)
    own = model.model.model_config
    _check_base(file, int(own.unet_config["context_dim"]))
    config = _like(own, file)
    offload_device = comfy.model_management.unet_offload_device()
    reference = type(model.model)(config, model_type=model.model.model_type, device=offload_device)
    dtype = config.unet_config["dtype"]
    operations = comfy.ops.pick_operations(dtype, config.manual_cast_dtype)
    projections = FusionProjections(blocks, operations, dtype, offload_device)
    _fill(reference.diffusion_model, projections, file, comfy.utils.unet_to_diffusers(config.unet_config))
    reference.add_module(PROJECTIONS, projections)
    reference.requires_grad_(False).eval()
    patcher = comfy.model_patcher.ModelPatcher(
        reference, load_device=comfy.model_management.get_torch_device(), offload_device=offload_device
    )
    patcher.set_attachments(FILE, file)
    return patcher


def combine_of(reference_model: Any) -> Combine:
    """How a fusion joins where nobody says: as its file was trained for; where none was trained, so that sizes stay."""
    file = None if reference_model is None else reference_model.attachments.get(FILE)
    return Combine.BLEND if file is None else file.combine


def _check_base(file: RefAdGenFile, context_dim: int) -> None:
    if file.context_dim != context_dim:
        raise RefAdGenFileError(
            f"{NAME}: {file.path.name} is for {file.base} with a text context of {file.context_dim} channels, the model's has "
            f"{context_dim} ({family_of_context(context_dim)}): load a file for this model"
        )


def _like(own: Any, file: RefAdGenFile) -> Any:
    """The host's configuration of another model of the same architecture, in the precision that the host has for the file."""
    config = type(own)(own.unet_config)
    vars(config).update(vars(own))
    config.unet_config = dict(own.unet_config)
    for name in PACKING:
        setattr(config, name, None)
    config.optimizations = dict(own.optimizations) | {"fp8": False}
    weights = file.weights(FUSION)
    parameters = sum(torch.Size(shape).numel() for shape in file.shapes.values())
    dtype = comfy.model_management.unet_dtype(
        model_params=parameters,
        supported_dtypes=list(own.supported_inference_dtypes),
        weight_dtype=next(iter(weights.values())).dtype,
    )
    device = comfy.model_management.get_torch_device()
    manual_cast = comfy.model_management.unet_manual_cast(dtype, device, own.supported_inference_dtypes)
    config.set_inference_dtype(dtype, manual_cast)
    return config


def _fill(unet: nn.Module, projections: FusionProjections, file: RefAdGenFile, names: Mapping[str, str]) -> None:
    """Fill a U-Net and its projections; every tensor must find its place and every place its tensor."""
    blocks = {
        f"{name}.{kind}.weight": f"{kind}.{projections.places[block]}.weight"
        for name, block in self_attention_names(unet).items()
        for kind in ("to_k", "to_v")
    }
    of_fusion = {theirs: blocks[ours] for theirs, ours in names.items() if ours in blocks}
    for part, module, places in ((REFERENCE, unet, names), (FUSION, projections, of_fusion)):
        weights = {places.get(name, name): tensor for name, tensor in file.weights(part).items()}
        _check_shapes(file, part, weights, module)
        module.load_state_dict(weights)


def _check_shapes(file: RefAdGenFile, part: str, weights: Mapping[str, Tensor], module: nn.Module) -> None:
    there = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    wrong = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
    if wrong:
        first = wrong[0]
        raise RefAdGenFileError(
            f"{NAME}: {file.path.name} does not fit the model: of its {part}* weights {len(wrong)} are missing, unexpected or of "
            f"another size, the first is {first}: {there.get(first, 'missing')} in the file, {wanted.get(first, 'missing')} in "
            f"the model. Load the checkpoint's family that it was trained with ({file.base})"
        )
