"""Our callables in the host's attention slots: around whatever was there before, and of one clone of a model alone.

The host keeps one callable for each attention (`patches_replace`), and calls it with the projected query, key and value. Until
0.12 it deep-copies them whenever a model is cloned, since 0.13 the clones share them: what another pack adds to a slot would
then reach every clone, so each clone is given slots of its own here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection
from copy import copy
from functools import partial
from typing import Any, TypeVar

from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ...pfv_core.attention.control import Attend
from .facts import CALL, KEY, Call, Options, Run, name_of
from .operators import Attention, never_traced
from .unet import BlockKey

SlotT = TypeVar("SlotT", bound="Slot")


class Slot(Attention):
    """The callable in the replace slot of one attention.

    Attributes:
        patch: what it belongs to, shared by all blocks.
        block: the host's name of the block.
        base: what was in the slot before, if anything.
    """

    def __init__(self, patch: Any, block: BlockKey, base: Any) -> None:
        self.patch = patch
        self.block = block
        self.base = base

    @never_traced
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        """q, k, v (rows, tokens, width) after their projections, the host's options -> the output before to_out."""
        base = self._base(options)
        base = None if base is None else partial(_call_base, base, options)
        return self.attention(query, key, value, options, base)

    @abstractmethod
    def attention(self, query: Tensor, key: Tensor, value: Tensor, options: Options, base: Attend | None) -> Tensor:
        """What stands in for the block's attention; `base` is that of the slot before."""

    def reaches_others(self, options: Options) -> bool:
        """Whether what was here before, or what stands in for the host's attention, is called with the tensors."""
        return self._base(options) is not None or "optimized_attention_override" in options

    def _base(self, options: Options) -> Any:
        """A callable for the whole transformer may have come since, for one call alone, as Perturbed-Attention Guidance puts it
        there: the host would pass it over for ours."""
        call: Call | None = options.get(CALL)
        late = None if call is None else call.replaced.get(self.kind, {}).get(self.block[:2])
        return self.base if late is None else late

    def __deepcopy__(self: SlotT, memo: dict[int, Any]) -> SlotT:
        return copy(self)

    def to(self: SlotT, device_or_dtype: Any) -> SlotT:
        """The host moves patches that have `.to`; ours cast where they compute, another pack's may want to move."""
        if hasattr(self.base, "to"):
            self.base = self.base.to(device_or_dtype)
        return self

    def models(self) -> list[Any]:
        """Models that the host must load for this slot: another pack's, if it has any."""
        return self.base.models() if hasattr(self.base, "models") else []

    def cleanup(self) -> None:
        """Newer hosts tell patches that a run is over: another pack's, if it wants to know."""
        if hasattr(self.base, "cleanup"):
            self.base.cleanup()


def slot_of(model: Any, kind: str, block: BlockKey) -> Any:
    """What is in a slot of a model; a callable for the whole transformer serves each of its blocks."""
    slots = model.model_options["transformer_options"].get("patches_replace", {}).get(kind, {})
    return slots.get(block, slots.get(block[:2]))


def fill_slot(model: Any, slot: Slot) -> None:
    """Put a slot into a clone of a model, whose own clones then get copies of it."""
    model.set_model_patch_replace(slot, slot.kind, *slot.block)
    if not model.callbacks.get(CallbacksMP.ON_CLONE, {}).get(KEY):
        model.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, _own_slots)


def tell_what_is_taken(run: Run, patch: Any, kind: str, blocks: Collection[BlockKey], node: str) -> None:
    """At the beginning of a run, say by name what has taken slots of a patch over since it was put into the model."""
    if patch not in run.patches:
        return  # it is a ControlNet's
    slots = run.replaced.get(kind, {})
    taken = {block: slots.get(block) for block in blocks if not _holds(slots.get(block), patch)}
    if taken:
        names = ", ".join(sorted({name_of(slot) for slot in taken.values()}))
        run.tell(
            f"{node}: {names} has taken the place of {len(taken)} of its {len(blocks)} attentions ({next(iter(taken))} for one) "
            "and may leave it out there: put that node before this one"
        )


def _holds(slot: Any, patch: Any) -> bool:
    while isinstance(slot, Slot):
        if slot.patch is patch:
            return True
        slot = slot.base
    return False


def host_attention(options: Options) -> Attend:
    """The host's own attention, with its backends and overrides, as the core's `Attend`."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return optimized_attention(
            query,
            key,
            value,
            options["n_heads"],
            attn_precision=options.get("attn_precision"),
            transformer_options=options,
        )

    return attend


def _own_slots(model: Any, clone: Any) -> None:
    """The host has cloned a model: its slots of ours are copied, whichever way it clones."""
    for slots in clone.model_options["transformer_options"].get("patches_replace", {}).values():
        slots.update({block: copy(slot) for block, slot in slots.items() if isinstance(slot, Slot)})


def _call_base(base: Callable[..., Tensor], options: Options, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return base(query, key, value, options)
