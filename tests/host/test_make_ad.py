"""The demo's ad from a real server and from diffusers is one picture: same files, same noise, two engines."""

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
from headless.ad.plan import DEMO_SIZE, Plan, plan_workflow
from headless.ad.workflow import nodes_of, set_inputs, without_pfv
from headless.host.find import require_host
from pfv_mepa.tests.demo_weights import copy_pack

PICTURES = {file.name: file for file in DEMO_INPUTS.glob("*.png")}
STEPS = "20"  # divides the 1000 training steps: both engines take the same ones


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    """This pack with random weights in the place of the trained ones."""
    return copy_pack(tmp_path_factory.mktemp("packs"))


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"), int)


def test_two_engines_one_ad(pack, tmp_path):
    plan = Plan(require_host(), None, "the test", DEMO_SIZE)
    shown = plan_workflow(plan, make_ad.parser().parse_args(["--steps", STEPS]))
    workflows = {"with": shown, "without": without_pfv(shown), "balanced": copy.deepcopy(shown)}
    first, second = nodes_of(workflows["balanced"], "MEPAApply")
    set_inputs(first, std_norm=True)
    set_inputs(second, time_weighting=True, gamma=300)
    in_diffusers = DiffusersEngine(pack / "pfv_demo" / "weights")
    ads = {}
    with engine_of(plan, tmp_path / "server.log", [pack]) as in_host:
        for name, workflow in workflows.items():
            for engine, runs in (("host", in_host), ("diffusers", in_diffusers)):
                file = runs.run(workflow, PICTURES, tmp_path / f"{name}_{engine}.png")
                assert produce_ad.report(file, PICTURES, workflow)
                ads[name, engine] = pixels(file)
    for name in workflows:
        difference = np.abs(ads[name, "host"] - ads[name, "diffusers"])
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.02
    for name in ("without", "balanced"):
        assert np.abs(ads["with", "host"] - ads[name, "host"]).max() > 10
