"""Every kind of picture comes through the door as the values that it was written with, or is refused with a sentence."""

from __future__ import annotations

import io
import struct
import sys
import threading
import time

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms, features

from headless.pictures import door
from headless.pictures import files as picture_files
from headless.pictures.door import PictureError, decoded_by, encode_png, header, open_mask, open_picture
from pfv_mepa.tests.support import made_pictures as made

WIDTH, HEIGHT = 9, 6


def noise(channels: int = 0, bits: int = 8) -> np.ndarray:
    shape = (HEIGHT, WIDTH, channels) if channels else (HEIGHT, WIDTH)
    return np.random.default_rng(channels + bits).integers(0, 2**bits, shape)


def to_eight(values: np.ndarray, bits: int) -> np.ndarray:
    return np.floor(values * 255 / (2**bits - 1) + 0.5).astype(int)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo() -> Image.Image:
    return Image.fromarray(noise(3).astype(np.uint8))


def flat(colour: tuple[int, ...], mode: str) -> Image.Image:
    return Image.new(mode, (32, 16), colour)


def half_a_profile() -> bytes:
    """A JPEG whose profile was cut in two, and one half lost."""
    content = saved(photo(), "JPEG", icc_profile=made.rgb_profile())
    place = content.index(b"ICC_PROFILE\0") + 12
    assert content[place : place + 2] == b"\1\1"
    return content[: place + 1] + b"\2" + content[place + 2 :]


# --- values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_greys_of_any_depth_are_spread_over_eight_bits(bits):
    values = noise(bits=bits)
    found = open_picture(made.png(values, bits, made.GREY), "x.png")
    assert np.array_equal(found.pixels[..., 0], to_eight(values, bits))
    assert (found.pixels[..., :3] == found.pixels[..., :1]).all()
    assert (found.pixels[..., 3] == 255).all()
    assert found.converted == (("16-bit values scaled to 8",) if bits == 16 else ())


@pytest.mark.parametrize("colour_type", [made.COLOUR, made.GREY_ALPHA, made.COLOUR_ALPHA])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_and_alpha_keep_their_values(bits, colour_type):
    values = noise({made.COLOUR: 3, made.GREY_ALPHA: 2, made.COLOUR_ALPHA: 4}[colour_type], bits)
    expected = to_eight(values, bits)
    found = open_picture(made.png(values, bits, colour_type), "x.png").pixels
    assert np.array_equal(found[..., :3], expected[..., : 1 if colour_type == made.GREY_ALPHA else 3] + np.zeros(3))
    assert np.array_equal(
        found[..., 3], np.full_like(found[..., 3], 255) if colour_type == made.COLOUR else expected[..., -1]
    )


@pytest.mark.parametrize("value", [0, 128, 129, 255, 256, 257, 384, 385, 386, 32767, 32768, 65406, 65407, 65535])
def test_sixteen_bits_are_rounded_not_cut(value):
    """257 steps of 16 bits are one of 8; what is nearer to the next one goes there."""
    nearest = min(range(256), key=lambda step: abs(257 * step - value))
    for values, colour_type in ((np.full((2, 2), value), made.GREY), (np.full((2, 2, 3), value), made.COLOUR)):
        assert (open_picture(made.png(values, 16, colour_type), "x.png").pixels[..., :3] == nearest).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_one_transparent_grey_of_any_depth_is_transparent(bits):
    values = noise(bits=bits)
    key = int(values[2, 3])
    found = open_picture(made.png(values, bits, made.GREY, tRNS=struct.pack(">H", key)), "x.png").pixels
    assert np.array_equal(found[..., 3], np.where(values == key, 0, 255))
    assert np.array_equal(found[..., 0], to_eight(values, bits))


