"""Every kind of training picture comes out as upright 8-bit sRGB, or is refused with a sentence."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from lab.train.data import DataError
from lab.train.pictures import mask, picture
from pfv_mepa.tests.support import made_pictures as made

WIDTH, HEIGHT = 9, 6


def noise(channels: int = 0, bits: int = 8) -> np.ndarray:
    shape = (HEIGHT, WIDTH, channels) if channels else (HEIGHT, WIDTH)
    return np.random.default_rng(channels + bits).integers(0, 2**bits, shape)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo():
    return Image.fromarray(noise(3).astype(np.uint8))


def pixels(content, at_least=1):
    return np.asarray(picture(content, "x", at_least).image).astype(int)


def grey(values):
    return np.repeat(np.asarray(values)[..., None], 3, 2)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_greys_of_any_depth_are_spread_over_8_bits(bits):
    values = noise(bits=bits)
    expected = np.floor(values * 255 / (2**bits - 1) + 0.5)
    assert np.array_equal(pixels(made.png(values, bits, made.GREY)), grey(expected))


def test_colours_of_16_bits_lose_less_than_one_step_of_8():
    values = noise(3, 16)
    found = pixels(made.png(values, 16, made.COLOUR))
    assert np.array_equal(found, values >> 8)
    assert np.abs(found - values / 257).max() < 1


@pytest.mark.parametrize(("colour_type", "channels"), [(made.GREY_ALPHA, 2), (made.COLOUR_ALPHA, 4)])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_transparent_is_white(colour_type, channels, bits):
    values = noise(channels, bits)
    values[..., -1] = 2**bits - 1
    values[:2, :, -1] = 0
    found = pixels(made.png(values, bits, colour_type))
    eight = values >> (bits - 8)
    shown = eight[..., :3] if channels == 4 else grey(eight[..., 0])
    assert np.array_equal(found[2:], shown[2:])
    assert bool((found[:2] == 255).all())


def test_a_palette_is_colours_and_its_transparent_ones_are_white():
    palette = np.array([[255, 0, 0], [0, 0, 200]])
    values = np.tile([0, 1], (4, 3))
    content = made.png(values, 8, made.PALETTE, PLTE=palette.astype(np.uint8).tobytes(), tRNS=bytes([255, 0]))
    assert np.array_equal(pixels(content), np.where(values[..., None] == 0, palette[0], 255))


def test_one_transparent_grey_is_white_and_of_16_bits_is_refused():
    values = np.tile([10, 20], (4, 3))
    assert np.array_equal(pixels(made.png(values, 8, made.GREY, tRNS=b"\0\x0a")), grey(np.where(values == 10, 255, 20)))
    with pytest.raises(DataError, match=r"x cannot be read as an image .it has 16 bits and one transparent colour"):
        picture(made.png(values, 16, made.GREY, tRNS=b"\0\x0a"), "x", 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_upright(orientation):
    found = picture(saved(photo(), "PNG", exif=made.exif(orientation)), "x", 1)
    turned = photo()
    for step in {2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"], 5: ["TRANSPOSE"], 6: ["ROTATE_270"],
                 7: ["TRANSVERSE"], 8: ["ROTATE_90"]}.get(orientation, []):  # fmt: skip
        turned = turned.transpose(getattr(Image.Transpose, step))
    assert np.array_equal(np.asarray(found.image), np.asarray(turned))
    assert found.size == turned.size


def test_a_profile_brings_colours_to_srgb():
    values = noise(3)
    found = pixels(made.png(values, 8, made.COLOUR, iCCP=made.icc_chunk(made.rgb_profile())))
    assert np.abs(found - made.adobe_rgb_to_srgb(values)).max() <= 1
    assert np.abs(found - values).max() > 15


def test_a_profile_that_is_srgb_changes_nothing():
    values = noise(3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(pixels(made.png(values, 8, made.COLOUR, iCCP=made.icc_chunk(srgb))), values)


def nearly_srgb():
    """sRGB's profile with its red a little off: as profiles that are sold as sRGB differ."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    place = int.from_bytes(profile[(entry := profile.index(b"rXYZ")) + 4 : entry + 8], "big") + 8
    profile[place : place + 4] = (int.from_bytes(profile[place : place + 4], "big") + 12).to_bytes(4, "big")
    return bytes(profile)


