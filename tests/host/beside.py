"""What the tests beside the host's own nodes share: those nodes by their ids, the pack's parts, and how far two runs are apart.

A fact of a run, such as which rows are negative, is checked against runs in which it cannot be mistaken: with the same tokens
on both sides of the image prompt no row can get the wrong ones.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import comfy.samplers
import nodes as host_nodes
import pytest
import torch
from torch import Tensor

from pfv_mepa.nodes.mepa.branch_nodes import MEPAApplyControlNet, MEPABranch
from pfv_mepa.nodes.research.fusion_nodes import RefAdGenAttentionFusion, RefAdGenMaskInput
from pfv_mepa.pfv_core.research.mask_input import MaskInput, save_mask_input
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, reference, right_half
from pfv_mepa.tests.support.tiny_stack.models import CONTEXT_DIM, tiny_conditioning

ROUNDING = 2e-5  # relative rms of float32 runs that add up in another order; the largest of them is 6e-6
VISIBLE = 0.05  # relative rms that "it has an effect" asks for
HEIGHT, WIDTH = 96, 128  # a latent of 12x16, so that rows and columns cannot be mistaken for each other
CHANNELS = 32  # of the tiny models' first level
SIZES = {"width": 512, "height": 512, "crop_w": 0, "crop_h": 0, "target_width": 512, "target_height": 512}
SCHEDULER = "sgm_uniform"  # its second step still counts: the last noise level is far from 0

MODULES = {  # of comfy_extras; what is not here is in the host's own nodes.py
    "nodes_apg": ("APG",),
    "nodes_attention_multiply": ("UNetCrossAttentionMultiply", "UNetSelfAttentionMultiply"),
    "nodes_cfg": ("CFGNorm", "CFGZeroStar"),
    "nodes_context_windows": ("ContextWindowsManual",),
    "nodes_custom_sampler": (
        "BasicGuider",
        "BasicScheduler",
        "CFGGuider",
        "CFGOverride",
        "DisableNoise",
        "DualCFGGuider",
        "DualModelGuider",
        "KSamplerSelect",
        "RandomNoise",
        "SamplerCustom",
        "SamplerCustomAdvanced",
        "SplitSigmas",
        "SplitSigmasDenoise",
    ),
    "nodes_differential_diffusion": ("DifferentialDiffusion",),
    "nodes_easycache": ("EasyCache", "LazyCache"),
    "nodes_eps": ("Epsilon Scaling", "TemporalScoreRescaling"),
    "nodes_freelunch": ("FreeU", "FreeU_V2"),
    "nodes_fresca": ("FreSca",),
    "nodes_hooks": (
        "ConditioningSetDefaultCombine",
        "ConditioningSetProperties",
        "CreateHookKeyframe",
        "CreateHookLora",
        "CreateHookModelAsLora",
        "SetHookKeyframes",
    ),
    "nodes_hypernetwork": ("HypernetworkLoader",),
    "nodes_hypertile": ("HyperTile",),
    "nodes_ip2p": ("InstructPixToPixConditioning",),
    "nodes_mahiro": ("Mahiro",),
    "nodes_mask": ("SolidMask",),
    "nodes_model_advanced": (
        "ModelSamplingContinuousEDM",
        "ModelSamplingContinuousV",
        "ModelSamplingDiscrete",
        "RescaleCFG",
    ),
    "nodes_model_downscale": ("PatchModelAddDownscale",),
    "nodes_model_merging": ("ModelMergeSimple",),
    "nodes_multigpu": ("MultiGPU_WorkUnits",),
    "nodes_nag": ("NAGuidance",),
    "nodes_pag": ("PerturbedAttentionGuidance",),
    "nodes_perpneg": ("PerpNeg", "PerpNegGuider"),
    "nodes_sag": ("SelfAttentionGuidance",),
    "nodes_sd3": ("SkipLayerGuidanceSD3",),
    "nodes_slg": ("SkipLayerGuidanceDiT", "SkipLayerGuidanceDiTSimple"),
    "nodes_tcfg": ("TCFG",),
    "nodes_tomesd": ("TomePatchModel",),
    "nodes_video_model": ("VideoLinearCFGGuidance", "VideoTriangleCFGGuidance"),
}
SINCE = {  # the first ComfyUI with a node that the pack's oldest host lacks
    "CFGOverride": "0.24",
    "DualModelGuider": "0.24",
    "MultiGPU_WorkUnits": "0.23",
    "NAGuidance": "0.14",
    "TemporalScoreRescaling": "0.3.66",
}

Model = Any
Condition = list[Any]


# --- the host's nodes -------------------------------------------------------------------------------------------------


@cache
def host_node(node_id: str) -> Any:
    """The class that the host lists under an id, or None where it lists none."""
    module = next((name for name, ids in MODULES.items() if node_id in ids), None)
    if module is None:
        return host_nodes.NODE_CLASS_MAPPINGS.get(node_id)
    try:
        return _listed(f"comfy_extras.{module}").get(node_id)
    except ModuleNotFoundError:
        return None


@cache
def _listed(module: str) -> dict[str, Any]:
    """What a module of the host offers, in either of its two ways."""
    loaded = importlib.import_module(module)
    if hasattr(loaded, "NODE_CLASS_MAPPINGS"):
        return dict(loaded.NODE_CLASS_MAPPINGS)

    async def offered() -> list[Any]:
        extension = loaded.comfy_entrypoint()
        extension = await extension if inspect.isawaitable(extension) else extension
        return await extension.get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(offered())}


def needs(node_id: str) -> pytest.MarkDecorator:
    """Leave a test out on a host that does not list the node, and say since when there is one."""
    reason = f"this ComfyUI has no {node_id}, which came with {SINCE.get(node_id, 'another version')}"
    return pytest.mark.skipif(host_node(node_id) is None, reason=reason)


def run(node_id: str, **inputs: Any) -> Any:
    """The first output of a node of the host; inputs that are not given have the values that the page offers."""
    node = host_node(node_id)
    required = node.INPUT_TYPES().get("required", {})
    inputs = {name: _offered(entry) for name, entry in required.items() if name not in inputs} | inputs
    if hasattr(node, "execute"):
        return outputs(node, **inputs)[0]
    with torch.inference_mode():
        return getattr(node(), node.FUNCTION)(**inputs)[0]


def _offered(entry: Any) -> Any:
    """The value of an input that nobody has touched."""
    kind, options = entry[0], entry[1] if len(entry) > 1 else {}
    if "default" in options:
        return options["default"]
    return kind[0] if isinstance(kind, list) else options["options"][0]


# --- sampling ---------------------------------------------------------------------------------------------------------


def basic(model: Model, condition: Condition) -> Any:
    """One condition alone."""
    return run("BasicGuider", model=model, conditioning=condition)


def cfg(model: Model, positive: Condition, negative: Condition, scale: float = 5.0) -> Any:
    """The host's ordinary guidance."""
    return run("CFGGuider", model=model, positive=positive, negative=negative, cfg=scale)


