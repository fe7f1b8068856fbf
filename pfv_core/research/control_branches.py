"""Strictly-ID's pose and appearance branches in a ControlNet's cross-attentions (sections 3.3 and 3.4, Eq. 4 to 10).

Beside the text's cross-attention each place gets two of the same structure, which read the tokens of two pictures:

    T_p = encoder(I_p) W_p,  T_a = encoder(I_a) W_a                                          Eq. 7
    Y_i = Linear(softmax(Q_i K_i^T / sqrt d) V_i),  Q_i = LN(X) W_q,  K_i = T_i W_k,  V_i = T_i W_v    Eq. 4 to 6
    Y = Y_t + w_p Y_p + w_a alpha(t) Y_a std(Y_t) / std(Y_a)                                 Eq. 8 to 10

with w_p and w_a 1 in the paper and 0 where a picture is left out. A ControlNet needs to have nothing but cross-attentions with
`to_q` and `to_out[0]`, as diffusers' and ComfyUI's have: what goes into the one is LN(X), what comes out of the other is Y_t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import layers
from ..attention.balance import PAPER_GAMMA, time_weights, to_std_of
from ..attention.formula import scaled_dot_product

Weight = float | Tensor


@dataclass(frozen=True)
class BranchSizes:
    """Of the branches of one ControlNet.

    Attributes:
        widths, heads: channels and heads of each of its cross-attentions, in running order.
        context_dim: channels of a text token.
        token_dim: channels of a token of the image encoder.
    """

    widths: tuple[int, ...]
    heads: tuple[int, ...]
    context_dim: int
    token_dim: int


@dataclass(frozen=True, eq=False)
class BranchInput:
    """The picture of one branch in a forward pass.

    Attributes:
        tokens: (B or 1, N, E), the image encoder's last hidden states, class token and patches.
        weight: 0 = the picture is left out, 1 = as trained; also (B,), one for each sample: in main memory the check that it
            is finite waits for no device.

    Raises:
        ValueError: a weight that is no finite number.
    """

    tokens: Tensor
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        if not bool(torch.as_tensor(self.weight).isfinite().all()):
            raise ValueError(f"weight is {self.weight}, expected a finite number: 0 = left out, 1 = as trained")

    def repeated(self, times: int) -> BranchInput:
        """The same for a batch that has its samples so many times, one after the other."""
        tokens = self.tokens if len(self.tokens) == 1 else self.tokens.repeat(times, 1, 1)
        return BranchInput(tokens, self.weight.repeat(times) if isinstance(self.weight, Tensor) else self.weight)


@dataclass(frozen=True, eq=False)
class BranchInputs:
    """What the branches of a ControlNet are given in a forward pass.

    Attributes:
        pose, appearance: their pictures; None = there is none.
        std_norm: bring the appearance's term to the text's standard deviation (Eq. 8).
        gamma: time weighting of the appearance (Eq. 10), timesteps; None = the same weight all the time.

    Raises:
        ValueError: a gamma that is not above 0.
    """

    pose: BranchInput | None = None
    appearance: BranchInput | None = None
    std_norm: bool = True
    gamma: float | None = PAPER_GAMMA

    def __post_init__(self) -> None:
        if self.gamma is not None and not self.gamma > 0:
            raise ValueError(f"gamma is {self.gamma}, expected more than 0 timesteps")

    def repeated(self, times: int) -> BranchInputs:
        """See `BranchInput.repeated`."""
        pose, appearance = (one and one.repeated(times) for one in (self.pose, self.appearance))
        return replace(self, pose=pose, appearance=appearance)


class BranchAttention(nn.Module):
    """A branch's cross-attention at one place, of the structure of the text's (Eq. 5 and 6)."""

    def __init__(self, width: int, heads: int, context_dim: int, operations: Any = layers) -> None:
        super().__init__()
        self.to_q = operations.Linear(width, width, bias=False)
        self.to_k = operations.Linear(context_dim, width, bias=False)
        self.to_v = operations.Linear(context_dim, width, bias=False)
        self.to_out = operations.Linear(width, width)
        self._attend = scaled_dot_product(heads)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """(B, L, C) normalised features, (B or 1, N, context_dim) tokens -> (B, L, C)."""
        key, value = (projection(tokens).expand(len(features), -1, -1) for projection in (self.to_k, self.to_v))
        attended: Tensor = self.to_out(self._attend(self.to_q(features), key, value))
        return attended


class Branch(nn.Module):
    """One picture's branch: a projection to the text's width (Eq. 7), and a cross-attention for each place."""

    def __init__(self, sizes: BranchSizes, operations: Any = layers) -> None:
        super().__init__()
        self.projection = operations.Linear(sizes.token_dim, sizes.context_dim, bias=False)
        self.attentions = nn.ModuleList(
            BranchAttention(width, heads, sizes.context_dim, operations)
            for width, heads in zip(sizes.widths, sizes.heads, strict=True)
        )


@dataclass(frozen=True, eq=False)
class _Term:
    """A branch in one forward pass: its tokens, projected, and what its output is multiplied by, (B or 1, 1, 1) or a number."""

    attentions: nn.ModuleList
    tokens: Tensor
    weight: Weight
    std_norm: bool


class Branches(nn.Module):
    """The pose and the appearance branch of a ControlNet.

    Names of parameters are the keys of its file. `operations` is a namespace with Linear, see `pfv_core.layers`.

    Paper: section 3.3. **Deviation**: "each cross-attention layer in the original Control-Net encoder blocks" is read as all
    that a ControlNet has, its middle block's too. The layer norm of a place is shared with the text's branch; the paper does
    not say whose it is.
    """

    def __init__(self, sizes: BranchSizes, operations: Any = layers) -> None:
        super().__init__()
        self.sizes = sizes
        self.pose = Branch(sizes, operations)
        self.appearance = Branch(sizes, operations)
        self._terms: list[_Term] = []
        self._features: dict[int, Tensor] = {}

    def attach(self, attentions: Sequence[Any]) -> None:
        """Put the branches into a ControlNet, for good; without pictures it stays what it was, to the bit.

        Args:
            attentions: its cross-attentions in running order, modules with `to_q` and `to_out[0]`.

        Raises:
            ValueError: other places than these branches were made for.
        """
        found = tuple(attention.to_q.in_features for attention in attentions)
        if found != self.sizes.widths:
            raise ValueError(
                f"the branches are for {len(self.sizes.widths)} cross-attentions of {_counted(self.sizes.widths)} channels, the "
                f"ControlNet has {len(found)} of {_counted(found)}"
            )
        for place, attention in enumerate(attentions):
            attention.to_q.register_forward_pre_hook(partial(self._keep, place))
            attention.to_out[0].register_forward_hook(partial(self._join, place))

    def begin(self, inputs: BranchInputs | None, timesteps: Tensor, like: Tensor) -> None:
        """Say what the next forward passes are given; it holds until it is said anew, through a recomputing backward pass too.

        Args:
            inputs: None = no pictures.
            timesteps: (B,) or one, of the model's schedule, where the ControlNet computes.
            like: of the device and precision that the ControlNet computes in.

        Raises:
            ValueError: tokens of another width than the branches take.
        """
        self.end()
        if inputs is None:
            return
        late = 1.0 if inputs.gamma is None else time_weights(timesteps.reshape(-1, 1, 1), inputs.gamma).to(like)
        for branch, given, factor, std_norm in (
            (self.pose, inputs.pose, 1.0, False),
            (self.appearance, inputs.appearance, late, inputs.std_norm),
        ):
            if given is not None and not (isinstance(given.weight, float) and given.weight == 0.0):
                self._check(given.tokens)
                weight = given.weight.to(like).view(-1, 1, 1) if isinstance(given.weight, Tensor) else given.weight
                tokens = branch.projection(given.tokens.to(like))
                self._terms.append(_Term(branch.attentions, tokens, weight * factor, std_norm))

    def end(self) -> None:
        """No pictures from here on."""
        self._terms, self._features = [], {}

    def _check(self, tokens: Tensor) -> None:
        if tokens.ndim != 3 or tokens.shape[2] != self.sizes.token_dim:
            raise ValueError(
                f"the picture's tokens are {tuple(tokens.shape)}, the branches take (batch, tokens, {self.sizes.token_dim}): "
                "encode it with the encoder that they were trained with"
            )

    def _keep(self, place: int, _module: nn.Module, args: tuple[Any, ...]) -> None:
        """Before the text's `to_q`: LN(X)."""
        if self._terms:
            self._features[place] = args[0]

    def _join(self, place: int, _module: nn.Module, _args: tuple[Any, ...], text: Tensor) -> Tensor:
        """After the text's `to_out[0]`: Eq. 9.

        **Deviation**: the paper does not say what the deviation of Eq. 8 is taken over; here it is one number for each sample,
        over all queries and channels, see `std_ratio`.
        """
        if not self._terms:
            return text
        features, out = self._features.pop(place), text
        for term in self._terms:
            value = term.attentions[place](features, term.tokens)
            if term.std_norm:
                value = to_std_of(text, value)
            out = out + term.weight * value
        return out


def new_branches(sizes: BranchSizes, attentions: Sequence[Any], seed: int) -> Branches:
    """Untrained branches: each cross-attention begins as the text's at its place, the projections as small random numbers.

    Args:
        sizes: of the ControlNet.
        attentions: see `Branches.attach`; also with `to_k` and `to_v`.
        seed: of the projections.

    **Deviation**: the paper does not say where the branches begin. A ControlNet's zero convolutions keep them out of the U-Net
    at first, so they may begin with what attends to something already.
    """
    branches = Branches(sizes)
    generator = torch.Generator().manual_seed(seed)
    for branch in (branches.pose, branches.appearance):
        nn.init.normal_(branch.projection.weight, std=sizes.token_dim**-0.5, generator=generator)
        for own, text in zip(branch.attentions, attentions, strict=True):
            theirs = {"to_q": text.to_q, "to_k": text.to_k, "to_v": text.to_v, "to_out": text.to_out[0]}
            own.load_state_dict(
                {f"{name}.{key}": value for name, m in theirs.items() for key, value in m.state_dict().items()}
            )
    return branches


def _counted(widths: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(set(widths)))) or "no"
