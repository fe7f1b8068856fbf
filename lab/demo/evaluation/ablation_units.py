"""What an ablation run makes, piece by piece, and where each piece's results lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ...files import save_text
from .conditions import ADAPTER_FILE, NO_ADAPTER, Condition, Row

RUN = "run.json"
RESULTS = "chunks"


class AblationError(RuntimeError):
    """A folder that does not fit; the message says what to do."""


@dataclass(frozen=True)
class Settings:
    """What all results of a folder share.

    Attributes:
        steps: of DDIM.
        batch: pairs in a chunk; it changes results in their last bits only, but chunks are stored by it.
        weights: short hashes of the files that were used, by name.
    """

    steps: int
    batch: int
    weights: dict[str, str]


@dataclass(frozen=True)
class AdapterFile:
    """An adapter that was found.

    Attributes:
        path: of its file.
        family: kind and number of tokens, such as eq3_c16.
        tokens: image tokens.
        seed: of its training.
        identity: name of its results: family, seed and a hash of the file.
    """

    path: Path
    family: str
    tokens: int
    seed: int
    identity: str


@dataclass(frozen=True)
class Unit:
    """One condition with one adapter (None = without) on the pairs start .. start + count - 1."""

    condition: Condition
    adapter: AdapterFile | None
    start: int
    count: int

    def file(self, out: Path) -> Path:
        """Where its results go; its images lie beside them as .npz."""
        identity = self.adapter.identity if self.adapter else "none"
        return out / RESULTS / self.condition.name / identity / f"{self.start:05d}.json"

    def done(self, out: Path) -> bool:
        """Whether its results are stored, for as many pairs."""
        file = self.file(out)
        return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["count"] == self.count

    def samples(self, steps: int) -> int:
        """How many samples the U-Net sees."""
        guided = 2 if self.condition.guidance_scale != 1.0 else 1
        return self.count * steps * guided if self.condition.sampled else 0


def find_adapters(folder: Path, seeds: Sequence[int]) -> list[AdapterFile]:
    """The adapters of those seeds in a folder, by their file names."""
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        match = ADAPTER_FILE.fullmatch(path.name)
        if match and int(match["seed"]) in seeds:
            identity = f"{path.stem}-{short_hash(path)}"
            found.append(AdapterFile(path, match["family"], int(match["tokens"]), int(match["seed"]), identity))
    return found


def settings_of(weights: Path, judge: Path, steps: int, batch: int) -> Settings:
    """The settings of a run with these files."""
    names = ("autoencoder", "text_encoder", "vision_encoder", "unet")
    hashes = {name: short_hash(weights / f"{name}.safetensors") for name in names}
    return Settings(steps, batch, {**hashes, "judge": short_hash(judge)})


def claim_folder(out: Path, settings: Settings) -> None:
    """Make `out` the folder of these settings.

    Raises:
        AblationError: it is that of others already.
    """
    file = out / RUN
    own = {"steps": settings.steps, "batch": settings.batch, "weights": settings.weights}
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        different = [
            f"{name} is {found.get(name)} there and {own[name]} here" for name in own if found.get(name) != own[name]
        ]
        if different:
            raise AblationError(
                f"{out} holds results of other settings: {'; '.join(different)}. Give another --out, or the same settings"
            )
        return
    save_text(file, json.dumps(own, indent=1))


def units(rows: Sequence[Row], adapters: Sequence[AdapterFile], pairs: int, batch: int) -> list[Unit]:
    """What is to be made for these rows, chunk by chunk; a condition that several tables share occurs once."""
    wanted: dict[tuple[str, str], tuple[Condition, AdapterFile | None]] = {}
    for row in rows:
        of_row = [None] if row.family == NO_ADAPTER else [one for one in adapters if one.family == row.family]
        for adapter in of_row:
            wanted[(row.condition.name, adapter.identity if adapter else "")] = (row.condition, adapter)
    return [
        Unit(condition, adapter, start, min(batch, pairs - start))
        for start in range(0, pairs, batch)
        for condition, adapter in wanted.values()
    ]


def short_hash(file: Path) -> str:
    """The first 12 digits of a file's SHA-256; FileNotFoundError where there is none."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: it is part of the repository, or made by python -m lab.demo.train")
    return sha256(file.read_bytes()).hexdigest()[:12]
