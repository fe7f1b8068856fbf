"""What a picture's file says of itself, read without decoding it: its kind, and the marks that change what its values mean."""

from __future__ import annotations

import struct
from dataclasses import dataclass

KINDS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF")
"""What is read. No decoder of another kind is ever run on a file that came from elsewhere."""
KINDS_IN_WORDS = "JPEG, PNG, WebP, AVIF, HEIC or TIFF"
OTHER_KINDS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
    b"%!PS": "a PostScript file",
    b"<svg": "an SVG",
    b"<?xml": "an XML file",
    b"<!DOC": "a web page",
    b"<html": "a web page",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL",
    b"\xff\x0a": "a JPEG XL",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000",
    b"v/1\x01": "an OpenEXR file",
    b"#?RADIANCE": "a Radiance file",
}
HEADER_BYTES = 1 << 16  # within which the boxes of an AVIF or HEIC file stand that are looked for

SRGB_GAMMA, GAMMA_TOLERANCE = 1 / 2.2, 0.02
SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green, blue; x and y of each
CHROMATICITY_TOLERANCE = 0.01
SRGB_PRIMARIES = (1, 2)  # of ITU-T H.273: BT.709, which are sRGB's; unspecified
SRGB_TRANSFERS = (1, 2, 6, 13, 14)  # BT.709, unspecified, BT.601, sRGB, BT.2020 of 10 bits, which is BT.709's

EXIF_POINTER, INTEROPERABILITY_POINTER = 0x8769, 0xA005
ORIENTATION, COLOUR_SPACE, INTEROPERABILITY_INDEX = 0x0112, 0xA001, 0x0001
ADOBE_RGB = 2  # of COLOUR_SPACE, as some cameras write it; others write "R03" as the interoperability index


class PictureError(ValueError):
    """A picture that is not read; the message names it and says what was expected and what to do."""


@dataclass(frozen=True)
class Exif:
    """What counts of a camera's marks.

    Attributes:
        orientation: 1 to 8, 1 = upright; another number where the file has one that means nothing.
        adobe_rgb: whether the camera says that the values are Adobe RGB's.
    """

    orientation: int = 1
    adobe_rgb: bool = False


def kind_of(content: bytes, name: str) -> str:
    """One of KINDS, by the file's first bytes.

    Raises:
        PictureError: it is of no such kind.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if content[4:8] == b"ftyp":
        brands = content[8 : int.from_bytes(content[:4], "big")]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if any(brand in brands for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")):
            return "HEIF"
    found = next(
        (words for start, words in OTHER_KINDS.items() if content.startswith(start)), "no picture of a known kind"
    )
    found = found if content else "an empty file"
    raise PictureError(f"{name} is {found}, expected {KINDS_IN_WORDS}: save it as one of them")


def png_chunks(content: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG that stand before its pixels, by name; what is cut off is left out."""
    chunks: dict[bytes, bytes] = {}
    place = 8
    while place + 8 <= len(content):
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        if kind == b"IDAT":
            break
        chunks.setdefault(kind, content[place + 8 : place + 8 + length])
        place += 12 + length
    return chunks


def check_colours_of_png(chunks: dict[bytes, bytes], name: str) -> None:
    """Refuse a PNG of which no profile could be read, whose chunks say that its values are not sRGB's.

    Raises:
        PictureError: another gamma, other primaries, an HDR picture, or a profile that is broken.
    """
    code = chunks.get(b"cICP", b"")
    if len(code) == 4:
        _check_coding_points(code[0], code[1], name)
        return
    if b"iCCP" in chunks:
        raise PictureError(
            f"{name} has a colour profile that cannot be unpacked: save it as sRGB, or without the profile"
        )
    if b"sRGB" in chunks:
        return
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big") / 100_000
    if gamma and abs(gamma - SRGB_GAMMA) > GAMMA_TOLERANCE:
        raise PictureError(
            f"{name} says that its values have a gamma of {gamma:g}, expected sRGB's {SRGB_GAMMA:.4f}: save it as sRGB"
        )
    points = chunks.get(b"cHRM", b"")
    found = [value / 100_000 for value in struct.unpack(">8I", points)] if len(points) == 32 else SRGB_CHROMATICITIES
    if any(abs(one - other) > CHROMATICITY_TOLERANCE for one, other in zip(found, SRGB_CHROMATICITIES, strict=True)):
        raise PictureError(f"{name} has other primaries than sRGB's and no colour profile: save it as sRGB")


def check_colours_of_boxes(content: bytes, name: str) -> None:
    """Refuse an AVIF or HEIC file that says, without a profile, that its values are not sRGB's.

    Raises:
        PictureError: other primaries, or an HDR picture.
    """
    place = content.find(b"colrnclx", 0, HEADER_BYTES)
    if place >= 0 and len(content) >= place + 12:
        primaries, transfer = struct.unpack_from(">HH", content, place + 8)
        _check_coding_points(primaries, transfer, name)


def bits_of_avif(content: bytes) -> int:
    """8, 10 or 12 bits a value, from the decoder's configuration."""
    place = content.find(b"av1C", 0, HEADER_BYTES)
    flags = content[place + 6] if 0 <= place < len(content) - 6 else 0
    return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10


def read_exif(exif: bytes) -> Exif:
    """A camera's marks, read here because Pillow answers broken ones with warnings, which cannot be caught in threads.

    Raises:
        ValueError: they are broken.
    """
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise ValueError("no header")
    try:
        main = _entries(data, struct.unpack_from(f"{order}I", data, 4)[0], order)
        camera = _entries(data, main[EXIF_POINTER], order) if EXIF_POINTER in main else {}
        pointer = camera.get(INTEROPERABILITY_POINTER)
        index = _entries(data, pointer, order).get(INTEROPERABILITY_INDEX, 0) if pointer else 0
    except struct.error as error:
        raise ValueError(str(error)) from error
    adobe_rgb = camera.get(COLOUR_SPACE) == ADOBE_RGB or index == struct.unpack(f"{order}I", b"R03\0")[0]
    return Exif(main.get(ORIENTATION, 1), adobe_rgb)


def _entries(data: bytes, place: int, order: str) -> dict[int, int]:
    """Tag -> the number that stands in its entry: a value of 16 or 32 bits, four letters, or where the value is."""
    (count,) = struct.unpack_from(f"{order}H", data, place)
    found = {}
    for number in range(count):
        tag, kind = struct.unpack_from(f"{order}HH", data, place + 2 + 12 * number)
        (value,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, place + 10 + 12 * number)
        found[tag] = value
    return found


def _check_coding_points(primaries: int, transfer: int, name: str) -> None:
    if primaries not in SRGB_PRIMARIES or transfer not in SRGB_TRANSFERS:
        raise PictureError(
            f"{name} has the primaries {primaries} and the transfer {transfer} of ITU-T H.273, such as a wide-gamut or an HDR "
            "picture, and no colour profile, expected sRGB: save it as sRGB"
        )