class Given:
    """A NOISE that is given, not drawn."""

    seed = 1

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        return self.noise


def sigmas_of(model: Model, steps: int, scheduler: str = SCHEDULER, denoise: float = 1.0) -> Tensor:
    """The noise levels that a scheduler gives for a model as it is patched."""
    return run("BasicScheduler", model=model, scheduler=scheduler, steps=steps, denoise=denoise)


def guided(
    guider: Any,
    *,
    height: int = HEIGHT,
    width: int = WIDTH,
    batch: int = 1,
    steps: int = 2,
    sampler: Any = "euler",
    sigmas: Tensor | None = None,
    noise: Any = None,
    latent: dict[str, Any] | None = None,
) -> Tensor:
    """The latent that the host's Sampler Custom Advanced gives."""
    sigmas = sigmas_of(guider.model_patcher, steps) if sigmas is None else sigmas
    noise = run("RandomNoise", noise_seed=1) if noise is None else noise
    latent = {"samples": torch.zeros(batch, 4, height // 8, width // 8)} if latent is None else latent
    chosen = run("KSamplerSelect", sampler_name=sampler) if isinstance(sampler, str) else sampler
    inputs = {"noise": noise, "guider": guider, "sampler": chosen, "sigmas": sigmas, "latent_image": latent}
    out: Tensor = run("SamplerCustomAdvanced", **inputs)["samples"]
    assert torch.isfinite(out).all()
    return out


def prediction(guider: Any, **where: Any) -> Tensor:
    """What a guider predicts at the first noise level, in the latents that the model itself sees."""
    where.setdefault("steps", 1)
    return guider.model_patcher.model.process_latent_in(guided(guider, **where))


def mixed(first: Tensor, second: Tensor, scale: float) -> Tensor:
    """Guidance of two predictions: at scale 0 the second, at 1 the first."""
    return second + (first - second) * scale


def combined_by(model: Model, predictions: list[Tensor], scale: float = 5.0, **where: Any) -> Tensor:
    """What the nodes on a model make of a positive and a negative prediction that are given."""
    clone = model.clone()
    clone.set_model_sampler_calc_cond_batch_function(lambda args: [tensor.clone() for tensor in predictions])
    positive, negative = prompts(model)
    return prediction(cfg(clone, positive, negative, scale), **where)


def sized(*texts: Condition) -> list[Condition]:
    """Texts that say the same size of every picture, as CLIP Text Encode SDXL does; otherwise an area's is the frame's, a small
    picture's its own."""
    return [[[tokens, values | SIZES] for tokens, values in text] for text in texts]


def prompts(model: Model) -> tuple[Condition, Condition]:
    """A positive and a negative text."""
    return tiny_conditioning(model, seed=6), tiny_conditioning(model, seed=7)


# --- how far apart ----------------------------------------------------------------------------------------------------


def off(first: Tensor, second: Tensor) -> float:
    """Relative rms of a difference."""
    return float((first - second).norm() / second.norm())


def assert_same(first: Tensor, second: Tensor) -> None:
    """Every bit."""
    apart = off(first, second)
    assert torch.equal(first, second), f"relative rms {apart:.2g}, expected the same bits"


def assert_near(first: Tensor, second: Tensor, tolerance: float = ROUNDING) -> None:
    """The same but for rounding."""
    apart = off(first, second)
    assert apart <= tolerance, f"relative rms {apart:.2g}, expected at most {tolerance}"


def assert_apart(first: Tensor, second: Tensor, least: float = VISIBLE) -> None:
    """Different enough that an identity beside it says something."""
    apart = off(first, second)
    assert apart > least, f"relative rms {apart:.2g}, expected more than {least}"


# --- the pack's parts -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pack:
    """The pack's nodes on a model: an image prompt whose region is the right half and rules it alone, and the others."""

    tokens: Any  # an image prompt; positive and negative differ
    other_tokens: Any
    mask_input_name: str

    @classmethod
    def of(cls, base_directory: Path, clip_vision: Any, adapter_file: Path) -> Pack:
        """With files of its own below the host's folder."""
        file = base_directory / "models" / "model_patches" / "beside.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        kernel = torch.randn(CHANNELS, 1, 3, 3, generator=torch.Generator().manual_seed(1))
        save_mask_input(file, MaskInput(kernel), CONTEXT_DIM)
        return cls(
            image_prompt(clip_vision, adapter_file),
            image_prompt(clip_vision, adapter_file, image=reference(seed=5)),
            file.name,
        )

    def put(self, part: str, model: Model, side: str = "", **options: Any) -> Model:
        """A part by its name; `side` is "positive" or "negative" for tokens of that side alone, or "swapped"."""
        put: Callable[..., Model] = getattr(self, part)
        return put(model, side, **options)

    def prompt(self, model: Model, side: str = "", tokens: Any = None, **options: Any) -> Model:
        """MEPA Apply."""
        options = {"region": right_half(HEIGHT, WIDTH), "text_share": 0.0} | options
        return apply(model, sided(self.tokens if tokens is None else tokens, side), **options)

    def branches(self, model: Model, side: str = "", **options: Any) -> Model:
        """MEPA Apply with a MEPA Branch, which is normalised, in the left half."""
        defaults = {"strength": 1.0, "text_share": 1.0, "gate": "output", "start_percent": 0.0, "end_percent": 1.0}
        region = 1 - right_half(HEIGHT, WIDTH)
        own = {"image_prompt": sided(self.other_tokens, side), "region": region, "std_norm": True}
        (branch,) = outputs(MEPABranch, **{**defaults, **own, **options})
        return self.prompt(model, side, branches=branch, **options)

    def fusion(self, model: Model, side: str = "", **options: Any) -> Model:
        """RefAdGen Attention Fusion; it has no sides."""
        defaults = {
            "reference_latent": {"samples": noise_like(1, 8, 6, seed=3)},
            "reference_prompt": tiny_conditioning(model, seed=8),
            "strength": 1.0,
            "combine": "add",
            "reference_noise": "clean",
            "start_percent": 0.0,
            "end_percent": 1.0,
            "product_mask": right_half(HEIGHT, WIDTH),
        }
        (patched,) = outputs(RefAdGenAttentionFusion, model=model, **{**defaults, **options})
        return patched

    def mask(self, model: Model, side: str = "", **options: Any) -> Model:
        """RefAdGen Mask Input; it has no sides."""
        defaults = {"mask_input_name": self.mask_input_name, "product_mask": right_half(HEIGHT, WIDTH)}
        (patched,) = outputs(RefAdGenMaskInput, model=model, **{**defaults, **options})
        return patched

    def everything(self, model: Model, side: str = "", **options: Any) -> Model:
        """All of them; a `region` is for each."""
        own = {"product_mask": options["region"]} if "region" in options else {}
        return self.mask(self.fusion(self.branches(model, side, **options), **own), **own)


PARTS = pytest.mark.parametrize("part", ["prompt", "branches", "fusion", "mask"])
EVERYTHING = pytest.mark.parametrize("part", ["everything"])  # where it is enough to see that something is wrong
SIDED = ("prompt", "branches", "everything")


def region() -> Tensor:
    """(1, HEIGHT, WIDTH) soft, and different in every part of the frame."""
    rows, columns = torch.linspace(0.1, 0.6, HEIGHT)[:, None], torch.linspace(0.0, 0.4, WIDTH)[None]
    return (rows + columns)[None]


def in_region(part: str, mask: Tensor | None) -> dict[str, Tensor | None]:
    """The option of a part that takes a mask; None = the whole frame."""
    return {"product_mask" if part in ("fusion", "mask") else "region": mask}


def sided(tokens: Any, side: str) -> Any:
    """An image prompt with the tokens of one side on both, or with its sides swapped."""
    positive, negative = tokens.positive, tokens.negative
    if side == "positive":
        negative = positive[:1]
    elif side == "negative":
        positive = negative.expand(len(positive), -1, -1)
    elif side == "swapped":
        positive, negative = negative.expand(len(positive), -1, -1), positive[:1]
    return type(tokens)(tokens.adapter, positive, negative)


def prompted_control_net(control_net: Any, model: Model) -> Any:
    """MEPA Apply to ControlNet."""
    return outputs(MEPAApplyControlNet, control_net=control_net, model=model)[0]


def controlled(control_net: Any, *conditions: Condition) -> list[Condition]:
    """Conditions with a ControlNet each, by the host's node."""
    pairs = [together_controlled(control_net, condition, condition) for condition in conditions]
    return [condition for condition, _ in pairs]


def together_controlled(
    control_net: Any, positive: Condition, negative: Condition, hint: Tensor | None = None
) -> list[Condition]:
    """Positive and negative with one ControlNet, which the host then runs on the rows of both in one call."""
    hint = reference(HEIGHT, WIDTH) if hint is None else hint
    apply_control = host_nodes.ControlNetApplyAdvanced().apply_controlnet
    return list(apply_control(positive, negative, control_net, hint, 0.8, 0.0, 1.0))


def noise_like(batch: int, rows: int, columns: int, seed: int) -> Tensor:
    """Random latents."""
    return torch.randn(batch, 4, rows, columns, generator=torch.Generator().manual_seed(seed))


class Strange(comfy.samplers.CFGGuider):
    """A guider of another pack: its conditions have names of its own."""

    def set_conds(self, positive: Condition, foo: Condition) -> None:
        self.inner_set_conds({"positive": positive, "foo": foo})

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None) -> Tensor:
        conds = [self.conds["foo"], self.conds["positive"]]
        foo, positive = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        return mixed(positive, foo, self.cfg)
