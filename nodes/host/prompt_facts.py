"""What an image prompt was made of: carried along with it for whoever prints it, and never guessed."""

from __future__ import annotations

from dataclasses import dataclass

from ...pfv_core.found.reference import HiddenBy


@dataclass(frozen=True)
class ReferenceFacts:
    """What is known of one picture that an image prompt was made of.

    Attributes:
        source: who said what is hidden; None where nobody here knows.
        kept_share: share of its own patches that the encoder saw, 0..1; None where its tokens do not say.
        weight: in a combination of several.
        against: whether it is a picture to move away from.
    """

    source: HiddenBy | None = None
    kept_share: float | None = None
    weight: float = 1.0
    against: bool = False


@dataclass(frozen=True)
class PromptFacts:
    """What an image prompt was made of; carried, and never guessed.

    Attributes:
        encoder: public name and sizes of the image encoder; None where nobody said.
        references: the pictures: for each prompt that was combined, for each image of its batch.
        combined: how several became one; None for a prompt of its own.
    """

    encoder: str | None = None
    references: tuple[ReferenceFacts, ...] = ()
    combined: str | None = None
