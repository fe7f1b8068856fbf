"""The newest page of ComfyUI that the browser tests are known to pass with. Standard library only.

It is installed into a folder of its own, never into the host's environment, and given to the host by --front-end-root.

    python3 -m pfv_mepa.tests.support.newest_frontend   prints its folder, for PFV_MEPA_FRONTEND
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from headless.host.find import PACK_ROOT

VERSION = "1.58.1"
PACKAGE = "comfyui-frontend-package"
PAGE = Path("comfyui_frontend_package", "static")  # in what is installed

# It stands alone, and without a network the reason should be seen soon.
OPTIONS = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--retries", "1", "--timeout", "20")


class FrontendNotInstalledError(RuntimeError):
    """The package cannot be had here; the message says why."""


def newest_frontend(python: Path, folder: Path = PACK_ROOT / ".frontends") -> Path:
    """The page's folder, with its index.html; what is not there yet is installed.

    Args:
        python: one that has pip.
        folder: holds a folder for each version.

    Raises:
        FrontendNotInstalledError: pip did not install it.
    """
    installed = folder / VERSION
    if not installed.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as whole:  # half an installation must not pass for one
            _install(python, Path(whole) / VERSION)
            (Path(whole) / VERSION).rename(installed)
    return installed / PAGE


def _install(python: Path, target: Path) -> None:
    command = [str(python), "-m", "pip", "install", *OPTIONS, "--target", str(target), f"{PACKAGE}=={VERSION}"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode != 0 or not (target / PAGE / "index.html").is_file():
        reason = (result.stderr or result.stdout).strip().splitlines()
        raise FrontendNotInstalledError(
            f"{PACKAGE} {VERSION} cannot be had: {reason[-1] if reason else 'pip does not say why'}"
        )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        print(newest_frontend(Path(sys.executable)))
    except FrontendNotInstalledError as error:
        sys.exit(str(error))
