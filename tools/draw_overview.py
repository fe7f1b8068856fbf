"""Draws docs/overview.png, the README's picture: `python -m tools.draw_overview out` after `python3 -m headless.make_ad`.

It is the contact sheet of that run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def main(run: Path) -> None:
    """Copy the sheet of a run."""
    target = ROOT / "docs" / "overview.png"
    target.parent.mkdir(exist_ok=True)
    with Image.open(run / "contact_sheet.png") as sheet:
        sheet.convert("RGB").save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
