"""Which engine and which models make the ad. Standard library only: it is decided before anything is installed."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from pfv_demo.sizes import IMAGE_SIZE

from ..host.find import HOW_TO_GET_HOST, PACK_ROOT, Host, find_host
from ..server.client import Prompt
from .model_files import KINDS, ModelFiles, find_model_files
from .workflow import CHECKPOINT, FIND, PROMPT, load_prompt, set_inputs, the_node

ENGINES = ("auto", "comfyui", "diffusers")
FIND_AT_MOST = 20  # things of a name; without a number SAM 3 Detect keeps one
SHIPPED_PHOTO = (
    "a cup of coffee on its saucer, product advertising photograph, soft daylight"  # what `photos.coffee` shows
)
TOLD = ("enclosed", "several_parts", "cut_off")  # options, and inputs of PFV Cut Out that say what nobody has painted
DEMO_PIXELS = f"{IMAGE_SIZE}x{IMAGE_SIZE}"


class PlanError(ValueError):
    """What was asked for cannot be made on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Plan:
    """How the ad is made.

    Attributes:
        host: the ComfyUI that runs the workflow; None = diffusers does the same.
        models: SDXL's files; None = the demo's models.
        reason: why the demo's models, in words; empty with SDXL.
    """

    host: Host | None
    models: ModelFiles | None
    reason: str

    @property
    def extras(self) -> list[str]:
        """Optional dependencies of this pack that it takes."""
        if self.host is None:
            return ["diffusers"]
        return ["demo"] if self.models else []

    def __str__(self) -> str:
        engine = f"ComfyUI {self.host.version}" if self.host else "diffusers"
        if self.models:
            return f"models: {', '.join(astuple(self.models))}, in {engine}"
        return f"models: the demo's, tiny ones trained on rendered scenes of {DEMO_PIXELS} pixels, in {engine} ({self.reason})"


def plan_ad(options: argparse.Namespace) -> Plan:
    """Choose by the options and by what this machine has.

    Raises:
        PlanError: the options ask for what is not there, or for what does not go together.
        HostNotFoundError: COMFYUI_PATH is set, but there is no ComfyUI there.
    """
    _check_that_all_is_used(options)
    host = None if options.engine == "diffusers" else find_host()
    if options.engine == "comfyui" and host is None:
        raise PlanError(HOW_TO_GET_HOST)
    named = {field.name: getattr(options, field.name) for field in fields(ModelFiles)}
    named = {field: name for field, name in named.items() if name}
    if named and (host is None or options.demo):
        raise PlanError(
            "files of SDXL are named, which run in a ComfyUI alone: leave out --engine diffusers and --demo"
        )
    models, reason = (None, "as asked for") if options.demo else _sdxl_files(host, named)
    sdxl_alone = {"--size": options.size, "--format": options.format, "--find": options.find}
    if models is None and (asked := [name for name, value in sdxl_alone.items() if value]):
        raise PlanError(f"{asked[0]} goes with SDXL; here the demo's models draw {DEMO_PIXELS} pixels ({reason})")
    return Plan(host, models, reason)


def _check_that_all_is_used(options: argparse.Namespace) -> None:
    """Refuse what says something of a picture that is not there, or of a part that nobody asks for."""
    for mask, picture in (("--product-mask", "--product"), ("--reference-mask", "--reference")):
        if _given(options, mask) and not _given(options, picture):
            raise PlanError(f"{mask} marks a part of {picture}, which is not given: name both, or leave {mask} out")
    for option in (f"--{name.replace('_', '-')}" for name in TOLD):
        if _given(options, option) and (not _given(options, "--product") or _given(options, "--product-mask")):
            raise PlanError(
                f"{option} says what a product is that is found in --product: name that, and no --product-mask, which says it all"
            )
    if _given(options, "--product") and not _given(options, "--prompt"):
        raise PlanError(
            "--product shows another product than the workflow's prompt names, and what is drawn around it follows the prompt: "
            "give --prompt too, a sentence that names yours"
        )
    for option in ("--reference-mask", "--find"):
        if options.whole_reference and _given(options, option):
            raise PlanError(f"{option} says what to hide, and --whole-reference hides nothing: leave one of them out")


