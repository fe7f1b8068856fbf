"""Image prompts in the cross-attentions of a diffusers U-Net, by the mathematics of `pfv_core.attention`.

`image_prompts` puts a processor of its own into every cross-attention for as long as it lasts. The processor projects
as diffusers' does, attends as the processor that it stands in for does (plain matrix products for AttnProcessor, fused
attention for AttnProcessor2_0), and joins text and images as Eq. 4 and 6 say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from pfv_core.adapter import Adapter, AdapterConfig, AdapterKind
from pfv_core.attention import Gate, SampleWeights, sample_weights, text_image_attention_by_sample
from pfv_core.balance import Balance, balanced_attention, time_weight, weigh
from pfv_core.choices import parse_choice
from pfv_core.query_mask import LATENT_SCALE, frame_matches, layer_grid, query_mask
from pfv_core.resampler import HEAD_DIM
from pfv_core.unet_layout import AttentionLayer, unet_layers
from pfv_core.vit import EncoderSpec


def attention_layers(unet: UNet2DConditionModel) -> dict[AttentionLayer, str]:
    """Every cross-attention of a U-Net, in the order of adapter files: input, output, middle.

    Returns:
        Place -> name of the module (`down_blocks.1.attentions.0.transformer_blocks.0.attn2`).

    Raises:
        ValueError: no cross-attention, or one outside a transformer (the simple kind of DeepFloyd's U-Nets).
    """
    level = 0
    inputs, outputs = [], []
    for number, block in enumerate(unet.down_blocks):
        inputs += _transformers(block, f"down_blocks.{number}", level)
        level += getattr(block, "downsamplers", None) is not None
    middles = _transformers(unet.mid_block, "mid_block", level)
    for number, block in enumerate(unet.up_blocks):
        outputs += _transformers(block, f"up_blocks.{number}", level)
        level -= getattr(block, "upsamplers", None) is not None
    layers = unet_layers(_depths(inputs), next(iter(_depths(middles)), None), _depths(outputs))
    names = [name for _, blocks in (*inputs, *outputs, *middles) for name in blocks]
    _check_all_found(unet, names)
    return dict(zip(layers, names, strict=True))


def adapter_config(
    unet: UNet2DConditionModel,
    *,
    kind: AdapterKind,
    base: str,
    encoder: EncoderSpec,
    num_tokens: int,
    latent_width: int = 0,
    inner_width: int = 0,
    depth: int = 0,
    feedforward: int = 0,
) -> AdapterConfig:
    """The configuration of an adapter for a U-Net and an image encoder.

    Args:
        unet: gives the layers, their widths and the context's.
        kind: of the image projection.
        base: the family of U-Nets, such as sdxl.
        encoder: what the references are encoded with.
        num_tokens: image prompt tokens, c, at least 1; of a tokens adapter those of the encoder, class token included.
        latent_width: channels of the latents of eq3 and resampler.
        inner_width: channels of the resampler's attention, whole heads of 64.
        depth, feedforward: layers of the resampler and hidden width of their MLPs.

    Raises:
        ValueError: a size that this kind needs is missing, or one that it has no use for is given.
    """
    kind = parse_choice(AdapterKind, kind, "kind")
    sizes = {"latent_width": latent_width, "inner_width": inner_width, "depth": depth, "feedforward": feedforward}
    _check_sizes(kind, num_tokens, sizes)
    layers = attention_layers(unet)
    keys = [_linear(unet, f"{name}.to_k") for name in layers.values()]
    context_dims = {key.in_features for key in keys}
    if len(context_dims) != 1:
        raise ValueError(f"the U-Net's cross-attentions take contexts of {sorted(context_dims)} channels: expected one")
    return AdapterConfig(
        kind=kind,
        base=base,
        encoder_width=encoder.projection_size if kind is AdapterKind.LINEAR else encoder.hidden_size,
        num_tokens=num_tokens,
        context_dim=context_dims.pop(),
        layers=tuple(layers),
        widths=tuple(key.out_features for key in keys),
        latent_width=latent_width,
        inner_width=inner_width,
        depth=depth,
        feedforward=feedforward,
    )


def new_adapter(unet: UNet2DConditionModel, config: AdapterConfig, seed: int) -> Adapter:
    """An untrained adapter, float32, on the U-Net's device.

    Args:
        unet: whose text projections the image projections start from.
        config: made for this U-Net, see `adapter_config`.
        seed: of the image projection's initial weights; torch's global generator is left as it is.

    Returns:
        Latents drawn with deviation 1 / sqrt(width), linear layers as torch draws them, `to_k_ip` and `to_v_ip` copies
        of the text's `to_k` and `to_v` (section 4.1 of the paper).

    Raises:
        ValueError: a configuration of another U-Net.
    """
    names = attention_layers(unet)
    if tuple(names) != config.layers:
        raise ValueError(
            f"the configuration is for a U-Net of {len(config.layers)} cross-attentions, this one has {len(names)} or has "
            "them at other places: make it with adapter_config for this U-Net"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = Adapter(config)
        latents = getattr(adapter.image_proj, "latents", None)
        if latents is not None:
            nn.init.normal_(latents, std=config.latent_width**-0.5)
    with torch.no_grad():
        for index, name in enumerate(names.values()):
            for part in ("to_k", "to_v"):
                _linear(adapter.ip_adapter, f"{part}_ip.{index}").weight.copy_(_linear(unet, f"{name}.{part}").weight)
    return adapter.to(unet.device)


@dataclass(frozen=True)
class Branch:
    """One image prompt in one forward pass of a batch of B.

    Attributes:
        keys_values: per layer in file order the key and value, (B or 1, c, width), see `Adapter.keys_values`.
        image_scale: lambda, one number or (B,). A sample with 0 has no image prompt at all, whatever its text share.
        text_share: how much the text keeps inside the region, one number or (B,), 0..1.
        gate: where the region is applied.
        region: (B or 1, H, W) float, 0..1, 1 = the image prompt rules; of the frame's shape at any resolution; None = the
            whole frame.
        balance: normalisation and time weighting against the text. A time weight reads the timestep that the U-Net is
            called with, one for the whole batch.

    Raises:
        ValueError: a text_share outside 0..1, a scale that is not finite, a gamma that is not above 0, an unknown gate,
            wrong shapes.
    """

    keys_values: Sequence[tuple[Tensor, Tensor]]
    image_scale: float | Tensor = 1.0
    text_share: float | Tensor = 1.0
    gate: Gate = Gate.OUTPUT
    region: Tensor | None = None
    balance: Balance = Balance()  # noqa: RUF009, frozen

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate", parse_choice(Gate, self.gate, "gate"))
        for name in ("image_scale", "text_share"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.ndim != 1:
                raise ValueError(f"{name} is {tuple(value.shape)}, expected one number or (B,)")
        share, scale = torch.as_tensor(self.text_share), torch.as_tensor(self.image_scale)
        if not bool(((share >= 0) & (share <= 1)).all()):
            raise ValueError(f"text_share is {self.text_share}, expected 0 (no text in the region) to 1 (all of it)")
        if not bool(scale.isfinite().all()):
            raise ValueError(f"image_scale is {self.image_scale}, expected finite numbers")
        if self.region is not None and self.region.ndim != 3:
            raise ValueError(f"region is {tuple(self.region.shape)}, expected (B, H, W)")
        if self.balance.gamma is not None and not self.balance.gamma > 0:
            raise ValueError(f"gamma is {self.balance.gamma}, expected more than 0 timesteps")

    @property
    def batch_sizes(self) -> dict[str, int]:
        """How many samples each part that is given per sample is for."""
        parts = {"image_scale": self.image_scale, "text_share": self.text_share, "region": self.region}
        sizes = {name: len(part) for name, part in parts.items() if isinstance(part, Tensor)}
        return {"keys_values": max(len(key) for key, _ in self.keys_values), **sizes}

    def numbers(self, weight: float) -> tuple[float | Tensor, float | Tensor]:
        """image_scale and text_share on the CPU at a time weight; the share is 1 where the scale is 0."""
        scale, share = (v.cpu() if isinstance(v, Tensor) else v for v in (self.image_scale, self.text_share))
        if isinstance(scale, Tensor):
            share = torch.where(scale.detach() == 0, 1.0, torch.as_tensor(share, dtype=torch.float64))
        return (scale, share) if weight == 1.0 else weigh(scale, share, weight)


@contextmanager
def image_prompts(
    unet: UNet2DConditionModel, branches: Sequence[Branch], latent_size: tuple[int, int]
) -> Iterator[None]:
    """Run a U-Net with image prompts in every cross-attention.

    Args:
        unet: any UNet2DConditionModel; gradients flow through it into the branches.
        branches: the image prompts. Those of scale 0 are left out, and without any the U-Net stays untouched.
        latent_size: rows and columns of the latents that will go in.

    Under gradient checkpointing the backward pass recomputes the forward pass: keep it inside this context too.

    Raises:
        ValueError: a region of another shape than the frame, keys and values of another U-Net, an attention processor
            that this one cannot stand in for; inside, latents of another size or batch, or a time weight in a batch of
            several timesteps.
    """
    branches = [branch for branch in branches if isinstance(branch.image_scale, Tensor) or branch.image_scale != 0.0]
    if not branches:
        yield
        return
    layers = attention_layers(unet)
    for branch in branches:
        _check_branch(branch, len(layers), latent_size)
    passes = _Passes(branches, latent_size)
    with ExitStack() as stack:
        begin = partial(_begin_pass, branches, latent_size, passes)
        stack.callback(unet.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for index, (layer, name) in enumerate(layers.items()):
            attention = unet.get_submodule(name)
            assert isinstance(attention, Attention)
            plain = attention.processor
            processor: Any = _Processor(
                _attend_like(plain, name), [branch.keys_values[index] for branch in branches], passes, layer
            )
            attention.set_processor(processor)
            stack.callback(attention.set_processor, plain)
        yield


@dataclass(frozen=True)
class _Pass:
    """The branches that take part in a forward pass, by their index, on the grid of one level."""

    branches: tuple[int, ...]
    weights: SampleWeights
    regions: tuple[Tensor | None, ...]
    normalized: tuple[bool, ...]


class _Passes:
    """What of the branches holds for a forward pass, computed once for all layers of a level and kept while it holds."""

    def __init__(self, branches: Sequence[Branch], latent_size: tuple[int, int]) -> None:
        self._branches = branches
        self._latent_size = latent_size
        self._time_weights = tuple(1.0 for _ in branches)
        self._known: dict[tuple[int, torch.device, torch.dtype], _Pass] = {}

    def begin(self, timestep: Tensor | float) -> None:
        """A forward pass at a timestep, which is read only where a branch is weighted by it.

        Raises:
            ValueError: samples of one batch at different timesteps.
        """
        gammas = [branch.balance.gamma for branch in self._branches]
        if all(gamma is None for gamma in gammas):
            return
        now = _one_timestep(timestep)
        weights = tuple(1.0 if gamma is None else time_weight(now, gamma) for gamma in gammas)
        if weights != self._time_weights:
            self._time_weights = weights
            self._known.clear()

    def at(self, layer: AttentionLayer, query: Tensor) -> _Pass:
        """The branches for the queries (B, L, C) of a layer."""
        rows, columns = self._latent_size
        grid = layer_grid(rows * LATENT_SCALE, columns * LATENT_SCALE, layer.level)
        if query.shape[1] != grid[0] * grid[1]:
            raise ValueError(
                f"{layer} has {query.shape[1]} queries, a latent of {rows}x{columns} gives it {grid[0]}x{grid[1]}: the "
                "U-Net changes its resolution in another way than by halving, which regions cannot follow"
            )
        key = (layer.level, query.device, query.dtype)
        if key not in self._known:
            self._known[key] = self._on(grid, query)
        return self._known[key]

    def _on(self, grid: tuple[int, int], query: Tensor) -> _Pass:
        present = tuple(index for index, weight in enumerate(self._time_weights) if weight != 0.0)
        branches = [self._branches[index] for index in present]
        numbers = [self._branches[index].numbers(self._time_weights[index]) for index in present]
        masks = [
            None if branch.region is None else query_mask(branch.region, grid, self._latent_size) for branch in branches
        ]
        weights = sample_weights(
            masks,
            [scale for scale, _ in numbers],
            [share for _, share in numbers],
            [branch.gate for branch in branches],
        )
        return _Pass(
            present,
            weights.to(query.device, query.dtype),
            tuple(None if mask is None else mask[..., None].to(query.device, torch.float32) for mask in masks),
            tuple(branch.balance.std_norm for branch in branches),
        )


def _one_timestep(timestep: Tensor | float) -> float:
    if not isinstance(timestep, Tensor):
        return float(timestep)
    if timestep.unique().numel() != 1:
        raise ValueError(
            f"the batch has timesteps {timestep.flatten().tolist()}, a time weight needs one for all its samples: leave "
            "gamma None, or call the U-Net for one timestep at a time"
        )
    return float(timestep.flatten()[0])


Scores = Callable[[Attention, Tensor | None, Tensor, Tensor, Tensor], Tensor]
"""(layer, mask bias, (B, L, C) query, (B, S, C) key, (B, S, C) value) -> (B, L, C)."""


class _Processor:
    """What stands in for the processor of one cross-attention."""

    def __init__(
        self, scores: Scores, keys_values: Sequence[tuple[Tensor, Tensor]], passes: _Passes, layer: AttentionLayer
    ) -> None:
        self._scores = scores
        self._keys_values = keys_values
        self._passes = passes
        self._layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """(B, L, C) queries' features, (B, S, context_dim) text -> (B, L, C)."""
        residual = hidden_states
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if attn.norm_cross:
            encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
        batch, length, _ = encoder_hidden_states.shape
        bias = None if attention_mask is None else attn.prepare_attention_mask(attention_mask, length, batch)
        query = attn.to_q(hidden_states)
        text = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        now = self._passes.at(self._layer, query)
        images = [
            (key.to(query).expand(batch, -1, -1), value.to(query).expand(batch, -1, -1))
            for key, value in (self._keys_values[index] for index in now.branches)
        ]
        attend, base = partial(self._scores, attn, None), partial(self._scores, attn, bias)
        if any(now.normalized):
            out = balanced_attention(query, text, images, now.weights, now.regions, now.normalized, attend, base)
        else:
            out = text_image_attention_by_sample(query, text, images, now.weights, attend, base)
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


def _plain(attn: Attention, bias: Tensor | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Matrix products and a softmax, as AttnProcessor has them."""
    query, key, value = (attn.head_to_batch_dim(tensor) for tensor in (query, key, value))
    out: Tensor = attn.batch_to_head_dim(torch.bmm(attn.get_attention_scores(query, key, bias), value))
    return out


def _fused(attn: Attention, bias: Tensor | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """torch's fused attention, as AttnProcessor2_0 has it."""
    query, key, value = (tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for tensor in (query, key, value))
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    if bias is not None:
        bias = bias.unflatten(0, (-1, attn.heads))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)


def _attend_like(processor: Any, name: str) -> Scores:
    known: dict[type, Scores] = {AttnProcessor: _plain, AttnProcessor2_0: _fused}
    if type(processor) not in known:
        raise ValueError(
            f"{name} has the attention processor {type(processor).__name__}, which image prompts cannot stand in for: "
            "call unet.set_attn_processor(AttnProcessor2_0()) first"
        )
    return known[type(processor)]


def _transformers(block: nn.Module | None, name: str, level: int) -> list[tuple[int, list[str]]]:
    """(level, names of the cross-attentions) of each transformer of a block."""
    return [
        (
            level,
            [f"{name}.attentions.{number}.transformer_blocks.{i}.attn2" for i in range(len(module.transformer_blocks))],
        )
        for number, module in enumerate(getattr(block, "attentions", ()))
        if isinstance(module, Transformer2DModel)
    ]


def _depths(transformers: Sequence[tuple[int, list[str]]]) -> list[tuple[int, int]]:
    return [(level, len(names)) for level, names in transformers]


def _check_all_found(unet: UNet2DConditionModel, names: Sequence[str]) -> None:
    """ValueError unless `names` are the cross-attentions of the U-Net."""
    there = {
        name
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and module.is_cross_attention and not name.endswith(".attn1")
    }
    if not names:
        raise ValueError("the U-Net has no cross-attention to put an image prompt into")
    if there != set(names):
        raise ValueError(
            f"the U-Net has cross-attentions that image prompts cannot use, {min(there ^ set(names))} for one: use one "
            "of the U-Nets of SD1.5, SD2 or SDXL"
        )


def _linear(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    if not isinstance(module, nn.Linear):
        raise ValueError(f"{name} is a {type(module).__name__}, expected Linear: merge or unload what wraps it")
    return module


def _check_sizes(kind: AdapterKind, num_tokens: int, sizes: dict[str, int]) -> None:
    needs = {
        AdapterKind.LINEAR: (),
        AdapterKind.TOKENS: (),
        AdapterKind.EQ3: ("latent_width",),
        AdapterKind.RESAMPLER: ("latent_width", "inner_width", "depth", "feedforward"),
    }[kind]
    if num_tokens < 1:
        raise ValueError(f"num_tokens is {num_tokens}, expected 1 or more")
    for name, size in sizes.items():
        if name in needs and size < 1:
            raise ValueError(f"{name} is {size}, a {kind.value} adapter needs 1 or more")
        if name not in needs and size != 0:
            raise ValueError(f"{name} is {size}, a {kind.value} adapter has none: leave it 0")
    if sizes["inner_width"] % HEAD_DIM:
        raise ValueError(f"inner_width is {sizes['inner_width']}, expected whole heads of {HEAD_DIM}")


def _check_branch(branch: Branch, num_layers: int, latent_size: tuple[int, int]) -> None:
    if len(branch.keys_values) != num_layers:
        raise ValueError(
            f"the image prompt has keys and values for {len(branch.keys_values)} layers, the U-Net has {num_layers}: use an "
            "adapter made for it"
        )
    if branch.region is None or frame_matches((branch.region.shape[1], branch.region.shape[2]), latent_size):
        return
    height, width = (LATENT_SCALE * side for side in latent_size)
    raise ValueError(
        f"the region is {branch.region.shape[1]}x{branch.region.shape[2]}, the image is {height}x{width} (height x width): "
        "give the region the image's shape"
    )


def _begin_pass(
    branches: Sequence[Branch],
    latent_size: tuple[int, int],
    passes: _Passes,
    unet: nn.Module,
    args: tuple[Any, ...],
    kwargs: Any,
) -> None:
    """Forward pre-hook: what goes in is what the image prompts were made for, and the pass has its timestep."""
    sample = args[0] if args else kwargs["sample"]
    if tuple(sample.shape[-2:]) != tuple(latent_size):
        raise ValueError(
            f"the latents are {sample.shape[-2]}x{sample.shape[-1]}, image_prompts was given latent_size "
            f"{latent_size[0]}x{latent_size[1]}"
        )
    for branch in branches:
        for name, size in branch.batch_sizes.items():
            if size not in (1, len(sample)):
                raise ValueError(
                    f"{name} of an image prompt is for {size} samples, the batch has {len(sample)}: give 1 or as many"
                )
    passes.begin(args[1] if len(args) > 1 else kwargs["timestep"])
