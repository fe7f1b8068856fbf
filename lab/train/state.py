"""The state of a run in its folder: the newest whole one and the one before it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..files import save_atomically
from .schedule import FREE, OF_THE_RATE, Schedule

NEWEST, OLDER, DAMAGED = "state.pt", "state.previous.pt", "state.damaged.pt"
FORMAT = 2


class TrainingStateError(RuntimeError):
    """A state that does not belong to this run, or cannot be written; the message says what to do."""


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the newest state; what was the newest becomes the older one once this is whole.

    Raises:
        NotWrittenError: writing failed; both files are what they were.
    """

    def write(unfinished: Path) -> None:
        torch.save({"format": FORMAT, **state}, unfinished)
        if (folder / NEWEST).is_file():
            (folder / NEWEST).replace(folder / OLDER)

    save_atomically(folder / NEWEST, write)


def load_state(folder: Path, accelerator: Accelerator) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole state and its file, the same in every process; None where none was ever written.

    The main process chooses. It sets a damaged newest one aside, says so, and goes on from the older.

    Raises:
        TrainingStateError: every state there is damaged, or another version of the trainer wrote it.
    """
    chosen = [_choose(folder, accelerator) if accelerator.is_main_process else None]
    file = broadcast_object_list(chosen)[0]
    if file is None:
        return None
    shared = accelerator.num_processes > 1  # of a mapped file the processes of a machine share one copy in memory
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=shared)
    if state.get("format") != FORMAT:
        raise TrainingStateError(
            f"{file} has format {state.get('format')}, expected {FORMAT}: another version of the trainer wrote it. Finish it "
            "with that one, or give another folder"
        )
    return file, state


def check_same_run(file: Path, state: Mapping[str, Any], identity: Mapping[str, Any], schedule: Schedule) -> None:
    """TrainingStateError, with both values, where a state and a run differ in what the steps done depend on.

    Args:
        file: of the state, for the message.
        state: as loaded.
        identity: everything that decides what the run computes, the schedule's fields among it.
        schedule: of the run.
    """
    there, done = json.loads(state["identity"]), state["step"]
    earlier = Schedule(**{field.name: there[field.name] for field in fields(Schedule)})
    same_rates = schedule.agrees(earlier, done) and done <= schedule.steps
    may_differ = FREE | OF_THE_RATE if same_rates else FREE
    names = {name for name in {*there, *identity} if there.get(name) != identity.get(name)} - may_differ
    if names:
        told = "; ".join(
            f"{name} is {there.get(name)!r} there and {identity.get(name)!r} here" for name in sorted(names)
        )
        raise TrainingStateError(
            f"{file} belongs to another run, {done} steps of which are done: {told}. Give the same settings, or another folder"
        )


def _choose(folder: Path, accelerator: Accelerator) -> Path | None:
    for unfinished in folder.glob(f".{NEWEST}.*"):  # of a process that was killed while it wrote
        unfinished.unlink()
    newest, older = folder / NEWEST, folder / OLDER
    damages: dict[Path, str] = {}
    for file in (newest, older):  # both are large: the older is read only where the newest is not whole
        damage = _damage(file) if file.is_file() else "is missing"
        if damage is None and file is older:
            accelerator.print(f"{newest} {damages[newest]}: going on from {older}")
            if newest.is_file():
                newest.replace(folder / DAMAGED)
        if damage is None:
            return file
        damages[file] = damage
    damages = {file: damage for file, damage in damages.items() if file.is_file()}
    if damages:
        told = "; ".join(f"{file} {damage}" for file, damage in damages.items())
        raise TrainingStateError(f"{told}. No other state is there: delete it to start again")
    return None


def _damage(file: Path) -> str | None:
    """What is wrong with a file: torch's are archives with a checksum of each tensor."""
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return f"cannot be read ({error})"
    return f"is damaged (in {broken})" if broken else None
