"""Measures on held-out pairs of scenes what the demo models do with texts, references and regions.

    python -m lab.demo.evaluation.ablations --weights FOLDER --adapters FOLDER --out FOLDER [--pairs 500] [--seeds 0,1,2]
                                 [--only NAME] [--report-only] [--steps 12] [--batch 50] [--judge FILE] [--clip FOLDER]

Results are stored for each condition, adapter and chunk of pairs as they come: killed and started again it goes on.
Each pair has one noise, the same under all conditions. FOLDER/report.html and FOLDER/results.json sum up whatever is
stored; adapters that --adapters lacks are named there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.adapter.model import Adapter

from ...files import save_atomically, save_text
from .. import stack
from .ablation_units import AdapterFile, Unit, claim_folder, find_adapters, settings_of, units
from .chunk import Chunk, Models, load_models, make_images, measure
from .conditions import EXPERIMENTS, Condition, experiments
from .judge import FILE as JUDGE_FILE
from .report import write_report
from .summary import Store, summarize


def run_unit(
    models: Models, chunk: Chunk, unit: Unit, adapter: Adapter | None, out: Path, steps: int, bar: Any
) -> None:
    """Make, measure and store the images of a unit."""
    image = make_images(models, chunk, unit.condition, adapter, steps, bar)
    file = unit.file(out)
    file.parent.mkdir(parents=True, exist_ok=True)
    if unit.start == 0 or unit.condition.keep_images:
        pixels = (image.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        save_atomically(file.with_suffix(".npz"), lambda path: _save_images(path, pixels))
    result = {"count": unit.count, **measure(models, chunk, image)}
    save_text(file, json.dumps(result, allow_nan=True))


def _save_images(path: Path, pixels: NDArray[np.uint8]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, image=pixels)


def run(models: Models, todo: Sequence[Unit], out: Path, steps: int) -> None:
    """Make what is not stored yet."""
    left = [unit for unit in todo if not unit.done(out)]
    if not left:
        return
    samples = sum(unit.samples(steps) for unit in left)
    speed = _samples_per_second(models, left[0].count)
    print(
        f"{len(left)} of {len(todo)} units to make: {samples} samples of the U-Net, about {samples / speed / 60:.0f} "
        f"minutes at {speed:.0f} samples/s",
        flush=True,
    )
    adapters: dict[str, Adapter] = {}
    with tqdm(total=samples, desc="ablations", unit="sample", mininterval=10) as bar:
        for chunk, of_chunk in _by_chunk(models, left):
            for unit in of_chunk:
                run_unit(models, chunk, unit, _loaded(unit.adapter, adapters), out, steps, bar)


def _by_chunk(models: Models, left: Sequence[Unit]) -> Iterator[tuple[Chunk, list[Unit]]]:
    chunks: dict[tuple[int, int], list[Unit]] = {}
    for unit in left:
        chunks.setdefault((unit.start, unit.count), []).append(unit)
    for (start, count), of_chunk in chunks.items():
        yield Chunk(models, start, count), of_chunk


def _loaded(file: AdapterFile | None, adapters: dict[str, Adapter]) -> Adapter | None:
    if file is None:
        return None
    if file.identity not in adapters:
        adapters[file.identity] = load_adapter(file.path).float()
    return adapters[file.identity]


def _samples_per_second(models: Models, batch: int) -> float:
    chunk = Chunk(models, 0, batch)
    condition = Condition("speed", "speed")
    make_images(models, chunk, condition, None, 1)
    started = time.monotonic()
    make_images(models, chunk, condition, None, 2)
    return 2 * batch / (time.monotonic() - started)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main(arguments: list[str] | None = None) -> None:
    """Measure what was asked for, then sum up all that is stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=stack.WEIGHTS, help="folder of the demo models")
    parser.add_argument("--adapters", type=Path, required=True, help="folder of {kind}_c{tokens}_seed{n}.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, to be continued")
    parser.add_argument("--pairs", type=int, default=500, help="held-out pairs of scenes")
    parser.add_argument("--seeds", type=_numbers, default=(0, 1, 2), help="of the adapters' training, such as 0,1,2")
    parser.add_argument("--only", action="append", choices=EXPERIMENTS, help="this table; may be repeated")
    parser.add_argument("--report-only", action="store_true", help="make no images, sum up what is stored")
    parser.add_argument("--steps", type=int, default=12, help="of DDIM")
    parser.add_argument("--batch", type=int, default=50, help="pairs in a chunk")
    parser.add_argument("--judge", type=Path, default=JUDGE_FILE, help="file of the judge")
    parser.add_argument("--clip", type=Path, help="folder of a transformers CLIP model, for the CLIP score")
    options = parser.parse_args(arguments)
    for name in ("pairs", "steps", "batch"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, expected 1 or more")
    torch.set_flush_denormal(True)
    settings = settings_of(options.weights, options.judge, options.steps, options.batch)
    claim_folder(options.out, settings)
    adapters = find_adapters(options.adapters, options.seeds)
    tables = experiments([adapter.family for adapter in adapters])
    rows = [row for table in tables if not options.only or table.name in options.only for row in table.rows]
    models = load_models(options.weights, options.judge)
    if not options.report_only:
        run(models, units(rows, adapters, options.pairs, options.batch), options.out, options.steps)
    store = Store(options.out, adapters, options.pairs, options.batch)
    results = summarize(store, settings, tables, options.judge, options.clip)
    write_report(store, results, models)
    print(f"wrote {options.out / 'report.html'} and {options.out / 'results.json'}")


if __name__ == "__main__":
    main()
