"""Makes one ad and shows what made it: `python3 -m headless.make_ad`, on a bare Python, from the repository root.

Finds or makes an environment and runs the workflow `ad` twice, with what the reference hides and without. With a ComfyUI it
runs there: with SDXL and its companions where their files are, else with the tiny demo models that come with this pack. What
cuts out, finds by name and estimates depth in a new ComfyUI is used where its model files are; else the pack's own ways find
product and ground, or say that they cannot. Without a ComfyUI the demo's ad is made with diffusers. Everything is written to
out/: the ads, a contact sheet, and both pictures that went into them.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from pathlib import Path

from .ad.plan import ENGINES, PlanError, plan_ad
from .host.environment import EnvironmentFailedError, python_for
from .host.find import PACK_ROOT, HostNotFoundError

SMALLEST_SIDE = 64
MOST_STEPS, LARGEST_SEED = 10000, 2**64 - 1  # of ComfyUI's KSampler
LEAST_SHARE = 0.01  # of the height: the look rules in the wall and on the ground, and no region may be empty


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    options = argparse.ArgumentParser("python3 -m headless.make_ad", description=summary, epilog=details)
    options.add_argument("--out", type=_folder, default=PACK_ROOT / "out", help="folder for everything that is written")
    options.add_argument("--steps", type=_steps, help="sampling steps (the workflow's)")
    options.add_argument("--seed", type=_seed, help="seed of the sampler (the workflow's)")
    options.add_argument("--prompt", type=_words, help="what the ad shows, in words; needed with --product")
    own = options.add_argument_group(
        "your own pictures",
        "plain photographs will do: product and hidden part are found; what is transparent, or a mask, wins over that",
    )
    own.add_argument("--product", type=_file, metavar="FILE", help="product photo (the shipped one)")
    own.add_argument("--product-mask", type=_file, metavar="FILE", help="of --product: white = product")
    own.add_argument(
        "--enclosed",
        choices=("holes", "product"),
        help="what has the ground's colour within the outline of --product, where that is found (refused where it is much)",
    )
    own.add_argument("--several-parts", action="store_true", help="all separate things of --product are the product")
    own.add_argument("--cut-off", action="store_true", help="--product is used though the photo's border cuts it off")
    own.add_argument("--reference", type=_file, metavar="FILE", help="picture whose look is wanted (the shipped one)")
    own.add_argument("--reference-mask", type=_file, metavar="FILE", help="of --reference: white = hidden")
    own.add_argument("--whole-reference", action="store_true", help="hide nothing of the reference")
    own.add_argument(
        "--find",
        metavar="WORDS",
        help="what to hide in the reference, with SAM 3: 'the bottle'; a comma begins another name, a number behind "
        "a colon is how many of it at most (20)",
    )
    own.add_argument(
        "--ground",
        type=_share,
        metavar="SHARE",
        help="where the reference's ground begins, 0 = top, 1 = bottom (found); 0.01: all is ground, 0.99: there is none",
    )
    models = options.add_argument_group("models")
    models.add_argument(
        "--engine", choices=ENGINES, default="auto", help="auto: comfyui where there is one, else diffusers"
    )
    models.add_argument("--demo", action="store_true", help="use the demo's models even where SDXL's files are")
    models.add_argument(
        "--format", metavar="NAME", help="of the ad with SDXL, such as 9:16 or 1080x1350 (the workflow's)"
    )
    models.add_argument("--size", type=_size, metavar="WxH", help="of the ad with SDXL, in place of a format")
    files = options.add_argument_group("SDXL's files", "as ComfyUI lists them; those not named are looked for")
    files.add_argument("--checkpoint", metavar="FILE", help="SDXL checkpoint")
    files.add_argument("--controlnet", metavar="FILE", help="depth ControlNet for SDXL")
    files.add_argument("--clip-vision", metavar="FILE", help="ViT-H image encoder")
    files.add_argument("--adapter", metavar="FILE", help="image-prompt adapter for SDXL and ViT-H")
    return options


def _size(text: str) -> tuple[int, int]:
    sides = [int(side) if side.isdigit() else 0 for side in text.lower().split("x")]
    if len(sides) != 2 or min(sides) < SMALLEST_SIDE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: expected WIDTHxHEIGHT, both {SMALLEST_SIDE} pixels or more"
        )
    return sides[0], sides[1]


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not LEAST_SHARE <= share <= 1 - LEAST_SHARE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no share: expected {LEAST_SHARE} (all is ground) to {1 - LEAST_SHARE} (there is none)"
        )
    return share


def _steps(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_STEPS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps: expected 1 to {MOST_STEPS}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed: expected a whole number from 0 to {LARGEST_SEED}")
    return int(text)


def _words(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: expected a sentence that says what the ad shows")
    return text


def _folder(text: str) -> Path:
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file: expected a folder, which may be a new one")
    return path


def _file(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def main(arguments: list[str]) -> int:
    """Everything that needs no package; the rest is done by `produce_ad` in the environment's Python."""
    plan = plan_ad(parser().parse_args(arguments))  # complain about options before anything is installed
    print(plan.host or "no ComfyUI: the demo's ad will be made with diffusers", flush=True)
    python = python_for(plan.host, plan.extras)
    command = [str(python), "-m", "headless.ad.produce", *arguments]
    # To models as small as the demo's, threads cost more than they bring.
    threads = {} if plan.models else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return subprocess.call(command, cwd=PACK_ROOT, env=os.environ | threads)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (EnvironmentFailedError, HostNotFoundError, PlanError) as error:
        sys.exit(str(error))
