"""Draws docs/overview.png, the README's picture: `python -m tools.draw_overview out` after `python3 -m headless.make_ad`.

It is the contact sheet of that run.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from PIL import Image

from .files import save_atomically

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> None:
    """Copy the sheet of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of headless.make_ad")
    run = parser.parse_args(arguments).run
    with Image.open(run / "contact_sheet.png") as sheet:
        save_atomically(ROOT / "docs" / "overview.png", partial(sheet.convert("RGB").save, optimize=True))


if __name__ == "__main__":
    main()
