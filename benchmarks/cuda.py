"""The pack on one CUDA GPU, in one command of at most eight minutes: is it exact there, what does it cost, does it compile.

    python -m benchmarks.cuda [--out FILE] [--budget SECONDS] [--device cpu --quick]

Parts, each within what is left of the budget; what had no time is named, what failed is shown, and the rest is measured:

    exact     the tiny stack in float16 and bfloat16: identities that no slip of device or precision survives, and leak 0
    step      SDXL's U-Net at 1024 px, random bfloat16 weights, a full-size adapter: steps beside the unpatched model's
    hooks     its cross-attentions alone, by events on the device
    waits     how often a pass, and a step of a sampling, makes the host wait for the device (torch's own sync debug mode)
    memory    the most that a pass takes, what a sampling holds, what the adapter holds
    apply     from a file to a patched model, cold and warm
    compile   TorchCompileModel with inductor, plain and patched: seconds to compile, seconds of a step, the latents' difference

ComfyUI_IPAdapter_plus takes part where it lies in the host's custom_nodes. `--device cpu --quick` runs every part on tiny
sizes, to see that the command itself is whole; its numbers say nothing.

To a machine that reaches nothing bring, beside this repository (with 0.33.0 together 40 MB):

    the host    the *.py files of its checkout and comfy/*.json, 4 MB as a .tar.gz, unpacked into a folder that COMFYUI_PATH
                names; custom_nodes/ComfyUI_IPAdapter_plus with it, without .git and examples. There:
                    tar cz --ignore-failed-read --exclude .git --exclude examples -f host.tar.gz \\
                        $(git ls-files '*.py' 'comfy/*.json') custom_nodes/ComfyUI_IPAdapter_plus
    its needs   as wheels for that machine's Python: av (35 MB, with its libraries), torchsde, trampoline, and for newer hosts
                comfy-aimdo and comfy-kitchen of the versions in its requirements.txt (of the latter the py3-none-any wheel
                will do); installed there with pip install --no-index --no-deps --target FOLDER, and FOLDER in PYTHONPATH
    expected    on that machine: torch with CUDA, torchvision, numpy, scipy, safetensors, transformers, tokenizers, einops,
                pillow, psutil, PyYAML, tqdm, filelock, and for inductor Triton with a C compiler. What else the host's
                requirements name is not imported here.
    weights     none: they are random and written when they are needed (0.9 GB of temporary disk, 16 GB of memory)
"""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from headless.host.as_package import load_repository

from . import apply, memory, models, peers, report
from .hook import CONTROLS
from .measure import Figure, Measured, absolute, interleaved, ratio
from .operators import OperatorCount
from .unet import Pass, plain_attention
from .workbench import Workbench

BUDGET = 450.0  # seconds, so that the start and what is under way at its end fit into eight minutes
PERCENT = 50  # of the frame is the region's
WARMED_UP = 1
SYNCHRONIZING = "synchronizing CUDA operation"  # what torch's sync debug mode warns of
SCALE = 5.0
ROUNDING = 0.08  # in half precision through a random U-Net; a prompt on the wrong side or place is 0.16 and more
TINY = {"channels": 32, "head_dim": 16, "context_dim": 64, "pooled_dim": 40}


@dataclass(frozen=True)
class Sizes:
    """What is measured: the layouts of the U-Nets, the smaller one of which identities and compiling are shown on; the picture,
    and how often."""

    topology: str
    smaller: str
    backend: str
    side: int
    steps: int
    rounds: int
    widths: dict[str, int] = field(default_factory=dict)  # none = SDXL's


FULL = Sizes("sdxl", "vega", "inductor", 1024, 4, 5)
QUICK = Sizes("few", "few", "eager", 64, 1, 1, TINY)


