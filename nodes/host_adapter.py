"""An adapter under the host's memory management, and the image prompts it makes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import folder_paths
import torch
from torch import Tensor

from ..pfv_core.adapter import Adapter, AdapterConfig, CompressMethod
from ..pfv_core.checkpoint import load_adapter
from ..pfv_core.vit import ImageTokens

FOLDER = "ipadapter"

LayerKeysValues = list[tuple[Tensor, Tensor]]


def register_folder() -> None:
    """Make models/ipadapter known to the host, keeping the paths that the user or another pack has set."""
    default = [str(Path(folder_paths.models_dir) / FOLDER)]
    paths, _ = folder_paths.folder_names_and_paths.get(FOLDER, (default, None))
    folder_paths.folder_names_and_paths[FOLDER] = (paths, folder_paths.supported_pt_extensions)


class HostAdapter:
    """An adapter that the host counts, loads and frees like its own models."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._patcher = comfy.model_patcher.ModelPatcher(
            adapter,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

    @classmethod
    def load(cls, path: Path) -> HostAdapter:
        """Load a file; its weights are cast where they are used, so any dtype will do."""
        return cls(load_adapter(path, comfy.ops.manual_cast))

    @property
    def config(self) -> AdapterConfig:
        """What the file says of itself."""
        return self._adapter.config

    @torch.inference_mode()
    def image_prompt(self, tokens: ImageTokens, method: CompressMethod | str, num_tokens: int) -> ImagePrompt:
        """Compress encoded images to this adapter's image prompts."""
        self._on_device()
        tokens = tokens.to(self._patcher.load_device)
        positive, negative = self._adapter.image_prompt(tokens, method, num_tokens)
        return ImagePrompt(self, positive.cpu(), negative.cpu())

    @torch.inference_mode()
    def keys_values(self, image_prompt: Tensor) -> LayerKeysValues:
        """(B, c, context_dim) -> per layer the key and value (B, c, width), float32 on the CPU."""
        self._on_device()
        pairs = self._adapter.keys_values(image_prompt.to(self._patcher.load_device))
        return [(key.cpu(), value.cpu()) for key, value in pairs]

    def _on_device(self) -> None:
        comfy.model_management.load_model_gpu(self._patcher)


class ImagePrompt:
    """Image prompts of a batch of references, and the keys and values that they give in every cross-attention.

    Those do not change while sampling, so they are computed once, when first applied; the adapter's own weights are
    not needed after that.
    """

    def __init__(self, adapter: HostAdapter, positive: Tensor, negative: Tensor) -> None:
        self.adapter = adapter
        self.positive = positive  # (B, c, context_dim)
        self.negative = negative  # (1, c, context_dim)

    def __len__(self) -> int:
        return self.positive.shape[0]

    @cached_property
    def keys_values(self) -> tuple[LayerKeysValues, LayerKeysValues]:
        """Of the positive and of the negative prompt, per layer of the adapter."""
        both = self.adapter.keys_values(torch.cat([self.positive, self.negative]))
        count = len(self)
        positive = [(key[:count], value[:count]) for key, value in both]
        negative = [(key[count:], value[count:]) for key, value in both]
        return positive, negative
