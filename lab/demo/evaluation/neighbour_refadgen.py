"""Measures on held-out scenes what RefAdGen, trained on the demo, keeps of a product and of a text.

    python -m lab.demo.evaluation.neighbour_refadgen --models FOLDER --out FOLDER [--pairs 100] [--many 500]
        [--development 40] [--weights FOLDER] [--judge FILE] [--steps 12] [--batch 20] [--precision bfloat16] [--only TABLE]
        [--report-only | --count]

--models holds what `train_refadgen` and `train_adapters --adapter ipadapter_c16` wrote, {family}_seed{n}.safetensors. FOLDER
receives neighbour_refadgen.md and .json; what is stored in it is not made again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import torch
from torch import Tensor

from pfv_core.attention.control import PromptControl

from ...diffusers.sample import ImagePrompt, sample_latents
from ...evaluation.rim import ring_psnr
from ...train.augment import Degradation, degrade
from ...train.data import seeded
from .. import stack
from ..captions import caption
from ..splits import Split
from ..studio.beside import packshot_of
from ..studio.render import GROUND, Rendered, render, render_alone
from ..studio.scene import MARKS, Scene, labels, sample_pair
from ..train_refadgen import cut_out
from .chunk import channels_first, noise_of
from .conditions import TEXT_GUIDANCE
from .engines import Prompts, RefAdGens
from .judge import Judge
from .models import Models
from .neighbour_plan import Claim, Column, Derived, Files, Plan, Table, Way
from .neighbours import run_plans
from .pairs import product_of, wall_of
from .rulers import LabelView, body_color_error, label_views, product_overlap, read_mark


class Engine(str, Enum):
    """What puts the product into the picture: the TEXT alone, a depth CONTROLNET, an IP-Adapter's PROMPT, an UNTRAINED fusion,
    REFADGEN; or the picture is the true one, DECODED from its latents."""

    TEXT = "text"
    CONTROLNET = "controlnet"
    PROMPT = "prompt"
    UNTRAINED = "untrained"
    REFADGEN = "refadgen"
    DECODED = "decoded"


class Photo(str, Enum):
    """How the product is shown: its PACKSHOT, turned another way; that DEGRADED as `lab.train.augment` does; CUT_OUT of the true
    picture."""

    PACKSHOT = "packshot"
    DEGRADED = "degraded"
    CUT_OUT = "cut_out"


@dataclass(frozen=True)
class How:
    """A way's settings.

    Attributes:
        engine, photo: see there.
        depth: with the depth ControlNet too, so that the product stands where it should.
        names_product: whether the text names the product's colour and shape, beside table and wall.
    """

    engine: Engine
    photo: Photo = Photo.PACKSHOT
    depth: bool = False
    names_product: bool = True

    @property
    def takes_controlnet(self) -> bool:
        """Whether the depth ControlNet is in it, alone or beside something else."""
        return self.depth or self.engine is Engine.CONTROLNET


SCALES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
BLENDS = (0.1, 0.2, 0.35, 0.5, 0.75)  # more than 1 cannot be blended
STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5)
LAMBDAS = (0.0, 0.25, 0.5, 0.7, 1.0, 1.25, 1.5)
IP_ADAPTER = "ipadapter_c16"
VARIANTS = {
    "whole": "RefAdGen",
    "no_mask_channel": "RefAdGen without the mask's channel",
    "no_augmentation": "RefAdGen without augmentation",
}
PHOTOS = {
    Photo.CUT_OUT: "cut out of the true picture",
    Photo.PACKSHOT: "a packshot",
    Photo.DEGRADED: "a degraded packshot",
}


def _refadgen(
    variant: str = "whole", photo: Photo = Photo.PACKSHOT, names_product: bool = True, depth: bool = False
) -> Way:
    words = ("_depth" if depth else "") + ("" if names_product else "_unnamed")
    label = f"{VARIANTS[variant]}{' with depth' if depth else ''}, {PHOTOS[photo]}"
    label += "" if names_product else ", not named"
    how = How(Engine.REFADGEN, photo, depth, names_product)
    return Way(f"refadgen_{variant}_{photo.value}{words}", label, how, (f"refadgen_{variant}",))


def _rivals(names_product: bool) -> tuple[Way, ...]:
    words, label = ("", "") if names_product else ("_unnamed", ", not named")

    def how(engine: Engine, depth: bool = False) -> How:
        return How(engine, depth=depth, names_product=names_product)

    return (
        Way(f"controlnet{words}", f"depth ControlNet{label}", how(Engine.CONTROLNET), scales=STRENGTHS),
        Way(
            f"prompt_depth{words}",
            f"IP-Adapter with depth{label}",
            how(Engine.PROMPT, True),
            (IP_ADAPTER,),
            scales=SCALES,
        ),
        Way(
            f"untrained_depth{words}", f"untrained fusion with depth{label}", how(Engine.UNTRAINED, True), scales=BLENDS
        ),
    )


DECODED = Way("decoded", "the true picture through the autoencoder", How(Engine.DECODED))
TEXT = Way("text", "text alone", How(Engine.TEXT))
PROMPT = Way("prompt", "IP-Adapter", How(Engine.PROMPT), (IP_ADAPTER,), scales=SCALES)
AT_LAMBDA = tuple(
    Way(
        f"refadgen_whole_unnamed_lambda_{scale:g}",
        f"lambda {scale:g}",
        How(Engine.REFADGEN, names_product=False),
        ("refadgen_whole",),
        scale,
    )
    for scale in LAMBDAS
)
IDENTITY = ("mark", "label", "color", "shape", "body")
COLUMNS = (*IDENTITY, "text", "overlap", "ring")
UNNAMED = Table(
    "unnamed",
    "Where the text does not name the product",
    "The text names table and wall: what the product is, the photo alone says.",
    (*_rivals(False), _refadgen(names_product=False), _refadgen(names_product=False, depth=True)),
    COLUMNS,
)
MAIN = Table(
    "main",
    "Against the rivals",
    "The text names product, table and wall. Each rival at the strength that did best on the development scenes.",
    (DECODED, TEXT, PROMPT, *_rivals(True), _refadgen(), _refadgen(depth=True)),
    COLUMNS,
)
LAMBDA = Table("lambda", "Lambda", "The paper's figure 8. The text names table and wall alone.", AT_LAMBDA, COLUMNS)
TABLES = (
    MAIN,
    MAIN.of_many(),
    UNNAMED,
    UNNAMED.of_many(),
    Table(
        "parts",
        "Without the mask's channel, without augmentation",
        "The paper's table 4, on photos cut out of the true picture, turned another way, and degraded too.",
        tuple(_refadgen(variant, photo) for variant in VARIANTS for photo in PHOTOS),
        COLUMNS,
    ),
    LAMBDA,
    LAMBDA.of_many(),
)
MEASURES = {
    "mark": Column("mark on the label right", "higher", is_rate=True, read_of=("product",)),
    "label": Column("likeness of the label", "higher", read_of=("product",)),
    "color": Column("product colour right", "higher", is_rate=True, read_of=("product",)),
    "shape": Column("shape right", "higher", is_rate=True, read_of=("product",)),
    "body": Column("colour of the body, RGB distance", "lower", read_of=("product",)),
    "text": Column("table, wall and pattern as the text says", "higher", read_of=("wall",)),
    "overlap": Column("drawn product in the mask, IoU", "higher", read_of=("product",)),
    "ring": Column("dB in the ring, plain walls", "higher", digits=1, read_of=("product",)),
    "kept": Column("colour, shape and text right", "higher", read_of=("product", "wall")),
}
_WHOLE, _UNNAMED = _refadgen().name, _refadgen(names_product=False).name
_WITH_DEPTH, _UNNAMED_WITH_DEPTH = _refadgen(depth=True).name, _refadgen(names_product=False, depth=True).name


def _at_lambdas(text: str, table: str, measure: str, more: float, less: float) -> Claim:
    ways = {way.scale: way.name for way in AT_LAMBDA}
    return Claim(text, table, measure, ways[more], ways[less])


def _variant(variant: str, photo: Photo) -> str:
    return _refadgen(variant, photo).name


CLAIMS = (
    Claim("RefAdGen keeps more of the label than a ControlNet", "main", "label", _WHOLE, "controlnet"),
    Claim("RefAdGen keeps more of the label than an IP-Adapter", "main", "label", _WHOLE, "prompt_depth"),
    Claim("RefAdGen keeps more of the label than an untrained fusion", "main", "label", _WHOLE, "untrained_depth"),
    Claim("On many scenes it keeps more of it than a ControlNet", "main_many", "label", _WHOLE, "controlnet"),
    Claim("On many scenes it keeps more of it than an IP-Adapter", "main_many", "label", _WHOLE, "prompt_depth"),
    Claim(
        "On many scenes it keeps more of it than an untrained fusion", "main_many", "label", _WHOLE, "untrained_depth"
    ),
    Claim(
        "Beside a depth ControlNet it keeps more of it than that alone", "main_many", "label", _WITH_DEPTH, "controlnet"
    ),
    Claim("RefAdGen keeps more of the text than an IP-Adapter", "main", "text", _WHOLE, "prompt_depth"),
    Claim(
        "The mask's channel puts the product in its place",
        "parts",
        "overlap",
        _variant("whole", Photo.PACKSHOT),
        _variant("no_mask_channel", Photo.PACKSHOT),
    ),
    Claim(
        "Augmentation helps on degraded packshots",
        "parts",
        "label",
        _variant("whole", Photo.DEGRADED),
        _variant("no_augmentation", Photo.DEGRADED),
    ),
    Claim(
        "The mask's channel keeps more of the label",
        "parts",
        "label",
        _variant("whole", Photo.PACKSHOT),
        _variant("no_mask_channel", Photo.PACKSHOT),
    ),
    Claim(
        "Augmentation keeps more of the label on turned packshots",
        "parts",
        "label",
        _variant("whole", Photo.PACKSHOT),
        _variant("no_augmentation", Photo.PACKSHOT),
    ),
    Claim(
        "RefAdGen brings more of an unnamed product's colour than a ControlNet",
        "unnamed",
        "color",
        _UNNAMED,
        "controlnet_unnamed",
    ),
    Claim("RefAdGen brings more of it than an IP-Adapter", "unnamed", "color", _UNNAMED, "prompt_depth_unnamed"),
    Claim(
        "RefAdGen brings more of it than an untrained fusion", "unnamed", "color", _UNNAMED, "untrained_depth_unnamed"
    ),
    Claim(
        "On many scenes it brings more of it than an untrained fusion",
        "unnamed_many",
        "color",
        _UNNAMED,
        "untrained_depth_unnamed",
    ),
    Claim(
        "On many scenes it brings more of it than an IP-Adapter",
        "unnamed_many",
        "color",
        _UNNAMED,
        "prompt_depth_unnamed",
    ),
    Claim(
        "Beside a depth ControlNet it brings more of it than an IP-Adapter does there",
        "unnamed_many",
        "color",
        _UNNAMED_WITH_DEPTH,
        "prompt_depth_unnamed",
    ),
    _at_lambdas("Lambda 1 brings more of it than 0.5", "lambda", "color", 1, 0.5),
    _at_lambdas("Lambda 1 brings more of it than 0.7", "lambda", "color", 1, 0.7),
    _at_lambdas("Lambda 1 keeps more of the label than 0.5", "lambda", "label", 1, 0.5),
    _at_lambdas("Lambda 1.5 keeps more of the label than 1", "lambda", "label", 1.5, 1),
    _at_lambdas("On many scenes lambda 1 brings more of it than 0.5", "lambda_many", "color", 1, 0.5),
    _at_lambdas("On many scenes lambda 1 brings more of it than 0.7", "lambda_many", "color", 1, 0.7),
    _at_lambdas("On many scenes lambda 1 keeps more of the label than 0.7", "lambda_many", "label", 1, 0.7),
    _at_lambdas("On many scenes lambda 1 keeps more of the label than 0.5", "lambda_many", "label", 1, 0.5),
    _at_lambdas("On many scenes lambda 1.5 keeps more of the label than 1", "lambda_many", "label", 1.5, 1),
)
ABOUT = """\
A held-out product stands alone on a table before a wall; combinations of its colour and shape, and of the wall's colour and
pattern, are none that a training on such scenes saw. Its photo is a packshot, turned another way, in other light, on grey. The
mark is read without a network: which mark, turned which way, fits best where the label is; the first row says how well that
reads true pictures. Colour, shape, table, wall and pattern are read by the judge. The drawn product in the mask is where the
picture looks more like the product than like the empty scene. A fusion joins everywhere in the picture, as the paper's does;
the nodes can keep it in a mask. The decibels are of plain walls alone. A rival's strength is chosen by colour and shape of the
product (one half) and what the text says (the other), not by the label; where the text names the product nearly all strengths do
well by that. The IP-Adapter was trained on whole scenes: a packshot is foreign to it. Of the mask the paper writes that it is
extracted from the product image; here it is where the product shall stand in the ad."""


class ProductChunk:
    """Held-out scenes and their products' photos."""

    def __init__(self, split: Split, start: int, count: int) -> None:
        self.seeds = range(start, start + count)
        self.scenes: list[Scene] = [sample_pair(seed, split)[0] for seed in self.seeds]

    @cached_property
    def noise(self) -> Tensor:
        """(P, 4, h, w), of each scene its own."""
        return noise_of(self.seeds)

    @cached_property
    def drawn(self) -> Rendered:
        """The true pictures."""
        return render(self.scenes, stack.IMAGE_SIZE)

    @cached_property
    def empty(self) -> Tensor:
        """(P, 3, H, W), without the products."""
        return channels_first(render(self.scenes, stack.IMAGE_SIZE, product=False).image)

    @cached_property
    def packshots(self) -> Tensor:
        """(P, 3, H, W)."""
        return packshots(self.scenes, self.seeds)

    @cached_property
    def views(self) -> list[list[LabelView]]:
        """Of each scene's label."""
        return [label_views(scene, stack.IMAGE_SIZE) for scene in self.scenes]

    def photos(self, photo: Photo) -> Tensor:
        """(P, 3, H, W)."""
        match photo:
            case Photo.CUT_OUT:
                return cut_out(channels_first(self.drawn.image), self.drawn.product)
            case Photo.PACKSHOT:
                return self.packshots
            case Photo.DEGRADED:
                everything = torch.ones(self.packshots.shape[2:], dtype=torch.bool)
                pairs = zip(self.packshots, self.seeds, strict=True)
                parts = [degrade(one, everything, Degradation(), seeded(seed, 0, "degraded")) for one, seed in pairs]
                return torch.stack([image for image, _ in parts])


