"""A server with this pack and its demo pictures, and its page in Chromium."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from headless.host.find import PACK_ROOT, require_host
from headless.host.find_chromium import find_chromium
from headless.host.start import running_host
from headless.run_tests import BROWSER_TESTS
from pfv_mepa.tests.browser.comfy_page import ComfyPage
from pfv_mepa.tools.workflow_parts.models import (
    ADAPTER,
    BACKGROUND_REMOVAL,
    CHECKPOINT,
    CLIP_VISION,
    DEPTH_ANYTHING,
    DEPTH_CONTROLNET,
    SAM3,
)

WORKFLOWS = PACK_ROOT / "workflows"
NAMES = tuple(sorted(file.stem for file in WORKFLOWS.glob("*.json")))
REFERENCE = "Reference"
UNPAINTED = "unpainted.png"  # the demo's reference, over which nobody has painted yet
OF_NEWER_HOSTS = "ad"  # the workflow that has nodes in it which not every host has
STROKE = [(x, y) for y in (100, 124, 148, 172) for x in range(72, 185, 16)]  # over the reference's product
PICTURES_FOLDER = "PFV_MEPA_SCREENSHOTS"  # where the tests leave what they saw; nothing is kept where it is not set
FRONTEND_FOLDER = "PFV_MEPA_FRONTEND"  # of the page that is given out, with its index.html; the host's own else


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Model files under the names that stand in the workflows (empty: only the demo is run), and every named picture."""
    base = tmp_path_factory.mktemp("browser")
    of_the_host = (BACKGROUND_REMOVAL, SAM3, DEPTH_ANYTHING)
    for model in (CHECKPOINT, CLIP_VISION, ADAPTER, DEPTH_CONTROLNET, *of_the_host):
        file = base / "models" / model.folder / model.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    shutil.copytree(WORKFLOWS / "demo_inputs", base / "input")
    for file in sorted((base / "input").glob("demo_*.png")):
        shutil.copy(file, file.with_name(file.name.removeprefix("demo_")))
    with Image.open(base / "input" / "demo_reference.png") as picture:
        picture.convert("RGB").save(base / "input" / UNPAINTED)  # before any page, which lists pictures as it is opened
    frontend = os.environ.get(FRONTEND_FOLDER)
    options = ["--front-end-root", str(Path(frontend).resolve())] if frontend else []
    with running_host(require_host(), Path(sys.executable), base, [PACK_ROOT], options) as running:
        yield running


@pytest.fixture(scope="session")
def unpainted_workflow(server) -> Path:
    """demo_minimal with a reference that nobody has painted yet, and few steps."""
    inputs = server.log.parent / "input"
    workflow = json.loads((WORKFLOWS / "demo_minimal.json").read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        if node.get("title") == REFERENCE:
            node["widgets_values"][0] = UNPAINTED
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 4
    file = inputs.parent / "unpainted.json"
    file.write_text(json.dumps(workflow), encoding="utf-8")
    return file


def as_long_as_nobody_else_runs(fixture_name: str, config: pytest.Config) -> str:
    """While Playwright runs, so does an event loop: tests of no other folder may run beside it."""
    return "session" if config.args == [BROWSER_TESTS] else "module"


@pytest.fixture(scope=as_long_as_nobody_else_runs)
def playwright():
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope=as_long_as_nobody_else_runs)
def open_page(server, playwright):
    chromium = find_chromium()
    assert chromium is not None
    page = ComfyPage(playwright, chromium, server.url).open()
    page.first_complaints = list(page.complaints)
    yield page
    page.close()


@pytest.fixture
def page(open_page):
    """The page with an empty canvas, which nothing in it may complain about."""
    if not open_page.is_usual:
        open_page.open()
    open_page.clear()
    yield open_page
    assert open_page.complaints == []


@pytest.fixture
def keep(page):
    """Function: name, titles of nodes -> a screenshot in the folder of PFV_MEPA_SCREENSHOTS, where that is set."""
    folder = os.environ.get(PICTURES_FOLDER)
    return lambda name, *titles: page.picture(Path(folder) / f"{name}.jpg", *titles) if folder else None