def test_a_profile_that_is_srgb_but_for_rounding_changes_nothing():
    """Though its transform would."""
    values = np.random.default_rng(1).integers(0, 256, (40, 40, 3))
    image = Image.fromarray(values.astype(np.uint8))
    near = ImageCms.ImageCmsProfile(io.BytesIO(nearly_srgb()))
    moved = np.abs(
        np.asarray(ImageCms.profileToProfile(image, near, ImageCms.createProfile("sRGB"))).astype(int) - values
    )
    assert 1 <= moved.max() <= 2
    assert np.array_equal(pixels(made.png(values, 8, made.COLOUR, iCCP=made.icc_chunk(nearly_srgb()))), values)


def test_a_profile_of_greys_is_applied_to_16_bits_too():
    values = noise(bits=16)
    found = pixels(made.png(values, 16, made.GREY, iCCP=made.icc_chunk(made.grey_profile(1.5))))
    assert np.abs(found - grey(made.srgb_of_linear((values / 65535) ** 1.5))).max() <= 3
    assert np.abs(found - grey(values / 257)).max() > 15


def test_cmyk_goes_by_its_profile_or_the_plain_formula():
    """Pillow writes Adobe's mark. In the profile black ink takes away lightness and the others nothing."""
    ink = Image.new("CMYK", (32, 16), (0, 0, 0, 128))
    assert np.abs(pixels(saved(ink, "JPEG")) - 127).max() <= 1
    expected = made.srgb_of_linear(made.luminance_of_lightness(np.array(100 * (1 - 128 / 255))))
    assert np.abs(pixels(saved(ink, "JPEG", icc_profile=made.cmyk_profile())) - expected).max() <= 2


def without_adobes_mark():
    content = saved(Image.new("CMYK", (32, 16)), "JPEG")
    return content.replace(b"Adobe", b"Abode")


