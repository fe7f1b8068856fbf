"""Measures on held-out scenes what a Strictly-ID ControlNet, trained on the demo, obeys: scale, pose, appearance, text, outline.

    python -m lab.demo.evaluation.neighbour_strict_id --models FOLDER --out FOLDER [--pairs 100] [--many 500]
        [--development 40] [--weights FOLDER] [--judge FILE] [--steps 12] [--batch 20] [--precision bfloat16] [--only TABLE]
        [--report-only | --count]

--models holds what `train_strict_id` and `train_adapters --adapter ipadapter_c16` wrote, {family}_seed{n}.safetensors. FOLDER
receives neighbour_strict_id.md and .json; what is stored in it is not made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pfv_core.attention.control import PromptControl

from ...diffusers.sample import ImagePrompt, sample_latents
from .. import stack
from ..captions import caption
from ..splits import Split
from ..studio.beside import companion_rows
from ..studio.render import render
from ..studio.scene import Scene, labels
from .chunk import channels_first
from .companion_chunk import MIDDLE_HEIGHT, RULER_SIZE, CompanionChunk, in_common, looks_as_asked, with_companion
from .conditions import TEXT_GUIDANCE
from .engines import Prompts, StrictIDs, hint_of
from .models import Models
from .neighbour_plan import Derived, Files, Plan, Way
from .neighbours import run_plans
from .rulers import product_overlap, slope, top_row
from .strict_id_ways import CLAIMS, IP_ADAPTER, MEASURES, TABLES, Engine, How, Picture

LEAST_LEAN = 0.05  # columns for a row: by which the true pictures of two leans must differ
ABOUT = """\
A held-out product stands beside a companion before a plain wall; its colour and shape are a combination that no training on
such scenes saw; plain walls of most colours are among those that it saw. The companion is what stands out from the wall, which
is a smooth surface fitted to the rest; a shadow is a shade of the wall and does not count. No network reads it: a lean is
compared with the same ruler's readings of three true pictures, a look with nine true portraits. Where the ruler does not find a
true picture's companion in its rows, the scene counts for no measure of companions; leans count where the true pictures of two
leans differ enough for it. It takes for a companion what stands out, outside the true product's place, where a companion of any
kind would be seen that is as high and leans as it is asked; what is drawn elsewhere counts for nothing, a product that is drawn
there counts as a companion, seldom as the right one. Table and wall are read by the judge. Here the cut-out of the hint begins
where half of a pixel is the product's; in training and in the nodes it begins where a tenth is."""


