"""What reads pictures and texts: autoencoder, encoders, and the ControlNet's eye; see `lab.demo.train`."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from . import stack
from .captions import caption, product_phrase, table_phrase, wall_phrase
from .studio.scene import ATTRIBUTES, Scene, labels
from .trainer import Trainer

CROP = 128  # pixels: the autoencoder learns from parts of pictures


def train_autoencoder(run: Trainer) -> None:
    """L1, squared error and the L1 of gradients, on latents with a little noise, of parts of the pictures."""
    autoencoder = stack.UnshuffledAutoencoder()
    run.begin_with(autoencoder, "autoencoder")
    loop = run.loop("autoencoder", {"autoencoder": autoencoder.kl})

    def loss_of_step(_step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        image = _cropped(run.data.images(run.rows("autoencoder", generator)), generator).to(run.device)
        kl = loop.modules["autoencoder"]
        latents = loop.unwrapped("autoencoder").encode(F.pixel_unshuffle(image * 2 - 1, stack.UNSHUFFLE)).latent_dist
        mean = latents.mode().float()
        noise = torch.randn(mean.shape, generator=generator).to(run.device)
        decoded = kl.decode(mean + 0.05 * noise).sample.float()
        made = F.pixel_shuffle(decoded, stack.UNSHUFFLE) / 2 + 0.5
        spread = 1e-3 * (mean.square().mean() - 1).square()  # keeps the latents near unit size
        return image_loss(made, image) + spread, {"psnr": -10 * (made - image).detach().square().mean().log10()}

    run.train("autoencoder", loop, loss_of_step)
    with loop.averaged():
        _measure_latents(run, autoencoder.to(run.device))
        run.export("autoencoder", loop, run.out, autoencoder=autoencoder)


def _cropped(image: Tensor, generator: torch.Generator) -> Tensor:
    """(B, C, CROP, CROP): of each picture a part of its own."""
    places = torch.randint(image.shape[-1] - CROP + 1, (len(image), 2), generator=generator).tolist()
    parts = [one[:, top : top + CROP, left : left + CROP] for one, (top, left) in zip(image, places, strict=True)]
    return torch.stack(parts)


def image_loss(made: Tensor, image: Tensor) -> Tensor:
    """Absolute and squared error, and the absolute error of gradients."""
    difference = made - image
    gradients = (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()) / 2
    return difference.abs().mean() + 4 * difference.square().mean() + gradients


@torch.no_grad()
def _measure_latents(run: Trainer, autoencoder: stack.UnshuffledAutoencoder) -> None:
    rows = torch.arange(min(512, len(run.data.scenes))).split(32)
    latents = torch.cat([autoencoder.encode(run.data.images(batch).to(run.device)) for batch in rows])
    autoencoder.mean.copy_(latents.mean((0, 2, 3), keepdim=True))
    autoencoder.deviation.copy_(latents.std((0, 2, 3), keepdim=True))


class Probes(nn.Module):
    """Linear readings that tell the encoders what is worth knowing; thrown away after the training."""

    def __init__(self) -> None:
        super().__init__()

        def heads(width: int) -> nn.ModuleDict:
            return nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in ATTRIBUTES.items()})

        self.of_image = heads(stack.CONTEXT_DIM)
        self.of_text = heads(stack.CONTEXT_DIM)
        self.of_patch = heads(stack.VISION["hidden_size"])
        self.pixels = nn.Linear(stack.VISION["hidden_size"], 3 * 4 * 4)
        self.scale = nn.Parameter(torch.tensor(2.0))


def train_encoders(run: Trainer) -> None:
    """CLIP's contrast between image and caption, with linear readings of what a patch and a whole image show.

    In half of the images some patches are hidden as PFV hides them: half of the time the product, else at random.
    """
    modules: dict[str, nn.Module] = {
        "vision": stack.new_vision_encoder(),
        "text": stack.new_text_encoder(),
        "probes": Probes(),
    }
    loop = run.loop("encoders", modules)
    clip_tokenizer = stack.tokenizer()

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        rows = run.rows("encoders", generator)
        scenes = run.scenes(rows)
        image = F.avg_pool2d(run.data.images(rows), 2)  # the encoder sees less still
        product, wall = run.data.products(rows), run.data.walls(rows)
        keep = _random_keep(product, generator).to(run.device)
        target = {name: values.to(run.device) for name, values in labels(scenes).items()}
        captions = [_full_caption(scene, random.Random(f"{run.seed}/{step}/{i}")) for i, scene in enumerate(scenes)]
        ids = stack.tokenize(captions, clip_tokenizer).to(run.device)
        probes = loop.modules["probes"]

        patches, image_embeds = _encode(loop.modules["vision"], stack.pixel_values(image).to(run.device), keep)
        text_embeds = loop.modules["text"](ids).text_embeds
        contrast = _contrast(image_embeds, text_embeds, probes.scale)
        seen = ("wall_color", "pattern", "table")  # whatever is hidden, these show somewhere
        of_image = _readings_loss(probes.of_image, image_embeds, {name: target[name] for name in seen})
        of_text = _readings_loss(probes.of_text, text_embeds, target)
        of_patch = _patch_loss(probes, patches, keep, _patch_shares(product, wall).to(run.device), target)
        small = F.interpolate(image, (32, 32), mode="area").to(run.device)
        pixels = F.mse_loss(probes.pixels(patches).mul(keep[..., None]), _blocks(small, 4) * keep[..., None])
        loss = contrast + 0.5 * of_image + 0.5 * of_text + of_patch + 10 * pixels
        return loss, {
            "contrast": contrast.detach(),
            "of_image": of_image.detach(),
            "of_text": of_text.detach(),
            "of_patch": of_patch.detach(),
            "pixels": pixels.detach(),
        }

    run.train("encoders", loop, loss_of_step)
    run.export("encoders", loop, run.out, vision_encoder=loop.unwrapped("vision"), text_encoder=loop.unwrapped("text"))


def _encode(vision: CLIPVisionModelWithProjection, pixels: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Penultimate patch tokens (B, N, D) and projected embedding (B, P); hidden patches embed to zero (Eq. 2)."""
    model = vision.vision_model
    patches = model.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2) * keep[..., None]
    class_token = model.embeddings.class_embedding.expand(len(pixels), 1, -1)
    tokens = torch.cat([class_token, patches], 1) + model.embeddings.position_embedding.weight
    hidden = model.pre_layrnorm(tokens)
    for layer in model.encoder.layers[:-1]:
        hidden = _first(layer(hidden, None))
    last = _first(model.encoder.layers[-1](hidden, None))
    return hidden[:, 1:], vision.visual_projection(model.post_layernorm(last[:, 0]))


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _random_keep(product: Tensor, generator: torch.Generator) -> Tensor:
    """(B, N) float, 1 = the patch is seen."""
    count, patch = len(product), product.shape[1] * stack.VISION["patch_size"] // stack.VISION["image_size"]
    touched = F.max_pool2d(product.unsqueeze(1), patch).flatten(1) > 0
    share = torch.rand(count, 1, generator=generator) * 0.6
    at_random = torch.rand(touched.shape, generator=generator) < share
    kind = torch.rand(count, 1, generator=generator)
    hidden = torch.where(kind < 0.25, touched, torch.where(kind < 0.5, at_random, torch.zeros_like(touched)))
    return 1 - hidden.float()


