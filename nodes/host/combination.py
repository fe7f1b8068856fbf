"""Several image prompts as one, and one to move away from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import lcm

import torch
from torch import Tensor

from ...pfv_core.adapter.combine import MOST_COPIES, Combine, check_weights, combine_prompts
from ...pfv_core.choices import parse_choice
from .adapter import HostAdapter, ImagePrompt
from .prompt_facts import PromptFacts, ReferenceFacts

NEGATIVE = "negative"


def combined(
    prompts: Mapping[str, ImagePrompt],
    weights: Mapping[str, float],
    combine: Combine | str,
    negative: ImagePrompt | None = None,
) -> ImagePrompt:
    """Several image prompts as one.

    Args:
        prompts: by the names of their inputs, at least one.
        weights: by the same names, see `combine_prompts`.
        combine: how.
        negative: a picture to move away from: its tokens are what the sampler's negative gets. None = the negatives of the
            prompts, combined in the same way; equal ones, as all of one encoder are, stay one.

    Raises:
        ValueError: prompts of different adapters, or what `combine_prompts` raises.
    """
    combine = parse_choice(Combine, combine, "combine")
    adapter = _adapter_of({**prompts, **({NEGATIVE: negative} if negative else {})})
    check_weights([weights[name] for name in prompts])
    used = {name: prompt for name, prompt in prompts.items() if weights[name] > 0}
    numbers = [weights[name] for name in used]
    positive = combine_prompts([prompt.positive for prompt in used.values()], numbers, combine)
    against = (
        negative.positive if negative else _negatives([prompt.negative for prompt in used.values()], numbers, combine)
    )
    positive, against = _same_batch(positive, against)
    _check_tokens(positive.shape[1], against.shape[1], adapter)
    facts = _facts(used, weights, combine, negative)
    return ImagePrompt(adapter, positive, against, facts)


def _adapter_of(prompts: Mapping[str, ImagePrompt]) -> HostAdapter:
    """The one adapter of them all."""
    (first, prompt), *others = prompts.items()
    for name, other in others:
        if other.adapter is not prompt.adapter:
            files = f"{other.adapter.file or 'another adapter'}", f"{prompt.adapter.file or 'its own'}"
            raise ValueError(
                f"{name} was made with {files[0]}, {first} with {files[1]}: tokens of different adapters do not mix. Make both "
                "with one adapter, or give each a MEPA Apply of its own"
            )
    return prompt.adapter


def _negatives(negatives: list[Tensor], weights: list[float], combine: Combine) -> Tensor:
    first = negatives[0]
    if all(torch.equal(first, other) for other in negatives):
        return first
    return combine_prompts(negatives, weights, combine)


def _same_batch(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    if len(negative) in (1, len(positive)):
        return positive, negative
    if len(positive) != 1:
        raise ValueError(
            f"{NEGATIVE} is a batch of {len(negative)}, the image prompts of {len(positive)}: give 1, or the same number"
        )
    return positive.expand(len(negative), -1, -1), negative


def _check_tokens(positive: int, negative: int, adapter: HostAdapter) -> None:
    """Both sides of a call are brought to one number of tokens by whole copies, which must stay few."""
    most, together = MOST_COPIES * adapter.config.num_tokens, lcm(positive, negative)
    if together > most:
        raise ValueError(
            f"the image prompts have {positive} tokens together, {NEGATIVE} {negative}: copied to the same number they are "
            f"{together}, more than {most}. Choose simpler weights, or average"
        )


def _facts(
    prompts: Mapping[str, ImagePrompt], weights: Mapping[str, float], combine: Combine, negative: ImagePrompt | None
) -> PromptFacts:
    references: list[ReferenceFacts] = []
    for name, prompt in prompts.items():
        kept = (fact for fact in prompt.facts.references if not (fact.against and negative))
        references += [replace(fact, weight=fact.weight * weights[name]) for fact in kept]
    if negative:
        references += [replace(fact, against=True) for fact in negative.facts.references if not fact.against]
    everyone = [*prompts.values(), *([negative] if negative else [])]
    encoders = list(dict.fromkeys(prompt.facts.encoder for prompt in everyone))
    encoder = None if None in encoders else " + ".join(name for name in encoders if name)
    return PromptFacts(encoder, tuple(references), combine.value if len(prompts) > 1 else None)
