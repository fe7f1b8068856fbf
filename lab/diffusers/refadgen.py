"""What RefAdGen trains, as one module: a reference U-Net, the fusion's projections, the mask's input channel."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from pfv_core.research.mask_input import KERNEL, load_mask_input, mask_channel, new_mask_input
from pfv_core.research.refadgen import FUSION, REFERENCE, open_refadgen, save_refadgen

from .fusion import KeysValues, recorded, self_attentions


class RefAdGen(nn.Module):
    """From a product and a mask to what `fusion.fused` puts into the generation U-Net: what processes share gradients of.

    Args:
        unet: the generation U-Net, of which everything begins as a copy; it stays as it is.
        with_mask: whether the mask's input channel is trained. It begins as zeros.

    The weights are float32, and begin as the U-Net has them: rounded, where it is kept in half precision. Those of the reference
    U-Net that come after its last self-attention's input change nothing that is read of it: they take no gradients and stay so.
    """

    def __init__(self, unet: UNet2DConditionModel, with_mask: bool = True) -> None:
        super().__init__()
        self.names = self_attentions(unet)
        self.reference: UNet2DConditionModel = copy.deepcopy(unet)
        self.reference.float()
        self.reference.requires_grad_(False)
        for name in names_that_count(unet):
            self.reference.get_parameter(name).requires_grad_(True)
        own = [unet.get_submodule(name) for name in self.names]
        self.to_k = nn.ModuleList(copy.deepcopy(attention.to_k).float().requires_grad_(True) for attention in own)
        self.to_v = nn.ModuleList(copy.deepcopy(attention.to_v).float().requires_grad_(True) for attention in own)
        channels = unet.conv_in.out_channels
        self.mask_kernel = nn.Parameter(new_mask_input(channels).kernel.to(unet.device)) if with_mask else None

    def forward(
        self, latents: Tensor, timesteps: Tensor, conditions: Mapping[str, Any], latent_mask: Tensor | None
    ) -> tuple[KeysValues, Tensor | None]:
        """Read products.

        Args:
            latents: (B, 4, h, w) of the products, as a U-Net takes them at `timesteps`.
            timesteps: (B,).
            conditions: the U-Net's keyword arguments.
            latent_mask: (B, h, w) float, 0..1, 1 = product in the images that are to be made; None where no mask is trained.

        Returns:
            Key and value of each self-attention, and what the mask adds to the first convolution.
        """
        with recorded(self.reference) as hidden:
            self.reference(latents, timesteps, **conditions)
        pairs = zip(self.names, self.to_k, self.to_v, strict=True)
        keys_values = {name: (to_k(hidden[name]), to_v(hidden[name])) for name, to_k, to_v in pairs}
        if self.mask_kernel is None or latent_mask is None:
            return keys_values, None
        return keys_values, mask_channel(latent_mask[:, None], self.mask_kernel)

    def save(self, file: Path, base: str, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
        """Write the file that the nodes load.

        Args:
            file: see `pfv_core.research.refadgen`.
            base: family of the U-Nets.
            dtype: of the weights in it.
            metadata: what else it is to hold.
        """
        projections = zip(self.names, self.to_k, self.to_v, strict=True)
        fusion = {
            f"{name}.{kind}.weight": module.get_parameter("weight").detach().to(dtype)
            for name, to_k, to_v in projections
            for kind, module in (("to_k", to_k), ("to_v", to_v))
        }
        save_refadgen(
            file,
            {name: tensor.to(dtype) for name, tensor in self.reference.state_dict().items()},
            fusion,
            None if self.mask_kernel is None else self.mask_kernel.detach().to(dtype),
            base=base,
            context_dim=self.reference.config["cross_attention_dim"],
            metadata=metadata,
        )


def load_refadgen(unet: UNet2DConditionModel, file: Path) -> RefAdGen:
    """A trained one, frozen, float32.

    Args:
        unet: the generation U-Net that it was trained with.
        file: as `RefAdGen.save` writes it.

    Raises:
        RefAdGenFileError: another kind of file.
        RuntimeError: weights of another U-Net.
    """
    found = open_refadgen(file)
    module = RefAdGen(unet, with_mask=KERNEL in found.shapes)
    module.reference.load_state_dict(found.weights(REFERENCE))
    fusion = found.weights(FUSION)
    for name, to_k, to_v in zip(module.names, module.to_k, module.to_v, strict=True):
        to_k.load_state_dict({"weight": fusion[f"{name}.to_k.weight"]})
        to_v.load_state_dict({"weight": fusion[f"{name}.to_v.weight"]})
    if module.mask_kernel is not None:
        module.mask_kernel.data.copy_(load_mask_input(file).kernel)
    return module.eval().requires_grad_(False)


def names_that_count(unet: UNet2DConditionModel) -> list[str]:
    """The parameters of a U-Net that what goes into its self-attentions depends on, found by a pass without numbers."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        probe = UNet2DConditionModel.from_config(unet.config)
    latents = torch.zeros(1, unet.config["in_channels"], 16, 16, device="meta")
    conditions = _conditions(unet, torch.device("meta"))
    with torch.enable_grad(), recorded(probe) as hidden:
        probe(latents, torch.zeros(1, device="meta"), **conditions)
    reached = set()
    open_nodes = [tensor.grad_fn for tensor in hidden.values() if tensor.grad_fn is not None]
    seen = set(open_nodes)
    while open_nodes:
        node = open_nodes.pop()
        reached.add(id(getattr(node, "variable", None)))  # of a leaf of the graph
        following = {step for step, _ in node.next_functions if step is not None} - seen
        seen |= following
        open_nodes += following
    return [name for name, parameter in probe.named_parameters() if id(parameter) in reached]


def _conditions(unet: UNet2DConditionModel, device: torch.device) -> dict[str, Any]:
    """A U-Net's keyword arguments of no meaning, for one sample."""
    given: dict[str, Any] = {
        "encoder_hidden_states": torch.zeros(1, 1, unet.config["cross_attention_dim"], device=device)
    }
    if unet.config["addition_embed_type"] == "text_time":
        sizes = 6 * unet.config["addition_time_embed_dim"]
        pooled = unet.config["projection_class_embeddings_input_dim"] - sizes
        pair = torch.zeros(1, pooled, device=device), torch.zeros(1, 6, device=device)
        given["added_cond_kwargs"] = dict(zip(("text_embeds", "time_ids"), pair, strict=True))
    return given
