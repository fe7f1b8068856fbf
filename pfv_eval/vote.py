"""A blind vote of people on images of several methods, and its count.

    python -m pfv_eval.vote make --images FOLDER FOLDER ... --out page.html [--kind opinion|choice|both] [--seed N]
    python -m pfv_eval.vote count answers*.json [--key FILE] [--out FILE]

`make` writes one self-contained page: each folder is a method, and files of one name belong together. The page names no
method; page.key.json, to be kept from the voters, does. A voter gives opinions from 1 (bad) to 5 (excellent), whose mean
is the mean opinion score, or chooses between two images, and downloads the answers as a JSON file. Answers outlive a closed tab.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .files import save_text
from .page import page
from .statistics import Interval, bootstrap_mean

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
KINDS = ("opinion", "choice", "both")
OPINIONS = {1: "bad", 2: "poor", 3: "fair", 4: "good", 5: "excellent"}
QUESTION = "How good is this image as an advertisement?"
CHOICE_QUESTION = "Which of the two is the better advertisement?"
QUALITY = 95


class VoteError(ValueError):
    """Folders that cannot be voted on, or answers that cannot be counted; the message says what to do."""


def make_page(folders: Sequence[Path], out: Path, kind: str = "both", seed: int = 0) -> Path:
    """Write the page and its key.

    Args:
        folders: one for each method, called what the method is called; at least two.
        out: of the page.
        kind: opinion, choice or both: opinions first.
        seed: of the order, of the sides in a choice and of the images' hidden names.

    Returns:
        The key: which hidden name is which method and file.

    Raises:
        VoteError: fewer than two folders, two of one name, files that not every folder has, a file that is no image.
    """
    names = common_files(folders)
    rng = random.Random(seed)
    identity = sha256(f"{[folder.name for folder in folders]}{names}{kind}{seed}".encode()).hexdigest()[:12]
    hidden = {
        (folder.name, name): sha256(f"{identity}/{folder.name}/{name}".encode()).hexdigest()[:10]
        for folder in folders
        for name in names
    }
    images = {hidden[folder.name, name]: _data(folder / name) for folder in folders for name in names}
    tasks = _tasks([folder.name for folder in folders], names, hidden, kind, rng)
    shuffled = sorted(images.items())  # by hidden name: the order in the file tells nothing either
    content = {"page": identity, "key": _key_name(out), "tasks": tasks, "images": dict(shuffled)}
    key = {"page": identity, "images": {value: list(place) for place, value in hidden.items()}}
    html = page("Your opinion on images", _BODY, _SCRIPT.replace("__CONTENT__", _script_json(content)), _STYLE)
    save_text(out, html)
    key_file = out.with_name(_key_name(out))
    save_text(key_file, json.dumps(key, indent=1))
    return key_file


def common_files(folders: Sequence[Path]) -> list[str]:
    """Names of the images that all folders hold.

    Raises:
        VoteError: see `make_page`.
    """
    if len(folders) < 2 or len({folder.name for folder in folders}) != len(folders):
        raise VoteError(
            f"folders are {[str(f) for f in folders]}: give two or more, each called what its method is called"
        )
    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise VoteError(f"{folder} is no folder: give a folder of images for each method")
        found[folder] = {file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES}
    every = set.union(*found.values())
    for folder, names in found.items():
        if every - names or not names:
            lacking = ", ".join(sorted(every - names)[:3]) or "any image at all"
            raise VoteError(f"{folder} lacks {lacking}: a blind vote needs every image from every method, by one name")
    return sorted(every)


def count(answers: Sequence[Path], key: Path | None = None) -> dict[str, Any]:
    """Sum up answers.

    Args:
        answers: files that voters downloaded; of two by one voter the later counts.
        key: of the page; by default where the page put it, beside the first of the answers.

    Returns:
        voters; opinions: per method the mean opinion with its interval, 1..5; choices: per two methods how often the
        first was preferred, 0..1, a tie counting half. Intervals are two-way, over voters and images.

    Raises:
        VoteError: no answers, a missing key, answers of another page, or ones that no page gives.
    """
    if not answers:
        raise VoteError("no answers were given: name the files that the voters downloaded")
    given = [_read(file) for file in answers]
    key_file = key or answers[0].with_name(str(given[0].get("key")))
    if not key_file.is_file():
        raise VoteError(f"{key_file} is missing: it tells which image is whose; give it with --key")
    truth = _read(key_file)
    by_voter: dict[str, dict[str, Any]] = {}
    for file, one in zip(answers, given, strict=True):
        if one.get("page") != truth["page"]:
            raise VoteError(f"{file} answers page {one.get('page')}, the key {key_file} is of page {truth['page']}")
        by_voter[str(one.get("voter", file.stem))] = _checked(file, one, truth["images"])
    voters = list(by_voter.values())
    return {"voters": len(voters), "opinions": _opinions(voters, truth), "choices": _choices(voters, truth)}


def _opinions(voters: Sequence[dict[str, Any]], truth: dict[str, Any]) -> dict[str, dict[str, float]]:
    methods, names = _methods_and_names(truth)
    values = {method: np.full((len(voters), len(names)), math.nan) for method in methods}
    for row, voter in enumerate(voters):
        for image, opinion in voter["opinions"].items():
            method, name = truth["images"][image]
            values[method][row, names.index(name)] = opinion
    return {method: _plain(bootstrap_mean(of_method)) for method, of_method in values.items() if _any(of_method)}


def _choices(voters: Sequence[dict[str, Any]], truth: dict[str, Any]) -> dict[str, dict[str, float]]:
    methods, names = _methods_and_names(truth)
    values = {pair: np.full((len(voters), len(names)), math.nan) for pair in combinations(methods, 2)}
    for row, voter in enumerate(voters):
        for choice in voter["choices"]:
            (left, name), (right, _) = (truth["images"][choice[side]] for side in ("left", "right"))
            chosen = truth["images"][choice["chosen"]][0] if choice["chosen"] else None
            first, second = sorted((left, right))
            values[first, second][row, names.index(name)] = 0.5 if chosen is None else float(chosen == first)
    return {
        f"{first} over {second}": _plain(bootstrap_mean(found))
        for (first, second), found in values.items()
        if _any(found)
    }


def _any(values: NDArray[np.float64]) -> bool:
    return not bool(np.isnan(values).all())


def _methods_and_names(truth: dict[str, Any]) -> tuple[list[str], list[str]]:
    places = truth["images"].values()
    return sorted({method for method, _ in places}), sorted({name for _, name in places})


def _plain(interval: Interval) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(interval).items() if name in ("value", "low", "high")}


def _checked(file: Path, answer: dict[str, Any], images: dict[str, Any]) -> dict[str, Any]:
    """An answer whose every image is known and whose every opinion is 1..5."""
    opinions, choices = answer.get("opinions", {}), answer.get("choices", [])
    unknown = [image for image in opinions if image not in images]
    for choice in choices:
        unknown += [choice[side] for side in ("left", "right") if choice[side] not in images]
        if choice["chosen"] not in (None, choice["left"], choice["right"]):
            raise VoteError(f"{file} chooses {choice['chosen']}, which was not shown: the file was changed by hand")
    wrong = [value for value in opinions.values() if value not in OPINIONS]
    if unknown or wrong:
        raise VoteError(
            f"{file} holds {(unknown or wrong)[0]!r}, which this page cannot give: the file was changed by hand"
        )
    return {"opinions": opinions, "choices": choices}


def _tasks(
    methods: list[str], names: list[str], hidden: dict[tuple[str, str], str], kind: str, rng: random.Random
) -> list[dict[str, str]]:
    opinions = [{"kind": "opinion", "image": hidden[method, name]} for method in methods for name in names]
    choices = []
    for name in names:
        for pair in combinations(methods, 2):
            left, right = rng.sample(pair, 2)
            choices.append({"kind": "choice", "left": hidden[left, name], "right": hidden[right, name]})
    rng.shuffle(opinions)
    rng.shuffle(choices)
    return {"opinion": opinions, "choice": choices, "both": opinions + choices}[kind]


def _data(file: Path) -> str:
    """An image without its metadata, which may name the method, as a data URI."""
    try:
        with Image.open(file) as image:
            pixels = image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise VoteError(
            f"{file} is no image that can be read ({error}): replace or remove it, in every folder"
        ) from error
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _key_name(out: Path) -> str:
    return f"{out.stem}.key.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VoteError(f"{file} cannot be read as JSON ({error}): ask for the file again") from error
    if not isinstance(content, dict):
        raise VoteError(
            f"{file} holds a {type(content).__name__}, expected the JSON object that a page or `make` writes"
        )
    return content


def _script_json(content: dict[str, Any]) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(content).replace("<", "\\u003c")


_STYLE = """
.stage { display: flex; gap: 1rem; justify-content: center; margin: 1rem 0; }
.stage img { max-width: min(46vw, 40rem); max-height: 60vh; border-radius: 6px; cursor: default; }
.answers { display: flex; gap: .5rem; justify-content: center; flex-wrap: wrap; }
button { font: inherit; padding: .5rem 1rem; border: 1px solid var(--line); border-radius: 6px; background: var(--tile);
  color: inherit; cursor: pointer; }
