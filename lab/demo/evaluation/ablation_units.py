"""What an ablation run makes, piece by piece, and where each piece's results lie."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from safetensors import safe_open

from pfv_core.reference.vit import HideMode
from pfv_demo.sizes import IMAGE_SIZE

from ...files import save_text
from ..drawn_once import drawing_of
from ..scene_data import draw_scenes
from .conditions import Condition, Experiment, Row, Sweep
from .experiments import ADAPTER_FILE, NO_ADAPTER
from .pairs import Split, caption, sample_pair, seeds_of
from .readings import NO_TRAINING, RESULTS, RUN, settings_in, unpack

CONTROLNET = "controlnet"  # the only one of the weights that some readings are made without
_KNOWN_BY = 20  # pairs of each split by which scenes are known
STORED = re.compile(r"(?P<file>(?P<family>.+)_seed(?P<seed>\d+))-[0-9a-f]{12}")  # identity of a trained file


class AblationError(RuntimeError):
    """A folder or a file that does not fit; the message says what to do."""


@dataclass(frozen=True)
class Settings:
    """What all results of a folder share.

    Attributes:
        steps: of DDIM.
        batch: pairs in a chunk; it changes results in their last bits only, but chunks are stored by it.
        precision: float32, or bfloat16 = its autocast.
        weights: short hashes of the files that were used, by name.
        scenes: of what they show and of how it is put into words; of other scenes nothing is taken over.
    """

    steps: int
    batch: int
    precision: str
    weights: dict[str, str]
    scenes: str = ""


@dataclass(frozen=True)
class AdapterFile:
    """An adapter that was found.

    Attributes:
        path: of its file; None where there are only results of it.
        family: kind and number of tokens, such as eq3_c16.
        tokens: image tokens.
        seed: of its training.
        identity: name of its results: family, seed and a hash of the file.
    """

    path: Path | None
    family: str
    tokens: int
    seed: int
    identity: str


@dataclass(frozen=True)
class Unit:
    """One condition with one adapter (None = without) on a chunk of a split's pairs, from `start` on."""

    condition: Condition
    adapter: AdapterFile | None
    split: Split
    start: int

    def file(self, out: Path) -> Path:
        """Where its results go; its images lie beside them as .npz."""
        identity = self.adapter.identity if self.adapter else NO_TRAINING
        return out / RESULTS / self.condition.name / identity / f"{self.split.value}_{self.start:05d}.json"

    def done(self, out: Path) -> bool:
        """Whether its results are stored."""
        return self.file(out).is_file()


def find_adapters(folder: Path, seeds: Sequence[int] | None = None) -> list[AdapterFile]:
    """The adapters of those seeds in a folder, by their file names; without seeds all.

    Raises:
        AblationError: a file says that it was trained with another mode than its name does.
    """
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        match = ADAPTER_FILE.fullmatch(path.name)
        if match and (seeds is None or int(match["seed"]) in seeds):
            _check_mode(path, HideMode.DROP if match["drop"] else HideMode.ZERO)
            identity = f"{path.stem}-{short_hash(path)}"
            found.append(AdapterFile(path, match["family"], int(match["tokens"]), int(match["seed"]), identity))
    return found


def stored_adapters(out: Path, found: Sequence[AdapterFile]) -> list[AdapterFile]:
    """The adapters that a folder has results of, beyond those whose files were found.

    Raises:
        AblationError: it has results of two trainings of one family and seed.
    """
    known = {(one.family, one.seed) for one in found}
    stored = []
    for identity in stored_trainings(out / RESULTS, known).values():
        match = ADAPTER_FILE.fullmatch(f"{identity.rpartition('-')[0]}.safetensors")
        if match is not None:
            stored.append(AdapterFile(None, match["family"], int(match["tokens"]), int(match["seed"]), identity))
    return stored


