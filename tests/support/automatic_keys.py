"""The names that SAM 3.1's tensors have in its released checkpoint, from those that ComfyUI gives them when it has read it."""

from __future__ import annotations

from typing import Any

IN_TRACKER = {".mlp.0.": ".mlp.lin1.", ".mlp.2.": ".mlp.lin2.", ".norm_final.": ".norm_final_attn."}
IN_TEXT = {  # open_clip's names
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.": "token_embedding.",
    "final_layer_norm.": "ln_final.",
    "encoder.layers.": "transformer.resblocks.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    ".self_attn.": ".attn.",
}
TEXT = "detector.backbone.language_backbone.encoder."


def sam_keys(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Detector and tracker: the detector's three projections in one tensor, the tracker one level deeper."""
    detector = {key: value for key, value in state_dict.items() if key.startswith("detector.")}
    tracker = {_tracker_key(key): value for key, value in state_dict.items() if key not in detector}
    return _in_one(detector) | tracker


def text_keys(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The text encoder below the host's `text_model.`; the checkpoint has it below the detector."""
    return {f"{TEXT}{_replaced(key, IN_TEXT)}": value for key, value in _in_one(state_dict).items()}


def _in_one(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Projections to queries, keys and values as one tensor, in the place of the first."""
    import torch

    joined: dict[str, Any] = {}
    for key, value in state_dict.items():
        if ".q_proj." in key:
            three = [state_dict[key.replace(".q_proj.", f".{name}_proj.")] for name in "qkv"]
            joined[key.replace(".q_proj.", ".in_proj_")] = torch.cat(three)
        elif ".k_proj." not in key and ".v_proj." not in key:
            joined[key] = value
    return joined


def _tracker_key(key: str) -> str:
    deeper = f"tracker.model.{key.removeprefix('tracker.')}"
    return _replaced(deeper, IN_TRACKER) if "sam_mask_decoder.transformer." in key else deeper


def _replaced(key: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        key = key.replace(ours, theirs)
    return key
