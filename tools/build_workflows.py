"""Writes workflows/<name>.json (for the browser) and workflows/api/<name>.json (for POST /prompt) from one description each, and
subgraphs/<name>.json, which the page offers to every workflow.

    python3 -m tools.build_workflows            writes the files
    python3 -m tools.build_workflows --check    writes nothing; exits with 1 if a file is not what it would write

Slots and widgets come from a running ComfyUI: one that is started for it, or `--server URL`, which must have this pack.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from headless.host.environment import EnvironmentFailedError
from headless.host.find import PACK_ROOT, HostNotFoundError
from headless.host.start import HostStartError

from .files import save_text
from .workflow_parts.ad import AD, DEMO_AD
from .workflow_parts.description import Workflow, WorkflowError
from .workflow_parts.formats import DEMO_FORMATS, FORMATS
from .workflow_parts.forms import WorkflowFiles, to_text
from .workflow_parts.full import DEMO_FULL, FULL
from .workflow_parts.minimal import DEMO_MINIMAL, MINIMAL
from .workflow_parts.own_subgraphs import OFFERED
from .workflow_parts.refadgen import DEMO_REFADGEN
from .workflow_parts.server import object_info_of
from .workflow_parts.strict_id import DEMO_STRICT_ID
from .workflow_parts.subgraph_form import offered_form

WORKFLOWS = (AD, MINIMAL, FULL, FORMATS, DEMO_AD, DEMO_MINIMAL, DEMO_FULL, DEMO_FORMATS, DEMO_REFADGEN, DEMO_STRICT_ID)


def texts_of(workflow: Workflow, object_info: dict[str, Any]) -> dict[str, str]:
    """Name of a file below the pack's folder -> what belongs in it."""
    files = WorkflowFiles(workflow, object_info)
    return {
        f"workflows/{workflow.name}.json": to_text(files.ui_form()),
        f"workflows/api/{workflow.name}.json": to_text(files.api_form()),
    }


def all_texts(object_info: dict[str, Any]) -> dict[str, str]:
    """The same of every workflow and every subgraph that is offered."""
    texts = {name: text for workflow in WORKFLOWS for name, text in texts_of(workflow, object_info).items()}
    for offered in OFFERED:
        texts[f"subgraphs/{offered.subgraph.name}.json"] = to_text(offered_form(*offered, object_info))
    return texts


def main() -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file differs")
    parser.add_argument("--server", help="URL of a running ComfyUI with this pack, instead of starting one")
    parser.add_argument("--folder", type=Path, default=PACK_ROOT, help="where the two folders lie")
    arguments = parser.parse_args()
    with object_info_of(arguments.server) as object_info:
        texts = all_texts(object_info)
    stale = [name for name, text in texts.items() if _text_in(arguments.folder / name) != text]
    for name in stale:
        if arguments.check:
            print(f"{name} is not what its description makes: run python3 -m tools.build_workflows")
        else:
            save_text(arguments.folder / name, texts[name])
            print(f"wrote {name}")
    return int(arguments.check and bool(stale))


def _text_in(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (EnvironmentFailedError, HostNotFoundError, HostStartError, WorkflowError) as error:
        sys.exit(str(error))
