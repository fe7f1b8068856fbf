"""Adapter files: the public IP-Adapter layouts and our own, recognised by keys and shapes, never by file name.

    image_proj.<name>                     the image projection
    ip_adapter.<n>.to_k_ip.weight         (width, context_dim); n = 1, 3, 5, ... over the cross-attentions in the order
    ip_adapter.<n>.to_v_ip.weight         input, output, middle

Our own files add metadata: `format` = mepa, `format_version`, `base`, `kind`, and `layers`, the place of each
cross-attention, so that any U-Net can have an adapter. A tokens adapter, whose weights do not tell, adds `num_tokens`.
All other metadata is kept as it comes.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import layers
from ..attention.unet_layout import LAYOUTS, AttentionLayer, Side
from ..headers import ODD_CONTENT
from .model import FORMAT, Adapter, AdapterConfig, AdapterKind
from .resampler import HEAD_DIM

FORMAT_VERSION = "1"
NUM_TOKENS = "num_tokens"
_KEY = re.compile(r"ip_adapter\.(\d+)\.(to_[kv]_ip)\.weight")
# What torch.load raises for code in a pickle, for files cut short in either of its formats, and for other files.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    RecursionError,
    struct.error,
)
MOST_TOKENS = 1 << 16
FITS = (
    "This loader takes ip-adapter_sdxl_vit-h, ip-adapter-plus_sdxl_vit-h, ip-adapter_sdxl (with CLIP-ViT-bigG-14), "
    "ip-adapter_sd15, ip-adapter-plus_sd15 and MEPA adapters"
)


class AdapterFileError(ValueError):
    """A file that is not an adapter this package can use; the message says what it is and what fits."""


def load_adapter(path: Path, operations: Any = layers) -> Adapter:
    """Load an adapter from a file.

    Args:
        path: .safetensors, or a pickle that holds tensors and nothing else.
        operations: namespace with Linear and LayerNorm, see `adapter`.

    Returns:
        The adapter in the file's dtype. Its weights are the file's mapped memory; nothing is initialised or copied.

    Raises:
        AdapterFileError: another kind of file, an adapter for other models or encoders, a damaged or unsafe file.
        FileNotFoundError: no such file.
    """
    tensors, metadata = read_tensors(path)
    config = read_config(tensors, metadata)
    with torch.device("meta"):
        adapter = Adapter(config, operations)
    state = {_module_key(key): tensor for key, tensor in tensors.items()}
    _check_shapes(state, adapter)
    adapter.load_state_dict(state, assign=True)
    return adapter.requires_grad_(False).eval()


def save_adapter(path: Path, adapter: Adapter, metadata: Mapping[str, str] | None = None) -> None:
    """Write an adapter as our own format; `load_adapter` and the nodes read it back as it is."""
    config = adapter.config
    layers = [[layer.side.value, layer.level, layer.ordinal, layer.depth] for layer in config.layers]
    own = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "base": config.base,
        "kind": config.kind.value,
        "layers": json.dumps(layers),
    }
    if config.kind is AdapterKind.TOKENS:
        own[NUM_TOKENS] = str(config.num_tokens)
    state = {_file_key(key): tensor.detach().contiguous() for key, tensor in adapter.state_dict().items()}
    save_file(state, path, {**dict(config.metadata), **(metadata or {}), **own})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file under flat keys, and its metadata. Nothing in the file is executed.

    Raises:
        FileNotFoundError: no such file.
        AdapterFileError: it is not whole, or not of a kind that is read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no adapter file at {path}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return _flat(
                    {
                        key: file.get_tensor(key)
                        for key in file.keys()  # noqa: SIM118, a file handle, no mapping
                    }
                ), file.metadata() or {}
        except SafetensorError as error:
            raise AdapterFileError(
                f"{path.name} is not a whole safetensors file ({error}): its download was probably cut short; compare "
                f"its size ({path.stat().st_size} bytes) and fetch it again"
            ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise AdapterFileError(
            f"{path.name} is a pickle that holds more than tensors, or is damaged: it was not opened, because a pickle "
            "can run code. Use the .safetensors version of this adapter"
        ) from error
    return _flat(content), {}


def read_config(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> AdapterConfig:
    """Tell an adapter's kind and sizes from keys, shapes and metadata.

    Raises:
        AdapterFileError: anything but an adapter of a kind and a base that this package serves.
    """
    _refuse_others(tensors)
    numbers = sorted({int(match[1]) for match in map(_KEY.fullmatch, tensors) if match})
    keys = [tensors.get(f"ip_adapter.{number}.to_k_ip.weight") for number in numbers]
    if not numbers or any(number % 2 == 0 for number in numbers) or any(key is None or key.ndim != 2 for key in keys):
        raise AdapterFileError(f"the file has no ip_adapter.<n>.to_k_ip weights for its layers. {FITS}")
    widths = tuple(key.shape[0] for key in keys if key is not None)
    layers, base = _layers(widths, metadata)
    kind, sizes = _projection(tensors, metadata)
    context_dim = {key.shape[1] for key in keys if key is not None}
    if len(context_dim) != 1:
        raise AdapterFileError(f"the layers take contexts of different widths {sorted(context_dim)}. {FITS}")
    config = AdapterConfig(
        kind=kind,
        base=base,
        context_dim=context_dim.pop(),
        layers=layers,
        widths=widths,
        metadata=tuple(sorted(metadata.items())),
        **sizes,
    )
    _refuse_what_does_not_fit(config, metadata)
    return config


def _flat(nested: Any, prefix: str = "") -> dict[str, Tensor]:
    """Nested dictionaries of tensors -> dotted keys, with the community's other name for the layers made the usual."""
    if not isinstance(nested, Mapping):
        raise AdapterFileError(f"the file holds a {type(nested).__name__}, expected named tensors. {FITS}")
    flat: dict[str, Tensor] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, Tensor):
            flat[re.sub(r"^adapter_modules\.", "ip_adapter.", f"{prefix}{key}")] = value
    return flat


