"""The image encoder, by the share of patches that a mask leaves."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import models, peers
from .measure import Contestant, Figure, interleaved, ratio
from .workbench import Workbench

AT_MOST, STRETCH = 0.55, 0.50  # at a half of the patches
ROUNDS = 2  # an image takes seconds
GRID, PATCH = 16, 14
HOW = (
    "The host's CLIP vision model of ViT-H/14's layout (random weights), one 224 px reference of which whole rows of patches are "
    "hidden. float32: PFV Image Encode's work to the host's own `encode_image`; IPAdapter_plus multiplies the pixels, encodes "
    "all of them, and a black picture for the negative with each reference (ours encodes that once for each loaded encoder, "
    "not counted). bfloat16: the blocks alone, to all patches kept. *Products*: the same with nothing but one block's matrix "
    "products, its weights read from memory each time: what no implementation can be below."
)


def run(bench: Workbench) -> list[Figure]:
    """One table."""
    figure = Figure("encoder", "Image encoder", HOW)
    bench.forget_models()
    encoder = _float32_encoder(bench)
    with torch.inference_mode():
        _whole(bench, figure, encoder)
        encoder.model.to(torch.bfloat16)
        _blocks(bench, figure, encoder)
        for dtype in (torch.float32, torch.bfloat16):
            _products(bench, figure, encoder.model.to(dtype), dtype)
    return [figure]


def _whole(bench: Workbench, figure: Figure, encoder: Any) -> None:
    image = torch.rand(1, 224, 224, 3, generator=torch.Generator().manual_seed(8))
    contestants: dict[str, Contestant] = {
        "full": lambda: encoder.encode_image(image),
        "50 % kept, drop": ours(encoder, image, 50, "drop"),
    }
    if not bench.quick:
        contestants["50 % kept, zero"] = ours(encoder, image, 50, "zero")
    if (peer := bench.ip_adapter_plus) is not None:
        contestants[peers.IP_ADAPTER_PLUS] = lambda: peer.encode(encoder, image, keep_mask(50).float())
    contestants["50 % kept, drop"]()
    seconds = interleaved(contestants, min(bench.rounds, ROUNDS), bench.clock, warm_up=0)
    full = seconds.pop("full")
    for case, took in seconds.items():
        if case == peers.IP_ADAPTER_PLUS:
            figure.measured.append(ratio("float32, 50 % kept, zero", case, took, full))
        else:
            demanded = (AT_MOST, STRETCH) if case == "50 % kept, drop" else (None, None)
            figure.measured.append(ratio(f"float32, {case}", "ours", took, full, *demanded))


def _blocks(bench: Workbench, figure: Figure, encoder: Any) -> None:
    from pfv_mepa.nodes.host.vit import HostVit
    from pfv_mepa.pfv_core.reference.vit import encode_pixels

    vit = HostVit(encoder).load()
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(8)).to(bench.device, torch.bfloat16)

    def encode(share: int, drop: bool) -> Contestant:
        kept = keep_mask(share)[:, ::PATCH, ::PATCH].flatten(1)
        return lambda: encode_pixels(vit, pixels, kept, kept if drop else torch.ones_like(kept))

    contestants = {f"{share} % kept, drop": encode(share, True) for share in (100, 75, 50, 25)}
    contestants["50 % kept, zero"] = encode(50, False)
    seconds = interleaved(contestants, min(bench.rounds, 2 * ROUNDS), bench.clock)
    for case, took in seconds.items():
        demanded = (AT_MOST, STRETCH) if case == "50 % kept, drop" else (None, None)
        figure.measured.append(ratio(f"bfloat16, {case}", "ours", took, seconds["100 % kept, drop"], *demanded))


def _products(bench: Workbench, figure: Figure, model: Any, dtype: torch.dtype) -> None:
    layers = [layer.mlp for layer in model.vision_model.encoder.layers[:8]]
    weights = [(layer.fc1.weight, layer.fc2.weight) for layer in layers]

    def products(count: int) -> Contestant:
        tokens = torch.randn(1, count, models.VISION_WIDTH).to(bench.device, dtype)

        def one() -> None:
            for up, down in weights:
                F.linear(F.linear(tokens, up), down)

        return one

    seconds = interleaved({"half": products(129), "all": products(257)}, bench.rounds, bench.clock)
    name = str(dtype).removeprefix("torch.")
    figure.measured.append(ratio(f"{name}, 50 % kept, drop", "products", seconds["half"], seconds["all"]))


def ours(encoder: Any, image: Tensor, share: int, mode: str) -> Contestant:
    """PFV Image Encode without its cache."""
    from pfv_mepa.nodes.host.vit import HostVit
    from pfv_mepa.pfv_core.reference.fit import fit_geometry
    from pfv_mepa.pfv_core.reference.patch_mask import rebinarize
    from pfv_mepa.pfv_core.reference.vit import encode_image

    vit = HostVit(encoder).load()
    patch_mask = rebinarize(keep_mask(share), fit_geometry(224, 224, 224, PATCH, "pad"))
    uncond = torch.zeros(1, 1 + GRID * GRID, models.VISION_WIDTH)
    pixels = image.movedim(-1, 1)  # BHWC -> BCHW
    return lambda: encode_image(vit, pixels, patch_mask, mode, uncond)


def keep_mask(share: int) -> Tensor:
    """(1, 224, 224) bool, True = visible: the first rows of patches."""
    mask = torch.zeros(1, 224, 224, dtype=torch.bool)
    mask[:, : GRID * share // 100 * PATCH] = True
    return mask


def _float32_encoder(bench: Workbench) -> Any:
    """On a CPU the host keeps encoders in float16 and converts all of it at each use: a cost of the host, not of tokens."""
    from comfy.cli_args import args

    args.fp32_text_enc = True  # the option that rules vision encoders too
    try:
        return models.random_encoder(bench.host)
    finally:
        args.fp32_text_enc = False
