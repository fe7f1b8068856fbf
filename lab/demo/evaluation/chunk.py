"""Pairs of held-out scenes: what texts and references show, and what of them is wanted in a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from pfv_core.ad.composite import paste_back
from pfv_core.ad.depth import compose_depth
from pfv_core.reference.fit import Fit, fit_geometry
from pfv_core.reference.open_clip_vit import OPENAI_MEAN
from pfv_core.reference.patch_mask import PatchMask, rebinarize
from pfv_core.reference.vit import HideMode, ImageTokens, encode_image, encode_uncond

from ...evaluation.metrics import two_tones
from .. import stack
from .conditions import Area, Condition, Depth, Given, View, Words
from .models import Models
from .pairs import Rendered, Scene, Split, any_scene, caption, render, sample_pair

NOISE_SEED = 3_000_000_000  # beyond the scenes' seeds, below the 32 bits that torch reads of one
RELIT_SEED = 960_000_000  # of scenes whose light is taken
BLUR = 5 / 64  # of the image's side: sigma of what hides a product by blurring it
YARDSTICK_BLUR = 1 / 32  # sigma of a true picture that is mush
COMMON_WALL_SCENES, COMMON_WALL_GRID, COMMON_WALL_SHARE = 64, 64, 0.98
LEAST_COMMON_WALL = 0.05  # of the frame
UPPER = 0.28  # the upper part of the frame: mostly wall, but the product's top may be in it
FILLS: dict[View, Callable[[Tensor], Tensor]] = {
    View.BLURRED: lambda image: blurred(image, BLUR),
    View.BLACKED: torch.zeros_like,
    View.GREYED: lambda image: torch.tensor(OPENAI_MEAN).view(1, 3, 1, 1).expand_as(image),
}
TAKEN = {Given.LIGHT: ("light",), Given.GRAIN: ("grain",), Given.RELIT: ("light", "grain")}  # from another scene
PATCH_FILLS = {View.BLURRED_PATCHES: View.BLURRED, View.BLACKED_PATCHES: View.BLACKED, View.GREYED_PATCHES: View.GREYED}


class Chunk:
    """Pairs of scenes and what all conditions make of them."""

    def __init__(self, models: Models, start: int, count: int, split: Split = Split.TEST) -> None:
        self.models = models
        self.start = start
        self.pairs = [sample_pair(seed, split) for seed in range(start, start + count)]
        self._tokens: dict[View, ImageTokens] = {}

    @property
    def wanted(self) -> list[Scene]:
        """A of each pair: what the texts speak of."""
        return [first for first, _ in self.pairs]

    @property
    def references(self) -> list[Scene]:
        """B of each pair: what the references show."""
        return [second for _, second in self.pairs]

    @cached_property
    def noise(self) -> Tensor:
        """(B, 4, h, w), of each pair its own."""
        return noise_of(range(self.start, self.start + len(self.pairs)))

    @cached_property
    def wanted_drawn(self) -> Rendered:
        """A as drawn."""
        return render(self.wanted, stack.IMAGE_SIZE)

    @cached_property
    def reference_drawn(self) -> Rendered:
        """B as drawn."""
        return render(self.references, stack.IMAGE_SIZE)

    @cached_property
    def ad_drawn(self) -> Rendered:
        """A's product in B's surroundings, as drawn."""
        return render([second.with_product_of(first) for first, second in self.pairs], stack.IMAGE_SIZE)

    @cached_property
    def oracle(self) -> Tensor:
        """(B, 3, H, W), B without its product."""
        return channels_first(render(self.references, stack.IMAGE_SIZE, product=False).image)

    @cached_property
    def wall_region(self) -> Tensor:
        """(B, H, W) float, 1 = the wall of A without the box around its product."""
        product = self.wanted_drawn.product > 0
        box = product.any(2)[:, :, None] & product.any(1)[:, None, :]
        return ((self.wanted_drawn.wall > 0.5) & ~box).float()

    def region(self, area: Area) -> Tensor | None:
        """(B, H, W) float, 1 = the image prompt rules; None = the whole frame."""
        match area:
            case Area.FRAME:
                return None
            case Area.WALL:
                return self.wall_region
            case Area.AROUND:
                return (self.ad_drawn.product == 0).float()

    @cached_property
    def foreign(self) -> Tensor:
        """(B, 3) colour of B's product: the middle one of its pixels beside the label, channel by channel."""
        drawn = self.reference_drawn
        inside = (drawn.product == 1) & (drawn.label == 0)
        return torch.stack([image[mask].median(0).values for image, mask in zip(drawn.image, inside, strict=True)])

    @cached_property
    def wall_tones(self) -> tuple[Tensor, Tensor]:
        """(B, 2, 3) each: the tones of B's wall and of A's."""
        wall = common_wall(len(self.pairs))
        return two_tones(self.oracle, wall), two_tones(channels_first(self.wanted_drawn.image), wall)

    def truth(self, ad: bool) -> Rendered:
        """What is wanted."""
        return self.ad_drawn if ad else self.wanted_drawn

    def changed(self, ad: bool, given: Given) -> list[Scene]:
        """What is wanted, each in the light of another scene, or on another part of its table's material, or both."""
        others = [any_scene(RELIT_SEED + self.start + index) for index in range(len(self.pairs))]
        scenes = [second.with_product_of(first) if ad else first for first, second in self.pairs]
        return [
            replace(one, **{name: getattr(other, name) for name in TAKEN[given]})
            for one, other in zip(scenes, others, strict=True)
        ]

    def given(self, condition: Condition) -> Tensor:
        """(B, 3, H, W): the true picture as the condition gives it."""
        image = channels_first(self.truth(condition.ad).image)
        if condition.given is Given.BLURRED:
            return blurred(image, YARDSTICK_BLUR)
        if condition.given in TAKEN:
            return channels_first(render(self.changed(condition.ad, condition.given), stack.IMAGE_SIZE).image)
        return self.models.autoencoder.decode(self.models.autoencoder.encode(image)).clamp(0, 1)

    def pasted(self, image: Tensor) -> Tensor:
        """(B, 3, H, W): an ad, the product's own pixels put back over what was made of it."""
        drawn = self.ad_drawn
        return paste_back(image, channels_first(drawn.image), drawn.product, erode=0, feather=0)[0]

    def depth(self, depth: Depth) -> Tensor:
        """(B, 3, H, W), 1 = near: the ad's product before the reference's depth, as PFV Depth Compose has it."""
        product, foreign = self.ad_drawn.product > 0.5, self.reference_drawn.product > 0
        visible = ~foreign if depth is Depth.MASKED else torch.ones_like(foreign)
        planes = (rendered.depth.unsqueeze(1) for rendered in (self.ad_drawn, self.reference_drawn))
        own, behind = planes
        return compose_depth(own, product, behind, visible).expand(-1, 3, -1, -1).contiguous()

    def tokens(self, view: View) -> ImageTokens:
        """The references as the image encoder sees them."""
        if view not in self._tokens:
            image, patch_mask, mode = self.shown(view)
            self._tokens[view] = encode_image(self.models.vision, image, patch_mask, mode, self._uncond)
        return self._tokens[view]

    def shown(self, view: View) -> tuple[Tensor, PatchMask, HideMode]:
        """(B, 3, H, W) references in a view, what of them is visible, and how the rest is hidden."""
        drawn = self.reference_drawn
        image, product = channels_first(drawn.image), drawn.product > 0
        spec = self.models.vision.spec
        geometry = fit_geometry(stack.IMAGE_SIZE, stack.IMAGE_SIZE, spec.image_size, spec.patch_size, Fit.CROP)
        hidden, everything = rebinarize(~product, geometry), rebinarize(torch.ones_like(product), geometry)
        if view in (View.DROPPED, View.ZEROED):
            return image, hidden, HideMode.ZERO if view is View.ZEROED else HideMode.DROP
        if view in FILLS:
            image = torch.where(product[:, None], FILLS[view](image), image)
        elif view in PATCH_FILLS:
            image = torch.where(hidden.hidden_pixels()[:, None], FILLS[PATCH_FILLS[view]](image), image)
        elif view is View.ORACLE:
            image = self.oracle
        return image, everything, HideMode.DROP

    def captions(self, words: Words) -> list[str]:
        """The texts."""
        if words is Words.NOTHING:
            return [""] * len(self.pairs)
        table, wall = words is not Words.PRODUCT, words is Words.EVERYTHING
        return [caption(scene, table=table, wall=wall) for scene in self.wanted]

    @cached_property
    def _uncond(self) -> Tensor:
        return encode_uncond(self.models.vision)


