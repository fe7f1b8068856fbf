"""Measures on held-out pairs of scenes what the demo models do with texts, references and regions.

    python -m lab.demo.evaluation.ablations --out FOLDER [--adapters FOLDER] [--begin FILE] [--weights FOLDER] [--judge FILE]
        [--seeds 0,1,2] [--pairs TABLE=N] [--development N] [--only TABLE] [--steps 12] [--batch 20] [--precision bfloat16]
        [--report-only | --count]

Tables are made in their order, the main ones first; results are stored for each condition, adapter and chunk of pairs as
they come: killed and started again it goes on. Each pair has one noise, the same under all conditions. What has a strength
is tried at several on the development pairs with the first training of its adapter, and measured on the test pairs at the one
that did best there. FOLDER/ablations.md and FOLDER/results.json sum up whatever is stored; adapters that neither --adapters nor
the results have are named there. `--begin` takes the readings of an earlier run, such as docs/readings/ablations.zip, and adds
to them: of a training whose readings are all there the file is not needed. `--count` says how many images all of it takes, and
makes none.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.adapter.model import Adapter

from ...files import save_atomically, save_text
from .. import stack
from .ablation_units import (
    AdapterFile,
    Settings,
    Unit,
    claim_folder,
    expected_adapters,
    find_adapters,
    num_images,
    settings_of,
    stored_adapters,
    units_of,
)
from .chunk import Chunk
from .conditions import Experiment
from .experiments import EXPERIMENTS, experiments, with_controlnet
from .judge import FILE as JUDGE_FILE
from .models import Models, load_models
from .page import page
from .pairs import Split
from .pictures import make_images, measure
from .store import Store
from .summary import summarize

PAGE_FILE = "ablations.md"
ADAPTERS = Path(__file__).parent.parent / "adapters"  # those that docs/ablations.md is measured with
PRECISIONS = ("float32", "bfloat16")


class Run:
    """One run: its models, its settings and where its results go."""

    def __init__(self, models: Models, settings: Settings, out: Path) -> None:
        self.models, self.settings, self.out = models, settings, out
        self._adapters: dict[str, Adapter] = {}

    def make(self, todo: Sequence[Unit], title: str) -> None:
        """Make what is not stored yet."""
        left = [unit for unit in todo if not unit.done(self.out) and _can_be_made(unit)]
        if not left:
            return
        print(f"{title}: {len(left)} of {len(todo)} units to make", flush=True)
        samples = sum(self._samples(unit) for unit in left)
        with tqdm(total=samples, desc=title, unit="sample", mininterval=10) as bar:
            for chunk, of_chunk in self._by_chunk(left):
                for unit in of_chunk:
                    self._make(chunk, unit, bar)

    def _samples(self, unit: Unit) -> int:
        guided = 2 if unit.condition.guidance_scale != 1.0 else 1
        return 0 if unit.condition.given else self.settings.batch * self.settings.steps * guided

    def _by_chunk(self, left: Sequence[Unit]) -> Iterator[tuple[Chunk, list[Unit]]]:
        chunks: dict[tuple[Split, int], list[Unit]] = {}
        for unit in left:
            chunks.setdefault((unit.split, unit.start), []).append(unit)
        for (split, start), of_chunk in chunks.items():
            yield Chunk(self.models, start, self.settings.batch, split), of_chunk

    def _make(self, chunk: Chunk, unit: Unit, bar: tqdm) -> None:
        """Make, measure and store the images of a unit."""
        condition, file = unit.condition, unit.file(self.out)
        with autocast(self.settings.precision):
            image = make_images(
                self.models, chunk, condition, self._loaded(unit.adapter), self.settings.steps, bar.update
            )
        if unit.split is Split.TEST and unit.start == 0:
            shown = chunk.pasted(image) if condition.ad else image
            pixels = (shown.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
            save_atomically(file.with_suffix(".npz"), lambda path: _save_images(path, pixels))
        save_text(file, json.dumps(measure(self.models, chunk, image, condition.ad), allow_nan=True))

    def _loaded(self, file: AdapterFile | None) -> Adapter | None:
        if file is None or file.path is None:
            return None
        if file.identity not in self._adapters:
            self._adapters[file.identity] = load_adapter(file.path).float()
        return self._adapters[file.identity]


def _can_be_made(unit: Unit) -> bool:
    """Whether its adapter, if it has one, is there as a file."""
    return unit.adapter is None or unit.adapter.path is not None


def autocast(precision: str) -> AbstractContextManager[object]:
    """The precision of the sampling; what is read and measured is float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def _save_images(path: Path, pixels: NDArray[np.uint8]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, image=pixels)


