"""What a RefAdGen Attention Fusion is, and what one sampling computes for it.

The keys and values are those of one reference pass for the whole run, or of one for each evaluation of the model, before the
host takes the positive and negative prompts to it together or apart.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...pfv_core.attention.formula import Attend
from ...pfv_core.attention.fusion import FusionControl, FusionRows, fused_attention, fusion_rows
from ...pfv_core.attention.query_mask import LATENT_SCALE, frame_matches, query_mask
from .cross_attention import host_attention
from .frame_position import cropped, position_of
from .reference_pass import NAME, BlockKey, KeysValues, Reference, ReferenceNoise, reference_keys_values

logger = logging.getLogger(__name__)

KEY = "pfv_attention_fusion"  # of our wrappers, additional models and options

Options = dict[str, Any]


@dataclass
class FusionRun:
    """What one sampling has computed for one node.

    Attributes:
        latent_size: rows and columns of the frame's latent.
        active: whether the reference takes part in this evaluation of the model.
        keys_values: of the reference U-Net, None before its first pass.
        layouts: the rows that the product mask reaches, by grid and place.
        told: messages that the user has seen.
    """

    latent_size: tuple[int, int]
    active: bool = False
    keys_values: KeysValues | None = None
    layouts: dict[Any, list[FusionRows]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def tell(self, message: str) -> None:
        """Say something to the user once in a run."""
        if message not in self.told:
            self.told.add(message)
            logger.warning(message)


@dataclass(frozen=True, eq=False)
class AttentionFusion:
    """One RefAdGen Attention Fusion, shared by all self-attentions of a model and never changed."""

    control: FusionControl
    product_mask: Tensor | None  # (R, H, W) 0..1, None = the whole frame
    reference: Reference
    sigma_start: float
    sigma_end: float

    def __deepcopy__(self, memo: dict[int, Any]) -> AttentionFusion:
        return self

    def check(self, batch: int, latent_size: tuple[int, int], model: Any) -> None:
        """ValueError if reference, mask or weights do not fit the sampling that begins."""
        masks = 1 if self.product_mask is None else len(self.product_mask)
        for count, what in ((len(self.reference.latent), "reference_latent"), (masks, "product_mask")):
            if count not in (1, batch):
                raise ValueError(
                    f"{NAME}: {what} is a batch of {count}, {batch} image(s) are being sampled: give 1, or one for each image"
                )
        mask = self.product_mask
        if mask is not None and not frame_matches((mask.shape[1], mask.shape[2]), latent_size):
            height, width = (LATENT_SCALE * side for side in latent_size)
            raise ValueError(
                f"{NAME}: product_mask is {mask.shape[1]}x{mask.shape[2]}, the image being sampled is {height}x{width} "
                "(height x width): give the mask the image's shape"
            )
        if self.reference.patches_uuid not in (None, model.patches_uuid):
            raise ValueError(
                f"{NAME}: reference_model comes from the same loader as the model that is sampled, so both are one set of "
                "weights, and a LoRA or another patch of weights is on one of them alone: load the checkpoint of "
                "reference_model with a loader of its own, or disconnect it, and the sampled model reads the product itself"
            )

    def prepare(self, run: FusionRun, guider: Any, sigma: Tensor, seed: int) -> None:
        """Before an evaluation of the model: decide whether the reference takes part, and let it read the product."""
        run.active = self._in_window(sigma)
        if not run.active:
            return
        if self.reference.noise is ReferenceNoise.STEP:
            run.keys_values = self._read(guider, sigma, seed)
        elif run.keys_values is None:
            run.keys_values = self._read(guider, None, seed)

    def attention(
        self, block: BlockKey, query: Tensor, key: Tensor, value: Tensor, options: Options, base: Attend | None
    ) -> Tensor:
        """Self-attention of one block.

        Args:
            block: its name.
            query, key, value: (rows, tokens, width) after their projections.
            options: the host's extra_options of this block.
            base: what was in the slot before, if anything.
        """
        attend = host_attention(options)
        run = run_of(self, options)
        layout = self._layout(run, query, options) if run.active else None
        if layout is None:
            return (base or attend)(query, key, value)
        assert run.keys_values is not None
        key_ref, value_ref = (_to_rows(tensor, query) for tensor in run.keys_values[block])
        return fused_attention(query, (key, value), (key_ref, value_ref), self.control, layout, attend, base)

    def _in_window(self, sigma: Tensor) -> bool:
        """The level is read from the device only where the window has an end."""
        if self.sigma_end <= 0.0 and self.sigma_start == float("inf"):
            return True
        return self.sigma_end <= float(sigma[0]) <= self.sigma_start

    def _read(self, guider: Any, sigma: Tensor | None, seed: int) -> KeysValues:
        """One reference pass."""
        model = self.reference.model
        if model is None:
            model = guider.model_patcher
            model.apply_hooks(hooks=None)  # weights as they are without the hooks of a prompt
        return reference_keys_values(model, self.reference, sigma, seed)

    def _layout(self, run: FusionRun, query: Tensor, options: Options) -> list[FusionRows] | None:
        """The rows of each image that are reached; None where the mask cannot be placed."""
        if query.shape[0] != options["original_shape"][0]:
            raise RuntimeError(
                f"{NAME}: another patch changed the number of rows in self-attention from {options['original_shape'][0]} to "
                f"{query.shape[0]}, as HyperTile does: which image a row belongs to is lost; remove that patch"
            )
        if self.product_mask is None:
            return [fusion_rows(None, query.shape[1])]
        _check_grid(query, options)
        sampled = tuple(options["original_shape"][-2:])
        position = position_of(options)
        if position is None:
            run.tell(
                f"{NAME}: part of the image ({sampled[0]}x{sampled[1]} of {run.latent_size[0]}x{run.latent_size[1]} latent "
                "pixels) is sampled by itself, and the patch that cuts it does not say where it lies. The reference is left "
                "out of it."
            )
            return None
        grid = tuple(options["activations_shape"][-2:])
        corners = None if position.whole(sampled) else position.corners
        cache_key = (grid, sampled, corners, query.device, query.dtype)
        if cache_key not in run.layouts:
            masks = self.product_mask
            placed = masks if corners is None else cropped(masks, position, sampled)
            run.layouts[cache_key] = [
                fusion_rows(mask, query.shape[1]).to(query.device, query.dtype)
                for mask in query_mask(placed, grid, sampled)
            ]
        return run.layouts[cache_key]


def run_of(fusion: AttentionFusion, options: Options) -> FusionRun:
    runs: dict[AttentionFusion, FusionRun] = options.get(KEY, {})
    if fusion not in runs:
        raise RuntimeError(
            f"{NAME}: the model is being run outside the host's samplers: remove the node from this model"
        )
    return runs[fusion]


def _to_rows(tensor: Tensor, query: Tensor) -> Tensor:
    """(T, tokens, width) of the references -> (rows, tokens, width), each row that of its image."""
    tensor = tensor.to(query.device, query.dtype)
    return tensor.repeat(query.shape[0] // len(tensor), 1, 1) if len(tensor) > 1 else tensor.expand(len(query), -1, -1)


def _check_grid(query: Tensor, options: Options) -> None:
    rows, columns = options["activations_shape"][-2:]
    if rows * columns != query.shape[1]:
        raise RuntimeError(
            f"{NAME}: another patch changed the number of queries to {query.shape[1]}, the grid is {rows}x{columns}: without "
            "a grid no mask can be placed; disconnect product_mask or remove that patch"
        )
