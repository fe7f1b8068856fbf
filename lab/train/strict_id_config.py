"""The settings of a Strictly-ID ControlNet's run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from pfv_core.attention.balance import PAPER_GAMMA

from .augment import Displacement
from .settings import Flag, Integer, Number, RunConfig

Drop = Annotated[Number, Field(ge=0, lt=1)]
"""A branch that sees no picture learns nothing."""


class ControlConfig(RunConfig):
    """The settings of a Strictly-ID ControlNet's run.

    Attributes:
        start_from: a Strictly-ID file to go on from; empty = a copy of the U-Net's encoder.
        drop_pose_share, drop_appearance_share: samples whose pose, or appearance, is left out, 0 to less than 1.
        drop_text_share: samples whose caption is emptied, 0..1.
        std_norm: bring the appearance to the text's standard deviation (Eq. 8).
        gamma: time weighting of the appearance (Eq. 10), timesteps; 0 = the same weight all the time.
        balance_from: step from which on both are done, before the last one; till then the appearance joins as the pose does, and
            so says a file that is written till then. What is brought to the text's deviation is as loud as the text before it
            has learnt anything: it is then led to be the same for all pictures, so that nothing of them is left after the
            normalisation, and stays so.
        appearance_turn, appearance_flip, appearance_area: how far an appearance is taken from where it was, see
            `augment.Displacement`.
        subject_weight: how much the subject's part of the picture counts in the loss, where the rest counts 1; 1 = as in the
            paper. Another one needs subject masks.
        cache_tokens: a folder for the tokens of poses, half precision; empty = none.
    """

    start_from: str = ""
    drop_pose_share: Drop = 0.0
    drop_appearance_share: Drop = 0.2
    std_norm: Flag = True
    gamma: Annotated[Number, Field(ge=0)] = float(PAPER_GAMMA)
    balance_from: Annotated[Integer, Field(ge=0)] = 0
    appearance_turn: Number = 30.0
    appearance_flip: Number = 0.5
    appearance_area: Number = 0.25
    subject_weight: Annotated[Number, Field(gt=0)] = 1.0
    cache_tokens: str = ""

    @model_validator(mode="after")
    def _displaced(self) -> ControlConfig:
        if self.augment_share:
            raise ValueError(
                f"augment_share is {self.augment_share:g}: an appearance is turned, mirrored and cut out (appearance_*), never "
                "degraded; leave it 0"
            )
        if (self.std_norm or self.gamma) and self.balance_from >= self.steps:
            raise ValueError(
                f"balance_from is {self.balance_from} of {self.steps} steps: std_norm and gamma would never be trained. Give "
                "both settings (the presets' balance begins after a tenth of the steps), or std_norm false and gamma 0"
            )
        try:
            self.displacement  # noqa: B018  (it checks its limits)
        except ValueError as error:
            raise ValueError(f"appearance_{error}") from error
        return self

    def without_trace(self) -> set[str]:
        """The settings, beside the schedule's, that may differ between two starts of a run."""
        return super().without_trace() | {"cache_tokens"}

    def balance(self, step: int) -> tuple[bool, float | None]:
        """`std_norm` and `gamma` (None = none) in an optimizer step, the first of which is 0."""
        begun = step >= self.balance_from
        return begun and self.std_norm, (begun and self.gamma) or None

    @property
    def displacement(self) -> Displacement:
        """How far an appearance is taken from where it was."""
        return Displacement(self.appearance_turn, self.appearance_flip, self.appearance_area)


PRESETS = {
    # The paper's section 4: SD1.5, 224 px for the encoder, learning rate 1e-5, 8 GPUs, 20 epochs of 230,000 pictures, which are
    # 72,000 steps of 8 pictures for each GPU; gamma 400; an appearance turned by up to 30 degrees, mirrored in half of the
    # samples and cut out down to a quarter. It gives no batch and no share of dropped appearances, and drops no pose.
    # **Deviation**: the first tenth is without the balance, see `balance_from`; the paper says nothing of it. Pictures are read
    # at the size that the encoder's own files say: for facebook/dinov2-* 518 px, 1,370 tokens for the paper's 257. Of the
    # picture's size, weight decay, clipping, averaged weights and dropped text it says nothing: those are this trainer's.
    "strict_id_sd15": ControlConfig(
        preset="strict_id_sd15", base="sd15", learning_rate=1e-5, steps=72_000, balance_from=7_200
    ),
    # Not in the paper: the same at SDXL's size.
    "strict_id_sdxl": ControlConfig(
        preset="strict_id_sdxl",
        base="sdxl",
        learning_rate=1e-5,
        steps=72_000,
        balance_from=7_200,
        image_size=1024,
        batch_size=4,
        accumulate=2,
    ),
}