@pytest.mark.parametrize("bits", [8, 16])
def test_the_one_transparent_colour_is_transparent_and_no_other(bits):
    values = noise(3, bits)
    values[0, 0], values[0, 1] = values[2, 3], values[2, 3] + [0, 0, 1 if values[2, 3, 2] == 0 else -1]
    found = open_picture(made.png(values, bits, made.COLOUR, tRNS=struct.pack(">3H", *values[2, 3])), "x.png").pixels
    clear = (values == values[2, 3]).all(-1)
    assert clear.sum() == 2
    assert np.array_equal(found[..., 3], np.where(clear, 0, 255))
    assert np.array_equal(found[..., :3], to_eight(values, bits))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_is_looked_up_with_its_transparency(bits):
    values, count = noise(bits=bits), 2**bits
    palette = np.random.default_rng(1).integers(0, 256, (count, 3))
    alpha = np.arange(count - 1) % 256  # the last entry has none, so it is opaque
    chunks = {"PLTE": palette.astype(np.uint8).tobytes(), "tRNS": alpha.astype(np.uint8).tobytes()}
    found = open_picture(made.png(values, bits, made.PALETTE, **chunks), "x.png").pixels
    assert np.array_equal(found[..., :3], palette[values])
    assert np.array_equal(found[..., 3], np.append(alpha, 255)[values])


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_lossless_webp_keeps_its_values(mode):
    values = noise(len(mode)).astype(np.uint8)
    found = open_picture(saved(Image.fromarray(values), "WEBP", lossless=True, exact=True), "x.webp").pixels
    assert np.array_equal(found[..., : len(mode)], values)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 100}), ("WEBP", {"quality": 100}), ("AVIF", {})])
def test_lossy_kinds_are_read(kind, options):
    found = open_picture(saved(flat((200, 90, 40), "RGB"), kind, **options), "x")
    assert np.abs(found.pixels[..., :3].astype(int) - (200, 90, 40)).max() <= 3
    assert (found.kind, found.size, found.converted) == (kind, (32, 16), ())


def test_an_avif_of_ten_bits_says_so():
    content = saved(flat((200, 90, 40), "RGB"), "AVIF")
    place = content.index(b"av1C") + 6
    assert not content[place] & 0x40
    assert picture_files.bits_of_avif(content) == 8
    for flags, bits in ((0x40, 10), (0x60, 12)):
        marked = content[:place] + bytes([content[place] | flags]) + content[place + 1 :]
        assert picture_files.bits_of_avif(marked) == bits


def test_a_heic_is_read_where_its_package_is_installed(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(flat((200, 90, 40), "RGB").resize((64, 64))).save(file, quality=100)
    found = open_picture(file.getvalue(), "x.heic")
    assert found.kind == "HEIF"
    assert np.abs(found.pixels[..., :3].astype(int) - (200, 90, 40)).max() <= 3
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(
        PictureError, match=r"x\.heic is a HEIF file, which takes the package pillow-heif: install it, or save"
    ):
        open_picture(file.getvalue(), "x.heic")


def test_sixteen_bits_without_opencv_are_refused_by_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        PictureError, match=r"x\.png has 16-bit values, which take opencv-python-headless: install it, or save"
    ):
        open_picture(made.png(noise(3, 16), 16, made.COLOUR), "x.png")
    assert open_picture(made.png(noise(bits=16), 16, made.GREY), "x.png").pixels.any()


