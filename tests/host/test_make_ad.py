"""The demo's ads from a real server and from diffusers are one picture: same files, same noise, two engines."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headless import make_ad
from headless.ad import produce as produce_ad
from headless.ad.diffusers_engine import DiffusersEngine
from headless.ad.engine import engine_of
from headless.ad.pictures import DEMO_INPUTS
from headless.ad.plan import Plan, plan_workflow
from headless.ad.workflow import load_prompt, nodes_of, set_inputs, the_node, without_pfv
from headless.host.find import PACK_ROOT, require_host
from pfv_mepa.tests.demo_weights import copy_pack

PICTURES = {file.name: file for file in DEMO_INPUTS.glob("*.png")}
STEPS = 4  # divides the 1000 training steps: both engines take the same ones


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    """This pack with random weights in the place of the trained ones."""
    return copy_pack(tmp_path_factory.mktemp("packs"))


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"), int)


@pytest.fixture(scope="module")
def in_host(pack, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "server.log"
    with engine_of(Plan(require_host(), None, "the test"), log, [pack]) as engine:
        yield engine


def both(pack, in_host, workflows, folder):
    """(Workflow, engine) -> the ad's pixels, all of them exact."""
    engines = {"host": in_host, "diffusers": DiffusersEngine(pack / "pfv_demo" / "weights")}
    made = {
        (name, engine): runs.run(workflow, PICTURES, folder / f"{name}_{engine}.png")
        for name, workflow in workflows.items()
        for engine, runs in engines.items()
    }
    assert all(produce_ad.report(ad) for ad in made.values())
    return {key: pixels(ad.file) for key, ad in made.items()}


def check_twins(ads, names):
    for name in names:
        difference = np.abs(ads[name, "host"] - ads[name, "diffusers"])
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.02


def test_two_engines_one_ad(pack, in_host, tmp_path):
    shown = load_prompt(PACK_ROOT / "workflows" / "api" / "demo_full.json")
    set_inputs(the_node(shown, "KSampler"), steps=STEPS)
    workflows = {"with": shown, "without": without_pfv(shown), "balanced": copy.deepcopy(shown)}
    first, second = nodes_of(workflows["balanced"], "MEPAApply")
    set_inputs(first, std_norm=True)
    set_inputs(second, time_weighting=True, gamma=300)
    ads = both(pack, in_host, workflows, tmp_path)
    check_twins(ads, workflows)
    for name in ("without", "balanced"):
        assert np.abs(ads["with", "host"] - ads[name, "host"]).max() > 10


def test_two_engines_one_ad_of_two_plain_photographs(pack, in_host, tmp_path):
    """What both find is the same, so the ads are: as shipped, and in another format at another place."""
    shown = plan_workflow(Plan(require_host(), None, "the test"), make_ad.parser().parse_args(["--steps", str(STEPS)]))
    other = copy.deepcopy(shown)
    set_inputs(the_node(other, "PFVAdCanvas"), custom_width=264, custom_height=232, position="bottom_right")
    workflows = {"with": shown, "without": without_pfv(shown), "wide": other}
    ads = both(pack, in_host, workflows, tmp_path)
    check_twins(ads, workflows)
    assert ads["wide", "host"].shape == (232, 264, 3)
    assert np.abs(ads["with", "host"] - ads["without", "host"]).max() > 10
