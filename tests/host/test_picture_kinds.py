"""Every kind of picture as a product, through the catalogue command and a real server: what is saved is what the file holds.

The right values are known from how each file was made, not from any decoder of this pack's.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headless.ad.pictures import DEMO_INPUTS
from headless.host.find import require_host
from headless.host.start import running_host
from headless.pictures.door import encode_png
from pfv_mepa.tests.catalogue.harness import command, manifest, run
from pfv_mepa.tests.demo_weights import copy_pack
from pfv_mepa.tests.support import made_pictures as made

SIDE, BLOCK = 128, 16
ROWS, COLUMNS = slice(24, 104), slice(40, 88)  # of the product
INSIDE = (slice(25, 103), slice(41, 87))  # the workflow erodes by 1
NUM_INSIDE = 78 * 46
PLACE = np.arange(SIDE) % BLOCK
MIDDLE = ((PLACE >= 4) & (PLACE < 12))[:, None] & ((PLACE >= 4) & (PLACE < 12))  # of the flat squares
Values = np.ndarray


@dataclass(frozen=True)
class Kind:
    """A file, what it holds as 8-bit sRGB, and how far a decoder may be off it.

    Attributes:
        content: of the file.
        right: (128, 128, 3), 0..255, not rounded.
        within: 8-bit steps, beside rounding; a lossy kind counts in the middle of its flat squares alone.
        mask: a file that marks the product; None = the picture has transparency of its own.
        converted: what the manifest says of it.
    """

    content: bytes
    right: Values
    within: float = 0
    mask: bytes | None = None
    converted: tuple[str, ...] = ()


def noise(channels: int, bits: int, seed: int = 0) -> Values:
    shape = (SIDE, SIDE, channels) if channels else (SIDE, SIDE)
    return np.random.default_rng(seed).integers(0, 2**bits, shape)


def blocks() -> Values:
    """Flat squares, which lossy kinds keep to a step or two."""
    small = np.random.default_rng(1).integers(20, 236, (SIDE // BLOCK, SIDE // BLOCK, 3))
    return np.kron(small, np.ones((BLOCK, BLOCK, 1), int))


def greys(values: Values, bits: int) -> Values:
    return np.repeat((values * 255 / (2**bits - 1))[..., None], 3, 2)


def mark(white: int = 255) -> Values:
    values = np.zeros((SIDE, SIDE), int)
    values[ROWS, COLUMNS] = white
    return values


def saved(values: Values, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


MASK = made.png(mark(), 8, made.GREY)
SCALED = ("16-bit values scaled to 8",)
BEST = {"quality": 100, "subsampling": 0}


def grey(bits: int) -> Kind:
    values = noise(0, bits)
    content = made.png(values, bits, made.GREY)
    return Kind(content, greys(values, bits), mask=MASK, converted=SCALED if bits == 16 else ())


def grey_alpha(bits: int) -> Kind:
    values = noise(0, bits)
    content = made.png(np.dstack([values, mark(2**bits - 1)]), bits, made.GREY_ALPHA)
    return Kind(content, greys(values, bits), converted=SCALED if bits == 16 else ())


def colour(bits: int, alpha: bool) -> Kind:
    values = noise(3, bits)
    right, said = values * 255 / (2**bits - 1), SCALED if bits == 16 else ()
    if alpha:
        return Kind(made.png(np.dstack([values, mark(2**bits - 1)]), bits, made.COLOUR_ALPHA), right, converted=said)
    return Kind(made.png(values, bits, made.COLOUR), right, mask=MASK, converted=said)


def keyed() -> Kind:
    """One colour of the file is transparent."""
    values = noise(3, 8)
    values[mark() == 0] = (1, 2, 3)
    return Kind(made.png(values, 8, made.COLOUR, tRNS=struct.pack(">3H", 1, 2, 3)), values)


def palette(transparent: bool) -> Kind:
    colours = noise(3, 8).reshape(-1, 3)[:16]
    values = np.random.default_rng(2).integers(1, 16, (SIDE, SIDE))
    values[(mark() == 0) & transparent] = 0
    chunks = {"PLTE": colours.astype(np.uint8).tobytes()} | ({"tRNS": b"\0"} if transparent else {})
    content = made.png(values, 4, made.PALETTE, **chunks)
    return Kind(content, colours[values], mask=None if transparent else MASK)


def adobe_rgb(kind: str) -> Kind:
    values = blocks()
    content = saved(values, kind, icc_profile=made.rgb_profile(), **(BEST if kind == "JPEG" else {}))
    right = made.adobe_rgb_to_srgb(values)
    return Kind(content, right, 1 if kind == "PNG" else 4, MASK, ("Adobe RGB (1998) to sRGB",))


def cmyk() -> Kind:
    inks = np.kron(np.random.default_rng(3).integers(20, 200, (8, 8, 4)), np.ones((BLOCK, BLOCK, 1), int))
    file = io.BytesIO()
    Image.fromarray(inks.astype(np.uint8), "CMYK").save(file, "JPEG", **BEST)
    right = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    return Kind(file.getvalue(), right, 2.5, MASK, ("CMYK without a profile, by the plain formula",))


def turned() -> Kind:
    """Held on its side: the file's values are turned to the left, its mark says so."""
    values = blocks()
    content = saved(np.rot90(values), "JPEG", exif=made.exif(6), **BEST)
    return Kind(content, values, 2.5, MASK, ("turned upright",))


