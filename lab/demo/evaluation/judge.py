"""A small classifier that reads a demo scene, for measuring only: nothing is generated with it.

    python -m lab.demo.evaluation.judge --work FOLDER --out FILE [--weights FOLDER] [--data FOLDER] [--seed N]

It learns from drawn scenes with and without a product, as they are and through the demo autoencoder, with noise, blur
and colour shifts, so that it reads what the demo models make. A scene without a product has the class "none".
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...evaluation.statistics import rate
from ...files import save_atomically
from ...train.loop import Schedule, TrainingLoop
from .. import stack
from ..scene_data import SceneData, scene_data
from ..scenes import ATTRIBUTES, Scene, labels, render, sample_scene

NONE = "none"
OF_PRODUCT = ("product_color", "shape")
CLASSES = {name: (*values, NONE) if name in OF_PRODUCT else values for name, values in ATTRIBUTES.items()}

INPUT_SIZE = 64
WIDTHS = (24, 48, 72, 64)
FEATURES = 40
GROUPS = 8
FORMAT = "pfv-judge-1"
FILE = stack.WEIGHTS / "judge.safetensors"
HELD_OUT_SEED = 500_000_000  # training scenes begin at 1e9, the pairs of the ablations end far below


class JudgeFileError(ValueError):
    """A file that holds no judge of these scenes; the message says what to do."""


class Judge(nn.Module):
    """Reads an image: per attribute of CLASSES the scores of its values."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width_in = 3
        for index, width in enumerate(WIDTHS):
            blocks += [_convolution(width_in, width, stride=2)]
            if index:
                blocks += [_convolution(width, width, stride=1)]
            width_in = width
        self.body = nn.Sequential(*blocks)
        side = INPUT_SIZE // 2 ** len(WIDTHS)
        self.narrow = nn.Sequential(nn.Flatten(), nn.Linear(WIDTHS[-1] * side**2, FEATURES), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(values)) for name, values in CLASSES.items()})

    def forward(self, small: Tensor) -> dict[str, Tensor]:
        """(B, 3, INPUT_SIZE, INPUT_SIZE) from `shrink` -> per attribute (B, classes) scores."""
        features = self.narrow(self.body(small * 2 - 1))
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, image: Tensor, batch: int = 256) -> dict[str, Tensor]:
        """(B, 3, H, W) in 0..1 -> per attribute (B,) int64, an index into CLASSES.

        Raises:
            ValueError: not square RGB images whose side is a multiple of INPUT_SIZE.
        """
        scores = [self(shrink(part)) for part in image.split(batch)]
        return {name: torch.cat([part[name].argmax(1) for part in scores]) for name in CLASSES}


def _convolution(width_in: int, width: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.GroupNorm(GROUPS, width), nn.SiLU(inplace=True)
    )


def shrink(image: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1, clamped to it -> (B, 3, INPUT_SIZE, INPUT_SIZE) by area."""
    if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] != image.shape[3] or image.shape[2] % INPUT_SIZE:
        raise ValueError(
            f"image is {tuple(image.shape)}, expected (B, 3, S, S) with S a multiple of {INPUT_SIZE}: the judge knows "
            "square scenes only"
        )
    return F.avg_pool2d(image.float().clamp(0, 1), image.shape[2] // INPUT_SIZE)


def load_judge(file: Path = FILE) -> Judge:
    """Read a trained judge.

    Raises:
        FileNotFoundError: no such file.
        JudgeFileError: a file of something else, or of a judge of other scenes.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: it is part of the repository, or made by python -m lab.demo.evaluation.judge"
        )
    with safe_open(file, framework="pt") as content:
        metadata = content.metadata() or {}
        state = {key: content.get_tensor(key).float() for key in content.keys()}  # noqa: SIM118, a handle, no mapping
    if metadata.get("format") != FORMAT or json.loads(metadata["classes"]) != _plain(CLASSES):
        raise JudgeFileError(
            f"{file} is no judge of these scenes: make it again with python -m lab.demo.evaluation.judge"
        )
    judge = Judge()
    judge.load_state_dict(state)
    return judge.eval().requires_grad_(False)


