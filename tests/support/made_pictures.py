"""Picture files written byte by byte, so that what they hold is known without any decoder."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6  # colour types of a PNG
ADOBE_RGB_COLORANTS = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
ADOBE_RGB_GAMMA = 563 / 256
SRGB_TO_D50 = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
D50 = (0.9642, 1.0, 0.8249)

Numbers = NDArray[np.integer]


def png(values: Numbers, bits: int, colour_type: int, **chunks: bytes) -> bytes:
    """A PNG.

    Args:
        values: (H, W) or (H, W, C), each 0 to 2^bits - 1.
        bits: of a value.
        colour_type: see above.
        chunks: further ones by name, before the pixels.
    """
    height, width = values.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    flat = values.reshape(height, -1)
    rows = flat.astype(">u2").view(np.uint8) if bits == 16 else flat.astype(np.uint8)
    if bits < 8:
        single = np.unpackbits(rows[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
        rows = np.packbits(single, axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    further = [(name.encode(), content) for name, content in chunks.items()]
    every = [(b"IHDR", head), *further, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in every)


def tiff(
    values: Numbers, bits: int, photometric: int, order: str = "<", extra: int | None = None, orientation: int = 1
) -> bytes:
    """An uncompressed TIFF.

    Args:
        values: (H, W) or (H, W, C).
        bits: of a value, 8 or 16.
        photometric: 0 = white is zero, 1 = black is zero, 2 = RGB.
        order: "<" = the lower byte first.
        extra: what a fourth channel is: 0 = nothing certain, 1 = alpha that colours are multiplied with, 2 = alpha.
        orientation: as a camera's.
    """
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    pixels = values.astype(f"{order}u{bits // 8}").tobytes()
    entries = [
        (256, 3, [width]),
        (257, 3, [height]),
        (258, 3, [bits] * channels),
        (259, 3, [1]),
        (262, 3, [photometric]),
    ]
    entries += [
        (273, 4, [8]),
        (274, 3, [orientation]),
        (277, 3, [channels]),
        (278, 3, [height]),
        (279, 4, [len(pixels)]),
    ]
    entries += [(338, 3, [extra])] if extra is not None else []
    table, further = struct.pack(f"{order}H", len(entries)), b""
    start = 8 + len(pixels) + len(pixels) % 2
    after = start + 2 + 12 * len(entries) + 4
    for tag, kind, numbers in entries:
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            place, further = after + len(further), further + packed
            packed = struct.pack(f"{order}I", place)
        table += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + pixels + bytes(len(pixels) % 2) + table + bytes(4) + further


def icc_chunk(profile: bytes) -> bytes:
    """What an iCCP chunk holds."""
    return b"profile\0\0" + zlib.compress(profile)


def exif(orientation: int, order: str = "<", colour_space: int | None = None) -> bytes:
    """A camera's marks."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = [(0x0112, 3, orientation)] + ([(0x8769, 4, 38)] if colour_space else [])
    tables = _entries(entries, order).ljust(30, b"\0")
    if colour_space:
        tables += _entries([(0xA001, 3, colour_space)], order)
    return b"Exif\0\0" + mark + struct.pack(f"{order}I", 8) + tables


def rgb_profile(
    colorants: tuple[tuple[float, float, float], ...] = ADOBE_RGB_COLORANTS,
    gamma: float = ADOBE_RGB_GAMMA,
    description: str = "Adobe RGB (1998)",
) -> bytes:
    """An ICC profile of three colorants (XYZ for D50) and a gamma."""
    points = [_numbers(b"XYZ ", *colorant) for colorant in colorants]
    tags = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), points, strict=True))
    curve = _curve(gamma)
    return _profile(b"mntr", b"RGB ", b"XYZ ", description, tags | {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def grey_profile(gamma: float) -> bytes:
    """An ICC profile for greys."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", f"Gray Gamma {gamma:g}", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """An ICC profile whose black ink takes away lightness evenly, and whose other inks do nothing."""
    lightness = [0 if black else 255 for _ in range(8) for black in (0, 1)]
    table = bytes(value for one in lightness for value in (one, 128, 128))
    straight = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (row == column) for row in range(3) for column in range(3)))
    tag = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + 4 * straight + table + 3 * straight
    return _profile(b"prtr", b"CMYK", b"Lab ", "Black alone", {b"A2B0": tag})


def adobe_rgb_to_srgb(values: Numbers) -> NDArray[np.float64]:
    """(..., 3), 0..255, by the formulas of both spaces, not rounded."""
    linear = (values / 255) ** ADOBE_RGB_GAMMA
    xyz = linear @ np.array(ADOBE_RGB_COLORANTS)
    return srgb_of_linear(xyz @ np.linalg.inv(SRGB_TO_D50).T)


def srgb_of_linear(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light, 0..1, as sRGB, 0..255."""
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def luminance_of_lightness(lightness: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB's L, 0..100, as light, 0..1."""
    root = (lightness + 16) / 116
    return np.where(lightness > 8, root**3, lightness / 903.3)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _entries(entries: list[tuple[int, int, int]], order: str) -> bytes:
    found = struct.pack(f"{order}H", len(entries))
    for tag, kind, value in entries:
        found += struct.pack(
            f"{order}HHI{'HH' if kind == 3 else 'I'}", tag, kind, 1, value, *([0] if kind == 3 else [])
        )
    return found + bytes(4)


def _numbers(kind: bytes, *values: float) -> bytes:
    return kind + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def _profile(kind: bytes, space: bytes, connection: bytes, description: str, tags: dict[bytes, bytes]) -> bytes:
    text = description.encode() + b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": _numbers(b"XYZ ", *D50),
        **tags,
    }
    place, table, content = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", place + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(content), b"test", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += b"".join(struct.pack(">i", round(value * 65536)) for value in D50)
    return head.ljust(128, b"\0") + table + content
