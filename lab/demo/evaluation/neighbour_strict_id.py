"""Measures on held-out scenes what a Strictly-ID ControlNet, trained on the demo, obeys: scale, pose, appearance, text, outline.

    python -m lab.demo.evaluation.neighbour_strict_id --models FOLDER --out FOLDER [--pairs 100] [--development 40]
        [--weights FOLDER] [--judge FILE] [--steps 12] [--batch 20] [--precision bfloat16] [--only TABLE]
        [--report-only | --count]

--models holds what `train_strict_id` and `train_adapters --adapter ipadapter_c16` wrote, {family}_seed{n}.safetensors. FOLDER
receives neighbour_strict_id.md and .json; what is stored in it is not made again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pfv_core.attention.control import PromptControl
from pfv_core.region.distance import grow

from ...diffusers.sample import ImagePrompt, sample_latents
from .. import stack
from ..captions import caption
from ..splits import Split
from ..studio.beside import companion_rows
from ..studio.render import Rendered, render
from ..studio.scene import COMPANION_LOOKS, Companion, Scene, labels, sample_scene
from .chunk import channels_first, noise_of
from .conditions import TEXT_GUIDANCE
from .engines import Prompts, StrictIDs, hint_of
from .models import Models
from .neighbours import Claim, Column, Derived, Files, Plan, Table, Way, run_command
from .pairs import product_of, wall_of
from .rulers import companion_box, companion_mask, nearest, portrait, product_overlap, slope, top_row


class Engine(str, Enum):
    """What draws: a STRICT_ID ControlNet, a DEPTH ControlNet, an IP-Adapter's PROMPT, the TEXT alone; or the picture is the true
    one, DECODED from its latents, or the same WITHOUT its companion."""

    STRICT_ID = "strict_id"
    DEPTH = "depth"
    PROMPT = "prompt"
    TEXT = "text"
    DECODED = "decoded"
    WITHOUT = "without"

    @property
    def samples(self) -> bool:
        """Whether pictures are drawn by it."""
        return self not in (Engine.DECODED, Engine.WITHOUT)


class Picture(str, Enum):
    """Of the appearance: NONE, the scene's OWN with its companion upright and of middle height, or ANOTHER scene, with another
    companion, wall and table. Where it is not the scene's own, the companion that is asked looks like the other one's."""

    NONE = "none"
    OWN = "own"
    ANOTHER = "another"


@dataclass(frozen=True)
class How:
    """A way's settings.

    Attributes:
        engine, picture: see there.
        heights: that the companion is asked in, one after the other; empty = its own.
        leans: likewise, radians.
        tells_scale: False = the scale map is that of the middle height, whatever is asked.
        tells_pose: False = without the pose's picture.
        guided: the pictures count in the positive alone, so that guidance strengthens them too.
        std_norm, gamma: how the appearance is balanced while sampling; None = as the file says.
    """

    engine: Engine
    picture: Picture = Picture.NONE
    heights: tuple[float, ...] = ()
    leans: tuple[float, ...] = ()
    tells_scale: bool = True
    tells_pose: bool = True
    guided: bool = False
    std_norm: bool | None = None
    gamma: float | None = None


HEIGHTS = (0.75, 0.95, 1.15, 1.35)  # all that companions have
MIDDLE_HEIGHT = 1.05
LEANS = (-0.2, 0.0, 0.2)
GAMMAS = (100.0, 200.0, 400.0, 600.0, 800.0)
GAMMA = 400.0  # the paper's
SCALES = (0.25, 0.5, 0.75, 1.0, 1.5)
STRENGTHS = (1.0, 1.5, 2.0, 3.0)
IP_ADAPTER = "ipadapter_c16"
OURS = ("strict_id_no_balance",)  # what the pack brings
FARTHEST = 0.75  # of a companion to the side: from here on the picture's border cuts it
RULER_SIZE = 128  # rows and columns that companions are measured on
RULER_MISS = 4  # rows by which the ruler may miss the true picture's
LEAST_LEAN = 0.05  # columns for a row: by which the true pictures of two leans must differ
BESIDE = 3  # of these rows, around the product, are not looked at; and so many around a companion's box are
ONE_OF_EACH = [(kind, next(iter(looks))) for kind, looks in COMPANION_LOOKS.items()]

DECODED = How(Engine.DECODED)
OWN, ANOTHER = How(Engine.STRICT_ID, Picture.OWN), How(Engine.STRICT_ID, Picture.ANOTHER)
GUIDED = replace(ANOTHER, guided=True)

SCALE = Table(
    "scale",
    "Scale asked and scale drawn",
    "The same companion in four heights, at the same place. Its foot stays where it is: its first row says how high it is.",
    (
        Way("scale_decoded", "the true pictures through the autoencoder", replace(DECODED, heights=HEIGHTS)),
        Way("scale", "Strictly-ID", replace(OWN, heights=HEIGHTS), OURS),
        Way("scale_untold", "the same scale map for all", replace(OWN, heights=HEIGHTS, tells_scale=False), OURS),
    ),
    ("scale_slope", "scale_error", "found"),
)
PASTE = Table(
    "paste",
    "Under the paste",
    "How well what is drawn of the product agrees with what is pasted over it.",
    (
        Way("paste_decoded", "the true pictures through the autoencoder", replace(DECODED, picture=Picture.OWN)),
        Way("text", "text alone", How(Engine.TEXT)),
        Way("depth", "depth ControlNet", How(Engine.DEPTH)),
        Way("paste", "Strictly-ID", OWN, OURS),
    ),
    ("overlap", "rim", "text"),
)
TABLES = (
    SCALE,
    SCALE.of_many(),
    Table(
        "pose",
        "Pose",
        "The same companion leaning to the left, upright, and to the right: which of the three true pictures leans most like the "
        "drawn one.",
        (
            Way("pose_decoded", "the true pictures through the autoencoder", replace(DECODED, leans=LEANS)),
            Way("pose", "Strictly-ID", replace(OWN, leans=LEANS), OURS),
            Way("pose_guided", "guidance on the pictures too", replace(OWN, leans=LEANS, guided=True), OURS),
            Way("pose_untold", "without the pose", replace(OWN, leans=LEANS, tells_pose=False), OURS),
        ),
        ("pose_right", "pose_slope", "found"),
    ),
    Table(
        "balance",
        "Appearance against the text",
        "The paper's table 6. The text names product, table and wall; the picture shows another companion on another table "
        "before another wall. The file was trained with neither STD-Norm nor time weighting; what was trained with them has rows "
        "of its own, of 2,400 steps and one training. The paper gives the pictures to positive and negative alike.",
        (
            Way(
                "conflict_decoded",
                "the true pictures through the autoencoder",
                replace(DECODED, picture=Picture.ANOTHER),
            ),
            Way(
                "conflict_without",
                "the same without their companions: nothing to be found",
                How(Engine.WITHOUT, Picture.ANOTHER),
            ),
            Way("no_appearance", "Strictly-ID without an appearance", How(Engine.STRICT_ID), OURS),
            Way("conflict", "Strictly-ID", ANOTHER, OURS),
            Way("guided", "guidance on the pictures too", GUIDED, OURS),
            Way("guided_best", "guidance on the pictures too, best strength", GUIDED, OURS, scales=STRENGTHS),
            Way("guided_std_norm", "the same with STD-Norm", replace(GUIDED, std_norm=True), OURS),
            Way("guided_time", "the same with time weighting", replace(GUIDED, gamma=GAMMA), OURS),
            Way("guided_both", "the same with both", replace(GUIDED, std_norm=True, gamma=GAMMA), OURS),
            Way("trained_std_norm", "the same, trained with STD-Norm", GUIDED, ("strict_id_no_time_weighting",)),
            Way("trained_both", "the same, trained with both, as in the paper", GUIDED, ("strict_id_whole",)),
            Way("prompt", "IP-Adapter", How(Engine.PROMPT, Picture.ANOTHER), (IP_ADAPTER,), scales=SCALES),
        ),
        ("text", "companion", "both", "found"),
    ),
    Table(
        "gamma",
        "Gamma",
        "Guidance on the pictures too, with time weightings while sampling; the file was trained with none.",
        tuple(Way(f"gamma_{gamma:g}", f"gamma {gamma:g}", replace(GUIDED, gamma=gamma), OURS) for gamma in GAMMAS),
        ("text", "companion", "both", "found"),
    ),
    PASTE,
    PASTE.of_many(),
)
MEASURES = {
    "scale_slope": Column("height drawn for height asked, slope", "nearer to 1", read_of=("look",)),
    "scale_error": Column("error of the height, share of it", "lower", read_of=("look",)),
    "pose_right": Column("poses right, of three", "higher", read_of=("look",)),
    "pose_slope": Column("lean drawn for lean asked, slope", "nearer to 1", read_of=("look",)),
    "companion": Column("companion as in the picture, of nine", "higher", is_rate=True, read_of=("other look",)),
    "text": Column("table and wall as the text says", "higher", is_rate=True, read_of=("wall",)),
    "both": Column("both", "higher", is_rate=True, read_of=("wall", "other look")),
    "found": Column("companion found", "higher", read_of=("look",)),
    "overlap": Column("drawn product in the mask, IoU", "higher", read_of=("product",)),
    "rim": Column("colour of its rim, RGB distance", "lower", read_of=("product",)),
}
CLAIMS = (
    Claim(
        "The companion is drawn as high as it is asked, not by chance", "scale", "scale_slope", "scale", "scale_untold"
    ),
    Claim("So it is on many scenes", "scale_many", "scale_slope", "scale", "scale_untold"),
    Claim("It leans as it is asked, not by chance", "pose", "pose_right", "pose_guided", "pose_untold"),
    Claim("The further it is asked to lean the further it leans", "pose", "pose_slope", "pose_guided", "pose_untold"),
    Claim("So it does where the negative has the pose too", "pose", "pose_slope", "pose", "pose_untold"),
    Claim("It looks as in the picture, not by chance", "balance", "companion", "guided_best", "no_appearance"),
    Claim("So it does where the negative has the picture too", "balance", "companion", "conflict", "no_appearance"),
    Claim(
        "So it does where both balances were trained, as in the paper",
        "balance",
        "companion",
        "trained_both",
        "no_appearance",
    ),
    Claim("With time weighting more of the text is right than without", "balance", "text", "guided_time", "guided"),
    Claim("With STD-Norm more of the text is right than without", "balance", "text", "guided_std_norm", "guided"),
    Claim(
        "What is drawn has the product's outline more than a depth ControlNet's", "paste", "overlap", "paste", "depth"
    ),
    Claim("So it has on many scenes", "paste_many", "overlap", "paste", "depth"),
    Claim("An item's picture leaves less of a rim than its depth", "paste", "rim", "depth", "paste"),
    Claim("So it does on many scenes", "paste_many", "rim", "depth", "paste"),
)
ABOUT = """\
A held-out product stands beside a companion before a plain wall; its colour and shape are a combination that no training on
such scenes saw; plain walls of most colours are among those that it saw. The companion is what stands out from the wall, which
is a smooth surface fitted to the rest; a shadow is a shade of the wall and does not count. No network reads it: a lean is
compared with the same ruler's readings of three true pictures, a look with nine true portraits. Where the ruler does not find a
true picture's companion in its rows, the scene counts for no measure of companions; leans count where the true pictures of two
leans differ enough for it. It takes for a companion what stands out, outside the true product's place, where a companion of any
kind would be seen that is as high and leans as it is asked; what is drawn elsewhere counts for nothing, a product that is drawn
there counts as a companion, seldom as the right one. Table and wall are read by the judge."""


class CompanionChunk:
    """Held-out scenes with a companion before a plain wall, and another one beside each."""

    def __init__(self, split: Split, start: int, count: int) -> None:
        self.seeds = range(start, start + count)
        self.scenes: list[Scene] = []
        self.others: list[Scene] = []
        self._true_masks: dict[Any, list[list[Tensor | None]]] = {}
        self._boxes: dict[Any, Tensor] = {}
        for seed in self.seeds:
            found = _scenes(seed, split)
            scene = next(found)
            self.scenes.append(scene)
            self.others.append(next(one for one in found if _differs(one, scene)))

    @cached_property
    def noise(self) -> Tensor:
        """(P, 4, h, w), of each scene its own."""
        return noise_of(self.seeds)

    @cached_property
    def drawn(self) -> Rendered:
        """The products without companions."""
        return render([scene.alone() for scene in self.scenes], stack.IMAGE_SIZE)

    @cached_property
    def empty(self) -> Tensor:
        """(P, 3, H, W), without products too."""
        return channels_first(render([scene.alone() for scene in self.scenes], stack.IMAGE_SIZE, product=False).image)

    @cached_property
    def wall(self) -> Tensor:
        """(P, R, R) bool: where the ruler looks: the wall, but for what is near the product."""
        small = render([scene.alone() for scene in self.scenes], RULER_SIZE)
        return (small.wall == 1) & ~grow(small.product > 0, BESIDE)

    def asked(self, how: How) -> list[list[Scene]]:
        """What is wanted: a list of all scenes for each height or lean."""
        if how.heights:
            return [[with_companion(scene, height=height) for scene in self.scenes] for height in how.heights]
        if how.leans:
            return [[with_companion(scene, lean=lean) for scene in self.scenes] for lean in how.leans]
        if how.picture is not Picture.OWN:
            pairs = zip(self.scenes, self.others, strict=True)
            return [[_looking_like(scene, other.companion) for scene, other in pairs]]
        return [self.scenes]

    def appearance(self, picture: Picture) -> Rendered:
        """The appearance's pictures."""
        return self._another if picture is Picture.ANOTHER else self._own

    @cached_property
    def _another(self) -> Rendered:
        return render(self.others, stack.IMAGE_SIZE)

    @cached_property
    def _own(self) -> Rendered:
        return render(
            [with_companion(scene, height=MIDDLE_HEIGHT, lean=0.0) for scene in self.scenes], stack.IMAGE_SIZE
        )

    def boxes(self, how: How) -> Tensor:
        """(P, R, R) bool: where a companion of any kind would be seen that is as high and leans as it is asked."""
        if (key := (how.heights, how.leans)) not in self._boxes:
            of_scenes = zip(*self.asked(how), strict=True)
            boxes = [
                companion_box([_looks(s, *look) for s in of for look in ONE_OF_EACH], RULER_SIZE) for of in of_scenes
            ]
            self._boxes[key] = grow(torch.stack(boxes), BESIDE)
        return self._boxes[key]

    def masks(self, images: Sequence[Tensor], how: How) -> list[list[Tensor | None]]:
        """Of each of several (P, 3, R, R) pictures, the companions that are found."""
        boxes = self.boxes(how)
        return [[companion_mask(*parts) for parts in zip(image, self.wall, boxes, strict=True)] for image in images]

    def true_masks(self, how: How) -> list[list[Tensor | None]]:
        """The companions that are found in the true pictures of what is asked; None where the ruler misses them."""
        known = how.heights, how.leans, how.picture is Picture.OWN
        if known not in self._true_masks:
            asked = self.asked(how)
            masks = self.masks([channels_first(render(scenes, RULER_SIZE).image) for scenes in asked], how)
            self._true_masks[known] = [
                [
                    mask if mask is not None and _meets(mask, one) else None
                    for mask, one in zip(row, scenes, strict=True)
                ]
                for row, scenes in zip(masks, asked, strict=True)
            ]
        return self._true_masks[known]

    @cached_property
    def portraits(self) -> list[list[Tensor | None]]:
        """Of each scene the nine that its companion could look like."""
        looks = [(kind, look) for kind, of_kind in COMPANION_LOOKS.items() for look in of_kind]
        known = []
        for scene, wall, box in zip(self.scenes, self.wall, self.boxes(DECODED), strict=True):
            drawn = channels_first(render([_looks(scene, *look) for look in looks], RULER_SIZE).image)
            masks = [companion_mask(image, wall, box) for image in drawn]
            known.append([None if m is None else portrait(i, m) for i, m in zip(drawn, masks, strict=True)])
        return known


