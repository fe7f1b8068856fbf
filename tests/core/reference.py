"""Slow float64 references, written from the equations and definitions with plain loops and an explicit softmax.

Nothing of the package is used here. Images are (C, H, W), tokens (N, D), heads joined in the last axis; one item at a
time, never a batch. Masks are named for their polarity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

Array = np.ndarray
Cells = list[list[int]]  # source pixels of each patch along one axis


# Fit and patch counting (section 3.2)


def axis_plan(length: int, other: int, input_size: int, patch_size: int, fit: str) -> tuple[int, int]:
    """How many input pixels an axis of `length` becomes beside an axis of `other`, and where they start."""
    if fit == "stretch":
        return input_size, 0
    side = min(length, other) if fit == "crop" else max(length, other)
    scaled = max(1, round(input_size / side * length))
    margin = (input_size - scaled) / 2  # negative where the input cuts
    return scaled, math.ceil(margin) if fit == "crop" else patch_size * math.floor(margin / patch_size)


def axis_cells(length: int, scaled: int, offset: int, input_size: int, patch_size: int) -> Cells:
    """Source pixels of each patch: a pixel belongs to the patch that holds its far edge.

    A patch that holds image but no far edge (an enlarged image) takes the pixel that its own start lies in.
    """
    cells: Cells = []
    for start in range(-offset, input_size - offset, patch_size):
        low, high = max(start, 0), min(start + patch_size, scaled)
        far_edge = [Fraction((pixel + 1) * scaled, length) for pixel in range(length)]
        cell = [pixel for pixel in range(length) if low < far_edge[pixel] <= high]
        if not cell and low < high:
            cell = [next(pixel for pixel in range(length) if far_edge[pixel] > low)]
        cells.append(cell)
    return cells


def image_cells(height: int, width: int, input_size: int, patch_size: int, fit: str) -> tuple[Cells, Cells]:
    """Source rows and source columns of each patch."""
    rows = axis_plan(height, width, input_size, patch_size, fit)
    columns = axis_plan(width, height, input_size, patch_size, fit)
    return (
        axis_cells(height, *rows, input_size, patch_size),
        axis_cells(width, *columns, input_size, patch_size),
    )


def patch_keep_mask(keep_mask: Array, rows: Cells, columns: Cells, threshold: Fraction) -> Array:
    """D -> D_p: a patch is hidden if its count of 0 exceeds the threshold's share of its area, or if it is padding."""
    kept = np.zeros((len(rows), len(columns)), dtype=bool)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            zeros = sum(1 for y in row for x in column if not keep_mask[y, x])
            area = len(row) * len(column)
            kept[i, j] = area > 0 and not zeros > threshold * area
    return kept


def pixels_of(patches: Array, rows: Cells, columns: Cells, height: int, width: int) -> Array:
    """(H, W) bool: the pixel belongs to at least one patch that is True."""
    pixels = np.zeros((height, width), dtype=bool)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            for y in row:
                for x in column:
                    pixels[y, x] |= patches[i, j]
    return pixels


# Mask-weighted resize


def resize_weights(length: int, scaled: int, kernel: str) -> Array:
    """(scaled, length) weights of an antialiased resize: the kernel is as wide as a pixel of the smaller image."""
    step = length / scaled
    stretch = max(step, 1.0)
    weights = np.zeros((scaled, length))
    for out in range(scaled):
        for source in range(length):
            weights[out, source] = _kernel((source + 0.5 - (out + 0.5) * step) / stretch, kernel)
        weights[out] /= weights[out].sum()
    return weights


