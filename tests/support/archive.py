"""What the registry hands out: the checkout without what .comfyignore names. Standard library only."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def archive_files(root: Path) -> list[Path]:
    """Paths, relative to the root, of the tracked files that the archive holds."""
    lines = (root / ".comfyignore").read_text(encoding="utf-8").splitlines()
    left_out = {line.strip("/") for line in lines if line and not line.startswith("#")}
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, check=True
    )
    files = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    return [file for file in files if file.parts[0] not in left_out and (root / file).is_file()]


def unpack_archive(root: Path, folder: Path) -> Path:
    """Copy the archive's files below a folder, as an installer does."""
    for file in archive_files(root):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file, folder / file)
    return folder