def _patch_shares(product: Tensor, wall: Tensor) -> Tensor:
    """(B, N, 3) shares of product, wall and all else in each patch: the table, and what stands beside the product."""
    patch = product.shape[1] * stack.VISION["patch_size"] // stack.VISION["image_size"]
    shares = torch.stack([product, wall, 1 - product - wall], 1)
    return F.avg_pool2d(shares, patch).flatten(2).transpose(1, 2)


def _readings_loss(heads: nn.ModuleDict, embeds: Tensor, target: dict[str, Tensor]) -> Tensor:
    return torch.stack([F.cross_entropy(heads[name](embeds), target[name]) for name in target]).sum()


def _patch_loss(probes: Probes, patches: Tensor, keep: Tensor, shares: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Each patch tells of what covers most of it."""
    loss = patches.new_zeros(())
    for name, part in (("product_color", 0), ("shape", 0), ("wall_color", 1), ("pattern", 1), ("table", 2)):
        rows, places = ((shares[..., part] > 0.5) & (keep > 0)).nonzero(as_tuple=True)
        loss = loss + F.cross_entropy(probes.of_patch[name](patches[rows, places]), target[name][rows])
    return loss


def _blocks(image: Tensor, side: int) -> Tensor:
    """(B, 3, h, w) -> (B, N, 3 * side^2)."""
    return F.unfold(image, side, stride=side).transpose(1, 2)


def _contrast(image_embeds: Tensor, text_embeds: Tensor, scale: Tensor) -> Tensor:
    logits = F.normalize(image_embeds, dim=-1) @ F.normalize(text_embeds, dim=-1).T * scale.exp().clamp(max=50)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _full_caption(scene: Scene, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return caption(scene)
    phrases = [product_phrase(scene), table_phrase(scene), wall_phrase(scene)]
    rng.shuffle(phrases)
    return ", ".join(phrases)


def train_hint(run: Trainer) -> None:
    """Features of a depth picture from which it can be read again, linearly: what a ControlNet must know of it.

    Trained through a U-Net the same layers take thousands of steps to learn where an outline runs.
    """
    hint = stack.new_controlnet(stack.new_unet()).controlnet_cond_embedding.to(memory_format=torch.channels_last)
    reading = nn.Conv2d(stack.UNET["block_out_channels"][0], 8 * 8, 1)
    loop = run.loop("hint", {"hint": hint, "reading": reading})

    def loss_of_step(_step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        depth = run.data.depths(run.rows("hint", generator)).to(run.device)
        read = loop.modules["reading"](loop.modules["hint"](depth.contiguous(memory_format=torch.channels_last)))
        return image_loss(F.pixel_shuffle(read.float(), 8), depth[:, :1]), {}

    run.train("hint", loop, loss_of_step)
    run.export("hint", loop, run.passed_on("hint"), hint=loop.unwrapped("hint"))
