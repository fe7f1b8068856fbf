"""Runs the tests that need no ComfyUI with the lowest version of everything that requirements/*.txt allow.

    python3 -m headless.run_floors [PYTEST_ARGUMENT...]

Those versions are installed into .venvs/floors, beside the torch of the Python that runs this: a 3.10 or a 3.11, for which all
of them are built. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence

from .host.environment import EnvironmentFailedError, python_at_floors
from .host.find import PACK_ROOT
from .run_hosts import KINDS, with_files
from .run_tests import pytest_command, pytest_environ

ENVIRONMENT = PACK_ROOT / ".venvs" / "floors"
WITHOUT_HOST = ("tests", *(f"--ignore={kind}" for kind in KINDS))
OLD_BESIDE_NEW = "-Wignore::DeprecationWarning"  # the lowest version of one calls what today's of another will drop


def main(arguments: Sequence[str]) -> int:
    """Make the environment and run pytest in it; returns pytest's exit status."""
    command = pytest_command(python_at_floors(ENVIRONMENT), [OLD_BESIDE_NEW, *with_files(arguments, WITHOUT_HOST)])
    with tempfile.TemporaryDirectory(prefix="compiled-") as compiled:
        return subprocess.call(command, cwd=PACK_ROOT, env=pytest_environ(compiled))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EnvironmentFailedError as error:
        sys.exit(str(error))
