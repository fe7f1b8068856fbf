"""Measures on held-out scenes MEPA, RefAdGen and Strictly-ID in one sampling: who carries what, and who takes it from whom.

    python -m lab.demo.evaluation.neighbours_together --models FOLDER --out FOLDER [--pairs 100] [--weights FOLDER]
        [--judge FILE] [--steps 12] [--batch 20] [--precision bfloat16] [--report-only | --count]

--models holds what `train_adapters --adapter eq3_c16`, `train_refadgen` and `train_strict_id` wrote,
{family}_seed{n}.safetensors. FOLDER receives neighbours_together.md and .json; what is stored in it is not made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from pfv_core.attention.control import PromptControl

from ...diffusers.sample import ImagePrompt, sample_latents
from .. import stack
from ..captions import caption
from ..splits import Split
from ..studio.render import render
from ..studio.scene import Scene, labels
from .chunk import channels_first
from .companion_chunk import RULER_SIZE, CompanionChunk, companion_right, in_common
from .conditions import TEXT_GUIDANCE
from .engines import Prompts, RefAdGens, StrictIDs, hint_of
from .models import Models
from .neighbour_plan import Claim, Column, Files, Plan, Table, Way
from .neighbour_refadgen import MEASURES as OF_PRODUCT
from .neighbour_refadgen import packshots, product_values
from .neighbours import run_plans
from .rulers import LabelView, label_views
from .strict_id_ways import MEASURES as OF_COMPANION
from .strict_id_ways import Engine, How, Picture

MEPA, REFADGEN, STRICT_ID = "eq3_c16", "refadgen_whole", "strict_id_no_balance"
NAMES = {MEPA: "MEPA", REFADGEN: "RefAdGen", STRICT_ID: "Strictly-ID"}
EVERYONE = tuple(NAMES)
ASKED = How(Engine.STRICT_ID, Picture.ANOTHER)
"""Of the scenes: the companion is another picture's."""


def _way(families: tuple[str, ...]) -> Way:
    label = " + ".join(NAMES[family] for family in families) or "text alone"
    return Way("+".join(families) or "text", label, None, families)


WAYS = tuple(_way(families) for count in range(4) for families in combinations(EVERYONE, count))
ALL, TEXT = _way(EVERYONE).name, _way(()).name
OTHERS = _way((MEPA, STRICT_ID)).name  # without RefAdGen
MEASURES = {
    "wall": Column("wall's colour as MEPA's reference", "higher", is_rate=True, read_of=("other wall",)),
    "table": Column("table as the text says", "higher", is_rate=True),
    "label": OF_PRODUCT["label"],
    "body": OF_PRODUCT["body"],
    "overlap": OF_PRODUCT["overlap"],
    "companion": OF_COMPANION["companion"],
    "found": OF_COMPANION["found"],
}
CLAIMS = (
    Claim("MEPA brings the wall", "together", "wall", MEPA, TEXT),
    Claim("RefAdGen brings the label", "together", "label", REFADGEN, TEXT),
    Claim("Strictly-ID brings the label", "together", "label", STRICT_ID, TEXT),
    Claim("Beside the others MEPA brings more of the wall than alone", "together", "wall", ALL, MEPA),
    Claim("Strictly-ID brings the companion", "together", "companion", STRICT_ID, TEXT),
    Claim("RefAdGen adds to the label that the others bring", "together", "label", ALL, OTHERS),
    Claim("Beside the others Strictly-ID brings the companion more often", "together", "companion", ALL, STRICT_ID),
    Claim("Beside the others the text is right about the table more often", "together", "table", ALL, TEXT),
)
ABOUT = """\
Everyone has a picture of its own and all are in one sampling: the text names product and table; MEPA's image prompt is another
scene's picture with product and companion hidden, in the region of the wall; RefAdGen sees a packshot; Strictly-ID sees the
product where it stands, the rows and the pose of a companion, and as its appearance that other picture, the product hidden;
guidance strengthens its pictures too. The wall is plain and of another colour than the scene's own. No way has a depth
ControlNet, and nothing is pasted.

A companion is looked for where it is asked; a product that is drawn there counts as one, seldom as the right one."""


