"""How strongly an image prompt counts in each layer and at each moment: what multiplies its strength there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .curve import Curve
from .layer_weights import LayerWeights, Weights
from .unet_layout import AttentionLayer


@dataclass(frozen=True)
class PromptWeights:
    """Weights of an image prompt, as they were asked for; `PromptControl.weighted` says what one does.

    Attributes:
        layers: by transformer.
        sampling: over the sampling.
    """

    layers: LayerWeights = LayerWeights()  # noqa: RUF009, frozen
    sampling: Curve = Curve()  # noqa: RUF009, frozen

    def over(self, layers: Iterable[AttentionLayer]) -> Weights | None:
        """The weight of each transformer of a model; None where all are 1. See `LayerWeights.over`."""
        found = self.layers.over(layers)
        return None if all(weight == 1.0 for weight in found.values()) else found
