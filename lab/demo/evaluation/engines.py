"""What the neighbours' methods put into a sampling, each as its trained file has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.attention.control import PromptControl
from pfv_core.attention.fusion import Combine, FusionControl
from pfv_core.reference.vit import HideMode, encode_image, encode_uncond
from pfv_core.research.control_branches import BranchInput, BranchInputs
from pfv_core.research.scale_map import rows_within, scale_hint
from pfv_core.research.strict_id_file import StrictIDConfig

from ...diffusers.fusion import fused
from ...diffusers.refadgen import RefAdGen, load_refadgen
from ...diffusers.sample import ImagePrompt
from ...diffusers.strict_id import StrictIDNet, controlled, load_into, strict_id_from
from ...train.models import TrainingModels
from ...train.noise import NoiseSchedule
from ...train.refadgen_training import readings
from ...train.strict_id_batches import whole
from ...train.strict_id_inputs import last_tokens
from ...train.visibility import on_latents, sight_of
from .. import stack
from ..studio.beside import companion_rows, mannequin
from ..studio.render import Rendered
from ..studio.scene import Companion, Scene
from ..train_strict_id import POSE_SIZE
from .chunk import channels_first
from .models import Models


class Prompts:
    """Image prompts of whole pictures."""

    def __init__(self, models: Models) -> None:
        self.models, self.sight = models, sight_of(models.vision)

    def of(
        self, file: Path, image: Tensor, visible: Tensor, control: PromptControl, region: Tensor | None
    ) -> ImagePrompt:
        """(P, 3, H, W) pictures of which (P, H, W) bool is seen, as an adapter's file makes a prompt of them."""
        adapter, uncond = load_adapter(file).float(), encode_uncond(self.models.vision)
        tokens = encode_image(self.models.vision, image, self.sight.patch_mask(visible), HideMode.DROP, uncond)
        return ImagePrompt(adapter, *adapter.image_prompt(tokens), control, region)


class RefAdGens:
    """RefAdGen's files, each read once."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._read: dict[Path | None, RefAdGen] = {}
        scheduler = stack.new_scheduler()
        self._schedule = NoiseSchedule.of(scheduler)
        self._frozen = TrainingModels(
            "demo", models.unet, models.vision, models.encode_text, models.autoencoder.encode, scheduler
        )

    @contextmanager
    def seeing(self, file: Path | None, photos: Tensor, product: Tensor, scale: float) -> Iterator[None]:
        """The U-Net sees products.

        Args:
            file: trained; None = none, the U-Net reads the photos itself, and its attention is blended.
            photos: (P, 3, H, W) of the products.
            product: (P, H, W) where they shall stand.
            scale: lambda.
        """
        if file not in self._read:
            unet = self.models.unet
            self._read[file] = RefAdGen(unet, with_mask=False) if file is None else load_refadgen(unet, file)
        reading = readings(self._frozen, self._schedule, self.models.autoencoder.encode(photos), photos)
        keys_values, share = self._read[file](*reading, on_latents(product))
        control = FusionControl(scale, Combine.BLEND if file is None else Combine.ADD)
        with fused(self.models.unet, keys_values, control, share):
            yield


class StrictIDs:
    """Strictly-ID's files, each read once."""

    def __init__(self, models: Models) -> None:
        self.models, self.sight = models, sight_of(models.vision)
        self._read: dict[Path, tuple[StrictIDNet, StrictIDConfig]] = {}

    @contextmanager
    def controlled(
        self,
        file: Path,
        hint: Tensor,
        pose: Tensor | None,
        appearance: Tensor | None,
        std_norm: bool | None = None,
        gamma: float | None = None,
        guided: bool = False,
        strength: float = 1.0,
    ) -> Iterator[None]:
        """The U-Net with the ControlNet of a file.

        Args:
            file: trained.
            hint: see `hint_of`.
            pose, appearance: tokens; None = none is given.
            std_norm, gamma: how the appearance is balanced; None = as the file says.
            guided: the negative has the hint alone, so that guidance strengthens the pictures too.
            strength: of the appearance, 1 = as trained.
        """
        net, config = self._net(file)
        shown = _in_positive if guided else BranchInput
        inputs = BranchInputs(
            None if pose is None else shown(pose, 1.0),
            None if appearance is None else shown(appearance, strength),
            config.std_norm if std_norm is None else std_norm,
            config.gamma if gamma is None else gamma,
        )
        with controlled(self.models.unet, net, torch.cat([hint, hint]) if guided else hint, inputs):
            yield

    def poses(self, companions: Sequence[Companion]) -> Tensor:
        """(P, 1 + N, E) of mannequins that stand as the companions do."""
        drawn = [mannequin(one.lean, one.turn, POSE_SIZE).permute(2, 0, 1) for one in companions]
        pixels, patches = zip(*(whole(self.sight, picture) for picture in drawn), strict=True)
        return last_tokens(self.models.vision, torch.cat(pixels), torch.cat(patches))

    def appearances(self, shown: Rendered) -> Tensor:
        """(P, 1 + N, E) of pictures, the products in them hidden."""
        pixels, patches = self.sight.seen(channels_first(shown.image), shown.product == 0)
        return last_tokens(self.models.vision, pixels, patches)

    def _net(self, file: Path) -> tuple[StrictIDNet, StrictIDConfig]:
        if file not in self._read:
            net = strict_id_from(self.models.controlnet, self.models.vision.spec, 0)
            self._read[file] = (net, load_into(net, file, self.models.vision.spec))
            net.eval().requires_grad_(False)
        return self._read[file]


def _in_positive(tokens: Tensor, weight: float) -> BranchInput:
    """A picture for both halves of guidance, the negative's first, which does not get it."""
    return BranchInput(torch.cat([tokens, tokens]), torch.tensor([0.0, weight]).repeat_interleave(len(tokens)))


def hint_of(drawn: Rendered, told: Sequence[Scene]) -> Tensor:
    """(P, 4, H, W): the products cut out, and the rows of the companions of the scenes that are told."""
    limits = torch.tensor([companion_rows(scene, stack.IMAGE_SIZE) for scene in told], dtype=torch.float64)
    rows = rows_within(limits, stack.IMAGE_SIZE)[:, :, None].expand(-1, -1, stack.IMAGE_SIZE).float()
    return scale_hint(channels_first(drawn.image), drawn.product > 0.5, rows)
