"""A Strictly-ID ControlNet's validation: what it changes, with and without an appearance."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pfv_core.research.control_branches import BranchInput, BranchInputs

from ..diffusers.strict_id import StrictIDNet, controlled
from .data import Sample
from .models import vision_of
from .strict_id_batches import prepared, whole
from .strict_id_config import ControlConfig
from .strict_id_inputs import last_tokens
from .validation import Validation, View
from .visibility import sight_of

SHADE = 0.3  # how light the scale map's rows are made, 1 = white


@dataclass(frozen=True)
class ControlView(View):
    """What a Strictly-ID ControlNet's validation looks at beside what every `View` has.

    Attributes:
        hint: (B, 4, H, W), 0..1.
        pose, appearance: (B, 3, H, W), 0..1, the appearance with its hidden pixels black.
        pose_tokens, appearance_tokens: (B, 1 + N, E).
    """

    hint: Tensor
    pose: Tensor
    appearance: Tensor
    pose_tokens: Tensor
    appearance_tokens: Tensor


class ControlValidation(Validation[ControlConfig, ControlView]):
    """The figures: the loss of the text alone, with the ControlNet and the pose, and with the appearance too. The columns of the
    picture: image, hint with the scale map's rows lighter, pose, appearance; drawn by text alone, with the pose, and
    with the appearance too, which is the image's own, where it is."""

    def view(self, samples: Sequence[Sample], common: View) -> ControlView:
        """The images with nothing left out and their appearances where they are."""
        vision = vision_of(self.models)
        sight = sight_of(vision)
        rows = [prepared(sample, sight) for sample in samples]
        poses = [whole(sight, row.pose.image) for row in rows]
        appearances = [sight.seen(row.appearance[None], row.appearance_keep_mask[None]) for row in rows]
        pose_tokens, appearance_tokens = (
            last_tokens(vision, torch.cat([pixels for pixels, _ in seen]), torch.cat([patches for _, patches in seen]))
            for seen in (poses, appearances)
        )
        return ControlView(
            **vars(common),
            hint=torch.stack([row.hint for row in rows]).to(common.clean.device),
            pose=torch.cat([_sized(row.pose.image, common.image) for row in rows]),
            appearance=torch.stack([torch.where(row.appearance_keep_mask, row.appearance, 0.0) for row in rows]),
            pose_tokens=pose_tokens,
            appearance_tokens=appearance_tokens,
        )

    def losses(self, trained: StrictIDNet, view: ControlView) -> dict[str, float]:
        """Of the text alone, and with what is trained."""
        return {
            "loss_without_control": self.loss(view, nullcontext()),
            "loss_with_pose": self.loss(view, self._control(trained, view, self._inputs(view, appearance=False))),
            "loss_with_appearance": self.loss(view, self._control(trained, view, self._inputs(view))),
        }

    def columns(self, trained: StrictIDNet, view: ControlView) -> list[Tensor]:
        """Image, hint, pose, appearance, and three drawn."""
        drawn = [self.draw(view)]
        for inputs in (self._inputs(view, appearance=False), self._inputs(view)):
            with self._control(trained, view, inputs):
                drawn.append(self.draw(view))
        product, rows = view.hint[:, :3], view.hint[:, 3:]
        return [view.image, product + SHADE * rows * (1 - product), view.pose, view.appearance, *drawn]

    def _inputs(self, view: ControlView, appearance: bool = True) -> BranchInputs:
        shown = BranchInput(view.appearance_tokens) if appearance else None
        return BranchInputs(BranchInput(view.pose_tokens), shown, *self.config.balance(max(view.step - 1, 0)))

    def _control(self, trained: StrictIDNet, view: ControlView, inputs: BranchInputs) -> AbstractContextManager[None]:
        return controlled(self.models.unet, trained, view.hint, inputs)


def _sized(image: Tensor, like: Tensor) -> Tensor:
    """(3, h, w) -> (1, 3, H, W), the size of other pictures: to be seen beside them."""
    return F.interpolate(image[None], like.shape[2:], mode="bilinear", antialias=True)
