"""Trains the judge; can be killed at any moment and started again.

    python -m lab.demo.evaluation.train_judge --work FOLDER [--out FILE] [--weights FOLDER] [--seed N]

It learns from scenes of all combinations, held out or not, with and without a product, as they are and through the demo
autoencoder, and mirrored as often as not, with noise, blur and colour shifts, so that it reads what the demo models make.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from ...evaluation.statistics import rate
from ...files import save_atomically
from ...machine import machine
from ...train.cache import fingerprint
from ...train.loop import Schedule, TrainingLoop
from .. import stack
from ..drawn_once import STUDIO
from .judge import CLASSES, FILE, INPUT_SIZE, NONE, OF_PRODUCT, Judge, save_judge, shrink
from .pairs import Scene, any_scene, labels, render

DRAWN_SIZE = 2 * INPUT_SIZE  # pixels of scenes that do not go through the autoencoder
LOT = 64  # scenes that are drawn and stored together
MEASURED_SEED = 500_000_000  # the scenes that it learns from begin at 0


@dataclass(frozen=True)
class Sizes:
    """How much the judge learns from.

    Attributes:
        drawn: scenes as they are, product in view.
        decoded: scenes through the autoencoder, product in view.
        empty: scenes without a product.
        empty_decoded: scenes without a product, through the autoencoder.
        held_out: scenes that it is measured on, each way.
        schedule: of its training.
        batch_size: images in a step.
    """

    drawn: int = 2560
    decoded: int = 1024
    empty: int = 512
    empty_decoded: int = 384
    held_out: int = 256
    schedule: Schedule = Schedule(  # noqa: RUF009, frozen
        steps=900,
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
    small = (shrink(image) * 255).round().to(torch.uint8)
    return Examples(small.contiguous(), target)


def joined(parts: list[Examples]) -> Examples:
    """All of them in one."""
    target = {name: torch.cat([part.target[name] for part in parts]) for name in CLASSES}
    return Examples(torch.cat([part.image for part in parts]), target)


def drawn_images(scenes: list[Scene], product: bool, size: int = stack.IMAGE_SIZE) -> Tensor:
    """(N, 3, size, size) in 0..1."""
    chunks = [scenes[start : start + LOT] for start in range(0, len(scenes), LOT)]
    return torch.cat([render(chunk, size, product).image for chunk in chunks]).permute(0, 3, 1, 2)


@torch.no_grad()
def through(autoencoder: stack.UnshuffledAutoencoder, image: Tensor) -> Tensor:
    """Images encoded and decoded again."""
    parts = [autoencoder.decode(autoencoder.encode(part)).clamp(0, 1) for part in image.split(32)]
    return torch.cat(parts)


@dataclass(frozen=True)
class Lot:
    """Scenes of one kind that are drawn together: those of the seeds start .. start + count - 1."""

    start: int
    count: int
    product: bool
    decoded: bool

    def scenes(self) -> list[Scene]:
        """Before they are drawn."""
        return [any_scene(seed) for seed in range(self.start, self.start + self.count)]

    def examples(self, autoencoder: stack.UnshuffledAutoencoder) -> Examples:
        """Drawn."""
        scenes = self.scenes()
        image = drawn_images(scenes, self.product, stack.IMAGE_SIZE if self.decoded else DRAWN_SIZE)
        return examples(scenes, through(autoencoder, image) if self.decoded else image, self.product)


def lots(sizes: Sizes) -> Iterator[Lot]:
    """All that the judge learns from, the decoded and the empty ones last; no two show the same scene."""
    start = 0
    for count, product, decoded in (
        (sizes.drawn, True, False),
        (sizes.decoded, True, True),
        (sizes.empty, False, False),
        (sizes.empty_decoded, False, True),
    ):
        for at in range(0, count, LOT):
            yield Lot(start + at, min(LOT, count - at), product, decoded)
        start += count


def examples_identity(autoencoder: stack.UnshuffledAutoencoder, sizes: Sizes) -> str:
    """12 hexadecimal digits, equal for the same scenes, drawn alike and seen through the same autoencoder."""
    shown = [scene for lot in lots(sizes) for scene in lot.scenes()]
    return sha256(f"{shown} {STUDIO} {DRAWN_SIZE} {fingerprint(autoencoder)}".encode()).hexdigest()[:12]


def training_examples(work: Path, autoencoder: stack.UnshuffledAutoencoder, sizes: Sizes) -> Examples:
    """What the judge learns from; see `Sizes`. Lots that lie in `work` already are not drawn again."""
    todo, identity, parts = list(lots(sizes)), examples_identity(autoencoder, sizes), []
    for lot in tqdm(todo, "rendering scenes", mininterval=10):
        kind = f"{'with' if lot.product else 'without'}_{'decoded' if lot.decoded else 'drawn'}"
        file = work / f"examples_{identity}" / f"{kind}_{lot.start}_{lot.count}.safetensors"
        if not file.is_file():
            made = lot.examples(autoencoder)
            save_atomically(file, partial(save_file, {"image": made.image, **made.target}))
        stored = load_file(file)
        parts.append(Examples(stored.pop("image"), stored))
    return joined(parts)


def mirrored(image: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, S, S), each as it is or as its mirror image: the demo models learn from both."""
    flip = torch.rand(len(image), 1, 1, 1, generator=generator) < 0.5
    return torch.where(flip, image.flip(3), image)


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
    work: Path, data: Examples, sizes: Sizes, seed: int, accelerator: Accelerator, identity: str
) -> tuple[Judge, TrainingLoop]:
    """A judge trained on examples of that identity, its state kept in `work`."""
    torch.manual_seed(seed)
    judge = Judge().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    known = {"examples": identity, "batch_size": sizes.batch_size}
    schedule = replace(sizes.schedule, seed=seed)
    loop = TrainingLoop(work / "judge", {"judge": judge}, schedule, known, accelerator)

    def loss_of_step(_step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        rows = _rows(len(data), sizes.batch_size, generator)
        image = augmented(mirrored(data.images(rows), generator), generator)
        image = image.to(accelerator.device, memory_format=torch.channels_last)
        scores = loop.modules["judge"](image)
        losses, hits = [], []
        for name, value in scores.items():
            target = data.target[name][rows].to(value.device)
            losses.append(F.cross_entropy(value, target, label_smoothing=0.02))
            hits.append((value.argmax(1) == target).float().mean())
        return torch.stack(losses).sum(), {"accuracy": torch.stack(hits).mean()}

    loop.run(loss_of_step, title="judge")
    return judge, loop


def _rows(count: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Half of a batch from all examples, half from the last third, where the decoded and the empty ones are."""
    anywhere = torch.randint(count, (batch_size // 2,), generator=generator)
    late = torch.randint(count - count // 3, count, (batch_size - batch_size // 2,), generator=generator)
    return torch.cat([anywhere, late])


def held_out_accuracy(judge: Judge, autoencoder: stack.UnshuffledAutoencoder, count: int) -> dict[str, dict[str, str]]:
    """Per way of showing held-out scenes and per attribute, the accuracy with its interval, in words."""
    scenes = [any_scene(MEASURED_SEED + index) for index in range(count)]
    report = {}
    for name, product in (("with product", True), ("without product", False)):
        image = drawn_images(scenes, product)
        for way, shown in ((name, image), (f"{name}, decoded", through(autoencoder, image))):
            target = examples(scenes, shown, product).target
            read = judge.read(shown)
            intervals = {key: rate((read[key] == target[key]).double().numpy()) for key in CLASSES}
            report[way] = {key: f"{one.value:.3f} ({one.low:.3f}-{one.high:.3f})" for key, one in intervals.items()}
    return report


def main(arguments: list[str] | None = None, sizes: Sizes | None = None) -> None:
    """Train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for rendered scenes and the training state")
    parser.add_argument("--out", type=Path, default=FILE, help="file of the trained judge")
    parser.add_argument("--weights", type=Path, default=stack.WEIGHTS, help="folder with autoencoder.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    sizes = sizes or Sizes()
    accelerator = Accelerator()
    autoencoder = stack.UnshuffledAutoencoder()
    stack.load_weights(autoencoder, options.weights / "autoencoder.safetensors")
    autoencoder.eval().requires_grad_(False)
    data = training_examples(options.work, autoencoder, sizes)
    judge, loop = train_judge(
        options.work, data, sizes, options.seed, accelerator, examples_identity(autoencoder, sizes)
    )
    with loop.averaged():
        judge = loop.unwrapped("judge").eval().cpu()
        accuracy = held_out_accuracy(judge, autoencoder, sizes.held_out)
        save_judge(
            judge,
            options.out,
            {
                "made_by": "python -m lab.demo.evaluation.train_judge",
                "seed": str(options.seed),
                "steps": str(sizes.schedule.steps),
                "batch_size": str(sizes.batch_size),
                "seconds": str(round(loop.seconds)),
                "machine": machine(accelerator.device),
                "accuracy": json.dumps(accuracy),
            },
        )
    (options.work / "judge" / "accuracy.json").write_text(json.dumps(accuracy, indent=1), encoding="utf-8")
    accelerator.print(f"wrote {options.out}; accuracy on {sizes.held_out} held-out scenes:")
    for way, row in accuracy.items():
        accelerator.print(f"  {way:26}", "  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