def lossless_webp() -> Kind:
    values = noise(3, 8)
    return Kind(saved(np.dstack([values, mark()]), "WEBP", lossless=True, exact=True), values)


def animated_webp() -> Kind:
    values = noise(3, 8)
    others = [Image.fromarray(noise(3, 8, seed).astype(np.uint8)) for seed in (1, 2)]
    content = saved(values, "WEBP", save_all=True, append_images=others, lossless=True)
    return Kind(content, values, mask=MASK, converted=("the first of 3 frames",))


def deep_tiff() -> Kind:
    values = noise(3, 16)
    return Kind(made.tiff(values, 16, 2), values / 257, mask=MASK, converted=SCALED)


def mask_of(content: bytes, said: str) -> Kind:
    values = noise(3, 8)
    return Kind(made.png(values, 8, made.COLOUR), values, mask=content, converted=(f"the mask: {said}",))


def painted_on_nothing() -> Kind:
    paint = np.dstack([np.full((SIDE, SIDE, 3), 255), mark()])
    return mask_of(made.png(paint, 8, made.COLOUR_ALPHA), "its transparency counts, not its brightness")


def deep_mask() -> Kind:
    """What is not marked is not quite black: cut to its lower bits it would be white."""
    return mask_of(made.png(np.where(mark() > 0, 65535, 300), 16, made.GREY), "16-bit values scaled to 8")


KINDS: dict[str, Callable[[], Kind]] = {
    **{f"grey {bits}": lambda bits=bits: grey(bits) for bits in (1, 2, 4, 8, 16)},
    **{f"grey and alpha {bits}": lambda bits=bits: grey_alpha(bits) for bits in (8, 16)},
    **{f"colour {bits}": lambda bits=bits: colour(bits, alpha=False) for bits in (8, 16)},
    **{f"colour and alpha {bits}": lambda bits=bits: colour(bits, alpha=True) for bits in (8, 16)},
    "one transparent colour": keyed,
    "palette": lambda: palette(transparent=False),
    "palette with transparency": lambda: palette(transparent=True),
    "CMYK JPEG": cmyk,
    "Adobe RGB JPEG": lambda: adobe_rgb("JPEG"),
    "Adobe RGB PNG": lambda: adobe_rgb("PNG"),
    "JPEG on its side": turned,
    "lossless WebP": lossless_webp,
    "lossy WebP": lambda: Kind(saved(blocks(), "WEBP", quality=100), blocks(), 6, MASK),
    "AVIF": lambda: Kind(saved(blocks(), "AVIF", quality=100, subsampling="4:4:4"), blocks(), 3, MASK),
    "animated WebP": animated_webp,
    "TIFF of 16 bits": deep_tiff,
    "mask painted on nothing": painted_on_nothing,
    "mask of 16 bits": deep_mask,
}


def dark_cut_out() -> bytes:
    return made.png(np.dstack([np.zeros((SIDE, SIDE, 3), int), mark()]), 8, made.COLOUR_ALPHA)


