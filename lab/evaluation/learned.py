"""Scores of public networks: FID, KID, Inception score, CLIP score, LPIPS.

The arithmetic is torchmetrics' own, and the packages fetch their weights when they run. Where a package, its weights or
the network are absent the result says so; nothing is left out in silence and nothing falls over. The Inception network
comes with torch-fidelity, LPIPS with lpips; both need the torchvision of the torch that is installed, so they are no
requirement of this project: `pip install --no-deps torch-fidelity lpips` beside them.

Images are (B, 3, H, W) float, 0..1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 32
KID_SUBSET = 100
# What loading a package or fetching its weights raises: absent, broken, no network, no space, a file cut short.
_ABSENT = (ImportError, OSError, RuntimeError, ValueError, LookupError, AttributeError)

PerceptualMap = Callable[[Tensor, Tensor], Tensor]
"""Two (B, 3, H, W) images in 0..1 -> (B, H, W) distances, 0 = looks the same."""
Embed = Callable[[Any], Tensor]
"""Images (B, 3, H, W) in 0..1, or captions -> (B, D) embeddings."""


@dataclass(frozen=True)
class Score:
    """A number, or why there is none.

    Attributes:
        value: NaN where it was not computed.
        note: of what; or "not computed: " and why.
    """

    value: float
    note: str

    @property
    def computed(self) -> bool:
        """Whether there is a number."""
        return not math.isnan(self.value)


def not_computed(why: object) -> Score:
    """The score that there is none."""
    reason = " ".join(str(why).split())
    return Score(math.nan, f"not computed: {reason[:240]}")


def frechet_inception_distance(real: Tensor, made: Tensor, features: nn.Module | None = None) -> Score:
    """FID: |m_r - m_g|^2 + tr(S_r + S_g - 2 (S_r S_g)^1/2) of Inception features; 0 = the same Gaussian, lower is better.

    Args:
        real, made: images; thousands of each for a figure that others can compare, and its bias falls with their number.
        features: (B, 3, H, W) uint8 -> (B, D) in place of Inception's 2048 pooled features.
    """

    def compute() -> float:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(2048 if features is None else features).set_dtype(torch.float64)
        return float(_fed(metric, real, made).compute())

    return _score(compute, f"{len(made)} images against {len(real)}")


def kernel_inception_distance(
    real: Tensor, made: Tensor, features: nn.Module | None = None, subset: int = KID_SUBSET, seed: int = 0
) -> Score:
    """KID: unbiased squared MMD of Inception features with the kernel (x . y / D + 1)^3; 0 = the same, lower is better.

    Mean over random subsets; unlike FID's its bias does not depend on how many images there are.
    """

    def compute() -> float:
        from torchmetrics.image.kid import KernelInceptionDistance

        size = min(subset, len(real), len(made))
        metric = KernelInceptionDistance(2048 if features is None else features, subset_size=size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return float(_fed(metric, real, made).compute()[0])

    return _score(compute, f"{len(made)} images against {len(real)}, subsets of {min(subset, len(real), len(made))}")


def inception_score(made: Tensor, logits: nn.Module | None = None, splits: int = 1) -> Score:
    """IS: exp of the mean KL(p(y|x) || p(y)) of Inception's classes; 1 = all alike, up to the number of classes.

    Args:
        made: images.
        logits: (B, 3, H, W) uint8 -> (B, classes) in place of Inception's.
        splits: parts that it is averaged over.
    """

    def compute() -> float:
        from torchmetrics.image.inception import InceptionScore

        metric = InceptionScore("logits_unbiased" if logits is None else logits, splits=splits)
        for part in made.split(BATCH):
            metric.update(_bytes(part))
        return float(metric.compute()[0])

    return _score(compute, f"{len(made)} images")


def clip_score(images: Tensor, captions: list[str], embed_image: Embed, embed_text: Embed) -> Score:
    """100 * mean of max(cos(image, caption), 0): 0 (nothing in common) to 100; higher = the image shows what is said."""
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions: give one each")

    def compute() -> float:
        cosines = []
        for start in range(0, len(captions), BATCH):
            of_images = embed_image(images[start : start + BATCH]).double()
            of_captions = embed_text(captions[start : start + BATCH]).double()
            cosines.append(F.cosine_similarity(of_images, of_captions))
        return float(100 * torch.cat(cosines).clamp_min(0).mean())

    return _score(compute, f"{len(images)} images")


def clip_score_of_folder(images: Tensor, captions: list[str], folder: Path | None) -> Score:
    """`clip_score` with a transformers CLIP model that lies in a folder, processor included; none is fetched."""
    if folder is None:
        return not_computed("no CLIP model was given (--clip FOLDER)")
    try:
        from transformers import CLIPModel, CLIPProcessor

        model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except _ABSENT as error:
        return not_computed(error)

    def embed_image(part: Tensor) -> Tensor:
        pixels = processor(images=list(part.clamp(0, 1)), return_tensors="pt", do_rescale=False).pixel_values
        return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)

    def embed_text(part: list[str]) -> Tensor:
        tokens = processor(text=part, return_tensors="pt", padding=True, truncation=True)
        return model.text_projection(model.text_model(**tokens).pooler_output)

    with torch.no_grad():
        return clip_score(images, captions, embed_image, embed_text)


def lpips_map() -> PerceptualMap:
    """The per-pixel LPIPS of the lpips package (AlexNet); raises what loading it raises."""
    import lpips

    network = lpips.LPIPS(net="alex", spatial=True, verbose=False).eval().requires_grad_(False)

    def distance(first: Tensor, second: Tensor) -> Tensor:
        return network(first * 2 - 1, second * 2 - 1)[:, 0]

    return distance


def perceptual_distance(
    first: Tensor, second: Tensor, mask: Tensor | None = None, distance: PerceptualMap | None = None
) -> Score:
    """LPIPS between images, pair by pair, over everything or over a mask; 0 = looks the same, lower = more alike.

    Args:
        first, second: images.
        mask: (B, H, W) bool, True = counts. Outside it `second` is made equal to `first`, so that what differs there
            cannot reach in through the network's receptive field; then the map is averaged over the mask.
        distance: in place of LPIPS.
    """

    def compute() -> float:
        measure = distance or lpips_map()
        counts = torch.ones_like(first[:, 0], dtype=torch.bool) if mask is None else mask
        compared = torch.where(counts[:, None], second, first)
        total = 0.0
        for start in range(0, len(first), BATCH):
            rows = slice(start, start + BATCH)
            found = measure(first[rows], compared[rows]).double() * counts[rows]
            total += float((found.flatten(1).sum(1) / counts[rows].flatten(1).sum(1)).sum())
        return total / len(first)

    return _score(compute, f"{len(first)} pairs" + ("" if mask is None else ", masked"))


def quality_scores(real: Tensor, made: Tensor) -> Mapping[str, Score]:
    """FID, KID and IS of images against real ones."""
    return {
        "FID": frechet_inception_distance(real, made),
        "KID": kernel_inception_distance(real, made),
        "IS": inception_score(made),
    }


def _score(compute: Callable[[], float], note: str) -> Score:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # packages speak of memory and of versions here; what counts is raised
            value = compute()
    except _ABSENT as error:
        return not_computed(error)
    return not_computed("the result is not a number") if math.isnan(value) else Score(value, note)


def _fed(metric: Any, real: Tensor, made: Tensor) -> Any:
    for images, is_real in ((real, True), (made, False)):
        for part in images.split(BATCH):
            metric.update(_bytes(part), real=is_real)
    return metric


def _bytes(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
