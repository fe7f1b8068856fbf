"""Wire types, declared once."""

from __future__ import annotations

from enum import Enum

from comfy_api.latest import io

CATEGORY = "PFV-MEPA"
RESEARCH_CATEGORY = f"{CATEGORY}/research"  # of nodes that need weights which nobody has published

PatchMaskType = io.Custom("PFV_PATCH_MASK")
ImageTokensType = io.Custom("PFV_IMAGE_TOKENS")
AdapterType = io.Custom("MEPA_ADAPTER")
ImagePromptType = io.Custom("PFV_IMAGE_PROMPT")
BranchesType = io.Custom("MEPA_BRANCHES")
WeightsType = io.Custom("MEPA_WEIGHTS")


class SavedMode(str, Enum):
    """Which hide mode a saved reference must have: AS_SAVED takes either."""

    AS_SAVED = "as_saved"
    DROP = "drop"
    ZERO = "zero"


AdCanvasType = io.Custom("PFV_AD_CANVAS")