def half_a_profile():
    content = saved(photo(), "JPEG", icc_profile=made.rgb_profile())
    place = content.index(b"ICC_PROFILE\0") + 12
    return content[: place + 1] + b"\2" + content[place + 2 :]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is no JPEG, PNG, WEBP"),
        (saved(photo(), "GIF"), "it is no JPEG, PNG, WEBP"),
        (saved(photo(), "TIFF"), "it is no JPEG, PNG, WEBP"),
        (saved(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0"), ""),
        (saved(photo(), "JPEG", exif=made.exif(1, colour_space=2)), "it is Adobe RGB without a colour profile"),
        (saved(photo(), "JPEG", icc_profile=b"nonsense" * 40), ""),
        (half_a_profile(), "its colour profile is damaged"),
        (made.png(noise(3), 8, made.COLOUR, iCCP=b"profile\0\0nonsense"), "its colour profile is damaged"),
        (made.png(noise(3), 8, made.COLOUR, iCCP=made.icc_chunk(made.cmyk_profile())), "RGB, its colour profile is for CMYK"),
        (made.png(noise(3), 8, made.COLOUR, gAMA=(100_000).to_bytes(4, "big")), "a gamma of 1, expected sRGB's 0.4545"),
        (made.png(noise(3), 8, made.COLOUR, cICP=bytes([9, 16, 0, 1])), "names its colours by cICP"),
        (without_adobes_mark(), "it is CMYK without Adobe's mark"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_is_refused_with_words(content, why):
    with pytest.raises(DataError, match=rf"^shoe.jpg cannot be read as an image \(.*{why}.*broken_images skip"):
        picture(content, "shoe.jpg", 1)


def test_sound_marks_are_no_reason_to_refuse():
    for chunks in ({"gAMA": (45_455).to_bytes(4, "big")}, {"gAMA": (100_000).to_bytes(4, "big"), "sRGB": b"\0"}):
        assert np.array_equal(pixels(made.png(noise(3), 8, made.COLOUR, **chunks)), noise(3))
    assert pixels(saved(photo(), "JPEG", exif=made.exif(6, colour_space=1)), HEIGHT).shape == (WIDTH, HEIGHT, 3)


def test_whatever_is_broken_is_a_data_error_and_nothing_else():
    """Bytes changed anywhere, in the EXIF and the profile too; warnings are errors here."""
    choose = np.random.default_rng(5)
    icc = made.rgb_profile()
    contents = [saved(photo(), "JPEG", exif=made.exif(6, colour_space=1), icc_profile=icc)] * 4
    contents += [saved(photo(), "PNG", exif=made.exif(3), icc_profile=icc), saved(photo(), "WEBP", exif=made.exif(6))]
    contents += [made.png(noise(4, 16), 16, made.COLOUR_ALPHA), saved(Image.new("CMYK", (32, 16)), "JPEG")]
    contents += [saved(photo(), "JPEG", exif=made.exif(6, colour_space=2))[:400]] * 4
    refused = 0
    for content in contents:
        for _ in range(60):
            changed = bytearray(content[: choose.integers(1, len(content))] if choose.random() < 0.2 else content)
            for place in choose.integers(0, len(changed), 4):
                changed[place] = choose.integers(0, 256)
            for read in (lambda data: picture(data, "x", 1), lambda data: mask(data, "x")):
                try:
                    read(bytes(changed))
                except DataError:
                    refused += 1
    assert 200 < refused < 2 * 60 * len(contents)


@pytest.mark.parametrize(
    ("at_least", "size"),
    [
        (1003, (1003, 2006)),
        (502, (1003, 2006)),
        (501, (502, 1003)),
        (251, (502, 1003)),
        (250, (251, 502)),
        (10, (126, 251)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_has_what_is_needed(at_least, size):
    found = picture(saved(Image.new("RGB", (1003, 2006)), "JPEG"), "x", at_least)
    assert found.image.size == size
    assert found.size == (1003, 2006)


def test_a_turned_jpeg_that_was_decoded_small_says_its_upright_size():
    found = picture(saved(Image.new("RGB", (800, 400)), "JPEG", exif=made.exif(6)), "x", 100)
    assert (found.image.size, found.size) == ((100, 200), (400, 800))


def test_a_large_picture_is_no_bomb(monkeypatch):
    """Pillow warns above one number of pixels, and refuses above twice as many."""
    content = saved(photo(), "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT - 1)
    assert pixels(content, HEIGHT).shape == (HEIGHT, WIDTH, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT // 2 - 1)
    with pytest.raises(DataError, match="exceeds limit"):
        picture(content, "x", 1)


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_a_mask_is_numbers_of_any_depth_upright_and_without_a_profile(bits):
    values = noise(bits=bits)
    content = made.png(values, bits, made.GREY, iCCP=made.icc_chunk(made.grey_profile(1.5)))
    found = np.asarray(mask(content, "x"))
    assert np.array_equal(found, np.floor(values * 255 / (2**bits - 1) + 0.5))


def test_a_mask_with_transparency_is_refused_and_an_opaque_alpha_is_not():
    values = noise(4)
    with pytest.raises(DataError, match="it has transparency, expected grey without: white = product"):
        mask(made.png(values, 8, made.COLOUR_ALPHA), "x")
    values[...] = 255
    assert mask(made.png(values, 8, made.COLOUR_ALPHA), "x").getextrema() == (255, 255)


@pytest.mark.parametrize("lightest", [0, 1, 25, 26, 255])
def test_a_mask_of_zeros_and_ones_is_refused_and_black_is_not(lightest):
    """Black selects nothing and says so; 1 of 255 would select nothing and be meant to."""
    values = np.zeros((9, 7), np.uint8)
    values[2:5, 1:4] = lightest
    stored = io.BytesIO()
    Image.fromarray(values).save(stored, "PNG")
    if lightest in (1, 25):
        with pytest.raises(
            DataError, match=f"its lightest value is {lightest} of 255, expected white, 255, for what it selects"
        ):
            mask(stored.getvalue(), "x")
    else:
        assert mask(stored.getvalue(), "x").getextrema() == (0, lightest)
