"""The host's own queue executor in this process, with nodes that hand the tests' tiny models out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import execution
import nodes as host_nodes
import torch

from pfv_mepa.nodes.extension import NODES
from pfv_mepa.tests.host.sampling import reference, right_half
from pfv_mepa.tests.support.tiny_stack import models

Prompt = dict[str, dict[str, Any]]


class TinyModels:
    """MODEL as it is, and a CLIP_VISION that is made anew whenever the host runs this node."""

    model: Any = None
    RETURN_TYPES = ("MODEL", "CLIP_VISION")
    FUNCTION = "make"
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})

    def make(self) -> tuple[Any, Any]:
        return TinyModels.model, models.tiny_clip_vision()


class TinyText:
    """CONDITIONING of a seed."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"seed": ("INT", {})}})

    def make(self, seed: int) -> tuple[Any]:
        return (models.tiny_conditioning(TinyModels.model, seed=seed),)


class TinyPicture:
    """IMAGE of a seed, and a region."""

    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "make"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"seed": ("INT", {})}})

    def make(self, seed: int) -> tuple[Any, Any]:
        return reference(seed=seed), right_half()


class TinyOutput:
    """Keeps the latent for the test."""

    RETURN_TYPES = ()
    FUNCTION = "keep"
    OUTPUT_NODE = True
    INPUT_TYPES = classmethod(lambda cls: {"required": {"latent": ("LATENT",)}})
    latents: list[torch.Tensor] = []  # noqa: RUF012, of the class on purpose

    def keep(self, latent: dict[str, torch.Tensor]) -> dict[str, Any]:
        TinyOutput.latents.append(latent["samples"])
        return {"ui": {}}


def _limits_of_classic_cache() -> dict[str, Any]:
    """As the host's own worker gives them with --cache-classic; the older ones know one limit, and need not be told."""
    named = "cache_args" in inspect.signature(execution.PromptExecutor).parameters
    return {"cache_args": {"lru": 0, "ram": 0, "ram_inactive": 0}} if named else {}


class Queue:
    """Runs prompts one after the other, as the host's worker does."""

    def __init__(self) -> None:
        self.server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *args: None)
        self.executor = execution.PromptExecutor(
            self.server, cache_type=execution.CacheType.CLASSIC, **_limits_of_classic_cache()
        )
        self._count = 0

    def run(self, prompt: Prompt) -> torch.Tensor | None:
        """The latent, or None where the run failed or every node was cached."""
        self._count += 1
        TinyOutput.latents.clear()
        self.executor.execute(prompt, f"prompt-{self._count}", {}, ["output"])
        return TinyOutput.latents[-1] if TinyOutput.latents else None

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What the last run reported of this kind."""
        return [content for event, content in self.executor.status_messages if event == kind]


@contextmanager
def queue_for(model: Any) -> Iterator[Queue]:
    """A queue whose nodes are the host's, the pack's and those of this file."""
    own = {cls.__name__: cls for cls in (TinyModels, TinyText, TinyPicture, TinyOutput)}
    own |= {node.GET_SCHEMA().node_id: node for node in NODES}
    known = dict(host_nodes.NODE_CLASS_MAPPINGS)
    host_nodes.NODE_CLASS_MAPPINGS.update(own)
    TinyModels.model = model
    try:
        yield Queue()
    finally:
        TinyModels.model = None
        TinyOutput.latents.clear()
        host_nodes.NODE_CLASS_MAPPINGS.clear()
        host_nodes.NODE_CLASS_MAPPINGS.update(known)


def full_prompt(
    adapter: str, *, text: int = 6, picture: int = 0, seed: int = 1, size: int = 64, **apply: Any
) -> Prompt:
    """Reference -> tokens -> image prompt -> model -> two steps."""

    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    applied = {"strength": 1.0, "text_share": 0.5, "gate": "output", "start_percent": 0.0, "end_percent": 1.0} | apply
    return {
        "models": node("TinyModels"),
        "picture": node("TinyPicture", seed=picture),
        "mask": node(
            "PFVMaskRebinarize", clip_vision=["models", 1], reference=["picture", 0], fit="pad", threshold=0.0
        ),
        "encode": node(
            "PFVImageEncode",
            clip_vision=["models", 1],
            reference=["picture", 0],
            patch_mask=["mask", 0],
            mode="drop",
        ),
        "adapter": node("MEPAAdapterLoader", adapter_name=adapter),
        "compress": node(
            "PFVTokenCompress", image_tokens=["encode", 0], adapter=["adapter", 0], method="adapter", num_tokens=0
        ),
        "apply": node("MEPAApply", model=["models", 0], image_prompt=["compress", 0], region=["picture", 1], **applied),
        "positive": node("TinyText", seed=text),
        "negative": node("TinyText", seed=100),
        "latent": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "sample": node(
            "KSampler",
            model=["apply", 0],
            seed=seed,
            steps=2,
            cfg=5.0,
            sampler_name="euler",
            scheduler="normal",
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            denoise=1.0,
        ),
        "output": node("TinyOutput", latent=["sample", 0]),
    }
