"""What the image prompts do in the ControlNet, and the product photo in the self-attention, to the demo models' ads.

    python -m benchmarks.ad_demo [--ads N] [--steps N] [--words WORDS] [--only LABEL] [--out FILE] [--pictures FOLDER]

Each ad is made with the nodes of the workflow `formats`, at 256x256, the depth ControlNet at strength 1: the text names a
product, one reference rules the wall, another the table, their own products are hidden, depth holds the outline, and
Strict-ID Composite puts the product's pixels back. A classifier (`lab.demo.evaluation.judge`) reads the product of the generated
image, and the wall and the table of the ad. Halo is the share of the ring around the product that has gone more than half of the
way from what should be there to the product's colour, ring the decibels in it, both of ads before plain walls alone; sharpness
is that of all but the product to the true ad's (`lab.evaluation`). The first row is the true ad through the autoencoder.
Difference is the mean one of a value of the generated image to that of the first setting, in steps of 255. Prints one table,
with 95 % intervals. Needs ComfyUI.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

FIRST_AD = 100_000_000  # training scenes and those of other measurements have other seeds
BATCH = 25
GUIDANCE = 3.0
LOOK = {"strength": 1.0, "combine": "blend", "reference_noise": "clean", "start_percent": 0.0, "end_percent": 1.0}
BRANCH = {"strength": 1.0, "text_share": 0.0, "gate": "output", "start_percent": 0.0, "end_percent": 1.0}


@dataclass(frozen=True)
class Setting:
    """One way to make the ads.

    Attributes:
        label: of its row.
        look: inputs of RefAdGen Attention Fusion; None = without it.
        in_unet, in_control: where the image prompts act.
        ground: grey around the product in what the fusion reads.
    """

    label: str
    look: dict[str, Any] | None = None
    in_unet: bool = True
    in_control: bool = False
    ground: float = 0.0


SETTINGS = (
    Setting("image prompts in the U-Net"),
    Setting("in the ControlNet too", in_control=True),
    Setting("in the ControlNet alone", in_unet=False, in_control=True),
    Setting("fusion: blend 1, clean", LOOK),
    Setting("fusion: blend 0.5, clean", LOOK | {"strength": 0.5}),
    Setting("fusion: add 0.5, clean", LOOK | {"strength": 0.5, "combine": "add"}),
    Setting("fusion: blend 1, step", LOOK | {"reference_noise": "step"}),
    Setting("fusion: blend 1, clean, on grey", LOOK, ground=0.5),
    Setting("fusion: blend 1, clean, on white", LOOK, ground=1.0),
    Setting("fusion: blend 1, clean, on grey, in the ControlNet too", LOOK, in_control=True, ground=0.5),
)
MEASURES = {  # whether it is a rate, and how it is written
    "product's colour": (True, ".0%"),
    "product's shape": (True, ".0%"),
    "halo": (False, ".1%"),
    "ring": (False, ".1f"),
    "sharpness": (False, ".2f"),
    "wall": (True, ".0%"),
    "table": (True, ".0%"),
}


@dataclass(frozen=True)
class Brief:
    """The scenes of one ad: whose product, and whose wall and table are followed."""

    product: Any
    wall: Any
    table: Any

    @classmethod
    def sample(cls, seed: int) -> Brief:
        """Three scenes of combinations held out, of which no two share what could be confused."""
        from lab.demo.evaluation.pairs import Split, sample_pair

        for attempt in range(1000):
            product, wall = sample_pair(seed + 1000 * attempt, Split.TEST)
            table, _ = sample_pair(seed + 1000 * attempt + 500, Split.TEST)
            if product.product_color not in (wall.wall_color, table.product_color) and table.table != wall.table:
                return cls(product, wall, table)
        raise RuntimeError(f"no brief for seed {seed}")

    @property
    def wanted(self) -> Any:
        """The ad as a scene."""
        scene = self.wall.with_product_of(self.product)
        return replace(scene, table=self.table.table, tone=self.table.tone, grain=self.table.grain)


def _product(brief: Brief) -> str:
    from lab.demo.captions import caption

    return caption(brief.product, table=False, wall=False)


def _whole(brief: Brief) -> str:
    from lab.demo.captions import caption

    return caption(brief.product)


WORDS = {"product": _product, "shape": lambda brief: f"a {brief.product.shape}", "whole": _whole}


class Ads:
    """The ads of some briefs, up to the sampler."""

    def __init__(self, models: Any, briefs: list[Brief], steps: int, words: str) -> None:
        self.models, self.briefs, self.steps, self.words = models, briefs, steps, words

    @cached_property
    def wanted(self) -> Any:
        """As they should be."""
        from lab.demo.evaluation.pairs import render

        return render([brief.wanted for brief in self.briefs])

    @cached_property
    def photo(self) -> Any:
        """The product photos, at the ads' places, and their masks."""
        return self.wanted.image, (self.wanted.product > 0.5).float()

    @cached_property
    def regions(self) -> tuple[Any, Any]:
        """Of the table and of the wall, around the product."""
        from pfv_mepa.nodes.mepa.region_nodes import MEPARegionBuilder, MEPARegionFromMask

        (product,) = MEPARegionFromMask.execute(self.photo[1], "product", 2, 4, False).args
        table = (self._empty_wall.table > 0.5).float().expand(product.shape)
        shared = MEPARegionBuilder.execute(product, "layers", table, table * 0 + 1).args
        return shared[1], shared[2]

    @cached_property
    def prompts(self) -> tuple[Any, Any]:
        """The image prompts of the wall's and of the table's reference, their products hidden."""
        return tuple(self._image_prompt([getattr(brief, name) for brief in self.briefs]) for name in ("wall", "table"))

    @cached_property
    def depth(self) -> Any:
        """The product's before the wall reference's."""
        from lab.demo.evaluation.pairs import render
        from pfv_mepa.nodes.ad.compose_nodes import PFVDepthCompose

        mine = render([brief.product for brief in self.briefs]).depth
        reference = render([brief.wall for brief in self.briefs])
        (depth,) = PFVDepthCompose.execute(
            _image(mine), self.photo[1], "product", _image(reference.depth), "surroundings", _brushed(reference.product)
        ).args
        return depth

    def make(self, setting: Setting) -> tuple[Any, Any]:
        """Generated images and ads, (B, H, W, 3)."""
        import nodes as host_nodes
        import torch

        from pfv_mepa.nodes.ad.product_nodes import StrictIDComposite
        from pfv_mepa.nodes.mepa.apply_nodes import MEPAApply
        from pfv_mepa.nodes.mepa.branch_nodes import MEPAApplyControlNet, MEPABranch
        from pfv_mepa.nodes.research.fusion_nodes import RefAdGenAttentionFusion

        photo, mask = self.photo
        clip, vae = self.models["clip"], self.models["vae"]
        positive = _prompt(clip, [WORDS[self.words](brief) for brief in self.briefs])
        negative = _prompt(clip, [""] * len(self.briefs))
        model = self.models["model"]
        if setting.look is not None:
            cut_out = photo * mask[..., None] + setting.ground * (1 - mask[..., None])
            latent = {"samples": vae.encode(cut_out)}
            (model,) = RefAdGenAttentionFusion.execute(model, latent, positive, **setting.look, product_mask=mask).args
        (branches,) = MEPABranch.execute(self.prompts[1], **BRANCH, region=self.regions[0]).args
        (prompted,) = MEPAApply.execute(
            model, self.prompts[0], **BRANCH, region=self.regions[1], branches=branches
        ).args
        control = self.models["control_net"]
        if setting.in_control:
            (control,) = MEPAApplyControlNet.execute(control, prompted).args
        positive, negative = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
            positive, negative, control, self.depth, 1.0, 0.0, 1.0
        )
        latent = {"samples": torch.zeros(len(photo), 4, photo.shape[1] // 8, photo.shape[2] // 8)}
        (out,) = host_nodes.KSampler().sample(
            prompted if setting.in_unet else model,
            *(1, self.steps, GUIDANCE, "euler", "simple", positive, negative, latent, 1.0),
        )
        generated = vae.decode(out["samples"])
        (ad, *_) = StrictIDComposite.execute(generated, photo, mask, "product", 1, 1).args
        return generated, ad

    def true(self) -> tuple[Any, Any]:
        """The true ads through the autoencoder, in place of what `make` gives."""
        photo, mask = self.photo
        decoded = self.models["vae"].decode(self.models["vae"].encode(self.wanted.image))
        return decoded, photo * mask[..., None] + decoded * (1 - mask[..., None])

    def measure(self, judge: Any, generated: Any, ad: Any) -> dict[str, Any]:
        """Per ad and measure."""
        import torch

        from lab.demo.evaluation.pairs import labels
        from lab.evaluation.metrics import sharpness
        from lab.evaluation.rim import halo, ring_psnr

        wanted = labels([brief.wanted for brief in self.briefs])
        made, image, truth = (one.movedim(-1, 1).contiguous() for one in (generated, ad, self.wanted.image))
        drawn, seen = judge.read(made), judge.read(image)
        plain = torch.tensor([brief.wall.pattern == "plain" for brief in self.briefs])
        return {
            "product's colour": (drawn["product_color"] == wanted["product_color"]).double(),
            "product's shape": (drawn["shape"] == wanted["shape"]).double(),
            "halo": torch.where(plain, halo(image, truth, self.wanted.product)[0], torch.nan),
            "ring": torch.where(plain, ring_psnr(image, truth, self.wanted.product), torch.nan),
            "sharpness": sharpness(image, self.wanted.product == 0, truth),
            "wall": ((seen["wall_color"] == wanted["wall_color"]) & (seen["pattern"] == wanted["pattern"])).double(),
            "table": (seen["table"] == wanted["table"]).double(),
        }

    @cached_property
    def _empty_wall(self) -> Any:
        from lab.demo.evaluation.pairs import render

        return render([brief.wall for brief in self.briefs], product=False)

    @cached_property
    def _empty_wanted(self) -> Any:
        from lab.demo.evaluation.pairs import render

        return render([brief.wanted for brief in self.briefs], product=False)

    def _image_prompt(self, scenes: list[Any]) -> Any:
        from lab.demo.evaluation.pairs import render
        from pfv_mepa.nodes.mepa.apply_nodes import PFVTokenCompress
        from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize

        reference, vision = render(scenes), self.models["clip_vision"]
        patch_mask, _ = PFVMaskRebinarize.execute(vision, reference.image, "pad", 0.0, _brushed(reference.product)).args
        tokens, _ = PFVImageEncode.execute(vision, reference.image, patch_mask, "drop").args
        return PFVTokenCompress.execute(tokens, self.models["adapter"], "adapter", 0).args[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ads", type=int, default=50, help="ads for each setting (default: 50)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: 20)")
    parser.add_argument(
        "--words",
        choices=WORDS,
        default="product",
        help="the text names colour and shape of the product (default), its shape alone, or a wall and a table too, which are "
        "not those of the references",
    )
    parser.add_argument("--only", action="append", choices=[setting.label for setting in SETTINGS], help="this setting")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--pictures", type=Path, help="also save a sheet of the first ads here, a row for each setting")
    options = parser.parse_args()
    from headless.host.as_package import load_repository

    load_repository()
    from headless.host.boot import boot_host
    from headless.host.find import require_host

    started = time.monotonic()
    settings = [setting for setting in SETTINGS if not options.only or setting.label in options.only]
    with tempfile.TemporaryDirectory(prefix="ad-demo-") as folder:
        boot_host(require_host().path, Path(folder))
        table = measure(options.ads, options.steps, options.words, settings, options.pictures)
    if options.out is not None:
        options.out.write_text(table + "\n", encoding="utf-8")
    print(f"{table}\n\n{options.ads} ads, {options.steps} steps, {time.monotonic() - started:.0f} s")


def measure(number: int, steps: int, words: str, settings: list[Setting], pictures: Path | None) -> str:
    """The table, as Markdown."""
    import torch

    from lab.demo.evaluation.judge import load_judge
    from pfv_mepa.nodes.demo.demo_nodes import PFVDemoModels

    torch.set_num_threads(1)
    names = [port.id for port in PFVDemoModels.GET_SCHEMA().outputs]
    models, judge = dict(zip(names, PFVDemoModels.execute().args, strict=True)), load_judge()
    briefs = [Brief.sample(FIRST_AD + index) for index in range(number)]
    parts = [Ads(models, briefs[at : at + BATCH], steps, words) for at in range(0, number, BATCH)]
    lines = [f"| | {' | '.join(MEASURES)} | difference |", f"|---|{'---|' * len(MEASURES)}---|"]
    with torch.inference_mode():
        true = [part.measure(judge, *part.true()) for part in parts]
    lines.append(_line("the true ad through the autoencoder", _joined(true), ""))
    print(lines[-1], flush=True)
    sheet, first = [], None
    for setting in settings:
        with torch.inference_mode():
            made = [part.make(setting) for part in parts]
            found = [part.measure(judge, *images) for part, images in zip(parts, made, strict=True)]
        sheet.append(torch.cat([torch.cat(images, 1) for images in made])[:12])
        generated = torch.cat([images[0] for images in made])
        first = generated if first is None else first
        difference = 255 * float((generated - first).abs().mean())
        lines.append(_line(setting.label, _joined(found), f"{difference:.1f}"))
        print(lines[-1], flush=True)
    if pictures is not None:
        _save(sheet, pictures)
    return "\n".join(lines)


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    return {name: torch.cat([part[name] for part in parts]) for name in MEASURES}


def _line(label: str, found: dict[str, Any], difference: str) -> str:
    from lab.evaluation.statistics import mean_interval, rate

    cells = []
    for name, (is_rate, form) in MEASURES.items():
        one = (rate if is_rate else mean_interval)(found[name].numpy())
        cells.append(f"{one.value:{form}} ({one.low:{form}} to {one.high:{form}})")
    return f"| {label} | {' | '.join(cells)} | {difference} |"


def _save(rows: list[Any], file: Path) -> None:
    """Generated images above their ads, a row for each setting."""
    import torch
    from PIL import Image

    sheet = torch.cat([torch.cat(list(row), 1) for row in rows])
    Image.fromarray((sheet.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(file)


def _image(values: Any) -> Any:
    """(B, H, W) -> (B, H, W, 3)."""
    return values[..., None].expand(*values.shape, 3)


def _brushed(product: Any) -> Any:
    """A product as somebody paints over it, a little generously."""
    from lab.demo.inputs import BRUSH
    from pfv_mepa.pfv_core.region.distance import grow

    return grow(product > 0, BRUSH).float()


def _prompt(clip: Any, texts: list[str]) -> list[Any]:
    """One CONDITIONING whose batch holds a text for each image."""
    import torch

    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in texts]
    pooled = torch.cat([extras["pooled_output"] for _, extras in encoded])
    return [[torch.cat([tokens for tokens, _ in encoded]), {"pooled_output": pooled}]]


if __name__ == "__main__":
    main()