def run_tables(
    run: Run, store: Store, tables: Sequence[Experiment], adapters: Sequence[AdapterFile], development: int
) -> None:
    """Make all tables in their order."""
    for table in tables:
        started = time.monotonic()
        for part in units_of(table, adapters, store.batch, development, lambda sweep: store.best(sweep, development)):
            run.make(part, table.name)
        print(f"{table.name}: {time.monotonic() - started:.0f} s", flush=True)


def counted(tables: Sequence[Experiment], seeds: Sequence[int], batch: int, development: int) -> str:
    """How many images it takes with every adapter there, as a table."""
    found = num_images(tables, expected_adapters(tables, seeds), batch, development)
    lines = ["| table | images | of them with guidance |", "|---|---|---|"]
    lines += [f"| {name} | {images:,} | {guided:,} |" for name, (images, guided) in found.items()]
    images, guided = (sum(part) for part in zip(*found.values(), strict=True))
    return "\n".join([*lines, f"| all | {images:,} | {guided:,} |"])


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _pairs_of_table(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in EXPERIMENTS:
        raise argparse.ArgumentTypeError(f"{name!r} is no table, expected one of {', '.join(EXPERIMENTS)}, then =N")
    return name, int(number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=stack.WEIGHTS, help="folder of the demo models")
    parser.add_argument(
        "--adapters",
        type=Path,
        help="folder of {kind}_c{tokens}[_drop]_seed{n}.safetensors (default: those that were trained with the shipped weights)",
    )
    parser.add_argument("--out", type=Path, help="folder of the results, to be continued")
    parser.add_argument("--begin", type=Path, help="readings of an earlier run with the same settings, to add to")
    parser.add_argument(
        "--pairs", action="append", type=_pairs_of_table, default=[], metavar="TABLE=N", help="test pairs of a table"
    )
    parser.add_argument("--development", type=int, default=40, help="pairs that strengths are chosen on")
    parser.add_argument(
        "--seeds", type=_numbers, help="of the adapters to measure with, such as 0,1,2 (default: all found)"
    )
    parser.add_argument("--only", action="append", choices=EXPERIMENTS, help="this table; may be repeated")
    parser.add_argument("--steps", type=int, default=12, help="of DDIM")
    parser.add_argument(
        "--batch", type=int, default=20, help="pairs in a chunk; all numbers of pairs are multiples of it"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the sampling")
    parser.add_argument("--judge", type=Path, default=JUDGE_FILE, help="file of the judge")
    parser.add_argument("--report-only", action="store_true", help="make no images, sum up what is stored")
    parser.add_argument("--count", action="store_true", help="make no images, say how many it takes")
    return parser


def _tables(
    parser: argparse.ArgumentParser, options: argparse.Namespace, adapters: Sequence[AdapterFile]
) -> list[Experiment]:
    """The tables asked for, with the pairs asked for."""
    pairs = dict(options.pairs)
    tables = [
        replace(table, pairs=pairs.get(table.name, table.pairs))
        for table in experiments([adapter.family for adapter in adapters])
        if not options.only or table.name in options.only
    ]
    numbers = {"--development": options.development} | {f"--pairs {table.name}": table.pairs for table in tables}
    for name, number in numbers.items():
        if number < 1 or number % options.batch:
            parser.error(f"{name} is {number}, expected a multiple of --batch, {options.batch}")
    return tables


def main(arguments: list[str] | None = None) -> None:
    """Measure what was asked for, then sum up all that is stored."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in ("steps", "batch"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, expected 1 or more")
    if options.count:
        seeds = options.seeds or (0, 1, 2)
        print(counted(_tables(parser, options, []), seeds, options.batch, options.development))
        return
    if options.out is None:
        parser.error("--out is needed: where the results go")
    if options.adapters is None and options.weights != stack.WEIGHTS:
        parser.error("--adapters is needed: the kept ones were trained with other weights than those in --weights")
    torch.set_flush_denormal(True)
    settings = settings_of(options.weights, options.judge, options.steps, options.batch, options.precision)
    claim_folder(options.out, settings, options.begin, with_controlnet())
    files = find_adapters(options.adapters or ADAPTERS, options.seeds)
    adapters = [*files, *stored_adapters(options.out, files)]
    tables = _tables(parser, options, adapters)
    store = Store(options.out, adapters, options.batch)
    if not options.report_only:
        run = Run(load_models(options.weights, options.judge), settings, options.out)
        run_tables(run, store, tables, adapters, options.development)
    results = summarize(store, settings, tables, options.judge, options.development)
    save_text(options.out / PAGE_FILE, page(results))
    print(f"wrote {options.out / PAGE_FILE} and {options.out / 'results.json'}")


if __name__ == "__main__":
    main()
