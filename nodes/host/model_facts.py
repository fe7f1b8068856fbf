"""What the pack's patches on a model say of themselves: plain values for a report."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...pfv_core.attention.control import Gate
from ...pfv_core.attention.weights import PromptWeights
from ...pfv_core.choices import parse_choice
from .cross_attention import ImagePromptPatch
from .fusion_run import AttentionFusion
from .mask_input import MaskInputPatch
from .prompt_facts import ReferenceFacts
from .regional_prompt import RegionalPrompt
from .schedule import Window
from .text_prompt import TextPrompt
from .tracking import patches_of

Facts = dict[str, Any]


def model_facts(model: Any) -> list[Facts]:
    """Every image prompt, text with a region, fusion and mask input that a model carries, in the order of their nodes.

    A `region` is the share of the frame that each mask of it covers, in a list; None = the whole frame.
    """
    found: list[Facts] = []
    for patch in patches_of(model):
        if isinstance(patch, ImagePromptPatch):
            found += [_prompt(prompt) for prompt in patch.prompts]
        elif isinstance(patch, AttentionFusion):
            control = {"strength": patch.control.scale, "region": shares(patch.product_mask)}
            found.append({"kind": "attention fusion", **control, **_window(patch.window)})
        elif isinstance(patch, MaskInputPatch):
            found.append({"kind": "mask input", "region": shares(patch.product_mask)})
        else:
            found.append({"kind": type(patch).__name__})
    return found


def shares(region: Tensor | None) -> list[float] | None:
    """Of the frame, for each mask, 0..1; not rounded, since a small one is not none."""
    return None if region is None else region.flatten(1).double().mean(1).tolist()


def _prompt(prompt: RegionalPrompt) -> Facts:
    control, text = prompt.control, isinstance(prompt.image_prompt, TextPrompt)
    return {
        "kind": "text" if text else "image prompt",
        "strength": float(control.image_scale),
        "text_share": float(control.text_share),
        "gate": parse_choice(Gate, control.gate, "gate").value,
        "std_norm": control.std_norm,
        "gamma": control.gamma,
        "weighted": prompt.weights != PromptWeights(),
        "region": shares(prompt.region),
        **_window(prompt.window),
        **({} if isinstance(prompt.image_prompt, TextPrompt) else _image(prompt.image_prompt)),
    }


def _image(image_prompt: Any) -> Facts:
    config, facts = image_prompt.adapter.config, image_prompt.facts
    return {
        "images": len(image_prompt),
        "tokens": image_prompt.positive.shape[1],
        "adapter": {"file": image_prompt.adapter.file, "kind": config.kind.value, "base": config.base},
        "encoder": facts.encoder,
        "combined": facts.combined,
        "references": [_reference(reference) for reference in facts.references],
    }


def _reference(reference: ReferenceFacts) -> Facts:
    return {
        "source": None if reference.source is None else reference.source.value,
        "kept_share": None if reference.kept_share is None else round(reference.kept_share, 4),
        "weight": reference.weight,
        "against": reference.against,
    }


def _window(window: Window) -> Facts:
    return {"start_percent": window.start_percent, "end_percent": window.end_percent}
