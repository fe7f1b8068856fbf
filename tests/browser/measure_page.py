"""From the page to the image, in seconds, with the demo's models: `python -m tests.browser.measure_page [RUNS]`.

The first run after a start loads the models; every run has another seed, so that nothing is taken from the host's cache but
the models and the encoded reference.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from shutil import copytree

from playwright.sync_api import sync_playwright

from headless.host.environment import python_for
from headless.host.find import PACK_ROOT, require_host
from headless.host.find_chromium import HOW_TO_GET_CHROMIUM, find_chromium
from headless.host.start import running_host
from tests.browser.comfy_page import ComfyPage

WORKFLOW = PACK_ROOT / "workflows" / "demo_full.json"
SHOWS_A_NEW_IMAGE = """(before) => {
    const source = app.graph.nodes.find((node) => node.title === 'Save the ad').imgs?.[0]
    return source?.naturalWidth > 0 && source.src !== before && source.src
}"""


def main(runs: int) -> None:
    """Print how long each step took."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit(HOW_TO_GET_CHROMIUM)
    host, clock = require_host(), Clock()
    with tempfile.TemporaryDirectory() as folder:
        copytree(PACK_ROOT / "workflows" / "demo_inputs", Path(folder) / "input")
        with (
            running_host(host, python_for(host), Path(folder), [PACK_ROOT]) as running,
            sync_playwright() as playwright,
        ):
            clock.say("host is up")
            page = ComfyPage(playwright, chromium, running.url).open()
            clock.say("page is open")
            page.drop(WORKFLOW)
            clock.say(f"{WORKFLOW.name} is dropped and drawn")
            times = [image_seconds(page, seed) for seed in range(1, runs + 1)]
            page.close()
    print(f"Run pressed to image seen, first: {times[0]:.2f} s", flush=True)
    if times[1:]:
        low, high = min(times[1:]), max(times[1:])
        print(
            f"Run pressed to image seen, after it: median {statistics.median(times[1:]):.2f} s ({low:.2f} to {high:.2f})"
        )
    print(f"{len(times)} runs, {platform.machine()}, ComfyUI {host.version}")


class Clock:
    """Says what has been done and how long it took since the last time."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def say(self, what: str) -> None:
        now = time.monotonic()
        print(f"{what}: {now - self._last:.2f} s", flush=True)
        self._last = now


def image_seconds(page: ComfyPage, seed: int) -> float:
    """Seconds from pressing Run until the ad is on its node."""
    page.set_widget("Sampler", "seed", seed)
    before = page.ask("() => app.graph.nodes.find((node) => node.title === 'Save the ad').imgs?.[0]?.src ?? null")
    started = time.monotonic()
    page.press_run()
    page.page.wait_for_function(SHOWS_A_NEW_IMAGE, arg=before)
    return time.monotonic() - started


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5)