def _plain(classes: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {name: list(values) for name, values in classes.items()}


@dataclass(frozen=True)
class Sizes:
    """How much the judge learns from.

    Attributes:
        drawn: scenes as they are, product in view.
        decoded: scenes through the autoencoder, product in view; others than the drawn ones.
        empty: scenes without a product; half of them also through the autoencoder.
        held_out: scenes that it is measured on, each way.
        schedule: of its training.
        batch_size: images in a step.
    """

    drawn: int = 16384
    decoded: int = 3072
    empty: int = 2048
    held_out: int = 512
    schedule: Schedule = Schedule(  # noqa: RUF009, frozen
        steps=1500,
        learning_rate=2e-3,
        weight_decay=0.02,
        warmup=50,
        decay_from=0.3,
        final_rate=0.02,
        ema_decay=0.99,
        save_every=100,
    )
    batch_size: int = 64


@dataclass(frozen=True)
class Examples:
    """Images and what they show.

    Attributes:
        image: (N, 3, INPUT_SIZE, INPUT_SIZE) uint8.
        target: per attribute (N,) int64, an index into CLASSES.
    """

    image: Tensor
    target: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.image)

    def images(self, rows: Tensor) -> Tensor:
        """(B, 3, INPUT_SIZE, INPUT_SIZE) in 0..1."""
        return self.image[rows].float() / 255


def examples(scenes: list[Scene], image: Tensor, product: bool) -> Examples:
    """Scenes with their (N, 3, H, W) images in 0..1; without product its attributes are "none"."""
    target = labels(scenes)
    if not product:
        target |= {name: torch.full_like(target[name], CLASSES[name].index(NONE)) for name in OF_PRODUCT}
    return Examples((shrink(image) * 255).round().to(torch.uint8), target)


def joined(parts: list[Examples]) -> Examples:
    """All of them in one."""
    target = {name: torch.cat([part.target[name] for part in parts]) for name in CLASSES}
    return Examples(torch.cat([part.image for part in parts]), target)


def drawn_images(scenes: list[Scene], product: bool) -> Tensor:
    """(N, 3, IMAGE_SIZE, IMAGE_SIZE) in 0..1."""
    chunks = [scenes[start : start + 64] for start in range(0, len(scenes), 64)]
    return torch.cat([render(chunk, stack.IMAGE_SIZE, product).image for chunk in chunks]).permute(0, 3, 1, 2)


@torch.no_grad()
def through(autoencoder: stack.UnshuffledAutoencoder, image: Tensor, title: str = "") -> Tensor:
    """Images encoded and decoded again."""
    parts = tqdm(image.split(32), title, mininterval=10, disable=not title)
    return torch.cat([autoencoder.decode(autoencoder.encode(part)).clamp(0, 1) for part in parts])


