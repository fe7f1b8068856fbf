"""Imports packages that import torchvision, also where torchvision's compiled part does not load."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

from headless.host.torch_stand_ins import apply_where_needed


def import_third_party(name: str) -> ModuleType:
    """A module whose own deprecations are not our warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apply_where_needed()
        return importlib.import_module(name)
