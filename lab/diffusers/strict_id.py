"""Strictly-ID's ControlNet in diffusers: a ControlNetModel that reads the cut-out product, with pose and appearance branches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from pfv_core.reference.encoder_spec import EncoderSpec
from pfv_core.research.control_branches import Branches, BranchInputs, BranchSizes, new_branches
from pfv_core.research.strict_id_file import HINT_CHANNELS, StrictIDConfig, load_strict_id, save_strict_id

from .layers import attention_layers

HINT_WIDTHS = (
    16,
    32,
    96,
    256,
)  # of the layers that bring the hint to the latents' size, in SD1.5's and SDXL's ControlNets
PRODUCT_CHANNELS = 3

DOWN, MIDDLE = "down_block_additional_residuals", "mid_block_additional_residual"  # how a U-Net is given residuals

Residuals = tuple[list[Tensor], Tensor]
"""For a U-Net's skips, and for its middle."""


class StrictIDNet(nn.Module):
    """A ControlNet with its branches as one module: what is trained, and what samples.

    Args:
        controlnet: with a hint of four channels.
        branches: made for it.

    Raises:
        ValueError: branches of another ControlNet.
    """

    def __init__(self, controlnet: ControlNetModel, branches: Branches) -> None:
        super().__init__()
        self.controlnet = controlnet
        self.branches = branches
        branches.attach(_attentions(controlnet))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        controlnet_cond: Tensor,
        inputs: BranchInputs | None = None,
        **conditions: Any,
    ) -> Residuals:
        """What is added to a U-Net.

        Args:
            sample: (B, 4, h, w) noisy latents.
            timestep: (B,) or one.
            controlnet_cond: (B, 4, H, W), 0..1, the product on black and the scale map (section 3.2).
            inputs: the pictures of the branches; None = none.
            conditions: the ControlNetModel's others, the text among them.
        """
        self.branches.begin(inputs, timestep, sample)
        conditions["return_dict"] = False
        residuals: Residuals = self.controlnet(sample, timestep, controlnet_cond=controlnet_cond, **conditions)
        return residuals


