"""What RefAdGen Attention Fusion does to the pictures of the demo models, which were never trained for it.

    python -m benchmarks.fusion_demo [--pairs N] [--steps N] [--out FILE]

The text names the table and wall of scene A and no product; the reference is the product of scene B, cut out on white; the
mask is where that product shall stand. A classifier (`lab.demo`'s judge) reads what was drawn. Prints one table: per setting the
share of pictures whose product has B's colour and B's shape, the mean distance from B's product inside the mask, and the share
whose wall is A's, with 95 % intervals. Needs ComfyUI.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

FIRST_PAIR = 200_000_000  # training scenes and those of other measurements have other seeds
BATCH = 25
GUIDANCE = 3.0
SETTINGS = (  # strength, combine, reference_noise
    (0.0, "add", "clean"),
    (0.5, "add", "clean"),
    (1.0, "add", "clean"),
    (0.5, "blend", "clean"),
    (1.0, "blend", "clean"),
    (1.0, "add", "step"),
    (1.0, "blend", "step"),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=50, help="pairs of scenes (default: 50)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: 20)")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    from headless.host.as_package import load_repository

    load_repository()
    from headless.host.boot import boot_host
    from headless.host.find import require_host

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fusion-demo-") as folder:
        boot_host(require_host().path, Path(folder))
        table = measure(options.pairs, options.steps)
    if options.out is not None:
        options.out.write_text(table + "\n", encoding="utf-8")
    print(f"{table}\n\n{options.pairs} pairs, {options.steps} steps, {time.monotonic() - started:.0f} s")


def measure(pairs: int, steps: int) -> str:
    """The table, as Markdown."""
    import torch

    from lab.demo.evaluation.judge import load_judge
    from lab.demo.evaluation.pairs import Split, sample_pair
    from pfv_mepa.nodes.demo.demo_nodes import WEIGHTS
    from pfv_mepa.nodes.host import demo as host_demo

    torch.set_num_threads(1)
    models = host_demo.demo_model(WEIGHTS), host_demo.demo_clip(WEIGHTS), host_demo.demo_vae(WEIGHTS)
    judge = load_judge()
    scenes = [sample_pair(FIRST_PAIR + number, Split.TEST) for number in range(pairs)]
    lines = [
        "| strength | combine | reference_noise | product's colour | product's shape | distance in the mask | A's wall |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting in SETTINGS:
        found = [_part(models, judge, scenes[at : at + BATCH], setting, steps) for at in range(0, pairs, BATCH)]
        lines.append(_line(setting, {name: torch.cat([part[name] for part in found]) for name in found[0]}))
        print(lines[-1], flush=True)
    return "\n".join(lines)


def _part(models: Any, judge: Any, pairs: list[Any], setting: tuple[float, str, str], steps: int) -> dict[str, Any]:
    """Per pair what was drawn: whether colour, shape and wall are right, and how far the product is from B's."""
    import nodes as host_nodes
    import torch

    from lab.demo.evaluation.pairs import caption, labels, render
    from pfv_mepa.nodes.research.fusion_nodes import RefAdGenAttentionFusion

    model, clip, vae = models
    wanted = render([a.with_product_of(b) for a, b in pairs])
    product = wanted.product[..., None]
    strength, combine, noise = setting
    with torch.inference_mode():
        (patched,) = RefAdGenAttentionFusion.execute(
            model=model,
            reference_latent={"samples": vae.encode(wanted.image * product + 1 - product)},
            reference_prompt=_prompt(clip, [caption(b, table=False, wall=False) for _, b in pairs]),
            strength=strength,
            combine=combine,
            reference_noise=noise,
            start_percent=0.0,
            end_percent=1.0,
            product_mask=wanted.product,
        ).args
        positive = _prompt(clip, [caption(a, product=False) for a, _ in pairs])
        negative = _prompt(clip, [""] * len(pairs))
        latent = {"samples": torch.zeros(len(pairs), 4, wanted.image.shape[1] // 8, wanted.image.shape[2] // 8)}
        (out,) = host_nodes.KSampler().sample(
            patched, 1, steps, GUIDANCE, "euler", "simple", positive, negative, latent, 1.0
        )
        image = vae.decode(out["samples"])
    read = judge.read(image.movedim(-1, 1))
    a, b = labels([a for a, _ in pairs]), labels([b for _, b in pairs])
    distance = ((image - wanted.image).abs().mean(-1, keepdim=True) * product).sum((1, 2, 3)) / product.sum((1, 2, 3))
    return {
        "color": read["product_color"] == b["product_color"],
        "shape": read["shape"] == b["shape"],
        "distance": distance,
        "wall": (read["wall_color"] == a["wall_color"]) & (read["pattern"] == a["pattern"]),
    }


def _prompt(clip: Any, texts: list[str]) -> list[Any]:
    """One CONDITIONING whose batch holds a text for each image."""
    import torch

    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in texts]
    pooled = torch.cat([extras["pooled_output"] for _, extras in encoded])
    return [[torch.cat([tokens for tokens, _ in encoded]), {"pooled_output": pooled}]]


def _line(setting: tuple[float, str, str], found: dict[str, Any]) -> str:
    from lab.evaluation.statistics import rate

    rates = {name: rate(found[name].double().numpy()) for name in ("color", "shape", "wall")}
    shares = {name: f"{r.value:.0%} ({r.low:.0%}-{r.high:.0%})" for name, r in rates.items()}
    strength, combine, noise = setting
    return (
        f"| {strength:g} | {combine} | {noise} | {shares['color']} | {shares['shape']} | "
        f"{float(found['distance'].mean()):.3f} | {shares['wall']} |"
    )


if __name__ == "__main__":
    main()
