"""What a run of a workflow leaves: the ad's file, and what its nodes showed and said on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..server.client import Prompt


@dataclass(frozen=True)
class Made:
    """An ad.

    Attributes:
        file: as it was saved, a PNG that carries its workflow.
        workflow: the one that ran.
        shown: title of a node -> the picture that it shows.
        said: title of a node -> its text.
    """

    file: Path
    workflow: Prompt
    shown: Mapping[str, Image.Image] = field(default_factory=dict)
    said: Mapping[str, str] = field(default_factory=dict)

    def report(self, title: str) -> dict[str, Any]:
        """What a node says in JSON; ValueError where it says nothing."""
        if title not in self.said:
            raise ValueError(f"{title} says nothing; those that do: {sorted(self.said)}")
        report: dict[str, Any] = json.loads(self.said[title])
        return report
