"""Makes one ad from photographs: `python3 -m headless.make_ad`, on a bare Python, from the repository root.

Finds ComfyUI, finds or makes an environment, starts a server of its own with this pack, runs the full workflow and
writes the ad and everything that went into it to out/. With models in ComfyUI's models folder it uses those; without,
tiny ones with random weights, and the picture is noise around an exact product.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from .environment import EnvironmentFailedError, python_for
from .find_host import PACK_ROOT, HostNotFoundError, require_host


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    options = argparse.ArgumentParser("python3 -m headless.make_ad", description=summary, epilog=details)
    options.add_argument("--out", type=Path, default=PACK_ROOT / "out", help="folder for the ad and its inputs")
    options.add_argument("--size", type=_size, default=(768, 512), metavar="WxH", help="size of the ad (768x512)")
    options.add_argument("--steps", type=int, help="sampling steps (the workflow's; 8 with the tiny models)")
    options.add_argument("--seed", type=int, help="seed of the sampler (the workflow's)")
    options.add_argument("--prompt", help="what the text-controlled part shows (the workflow's)")
    options.add_argument("--tiny", action="store_true", help="use the tiny random models even where real ones are")
    models = options.add_argument_group("model files", "as ComfyUI lists them; those not named are looked for")
    models.add_argument("--checkpoint", metavar="FILE", help="SDXL checkpoint")
    models.add_argument("--controlnet", metavar="FILE", help="depth ControlNet for SDXL")
    models.add_argument("--clip-vision", metavar="FILE", help="ViT-H image encoder")
    models.add_argument("--adapter", metavar="FILE", help="image-prompt adapter for SDXL and ViT-H")
    return options


def _size(text: str) -> tuple[int, int]:
    sides = [int(side) if side.isdigit() else 0 for side in text.lower().split("x")]
    if len(sides) != 2 or not all(side > 0 and side % 8 == 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: expected WIDTHxHEIGHT, both divisible by 8")
    return sides[0], sides[1]


def main(arguments: list[str]) -> int:
    """Everything that needs no package; the rest is done by `produce_ad` in the environment's Python."""
    parser().parse_args(arguments)  # complain about options before anything is installed
    host = require_host()
    print(host, flush=True)
    python = python_for(host, ["demo"])
    return subprocess.call([str(python), "-m", "headless.produce_ad", *arguments], cwd=PACK_ROOT)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (EnvironmentFailedError, HostNotFoundError) as error:
        sys.exit(str(error))