def _given(options: argparse.Namespace, option: str) -> bool:
    value = getattr(options, option.removeprefix("--").replace("-", "_"))
    return value is not None and value is not False  # a flag that is not there is False


def _sdxl_files(host: Host | None, named: dict[str, str]) -> tuple[ModelFiles | None, str]:
    if host is None:
        return None, "SDXL runs in a ComfyUI"
    folder = host.path / "models"
    found = find_model_files(folder) | named
    missing = [kind.description for kind in KINDS if kind.field not in found]
    if not missing:
        return ModelFiles(**found), ""
    if named:
        raise PlanError(f"not found in {folder}: {', '.join(missing)}; name all four files, or none")
    return None, f"{folder} has not {', nor '.join(missing)}"


def plan_workflow(plan: Plan, options: argparse.Namespace) -> Prompt:
    """The workflow `ad` with the plan's models and the command line's settings."""
    name = "ad" if plan.models else "demo_ad"
    prompt = load_prompt(PACK_ROOT / "workflows" / "api" / f"{name}.json")
    if plan.models:
        set_inputs(the_node(prompt, "CheckpointLoaderSimple", CHECKPOINT), ckpt_name=plan.models.checkpoint)
        set_inputs(the_node(prompt, "ControlNetLoader"), control_net_name=plan.models.controlnet)
        set_inputs(the_node(prompt, "MEPALoad"), adapter_name=plan.models.adapter, encoder_name=plan.models.clip_vision)
        _set_format(the_node(prompt, "PFVAdCanvas"), options)
        if options.find is not None:
            set_inputs(the_node(prompt, "CLIPTextEncode", FIND), text=_all_of(options.find))
    if options.whole_reference:
        set_inputs(the_node(prompt, "PFVReference"), hide="nothing")
    told = {name: getattr(options, name) for name in TOLD}
    set_inputs(the_node(prompt, "PFVCutOut"), **{name: value for name, value in told.items() if value})
    sampler = the_node(prompt, "KSampler")
    if options.steps is not None:
        set_inputs(sampler, steps=options.steps)
    if options.seed is not None:
        set_inputs(sampler, seed=options.seed)
    text = SHIPPED_PHOTO if options.prompt is None and plan.models else options.prompt
    if text is not None:
        set_inputs(the_node(prompt, "CLIPTextEncode", PROMPT), text=text)
    return prompt


def _all_of(words: str) -> str:
    """Names separated by commas, those without a number with FIND_AT_MOST, as SAM 3 Detect reads them."""
    names = [name.strip() for name in words.split(",") if name.strip()]
    return ", ".join(name if re.search(r":\s*[\d.]+$", name) else f"{name}:{FIND_AT_MOST}" for name in names)


def _set_format(canvas: dict[str, Any], options: argparse.Namespace) -> None:
    if options.size and options.format:
        raise PlanError("--size and --format both say how large the ad is: give one of them")
    if options.size:
        set_inputs(canvas, format="custom", custom_width=options.size[0], custom_height=options.size[1])
    if options.format:
        set_inputs(canvas, format=options.format)


def next_steps(plan: Plan, browser_form: Path = PACK_ROOT / "workflows" / "full.json") -> str:
    """What to do after the ad: with the demo's models, how to get SDXL's; the files are those the workflow names."""
    if plan.models:
        return "next: drop the ad onto ComfyUI's page, which opens the workflow that made it"
    nodes = json.loads(browser_form.read_text(encoding="utf-8"))["nodes"]
    files = [model for node in nodes for model in node.get("properties", {}).get("models", [])]
    lines = ["next: the same with SDXL, on a machine with a GPU"]
    if plan.host is None:
        lines.append(f"    get ComfyUI ({HOW_TO_GET_HOST.split(': ', 1)[1]})")
    folder = plan.host.path / "models" if plan.host else "ComfyUI's models folder"
    lines.append(f"    put these four files into {folder}:")
    lines += [f"        {model['directory']}/{model['name']}\n            {model['url']}" for model in files]
    lines.append("    and run this command again, with --product, --reference and --prompt of your own")
    return "\n".join(lines)