def in_common(split: Split, seeds: range) -> dict[str, list[Hashable]]:
    """Product, wall and companion's look of each scene, and the other one's wall and look."""
    chunk = CompanionChunk(split, seeds.start, len(seeds))
    return {
        "product": [product_of(scene) for scene in chunk.scenes],
        "wall": [wall_of(scene) for scene in chunk.scenes],
        "look": [_look_of(scene) for scene in chunk.scenes],
        "other wall": [wall_of(scene) for scene in chunk.others],
        "other look": [_look_of(scene) for scene in chunk.others],
    }


def _look_of(scene: Scene) -> tuple[str, str]:
    assert scene.companion is not None
    return scene.companion.kind, scene.companion.look


def _scenes(seed: int, split: Split) -> Iterator[Scene]:
    """Scenes of a split that a seed leads to, with a companion that the border does not cut, before a plain wall."""
    number = 0
    while True:
        scene = sample_scene(seed * 1000 + number, split)
        number += 1
        if scene.companion is not None and abs(scene.companion.place[0]) < FARTHEST:
            yield replace(scene, pattern="plain")


def _differs(one: Scene, other: Scene) -> bool:
    kinds = [scene.companion.kind for scene in (one, other) if scene.companion is not None]
    return kinds[0] != kinds[1] and one.wall_color != other.wall_color and one.table != other.table