class RefAdGenMaker:
    """Makes and measures; see `neighbour_plan.Maker`."""

    def __init__(self, models: Models, steps: int) -> None:
        self.models, self.steps = models, steps
        self.prompts, self.refadgens = Prompts(models), RefAdGens(models)

    def chunk(self, split: Split, start: int, count: int) -> ProductChunk:
        """Scenes from `start` on."""
        return ProductChunk(split, start, count)

    @torch.no_grad()
    def make(self, chunk: ProductChunk, way: Way, files: Files) -> Tensor:
        """(P, 3, H, W)."""
        how: How = way.how
        if how.engine is Engine.DECODED:
            true = channels_first(chunk.drawn.image)
            return self.models.autoencoder.decode(self.models.autoencoder.encode(true)).clamp(0, 1)
        with self._seeing(chunk, way, files):
            latents = sample_latents(
                self.models.unet,
                stack.new_scheduler(),
                chunk.noise,
                text=self.models.encode_text([caption(scene, product=how.names_product) for scene in chunk.scenes]),
                negative_text=self.models.encode_text([""]),
                guidance_scale=TEXT_GUIDANCE,
                steps=self.steps,
                image_size=(stack.IMAGE_SIZE, stack.IMAGE_SIZE),
                image_prompts=self._prompts(chunk, way, files),
                controlnet=self.models.controlnet if how.takes_controlnet else None,
                depth=chunk.drawn.depth.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
                if how.takes_controlnet
                else None,
                control_strength=way.scale if how.engine is Engine.CONTROLNET else 1.0,
            )
        return self.models.autoencoder.decode(latents).float().clamp(0, 1)

    @torch.no_grad()
    def measure(self, chunk: ProductChunk, way: Way, image: Tensor) -> dict[str, Tensor]:
        """Of each scene."""
        values = product_values(self.models.judge, image, chunk.scenes, chunk.drawn, chunk.empty, chunk.views)
        plain = torch.tensor([scene.pattern == "plain" for scene in chunk.scenes])
        ring = ring_psnr(image, channels_first(chunk.drawn.image), chunk.drawn.product)
        return values | {"ring": torch.where(plain, ring, torch.nan)}

    def _seeing(self, chunk: ProductChunk, way: Way, files: Files) -> AbstractContextManager[None]:
        """The U-Net sees the products, where the way has a fusion."""
        how: How = way.how
        if how.engine not in (Engine.REFADGEN, Engine.UNTRAINED):
            return nullcontext()
        file = next(iter(files.values()), None)
        return self.refadgens.seeing(file, chunk.photos(how.photo), chunk.drawn.product, way.scale)

    def _prompts(self, chunk: ProductChunk, way: Way, files: Files) -> list[ImagePrompt]:
        """An IP-Adapter's; with depth it rules where the product stands, without it in the whole frame."""
        how: How = way.how
        if how.engine is not Engine.PROMPT:
            return []
        photos, region = chunk.photos(how.photo), (chunk.drawn.product > 0).float() if how.depth else None
        everything = torch.ones(len(photos), *photos.shape[2:], dtype=torch.bool)
        return [self.prompts.of(files[IP_ADAPTER], photos, everything, PromptControl(way.scale), region)]