button:focus-visible { outline: 3px solid var(--mark); } progress { width: 100%; }
"""
_BODY = f"""
<h1>Your opinion on images</h1>
<p class="soft">Answer with the buttons or the keys 1 to 5 (two images: left, right arrow, 0 = neither). There is no right
answer. At the end, save the file and send it back.</p>
<progress id="progress" value="0" max="1"></progress>
<main><h2 id="question"></h2><div class="stage" id="stage"></div><div class="answers" id="answers"></div></main>
<p><button id="back" type="button">Back</button> <button id="save" type="button">Save my answers</button></p>
<template id="words" data-opinion="{escape(QUESTION)}" data-choice="{escape(CHOICE_QUESTION)}"
  data-opinions="{escape(json.dumps(OPINIONS))}"></template>
"""
_SCRIPT = """
"use strict";
const content = __CONTENT__;
const words = document.getElementById("words").dataset, opinionNames = JSON.parse(words.opinions);
const store = "vote-" + content.page, part = (name) => document.getElementById(name);
const fresh = () => ({voter: Math.random().toString(36).slice(2, 12), answers: []});
let state = fresh();
try { state = JSON.parse(localStorage.getItem(store)) || state; } catch (_error) { /* private mode: no memory */ }

function remember() { try { localStorage.setItem(store, JSON.stringify(state)); } catch (_error) { /* as above */ } }