REFUSED: dict[str, tuple[bytes, bytes | None, str]] = {
    "JPEG alone": (saved(blocks(), "JPEG"), None, "has no transparency: name its mask in product_mask"),
    "GIF": (saved(noise(0, 8), "GIF"), MASK, "is a GIF, expected JPEG, PNG, WebP, AVIF, HEIC or TIFF"),
    "no picture": (b"hello", MASK, "is no picture of a known kind"),
    "cut off": (saved(blocks(), "PNG")[:-40], MASK, "is a PNG file that cannot be decoded"),
    "cut-out as a mask": (saved(blocks(), "PNG"), dark_cut_out(), "3840 of its pixels are opaque, 0 of them bright"),
    "black mask": (saved(blocks(), "PNG"), made.png(mark(0), 8, made.GREY), "marks 0 of 16384 pixels, nothing"),
    "small mask": (saved(blocks(), "PNG"), made.png(mark()[:64], 8, made.GREY), "is 128x64, its picture"),
    "gamma of 1": (
        made.png(noise(3, 8), 8, made.COLOUR, gAMA=struct.pack(">I", 100_000)),
        MASK,
        "have a gamma of 1, expected sRGB's",
    ),
}


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", [(64, 64), (37, 53)])
def test_load_image_reads_what_we_encode_to_the_bit(host_base_directory, size, channels):
    """Host decoders round what they do not know as 8-bit RGB, and some look at whether a side is a multiple of 32."""
    import nodes

    values = np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)
    (host_base_directory / "input").mkdir(exist_ok=True)
    (host_base_directory / "input" / "encoded.png").write_bytes(encode_png(values))
    image, mask = nodes.LoadImage().load_image("encoded.png")
    assert np.array_equal(image[0].numpy(), values[..., :3].astype(np.float32) / 255)
    if channels == 4:
        assert np.array_equal(np.round(255 * (1 - mask[0].numpy())), values[..., 3])
    else:
        assert not mask.any()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with this pack and random weights in the place of the trained ones."""
    pack, folder = copy_pack(tmp_path_factory.mktemp("packs")), tmp_path_factory.mktemp("server")
    shutil.copytree(DEMO_INPUTS, folder / "input")
    with running_host(require_host(), Path(sys.executable), folder, [pack]) as running:
        yield running


@pytest.fixture(scope="module")
def ran(server, tmp_path_factory):
    """The command's result, and the folder that it filled: a row for every kind, good and refused."""
    inputs, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out") / "out"
    made_kinds = {name: (kind.content, kind.mask) for name, kind in ((name, make()) for name, make in KINDS.items())}
    refused = {name: row[:2] for name, row in REFUSED.items()}
    rows = []
    for number, (name, (content, mask)) in enumerate((made_kinds | refused).items()):
        row = {"name": name, "product": f"{number}.picture", "prompt": "a red bottle", "Sampler.steps": 1}
        (inputs / f"{number}.picture").write_bytes(content)
        if mask is not None:
            (inputs / f"{number}.mask").write_bytes(mask)
            row["product_mask"] = f"{number}.mask"
        rows.append(row)
    catalogue = inputs / "catalogue.jsonl"
    catalogue.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run(command(catalogue, out, [server.url], "--seeds", "1", workflow="demo_full")), out


@pytest.fixture(scope="module")
def lines(ran):
    """The manifest's line of each row."""
    result, out = ran
    assert result.returncode == 1, result.stderr  # some rows are refused
    return {line["name"]: line for line in manifest(out)}


def test_each_kind_was_made_once_and_each_refused_one_not_at_all(lines):
    assert set(lines) == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_the_saved_ad_holds_what_the_file_holds(ran, lines, name):
    kind, (file,) = KINDS[name](), lines[name]["files"]
    with Image.open(ran[1] / file["file"]) as image:
        ad = np.asarray(image.convert("RGB"), float)
    off = np.abs(ad - kind.right).max(2)
    assert off[INSIDE][MIDDLE[INSIDE] | (kind.within <= 1)].max() <= kind.within + 0.5
    checked = file["checks"]["product"]
    assert (checked["passed"], checked["exact"], checked["inside"]) == (True, NUM_INSIDE, NUM_INSIDE)
    assert (off[mark() == 0] > kind.within + 0.5).mean() > 0.5  # the rest was generated


@pytest.mark.parametrize("name", KINDS)
def test_the_manifest_says_what_was_converted(lines, name):
    entry = lines[name]["inputs"]["Product photo.image"]
    assert tuple(entry.get("converted", ())) == KINDS[name]().converted


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_with_its_sentence(ran, name):
    failures = [json.loads(line) for line in (ran[1] / "failures.jsonl").read_text().splitlines()]
    (reason,) = [failure["reason"] for failure in failures if failure["line"] == 1 + list(KINDS | REFUSED).index(name)]
    assert REFUSED[name][2] in reason


@pytest.mark.parametrize("name", KINDS)
def test_the_composite_itself_saw_an_8_bit_photo(lines, name):
    """However this host decodes: what is uploaded is a kind that it reads without rounding."""
    (report,) = [json.loads(text) for texts in lines[name]["texts"].values() for text in texts]
    assert report["exact"]
    assert report["ads"][0]["pixels_not_8_bit"] == 0