class TogetherChunk(CompanionChunk):
    """Held-out scenes as `CompanionChunk` has them, with photos of the products."""

    @cached_property
    def packshots(self) -> Tensor:
        """(P, 3, H, W)."""
        return packshots(self.scenes, self.seeds)

    @cached_property
    def views(self) -> list[list[LabelView]]:
        """Of each scene's label."""
        return [label_views(scene, stack.IMAGE_SIZE) for scene in self.scenes]

    @cached_property
    def wall_region(self) -> Tensor:
        """(P, H, W) float: the wall, but for the companion that is asked."""
        drawn = render(self.asked(ASKED)[0], stack.IMAGE_SIZE)
        return ((drawn.wall > 0.5) & (drawn.companion == 0)).float()

    @property
    def told(self) -> list[Scene]:
        """The scenes that are asked for."""
        return self.asked(ASKED)[0]


class TogetherMaker:
    """Makes and measures; see `neighbour_plan.Maker`."""

    def __init__(self, models: Models, steps: int) -> None:
        self.models, self.steps = models, steps
        self.prompts, self.refadgens, self.strict_ids = Prompts(models), RefAdGens(models), StrictIDs(models)

    def chunk(self, split: Split, start: int, count: int) -> TogetherChunk:
        """Scenes from `start` on."""
        return TogetherChunk(split, start, count)

    @torch.no_grad()
    def make(self, chunk: TogetherChunk, way: Way, files: Files) -> Tensor:
        """(P, 3, H, W)."""
        with ExitStack() as joined:
            if REFADGEN in files:
                seen = self.refadgens.seeing(files[REFADGEN], chunk.packshots, chunk.drawn.product, way.scale)
                joined.enter_context(seen)
            if STRICT_ID in files:
                companions = [scene.companion for scene in chunk.told if scene.companion is not None]
                poses, shown = self.strict_ids.poses(companions), chunk.appearance(Picture.ANOTHER)
                given = hint_of(chunk.drawn, chunk.told), poses, self.strict_ids.appearances(shown)
                joined.enter_context(self.strict_ids.controlled(files[STRICT_ID], *given, guided=True))
            latents = sample_latents(
                self.models.unet,
                stack.new_scheduler(),
                chunk.noise,
                text=self.models.encode_text([caption(scene.alone(), wall=False) for scene in chunk.scenes]),
                negative_text=self.models.encode_text([""]),
                guidance_scale=TEXT_GUIDANCE,
                steps=self.steps,
                image_size=(stack.IMAGE_SIZE, stack.IMAGE_SIZE),
                image_prompts=self._prompts(chunk, files),
            )
        return self.models.autoencoder.decode(latents).float().clamp(0, 1)

    @torch.no_grad()
    def measure(self, chunk: TogetherChunk, _way: Way, image: Tensor) -> dict[str, Tensor]:
        """Of each scene."""
        values = product_values(self.models.judge, image, chunk.scenes, chunk.drawn, chunk.empty, chunk.views)
        read = self.models.judge.read(image)
        small = F.interpolate(image, (RULER_SIZE, RULER_SIZE), mode="area")
        return {
            "wall": (read["wall_color"] == labels(chunk.others)["wall_color"]).double(),
            "table": (read["table"] == labels(chunk.scenes)["table"]).double(),
            **{name: values[name] for name in ("label", "body", "overlap")},
            **companion_right(chunk, ASKED, small),
        }

    def _prompts(self, chunk: TogetherChunk, files: Files) -> list[ImagePrompt]:
        """MEPA's: the region is the image's alone."""
        if MEPA not in files:
            return []
        shown, control = chunk.appearance(Picture.ANOTHER), PromptControl(text_share=0.0)
        visible = (shown.product == 0) & (shown.companion == 0)
        return [self.prompts.of(files[MEPA], channels_first(shown.image), visible, control, chunk.wall_region)]


PLAN = Plan(
    name="neighbours_together",
    title="All three in one sampling",
    about=ABOUT,
    tables=(Table("together", "Who carries what", "Each alone, each two, and all.", WAYS, tuple(MEASURES)),),
    measures=MEASURES,
    claims=CLAIMS,
    chosen_by="wall",
    maker=TogetherMaker,
    images_of=lambda _way: 1,
    in_common=in_common,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    run_plans((PLAN,), __doc__, arguments)


if __name__ == "__main__":
    main()