@pytest.mark.parametrize(
    "change", [lambda found: found[::-1], lambda found: found // 2, lambda found: found[..., 0], None]
)
def test_sixteen_bits_that_two_decoders_see_otherwise_are_refused(monkeypatch, change):
    cv2 = pytest.importorskip("cv2")
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *given: change(decode(*given)) if change else None)
    with pytest.raises(
        PictureError, match=r"x\.png (is seen otherwise by two decoders|cannot be decoded with 16 bits): save it"
    ):
        open_picture(made.png(noise(3, 16), 16, made.COLOUR), "x.png")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_tiff_keeps_its_values_whichever_end_is_white(bits, photometric, order):
    values = noise(bits=bits)
    content = made.tiff(values, bits, photometric, order)
    if (bits, photometric, order) == (16, 0, ">"):
        with pytest.raises(PictureError, match="cannot be decoded"):
            open_picture(content, "x.tif")
        return
    found = open_picture(content, "x.tif").pixels[..., 0]
    assert np.array_equal(found, to_eight(values if photometric else 2**bits - 1 - values, bits))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("channels", "extra"), [(3, None), (4, 2), (4, 0)])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour_tiff_keeps_its_values(bits, channels, extra, order):
    values = noise(channels, bits)
    found = open_picture(made.tiff(values, bits, 2, order, extra), "x.tif")
    expected = to_eight(values, bits)
    assert np.array_equal(found.pixels[..., :3], expected[..., :3])
    assert np.array_equal(found.pixels[..., 3], expected[..., 3] if extra == 2 else np.full((HEIGHT, WIDTH), 255))
    said = ["a further channel of no meaning left out"] if extra == 0 else []
    assert list(found.converted) == [*said, *(["16-bit values scaled to 8"] if bits == 16 else [])]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_that_lies_on_its_side_is_turned(bits):
    values = noise(3, bits)
    found = open_picture(made.tiff(values, bits, 2, "<", None, orientation=6), "x.tif")
    assert np.array_equal(found.pixels[..., :3], np.rot90(to_eight(values, bits), -1))
    assert "turned upright" in found.converted
    assert header(made.tiff(values, bits, 2, "<", None, orientation=6), "x.tif").size == (HEIGHT, WIDTH)


# --- upright, first, whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_a_camera_held_turned_is_upright(orientation, order, kind):
    """By the standard: where row 0 and column 0 of the file are seen."""
    picture = Image.fromarray(np.kron(noise(3), np.ones((16, 16, 1))).astype(np.uint8))
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    plain = open_picture(saved(picture, kind, **options), "x").pixels
    content = saved(picture, kind, exif=made.exif(orientation, order), **options)
    found = open_picture(content, "x")
    seen = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.swapaxes(0, 1),
        6: np.rot90(plain, -1),
        7: np.rot90(plain, -1)[::-1],
        8: np.rot90(plain),
    }[orientation]
    assert np.array_equal(found.pixels, seen)
    assert found.converted == (() if orientation == 1 else ("turned upright",))
    assert header(content, "x") == door.Header(kind, found.size)


@pytest.mark.parametrize("broken", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", made.exif(6)[:20]])
def test_broken_marks_of_a_camera_are_said_and_are_no_crash(broken):
    content = saved(photo(), "WEBP", lossless=True, exif=broken)
    found = open_picture(content, "x.webp")
    assert found.converted == ("its EXIF is broken, so it is taken as upright",)
    assert found.size == (WIDTH, HEIGHT)


def test_an_orientation_that_does_not_exist_is_said():
    found = open_picture(saved(photo(), "PNG", exif=made.exif(9)), "x.png")
    assert found.converted == ("its orientation 9 means nothing, so it is taken as upright",)


@pytest.mark.parametrize(
    ("kind", "word"), [("WEBP", "frames"), ("PNG", "frames"), ("TIFF", "pages"), ("MPO", "pictures")]
)
def test_the_first_of_several_is_taken_and_that_is_said(kind, word):
    frames = [flat(colour, "RGB") for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    found = open_picture(saved(frames[0], kind, save_all=True, append_images=frames[1:]), "x")
    assert found.converted == (f"the first of 3 {word}",)
    assert np.abs(found.pixels[..., :3].astype(int) - (250, 0, 0)).max() <= 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_what_is_cut_off_is_refused(kind, share):
    content = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), kind)
    with pytest.raises(PictureError, match=rf"shop/x\.jpg is a {kind} file that cannot be decoded"):
        open_picture(content[: int(share * len(content))], "shop/x.jpg")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_deep_png_that_is_cut_off_is_refused(share):
    content = made.png(np.random.default_rng(0).integers(0, 65536, (64, 64, 3)), 16, made.COLOUR)
    with pytest.raises(PictureError, match="cannot be decoded"):
        open_picture(content[: int(share * len(content))], "x.png")


