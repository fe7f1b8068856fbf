"""The workflows of `soak`: one that has every part of an image prompt, and endless variations of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from headless.server.client import Prompt

from .tiny_stack.files import TINY_FILES, TINY_LINEAR_ADAPTER

REFERENCES = ("reference_0.png", "reference_1.png", "reference_2.png")
SIZES = ((64, 64), (128, 64), (64, 128), (96, 64), (128, 128))  # width, height
ADAPTERS = (TINY_FILES.adapter, TINY_LINEAR_ADAPTER)
WORDS = ("cup", "bottle", "stone", "table", "window", "morning", "light", "linen", "oak", "steam")


def write_references(folder: Path) -> None:
    """Pictures with noise in them, each with something of its own painted out."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(REFERENCES):
        picture = np.random.default_rng(index).integers(0, 256, (96, 128, 4), dtype=np.uint8)
        picture[..., 3] = 255
        picture[20 : 40 + 10 * index, 30:70, 3] = 0
        Image.fromarray(picture, "RGBA").save(folder / name)


def workflow(
    *,
    text: str = "a cup",
    reference: str = REFERENCES[0],
    adapter: str = ADAPTERS[0],
    mode: str = "drop",
    method: str = "adapter",
    size: tuple[int, int] = (64, 64),
    region: tuple[int, int, int, int] | None = None,
    batch: int = 1,
    steps: int = 2,
    seed: int = 1,
    rows: int = 0,
    **apply: Any,
) -> Prompt:
    """A reference's image prompt in a region of an ad.

    Args:
        text, reference, adapter, mode, method, seed: as the nodes take them.
        size: width and height of the ad, pixels.
        region: left, top, width, height of where the image prompt rules, pixels; None = everywhere.
        batch, steps: of the sampling.
        rows: memory runs out in an attention with more rows than that; 0 = it never does.
        apply: further inputs of MEPA Apply.
    """
    width, height = size
    options = {"strength": 1.0, "text_share": 1.0, "gate": "output", "start_percent": 0.0, "end_percent": 1.0} | apply
    prompt = {
        "models": _node("CheckpointLoaderSimple", ckpt_name=TINY_FILES.checkpoint),
        "encoder": _node("CLIPVisionLoader", clip_name=TINY_FILES.clip_vision),
        "reference": _node("LoadImage", image=reference),
        "hide": _node(
            "PFVMaskRebinarize",
            clip_vision=["encoder", 0],
            reference=["reference", 0],
            mask=["reference", 1],
            fit="pad",
            threshold=0.0,
        ),
        "encode": _node(
            "PFVImageEncode",
            clip_vision=["encoder", 0],
            reference=["reference", 0],
            patch_mask=["hide", 0],
            mode=mode,
        ),
        "adapter": _node("MEPAAdapterLoader", adapter_name=adapter),
        "compress": _node(
            "PFVTokenCompress", image_tokens=["encode", 0], adapter=["adapter", 0], method=method, num_tokens=0
        ),
        "apply": _node("MEPAApply", model=["models", 0], image_prompt=["compress", 0], **options),
        "positive": _node("CLIPTextEncode", text=text, clip=["models", 1]),
        "negative": _node("CLIPTextEncode", text="blurry", clip=["models", 1]),
        "latent": _node("EmptyLatentImage", width=width, height=height, batch_size=batch),
        "sample": _node(
            "KSampler",
            model=["apply", 0],
            seed=seed,
            steps=steps,
            cfg=5.0,
            sampler_name="euler",
            scheduler="normal",
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            denoise=1.0,
        ),
        "decode": _node("VAEDecode", samples=["sample", 0], vae=["models", 2]),
        "save": _node("SaveImage", images=["decode", 0], filename_prefix="ad"),
    }
    if region is not None:
        left, top, *inside = region
        prompt["frame"] = _node("SolidMask", value=0.0, width=width, height=height)
        prompt["box"] = _node("SolidMask", value=1.0, width=inside[0], height=inside[1])
        prompt["region"] = _node(
            "MaskComposite", destination=["frame", 0], source=["box", 0], x=left, y=top, operation="add"
        )
        prompt["apply"]["inputs"]["region"] = ["region", 0]
    if rows:
        prompt["limit"] = _node("TinyOutOfMemory", model=["apply", 0], rows=rows)
        prompt["sample"]["inputs"]["model"] = ["limit", 0]
    return prompt


def variation(number: int) -> Prompt:
    """One of the many workflows that a server sees in a day; the same number is the same workflow."""
    draw = random.Random(number)
    width, height = size = draw.choice(SIZES)
    left, top = draw.randrange(0, width // 2, 4), draw.randrange(0, height // 2, 4)
    box = (left, top, draw.randrange(8, width - left, 4), draw.randrange(8, height - top, 4))
    adapter = draw.choice(ADAPTERS)
    return workflow(
        text=" ".join(draw.sample(WORDS, draw.randint(1, 6))),
        reference=draw.choice(REFERENCES),
        adapter=adapter,
        mode=draw.choice(("drop", "zero")),
        method=draw.choice(("adapter", "cluster", "eq3_normalized")) if adapter == TINY_FILES.adapter else "adapter",
        size=size,
        region=draw.choice((None, box)),
        batch=draw.choice((1, 1, 2)),
        seed=number,
        strength=draw.choice((0.0, 0.5, 1.0)),
        text_share=draw.choice((0.0, 0.5, 1.0)),
        gate=draw.choice(("output", "query")),
        end_percent=draw.choice((0.5, 1.0)),
    )


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}
