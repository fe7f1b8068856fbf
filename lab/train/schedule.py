"""How long and how fast a run trains, and which of that may change between two starts of it."""

from __future__ import annotations

from dataclasses import dataclass

FREE = frozenset({"save_every", "log_every"})  # nothing that is computed depends on them
OF_THE_RATE = frozenset({"steps", "learning_rate", "warmup", "decay_from", "final_rate"})  # only by the rates they give


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: optimizer steps.
        learning_rate: peak of AdamW's.
        weight_decay: AdamW's.
        betas: AdamW's.
        warmup: steps of linear growth from 0.
        decay_from: share of the steps after which the rate falls linearly, to `final_rate` of the peak; 1 = constant.
        final_rate: see decay_from.
        accumulate: micro-batches for each optimizer step.
        max_grad_norm: gradients are scaled down to this norm.
        ema_decay: of the exponential moving average of the weights; 0 = none.
        seed: of everything random.
        save_every: steps between states.
        log_every: steps between two readings of the losses from the device, which wait for it.
    """

    steps: int
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 0
    decay_from: float = 1.0
    final_rate: float = 0.0
    accumulate: int = 1
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    seed: int = 0
    save_every: int = 200
    log_every: int = 20

    def rate(self, step: int) -> float:
        """Learning rate of a step, the first of which is 0."""
        return self.learning_rate * self.factor(step)

    def factor(self, step: int) -> float:
        """The share of the peak rate that a step has."""
        factor = min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0
        start = self.decay_from * self.steps
        if step > start:
            factor *= 1 - (1 - self.final_rate) * (step - start) / (self.steps - start)
        return factor

    def agrees(self, other: Schedule, steps: int) -> bool:
        """Whether the first `steps` steps of both have the same rates: a run may then go on with either.

        A constant rate may so be trained for longer at any time, and a falling one until it has begun to fall in one of
        the two: what is done would have had other rates.
        """
        return all(self.rate(step) == other.rate(step) for step in range(steps))