@dataclass
class Machine(Workbench):
    """The workbench of one run of the command, with the time that it may take.

    Attributes:
        sizes: full or quick.
        ends: when the budget is spent.
    """

    sizes: Sizes = FULL
    ends: float = 0.0

    @cached_property
    def unet(self) -> Any:
        """MODEL of the layout that is measured."""
        return models.random_unet(self.sizes.topology, torch.bfloat16, **self.sizes.widths)

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.ends - time.monotonic()

    @property
    def cuda(self) -> bool:
        """Whether there is a CUDA device; the command's own mode for a CPU has none."""
        return self.device.type == "cuda"

    def settle(self) -> None:
        """Wait until the device has done what it was asked for."""
        if self.cuda:
            torch.cuda.synchronize()

    @cached_property
    def contestants(self) -> dict[str, Any]:
        """The model unpatched, with our hooks, and with IPAdapter_plus's."""
        from pfv_mepa.nodes.host.cross_attention import apply_image_prompt
        from pfv_mepa.pfv_core.attention.control import PromptControl

        prompt, region = self.adapter.image_prompt(models.encoded(), "adapter", 0), self.region
        found = {"plain": self.unet}
        for name in ("output, 0", "query, 0", "output, 1"):
            gate, share = CONTROLS[name]
            found[f"ours, {name}"] = apply_image_prompt(self.unet, prompt, PromptControl(1.0, share, gate), region)
        if self.ip_adapter_plus is not None:
            found[peers.IP_ADAPTER_PLUS] = self.ip_adapter_plus.apply(
                self.unet, self.adapter_file, models.encoded(), region, torch.bfloat16
            )
        return found

    @property
    def region(self) -> Tensor:
        """(1, side, side), 0 or 1."""
        return models.region(PERCENT, self.sizes.side)

    def sample(self, model: Any, steps: int, callback: Callable[..., None] | None = None) -> Tensor:
        """A latent at the measured size."""
        prompts = models.conditionings(models.CONTEXT_DIM, models.POOLED_DIM)
        side = self.sizes.side // 8
        return guided(_guider(model, *prompts), noise(1, side, side), steps, callback)


# --- sampling ---------------------------------------------------------------------------------------------------------


def noise(batch: int, rows: int, columns: int) -> Tensor:
    """Random latents."""
    return torch.randn(batch, 4, rows, columns, generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def guided(guider: Any, given: Tensor, steps: int, callback: Callable[..., None] | None = None) -> Tensor:
    """The latent that a guider of the host samples from given noise, in main memory."""
    import comfy.samplers

    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "sgm_uniform", steps)
    euler = comfy.samplers.sampler_object("euler")
    out: Tensor = guider.sample(
        given, torch.zeros_like(given), euler, sigmas, callback=callback, disable_pbar=True, seed=1
    )
    if not torch.isfinite(out).all():
        raise RuntimeError("the latent is not finite")
    return out.cpu().float()


def _guider(model: Any, positive: Any, negative: Any) -> Any:
    """The host's ordinary guidance."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(SCALE)
    return guider


def _outputs(node: Any, **inputs: Any) -> Any:
    """A node of either kind, as the host runs it."""
    with torch.inference_mode():
        result = node.execute(**inputs) if hasattr(node, "execute") else getattr(node(), node.FUNCTION)(**inputs)
    return getattr(result, "args", result)


def _off(first: Tensor, second: Tensor) -> float:
    """Relative rms of a difference."""
    return float((first - second).norm() / second.norm())


# --- exact ------------------------------------------------------------------------------------------------------------


SIDE = 128
DTYPES = (torch.float16, torch.bfloat16)


def exact(bench: Machine) -> list[Figure]:
    """Identities, each beside the unpatched model's own."""
    figure = Figure(
        "cuda_exact",
        "Identities on the device",
        f"The layout {bench.sizes.smaller} at tiny widths, {SIDE} px, 2 steps, cfg {SCALE:g}, region of the right half. "
        "Relative rms; 0 is every bit. *Unpatched* is what the host's own model makes of the same. In half precision a batch of "
        "three adds up otherwise than one of two: a slip of sides or places is 0.16 and more.",
    )
    for dtype in DTYPES[-1:] if bench.quick else DTYPES:
        for name, values in Yardsticks(bench, dtype).measured().items():
            for who, (value, at_most) in values.items():
                case = f"{str(dtype).removeprefix('torch.')}, {name}"
                figure.measured.append(Measured(case, who, value, unit="", at_most=at_most))
    return [figure]


