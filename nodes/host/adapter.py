"""An adapter under the host's memory management, and the image prompts it makes.

The adapter's projections are large (682 MB for SDXL) and what they give for an image prompt is small and does not change
over the steps. So they are on the device only while they are used; then the host has its memory back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from weakref import WeakValueDictionary

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import folder_paths
import torch
from torch import Tensor

from ...pfv_core.adapter.checkpoint import load_adapter
from ...pfv_core.adapter.model import Adapter, AdapterConfig, CompressMethod
from ...pfv_core.choices import parse_choice
from ...pfv_core.found.reference import HiddenBy
from ...pfv_core.reference.origin import tensor_hash
from ...pfv_core.reference.vit import ImageTokens
from ..feedback import progress_over
from .content_cache import ContentCache
from .prompt_facts import PromptFacts, ReferenceFacts
from .whole_layers import whole_layers

FOLDER = "ipadapter"
CACHE_BYTES = 256 << 20  # keys and values of about 12 image prompts of 16 tokens for SDXL
COMPRESSED_TOGETHER = 64  # images
PROJECTED_TOGETHER = 1024  # tokens: for SDXL 0.7 GB of keys and values

LayerKeysValues = list[tuple[Tensor, Tensor]]


def register_folder() -> None:
    """Make models/ipadapter known to the host, keeping the paths that the user or another pack has set."""
    default = [str(Path(folder_paths.models_dir) / FOLDER)]
    paths, _ = folder_paths.folder_names_and_paths.get(FOLDER, (default, None))
    folder_paths.folder_names_and_paths[FOLDER] = (paths, folder_paths.supported_pt_extensions)


class HostAdapter:
    """An adapter that the host counts, loads and frees like its own models.

    What it computed is kept by content, within CACHE_BYTES, for as long as the host keeps the adapter.
    """

    def __init__(self, adapter: Adapter, file: str | None = None) -> None:
        self._adapter = adapter
        self.file = file  # its name, where it came from one
        self._patcher = comfy.model_patcher.ModelPatcher(
            adapter,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
        self._weights = {name: parameter.data for name, parameter in adapter.named_parameters()}
        self._prompts: ContentCache[tuple[Tensor, Tensor]] = ContentCache(CACHE_BYTES, _pair_size)
        self._keys_values: ContentCache[LayerKeysValues] = ContentCache(CACHE_BYTES, _layers_size)

    @classmethod
    def load(cls, path: Path) -> HostAdapter:
        """Load a file, or take it from whoever has it loaded; its weights are cast where they are used, so any dtype will do."""
        stat = path.stat()
        identity = (path.resolve(), path.name, stat.st_size, stat.st_mtime_ns)
        adapter = _loaded.get(identity)
        if adapter is None:
            with whole_layers():
                adapter = cls(load_adapter(path, comfy.ops.manual_cast), path.name)
            _loaded[identity] = adapter
        return adapter

    @property
    def config(self) -> AdapterConfig:
        """What the file says of itself."""
        return self._adapter.config

    @torch.inference_mode()
    def image_prompt(
        self,
        tokens: ImageTokens,
        method: CompressMethod | str,
        num_tokens: int,
        sources: Sequence[HiddenBy | None] = (),
    ) -> ImagePrompt:
        """Compress encoded images to this adapter's image prompts.

        Args:
            tokens: of B images.
            method, num_tokens: see the adapter's own `image_prompt`.
            sources: per image who said what to hide; none at all = nobody here knows.
        """
        method = parse_choice(CompressMethod, method, "method")
        self.config.check_encoder(tokens.encoder)
        content = tensor_hash(*tokens.penultimate, tokens.image_embeds, tokens.uncond_penultimate)

        def compress() -> tuple[Tensor, Tensor]:
            self._on_device()
            device, starts = self._patcher.load_device, range(0, len(tokens), COMPRESSED_TOGETHER)
            parts = (tokens.part(slice(start, start + COMPRESSED_TOGETHER)) for start in starts)
            prompts = [self._adapter.image_prompt(part.to(device), method, num_tokens) for part in parts]
            return torch.cat([positive.cpu() for positive, _ in prompts]), prompts[0][1].cpu()

        prompts = self._prompts.get_or_compute(f"{content} {method.value} {num_tokens}", compress)
        shares = tokens.kept_share or (None,) * len(tokens)
        known = zip(sources or (None,) * len(tokens), shares, strict=True)
        references = tuple(ReferenceFacts(source, share) for source, share in known)
        return ImagePrompt(self, *prompts, PromptFacts(tokens.encoder.name, references))

    @torch.inference_mode()
    def keys_values(self, image_prompt: Tensor) -> LayerKeysValues:
        """(B, c, context_dim) -> per layer the key and value (B, c, width), float32 on the CPU.

        After it the adapter leaves the device: sampling needs these alone.
        """

        def project() -> LayerKeysValues:
            self._on_device()
            try:
                return self._project(image_prompt)
            finally:
                self._leave_device()

        return self._keys_values.get_or_compute(tensor_hash(image_prompt), project)

    def _project(self, image_prompt: Tensor) -> LayerKeysValues:
        """Each token is projected by itself, so any of them may go together."""
        size, parts = image_prompt.shape[:2], image_prompt.flatten(0, 1).split(PROJECTED_TOGETHER)
        found: list[LayerKeysValues] = []
        with progress_over(list(self._adapter.ip_adapter.to_v_ip), len(parts)):
            for part in parts:
                pairs = self._adapter.keys_values(part.to(self._patcher.load_device))
                found.append([(key.cpu(), value.cpu()) for key, value in pairs])
        layers = (zip(*parts, strict=True) for parts in zip(*found, strict=True))
        return [(_joined(keys, size), _joined(values, size)) for keys, values in layers]

    def _on_device(self) -> None:
        comfy.model_management.load_model_gpu(self._patcher)

    def _leave_device(self) -> None:
        """Unload as the host does it, except that the weights become the file's own mapped memory again, not a copy."""
        for name, parameter in self._adapter.named_parameters():
            parameter.data = self._weights[name]
        entries = comfy.model_management.current_loaded_models
        for entry in [entry for entry in entries if entry.model is self._patcher]:
            entry.model_unload()
            entries.remove(entry)


