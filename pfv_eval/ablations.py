"""Measures on held-out pairs of scenes what the demo models do with texts, references and regions.

    python -m pfv_eval.ablations --weights FOLDER --adapters FOLDER --out FOLDER [--pairs 500] [--seeds 0,1,2]
                                 [--only NAME] [--report-only] [--steps 12] [--batch 50] [--judge FILE] [--clip FOLDER]

Results are stored for each condition, adapter and chunk of pairs as they come: killed and started again it goes on.
Each pair has one noise, the same under all conditions. FOLDER/report.html and FOLDER/results.json sum up whatever is
stored; adapters that --adapters lacks are named there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from pfv_core.adapter import Adapter
from pfv_core.checkpoint import load_adapter
from pfv_core.fit import Fit, fit_geometry
from pfv_core.open_clip_vit import OPENAI_MEAN
from pfv_core.patch_mask import PatchMask, rebinarize
from pfv_core.vit import HideMode, ImageTokens, encode_image, encode_uncond
from pfv_demo import stack
from pfv_demo.captions import caption
from pfv_demo.scenes import Rendered, Scene, render, sample_pair
from pfv_diffusers.sample import ImagePrompt, sample_latents
from pfv_diffusers.vision import ClipVisionEncoder
from pfv_train.loop import save_atomically

from .conditions import ADAPTER_FILE, EXPERIMENTS, NO_ADAPTER, Condition, Row, View, Words, experiments
from .files import save_text
from .judge import FILE as JUDGE_FILE
from .judge import Judge, load_judge
from .metrics import color_share, leak_ratio, mean_color, palette_distance, region_correctness, two_tones

RUN = "run.json"
RESULTS = "chunks"
NOISE_SEED = 3_000_000_000  # beyond the scenes' seeds, below the 32 bits that torch reads of one
WALL_TOP, WALL_BOTTOM, WALL_LEFT, WALL_RIGHT = 0.11, 0.58, 0.14, 0.90  # no scene's product or table reaches beyond
UPPER = 0.28  # the upper part of the frame: mostly wall, but the product's top may be in it
BLUR_SIGMA = 10.0  # pixels


class AblationError(RuntimeError):
    """A folder that does not fit; the message says what to do."""


@dataclass(frozen=True)
class Settings:
    """What all results of a folder share.

    Attributes:
        steps: of DDIM.
        batch: pairs in a chunk; it changes results in their last bits only, but chunks are stored by it.
        weights: short hashes of the files that were used, by name.
    """

    steps: int
    batch: int
    weights: dict[str, str]


@dataclass(frozen=True)
class AdapterFile:
    """An adapter that was found.

    Attributes:
        path: of its file.
        family: kind and number of tokens, such as eq3_c16.
        tokens: image tokens.
        seed: of its training.
        identity: name of its results: family, seed and a hash of the file.
    """

    path: Path
    family: str
    tokens: int
    seed: int
    identity: str


@dataclass(frozen=True)
class Unit:
    """One condition with one adapter (None = without) on the pairs start .. start + count - 1."""

    condition: Condition
    adapter: AdapterFile | None
    start: int
    count: int

    def file(self, out: Path) -> Path:
        """Where its results go; its images lie beside them as .npz."""
        identity = self.adapter.identity if self.adapter else "none"
        return out / RESULTS / self.condition.name / identity / f"{self.start:05d}.json"

    def done(self, out: Path) -> bool:
        """Whether its results are stored, for as many pairs."""
        file = self.file(out)
        return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["count"] == self.count

    def samples(self, steps: int) -> int:
        """How many samples the U-Net sees."""
        guided = 2 if self.condition.guidance_scale != 1.0 else 1
        return self.count * steps * guided if self.condition.sampled else 0


@dataclass(frozen=True)
class Models:
    """What makes and reads the images."""

    autoencoder: stack.UnshuffledAutoencoder
    text_encoder: CLIPTextModelWithProjection
    vision: ClipVisionEncoder
    unet: UNet2DConditionModel
    tokenizer: CLIPTokenizer
    judge: Judge


def load_models(weights: Path, judge: Path) -> Models:
    """Read what is needed of the demo stack, and the judge.

    Raises:
        FileNotFoundError: a file is missing.
    """
    names = ("autoencoder", "text_encoder", "vision_encoder", "unet")
    autoencoder, text_encoder, vision_encoder, unet = (stack.load_model(name, weights) for name in names)
    for convolutional in (autoencoder, unet):
        convolutional.to(memory_format=torch.channels_last)  # faster on a CPU
    return Models(
        autoencoder, text_encoder, ClipVisionEncoder(vision_encoder), unet, stack.tokenizer(), load_judge(judge)
    )


def find_adapters(folder: Path, seeds: Sequence[int]) -> list[AdapterFile]:
    """The adapters of those seeds in a folder, by their file names."""
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        match = ADAPTER_FILE.fullmatch(path.name)
        if match and int(match["seed"]) in seeds:
            identity = f"{path.stem}-{_hash(path)}"
            found.append(AdapterFile(path, match["family"], int(match["tokens"]), int(match["seed"]), identity))
    return found


def settings_of(weights: Path, judge: Path, steps: int, batch: int) -> Settings:
    """The settings of a run with these files."""
    names = ("autoencoder", "text_encoder", "vision_encoder", "unet")
    hashes = {name: _hash(weights / f"{name}.safetensors") for name in names}
    return Settings(steps, batch, {**hashes, "judge": _hash(judge)})


def claim_folder(out: Path, settings: Settings) -> None:
    """Make `out` the folder of these settings.

    Raises:
        AblationError: it is that of others already.
    """
    file = out / RUN
    own = {"steps": settings.steps, "batch": settings.batch, "weights": settings.weights}
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        different = [
            f"{name} is {found.get(name)} there and {own[name]} here" for name in own if found.get(name) != own[name]
        ]
        if different:
            raise AblationError(
                f"{out} holds results of other settings: {'; '.join(different)}. Give another --out, or the same settings"
            )
        return
    save_text(file, json.dumps(own, indent=1))


def units(rows: Sequence[Row], adapters: Sequence[AdapterFile], pairs: int, batch: int) -> list[Unit]:
    """What is to be made for these rows, chunk by chunk; a condition that several tables share occurs once."""
    wanted: dict[tuple[str, str], tuple[Condition, AdapterFile | None]] = {}
    for row in rows:
        of_row = [None] if row.family == NO_ADAPTER else [one for one in adapters if one.family == row.family]
        for adapter in of_row:
            wanted[(row.condition.name, adapter.identity if adapter else "")] = (row.condition, adapter)
    return [
        Unit(condition, adapter, start, min(batch, pairs - start))
        for start in range(0, pairs, batch)
        for condition, adapter in wanted.values()
    ]


class Chunk:
    """Pairs of scenes and what all conditions make of them."""

    def __init__(self, models: Models, start: int, count: int) -> None:
        self.models = models
        self.start = start
        self.pairs = [sample_pair(seed) for seed in range(start, start + count)]
        self._tokens: dict[View, ImageTokens] = {}

    @property
    def wanted(self) -> list[Scene]:
        """A of each pair: what the texts speak of."""
        return [first for first, _ in self.pairs]

    @property
    def references(self) -> list[Scene]:
        """B of each pair: what the references show."""
        return [second for _, second in self.pairs]

    @cached_property
    def noise(self) -> Tensor:
        """(B, 4, h, w), of each pair its own."""
        shape = (4, stack.LATENT_SIZE, stack.LATENT_SIZE)
        seeds = range(NOISE_SEED + self.start, NOISE_SEED + self.start + len(self.pairs))
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    @cached_property
    def wanted_drawn(self) -> Rendered:
        """A as drawn."""
        return render(self.wanted, stack.IMAGE_SIZE)

    @cached_property
    def reference_drawn(self) -> Rendered:
        """B as drawn."""
        return render(self.references, stack.IMAGE_SIZE)

    @cached_property
    def oracle(self) -> Tensor:
        """(B, 3, H, W), B without its product."""
        return _channels_first(render(self.references, stack.IMAGE_SIZE, product=False).image)

    @cached_property
    def region(self) -> Tensor:
        """(B, H, W) float, 1 = the wall of A without the box around its product."""
        return wall_region(self.wanted)

    @cached_property
    def foreign(self) -> Tensor:
        """(B, 3) colour of B's product."""
        return torch.tensor([scene.product_rgb for scene in self.references])

    @cached_property
    def reference_share(self) -> Tensor:
        """(B,) share of B's pixels that have the colour of its product."""
        image = _channels_first(self.reference_drawn.image)
        return color_share(image, torch.ones_like(image[:, 0], dtype=torch.bool), self.foreign)

    @cached_property
    def wall_tones(self) -> tuple[Tensor, Tensor]:
        """(B, 2, 3) each: the tones of B's wall and of A's."""
        wall = sure_wall(len(self.pairs))
        return two_tones(self.oracle, wall), two_tones(_channels_first(self.wanted_drawn.image), wall)

    def tokens(self, view: View) -> ImageTokens:
        """The references as the image encoder sees them."""
        if view not in self._tokens:
            image, patch_mask, mode = self.shown(view)
            self._tokens[view] = encode_image(self.models.vision, image, patch_mask, mode, self._uncond)
        return self._tokens[view]

    def shown(self, view: View) -> tuple[Tensor, PatchMask, HideMode]:
        """(B, 3, H, W) references in a view, what of them is visible, and how the rest is hidden."""
        drawn = self.reference_drawn
        image, product = _channels_first(drawn.image), drawn.product > 0
        hidden = view in (View.DROPPED, View.ZEROED)
        keep_mask = ~product if hidden else torch.ones_like(product)
        fills = {
            View.BLURRED: lambda: _blurred(image),
            View.BLACKED: lambda: torch.zeros_like(image),
            View.GREYED: lambda: torch.tensor(OPENAI_MEAN).view(1, 3, 1, 1).expand_as(image),
        }
        if view is View.ORACLE:
            image = self.oracle
        elif view in fills:
            image = torch.where(product[:, None], fills[view](), image)
        spec = self.models.vision.spec
        geometry = fit_geometry(stack.IMAGE_SIZE, stack.IMAGE_SIZE, spec.image_size, spec.patch_size, Fit.CROP)
        return image, rebinarize(keep_mask, geometry), HideMode.ZERO if view is View.ZEROED else HideMode.DROP

    def captions(self, words: Words) -> list[str]:
        """The texts."""
        if words is Words.NOTHING:
            return [""] * len(self.pairs)
        return [caption(scene, wall=words is Words.EVERYTHING) for scene in self.wanted]

    @cached_property
    def _uncond(self) -> Tensor:
        return encode_uncond(self.models.vision)