class Yardsticks:
    """The tiny stack in one dtype."""

    def __init__(self, bench: Machine, dtype: torch.dtype) -> None:
        from pfv_mepa.nodes.host.adapter import HostAdapter
        from pfv_mepa.tests.support.tiny_stack import adapter_files
        from pfv_mepa.tests.support.tiny_stack import models as tiny

        self.model = models.random_unet(bench.sizes.smaller, dtype, **TINY)
        self.encoder = tiny.tiny_clip_vision()
        file = bench.folder / "models" / "ipadapter" / "tiny.safetensors"
        if not file.is_file():
            widths = adapter_files.cross_attention_widths(tiny.tiny_model("sdxl").model.diffusion_model)
            adapter_files.write_plus_adapter(
                file, widths, encoder_width=tiny.VISION_WIDTH, context_dim=tiny.CONTEXT_DIM
            )
        self.adapter = HostAdapter.load(file)
        self.prompt = self.image_prompt(self.picture(0))
        self.positive, self.negative = (
            [[text[0][0], text[0][1] | {"width": 512, "height": 512, "target_width": 512, "target_height": 512}]]
            for text in models.conditionings(TINY["context_dim"], TINY["pooled_dim"])
        )
        self.noise = noise(1, SIDE // 8, SIDE // 8)
        self.region = torch.zeros(1, SIDE, SIDE)
        self.region[:, :, SIDE // 2 :] = 1

    def measured(self) -> dict[str, dict[str, tuple[float, float | None]]]:
        """Name -> who -> difference and what it must be."""
        both = {"unpatched": self.model, "ours": self.patched()}
        at_most = {"unpatched": None, "ours": ROUNDING}
        found: dict[str, dict[str, tuple[float, float | None]]] = {
            "strength 0 = vanilla": {"ours": (_off(self.cfg(self.patched(strength=0.0)), self.cfg(self.model)), 0.0)},
            "what the adapter changes": {"ours": (_off(self.cfg(self.patched()), self.cfg(self.model)), None)},
        }
        for name, sampled in (("DualCFG = CFG", self.dual), ("PerpNeg = CFG", self.perp_neg)):
            found[name] = {who: (_off(sampled(model), self.cfg(model)), at_most[who]) for who, model in both.items()}
        found["areas = pictures with their part"] = {
            "unpatched": (self.areas(lambda region: self.model), None),
            "ours": (self.areas(lambda region: self.patched(region=region)), ROUNDING),
        }
        found["MEPA Crop = a picture with its part"] = {"ours": (self.crop(), 0.0)}
        found["ModelSampling after = before"] = {"ours": (self.sampling_after(), 0.0)}
        found["hidden pixels leak"] = {"ours": (self.leak(), 0.0)}
        return found

    def picture(self, seed: int) -> Tensor:
        """A random IMAGE."""
        return torch.rand(1, 240, 320, 3, generator=torch.Generator().manual_seed(seed))

    def image_prompt(self, image: Tensor, mask: Tensor | None = None) -> Any:
        """Through the pack's nodes."""
        from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize

        given = {"clip_vision": self.encoder, "reference": image}
        patch_mask = _outputs(PFVMaskRebinarize, **given, fit="pad", threshold=0.0, mask=mask)[0]
        tokens = _outputs(PFVImageEncode, **given, patch_mask=patch_mask, mode="drop")[0]
        return self.adapter.image_prompt(tokens, "adapter", 0)

    def patched(self, model: Any = None, strength: float = 1.0, **options: Any) -> Any:
        """The model with the prompt, which rules its region alone."""
        from pfv_mepa.nodes.host.cross_attention import apply_image_prompt
        from pfv_mepa.pfv_core.attention.control import PromptControl

        given = {"image_prompt": self.prompt, "region": self.region, **options}
        return apply_image_prompt(model or self.model, control=PromptControl(strength, 0.0, "output"), **given)

    def cfg(self, model: Any) -> Tensor:
        """By the host's ordinary guidance."""
        return guided(_guider(model, self.positive, self.negative), self.noise, 2)

    def dual(self, model: Any) -> Tensor:
        """With one positive prompt twice, which is the ordinary guidance."""
        from comfy_extras.nodes_custom_sampler import Guider_DualCFG

        guider = Guider_DualCFG(model)
        guider.set_conds(self.positive, self.positive, self.negative)
        guider.set_cfg(SCALE, SCALE)
        return guided(guider, self.noise, 2)

    def perp_neg(self, model: Any) -> Tensor:
        """With a negative that is the empty prompt, which is the ordinary guidance."""
        from comfy_extras.nodes_perpneg import Guider_PerpNeg

        guider = Guider_PerpNeg(model)
        guider.set_conds(self.positive, self.negative, self.negative)
        guider.set_cfg(SCALE, 1.0)
        return guided(guider, self.noise, 2)

    def areas(self, model_of: Callable[[Tensor], Any]) -> float:
        """Two areas side by side, and each as a picture of its own with its part of a soft region."""
        soft = torch.linspace(0.1, 1.0, SIDE)[None, :, None] * torch.linspace(0.2, 1.0, SIDE)[None, None]
        rows, half = SIDE // 8, SIDE // 16

        def placed(text: Any) -> Any:
            return [[text[0][0], text[0][1] | {"area": (rows, half, 0, left)}] for left in (0, half)]

        whole = guided(_guider(model_of(soft), placed(self.positive), placed(self.negative)), self.noise, 2)
        alone = [
            guided(
                _guider(model_of(soft[:, :, 8 * left : 8 * (left + half)]), self.positive, self.negative),
                self.noise[..., left : left + half].contiguous(),
                2,
            )
            for left in (0, half)
        ]
        return _off(whole, torch.cat(alone, -1))

    def crop(self) -> float:
        """The right half of an ad that is twice as wide, said by MEPA Crop, and with the mask cut by hand."""
        from pfv_mepa.nodes.mepa.crop_nodes import MEPACrop

        ad = torch.cat([self.region, self.region.flip(2)], 2)
        place = {"x": SIDE, "y": 0, "width": SIDE, "height": SIDE, "ad_width": 2 * SIDE, "ad_height": SIDE}
        cropped = _outputs(MEPACrop, model=self.patched(region=ad), **place)[0]
        return _off(self.cfg(cropped), self.cfg(self.patched(region=ad[:, :, SIDE:])))

    def sampling_after(self) -> float:
        """Another schedule, put into the model after ours and before it, with a window of the run."""
        from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

        from pfv_mepa.nodes.host.schedule import Window

        change = partial(_outputs, ModelSamplingDiscrete, sampling="v_prediction", zsnr=True)
        window = Window(0.0, 0.5)
        after = change(model=self.patched(window=window))[0]
        before = self.patched(change(model=self.model)[0], window=window)
        return _off(self.cfg(after), self.cfg(before))

    def leak(self) -> float:
        """Other values in every hidden pixel, from the raw picture to the sampled latent."""
        mask = torch.zeros(1, 240, 320)
        mask[:, 60:180, 100:200] = 1.0
        from pfv_mepa.nodes.reference.encode_nodes import PFVMaskRebinarize

        hidden = _outputs(
            PFVMaskRebinarize, clip_vision=self.encoder, reference=self.picture(0), fit="pad", threshold=0.0, mask=mask
        )[1]
        other = torch.where(hidden[..., None] > 0, self.picture(9), self.picture(0))
        if torch.equal(other, self.picture(0)):
            raise RuntimeError("no pixel is hidden")
        prompts = [self.image_prompt(image, mask) for image in (self.picture(0), other)]
        first, second = (self.cfg(self.patched(image_prompt=prompt)) for prompt in prompts)
        return _off(first, second)


# --- costs ------------------------------------------------------------------------------------------------------------


def step(bench: Machine) -> list[Figure]:
    """Whole steps of a sampling."""
    figure = Figure(
        "cuda_step",
        "Step time on the device",
        f"{_about(bench)} Time of a sampling of {bench.sizes.steps} steps, "
        "to the unpatched model's; the first of each was not counted.",
    )
    runs = {name: partial(bench.sample, model, bench.sizes.steps) for name, model in bench.contestants.items()}
    seconds = interleaved(runs, bench.sizes.rounds, bench.clock)
    for name in list(runs)[1:]:
        at_most = 1.03 if name.startswith("ours") else None
        figure.measured.append(ratio("a step", name, seconds[name], seconds["plain"], at_most))
    figure.measured.append(
        absolute("a step", "plain, ms", [one / bench.sizes.steps for one in seconds["plain"]], unit="ms")
    )
    return [figure]


class Marked:
    """A hook whose work lies between two marks on the device; nothing waits for them until they are read."""

    def __init__(self, hook: Callable[..., Tensor], cuda: bool, marks: list[tuple[Any, Any]]) -> None:
        self.hook, self.cuda, self.marks = hook, cuda, marks

    def __call__(self, *args: Any) -> Tensor:
        """What the hook gives."""
        before = self._mark()
        out = self.hook(*args)
        self.marks.append((before, self._mark()))
        return out

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def hooks(bench: Machine) -> list[Figure]:
    """The cross-attentions of a pass."""
    figure = Figure(
        "cuda_hooks",
        "Hook time on the device",
        f"{_about(bench)} Time of all hooks of a pass together, between "
        "events of the device, to the host's own attention at the same places.",
    )
    inside: dict[str, list[float]] = {name: [] for name in bench.contestants}
    marks: dict[str, list[tuple[Any, Any]]] = {name: [] for name in bench.contestants}
    passes = {name: _pass(bench, model, marks[name]) for name, model in bench.contestants.items()}

    def clock(contestant: Callable[[], object]) -> float:
        contestant()
        bench.settle()
        return 0.0

    def timed(name: str) -> Callable[[], None]:
        def one() -> None:
            marks[name].clear()
            passes[name]()
            bench.settle()
            inside[name].append(sum(_between(*pair) for pair in marks[name]))

        return one

    interleaved({name: timed(name) for name in passes}, bench.sizes.rounds, clock, WARMED_UP)
    for name in list(passes)[1:]:
        at_most = 1.10 if name.endswith(", 0") else None
        one = ratio("all hooks", name, inside[name][WARMED_UP:], inside["plain"][WARMED_UP:], at_most)
        figure.measured.append(one)
    figure.measured.append(absolute("all hooks", "plain, ms", inside["plain"][WARMED_UP:], unit="ms"))
    return [figure]


def _between(before: Any, after: Any) -> float:
    """Seconds."""
    return after - before if isinstance(before, float) else before.elapsed_time(after) / 1e3


def _pass(bench: Machine, model: Any, marks: list[tuple[Any, Any]] | None = None) -> Callable[[], None]:
    """One forward pass of a loaded model; with marks around each cross-attention if they are given."""
    import comfy.model_management

    comfy.model_management.load_model_gpu(model)
    made = Pass(bench, model, bench.sizes.side)
    found = made.options["patches_replace"]["attn2"]
    for key, hook in found.items():
        found[key] = hook.hook if marks is None else Marked(hook.hook, bench.cuda, marks)
    if marks is None:
        made.options["patches_replace"] = {
            "attn2": {key: hook for key, hook in found.items() if hook is not plain_attention}
        }

    def run() -> None:
        with torch.inference_mode():
            made()

    return run


@contextmanager
def counted_waits(bench: Machine) -> Iterator[list[str]]:
    """What made the host wait for the device, one entry each."""
    found: list[str] = []
    if not bench.cuda:
        with torch.no_grad(), OperatorCount() as count:
            yield found
        found += ["a number is read"] * count.syncs
        return
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [f"{warning.filename}:{warning.lineno}" for warning in caught if SYNCHRONIZING in str(warning.message)]


def waits(bench: Machine) -> list[Figure]:
    """Of a pass by hand, and of the second half of a sampling."""
    figure = Figure(
        "cuda_waits",
        "Waits for the device",
        f"{_about(bench)} Times that the host waits for the device: in one pass "
        "of the U-Net by hand whose caches are filled, and in a step of a sampling, which is (waits of 4 steps - waits "
        "of 2 steps) / 2, to the same of the unpatched model.",
    )
    everything = {**bench.contestants, "ours, window": _windowed(bench)}
    per_step: dict[str, float] = {}
    for name, model in everything.items():
        one = _pass(bench, model)
        one()
        with counted_waits(bench) as found:
            one()
        at_most = {"ours, window": 1}.get(name, 0) if name.startswith("ours") else None
        figure.measured.append(Measured("one pass", name, len(found), unit="", at_most=at_most))
        if found:
            print(f"{name} waits in a pass at: {', '.join(sorted(set(found)))}", flush=True)
        counts = []
        for steps in (2, 4):
            with counted_waits(bench) as found:
                bench.sample(model, steps)
            counts.append(len(found))
        per_step[name] = (counts[1] - counts[0]) / 2
        more = per_step[name] - per_step["plain"]
        figure.measured.append(Measured("a step of a sampling", name, more, unit="", at_most=at_most))
    figure.measured.append(Measured("a step of a sampling", "plain, all of them", per_step["plain"], unit=""))
    return [figure]


def _windowed(bench: Machine) -> Any:
    from pfv_mepa.nodes.host.cross_attention import apply_image_prompt
    from pfv_mepa.nodes.host.schedule import Window
    from pfv_mepa.pfv_core.attention.control import PromptControl

    prompt = bench.adapter.image_prompt(models.encoded(), "adapter", 0)
    return apply_image_prompt(bench.unet, prompt, PromptControl(1.0, 0.0, "output"), bench.region, Window(0.0, 0.99))


def held_memory(bench: Machine) -> list[Figure]:
    """Peaks and what stays, as in `memory`, at this size; on a CUDA device also what a sampling holds at its last step."""
    import comfy.model_management

    comfy.model_management.load_model_gpu(bench.unet)
    memory.SIDE = bench.sizes.side
    (figure,) = memory.run(bench)
    figure.name, figure.title = "cuda_memory", "Memory on the device"
    figure.how = (
        f"{_about(bench)} *Held*: every tensor that the hooks and the adapter lead to after a call of each. *Peaks*: the "
        "most that torch allocates at once, above what it held before. *At the last step*: what a sampling holds more than "
        "the unpatched model's."
    )
    if bench.cuda:
        at_last: dict[str, int] = {}
        for name, model in bench.contestants.items():
            held: list[int] = []
            bench.sample(model, 2, callback=lambda *_, held=held: held.append(torch.cuda.memory_allocated()))
            at_last[name] = held[-1]
        for name in list(at_last)[1:]:
            more = (at_last[name] - at_last["plain"]) / 1e6
            figure.measured.append(Measured("held at the last step", name, more, unit="MB"))
    return [figure]


def applying(bench: Machine) -> list[Figure]:
    """As in `apply`."""
    bench.__dict__.pop("contestants", None)
    figures = apply.run(bench)
    for figure in figures:
        figure.name, figure.title = "cuda_apply", "Applying an adapter, to the device"
        figure.how = (
            f"{_about(bench)} Cold: load the file, compress, project, patch. Warm: again, with another strength."
        )
    return figures


def compiled(bench: Machine) -> list[Figure]:
    """By the host's own node."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    from pfv_mepa.nodes.host.cross_attention import apply_image_prompt
    from pfv_mepa.pfv_core.attention.control import PromptControl

    figure = Figure(
        "cuda_compile",
        "TorchCompileModel on the device",
        f"The layout {bench.sizes.smaller}, backend {bench.sizes.backend}. *Compiling*: the first sampling of one step. "
        "*Step*: of later ones, to the same model's that is not compiled. *Difference*: relative rms of the latents of both. "
        "The second patched model meets what was compiled for the first.",
    )
    bench.forget_models()
    bench.__dict__.pop("contestants", None)
    model = models.random_unet(bench.sizes.smaller, torch.bfloat16, **bench.sizes.widths)
    bench.__dict__["unet"] = model
    prompt = bench.adapter.image_prompt(models.encoded(), "adapter", 0)

    def patched(of: Any, share: float) -> Any:
        return apply_image_prompt(of, prompt, PromptControl(1.0, share, "output"), bench.region)

    tried = {"plain": model, "patched": patched(model, 0.0), "patched otherwise": patched(model, 1.0)}
    steps = bench.sizes.steps
    for name, eager in tried.items():
        fast = _outputs(TorchCompileModel, model=eager, backend=bench.sizes.backend)[0]
        started = time.perf_counter()
        bench.sample(fast, 1)
        figure.measured.append(Measured(name, "compiling", time.perf_counter() - started, unit="s"))
        runs = {"eager": partial(bench.sample, eager, steps), "compiled": partial(bench.sample, fast, steps)}
        seconds = interleaved(runs, min(3, bench.sizes.rounds), bench.clock)
        figure.measured.append(ratio(name, "step", seconds["compiled"], seconds["eager"]))
        apart = _off(runs["compiled"](), runs["eager"]())
        figure.measured.append(Measured(name, "difference", apart, unit="", at_most=ROUNDING))
        print(report.markdown(figure), flush=True)  # the next one may not come to its end
    return [figure]


def _about(bench: Machine) -> str:
    """Model and picture, in words."""
    sizes = bench.sizes
    widths = f"tiny widths {sizes.widths}" if sizes.widths else "its own widths"
    return (
        f"The layout {sizes.topology} at {widths}, bfloat16, random weights, {sizes.side} px, positive and negative, region "
        f"{PERCENT} %, 16 image tokens."
    )


# --- the command ------------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[Callable[[Machine], list[Figure]], float]] = {  # with the least seconds that it is begun for
    "exact": (exact, 20.0),
    "step": (step, 40.0),
    "hooks": (hooks, 20.0),
    "waits": (waits, 20.0),
    "memory": (held_memory, 30.0),
    "apply": (applying, 30.0),
    "compile": (compiled, 60.0),
}


class OutOfTimeError(Exception):
    """The budget is spent."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise where a part takes longer; work that never comes back to Python is not interrupted."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def measure(bench: Machine, parts: tuple[str, ...]) -> tuple[list[Figure], list[str]]:
    """Every part for which there is time, and in words what is missing."""
    figures: list[Figure] = []
    missing: list[str] = []
    for name in parts:
        run, least = PARTS[name]
        if bench.left < least and not bench.quick:
            missing.append(f"{name}: left out, {max(bench.left, 0):.0f} s were left")
            continue
        started = time.monotonic()
        try:
            with _at_most(bench.left):
                found = _with_or_without_peers(run, bench)
        except OutOfTimeError:
            missing.append(f"{name}: stopped after {time.monotonic() - started:.0f} s, the budget was spent")
        except Exception as error:  # noqa: BLE001  (the other parts are worth having)
            traceback.print_exc()
            missing.append(f"{name}: failed with {type(error).__name__}: {(str(error) or '-').splitlines()[0]}")
        else:
            figures += found
            print("\n".join(report.markdown(figure) for figure in found))
        print(f"({name}: {time.monotonic() - started:.0f} s, {max(bench.left, 0):.0f} s are left)\n", flush=True)
        gc.collect()
    return figures, missing


def _with_or_without_peers(run: Callable[[Machine], list[Figure]], bench: Machine) -> list[Figure]:
    """A part; once more without the other pack, should it be that which fails."""
    try:
        return run(bench)
    except OutOfTimeError:
        raise
    except Exception:
        if bench.ip_adapter_plus is None:
            raise
        traceback.print_exc()
        print(f"once more, without {peers.IP_ADAPTER_PLUS}", flush=True)
        bench.__dict__["ip_adapter_plus"] = None
        bench.__dict__.pop("contestants", None)
        return run(bench)


def main() -> int:
    """Measure, and print everything once more at the end; 1 if something failed or is not what it must be."""
    options = _options()
    load_repository()
    with tempfile.TemporaryDirectory(prefix="benchmarks-cuda-", ignore_cleanup_errors=True) as folder:
        bench = _machine(options, Path(folder))
        if bench is None:
            print(
                "torch sees no CUDA device: run this where there is one, or with --device cpu --quick", file=sys.stderr
            )
            return 2
        figures, missing = measure(bench, options.only)
        page = _page(bench, figures, missing)
    print(page)
    if options.out is not None:
        options.out.write_text(page, encoding="utf-8")
    unmet = [one for figure in figures for one in figure.measured if one.met is False]
    failed = [line for line in missing if ": failed" in line]
    return 1 if failed or (unmet and not options.quick) else 0


def _page(bench: Machine, figures: list[Figure], missing: list[str]) -> str:
    parts = [f"## {report.machine()}\n", f"*{_versions(bench)}*\n", report.summary(figures)]
    parts += [report.markdown(figure) for figure in figures]
    if missing:
        parts.append("Not measured:\n\n" + "\n".join(f"* {line}" for line in missing) + "\n")
    return "\n".join(parts)


def _versions(bench: Machine) -> str:
    from headless.host.find import host_at

    cuda = torch.version.cuda or "none"
    return f"{host_at(bench.host, 'host')}; torch {torch.__version__}, CUDA {cuda}; {time.strftime('%Y-%m-%d')}"


def _machine(options: argparse.Namespace, folder: Path) -> Machine | None:
    ends = time.monotonic() + options.budget
    if options.device == "cuda" and not torch.cuda.is_available():
        return None
    from headless.host.boot import boot_host
    from headless.host.find import require_host

    host = require_host()
    boot_host(host.path, folder)
    from comfy.cli_args import args

    args.cpu = options.device == "cpu"
    args.use_pytorch_cross_attention = True
    import nodes  # noqa: F401  (the host's own; what it imports is imported before anything is timed)

    sizes = QUICK if options.quick else FULL
    bench = Machine(folder, host.path, sizes.rounds, options.quick, "sdpa", sizes=sizes, ends=ends)
    if options.quick:
        _make_tiny(bench)
    print(f"{report.machine()}; {_versions(bench)}; device {bench.device}", flush=True)
    return bench


def _make_tiny(bench: Machine) -> None:
    """Tiny widths, for all that the figures read of SDXL in this process."""
    for name, value in TINY.items():
        setattr(models, name.upper(), value)
    bench.__dict__["ip_adapter_plus"] = None  # it knows the real widths alone


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cuda", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="file for the tables, in Markdown")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only whether the command is whole")
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"seconds ({BUDGET:.0f})")
    parser.add_argument("--only", type=_names, default=tuple(PARTS), help=f"parts, with commas: {','.join(PARTS)}")
    options = parser.parse_args()
    if options.device == "cpu" and not options.quick:
        parser.error("on a CPU the full sizes take hours: add --quick")
    return options


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"unknown parts {sorted(unknown)}: expected some of {','.join(PARTS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