@pytest.mark.filterwarnings("ignore")  # Pillow's words on broken EXIF
def test_broken_files_are_errors_and_nothing_else():
    choose = np.random.default_rng(5)
    contents = [saved(photo(), kind) for kind in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF")]
    contents += [made.png(noise(4, 16), 16, made.COLOUR_ALPHA), made.tiff(noise(3, 16), 16, 2, "<")]
    contents += [saved(photo(), "JPEG", exif=made.exif(6), icc_profile=made.rgb_profile())]
    refused = 0
    for content in contents:
        for _ in range(60):
            changed = bytearray(content)
            for place in choose.integers(0, len(content), 4):
                changed[place] = choose.integers(0, 256)
            try:
                open_picture(bytes(changed), "x")
            except PictureError:
                refused += 1
    assert 100 < refused < 60 * len(contents)


# --- colours --------------------------------------------------------------------------------------------------------------


def test_adobe_rgb_becomes_srgb_and_that_is_said():
    values = np.stack(np.meshgrid(*[[0, 40, 128, 200, 255]] * 3), -1).reshape(5, 25, 3)
    for content in (
        made.png(values, 8, made.COLOUR, iCCP=made.icc_chunk(made.rgb_profile())),
        saved(Image.fromarray(values.astype(np.uint8)), "WEBP", lossless=True, icc_profile=made.rgb_profile()),
    ):
        found = open_picture(content, "x")
        assert found.converted == ("Adobe RGB (1998) to sRGB",)
        assert np.abs(found.pixels[..., :3] - made.adobe_rgb_to_srgb(values)).max() <= 1
    assert np.abs(values - made.adobe_rgb_to_srgb(values)).max() > 25


def test_a_cut_out_in_adobe_rgb_keeps_its_alpha():
    values = noise(4)
    found = open_picture(made.png(values, 8, made.COLOUR_ALPHA, iCCP=made.icc_chunk(made.rgb_profile())), "x").pixels
    assert np.array_equal(found[..., 3], values[..., 3])
    assert np.abs(found[..., :3] - made.adobe_rgb_to_srgb(values[..., :3])).max() <= 1


def test_a_palette_in_adobe_rgb_is_converted():
    palette = noise(3).reshape(-1, 3)[:16]
    chunks = {"iCCP": made.icc_chunk(made.rgb_profile()), "PLTE": palette.astype(np.uint8).tobytes()}
    values = noise(bits=4)
    found = open_picture(made.png(values, 4, made.PALETTE, **chunks), "x").pixels
    assert np.abs(found[..., :3] - made.adobe_rgb_to_srgb(palette[values])).max() <= 1


def test_sixteen_bits_of_adobe_rgb_are_both():
    values = noise(3, 16)
    found = open_picture(made.png(values, 16, made.COLOUR, iCCP=made.icc_chunk(made.rgb_profile())), "x")
    assert found.converted == ("16-bit values scaled to 8", "Adobe RGB (1998) to sRGB")
    assert np.abs(found.pixels[..., :3] - made.adobe_rgb_to_srgb(values / 257)).max() <= 2


def test_a_profile_that_is_srgb_changes_no_value_and_nothing_is_said():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    values = np.random.default_rng(0).integers(0, 256, (128, 128, 3))
    found = open_picture(made.png(values, 8, made.COLOUR, iCCP=made.icc_chunk(srgb)), "x")
    assert np.array_equal(found.pixels[..., :3], values)
    assert found.converted == ()


def test_greys_of_another_gamma_are_converted():
    values = np.arange(256).reshape(16, 16)
    content = made.png(values, 8, made.GREY, iCCP=made.icc_chunk(made.grey_profile(1.5)))
    found = open_picture(content, "x")
    assert found.converted == ("Gray Gamma 1.5 to sRGB",)
    assert np.abs(found.pixels[..., 0] - made.srgb_of_linear((values / 255) ** 1.5)).max() <= 2
    assert np.array_equal(open_mask(content, "x").pixels[..., 0], values)  # a mask's values are no colours


def test_a_grey_picture_with_a_profile_for_colours_is_converted_by_it():
    values = np.arange(256).reshape(16, 16)
    found = open_picture(made.png(values, 8, made.GREY, iCCP=made.icc_chunk(made.rgb_profile())), "x").pixels
    assert np.abs(found[..., :3] - made.adobe_rgb_to_srgb(np.repeat(values[..., None], 3, 2))).max() <= 1


@pytest.mark.parametrize(
    "inks", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 128, 0, 64), (20, 40, 60, 80), (255, 255, 255, 255)]
)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_without_a_profile_goes_by_the_plain_formula(kind, inks):
    found = open_picture(saved(flat(inks, "CMYK"), kind, **({"quality": 100} if kind == "JPEG" else {})), "x")
    assert found.converted == ("CMYK without a profile, by the plain formula",)
    expected = [(255 - ink) * (255 - inks[3]) / 255 for ink in inks[:3]]
    assert np.abs(found.pixels[..., :3] - np.array(expected)).max() <= 1


