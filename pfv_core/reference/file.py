"""Encoded references as files, keyed by what they were made of: picture, mask, encoder and settings.

    last.<i>, penultimate.<i>   (1 + K_i, D) tokens of image i, class token first
    image_embeds                (B, P)
    uncond_penultimate          (1, 1 + N, D)

All float32. The metadata holds the encoder's sizes, the origin, its key, a hash of the tensors, and the kept shares.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..headers import ODD_CONTENT
from .fit import Fit
from .origin import EncodedReference, ReferenceOrigin, tensor_hash
from .vit import EncoderSpec, HideMode, ImageTokens

FORMAT = "pfv_reference"
FORMAT_VERSION = "1"
SUFFIX = ".safetensors"
_HASH = re.compile(r"[0-9a-f]{64}")


class ReferenceFileError(ValueError):
    """A file that is no saved reference, is damaged, or was made of something else; the message says which."""


def save_reference(path: Path, reference: EncodedReference) -> None:
    """Write an encoded reference.

    The file appears as a whole: it is written under another name beside its place and then renamed, so that several
    processes may save at once and none ever reads half of one.
    """
    tensors = _tensors(reference)
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "encoder": json.dumps(asdict(reference.encoder)),
        "origin": json.dumps(asdict(reference.origin)),
        "key": reference.origin.key,
        "content": _content(tensors),
    }
    if reference.kept_share is not None:
        metadata["kept_share"] = json.dumps(reference.kept_share)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_reference(path: Path) -> EncodedReference:
    """Read an encoded reference as it was saved, bit for bit. Nothing in the file is executed.

    Raises:
        FileNotFoundError: no such file.
        ReferenceFileError: another kind of file, or a damaged one.
    """
    tensors, metadata = _read(path)
    if metadata.get("format") != FORMAT:
        raise ReferenceFileError(
            f"{path.name} is no saved reference (format {metadata.get('format')}, expected {FORMAT}): choose a file that "
            "PFV Save Reference wrote"
        )
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ReferenceFileError(
            f"{path.name} is a saved reference of format version {metadata.get('format_version')}, this package reads "
            f"{FORMAT_VERSION}: update the package, or save it again"
        )
    try:
        encoder = EncoderSpec(**_integers(json.loads(metadata["encoder"])))
        origin = _origin(json.loads(metadata["origin"]))
        key, content = metadata["key"], metadata["content"]
        kept_share = _kept_share(metadata.get("kept_share"))
    except ODD_CONTENT as error:
        raise ReferenceFileError(
            f"{path.name} has no readable metadata of a saved reference ({error}): save it again"
        ) from error
    _check_shapes(path.name, tensors, encoder)
    if key != origin.key or content != _content(tensors):
        raise ReferenceFileError(f"{path.name} is damaged: its content is not what was saved. Save it again")
    count = tensors["image_embeds"].shape[0]
    if kept_share is not None and len(kept_share) != count:
        raise ReferenceFileError(f"{path.name} has {len(kept_share)} kept shares for {count} images: save it again")
    last, penultimate = (tuple(tensors[f"{name}.{i}"] for i in range(count)) for name in ("last", "penultimate"))
    embeds, uncond = tensors["image_embeds"], tensors["uncond_penultimate"]
    return EncodedReference(last, penultimate, embeds, uncond, encoder, origin=origin, kept_share=kept_share)


def check_origin(name: str, found: ReferenceOrigin, asked: Mapping[str, str | float]) -> None:
    """ReferenceFileError unless an origin is what was asked for.

    Args:
        name: of the file, for the message.
        found: its origin.
        asked: attributes of an origin and what they must be; any part of them.
    """
    wrong = [attribute for attribute, value in asked.items() if getattr(found, attribute) != value]
    if "image" in wrong and {"mask", "fit", "threshold"} & set(wrong):
        wrong.remove("image")  # pixels count where they are visible, so with other patches they are not comparable
    words = {"image": "of another picture", "mask": "with another mask", "encoder": "by another encoder"}
    said = [words.get(part, f"with {part} {getattr(found, part)}, asked for {asked.get(part)}") for part in wrong]
    if said:
        raise ReferenceFileError(
            f"{name} was encoded {' and '.join(said)}: choose the file that was made for these inputs, or encode again"
        )


def _tensors(reference: ImageTokens) -> dict[str, Tensor]:
    """Name in the file -> tensor."""
    named = {"image_embeds": reference.image_embeds, "uncond_penultimate": reference.uncond_penultimate}
    for name, images in (("last", reference.last), ("penultimate", reference.penultimate)):
        named.update({f"{name}.{index}": image for index, image in enumerate(images)})
    return {name: tensor.detach().cpu() for name, tensor in named.items()}


def _content(tensors: Mapping[str, Tensor]) -> str:
    return tensor_hash(*(tensors[name] for name in sorted(tensors)))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of one moment: safe_open would open the file twice, and it may be replaced in between."""
    if not path.is_file():
        raise FileNotFoundError(f"no saved reference at {path}")
    content = path.read_bytes()
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return tensors, dict(header.get("__metadata__") or {})
    except (SafetensorError, *ODD_CONTENT) as error:  # of types that torch has not, for one
        raise ReferenceFileError(f"{path.name} is not a whole safetensors file ({error}): save it again") from error


def _integers(sizes: Any) -> dict[str, int]:
    if not isinstance(sizes, dict) or not all(type(size) is int and 0 < size < 1 << 20 for size in sizes.values()):
        raise ValueError(f"sizes {sizes}")
    return dict(sizes)


def _kept_share(text: str | None) -> tuple[float, ...] | None:
    """None: a file from before they were saved."""
    if text is None:
        return None
    shares = json.loads(text)
    if not isinstance(shares, list) or not all(type(share) is float and 0.0 < share <= 1.0 for share in shares):
        raise ValueError(f"kept shares {shares}")
    return tuple(shares)


def _origin(content: Mapping[str, Any]) -> ReferenceOrigin:
    origin = ReferenceOrigin(**content)
    hashes = (origin.image, origin.mask, origin.encoder)
    if not all(isinstance(value, str) and _HASH.fullmatch(value) for value in hashes):
        raise ValueError("a hash that is none")
    Fit(origin.fit)
    HideMode(origin.mode)
    if not (isinstance(origin.threshold, float) and 0.0 <= origin.threshold <= 1.0):
        raise ValueError(f"threshold {origin.threshold}")
    return origin


def _check_shapes(name: str, tensors: Mapping[str, Tensor], encoder: EncoderSpec) -> None:
    """The tensors are those of encoded images of this encoder, and nothing else."""
    width, patches = encoder.hidden_size, (encoder.image_size // encoder.patch_size) ** 2
    count = min(_rows(tensors.get("image_embeds")), len(tensors))
    expected = {"image_embeds": (count, encoder.projection_size), "uncond_penultimate": (1, 1 + patches, width)}
    for index in range(count):
        kept = min(max(_rows(tensors.get(f"last.{index}")), 2), 1 + patches)  # the class token and at least one patch
        expected |= {f"last.{index}": (kept, width), f"penultimate.{index}": (kept, width)}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items() if tensor.dtype == torch.float32}
    if count == 0 or found != expected or len(found) != len(tensors):
        wrong = sorted(
            {key for key in expected.keys() | tensors.keys() if found.get(key) != expected.get(key)} or {"image_embeds"}
        )
        raise ReferenceFileError(
            f"{name} does not hold together as a saved reference of {encoder.name}: {', '.join(wrong[:3])} missing, "
            "unexpected or of another shape or type. Save it again"
        )


def _rows(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.ndim == 0 else tensor.shape[0]