def noise_of(seeds: Sequence[int]) -> Tensor:
    """(B, 4, h, w): the noise that the sampling of each scene begins with."""
    shape = (4, stack.LATENT_SIZE, stack.LATENT_SIZE)
    generators = [torch.Generator().manual_seed(NOISE_SEED + seed) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def common_wall(count: int) -> Tensor:
    """(B, H, W) bool: the part of the frame that is wall in nearly every scene there can be.

    Raises:
        ValueError: the scenes have next to no wall in common.
    """
    return _common_wall(stack.IMAGE_SIZE).expand(count, -1, -1)


@cache
def _common_wall(size: int) -> Tensor:
    scenes = [any_scene(seed) for seed in range(COMMON_WALL_SCENES)]
    parts = [render(part, COMMON_WALL_GRID).wall == 1 for part in _parts(scenes, 32)]
    common = torch.cat(parts).float().mean(0) >= COMMON_WALL_SHARE
    share = float(common.float().mean())
    if share < LEAST_COMMON_WALL:
        raise ValueError(
            f"{share:.1%} of the frame is wall in {COMMON_WALL_SHARE:.0%} of the scenes, expected {LEAST_COMMON_WALL:.0%} or "
            "more: colours of walls are read there"
        )
    return F.interpolate(common[None, None].float(), (size, size), mode="nearest")[0] == 1


def _parts(scenes: Sequence[Scene], size: int) -> list[Sequence[Scene]]:
    return [scenes[start : start + size] for start in range(0, len(scenes), size)]


def upper_part(count: int) -> Tensor:
    """(B, H, W) bool: the upper 28 % of the frame."""
    axis = (torch.arange(stack.IMAGE_SIZE) + 0.5) / stack.IMAGE_SIZE
    return (axis[:, None] < UPPER).expand(count, stack.IMAGE_SIZE, stack.IMAGE_SIZE)


def channels_first(image: Tensor) -> Tensor:
    """(B, H, W, 3) -> (B, 3, H, W)."""
    return image.permute(0, 3, 1, 2).contiguous()


def blurred(image: Tensor, share: float) -> Tensor:
    """Gaussian blur, the rim repeated; sigma is a share of the image's side."""
    sigma = share * image.shape[3]
    radius = round(2.5 * sigma)
    kernel = torch.exp(-((torch.arange(-radius, radius + 1) / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
