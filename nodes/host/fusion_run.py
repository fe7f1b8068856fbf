"""What a RefAdGen Attention Fusion is, and what one sampling computes for it.

The keys and values are those of one reference pass for the whole run, or of one for each evaluation of the model, before the
host takes the positive and negative prompts to it together or apart.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...pfv_core.attention.control import Attend
from ...pfv_core.attention.fusion import FusionControl, FusionRows, fused_attention, fusion_rows
from .facts import Call, Options, Row, Run, call_of, cells, check_grid
from .reference_pass import (
    COPY,
    NAME,
    Changes,
    KeysValues,
    Reference,
    ReferenceNoise,
    check_schedules,
    reference_keys_values,
)
from .schedule import Window
from .slots import host_attention, tell_what_is_taken
from .unet import BlockKey


@dataclass(frozen=True, eq=False)
class AttentionFusion:
    """One RefAdGen Attention Fusion, shared by all self-attentions of a model and never changed."""

    control: FusionControl
    product_mask: Tensor | None  # (R, H, W) 0..1, None = the whole frame
    reference: Reference
    window: Window
    blocks: Collection[BlockKey]

    def __deepcopy__(self, memo: dict[int, Any]) -> AttentionFusion:
        return self

    def begin(self, run: Run) -> FusionRun:
        """What is computed for a run; ValueError if reference, mask or weights do not fit it."""
        tell_what_is_taken(run, self, "attn1", self.blocks, NAME)
        return FusionRun(self, run)


class FusionRun:
    """A fusion in one run: whether the reference takes part in this evaluation, its keys and values, the rows of each grid."""

    def __init__(self, fusion: AttentionFusion, run: Run) -> None:
        self._fusion = fusion
        reference = fusion.reference
        run.check_batch(len(reference.latent), NAME, "reference_latent")
        self._mask = fusion.product_mask
        if self._mask is not None:
            self._mask = run.placed(self._mask, NAME, "product_mask")
        apart = None if reference.changes is None else reference.changes.beside(Changes.of(run.patcher))
        if apart is not None:
            raise ValueError(
                f"{NAME}: reference_model comes from the same loader as the model that is sampled, so both are one set of "
                f"weights, and {apart} is on one of them alone: put it on both, or disconnect reference_model, and the sampled "
                f"model reads the product itself; {COPY}"
            )
        if reference.noise is ReferenceNoise.STEP and reference.model is not None:
            check_schedules(run.sampling, reference.model.get_model_object("model_sampling"))
        self._start, self._end = run.levels(fusion.window, NAME)
        self._active = False
        self._keys_values: KeysValues | None = None
        self._layouts: dict[Any, list[FusionRows]] = {}
        self._orders: dict[Any, Tensor] = {}

    def evaluate(self, guider: Any, sigma: Tensor) -> None:
        """Before an evaluation of the model: decide whether the reference takes part, and let it read the product."""
        whole = self._fusion.window.whole
        self._active = whole or self._end <= float(sigma[0]) <= self._start  # the level is read only where it matters
        if not self._active:
            return
        if self._fusion.reference.noise is ReferenceNoise.STEP:
            self._keys_values = self._read(guider, sigma)
        elif self._keys_values is None:
            self._keys_values = self._read(guider, None)

    def attention(
        self, block: BlockKey, query: Tensor, key: Tensor, value: Tensor, options: Options, base: Attend | None
    ) -> Tensor:
        """Self-attention of one block; the arguments are those of its slot."""
        attend = host_attention(options)
        if not self._active:
            return (base or attend)(query, key, value)
        assert self._keys_values is not None
        key_ref, value_ref = (tensor.to(query.device, query.dtype) for tensor in self._keys_values[block])
        if self._mask is None and len(key_ref) == 1:  # the same for every row, whichever it is
            layout = [fusion_rows(None, query.shape[1])]
            reference = key_ref.expand(len(query), -1, -1), value_ref.expand(len(query), -1, -1)
        else:
            call = call_of(options, NAME)
            rows = call.rows_of(query.shape[0], options, NAME)
            call.check_images(rows, len(key_ref), NAME, "reference_latent")
            call.check_images(rows, 1 if self._mask is None else len(self._mask), NAME, "product_mask")
            layout = self._layout(call, rows, query, options)
            reference = self._to_rows(key_ref, rows), self._to_rows(value_ref, rows)
        return fused_attention(query, (key, value), reference, self._fusion.control, layout, attend, base)

    def _read(self, guider: Any, sigma: Tensor | None) -> KeysValues:
        """One reference pass."""
        model = self._fusion.reference.model
        if model is None:
            model = guider.model_patcher
            model.apply_hooks(hooks=None)  # weights as they are without the hooks of a prompt
        return reference_keys_values(model, self._fusion.reference, sigma)

    def _layout(self, call: Call, rows: tuple[Row, ...], query: Tensor, options: Options) -> list[FusionRows]:
        """The queries of each row that are reached; rows with the same mask share one object."""
        if self._mask is None:
            return [fusion_rows(None, query.shape[1])]
        grid = check_grid(options, query.shape[1], NAME)
        key = rows, grid, call.sampled, query.device, query.dtype
        if key not in self._layouts:
            made: dict[Any, FusionRows] = {}
            for row in rows:
                spot = row.among(len(self._mask)), row.corner
                if spot not in made:
                    covered = cells(self._mask[spot[0] : spot[0] + 1], grid, call, row.corner, NAME)
                    made[spot] = fusion_rows(covered, query.shape[1]).to(query.device, query.dtype)
            of_rows = [made[row.among(len(self._mask)), row.corner] for row in rows]
            self._layouts[key] = of_rows[:1] if len(made) == 1 else of_rows
        return self._layouts[key]

    def _to_rows(self, tensor: Tensor, rows: tuple[Row, ...]) -> Tensor:
        """(T, tokens, width) of the references -> (rows, tokens, width), each row that of its image."""
        if len(tensor) == 1:
            return tensor.expand(len(rows), -1, -1)
        key = rows, len(tensor), tensor.device
        if key not in self._orders:
            self._orders[key] = torch.tensor([row.among(len(tensor)) for row in rows]).to(tensor.device)
        return tensor.index_select(0, self._orders[key])
