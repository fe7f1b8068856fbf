"""The demo's full workflow without ComfyUI: the same files, the same settings, the same noise, computed by diffusers.

What each node does is done here by the function of `pfv_core` that the node calls, and by the models as diffusers and
transformers have them. Only this one workflow is understood; its nodes are found by class and title.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pfv_core.ad.composite import paste_back
from pfv_core.ad.depth import compose_depth
from pfv_core.ad.opacity import SEEN_ABOVE, settled
from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.attention.balance import PAPER_GAMMA
from pfv_core.attention.control import PromptControl
from pfv_core.reference.fit import fit_geometry
from pfv_core.reference.patch_mask import PatchMask, rebinarize
from pfv_core.reference.vit import encode_image
from pfv_demo.sizes import ADAPTER_FILE, IMAGE_SIZE, WEIGHTS
from pfv_demo.stack import encode_text, load_stack, new_scheduler, tokenize
from pfv_diffusers.sample import ImagePrompt, sample_latents
from pfv_diffusers.vision import ClipVisionEncoder

from ..server.client import Prompt
from .pictures import Pictures, alpha, rgb
from .workflow import nodes_of, origin, the_node

COMFYUI_ONLY: dict[str, dict[str, Any]] = {  # inputs that are not computed here, and what they must be
    "MEPAApply": {"start_percent": 0.0, "end_percent": 1.0, "branches": None},
    "ControlNetApplyAdvanced": {"start_percent": 0.0, "end_percent": 1.0},
    "EmptyLatentImage": {"batch_size": 1},
    "KSampler": {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0},
    "StrictIDComposite": {"shadow_strength": 0.0, "canvas": None, "generated_mask": None},
}


class DiffusersEngine:
    """The demo's models in diffusers, on the CPU.

    Args:
        weights: folder of the demo's files.

    Raises:
        FileNotFoundError: one is missing.
    """

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self._models = load_stack(weights)
        self._encoder = ClipVisionEncoder(self._models.vision_encoder)
        self._adapter = load_adapter(weights / ADAPTER_FILE).float()

    @torch.no_grad()
    def run(self, workflow: Prompt, pictures: Pictures, file: Path) -> Path:
        """Make the ad and write it with the workflow in it, as ComfyUI would.

        Raises:
            ValueError: a setting that only ComfyUI computes, see COMFYUI_ONLY; or one that the functions behind the nodes refuse.
        """
        _refuse_what_only_comfyui_does(workflow)
        files = _Files(workflow, pictures)
        generated = self._generate(workflow, files)
        composite = the_node(workflow, "StrictIDComposite")["inputs"]
        product, opacity = files.image("Product photo"), files.opacity("Product photo")
        ad, _ = paste_back(generated, product, opacity, composite["erode"], composite["feather"], composite["rim"])
        embedded = PngInfo()
        embedded.add_text("prompt", json.dumps(workflow))
        values = ad[0].movedim(0, -1).numpy()  # CHW -> HWC
        Image.fromarray((255 * values).clip(0, 255).astype(np.uint8)).save(file, pnginfo=embedded)  # as ComfyUI rounds
        return file

    def _generate(self, workflow: Prompt, files: _Files) -> Tensor:
        """(1, 3, H, W), 0..1, before the product's own pixels come back."""
        sampler = the_node(workflow, "KSampler")["inputs"]
        size = (IMAGE_SIZE, IMAGE_SIZE)
        noise = torch.randn(1, 4, *(side // 8 for side in size), generator=torch.manual_seed(sampler["seed"]))

        def text(title: str) -> tuple[Tensor, Tensor]:
            words = the_node(workflow, "CLIPTextEncode", title)["inputs"]["text"]
            return encode_text(self._models.text_encoder, tokenize([words], self._models.tokenizer))

        latents = sample_latents(
            self._models.unet,
            new_scheduler(),
            noise,
            text=text("Prompt"),
            negative_text=text("Negative prompt"),
            guidance_scale=sampler["cfg"],
            steps=sampler["steps"],
            image_size=size,
            image_prompts=[self._image_prompt(workflow, node, files) for node in nodes_of(workflow, "MEPAApply")],
            controlnet=self._models.controlnet,
            depth=self._depth(workflow, files).expand(-1, 3, -1, -1),
            control_strength=the_node(workflow, "ControlNetApplyAdvanced")["inputs"]["strength"],
            on_step=_say_step,
        )
        return self._models.autoencoder.decode(latents).clamp(0, 1)

    def _image_prompt(self, workflow: Prompt, apply: dict[str, Any], files: _Files) -> ImagePrompt:
        """What a MEPA Apply node and those before it make of a reference."""
        compress = origin(workflow, apply, "image_prompt")
        encode = origin(workflow, compress, "image_tokens")
        reference = files.image(origin(workflow, encode, "reference")["_meta"]["title"])
        patch_mask = self._patch_mask(workflow, origin(workflow, encode, "patch_mask"), files)
        tokens = encode_image(self._encoder, reference, patch_mask, encode["inputs"]["mode"])
        positive, negative = self._adapter.image_prompt(
            tokens, compress["inputs"]["method"], compress["inputs"]["num_tokens"]
        )
        settings = apply["inputs"]
        gamma = settings.get("gamma", PAPER_GAMMA) if settings.get("time_weighting", False) else None
        control = PromptControl(
            settings["strength"], settings["text_share"], settings["gate"], settings.get("std_norm", False), gamma
        )
        region = files.mask(origin(workflow, apply, "region")["_meta"]["title"])
        return ImagePrompt(self._adapter, positive, negative, control, region)

    def _patch_mask(self, workflow: Prompt, node: dict[str, Any], files: _Files) -> PatchMask:
        """What a PFV Mask Re-binarize node gives."""
        hidden = files.mask(origin(workflow, node, "reference")["_meta"]["title"]) > 0.5
        visible = ~hidden if "mask" in node["inputs"] else torch.ones_like(hidden)
        spec = self._encoder.spec
        height, width = hidden.shape[1:]
        geometry = fit_geometry(height, width, spec.image_size, spec.patch_size, node["inputs"]["fit"])
        return rebinarize(visible, geometry, node["inputs"]["threshold"])

    def _depth(self, workflow: Prompt, files: _Files) -> Tensor:
        """What PFV Depth Compose gives, (1, 1, H, W)."""
        hiding = the_node(workflow, "PFVMaskRebinarize", "Hide in the background reference")
        hidden = self._patch_mask(workflow, hiding, files).hidden_pixels()
        return compose_depth(
            files.image("Product depth")[:, :1],
            files.opacity("Product photo") > SEEN_ABOVE,
            files.image("Background reference depth")[:, :1],
            ~hidden,
            the_node(workflow, "PFVDepthCompose")["inputs"]["fill"],
        )


class _Files:
    """The pictures of a workflow by the titles of the nodes that load them."""

    def __init__(self, workflow: Prompt, pictures: Pictures) -> None:
        self._workflow = workflow
        self._pictures = pictures

    def image(self, title: str) -> Tensor:
        """(1, 3, H, W), 0..1."""
        return rgb(self._file(title))

    def mask(self, title: str) -> Tensor:
        """(1, H, W), ComfyUI's mask of a file: 1 = transparent."""
        return 1 - alpha(self._file(title))

    def opacity(self, title: str) -> Tensor:
        """(1, H, W), how opaque a cut-out is: 1 = opaque."""
        return torch.from_numpy(settled(alpha(self._file(title)).numpy()))

    def _file(self, title: str) -> Path:
        return self._pictures[the_node(self._workflow, "LoadImage", title)["inputs"]["image"]]


def _refuse_what_only_comfyui_does(workflow: Prompt) -> None:
    for class_type, neutral in COMFYUI_ONLY.items():
        for node in nodes_of(workflow, class_type):
            for name, value in neutral.items():
                found = node["inputs"].get(name, value)
                if found != value:
                    raise ValueError(
                        f"{class_type} has {name} {found}, which is computed in ComfyUI only (here it is {value}): install "
                        "ComfyUI, or set it back"
                    )


def _say_step(done: int, steps: int) -> None:
    if done == steps or done % 5 == 0:
        print(f"sampling: {done} of {steps}", flush=True)