def wall_region(scenes: Sequence[Scene]) -> Tensor:
    """(B, H, W) float: 1 above the horizon, 0 below it and in the box around the product."""
    product = render(scenes, stack.IMAGE_SIZE).product > 0
    wall = render(scenes, stack.IMAGE_SIZE, product=False).wall > 0.5
    box = product.any(2)[:, :, None] & product.any(1)[:, None, :]
    return (wall & ~box).float()


def sure_wall(count: int) -> Tensor:
    """(B, H, W) bool: the part of the frame that is wall in every scene there can be."""
    axis = (torch.arange(stack.IMAGE_SIZE) + 0.5) / stack.IMAGE_SIZE
    y, x = axis[:, None], axis[None]
    mask = (y < WALL_TOP) | ((y < WALL_BOTTOM) & ((x < WALL_LEFT) | (x > WALL_RIGHT)))
    return mask.expand(count, -1, -1)


def upper_part(count: int) -> Tensor:
    """(B, H, W) bool: the upper 28 % of the frame."""
    axis = (torch.arange(stack.IMAGE_SIZE) + 0.5) / stack.IMAGE_SIZE
    return (axis[:, None] < UPPER).expand(count, stack.IMAGE_SIZE, stack.IMAGE_SIZE)


@torch.no_grad()
def make_images(
    models: Models, chunk: Chunk, condition: Condition, adapter: Adapter | None, steps: int, bar: Any = None
) -> Tensor:
    """(B, 3, H, W) in 0..1."""
    if not condition.sampled:
        latents = models.autoencoder.encode(_channels_first(chunk.wanted_drawn.image))
        return models.autoencoder.decode(latents).clamp(0, 1)
    prompts = []
    if condition.view is not None and adapter is not None:
        positive, negative = adapter.image_prompt(chunk.tokens(condition.view))
        region = chunk.region if condition.in_region else None
        prompts.append(ImagePrompt(adapter, positive, negative, condition.control, region, condition.balance))
    calls = len(chunk.pairs) * (2 if condition.guidance_scale != 1.0 else 1)
    latents = sample_latents(
        models.unet,
        stack.new_scheduler(),
        chunk.noise,
        text=_encoded(models, chunk.captions(condition.words)),
        negative_text=_encoded(models, [""]),
        guidance_scale=condition.guidance_scale,
        steps=steps,
        image_size=(stack.IMAGE_SIZE, stack.IMAGE_SIZE),
        image_prompts=prompts,
        on_step=lambda _done, _all: bar.update(calls) if bar is not None else None,
    )
    return models.autoencoder.decode(latents).clamp(0, 1)