def test_cmyk_with_a_profile_goes_by_it():
    for black in (0, 60, 128, 200):
        content = saved(flat((90, 10, 0, black), "CMYK"), "TIFF", icc_profile=made.cmyk_profile())
        found = open_picture(content, "x")
        assert found.converted == ("Black alone to sRGB",)
        light = made.luminance_of_lightness(np.array(100 * (1 - black / 255)))
        assert np.abs(found.pixels[..., :3] - made.srgb_of_linear(light)).max() <= 2


def test_a_cmyk_jpeg_that_does_not_say_what_its_values_are_is_refused():
    content = saved(flat((10, 20, 30, 40), "CMYK"), "JPEG")
    place = content.index(b"\xff\xee")
    (length,) = struct.unpack(">H", content[place + 2 : place + 4])
    with pytest.raises(
        PictureError, match="x is a CMYK JPEG without Adobe's mark, so that it may hold ink or its absence"
    ):
        open_picture(content[:place] + content[place + 2 + length :], "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            made.png(noise(3), 8, made.COLOUR, iCCP=made.icc_chunk(b"nonsense" * 40)),
            "a colour profile that cannot be used",
        ),
        (
            made.png(noise(3), 8, made.COLOUR, iCCP=made.icc_chunk(made.grey_profile(2.2))),
            "x is RGB, its colour profile 'Gray Gamma 2.2' is for GRAY: save it as sRGB, or without the profile",
        ),
        (
            made.png(noise(3), 8, made.COLOUR, gAMA=struct.pack(">I", 100_000)),
            "have a gamma of 1, expected sRGB's 0.4545",
        ),
        (
            made.png(
                noise(3), 8, made.COLOUR, cHRM=struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
            ),
            "other primaries than sRGB's and no colour profile",
        ),
        (
            made.png(noise(3), 8, made.COLOUR, cICP=bytes([9, 16, 0, 1])),
            "the primaries 9 and the transfer 16 of ITU-T H.273",
        ),
        (
            saved(photo(), "JPEG", exif=made.exif(1, colour_space=2)),
            "says in its EXIF that it is Adobe RGB, and has no colour",
        ),
        (
            saved(photo(), "AVIF").replace(b"colrnclx\0\1\0\x0d", b"colrnclx\0\x0c\0\x0d"),
            "the primaries 12 and the transfer 13 of ITU-T H.273",
        ),
    ],
)
def test_colours_that_are_not_known_for_certain_are_refused(content, message):
    with pytest.raises(PictureError, match=message):
        open_picture(content, "x")
    assert open_mask(content, "x").size == (WIDTH, HEIGHT)


def test_the_usual_marks_of_srgb_are_no_hindrance():
    usual = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    for chunks in ({"gAMA": struct.pack(">I", 45455), "cHRM": usual}, {"sRGB": b"\0", "gAMA": struct.pack(">I", 99)}):
        assert open_picture(made.png(noise(3), 8, made.COLOUR, **chunks), "x").converted == ()
    assert open_picture(made.png(noise(3), 8, made.COLOUR, cICP=bytes([1, 13, 0, 1])), "x").converted == ()
    assert open_picture(saved(photo(), "PNG", exif=made.exif(1, colour_space=1)), "x").converted == ()


