"""Draws the templates' thumbnails and the pictures of the help pages, by running the nodes on the demo's pictures.

    python3 -m tools.draw_pictures [NAME...]

Writes workflows/<workflow>.jpg, the real output of the demo workflow of that name (the SDXL workflows have their demo twin's:
their models are not part of this repository), and web/docs/<NodeId>.jpg. Without names it draws all of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from shutil import copytree

from PIL import Image, ImageDraw, ImageFont, ImageOps

from headless.host.environment import EnvironmentFailedError, python_for
from headless.host.find import PACK_ROOT, HostNotFoundError, require_host
from headless.host.start import HostStartError, running_host
from headless.server.errors import ServerError

from .files import save_atomically
from .picture_parts.panels import HELP
from .picture_parts.studio import WORKFLOWS, Panels, Studio

DOCS = PACK_ROOT / "web" / "docs"
THUMBNAIL = 384
PANEL, MARGIN, CAPTION, FONT_SIZE = 200, 10, 22, 13
IN_A_ROW = 5
INK, PAPER = (40, 40, 40), (228, 228, 228)


def sheet(panels: Panels) -> Image.Image:
    """Captioned pictures in rows; one picture without a caption as it is."""
    if [caption for caption, _ in panels] == [""]:
        return panels[0][1]
    rows = -(-len(panels) // IN_A_ROW)
    columns = -(-len(panels) // rows)
    across, down = PANEL + MARGIN, PANEL + CAPTION + MARGIN
    canvas = Image.new("RGB", (columns * across + MARGIN, rows * down + MARGIN), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    for index, (caption, picture) in enumerate(panels):
        left, top = MARGIN + index % columns * across, MARGIN + index // columns * down
        canvas.paste(ImageOps.pad(picture, (PANEL, PANEL), Image.Resampling.BICUBIC, PAPER), (left, top))
        draw.text((left, top + PANEL + 4), caption, INK, font)
    return canvas


def thumbnail(studio: Studio, name: str) -> Image.Image:
    """What a workflow, or its demo twin, saves: one picture, or several in two columns."""
    demo_name = name if name.startswith("demo_") else f"demo_{name}"
    ads = (studio.full if demo_name == "demo_full" else studio.run(demo_name)).saved()
    cell = THUMBNAIL if len(ads) == 1 else THUMBNAIL // 2
    canvas = Image.new("RGB", (THUMBNAIL, THUMBNAIL), PAPER)
    for index, ad in enumerate(ads[:4]):
        ad = ImageOps.pad(ad, (cell, cell), Image.Resampling.BICUBIC, PAPER)
        canvas.paste(ad, (index % 2 * cell, index // 2 * cell))
    return canvas


def main() -> None:
    """Draw what was asked for."""
    workflows = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *workflows, *HELP], help="workflows and node ids")
    names = parser.parse_args().names or [*workflows, *HELP]
    host = require_host()
    with tempfile.TemporaryDirectory() as folder:
        copytree(WORKFLOWS / "demo_inputs", Path(folder) / "input")
        with running_host(host, python_for(host), Path(folder), [PACK_ROOT]) as running:
            studio = Studio(running.url, Path(folder))
            for name in names:
                picture = sheet(HELP[name](studio)) if name in HELP else thumbnail(studio, name)
                file = DOCS / f"{name}.jpg" if name in HELP else WORKFLOWS / f"{name}.jpg"
                save_atomically(file, partial(picture.save, quality=85, optimize=True))
                print(f"wrote {file.relative_to(PACK_ROOT)}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (EnvironmentFailedError, HostNotFoundError, HostStartError, ServerError, OSError) as error:
        sys.exit(str(error))
