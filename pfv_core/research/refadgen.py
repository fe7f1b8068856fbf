"""What RefAdGen trains, in one file: the reference U-Net, the fusion's projections, the mask's input channel.

    reference.<name>        every weight of the reference U-Net, named as diffusers names it
    fusion.<name>           to_k and to_v of the fusion in a self-attention, called as that self-attention's own are:
                            fusion.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight
    mask_input.weight       the fifth input channel of the generation U-Net, see `mask_input`; none where it was not trained

The metadata say what it was trained for: `format` = refadgen, `base` and `context_dim` (which U-Nets), `combine` (how the
fusion joins, see `attention.fusion`); `licence` where one was named. All other metadata is kept as it comes.

Paper: RefAdGen, "Dual U-Net Architecture" and "Attention Fusion Module". The reference U-Net is trained whole; of the
generation U-Net "only the modified input layer and the projection matrices within our AFM modules" are. **Deviation**: the
paper does not say which matrices those are. Here they are K_ref's and V_ref's, which read the reference U-Net's features and
begin as copies of the layer's own; Q, K, V and the output of the layer stay the base's, and so do the other four channels and
the bias of the input layer: with lambda 0 and a channel of zeros the generation U-Net is the base to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..attention.fusion import Combine
from .mask_input import CONTEXT_DIM, KERNEL
from .mask_input import REFERENCE as REFERENCE

FORMAT = "refadgen"
FUSION = "fusion."


class RefAdGenFileError(ValueError):
    """A file that holds nothing RefAdGen trained; the message says what was found and what fits."""


@dataclass(frozen=True)
class RefAdGenFile:
    """A file, its weights not yet read.

    Attributes:
        path: of the file.
        base: family of the U-Nets that it was trained with: sdxl, sd15.
        context_dim: width of their text context: 768 in SD1.5, 2048 in SDXL.
        combine: how the fusion joins that it was trained for.
        shapes: of the weights, by their keys.
        metadata: as the file has it.
    """

    path: Path
    base: str
    context_dim: int
    combine: Combine
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    def weights(self, part: str) -> dict[str, Tensor]:
        """The weights of REFERENCE or of FUSION, without the part's name, on the CPU in the file's dtype."""
        with safe_open(self.path, framework="pt") as file:
            return {key.removeprefix(part): file.get_tensor(key) for key in self.shapes if key.startswith(part)}


def open_refadgen(path: Path) -> RefAdGenFile:
    """Look into a file.

    Raises:
        RefAdGenFileError: another kind of file, one that does not say what it was trained for, a damaged one.
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no RefAdGen file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118, a file handle
    except SafetensorError as error:
        raise RefAdGenFileError(
            f"{path.name} is no whole safetensors file ({error}): fetch or train it again"
        ) from error
    for part, what in ((REFERENCE, "a reference U-Net"), (FUSION, "the fusion's projections")):
        if not any(key.startswith(part) for key in shapes):
            found = ", ".join(sorted(shapes)[:3])
            raise RefAdGenFileError(
                f"{path.name} does not hold {what} (its first keys: {found}): expected a file that "
                "python -m lab.train of the repository writes with a preset of RefAdGen"
            )
    try:
        base, context_dim = metadata["base"], int(metadata[CONTEXT_DIM])
        return RefAdGenFile(path, base, context_dim, Combine(metadata["combine"]), shapes, metadata)
    except (KeyError, ValueError) as error:
        told = {name: metadata.get(name) for name in ("base", CONTEXT_DIM, "combine")}
        raise RefAdGenFileError(
            f"{path.name} does not say what it was trained for: its metadata have {told}, expected a base, a number and one of "
            f"{[one.value for one in Combine]}. Write it again with python -m lab.train of the repository"
        ) from error


def save_refadgen(
    path: Path,
    reference: Mapping[str, Tensor],
    fusion: Mapping[str, Tensor],
    mask_kernel: Tensor | None,
    *,
    base: str,
    context_dim: int,
    metadata: Mapping[str, str],
) -> None:
    """Write a file that `open_refadgen` reads, trained for Eq. 1 as printed: combine is add.

    Args:
        path: of the file.
        reference: every weight of the reference U-Net, by diffusers' names.
        fusion: to_k and to_v of each self-attention, by the names of its own.
        mask_kernel: (C, 1, 3, 3); None = it was not trained.
        base: family of the U-Nets: sdxl, sd15.
        context_dim: width of their text context.
        metadata: what else is to be kept.
    """
    tensors = {f"{REFERENCE}{name}": tensor for name, tensor in reference.items()}
    tensors |= {f"{FUSION}{name}": tensor for name, tensor in fusion.items()}
    if mask_kernel is not None:
        tensors[KERNEL] = mask_kernel
    own = {"format": FORMAT, "base": base, CONTEXT_DIM: str(context_dim), "combine": Combine.ADD.value}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {**metadata, **own})
