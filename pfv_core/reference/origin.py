"""What an encoded reference was made of: picture, mask, encoder and settings, as hashes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor, nn

from .patch_embed import check_visible
from .patch_mask import PatchMask
from .vit import HideMode, ImageTokens

SAMPLES = 64  # values of each weight whose place counts


@dataclass(frozen=True)
class ReferenceOrigin:
    """What an encoded reference was made of.

    Attributes:
        image: hash of the visible pixels; hidden ones have no influence on it.
        mask: hash of what is hidden and of the encoder's grid.
        encoder: hash of the encoder's weights, see `weights_hash`.
        fit, threshold: of the re-binarized mask.
        mode: drop or zero.
    """

    image: str
    mask: str
    encoder: str
    fit: str
    threshold: float
    mode: str

    @property
    def key(self) -> str:
        """One hash of it all: equal keys, equal tokens."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class EncodedReference(ImageTokens):
    """Image tokens that know what they were made of."""

    origin: ReferenceOrigin

    def to(self, device: torch.device) -> EncodedReference:
        """The same tokens on another device."""
        return with_origin(super().to(device), self.origin)


def with_origin(tokens: ImageTokens, origin: ReferenceOrigin) -> EncodedReference:
    """Tokens together with what they were made of."""
    return EncodedReference(**{field.name: getattr(tokens, field.name) for field in fields(ImageTokens)}, origin=origin)


def reference_origin(
    reference_image: Tensor, patch_mask: PatchMask, mode: HideMode | str, encoder: str
) -> ReferenceOrigin:
    """Hash what an encoding depends on.

    Args:
        reference_image: (B, 3, H, W), checked as `masked_pixel_values` checks it.
        patch_mask: the visibility of this image.
        mode: drop or zero.
        encoder: `weights_hash` of the encoder.

    Raises:
        ValueError: an image that does not fit its mask.
    """
    keep_mask = check_visible(reference_image, patch_mask).expand(reference_image.shape[0], -1, -1)
    return ReferenceOrigin(
        image=_visible_hash(reference_image, keep_mask),
        mask=mask_hash(patch_mask),
        encoder=encoder,
        fit=patch_mask.geometry.fit.value,
        threshold=float(patch_mask.threshold),
        mode=mode.value if isinstance(mode, HideMode) else mode,
    )


def mask_hash(patch_mask: PatchMask) -> str:
    """Hash of what a mask hides and of the grid it is for; fit and threshold, which give the patches, are known apart."""
    geometry = patch_mask.geometry
    return tensor_hash(patch_mask.keep_mask, torch.tensor([geometry.input_size, geometry.patch_size]))


def tensor_hash(*tensors: Tensor) -> str:
    """SHA-256 of types, shapes and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _visible_hash(image: Tensor, keep_mask: Tensor) -> str:
    """`tensor_hash` of a batch in float32 whose hidden pixels are 0, an image at a time."""
    digest = hashlib.sha256(f"{torch.float32} {tuple(image.shape)};".encode())
    for one, keep in zip(image, keep_mask, strict=True):
        digest.update(_bytes(torch.where(keep, one.float(), 0.0)))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def weights_hash(module: nn.Module) -> str:
    """Tell two sets of weights apart, in the time it takes to read them once.

    SHA-256 over each weight's name, type and shape, the sum of all its bits as 64-bit integers, and evenly spaced values of it
    (of one below 512 bytes some of its first). It is the same on every device; the same weights in another precision have
    another one, as their tokens differ.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        if tensor.numel() == 0:
            continue
        values = tensor.detach().contiguous().flatten().view(torch.uint8)
        if values.storage_offset() % 8:  # mapped from a file, where nothing has to be aligned
            values = values.clone()
        whole = len(values) // 8 * 8
        words = values[:whole].view(torch.int64)
        places = torch.arange(min(SAMPLES, len(words)), device=words.device) * len(words) // SAMPLES
        digest.update(int(words.sum()).to_bytes(8, "little", signed=True))
        digest.update(torch.cat([words[places].view(torch.uint8), values[whole:]]).cpu().numpy().tobytes())
    return digest.hexdigest()