def training_examples(data: SceneData, autoencoder: stack.UnshuffledAutoencoder, sizes: Sizes) -> Examples:
    """What the judge learns from; see `Sizes`."""

    def rows(start: int, count: int) -> range:
        if start + count > len(data.scenes):
            raise ValueError(f"{len(data.scenes)} scenes are drawn, the judge learns from {start + count}: draw more")
        return range(start, start + count)

    def seen(of: range) -> list[Scene]:
        return [data.scenes[row] for row in of]

    plain, coded = rows(0, sizes.drawn), rows(sizes.drawn, sizes.decoded)
    empty = seen(rows(0, sizes.empty))
    half = empty[: sizes.empty // 2]
    without = drawn_images(empty, product=False)
    return joined(
        [
            *(examples(seen(part), data.images(part), product=True) for part in _chunks(plain)),
            examples(seen(coded), through(autoencoder, data.images(coded), "through the autoencoder"), product=True),
            examples(empty, without, product=False),
            examples(half, through(autoencoder, without[: len(half)]), product=False),
        ]
    )


def _chunks(rows: range) -> list[range]:
    return [rows[start : start + 512] for start in range(0, len(rows), 512)]


def augmented(image: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, S, S) in 0..1 as an unsure model might have made them: shifted, blurred, noisy."""
    count = len(image)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, 1, 1, generator=generator)

    image = image * uniform(0.93, 1.07, 3) + uniform(-0.03, 0.03, 3)
    blurred = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
    image = image + (blurred - image) * uniform(-0.3, 1.0, 1).clamp_min(0)
    noise = torch.randn(count, 3, INPUT_SIZE // 2, INPUT_SIZE // 2, generator=generator)
    coarse = F.interpolate(noise, INPUT_SIZE, mode="bilinear", align_corners=False)
    return (image + coarse * uniform(0, 0.06, 1)).clamp(0, 1)


def train_judge(
    work: Path, data: Examples, sizes: Sizes, seed: int, accelerator: Accelerator
) -> tuple[Judge, TrainingLoop]:
    """A judge trained on examples, its state kept in `work`."""
    torch.manual_seed(seed)
    judge = Judge().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    identity = {"examples": len(data), "batch_size": sizes.batch_size}
    schedule = replace(sizes.schedule, seed=seed)
    loop = TrainingLoop(work / "judge", {"judge": judge}, schedule, identity, accelerator)

    def loss_of_step(_step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = _rows(len(data), sizes.batch_size, generator)
        image = augmented(data.images(rows), generator).to(accelerator.device, memory_format=torch.channels_last)
        scores = loop.modules["judge"](image)
        losses, hits = [], []
        for name, value in scores.items():
            target = data.target[name][rows].to(value.device)
            losses.append(F.cross_entropy(value, target, label_smoothing=0.02))
            hits.append((value.argmax(1) == target).float().mean())
        return torch.stack(losses).sum(), {"accuracy": float(torch.stack(hits).mean())}

    loop.run(loss_of_step, title="judge")
    return judge, loop


def _rows(count: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Half of a batch from all examples, half from the last third, where the decoded and the empty ones are."""
    anywhere = torch.randint(count, (batch_size // 2,), generator=generator)
    late = torch.randint(count - count // 3, count, (batch_size - batch_size // 2,), generator=generator)
    return torch.cat([anywhere, late])


def held_out_accuracy(judge: Judge, autoencoder: stack.UnshuffledAutoencoder, count: int) -> dict[str, dict[str, str]]:
    """Per way of showing held-out scenes and per attribute, the accuracy with its interval, in words."""
    scenes = [sample_scene(HELD_OUT_SEED + index) for index in range(count)]
    report = {}
    for name, product in (("with product", True), ("without product", False)):
        image = drawn_images(scenes, product)
        for way, shown in ((name, image), (f"{name}, decoded", through(autoencoder, image))):
            target = examples(scenes, shown, product).target
            read = judge.read(shown)
            intervals = {key: rate((read[key] == target[key]).double().numpy()) for key in CLASSES}
            report[way] = {key: f"{one.value:.3f} ({one.low:.3f}-{one.high:.3f})" for key, one in intervals.items()}
    return report


def save_judge(judge: Judge, file: Path, metadata: dict[str, str]) -> None:
    """Write the weights in half precision."""
    state = {key: value.detach().half().contiguous() for key, value in judge.state_dict().items()}
    own = {"format": FORMAT, "classes": json.dumps(CLASSES), "license": "Apache-2.0"}
    save_atomically(file, lambda path: save_file(state, path, {**metadata, **own}))


def main(arguments: list[str] | None = None, sizes: Sizes | None = None) -> None:
    """Train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the training state")
    parser.add_argument("--out", type=Path, default=FILE, help="file of the trained judge")
    parser.add_argument("--weights", type=Path, default=stack.WEIGHTS, help="folder with autoencoder.safetensors")
    parser.add_argument("--data", type=Path, help="folder of drawn scenes, drawn there if they are not; default --work")
    parser.add_argument("--scenes", type=int, default=24_576, help="scenes in that folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    sizes = sizes or Sizes()
    accelerator = Accelerator()
    autoencoder = stack.UnshuffledAutoencoder()
    stack.load_weights(autoencoder, options.weights / "autoencoder.safetensors")
    autoencoder.eval().requires_grad_(False)
    data = scene_data(options.data or options.work, options.scenes, stack.IMAGE_SIZE)
    judge, loop = train_judge(
        options.work, training_examples(data, autoencoder, sizes), sizes, options.seed, accelerator
    )
    with loop.averaged():
        judge = loop.unwrapped("judge").eval().cpu()
        accuracy = held_out_accuracy(judge, autoencoder, sizes.held_out)
        save_judge(
            judge,
            options.out,
            {
                "made_by": "python -m lab.demo.evaluation.judge",
                "seed": str(options.seed),
                "steps": str(sizes.schedule.steps),
                "batch_size": str(sizes.batch_size),
                "seconds": str(round(loop.seconds)),
                "threads": os.environ.get("OMP_NUM_THREADS", str(torch.get_num_threads())),
                "accuracy": json.dumps(accuracy),
            },
        )
    (options.work / "judge" / "accuracy.json").write_text(json.dumps(accuracy, indent=1), encoding="utf-8")
    accelerator.print(f"wrote {options.out}; accuracy on {sizes.held_out} held-out scenes:")
    for way, row in accuracy.items():
        accelerator.print(f"  {way:26}", "  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