def stored_trainings(folder: Path, known: Collection[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """By family and seed the identities of the trainings that a folder has results of, but for those that are known: there a
    file says which is meant.

    Raises:
        AblationError: there are results of two trainings of one family and seed.
    """
    found: dict[tuple[str, int], str] = {}
    for place in sorted(folder.glob("*/*-*")):
        for part in filter(None, map(STORED.fullmatch, place.name.split("+"))):
            key = part["family"], int(part["seed"])
            if key not in known and found.setdefault(key, part[0]) != part[0]:
                raise AblationError(
                    f"{folder} has results of two trainings called {part['file']}, {found[key]} and {part[0]}: remove those of "
                    "one"
                )
    return found


def _check_mode(path: Path, expected: HideMode) -> None:
    with safe_open(path, framework="pt") as content:
        config = (content.metadata() or {}).get("config", "")  # TOML, as the trainer wrote it
    stated = re.search(r'^hide_mode = "(\w+)"$', config, re.MULTILINE)
    if stated and stated[1] != expected.value:
        raise AblationError(
            f"{path.name} was trained with hide_mode {stated[1]}, its name says {expected.value}: a family that was trained "
            "with drop ends in _drop, all others are trained with zero"
        )


def settings_of(weights: Path, judge: Path, steps: int, batch: int, precision: str) -> Settings:
    """The settings of a run with these files."""
    names = ("autoencoder", "text_encoder", "vision_encoder", "unet", CONTROLNET)
    hashes = {name: short_hash(weights / f"{name}.safetensors") for name in names}
    return Settings(steps, batch, precision, {**hashes, "judge": short_hash(judge)}, _short_hash_of_scenes())


def claim_folder(
    out: Path, settings: Settings, begin: Path | None = None, with_controlnet: Collection[str] = (), plan: str = ""
) -> None:
    """Make `out` the folder of these settings, with the readings that an earlier run packed.

    Args:
        out, settings: see there.
        begin: the packed readings.
        with_controlnet: names of those that are made with the ControlNet: of another one they are not taken over, and all others
            are.
        plan: see `readings.unpack`.

    Raises:
        AblationError: it is that of others already, or the readings are of others.
    """
    file = out / RUN
    if file.is_file():
        _check_settings(out, file.read_text(encoding="utf-8"), settings)
    left_out: Collection[str] = ()
    if begin is not None:
        packed = json.loads(settings_in(begin))
        if packed["weights"][CONTROLNET] != settings.weights[CONTROLNET]:
            packed["weights"][CONTROLNET], left_out = settings.weights[CONTROLNET], with_controlnet
        _check_settings(begin, json.dumps(packed), settings)
    save_text(file, json.dumps(asdict(settings), indent=1))
    if begin is not None:
        count = unpack(begin, out, left_out, plan)
        if left_out:
            print(f"{begin} is of another ControlNet: {count} readings that were made with it are left out", flush=True)


def _check_settings(where: Path, stored: str, settings: Settings) -> None:
    found, own = json.loads(stored), asdict(settings)
    different = [
        f"{name} is {found.get(name)} there and {own[name]} here" for name in own if found.get(name) != own[name]
    ]
    if different:
        raise AblationError(
            f"{where} holds results of other settings: {'; '.join(different)}. Give another --out, or the same settings"
        )


def adapters_of(row: Row, adapters: Sequence[AdapterFile], seeds: int | None = None) -> list[AdapterFile | None]:
    """What a row is measured with: None alone where it needs no adapter, else its family's first `seeds` ones, or all."""
    if row.family == NO_ADAPTER:
        return [None]
    of_family = sorted((one for one in adapters if one.family == row.family), key=lambda one: one.seed)
    return list(of_family[:seeds])


def units(
    rows: Sequence[Row], adapters: Sequence[AdapterFile], split: Split, pairs: int, batch: int, seeds: int | None = None
) -> list[Unit]:
    """What is to be made for these rows, chunk by chunk."""
    return [
        Unit(row.condition, adapter, split, start)
        for start in seeds_of(split, pairs)[::batch]
        for row in rows
        for adapter in adapters_of(row, adapters, seeds)
    ]


def units_of(
    table: Experiment,
    adapters: Sequence[AdapterFile],
    batch: int,
    development: int,
    chosen: Callable[[Sweep], Row | None],
) -> Iterator[list[Unit]]:
    """What a table needs: first what its sweeps are chosen by, of the first training alone, then its rows.

    Args:
        development: pairs that sweeps are chosen on.
        chosen: the row of a sweep, asked for once the first part is made; None = it cannot be chosen.
    """
    tried = [row for sweep in table.sweeps for row in sweep.rows]
    yield units(tried, adapters, Split.DEVELOPMENT, development, batch, seeds=1)
    rows = [row if isinstance(row, Row) else chosen(row) for row in table.rows]
    yield units([row for row in rows if row is not None], adapters, Split.TEST, table.pairs, batch, table.seeds)


def num_images(
    tables: Sequence[Experiment], adapters: Sequence[AdapterFile], batch: int, development: int
) -> dict[str, tuple[int, int]]:
    """By table, how many images are sampled for it beyond those of the tables before it, and how many of them with guidance."""
    known: set[Unit] = set()
    result = {}
    for table in tables:
        parts = units_of(table, adapters, batch, development, lambda sweep: sweep.rows[-1])
        new = {unit for part in parts for unit in part if unit.condition.given is None} - known
        guided = sum(unit.condition.guidance_scale != 1 for unit in new)
        result[table.name] = len(new) * batch, guided * batch
        known |= new
    return result


def expected_adapters(tables: Sequence[Experiment], seeds: Sequence[int]) -> list[AdapterFile]:
    """One for each family and seed, as if its file were there: for counting."""
    rows = [row for table in tables for row in table.rows]
    families = sorted({row.family for row in rows} - {NO_ADAPTER})
    return [AdapterFile(Path(), family, 0, seed, f"{family}_seed{seed}") for family in families for seed in seeds]


def _short_hash_of_scenes() -> str:
    """12 digits, equal where the pairs are drawn alike and named alike."""
    shown = [scene for split in Split for seed in range(_KNOWN_BY) for scene in sample_pair(seed, split)]
    named = [caption(scene, light=True) for scene in shown]
    return sha256(f"{drawing_of(shown, IMAGE_SIZE, draw_scenes)} {named}".encode()).hexdigest()[:12]


def short_hash(file: Path) -> str:
    """The first 12 digits of a file's SHA-256; FileNotFoundError where there is none."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: it is part of the repository, or made by python -m lab.demo.train")
    return sha256(file.read_bytes()).hexdigest()[:12]
