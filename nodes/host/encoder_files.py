"""Which file of models/clip_vision is an adapter's image encoder, by names and shapes of tensors, and the host's loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.clip_vision
import folder_paths

from ...pfv_core.adapter.model import AdapterConfig
from ...pfv_core.headers import read_shapes
from ...pfv_core.reference.encoder_spec import REGISTERS, EncoderSpec, read_encoder_spec
from .vit import encoder_spec

FOLDER = "clip_vision"
HEADERED = (".safetensors", ".sft")


def encoder_names() -> list[str]:
    """The files in models/clip_vision, as the host lists them."""
    return list(folder_paths.get_filename_list(FOLDER))


def find_encoder(config: AdapterConfig) -> str:
    """The file that holds the adapter's image encoder; of several of one kind the first by name.

    Raises:
        ValueError: none fits, or several kinds do; the message says what was looked at.
    """
    looked = {name: _spec_of(name) for name in sorted(encoder_names()) if name.endswith(HEADERED)}
    fitting = {name: spec for name, spec in looked.items() if spec is not None and config.fits(spec)}
    kinds = dict.fromkeys(fitting.values())
    if len(kinds) > 1:
        found = "; ".join(f"{name} is {spec.name}" for name, spec in fitting.items())
        raise ValueError(
            f"encoder_name is automatic, but the adapter takes {config.takes}, and encoders of {len(kinds)} kinds have that "
            f"many: {found}. Choose the one that the adapter was trained with"
        )
    if not fitting:
        raise ValueError(
            f"encoder_name is automatic, but nothing in models/{FOLDER} fits: the adapter takes {config.takes}. "
            f"{_looked_at(looked)} Put the adapter's encoder there and press R, or choose encoder_name"
        )
    return next(iter(fitting))


def load_encoder(name: str, config: AdapterConfig) -> Any:
    """CLIP_VISION from a file, by the host's own loader.

    Raises:
        ValueError: no image encoder that the host knows, or one that is not the adapter's.
        FileNotFoundError: no such file.
    """
    path = folder_paths.get_full_path_or_raise(FOLDER, name)
    if name.endswith(HEADERED) and REGISTERS in read_shapes(Path(path)):
        raise ValueError(
            f"{name} is a DINOv2 with registers, which ComfyUI leaves out, so that its tokens would not be the encoder's own: "
            f"the adapter takes {config.takes}; choose another file"
        )
    clip_vision = comfy.clip_vision.load(path)
    if clip_vision is None:
        raise ValueError(
            f"{name} holds no image encoder that this ComfyUI knows: the adapter takes {config.takes}; choose another file"
        )
    spec = encoder_spec(clip_vision)
    if not config.fits(spec):
        raise ValueError(
            f"{name} is {spec.name}, but the adapter takes {config.takes}: choose that encoder, or automatic"
        )
    return clip_vision


def _spec_of(name: str) -> EncoderSpec | None:
    return read_encoder_spec(read_shapes(Path(folder_paths.get_full_path_or_raise(FOLDER, name))))


def _looked_at(looked: dict[str, EncoderSpec | None]) -> str:
    said = [f"{name} is {spec.name if spec else 'no CLIP or DINOv2 image encoder'}" for name, spec in looked.items()]
    others = [name for name in encoder_names() if name not in looked]
    said += [f"{name} was not looked into, it is no .safetensors file" for name in others]
    return f"{'; '.join(said)}." if said else "No file is there."
