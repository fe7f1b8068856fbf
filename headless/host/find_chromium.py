"""Where a Chromium lies for the tests in tests/browser. Standard library only."""

from __future__ import annotations

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")

HOW_TO_GET_CHROMIUM = "no Chromium found: install it, with `apt-get install chromium` on Debian"


def find_chromium() -> str | None:
    """The browser's executable, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)