class StrictIDMaker:
    """Makes and measures; see `neighbour_plan.Maker`."""

    def __init__(self, models: Models, steps: int) -> None:
        self.models, self.steps = models, steps
        self.prompts, self.strict_ids = Prompts(models), StrictIDs(models)

    def chunk(self, split: Split, start: int, count: int) -> CompanionChunk:
        """Scenes from `start` on."""
        return CompanionChunk(split, start, count)

    @torch.no_grad()
    def make(self, chunk: CompanionChunk, way: Way, files: Files) -> Tensor:
        """(P * n, 3, H, W): all scenes at the first height or lean, then all at the next."""
        how: How = way.how
        asked = chunk.asked(how)
        if how.drawn_once:
            return self._pictures(chunk, way, asked[0], files).repeat(len(asked), 1, 1, 1)
        return torch.cat([self._pictures(chunk, way, scenes, files) for scenes in asked])

    def _pictures(self, chunk: CompanionChunk, way: Way, scenes: list[Scene], files: Files) -> Tensor:
        how: How = way.how
        if not how.engine.samples:
            shown = scenes if how.engine is Engine.DECODED else [scene.alone() for scene in scenes]
            true = channels_first(render(shown, stack.IMAGE_SIZE).image)
            return self.models.autoencoder.decode(self.models.autoencoder.encode(true)).clamp(0, 1)
        depth = chunk.drawn.depth.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
        with self._controlled(chunk, way, scenes, files):
            latents = sample_latents(
                self.models.unet,
                stack.new_scheduler(),
                chunk.noise,
                text=self.models.encode_text([caption(scene.alone()) for scene in chunk.scenes]),
                negative_text=self.models.encode_text([""]),
                guidance_scale=TEXT_GUIDANCE,
                steps=self.steps,
                image_size=(stack.IMAGE_SIZE, stack.IMAGE_SIZE),
                image_prompts=self._prompts(chunk, way, files),
                controlnet=self.models.controlnet if how.engine is Engine.DEPTH else None,
                depth=depth if how.engine is Engine.DEPTH else None,
            )
        return self.models.autoencoder.decode(latents).float().clamp(0, 1)

    @torch.no_grad()
    def measure(self, chunk: CompanionChunk, way: Way, image: Tensor) -> dict[str, Tensor]:
        """Of each scene."""
        how: How = way.how
        pictures = F.interpolate(image, (RULER_SIZE, RULER_SIZE), mode="area").split(len(chunk.scenes))
        drawn, true = chunk.masks(pictures, how), chunk.true_masks(how)
        readable = [all(masks[number] is not None for masks in true) for number in range(len(chunk.scenes))]
        found = torch.tensor([[mask is not None for mask in masks] for masks in drawn]).double().mean(0)
        values = {"found": found}
        if how.heights:
            values |= self._scale(chunk, how, drawn)
        elif how.leans:
            values |= self._pose(how, drawn, true)
        else:
            values |= {"companion": looks_as_asked(chunk, how, pictures[0], drawn[0])}
        values = {name: torch.where(torch.tensor(readable), value, torch.nan) for name, value in values.items()}
        if how.heights or how.leans:
            return values
        read = self.models.judge.read(image)
        wanted = labels(chunk.scenes)
        text = torch.stack([read[name] == wanted[name] for name in ("table", "wall_color")]).all(0).double()
        overlap, rim = product_overlap(image, chunk.drawn, chunk.empty)
        return values | {"text": text, "overlap": overlap, "rim": rim}

    def _scale(self, chunk: CompanionChunk, how: How, drawn: list[list[Tensor | None]]) -> dict[str, Tensor]:
        """Heights drawn against heights asked, over those that were found."""
        slopes, errors = [], []
        for number in range(len(chunk.scenes)):
            asked, seen = [], []
            for scenes, masks in zip(chunk.asked(how), drawn, strict=True):
                rows, mask = companion_rows(scenes[number], RULER_SIZE), masks[number]
                if rows is not None and mask is not None:
                    asked.append(rows[1] - rows[0])
                    seen.append(rows[1] - top_row(mask))
            slopes.append(_slope(asked, seen))
            errors.append(np.mean([abs(s - a) / a for a, s in zip(asked, seen, strict=True)]) if asked else np.nan)
        return {"scale_slope": torch.tensor(slopes), "scale_error": torch.tensor(errors)}

    def _pose(self, how: How, drawn: list[list[Tensor | None]], true: list[list[Tensor | None]]) -> dict[str, Tensor]:
        """Which of the true leans is nearest to the one drawn; what was not found is not right. NaN where the ruler does not read
        of the true pictures that each leans LEAST_LEAN further than the one before."""
        rights, slopes = [], []
        for number in range(len(drawn[0])):
            known, seen = ([slope(masks[number]) for masks in of_all] for of_all in (true, drawn))
            if not (np.diff(known) >= LEAST_LEAN).all():
                rights.append(np.nan)
                slopes.append(np.nan)
                continue
            right = [
                not np.isnan(one) and int(np.argmin(np.abs(np.array(known) - one))) == place
                for place, one in enumerate(seen)
            ]
            rights.append(float(np.mean(right)))
            both = [(k, s) for k, s in zip(known, seen, strict=True) if not np.isnan(s)]
            slopes.append(_slope([k for k, _ in both], [s for _, s in both]))
        return {"pose_right": torch.tensor(rights), "pose_slope": torch.tensor(slopes)}

    def _controlled(
        self, chunk: CompanionChunk, way: Way, scenes: list[Scene], files: Files
    ) -> AbstractContextManager[None]:
        """The U-Net with a Strictly-ID ControlNet, where the way has one. The scale map has the rows of the companions that are
        asked; of leaning ones those that they have upright, so that the rows tell nothing of the pose."""
        how: How = way.how
        if how.engine is not Engine.STRICT_ID:
            return nullcontext()
        told = scenes if how.tells_scale else [with_companion(scene, height=MIDDLE_HEIGHT) for scene in scenes]
        told = [with_companion(scene, lean=0.0) for scene in told] if how.leans else told
        companions = [scene.companion for scene in scenes if scene.companion is not None]
        shown = None if how.picture is Picture.NONE else chunk.appearance(how.picture)
        return self.strict_ids.controlled(
            next(iter(files.values())),
            hint_of(chunk.drawn, told),
            self.strict_ids.poses(companions) if how.tells_pose else None,
            None if shown is None else self.strict_ids.appearances(shown),
            how.std_norm,
            how.gamma,
            how.guided,
            way.scale,
        )

    def _prompts(self, chunk: CompanionChunk, way: Way, files: Files) -> list[ImagePrompt]:
        """An IP-Adapter's, which sees the same pictures."""
        how: How = way.how
        if how.engine is not Engine.PROMPT:
            return []
        shown, control = chunk.appearance(how.picture), PromptControl(way.scale)
        return [self.prompts.of(files[IP_ADAPTER], channels_first(shown.image), shown.product == 0, control, None)]


def _slope(asked: Sequence[float], seen: Sequence[float]) -> float:
    """Of a straight line through what was seen for what was asked; NaN where one value was asked."""
    centred = np.asarray(asked, float) - np.mean(asked) if len(asked) else np.zeros(0)
    spread = float((centred**2).sum())
    return float((centred * np.asarray(seen, float)).sum()) / spread if spread > 0 else float("nan")


PLAN = Plan(
    name="neighbour_strict_id",
    title="Strictly-ID on the demo",
    about=ABOUT,
    tables=TABLES,
    measures=MEASURES,
    claims=CLAIMS,
    chosen_by="both",
    maker=StrictIDMaker,
    images_of=lambda way: way.how.pictures,
    in_common=in_common,
    takes_controlnet=lambda way: way.how.engine is Engine.DEPTH,
    derived={"both": Derived(("text", "companion"), lambda text, companion: text * companion)},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    run_plans((PLAN,), __doc__, arguments)


if __name__ == "__main__":
    main()
