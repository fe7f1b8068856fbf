"""One way of making pictures: how a reference is shown, what the text says, and how the two are joined.

Every pair of scenes (A, B) shares no product, wall, pattern or table. Texts speak of A; references show B, whose
product is the foreign one that must not leak.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from pfv_core.attention.control import PromptControl
from pfv_core.attention.weights import PromptWeights

TEXT_GUIDANCE = 3.0


class View(str, Enum):
    """How the reference is shown to the image encoder.

    VISIBLE shows everything. ORACLE is the same scene without its product. DROPPED and ZEROED hide the product's
    patches (PFV): their tokens leave the sequence, or stay with a zeroed embedding. BLURRED, BLACKED and GREYED change
    the product's pixels and hide nothing; on PATCHES they change all pixels of the patches that PFV would hide.
    """

    VISIBLE = "visible"
    ORACLE = "oracle"
    DROPPED = "dropped"
    ZEROED = "zeroed"
    BLURRED = "blurred"
    BLACKED = "blacked"
    GREYED = "greyed"
    BLURRED_PATCHES = "blurred_patches"
    BLACKED_PATCHES = "blacked_patches"
    GREYED_PATCHES = "greyed_patches"


class Words(str, Enum):
    """What the text says: nothing, A's product, its product and table, or all of A, its wall included."""

    NOTHING = "nothing"
    PRODUCT = "product"
    PRODUCT_AND_TABLE = "product and table"
    EVERYTHING = "everything"


class Area(str, Enum):
    """Where the image prompt rules: the whole FRAME, the WALL of A without its product's box, all AROUND the ad's product."""

    FRAME = "frame"
    WALL = "wall"
    AROUND = "around"


class Depth(str, Enum):
    """The reference's depth behind the product's: with the foreign product MASKED out of it, or WHOLE."""

    MASKED = "masked"
    WHOLE = "whole"


class Given(str, Enum):
    """Nothing is sampled, the true picture is shown: DECODED from its latents, BLURRED, in another LIGHT, with the table's GRAIN
    elsewhere, or RELIT: both."""

    DECODED = "decoded"
    BLURRED = "blurred"
    LIGHT = "light"
    GRAIN = "grain"
    RELIT = "relit"


@dataclass(frozen=True)
class Condition:
    """One way of making pictures.

    Attributes:
        name: of its results.
        label: for readers.
        words: of the text.
        view: of the reference; None = no image prompt.
        control: how the image prompt takes part.
        area: where it rules.
        weights: of the image prompt, by layer and over the sampling.
        ad: what is wanted is A's product in B's surroundings, and the product's own pixels are put back; else A.
        depth: of the ControlNet, for an ad; None = no ControlNet.
        given: the true picture instead of a sampled one; None = sampled.
        guidance: scale of classifier-free guidance; None = TEXT_GUIDANCE with a text, none without.
    """

    name: str
    label: str
    words: Words = Words.NOTHING
    view: View | None = None
    control: PromptControl = PromptControl()  # noqa: RUF009, frozen
    area: Area = Area.FRAME
    weights: PromptWeights = PromptWeights()  # noqa: RUF009, frozen
    ad: bool = False
    depth: Depth | None = None
    given: Given | None = None
    guidance: float | None = None

    @property
    def guidance_scale(self) -> float:
        """Of classifier-free guidance; 1 = none."""
        if self.guidance is not None:
            return self.guidance
        return 1.0 if self.words is Words.NOTHING else TEXT_GUIDANCE


@dataclass(frozen=True)
class Row:
    """A condition measured with all adapters of a family."""

    condition: Condition
    family: str


@dataclass(frozen=True)
class Sweep:
    """A way with a strength to be set: the best one of the development pairs is the row of the test pairs.

    Attributes:
        plain: at strength 1.
        family: of its adapters.
        scales: strengths that are tried, rising.
    """

    plain: Condition
    family: str
    scales: tuple[float, ...]

    def at(self, scale: float) -> Row:
        """The row of one strength."""
        plain = self.plain
        name = plain.name if scale == 1 else f"{plain.name}_scale_{scale:g}"
        control = replace(plain.control, image_scale=scale)
        return Row(replace(plain, name=name, label=f"{plain.label}, scale {scale:g}", control=control), self.family)

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of all strengths."""
        return tuple(self.at(scale) for scale in self.scales)


@dataclass(frozen=True)
class Experiment:
    """A table.

    Attributes:
        name: its key in the results.
        title: for readers.
        about: what it answers.
        rows: what is compared.
        measures: columns, see `measures.MEASURES`.
        pairs: test pairs that its rows are measured on.
        seeds: trainings that its rows are measured with, at most; None = all there are.
    """

    name: str
    title: str
    about: str
    rows: tuple[Row | Sweep, ...]
    measures: tuple[str, ...]
    pairs: int
    seeds: int | None = None

    @property
    def sweeps(self) -> tuple[Sweep, ...]:
        """Those of its rows that are to be chosen first."""
        return tuple(row for row in self.rows if isinstance(row, Sweep))
