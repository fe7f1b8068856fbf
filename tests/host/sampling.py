"""What the host tests share: one way to sample, one way to make an image prompt, one way to apply it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nodes as host_nodes
import pytest
import torch
from torch import Tensor

from pfv_mepa.nodes.host.cross_attention import ImagePromptPatch
from pfv_mepa.nodes.mepa.apply_nodes import MEPAAdapterLoader, MEPAApply, PFVTokenCompress
from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from pfv_mepa.tests.support.tiny_stack.calls import facts_of_a_call
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning

MEPAAdapterLoader.GET_SCHEMA()  # the host reads every schema when it loads the pack; this one's makes models/ipadapter known

NODE_IDS = (  # in people's saved workflows: never to be changed
    "PFVMaskRebinarize",
    "PFVImageEncode",
    "PFVSaveReference",
    "PFVLoadReference",
    "MEPAAdapterLoader",
    "PFVTokenCompress",
    "MEPAApply",
    "MEPABranch",
    "MEPAApplyControlNet",
    "MEPACrop",
    "PFVDepthCompose",
    "StrictIDComposite",
    "PFVDemoModels",
    "RefAdGenAttentionFusion",
    "RefAdGenMaskInput",
    "PFVAdCanvas",
    "PFVAdCanvasPlace",
    "PFVAdCanvasFinish",
    "MEPARegionShape",
    "MEPARegionFromMask",
    "MEPARegionBuilder",
    "PFVScaleMap",
    "MEPALoad",
    "PFVReference",
    "PFVCombineReferences",
    "MEPAWeights",
    "MEPAApplyText",
    "PFVAdReport",
    "PFVCutOut",
    "PFVGround",
    "PFVProductDepth",
    "RefAdGenLoad",
    "StrictIDLoadControlNet",
    "StrictIDBranches",
    "MEPATiles",
)


def outputs(node: type, **inputs: Any) -> tuple[Any, ...]:
    """Run a node as the host does, in inference mode: ours, or one of the host's, which older hosts write in another way."""
    with torch.inference_mode():
        result = node.execute(**inputs) if hasattr(node, "execute") else getattr(node(), node.FUNCTION)(**inputs)
    return getattr(result, "args", result)


def sample(
    model: Any,
    positive: list[Any] | None = None,
    negative: list[Any] | None = None,
    *,
    height: int = 128,
    width: int = 128,
    batch: int = 1,
    steps: int = 2,
    cfg: float = 5.0,
    sampler: str = "euler",
    scheduler: str = "normal",
    seed: int = 1,
) -> Tensor:
    """The latent that the host's own KSampler gives, (batch, 4, height / 8, width / 8)."""
    positive = tiny_conditioning(model, seed=6) if positive is None else positive
    negative = tiny_conditioning(model, seed=7) if negative is None else negative
    latent = {"samples": torch.zeros(batch, 4, height // 8, width // 8)}
    with torch.inference_mode():
        (out,) = host_nodes.KSampler().sample(
            model, seed, steps, cfg, sampler, scheduler, positive, negative, latent, 1.0
        )
    assert torch.isfinite(out["samples"]).all()
    return out["samples"]


def reference(height: int = 240, width: int = 320, batch: int = 1, seed: int = 0) -> Tensor:
    """A random IMAGE."""
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(seed))


def painted(height: int = 240, width: int = 320) -> Tensor:
    """A MASK as the mask editor leaves it: 254/255 in a box, 0 elsewhere."""
    mask = torch.zeros(1, height, width)
    mask[:, height // 4 : height // 2, width // 3 : width // 2] = 254 / 255
    return mask


def image_prompt(
    clip_vision: Any,
    adapter_file: Path,
    *,
    image: Tensor | None = None,
    mask: Tensor | None = None,
    fit: str = "pad",
    mode: str = "drop",
    method: str = "adapter",
) -> Any:
    """Reference -> image prompt, through the pack's nodes."""
    image = reference() if image is None else image
    patch_mask, _ = outputs(
        PFVMaskRebinarize, clip_vision=clip_vision, reference=image, fit=fit, threshold=0.0, mask=mask
    )
    tokens, _ = outputs(PFVImageEncode, clip_vision=clip_vision, reference=image, patch_mask=patch_mask, mode=mode)
    (adapter,) = outputs(MEPAAdapterLoader, adapter_name=adapter_file.name)
    (prompt,) = outputs(PFVTokenCompress, image_tokens=tokens, adapter=adapter, method=method, num_tokens=0)
    return prompt


def apply(model: Any, prompt: Any, **options: Any) -> Any:
    """MEPA Apply with its defaults."""
    defaults = {"strength": 1.0, "text_share": 1.0, "gate": "output", "start_percent": 0.0, "end_percent": 1.0}
    (patched,) = outputs(MEPAApply, model=model, image_prompt=prompt, **{**defaults, **options})
    return patched


def right_half(height: int = 128, width: int = 128, batch: int = 1) -> Tensor:
    """A region that is 1 in the right half."""
    region = torch.zeros(batch, height, width)
    region[:, :, width // 2 :] = 1
    return region


def cut_out(height: int = 128, width: int = 128) -> Tensor:
    """The mask of a file whose product stands in the middle: 1 where it is transparent, all around."""
    mask = torch.ones(1, height, width)
    mask[:, height // 4 : -height // 4, width // 4 : -width // 4] = 0
    return mask


def options_of_a_call(
    model: Any, latent: Tensor, negative: tuple[bool, ...] = (False,), sigma: float = 1.0
) -> dict[str, Any]:
    """The options of one call of the U-Net by hand: a chunk of images for each polarity."""
    return {**model.model_options["transformer_options"], **facts_of_a_call(model, latent.shape, negative, sigma)}


@contextmanager
def recorded_calls() -> Iterator[list[dict[str, Any]]]:
    """The extra_options, with the number of queries, of each call of the patched cross-attention."""
    calls: list[dict[str, Any]] = []
    original = ImagePromptPatch.attention

    def recording(self: ImagePromptPatch, layers: Any, query: Tensor, *args: Any) -> Tensor:
        options = args[2]
        calls.append({**options, "layers": layers, "queries": query.shape[1], "rows": query.shape[0]})
        return original(self, layers, query, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImagePromptPatch, "attention", recording)
        yield calls
