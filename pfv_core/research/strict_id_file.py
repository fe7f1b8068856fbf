"""Strictly-ID's ControlNet in a file: the network under diffusers' keys, its branches, and what they were trained with.

    controlnet_cond_embedding.conv_in.weight     (C, 4, 3, 3): the cut-out product and the scale map
    controlnet_*, down_blocks.*, mid_block.*     as diffusers' ControlNetModel has them
    branches.pose.*, branches.appearance.*       see `control_branches`

The kind is read from these keys, never from the file's name. Metadata that is needed: `format` = strict_id, `format_version`,
`base`, `heads` (of each cross-attention), `encoder` (its sizes), `std_norm`, `gamma`; all other is kept as it comes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import layers
from ..headers import ODD_CONTENT
from ..reference.encoder_spec import EncoderSpec
from ..reference.fit import Fit
from ..reference.vit import HideMode, ImageTokens
from .control_branches import Branches, BranchSizes

FORMAT = "strict_id"
FORMAT_VERSION = "1"
BRANCHES = "branches."
HINT_KERNEL = "controlnet_cond_embedding.conv_in.weight"
HINT_CHANNELS = 4  # of the product 3, and the scale map


class StrictIDFileError(ValueError):
    """A file that holds no Strictly-ID ControlNet this package can use; the message says what was found and what fits."""


@dataclass(frozen=True)
class StrictIDConfig:
    """What a file says of itself.

    Attributes:
        base: the family of U-Nets it was trained on: sdxl, sd15, or what the metadata names.
        sizes: of the branches.
        encoder: the image encoder whose tokens the branches take.
        std_norm: whether it was trained with Eq. 8.
        gamma: of Eq. 10 as it was trained, timesteps; None = without.
        metadata: as the file has it.
    """

    base: str
    sizes: BranchSizes
    encoder: EncoderSpec
    std_norm: bool
    gamma: float | None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def check_encoder(self, encoder: EncoderSpec, what: str) -> None:
        """ValueError, with both sides, if tokens of this encoder do not belong into these branches."""
        if encoder != self.encoder:
            raise ValueError(
                f"{what} was encoded by {_said(encoder)}; these branches were trained with {_said(self.encoder)}: encode with "
                "that one"
            )

    def check_tokens(self, tokens: ImageTokens, what: str) -> None:
        """ValueError where encoded pictures do not belong into these branches: another encoder's, or with patches that have left
        the sequence. In training all are in their places, hidden ones empty."""
        self.check_encoder(tokens.encoder, what)
        patches = (self.encoder.image_size // self.encoder.patch_size) ** 2
        there = min(len(one) for one in tokens.last) - 1  # without the class token
        if there < patches:
            raise ValueError(
                f"{what} has {there} of its encoder's {patches} patches in the sequence; these branches were trained with all of "
                f"them, hidden ones empty: encode it with mode {HideMode.ZERO.value} and fit {Fit.CROP.value}"
            )


@dataclass(frozen=True, eq=False)
class StrictIDFile:
    """A file's content: the control network's tensors under diffusers' keys, and the branches."""

    config: StrictIDConfig
    network: Mapping[str, Tensor]
    branches: Branches


def save_strict_id(path: Path, config: StrictIDConfig, network: Mapping[str, Tensor], branches: Branches) -> None:
    """Write a file that `load_strict_id` reads.

    Args:
        config: its metadata is kept.
        network: of the ControlNet, under diffusers' keys.
        branches: its own.
    """
    own = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "base": config.base,
        "heads": json.dumps(config.sizes.heads),
        "encoder": json.dumps(asdict(config.encoder)),
        "std_norm": json.dumps(config.std_norm),
        "gamma": json.dumps(config.gamma),
    }
    state = dict(network) | {BRANCHES + key: tensor for key, tensor in branches.state_dict().items()}
    save_file({key: tensor.detach().contiguous() for key, tensor in state.items()}, path, {**config.metadata, **own})