# --- refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "shop/x is an empty file, expected JPEG, PNG, WebP, AVIF, HEIC or TIFF: save it as one of them"),
        (b"hello", "shop/x is no picture of a known kind, expected"),
        (saved(photo(), "GIF"), "shop/x is a GIF, expected"),
        (saved(photo(), "BMP"), "shop/x is a BMP, expected"),
        (b"%PDF-1.7", "shop/x is a PDF, expected"),
        (
            saved(Image.new("F", (4, 4)), "TIFF"),
            "shop/x has 32-bit floating-point values, expected grey or RGB of 8 or 16 bits",
        ),
        (
            saved(Image.new("I", (4, 4)), "TIFF"),
            "shop/x has 32-bit or signed values, expected grey or RGB of 8 or 16 bits",
        ),
        (
            saved(Image.new("LAB", (4, 4)), "TIFF"),
            "shop/x has CIELAB values, expected grey, RGB or CMYK of 8 or 16 bits",
        ),
        (made.tiff(noise(4, 16), 16, 2, "<", 1), "shop/x has 16-bit values multiplied with alpha: save it as PNG"),
    ],
)
def test_what_is_not_read_is_refused_with_a_sentence(content, message):
    with pytest.raises(PictureError, match=message):
        open_picture(content, "shop/x")


def test_a_picture_that_is_too_large_is_refused_by_its_header():
    content = made.png(noise(3), 8, made.COLOUR)
    huge = content[:16] + struct.pack(">II", 20_000, 10_001) + content[24:]
    crc = struct.pack(">I", made.zlib.crc32(huge[12:29]))
    huge = huge[:29] + crc + huge[33:]
    for reads in (open_picture, header):
        started = time.process_time()
        with pytest.raises(PictureError, match="x is 20000x10001, at most 200000000 pixels are read: save it smaller"):
            reads(huge, "x")
        assert time.process_time() - started < 0.5


def test_a_picture_of_a_hundred_megapixels_is_read_without_a_warning():
    """Pillow warns from 89 on; warnings are errors here."""
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000), 1).save(file, "PNG")
    assert header(file.getvalue(), "x").size == (10_000, 10_000)
    assert open_picture(file.getvalue(), "x").pixels[-1, -1].tolist() == [255, 255, 255, 255]


def test_a_file_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(door, "MAX_BYTES", 100)
    content = saved(photo(), "PNG")
    with pytest.raises(PictureError, match=rf"x has {len(content)} bytes, at most 100 are read: save it smaller"):
        open_picture(content, "x")


def test_pictures_are_decoded_in_threads_at_once():
    contents = [made.png(noise(3, 16) // (number + 1), 16, made.COLOUR) for number in range(4)]
    expected = [open_picture(content, "x").pixels for content in contents]
    wrong = []

    def read(number: int) -> None:
        for _ in range(30):
            if not np.array_equal(open_picture(contents[number % 4], "x").pixels, expected[number % 4]):
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- out again ------------------------------------------------------------------------------------------------------------


def test_what_is_encoded_is_decoded_to_the_same_pixels():
    values = noise(4).astype(np.uint8)
    assert np.array_equal(open_picture(encode_png(values), "x").pixels, values)
    assert encode_png(values)[25] == made.COLOUR_ALPHA
    values[..., 3] = 255
    assert encode_png(values)[25] == made.COLOUR
    assert np.array_equal(open_picture(encode_png(values), "x").pixels, values)
    assert encode_png(values[..., :3]) == encode_png(values)


def test_pixels_cannot_be_changed_by_those_who_share_them():
    for content in (made.png(noise(4), 8, made.COLOUR_ALPHA), saved(photo(), "PNG", exif=made.exif(6))):
        with pytest.raises(ValueError, match="read-only"):
            open_picture(content, "x").pixels[0, 0] = 0


def test_whatever_decodes_is_named_with_its_version(monkeypatch):
    found = decoded_by.__wrapped__()
    assert f"pillow {PIL.__version__}" in found
    monkeypatch.setattr(features, "version", lambda name: "1000")
    assert "littlecms2 1000" in decoded_by.__wrapped__()
    monkeypatch.setattr("headless.pictures.door.VERSION", 1000)
    assert "door 1000" in decoded_by.__wrapped__()
