"""Trains the demo's adapters on rendered scenes; can be killed at any moment and started again.

    python -m lab.demo.train_adapters --work FOLDER --out FOLDER [--adapter eq3_c16] [--seed N] [--weights FOLDER]
        [--precision no|bf16]

The file is called {adapter}_seed{seed}.safetensors; the nodes load it as it is.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from pfv_core.reference.vit import HideMode

from ..train.adapter_training import AdapterTraining
from ..train.config import DATASET, VISIBLE, TrainConfig
from ..train.data import Sample
from ..train.settings import PRECISIONS
from . import stack
from .captions import varied_caption
from .scene_data import SceneData
from .training_command import deliver, prepare

NUM_TOKENS = (4, 16, 32)

DEMO = TrainConfig(
    preset="demo",
    base="demo",
    licence="Apache-2.0",
    latent_width=128,
    image_size=stack.IMAGE_SIZE,
    batch_size=16,
    steps=1600,
    learning_rate=2e-3,
    weight_decay=0.0,
    warmup=50,
    decay_from=0.5,
    final_rate=0.02,
    ema_decay=0.99,
    save_every=100,
    hide_mode=HideMode.ZERO,
    precision="no",
    gradient_checkpointing=False,
    workers=0,
    checkpoint_every=500,
    validate_every=1200,
    validation_steps=20,
    validation_guidance=3.0,
)
COMMON: dict[str, Any] = {
    "drop_text_share": 0.5,
    "hide_kinds": {DATASET: 1.0, "patches": 1.0},
    "region_kinds": {DATASET: 2.0, VISIBLE: 1.0, "half_plane": 1.0},
    "region_share_masked": 0.6,
    "region_share_unmasked": 0.6,
    "gates": {"output": 2.0, "query": 1.0},
}
RESAMPLER: dict[str, Any] = {
    "kind": "resampler",
    "latent_width": 128,
    "inner_width": 128,
    "depth": 2,
    "feedforward": 256,
}
ADAPTERS: dict[str, dict[str, Any]] = {
    **{f"eq3_c{count}": COMMON | {"kind": "eq3", "num_tokens": count} for count in NUM_TOKENS},
    "eq3_c16_drop": COMMON | {"kind": "eq3", "num_tokens": 16, "hide_mode": "drop"},
    **{f"resampler_c{count}": COMMON | RESAMPLER | {"num_tokens": count} for count in NUM_TOKENS},
    "tokens_c65": COMMON
    | {"kind": "tokens", "num_tokens": 65, "latent_width": 0},  # no compression: 8 x 8 patches, class
    "linear_c4": COMMON | {"kind": "linear", "num_tokens": 4, "latent_width": 0},
    # The usual image-prompt training: nothing hidden, no region.
    "ipadapter_c16": COMMON
    | RESAMPLER
    | {"num_tokens": 16, "mask_share": 0.0, "region_share_unmasked": 0.0, "gates": {"output": 1.0}},
}


@dataclass(frozen=True)
class SceneDataset:
    """Rendered scenes as training samples: the product as mask, the wall as region, latents encoded already.

    Attributes:
        data: the scenes and their pictures.
        cached: (2 N, 4, h, w) half precision latents.
    """

    data: SceneData
    cached: Tensor

    @property
    def identity(self) -> str:
        """Equal for equal scenes."""
        return self.data.identity

    def __len__(self) -> int:
        return len(self.data.scenes)

    def sample(self, index: int, generator: Generator) -> Sample:
        """One scene, with a caption of which parts may be missing."""
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        return Sample(
            image=self.data.images([index])[0],
            caption=varied_caption(self.data.scenes[index], rng),
            product_mask=self.data.products([index])[0],
            region=self.data.walls([index])[0],
            name=f"scene {index}",
            latents=self.cached[index].float(),
        )


def settings(name: str, seed: int) -> TrainConfig:
    """The settings of one of ADAPTERS."""
    return DEMO.replace(**ADAPTERS[name], seed=seed)


def main() -> None:
    """Train the adapter asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for rendered scenes and training states")
    parser.add_argument("--weights", type=Path, default=stack.WEIGHTS, help="folder of the trained stack")
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapter")
    parser.add_argument("--adapter", choices=sorted(ADAPTERS), default="eq3_c16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=PRECISIONS, default="no", help="of what is computed; no = float32")
    arguments = parser.parse_args()
    run, name = prepare(arguments), f"{arguments.adapter}_seed{arguments.seed}"
    training = AdapterTraining(
        run.models,
        SceneDataset(run.data, run.latents),
        settings(arguments.adapter, arguments.seed).replace(precision=arguments.precision),
        run.accelerator,
        run.work / name,
    )
    deliver(training.train(), arguments, name, run.accelerator)


if __name__ == "__main__":
    main()