def load_strict_id(path: Path, operations: Any = layers) -> StrictIDFile:
    """Read a file; its tensors are its mapped memory.

    Args:
        path: .safetensors.
        operations: namespace with Linear, of the branches.

    Raises:
        StrictIDFileError: another kind of file, facts or tensors that are missing, another number of hint channels.
        FileNotFoundError: no such file.
    """
    tensors, metadata = _read(path)
    network = {key: tensor for key, tensor in tensors.items() if not key.startswith(BRANCHES)}
    own = {key.removeprefix(BRANCHES): tensor for key, tensor in tensors.items() if key.startswith(BRANCHES)}
    _check_kind(path, network, own)
    config = _config(path, own, metadata)
    with torch.device("meta"):
        branches = Branches(config.sizes, operations)
    _check_shapes(path, own, branches)
    branches.load_state_dict(own, assign=True)
    return StrictIDFile(config, network, branches.requires_grad_(False).eval())


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"no Strictly-ID ControlNet at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise StrictIDFileError(
            f"{path.name} is no whole safetensors file ({error}): pickles (.bin, .pt, .ckpt, .pth) are not read; where it is "
            "one, its download was probably cut short"
        ) from error


def _check_kind(path: Path, network: Mapping[str, Tensor], branches: Mapping[str, Tensor]) -> None:
    if not branches or HINT_KERNEL not in network:
        first = ", ".join(sorted({**network, **branches})[:3])
        plain = "it is a plain ControlNet, for Load ControlNet Model" if HINT_KERNEL in network else "it is none"
        raise StrictIDFileError(
            f"{path.name} holds no Strictly-ID ControlNet ({plain}; its first keys: {first}): expected {HINT_KERNEL} and "
            f"{BRANCHES}*, as python -m lab.train of the repository writes them"
        )
    kernel = network[HINT_KERNEL]
    channels = kernel.shape[1] if kernel.ndim == 4 else 0
    if channels != HINT_CHANNELS:
        raise StrictIDFileError(
            f"{path.name} takes a hint of {channels} channels, a Strictly-ID ControlNet one of {HINT_CHANNELS}: the product's "
            "three and the scale map"
        )


def _config(path: Path, branches: Mapping[str, Tensor], metadata: Mapping[str, str]) -> StrictIDConfig:
    try:
        version = metadata["format_version"]
        heads = tuple(json.loads(metadata["heads"]))
        encoder = EncoderSpec(**json.loads(metadata["encoder"]))
        base, std_norm, gamma = metadata["base"], json.loads(metadata["std_norm"]), json.loads(metadata["gamma"])
        widths = tuple(len(branches[f"pose.attentions.{place}.to_q.weight"]) for place in range(len(heads)))
        context_dim, token_dim = branches["pose.projection.weight"].shape
        _check_facts(heads, widths, encoder, token_dim, std_norm, gamma)
    except ODD_CONTENT as error:
        raise StrictIDFileError(
            f"{path.name} does not say all of what it was trained with ({error!r}): its metadata or a tensor is missing; take "
            "the file as python -m lab.train of the repository wrote it"
        ) from error
    if version != FORMAT_VERSION:
        raise StrictIDFileError(
            f"{path.name} has format_version {version}, this version of the pack reads {FORMAT_VERSION}: update the pack"
        )
    return StrictIDConfig(base, BranchSizes(widths, heads, context_dim, token_dim), encoder, std_norm, gamma, metadata)


def _check_facts(
    heads: tuple[Any, ...], widths: tuple[int, ...], encoder: EncoderSpec, token_dim: int, std_norm: Any, gamma: Any
) -> None:
    """ValueError where facts are none: a text "false" would count as true."""
    for count, width in zip(heads, widths, strict=True):
        if type(count) is not int or count < 1 or width % count:
            raise ValueError(f"{count!r} heads at a width of {width}")
    if not all(type(size) is int and size > 0 for size in asdict(encoder).values()) or encoder.hidden_size != token_dim:
        raise ValueError(f"an encoder of {encoder} for tokens of {token_dim} channels")
    if type(std_norm) is not bool:
        raise ValueError(f"std_norm {std_norm!r}")
    if gamma is not None and not (type(gamma) in (int, float) and math.isfinite(gamma) and gamma > 0):
        raise ValueError(f"gamma {gamma!r}")


def _check_shapes(path: Path, tensors: Mapping[str, Tensor], branches: Branches) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in branches.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    numbers = sorted(key for key, tensor in tensors.items() if not tensor.is_floating_point())
    if numbers:
        raise StrictIDFileError(
            f"{path.name}: {BRANCHES}{numbers[0]} is of type {tensors[numbers[0]].dtype}, expected floating point"
        )
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        first = wrong[0]
        raise StrictIDFileError(
            f"{path.name}: {len(wrong)} tensors of its branches do not fit, {BRANCHES}{first} for one is "
            f"{found.get(first, 'missing')}, expected {expected.get(first, 'none')}"
        )


def _said(encoder: EncoderSpec) -> str:
    return f"{encoder.name}, {encoder.image_size} px"