def with_companion(scene: Scene, height: float | None = None, lean: float | None = None) -> Scene:
    """A scene whose companion has another height or lean."""
    companion = scene.companion
    assert companion is not None
    height, lean = companion.height if height is None else height, companion.lean if lean is None else lean
    return replace(scene, companion=replace(companion, height=height, lean=lean))


def _looks(scene: Scene, kind: str, look: str) -> Scene:
    """A scene whose companion has a kind and a look."""
    assert scene.companion is not None
    companion = replace(scene.companion, kind=kind, look=look, rgb=COMPANION_LOOKS[kind][look])
    return replace(scene, companion=companion)


def _looking_like(scene: Scene, other: Companion | None) -> Scene:
    assert other is not None
    return _looks(scene, other.kind, other.look)


def _meets(mask: Tensor, scene: Scene) -> bool:
    rows = companion_rows(scene, RULER_SIZE)
    return rows is not None and abs(top_row(mask) - rows[0]) <= RULER_MISS


class StrictIDMaker:
    """Makes and measures; see `neighbours.Maker`."""

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
        return torch.cat([self._pictures(chunk, way, scenes, files) for scenes in chunk.asked(how)])

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
            values |= {"companion": _companion(chunk, how, pictures[0], drawn[0])}
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


def companion_right(chunk: CompanionChunk, how: How, pictures: Tensor) -> dict[str, Tensor]:
    """(P,) each, of (P, 3, R, R) pictures: whether a companion is found, and whether it is the one that is asked. NaN where the
    ruler does not find a true one."""
    (masks,), (true,) = chunk.masks([pictures], how), chunk.true_masks(how)
    values = {
        "found": torch.tensor([mask is not None for mask in masks]).double(),
        "companion": _companion(chunk, how, pictures, masks),
    }
    readable = torch.tensor([mask is not None for mask in true])
    return {name: torch.where(readable, value.double(), torch.nan) for name, value in values.items()}


def _companion(chunk: CompanionChunk, how: How, image: Tensor, masks: list[Tensor | None]) -> Tensor:
    """1 where the nearest portrait is that of the companion asked."""
    looks = [(kind, look) for kind, of_kind in COMPANION_LOOKS.items() for look in of_kind]
    shown = chunk.others if how.picture is not Picture.OWN else chunk.scenes
    wanted = [looks.index((one.companion.kind, one.companion.look)) for one in shown if one.companion is not None]
    read = [nearest(*parts) for parts in zip(image, masks, chunk.portraits, strict=True)]
    return torch.tensor([float(one == other) for one, other in zip(read, wanted, strict=True)])


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
    images_of=lambda way: 0 if not way.how.engine.samples else len(way.how.heights) or len(way.how.leans) or 1,
    in_common=in_common,
    takes_controlnet=lambda way: way.how.engine is Engine.DEPTH,
    derived={"both": Derived(("text", "companion"), lambda text, companion: text * companion)},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    run_command(PLAN, __doc__, arguments)


if __name__ == "__main__":
    main()
