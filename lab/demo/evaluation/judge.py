"""A small classifier that reads a demo scene, for measuring only: nothing is generated with it.

A scene without a product has the class "none". `train_judge` makes it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...files import save_atomically
from .. import stack
from .pairs import NAMED

NONE = "none"
OF_PRODUCT = ("product_color", "shape")
CLASSES = {name: (*values, NONE) if name in OF_PRODUCT else values for name, values in NAMED.items()}

INPUT_SIZE = 64
WIDTHS = (24, 48, 72, 64)
FEATURES = 40
GROUPS = 8
FORMAT = "pfv-judge-1"
FILE = stack.WEIGHTS / "judge.safetensors"


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
    """(B, 3, S, S) in 0..1, clamped to it -> (B, 3, INPUT_SIZE, INPUT_SIZE) by area; ValueError where that does not divide S."""
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
            f"{file} is missing: it is part of the repository, or made by python -m lab.demo.evaluation.train_judge"
        )
    with safe_open(file, framework="pt") as content:
        metadata = content.metadata() or {}
        state = {key: content.get_tensor(key).float() for key in content.keys()}  # noqa: SIM118, a handle, no mapping
    if metadata.get("format") != FORMAT or json.loads(metadata["classes"]) != _plain(CLASSES):
        raise JudgeFileError(
            f"{file} is no judge of these scenes: make it again with python -m lab.demo.evaluation.train_judge"
        )
    judge = Judge()
    judge.load_state_dict(state)
    return judge.eval().requires_grad_(False)


def _plain(classes: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {name: list(values) for name, values in classes.items()}


def save_judge(judge: Judge, file: Path, metadata: dict[str, str]) -> None:
    """Write the weights in half precision."""
    state = {key: value.detach().half().contiguous() for key, value in judge.state_dict().items()}
    own = {"format": FORMAT, "classes": json.dumps(CLASSES), "license": "Apache-2.0"}
    save_atomically(file, lambda path: save_file(state, path, {**metadata, **own}))