def _encoded(models: Models, captions: list[str]) -> tuple[Tensor, Tensor]:
    return stack.encode_text(models.text_encoder, stack.tokenize(captions, models.tokenizer))


def measure(models: Models, chunk: Chunk, image: Tensor) -> dict[str, Any]:
    """What is stored of each image: the judge's reading, and what `metrics` says of it."""
    wall, upper = sure_wall(len(image)), upper_part(len(image))
    share = color_share(image, torch.ones_like(wall), chunk.foreign)
    values = {
        "wall_rgb": mean_color(image, wall),
        "upper_rgb": mean_color(image, upper),
        "foreign_share": share,
        "leak_ratio": leak_ratio(share, chunk.reference_share),
        "palette": palette_distance(image, wall, chunk.oracle, wall),
        "palette_other": palette_distance(image, wall, chunk.oracle.roll(1, 0), wall),
        "region": region_correctness(image, wall, *chunk.wall_tones),
    }
    rounded = {name: np.round(value.numpy(), 6).tolist() for name, value in values.items()}
    return {"judge": {name: read.tolist() for name, read in models.judge.read(image).items()}, **rounded}


def run_unit(
    models: Models, chunk: Chunk, unit: Unit, adapter: Adapter | None, out: Path, steps: int, bar: Any
) -> None:
    """Make, measure and store the images of a unit."""
    image = make_images(models, chunk, unit.condition, adapter, steps, bar)
    file = unit.file(out)
    file.parent.mkdir(parents=True, exist_ok=True)
    if unit.start == 0 or unit.condition.keep_images:
        pixels = (image.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        save_atomically(file.with_suffix(".npz"), lambda path: _save_images(path, pixels))
    result = {"count": unit.count, **measure(models, chunk, image)}
    save_text(file, json.dumps(result, allow_nan=True))


def _save_images(path: Path, pixels: NDArray[np.uint8]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, image=pixels)


def run(models: Models, todo: Sequence[Unit], out: Path, steps: int) -> None:
    """Make what is not stored yet."""
    left = [unit for unit in todo if not unit.done(out)]
    if not left:
        return
    samples = sum(unit.samples(steps) for unit in left)
    speed = _samples_per_second(models, left[0].count)
    print(
        f"{len(left)} of {len(todo)} units to make: {samples} samples of the U-Net, about {samples / speed / 60:.0f} "
        f"minutes at {speed:.0f} samples/s",
        flush=True,
    )
    adapters: dict[str, Adapter] = {}
    with tqdm(total=samples, desc="ablations", unit="sample", mininterval=10) as bar:
        for chunk, of_chunk in _by_chunk(models, left):
            for unit in of_chunk:
                run_unit(models, chunk, unit, _loaded(unit.adapter, adapters), out, steps, bar)


def _by_chunk(models: Models, left: Sequence[Unit]) -> Iterator[tuple[Chunk, list[Unit]]]:
    chunks: dict[tuple[int, int], list[Unit]] = {}
    for unit in left:
        chunks.setdefault((unit.start, unit.count), []).append(unit)
    for (start, count), of_chunk in chunks.items():
        yield Chunk(models, start, count), of_chunk


def _loaded(file: AdapterFile | None, adapters: dict[str, Adapter]) -> Adapter | None:
    if file is None:
        return None
    if file.identity not in adapters:
        adapters[file.identity] = load_adapter(file.path).float()
    return adapters[file.identity]


def _samples_per_second(models: Models, batch: int) -> float:
    chunk = Chunk(models, 0, batch)
    condition = Condition("speed", "speed")
    make_images(models, chunk, condition, None, 1)
    started = time.monotonic()
    make_images(models, chunk, condition, None, 2)
    return 2 * batch / (time.monotonic() - started)


def _channels_first(image: Tensor) -> Tensor:
    """(B, H, W, 3) -> (B, 3, H, W)."""
    return image.permute(0, 3, 1, 2).contiguous()


def _blurred(image: Tensor) -> Tensor:
    """Gaussian blur, the rim repeated."""
    radius = round(2.5 * BLUR_SIGMA)
    kernel = torch.exp(-((torch.arange(-radius, radius + 1) / BLUR_SIGMA) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)


def _hash(file: Path) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: it is part of the repository, or made by python -m pfv_demo.train")
    return sha256(file.read_bytes()).hexdigest()[:12]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main(arguments: list[str] | None = None) -> None:
    """Measure what was asked for, then sum up all that is stored."""
    from .report import write_report
    from .summary import Store, summarize

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=stack.WEIGHTS, help="folder of the demo models")
    parser.add_argument("--adapters", type=Path, required=True, help="folder of {kind}_c{tokens}_seed{n}.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, to be continued")
    parser.add_argument("--pairs", type=int, default=500, help="held-out pairs of scenes")
    parser.add_argument("--seeds", type=_numbers, default=(0, 1, 2), help="of the adapters' training, such as 0,1,2")
    parser.add_argument("--only", action="append", choices=EXPERIMENTS, help="this table; may be repeated")
    parser.add_argument("--report-only", action="store_true", help="make no images, sum up what is stored")
    parser.add_argument("--steps", type=int, default=12, help="of DDIM")
    parser.add_argument("--batch", type=int, default=50, help="pairs in a chunk")
    parser.add_argument("--judge", type=Path, default=JUDGE_FILE, help="file of the judge")
    parser.add_argument("--clip", type=Path, help="folder of a transformers CLIP model, for the CLIP score")
    options = parser.parse_args(arguments)
    for name in ("pairs", "steps", "batch"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, expected 1 or more")
    torch.set_flush_denormal(True)
    settings = settings_of(options.weights, options.judge, options.steps, options.batch)
    claim_folder(options.out, settings)
    adapters = find_adapters(options.adapters, options.seeds)
    tables = experiments([adapter.family for adapter in adapters])
    rows = [row for table in tables if not options.only or table.name in options.only for row in table.rows]
    models = load_models(options.weights, options.judge)
    if not options.report_only:
        run(models, units(rows, adapters, options.pairs, options.batch), options.out, options.steps)
    store = Store(options.out, adapters, options.pairs, options.batch)
    results = summarize(store, settings, tables, options.judge, options.clip)
    write_report(store, results, models)
    print(f"wrote {options.out / 'report.html'} and {options.out / 'results.json'}")


if __name__ == "__main__":
    main()