def _kernel(distance: float, kernel: str) -> float:
    x = abs(distance)
    if kernel == "bilinear":
        return max(0.0, 1.0 - x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def visible_pixels(
    image: Array, keep_mask: Array, row_kernels: dict[str, Array], column_kernels: dict[str, Array]
) -> Array:
    """Resize (C, H, W) by the visible pixels alone, before any crop or padding; NaN where none is in reach.

    sum(w D I) / sum(w D) with the positive kernel where the bicubic one meets a hidden pixel, bicubic elsewhere.
    """
    rows, columns = row_kernels["bilinear"], column_kernels["bilinear"]
    shown = np.where(keep_mask, image, 0.0)
    total = np.einsum("oy,cyx,px->cop", rows, shown, columns)
    weight = rows @ keep_mask.astype(float) @ columns.T
    sharp = np.einsum("oy,cyx,px->cop", row_kernels["bicubic"], shown, column_kernels["bicubic"])
    reach = np.abs(row_kernels["bicubic"]) @ (~keep_mask).astype(float) @ np.abs(column_kernels["bicubic"]).T
    average = total / np.where(weight > 1e-9, weight, np.nan)
    return np.where(reach > 1e-9, average, sharp)


# Eq. 1 with a small ViT


def layer_norm(tokens: Array, weight: Array, bias: Array) -> Array:
    mean, variance = tokens.mean(-1, keepdims=True), tokens.var(-1, keepdims=True)
    return (tokens - mean) / np.sqrt(variance + 1e-5) * weight + bias


def gelu(values: Array) -> Array:
    return np.vectorize(lambda value: 0.5 * value * (1 + math.erf(value / math.sqrt(2))))(values)


def eq1_tokens(pixel_values: Array, kernel: Array, patch_keep: Array) -> Array:
    """z_ref = Projection(I_ref * D_p) * D_z: (C, S, S), (D, C, P, P), (grid, grid) bool -> (N, D)."""
    patch_size, grid = kernel.shape[2], patch_keep.shape[0]
    tokens = np.zeros((grid * grid, kernel.shape[0]))
    for i in range(grid):
        for j in range(grid):
            patch = pixel_values[:, i * patch_size : (i + 1) * patch_size, j * patch_size : (j + 1) * patch_size]
            masked = patch * float(patch_keep[i, j])
            for channel in range(kernel.shape[0]):
                tokens[i * grid + j, channel] = (kernel[channel] * masked).sum() * float(patch_keep[i, j])
    return tokens


def vit(
    weights: Mapping[str, Array],
    pixel_values: Array,
    patch_keep: Array,
    in_sequence: Array,
    num_layers: int,
    heads: int,
) -> tuple[Array, Array, Array]:
    """Last and penultimate tokens and the pooled embedding of the tests' TinyVit, from its state dict."""
    tokens = eq1_tokens(pixel_values, weights["conv.weight"], patch_keep)
    positions = weights["position_embedding"]
    sequence = [weights["class_embedding"] + positions[0]]
    sequence += [tokens[n] + positions[n + 1] for n in range(len(tokens)) if in_sequence.reshape(-1)[n]]
    hidden = layer_norm(np.stack(sequence), weights["norm_in.weight"], weights["norm_in.bias"])
    before = hidden
    for layer in range(num_layers):
        before, hidden = hidden, _vit_block(weights, f"blocks.{layer}.", hidden, heads)
    class_token = layer_norm(hidden[0], weights["norm_out.weight"], weights["norm_out.bias"])
    return hidden, before, class_token @ weights["projection.weight"].T


def _vit_block(weights: Mapping[str, Array], prefix: str, hidden: Array, heads: int) -> Array:
    def linear(name: str, values: Array) -> Array:
        return values @ weights[f"{prefix}{name}.weight"].T + weights[f"{prefix}{name}.bias"]

    normed = layer_norm(hidden, weights[f"{prefix}norm1.weight"], weights[f"{prefix}norm1.bias"])
    mixed = attention(linear("query", normed), linear("key", normed), linear("value", normed), heads)
    hidden = hidden + linear("out", mixed)
    normed = layer_norm(hidden, weights[f"{prefix}norm2.weight"], weights[f"{prefix}norm2.bias"])
    return hidden + linear("fc2", gelu(linear("fc1", normed)))


# Eq. 3 and the public resampler


def eq3(tokens: Array, latents: Array) -> Array:
    """Z' = Q Z^T Z, literally: (N, D), (c, D) -> (c, D)."""
    out = np.zeros_like(latents)
    for i in range(latents.shape[0]):
        for token in tokens:
            similarity = sum(latents[i, d] * token[d] for d in range(len(token)))
            for d in range(len(token)):
                out[i, d] += similarity * token[d]
    return out


def resampler(weights: Mapping[str, Array], tokens: Array, depth: int, head_dim: int = 64) -> Array:
    """IP-Adapter-plus: (N, E) -> (c, context_dim), from the keys of its public file without `image_proj.`."""

    def norm(name: str, values: Array) -> Array:
        return layer_norm(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    tokens = tokens @ weights["proj_in.weight"].T + weights["proj_in.bias"]
    latents = weights["latents"][0]
    for i in range(depth):
        queries = norm(f"layers.{i}.0.norm2", latents)
        source = np.concatenate([norm(f"layers.{i}.0.norm1", tokens), queries])
        key, value = np.split(source @ weights[f"layers.{i}.0.to_kv.weight"].T, 2, axis=1)
        query = queries @ weights[f"layers.{i}.0.to_q.weight"].T
        mixed = attention(query, key, value, query.shape[1] // head_dim)
        latents = latents + mixed @ weights[f"layers.{i}.0.to_out.weight"].T
        widened = gelu(norm(f"layers.{i}.1.0", latents) @ weights[f"layers.{i}.1.1.weight"].T)
        latents = latents + widened @ weights[f"layers.{i}.1.3.weight"].T
    return norm("norm_out", latents @ weights["proj_out.weight"].T + weights["proj_out.bias"])


# Eq. 4, Eq. 6 and the formula that holds both


def attention(query: Array, key: Array, value: Array, heads: int) -> Array:
    """softmax(Q K^T / sqrt d) V, one head and one row at a time."""
    width = query.shape[1] // heads
    out = np.zeros((query.shape[0], value.shape[1]))
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for row in range(query.shape[0]):
            logits = np.array([np.dot(query[row, part], other[part]) / math.sqrt(width) for other in key])
            weights = np.exp(logits - logits.max())
            out[row, part] = (weights / weights.sum()) @ value[:, part]
    return out


def eq4(query: Array, text: tuple[Array, Array], image: tuple[Array, Array], image_scale: float, heads: int) -> Array:
    return attention(query, *text, heads) + image_scale * attention(query, *image, heads)


def eq6(query: Array, text: tuple[Array, Array], image: tuple[Array, Array], query_mask: Array, heads: int) -> Array:
    """As printed: both queries are multiplied, there is no lambda."""
    mask = query_mask[:, None]
    return attention((1 - mask) * query, *text, heads) + attention(mask * query, *image, heads)


def text_image_attention(
    query: Array,
    text: tuple[Array, Array],
    images: Sequence[tuple[Array, Array]],
    query_masks: Sequence[Array],
    prompts: Sequence[tuple[float, float, str]],
    heads: int,
    text_heads: int | None = None,
) -> Array:
    """Any number of image prompts, each (image_scale, text_share, gate), with hard or soft regions."""
    text_in, text_out = np.ones(len(query)), np.ones(len(query))
    for mask, (_, text_share, gate) in zip(query_masks, prompts, strict=True):
        taken = text_in if gate == "query" else text_out
        taken -= (1 - text_share) * mask
    text_in, text_out = np.maximum(text_in, 0)[:, None], np.maximum(text_out, 0)[:, None]
    out = text_out * attention(text_in * query, *text, text_heads or heads)
    for image, mask, (image_scale, _, gate) in zip(images, query_masks, prompts, strict=True):
        mask = mask[:, None]
        if gate == "query":
            out += image_scale * attention(mask * query, *image, heads)
        else:
            out += image_scale * mask * attention(query, *image, heads)
    return out


# Eq. 8 of the strictly-ID-preserved paper


def weighted_std(values: Array, region: Array) -> float:
    """Standard deviation over queries and channels, a query counted by its region's weight."""
    weights = np.broadcast_to(region, values.shape).ravel()
    flat = values.ravel()
    mean = sum(weight * value for weight, value in zip(weights, flat, strict=True)) / weights.sum()
    variance = sum(weight * (value - mean) ** 2 for weight, value in zip(weights, flat, strict=True)) / weights.sum()
    return math.sqrt(variance)


# Eq. 5


def strided_conv_length(length: int, kernel: int = 3, stride: int = 2, padding: int = 1) -> int:
    """Output length of the convolution that halves a latent in a U-Net."""
    return (length + 2 * padding - kernel) // stride + 1


def halvings(latent_size: tuple[int, int], grid: tuple[int, int]) -> int | None:
    """How many strided convolutions lead from a latent to a grid, None if no number does."""
    for count in range(32):
        if latent_size == grid:
            return count
        latent_size = (strided_conv_length(latent_size[0]), strided_conv_length(latent_size[1]))
    return None


def cell_edges(cells: int, latent_length: int, count: int | None) -> list[Fraction]:
    """Edges of the cells as shares of the frame: 2^count latent pixels each, or even ones."""
    if count is None:
        return [Fraction(cell, cells) for cell in range(cells + 1)]
    return [Fraction(min(cell * 2**count, latent_length), latent_length) for cell in range(cells + 1)]


def query_mask(region: Array, row_edges: Sequence[Fraction], column_edges: Sequence[Fraction]) -> Array:
    """Integral of a pixelwise constant region over each cell, divided by the cell's area, in exact fractions."""
    height, width = region.shape
    out = np.zeros((len(row_edges) - 1, len(column_edges) - 1))
    for i, (top, bottom) in enumerate(pairwise(row_edges)):
        for j, (left, right) in enumerate(pairwise(column_edges)):
            covered = Fraction(0)
            for y in range(math.floor(top * height), math.ceil(bottom * height)):
                overlap_y = min(bottom, Fraction(y + 1, height)) - max(top, Fraction(y, height))
                for x in range(math.floor(left * width), math.ceil(right * width)):
                    overlap_x = min(right, Fraction(x + 1, width)) - max(left, Fraction(x, width))
                    covered += overlap_y * overlap_x * Fraction(float(region[y, x]))
            out[i, j] = covered / ((bottom - top) * (right - left))
    return out


# Depth and composite


def compose_depth(
    foreground: Array, product_mask: Array, reference: Array, visible_mask: Array, hidden: float
) -> Array:
    """One pixel at a time; `hidden` stands where neither the product is nor the reference is visible."""
    out = np.empty_like(foreground)
    for y in range(foreground.shape[1]):
        for x in range(foreground.shape[2]):
            if product_mask[y, x]:
                out[:, y, x] = foreground[:, y, x]
            else:
                out[:, y, x] = reference[:, y, x] if visible_mask[y, x] else hidden
    return out


def core(mask: Array, erode: int) -> Array:
    """Where no pixel outside the mask is within `erode`, and all of what is too thin for that."""
    stays = mask & ~near(~mask, erode)
    if not stays.any():
        return stays
    opened = near(stays, erode)
    lost = mask & ~opened
    far, reach = lost & ~near(stays, 2**0.5 * erode + 1), max(erode, 2) + 1
    open_ground = ~np.pad(near(opened, reach), 1)
    between = lost & ~near(open_ground, reach)[1:-1, 1:-1]
    return stays | (mask & near(between | (lost & near(far, reach)), reach))


def near(mask: Array, reach: float) -> Array:
    """The pixels with one of the mask within `reach`, centre to centre."""
    found, places = np.zeros_like(mask), np.indices(mask.shape)
    for y, x in np.argwhere(mask):
        found |= (places[0] - y) ** 2 + (places[1] - x) ** 2 <= reach**2
    return found


def paste_back(generated: Array, product: Array, product_mask: Array, erode: int, feather: int) -> tuple[Array, Array]:
    """One pixel at a time. Inside is the mask's core; the ramp ends with the mask."""
    height, width = product_mask.shape
    exact = core(product_mask, erode)
    kept, length = np.argwhere(exact), min(erode, feather)
    out = generated.copy()
    for y in range(height):
        for x in range(width):
            distance = np.sqrt(((kept - [y, x]) ** 2).sum(1).min())
            if distance == 0:
                out[:, y, x] = product[:, y, x]
            elif product_mask[y, x] and distance < length + 1:
                alpha = 1 - distance / (length + 1)
                out[:, y, x] = alpha * product[:, y, x] + (1 - alpha) * generated[:, y, x]
    return out, exact