def packshots(scenes: Sequence[Scene], seeds: Sequence[int]) -> Tensor:
    """(P, 3, H, W), of each scene's product with a seed of its own."""
    shown = [packshot_of(scene, seed) for scene, seed in zip(scenes, seeds, strict=True)]
    return channels_first(render_alone(shown, stack.IMAGE_SIZE, GROUND))


def product_values(
    judge: Judge,
    image: Tensor,
    scenes: Sequence[Scene],
    drawn: Rendered,
    empty: Tensor,
    views: Sequence[Sequence[LabelView]],
) -> dict[str, Tensor]:
    """Of each picture, what of its scene's product and surroundings is right."""
    read = judge.read(image)
    right = {name: (read[name] == wanted).double() for name, wanted in labels(scenes).items()}
    marks = [read_mark(*parts) for parts in zip(image, views, strict=True)]
    wanted = [MARKS.index(scene.product.mark) for scene in scenes]
    return {
        "mark": torch.tensor([float(best == mark) for (best, _), mark in zip(marks, wanted, strict=True)]).double(),
        "label": torch.stack([fits[mark] for (_, fits), mark in zip(marks, wanted, strict=True)]),
        "color": right["product_color"],
        "shape": right["shape"],
        "body": body_color_error(image, drawn),
        "text": torch.stack([right[name] for name in ("table", "wall_color", "pattern")]).mean(0),
        "overlap": product_overlap(image, drawn, empty)[0],
    }


def in_common(split: Split, seeds: range) -> dict[str, list[Hashable]]:
    """Products and walls."""
    scenes = [sample_pair(seed, split)[0] for seed in seeds]
    return {"product": [product_of(scene) for scene in scenes], "wall": [wall_of(scene) for scene in scenes]}


PLAN = Plan(
    name="neighbour_refadgen",
    title="RefAdGen on the demo",
    about=ABOUT,
    tables=TABLES,
    measures=MEASURES,
    claims=CLAIMS,
    chosen_by="kept",
    maker=RefAdGenMaker,
    images_of=lambda way: 0 if way.how.engine is Engine.DECODED else 1,
    in_common=in_common,
    takes_controlnet=lambda way: way.how.takes_controlnet,
    derived={"kept": Derived(("color", "shape", "text"), lambda color, shape, text: ((color + shape) / 2 + text) / 2)},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    run_plans((PLAN,), __doc__, arguments)


if __name__ == "__main__":
    main()
