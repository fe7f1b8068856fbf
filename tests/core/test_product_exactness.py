"""500 random placements over all formats: inside the eroded mask the saved PNG holds the product's own pixels."""

from __future__ import annotations

import io
import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pfv_mepa.pfv_core.ad.canvas import AdCanvas
from pfv_mepa.pfv_core.ad.composite import Rim, paste_back
from pfv_mepa.pfv_core.ad.formats import FORMATS, SAMPLING_SCALES, AdFormat, ad_format
from pfv_mepa.pfv_core.ad.placement import Layout, Position, ScaleBy
from pfv_mepa.pfv_core.ad.shadow import add_contact_shadow

NUM_PLACEMENTS = 500
LARGE = [name for name in FORMATS if min(FORMATS[name]) > 600]  # a tenth of a second each: one placement in 14
SMALL = [name for name in FORMATS if name not in LARGE]
PHOTO = (90, 120)  # height, width: an "original" fits most formats


def photo_and_mask(seed: int) -> tuple[Tensor, Tensor]:
    """8-bit noise, and a lumpy product that on every other photo touches the border."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (1, 3, *PHOTO)).astype(np.float32) / 255
    y, x = np.mgrid[: PHOTO[0], : PHOTO[1]]
    center = (45, 60) if seed % 2 else (20, 100)
    radius = 38 + 5 * np.sin(5 * np.arctan2(y - center[0], x - center[1]) + seed)
    return torch.from_numpy(pixels), torch.from_numpy(np.hypot(y - center[0], x - center[1]) < radius)[None]


def random_canvas(choose: random.Random, mask: Tensor, number: int) -> AdCanvas:
    """A placement that fits; one that does not is drawn anew."""
    names = LARGE if number % 14 == 0 else SMALL
    name = names[number // 14 % len(LARGE) if names is LARGE else number % len(SMALL)]
    scale = "1" if choose.random() < 0.8 else str(choose.choice(SAMPLING_SCALES[4:10]))
    while True:
        layout = Layout(
            position=choose.choice(list(Position)),
            scale_by=choose.choice(list(ScaleBy)),
            share=choose.uniform(0.1, 1.0),
            margin=choose.choice([0.0, 0.0, 0.05]),
            safe_area=(0.0, choose.choice([0.0, 0.14]), 0.0, choose.choice([0.0, 0.2])),
            x=choose.random(),
            y=choose.random(),
        )
        try:
            return AdCanvas.plan(mask, ad_format(name, (1, 1), scale), layout)
        except ValueError:
            continue


def generated(frame: AdFormat, number: int) -> Tensor:
    """A picture as sampled, cheap to save; no value of it is a product's."""
    across = torch.linspace(0.1, 0.9, frame.sampling[1]) * 0.97 + 0.001 * (number % 7) + 0.0007
    return across.expand(1, 3, *frame.sampling)


def saved_and_read(image: Tensor) -> np.ndarray:
    """Bytes of a PNG and back, converted as the host's Save Image does."""
    pixels = (255.0 * image[0].movedim(0, -1).numpy()).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    with Image.open(io.BytesIO(file.getvalue())) as read:
        return np.asarray(read)


def eight_bits(image: Tensor, part: tuple[slice, slice]) -> np.ndarray:
    return (image[(slice(None), *part)].movedim(0, -1) * 255).round().numpy().astype(int)


def eroded(mask: Tensor, pixels: int) -> np.ndarray:
    """The mask's pixels all of whose neighbours within a disk of `pixels` are of the mask; the border is no rim."""
    inside, (height, width) = mask[0].numpy(), mask.shape[1:]
    padded, steps = np.pad(inside, pixels, constant_values=True), range(2 * pixels + 1)
    near = [(y, x) for y in steps for x in steps if (y - pixels) ** 2 + (x - pixels) ** 2 <= pixels**2]
    return np.logical_and.reduce([padded[y : y + height, x : x + width] for y, x in near])


def test_500_random_placements_are_exact_in_the_saved_png():
    choose = random.Random(0)
    formats, checked, worst, originals, at_border = set(), 0, 0, 0, 0
    for number in range(NUM_PLACEMENTS):
        photo, mask = photo_and_mask(number)
        canvas = random_canvas(choose, mask, number)
        placed, placed_mask = canvas.place(photo, choose.random())
        height, width = canvas.format.size
        product, product_mask = canvas.finish(placed), placed_mask[:, :height, :width]
        erode = choose.choice([0, 1, 2])
        inside = eroded(product_mask, erode)
        if not inside.any():
            erode, inside = 0, product_mask[0].numpy()
        background = canvas.finish(generated(canvas.format, number))
        if number % 3 == 0:
            background = add_contact_shadow(background, product_mask, 0.5, 6)
        ad, exact = paste_back(
            background, product, product_mask, erode, choose.choice([0, 4]), choose.choice(list(Rim))
        )
        saved = saved_and_read(ad)
        assert saved.shape == (height, width, 3)
        assert np.array_equal(exact[0].numpy(), inside)
        source, target = canvas.placements[0].source.slices, canvas.placements[0].target
        part = inside[target.slices]
        assert part.sum() == inside.sum()
        shown = saved[target.slices].astype(int)[part]
        difference = np.abs(shown - eight_bits(product[0], target.slices)[part])
        worst, checked = max(worst, int(difference.max())), checked + len(difference)
        if not canvas.placements[0].resized:
            originals += 1
            assert np.array_equal(shown, eight_bits(photo[0], source)[part])
        formats.add(canvas.format.size)
        at_border += target.bottom == height or target.right == width or target.top == 0 or target.left == 0
    assert worst == 0
    assert checked > 1_000_000
    assert len(formats) == len(FORMATS)
    assert originals > 20
    assert at_border > 50