function options(task) {
  if (task.kind === "opinion") return Object.entries(opinionNames).map(([n, name]) => [n, n + " " + name, Number(n)]);
  return [["ArrowLeft", "left", task.left], ["0", "neither", null], ["ArrowRight", "right", task.right]];
}

function answer(value) { state.answers.push(value); remember(); show(); }

function show() {
  const index = state.answers.length, task = content.tasks[index];
  part("progress").value = index / content.tasks.length;
  part("back").disabled = index === 0;
  part("stage").replaceChildren();
  part("answers").replaceChildren();
  if (!task) { part("question").textContent = "Thank you. Please save your answers and send the file back."; return; }
  part("question").textContent = task.kind === "opinion" ? words.opinion : words.choice;
  for (const id of task.kind === "opinion" ? [task.image] : [task.left, task.right]) {
    const image = document.createElement("img");
    image.src = content.images[id];
    image.alt = "image to judge";
    part("stage").append(image);
  }
  for (const [, label, value] of options(task)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.onclick = () => answer(value);
    part("answers").append(button);
  }
}

function save() {
  const result = {page: content.page, key: content.key, voter: state.voter, opinions: {}, choices: []};
  state.answers.forEach((value, index) => {
    const task = content.tasks[index];
    if (task.kind === "opinion") result.opinions[task.image] = value;
    else result.choices.push({left: task.left, right: task.right, chosen: value});
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(result, null, 1)], {type: "application/json"}));
  link.download = "answers-" + state.voter + ".json";
  link.click();
}

part("back").onclick = () => { state.answers.pop(); remember(); show(); };
part("save").onclick = save;
document.addEventListener("keydown", (event) => {
  const task = content.tasks[state.answers.length];
  const found = task && options(task).find(([key]) => key === event.key);
  if (found) { event.preventDefault(); answer(found[2]); }
});
show();
"""


def main(arguments: list[str] | None = None) -> None:
    """Make a page, or count answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the page")
    make.add_argument("--images", type=Path, nargs="+", required=True, help="a folder for each method")
    make.add_argument("--out", type=Path, required=True, help="file of the page")
    make.add_argument("--kind", choices=KINDS, default="both")
    make.add_argument("--seed", type=int, default=0, help="of the order")
    counting = commands.add_parser("count", help="count answers")
    counting.add_argument("answers", type=Path, nargs="+")
    counting.add_argument("--key", type=Path, help="file that `make` wrote beside the page")
    counting.add_argument("--out", type=Path, help="file for the result; by default it is printed only")
    options = parser.parse_args(arguments)
    try:
        if options.command == "make":
            key = make_page(options.images, options.out, options.kind, options.seed)
            print(f"wrote {options.out} for the voters, and {key}, which is to be kept from them")
            return
        result = json.dumps(count(options.answers, options.key), indent=1)
    except VoteError as error:
        parser.error(str(error))
    print(result)
    if options.out:
        save_text(options.out, result + "\n")


if __name__ == "__main__":
    main()
