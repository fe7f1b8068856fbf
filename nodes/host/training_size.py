"""The size of the pictures that a loaded model's family was trained on.

It is no number of the file: the host knows which family a checkpoint is by its layers (`model_config`), and the size belongs to
the family. A checkpoint that somebody trained on at another size has the layers of its family.
"""

from __future__ import annotations

from typing import Any

import comfy.supported_models

from ...pfv_core.ad.formats import LATENT_SCALE, Training
from ...pfv_demo.sizes import UNET
from .demo import DemoSDXL

# By the host's own class of the model, the exact one: SDXL_instructpix2pix is a kind of SDXL of another size.
_FAMILIES = {
    "SD15": Training("SD1.5", 512),
    "SDXL": Training("SDXL", 1024),
    "SDXLRefiner": Training("the SDXL refiner", 1024),
    "SSD1B": Training("SSD-1B", 1024),
    "Segmind_Vega": Training("Vega", 1024),
    "KOALA_700M": Training("KOALA", 1024),
    "KOALA_1B": Training("KOALA", 1024),
}
_DEMO = Training("the demo", LATENT_SCALE * UNET["sample_size"])


def training_of(model: Any) -> Training | None:
    """What the family of a host's ModelPatcher was trained on; None where this pack does not know the family."""
    kind = type(model.model.model_config)
    if kind is DemoSDXL:
        return _DEMO
    return next((size for name, size in _FAMILIES.items() if getattr(comfy.supported_models, name, None) is kind), None)


def family_of(model: Any) -> str:
    """The host's name of the family."""
    return type(model.model.model_config).__name__