def _refuse_others(tensors: Mapping[str, Tensor]) -> None:
    names = "\n".join(tensors)
    found = (
        ("to_q_lora", "a FaceID IP-Adapter (it needs a face recognition model)"),
        ("image_proj.perceiver_resampler.", "a FaceID-plus IP-Adapter (it needs a face recognition model)"),
        ("image_proj.proj.3.", "a full-face IP-Adapter"),
        ("image_proj.proj.0.", "a FaceID or face portrait IP-Adapter (it needs a face recognition model)"),
        ("double_blocks.", "an adapter for Flux, which has no cross-attention"),
        ("joint_blocks.", "an adapter for SD3, which has no cross-attention"),
        ("model.diffusion_model.", "a whole checkpoint, not an adapter"),
        ("lora_", "a LoRA: load it with a LoRA loader"),
        (".lora", "a LoRA: load it with a LoRA loader"),
    )
    for mark, what in found:
        if mark in names:
            raise AdapterFileError(f"the file is {what}. {FITS}")
    if not any(key.startswith("image_proj.") for key in tensors):
        first = ", ".join(list(tensors)[:3]) or "none at all"
        raise AdapterFileError(f"the file has no image_proj weights; its keys begin with {first}. {FITS}")


def _refuse_what_does_not_fit(config: AdapterConfig, metadata: Mapping[str, str]) -> None:
    if config.inner_width % HEAD_DIM:
        raise AdapterFileError(
            f"the resampler's attention has {config.inner_width} channels, expected whole heads of {HEAD_DIM}. {FITS}"
        )
    if metadata.get("format") == FORMAT:
        return
    if config.kind is AdapterKind.LINEAR and config.num_tokens == 1:
        raise AdapterFileError(
            "the file projects an image to 1 token and does not say what it is: a MEPA adapter of kind tokens looks like this "
            f"once its metadata are gone, and would give other tokens. Take the file as it was written. {FITS}"
        )
    if config.kind is AdapterKind.RESAMPLER and config.latent_width == 2048:
        raise AdapterFileError(f"the file is an IP-Adapter for Kolors (its latents have 2048 channels). {FITS}")


def _layers(widths: tuple[int, ...], metadata: Mapping[str, str]) -> tuple[tuple[AttentionLayer, ...], str]:
    if metadata.get("format") == FORMAT:
        return _own_layers(widths, metadata)
    for base, layout in LAYOUTS.items():
        if len(layout) == len(widths) and _one_width_per_level(layout, widths):
            return layout, base
    raise AdapterFileError(
        f"the file has {len(widths)} cross-attention layers; SDXL has {len(LAYOUTS['sdxl'])} and SD1.5 "
        f"{len(LAYOUTS['sd15'])}. {FITS}"
    )


