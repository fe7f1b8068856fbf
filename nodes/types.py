"""Wire types, declared once."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "PFV-MEPA"

PatchMaskType = io.Custom("PFV_PATCH_MASK")
ImageTokensType = io.Custom("PFV_IMAGE_TOKENS")
AdapterType = io.Custom("MEPA_ADAPTER")
ImagePromptType = io.Custom("PFV_IMAGE_PROMPT")