# By file, name, size and time of change; an adapter is in it for as long as somebody holds it.
_loaded: WeakValueDictionary[tuple[Path, str, int, int], HostAdapter] = WeakValueDictionary()


def _pair_size(pair: tuple[Tensor, Tensor]) -> int:
    return pair[0].nbytes + pair[1].nbytes


def _layers_size(layers: LayerKeysValues) -> int:
    return sum(_pair_size(pair) for pair in layers)


def _joined(parts: Sequence[Tensor], size: torch.Size) -> Tensor:
    """(tokens, width) each -> (B, c, width)."""
    return (parts[0] if len(parts) == 1 else torch.cat(list(parts))).unflatten(0, size)


class ImagePrompt:
    """Image prompts of a batch of references, and the keys and values that they give in every cross-attention.

    Those do not change while sampling, so they are computed once, when first applied; the adapter's own weights are
    not needed after that. Positive and negative may have different numbers of tokens.
    """

    def __init__(
        self,
        adapter: HostAdapter,
        positive: Tensor,
        negative: Tensor,
        facts: PromptFacts = PromptFacts(),  # noqa: B008, frozen
    ) -> None:
        self.adapter = adapter
        self.positive = positive  # (B, c, context_dim)
        self.negative = negative  # (1 or B, c', context_dim)
        self.facts = facts

    def __len__(self) -> int:
        return self.positive.shape[0]

    @cached_property
    def keys_values(self) -> tuple[LayerKeysValues, LayerKeysValues]:
        """Of the positive and of the negative prompt, per layer of the adapter."""
        sides = self.positive, self.negative
        both = self.adapter.keys_values(torch.cat([side.flatten(0, 1) for side in sides])[None])
        counts = [side.shape[0] * side.shape[1] for side in sides]
        positive, negative = (
            [
                (key[0][part].unflatten(0, side.shape[:2]), value[0][part].unflatten(0, side.shape[:2]))
                for key, value in both
            ]
            for side, part in zip(sides, (slice(counts[0]), slice(counts[0], None)), strict=True)
        )
        return positive, negative