def _own_layers(widths: tuple[int, ...], metadata: Mapping[str, str]) -> tuple[tuple[AttentionLayer, ...], str]:
    if metadata.get("format_version") != FORMAT_VERSION:
        raise AdapterFileError(
            f"the file is a MEPA adapter of format version {metadata.get('format_version')}, this package reads "
            f"{FORMAT_VERSION}: update the package, or export the adapter again"
        )
    try:
        layers = tuple(AttentionLayer(Side(side), *map(int, place)) for side, *place in json.loads(metadata["layers"]))
    except ODD_CONTENT as error:
        raise AdapterFileError(f"the file's metadata has no readable list of layers ({error})") from error
    if len(layers) != len(widths):
        raise AdapterFileError(f"the file's metadata names {len(layers)} layers, it has weights for {len(widths)}")
    return layers, metadata.get("base", "unknown")


def _one_width_per_level(layers: tuple[AttentionLayer, ...], widths: tuple[int, ...]) -> bool:
    per_level: dict[int, set[int]] = {}
    for layer, width in zip(layers, widths, strict=True):
        per_level.setdefault(layer.level, set()).add(width)
    return all(len(found) == 1 for found in per_level.values())


def _projection(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[AdapterKind, dict[str, int]]:
    """Kind and sizes of the image projection."""
    sizes = {"latent_width": 0, "inner_width": 0, "depth": 0, "feedforward": 0}
    try:
        if "image_proj.latents" not in tensors:
            projected, sizes["encoder_width"] = tensors["image_proj.proj.weight"].shape
            if metadata.get("format") == FORMAT and metadata.get("kind") == AdapterKind.TOKENS.value:
                sizes["num_tokens"] = int(metadata[NUM_TOKENS])
                if not 1 <= sizes["num_tokens"] <= MOST_TOKENS:
                    raise ValueError(f"{NUM_TOKENS} is {metadata[NUM_TOKENS]}")
                return AdapterKind.TOKENS, sizes
            sizes["num_tokens"] = projected // tensors["image_proj.norm.weight"].shape[0]
            return AdapterKind.LINEAR, sizes
        _, sizes["num_tokens"], sizes["latent_width"] = tensors["image_proj.latents"].shape
        sizes["encoder_width"] = tensors["image_proj.proj_in.weight"].shape[1]
        if "image_proj.norm_mid.weight" in tensors:
            return AdapterKind.EQ3, sizes
        sizes["inner_width"] = tensors["image_proj.layers.0.0.to_q.weight"].shape[0]
        sizes["feedforward"] = tensors["image_proj.layers.0.1.1.weight"].shape[0]
        sizes["depth"] = 1 + max(int(key.split(".")[2]) for key in tensors if key.startswith("image_proj.layers."))
        return AdapterKind.RESAMPLER, sizes
    except ODD_CONTENT as error:
        raise AdapterFileError(
            f"the file's image projection is of no known kind (missing or odd: {error}). {FITS}"
        ) from error


def _module_key(key: str) -> str:
    """File key -> state_dict key of `Adapter`."""
    return _KEY.sub(lambda match: f"ip_adapter.{match[2]}.{(int(match[1]) - 1) // 2}.weight", key)


def _file_key(key: str) -> str:
    """state_dict key of `Adapter` -> file key."""
    pattern = r"ip_adapter\.(to_[kv]_ip)\.(\d+)\.weight"
    return re.sub(pattern, lambda match: f"ip_adapter.{2 * int(match[2]) + 1}.{match[1]}.weight", key)


def _check_shapes(state: Mapping[str, Tensor], adapter: Adapter) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in adapter.state_dict().items()}
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = [
        f"{_file_key(key)} is {tuple(state[key].shape)}, expected {shape}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    wrong += [
        f"{_file_key(key)} is of type {tensor.dtype}, expected floating point"
        for key, tensor in sorted(state.items())
        if not tensor.is_floating_point()
    ]
    problems = (
        [f"missing {_file_key(key)}" for key in missing]
        + [f"unexpected {_file_key(key)}" for key in unexpected]
        + wrong
    )
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise AdapterFileError(
            f"the file does not hold together as a {adapter.config.kind.value} adapter: {'; '.join(problems[:3])}{more}"
        )