@contextmanager
def controlled(
    unet: UNet2DConditionModel, net: Callable[..., Residuals], hint: Tensor, inputs: BranchInputs | None = None
) -> Iterator[None]:
    """Run a U-Net with a net's residuals in it.

    Args:
        unet: called with sample, timestep and text, of which the net is given the same, and SDXL's added conditions. Residuals
            that it is called with, another ControlNet's, stay: the net's are added to them.
        net: a `StrictIDNet`, or what somebody put around it.
        hint: (B, 4, H, W), see `StrictIDNet`; a batch of n * B, as guidance has it, takes it n times.
        inputs: pictures for one of its samples or B of them, likewise.
    """

    def add(_unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = ("sample", "timestep", "encoder_hidden_states")
        if len(args) > len(names):
            raise TypeError(f"the U-Net was called with {len(args)} arguments by place, expected {', '.join(names)}")
        given = dict(zip(names, args, strict=False)) | kwargs
        sample = given["sample"]
        times = len(sample) // len(hint)
        down, middle = net(
            given["sample"],
            given["timestep"],
            hint.to(sample).repeat(times, 1, 1, 1),
            None if inputs is None else inputs.repeated(times),
            encoder_hidden_states=given["encoder_hidden_states"],
            added_cond_kwargs=given.get("added_cond_kwargs"),
        )
        others = given.get(DOWN) or [0.0] * len(down), given.get(MIDDLE)
        residuals = {
            DOWN: [residual.to(sample) + other for residual, other in zip(down, others[0], strict=True)],
            MIDDLE: middle.to(sample) + (0.0 if others[1] is None else others[1]),
        }
        return (), {**given, **residuals}

    handle = unet.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def new_strict_id(
    unet: UNet2DConditionModel, encoder: EncoderSpec, seed: int, hint_widths: tuple[int, ...] = HINT_WIDTHS
) -> StrictIDNet:
    """An untrained one, float32, on the U-Net's device.

    Args:
        unet: whose encoder it begins as.
        encoder: the image encoder of the pictures.
        seed: of what begins at random; torch's global generator is left as it is.
        hint_widths: channels of the layers that read the hint.

    Returns:
        The hint's fourth channel and the zero convolutions are 0: the U-Net is at first what it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # and no device's: torch.manual_seed would set them all
        controlnet = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=hint_widths, conditioning_channels=HINT_CHANNELS
        )
    with torch.no_grad():
        controlnet.controlnet_cond_embedding.conv_in.weight[:, PRODUCT_CHANNELS:].zero_()
    return _with_branches(controlnet, encoder, seed).to(unet.device)


def strict_id_from(controlnet: ControlNetModel, encoder: EncoderSpec, seed: int) -> StrictIDNet:
    """One that begins as a trained ControlNet whose hint is a picture, float32, on its device; the ControlNet stays as it is.

    Args:
        controlnet: with a hint of three channels, such as one of depth or of edges.
        encoder: the image encoder of the pictures.
        seed: of what begins at random.

    Returns:
        The hint's fourth channel is 0: without pictures, and whatever the scale map is, it is the ControlNet.

    **Deviation**: the paper begins with a copy of the U-Net's encoder; one that reads outlines already learns in fewer steps.
    """
    begun = copy.deepcopy(controlnet).requires_grad_(True)
    embedding = begun.controlnet_cond_embedding
    three = embedding.conv_in
    with torch.random.fork_rng(devices=[]):
        four = nn.Conv2d(HINT_CHANNELS, three.out_channels, three.kernel_size, padding=three.padding)
    with torch.no_grad():
        four.weight.zero_()
        four.weight[:, :PRODUCT_CHANNELS] = three.weight
        four.load_state_dict({"weight": four.weight, "bias": three.bias})
    embedding.conv_in = four
    begun.register_to_config(conditioning_channels=HINT_CHANNELS)
    return _with_branches(begun, encoder, seed).to(controlnet.device)


def _with_branches(controlnet: ControlNetModel, encoder: EncoderSpec, seed: int) -> StrictIDNet:
    nn.Module.to(controlnet, torch.float32)  # diffusers' own warns where there is nothing to warn of
    attentions = _attentions(controlnet)
    sizes = BranchSizes(
        widths=tuple(attention.to_q.in_features for attention in attentions),
        heads=tuple(attention.heads for attention in attentions),
        context_dim=attentions[0].to_k.in_features,
        token_dim=encoder.hidden_size,
    )
    with torch.random.fork_rng(devices=[]):
        return StrictIDNet(controlnet, new_branches(sizes, attentions, seed))


def save_strict_id_net(file: Path, net: StrictIDNet, config: StrictIDConfig, dtype: torch.dtype) -> None:
    """Write a net as the nodes load it, see `pfv_core.research.strict_id_file`; its own weights stay as they are."""
    network = {key: tensor.to(dtype) for key, tensor in net.controlnet.state_dict().items()}
    branches = Branches(net.branches.sizes)
    branches.load_state_dict(net.branches.state_dict())
    save_strict_id(file, config, network, branches.to(dtype))


def load_into(net: StrictIDNet, file: Path, encoder: EncoderSpec) -> StrictIDConfig:
    """Fill a net with a file's weights, and return what the file says of itself.

    Args:
        net: of the U-Net that the file was trained with.
        file: of `save_strict_id_net`.
        encoder: of the pictures that the net will be given: another one may have tokens of the same width.

    Raises:
        StrictIDFileError: see `load_strict_id`.
        ValueError: a file for another U-Net or another image encoder.
    """
    found = load_strict_id(file)
    if found.config.sizes != net.branches.sizes:
        raise ValueError(
            f"{file} has branches of {found.config.sizes}, this U-Net's ControlNet takes {net.branches.sizes}: give a file of "
            "the same base"
        )
    found.config.check_encoder(encoder, "what this net is given")
    _check_network(file, found.network, net.controlnet)
    net.controlnet.load_state_dict(dict(found.network))
    net.branches.load_state_dict(found.branches.state_dict())
    return found.config


def _check_network(file: Path, tensors: Mapping[str, Tensor], controlnet: ControlNetModel) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in controlnet.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        raise ValueError(
            f"{file}: {len(wrong)} tensors are not those of this U-Net's ControlNet, {wrong[0]} for one is "
            f"{found.get(wrong[0], 'missing')}, expected {expected.get(wrong[0], 'none')}: give a file of the same base"
        )


def _attentions(controlnet: Any) -> list[Any]:
    """The cross-attentions in running order, the middle's last."""
    return [controlnet.get_submodule(name) for name in attention_layers(controlnet).values()]
