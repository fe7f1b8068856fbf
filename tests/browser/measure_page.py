"""From the page to the ad, in seconds and gestures, with the demo's models: `python -m tests.browser.measure_page [RUNS]`.

From two photographs (`demo_ad`) and from files that somebody has prepared (`demo_full`), with a server and a page for each.
A person's gestures are made by the page's own events: each picture is dropped onto its node, the sentence is written, Run is
pressed. Then the ad is waited for where it is seen. The first run after a start loads the models; every later one has another
seed, so that nothing is taken from the host's cache but the models and what does not depend on the seed.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Playwright, sync_playwright

from headless.host.environment import python_for
from headless.host.find import PACK_ROOT, Host, require_host
from headless.host.find_chromium import HOW_TO_GET_CHROMIUM, find_chromium
from headless.host.start import running_host
from tests.browser.comfy_page import SHOW, ComfyPage

WORKFLOWS = PACK_ROOT / "workflows"
NAMES = ("demo_ad", "demo_full")
PROMPT, SENTENCE, AD = "Prompt", "a red bottle", "Save the ad"
PATIENCE = 300_000  # milliseconds for one ad
SHOWS_A_NEW_IMAGE = """([title, before]) => {
    const source = app.graph.nodes.find((node) => node.title === title).imgs?.[0]
    return source?.naturalWidth > 0 && source.src !== before && source.src
}"""


@dataclass(frozen=True)
class Brought:
    """A picture that a workflow asks for.

    Attributes:
        title: of its Load Image.
        file: what the demo gives it.
    """

    title: str
    file: Path

    @property
    def is_prepared(self) -> bool:
        """Whether somebody had to cut out, paint or draw it: it has transparency, or is a picture in greys, as of depth."""
        with Image.open(self.file) as picture:
            colours = np.asarray(picture.convert("RGB"))
            return "A" in picture.getbands() or bool((colours == colours[..., :1]).all())


def pictures_of(name: str) -> list[Brought]:
    """Of each Load Image of a workflow."""
    nodes = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8")).values()
    return [
        Brought(node["_meta"]["title"], WORKFLOWS / "demo_inputs" / node["inputs"]["image"])
        for node in nodes
        if node["class_type"] == "LoadImage"
    ]


def main(runs: int) -> None:
    """Print what each workflow asks for, and how long each step took."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit(HOW_TO_GET_CHROMIUM)
    host = require_host()
    with sync_playwright() as playwright:
        for name in NAMES:
            measure(name, runs, host, playwright, chromium)
    print(f"{runs} runs each, {platform.machine()}, ComfyUI {host.version}")


def measure(name: str, runs: int, host: Host, playwright: Playwright, chromium: str) -> None:
    """Print the figures of one workflow."""
    pictures, clock = pictures_of(name), Clock()
    prepared = sum(picture.is_prepared for picture in pictures)
    print(
        f"{name}: {len(pictures)} pictures dropped, 1 text written, 1 button pressed; {prepared} pictures prepared by hand"
    )
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(WORKFLOWS / "demo_inputs", Path(folder) / "input")
        with running_host(host, python_for(host), Path(folder), [PACK_ROOT]) as running:
            clock.say("host is up")
            page = ComfyPage(playwright, chromium, running.url).open()
            clock.say("page is open")
            opened = time.monotonic()
            page.drop(WORKFLOWS / f"{name}.json")
            clock.say(f"{name}.json is dropped and drawn")
            bring(page, pictures, Path(folder))
            clock.say("pictures are dropped and seen, the sentence is written")
            first = image_seconds(page)
            print(f"page open to ad seen: {time.monotonic() - opened:.2f} s, of it from Run: {first:.2f} s", flush=True)
            times = [image_seconds(page, seed) for seed in range(2, runs + 1)]
            page.close()
    if times:
        spread = f"{min(times):.2f} to {max(times):.2f}"
        print(f"Run pressed to ad seen, after it: median {statistics.median(times):.2f} s ({spread})")


class Clock:
    """Says what has been done and how long it took since the last time."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def say(self, what: str) -> None:
        now = time.monotonic()
        print(f"{what}: {now - self._last:.2f} s", flush=True)
        self._last = now


def bring(page: ComfyPage, pictures: list[Brought], folder: Path) -> None:
    """Drop each picture, under a name that is not the workflow's, and write the sentence."""
    for picture in pictures:
        mine = shutil.copy(picture.file, folder / f"mine_{picture.file.name}")
        page.drop_on(picture.title, mine)
    page.set_widget(PROMPT, "text", SENTENCE)


def image_seconds(page: ComfyPage, seed: int = 1) -> float:
    """Seconds from pressing Run until the ad is on its node."""
    page.set_widget("Sampler", "seed", seed)
    find = "(title) => app.graph.nodes.find((node) => node.title === title).imgs?.[0]?.src ?? null"
    before = page.ask(find, AD)
    started = time.monotonic()
    page.press_run()
    page.ask(SHOW, [AD])  # a node that is out of sight loads no picture
    page.page.wait_for_function(SHOWS_A_NEW_IMAGE, arg=[AD, before], timeout=PATIENCE)
    return time.monotonic() - started


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5)
