"""The demo's workflow in diffusers: it obeys the workflow's settings, and keeps what the nodes promise."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headless import make_ad
from headless.ad import check_ad
from headless.ad import produce as produce_ad
from headless.ad.diffusers_engine import DiffusersEngine
from headless.ad.pictures import DEMO_INPUTS
from headless.ad.plan import DEMO_SIZE, Plan, plan_workflow
from headless.ad.workflow import nodes_of, set_inputs, the_node, without_pfv
from pfv_mepa.tests.demo_weights import write_random_weights

PICTURES = {file.name: file for file in DEMO_INPUTS.glob("*.png")}


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> DiffusersEngine:
    return DiffusersEngine(write_random_weights(tmp_path_factory.mktemp("weights")))


@pytest.fixture
def workflow():
    return plan_workflow(Plan(None, None, "", DEMO_SIZE), make_ad.parser().parse_args(["--steps", "2"]))


@pytest.fixture
def ad_of(engine, tmp_path):
    """Function: workflow, pictures -> the ad's pixels."""

    def run(workflow, pictures=PICTURES) -> np.ndarray:
        with Image.open(engine.run(workflow, pictures, tmp_path / "ad.png")) as image:
            return np.asarray(image)

    return run


def test_the_saved_file_keeps_the_product_and_carries_the_workflow(ad_of, workflow, tmp_path):
    assert ad_of(workflow).shape == (128, 128, 3)
    assert produce_ad.report(tmp_path / "ad.png", PICTURES, workflow)
    changed = copy.deepcopy(workflow)
    set_inputs(the_node(changed, "KSampler"), seed=9)
    assert not check_ad.same_workflow(check_ad.embedded_prompt(tmp_path / "ad.png"), changed)


@pytest.mark.parametrize(
    ("class_type", "title", "change"),
    [
        ("KSampler", None, {"seed": 2}),
        ("KSampler", None, {"steps": 3}),
        ("KSampler", None, {"cfg": 1.5}),
        ("CLIPTextEncode", "Prompt", {"text": "a blue ball"}),
        ("CLIPTextEncode", "Negative prompt", {"text": "a green mug"}),
        ("ControlNetApplyAdvanced", None, {"strength": 0.5}),
        ("MEPAApply", "Background reference in its region", {"strength": 0.0}),
        ("MEPAApply", "Table reference in its region", {"text_share": 1.0}),
        ("MEPAApply", "Table reference in its region", {"std_norm": True}),
        ("MEPAApply", "Table reference in its region", {"time_weighting": True, "gamma": 400}),
        ("PFVDepthCompose", None, {"fill": "far"}),
        ("StrictIDComposite", None, {"erode": 3}),
    ],
)
def test_every_setting_counts(ad_of, workflow, class_type, title, change):
    before = ad_of(workflow)
    assert np.array_equal(before, ad_of(workflow))
    set_inputs(the_node(workflow, class_type, title), **change)
    assert not np.array_equal(before, ad_of(workflow))


def test_the_rim_counts(ad_of, workflow):
    composite = the_node(workflow, "StrictIDComposite")
    set_inputs(composite, feather=4)
    within = ad_of(workflow)
    set_inputs(composite, rim="beyond_mask")
    assert not np.array_equal(within, ad_of(workflow))


@pytest.mark.parametrize(
    ("class_type", "name", "value"),
    [
        ("MEPAApply", "end_percent", 0.5),
        ("MEPAApply", "branches", ["1", 0]),
        ("StrictIDComposite", "shadow_strength", 0.5),
        ("KSampler", "sampler_name", "dpmpp_2m"),
    ],
)
def test_what_only_comfyui_computes_is_refused(ad_of, workflow, class_type, name, value):
    nodes_of(workflow, class_type)[0]["inputs"][name] = value
    with pytest.raises(ValueError, match=rf"{class_type} has {name} .*computed in ComfyUI only"):
        ad_of(workflow)


@pytest.mark.parametrize(("where", "influence"), [("hidden", False), ("visible", True)])
def test_only_what_is_visible_in_a_reference_reaches_the_ad(ad_of, workflow, tmp_path, where, influence):
    pictures = dict(PICTURES)
    shipped = "demo_reference_background.png"
    with Image.open(PICTURES[shipped]) as image:
        values = np.array(image)
    change = (values[..., 3] == 0) == (where == "hidden")
    values[change, :3] = 255 - values[change, :3]
    pictures[shipped] = tmp_path / "changed.png"
    Image.fromarray(values).save(pictures[shipped])
    assert np.array_equal(ad_of(workflow), ad_of(workflow, pictures)) != influence
    assert not np.array_equal(ad_of(without_pfv(workflow)), ad_of(without_pfv(workflow), pictures))


def test_both_references_take_part(ad_of, workflow, tmp_path):
    """Grey in the place of either one changes the ad."""
    before = ad_of(workflow)
    assert len(nodes_of(workflow, "MEPAApply")) == 2
    for name in ("demo_reference_background.png", "demo_reference_table.png"):
        with Image.open(PICTURES[name]) as image:
            values = np.array(image)
        values[..., :3] = 128
        Image.fromarray(values).save(tmp_path / name)
        assert not np.array_equal(before, ad_of(workflow, PICTURES | {name: tmp_path / name}))


def test_a_prompt_that_is_too_long_says_so(ad_of, workflow):
    set_inputs(the_node(workflow, "CLIPTextEncode", "Prompt"), text="a red bottle " * 20)
    with pytest.raises(ValueError, match="tokens, at most 24 fit"):
        ad_of(workflow)


def test_a_missing_file_of_the_weights_is_named(tmp_path):
    write_random_weights(tmp_path)
    (tmp_path / "controlnet.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"controlnet.safetensors is missing"):
        DiffusersEngine(tmp_path)


def test_the_whole_run(engine, tmp_path, monkeypatch, capsys):
    """Two ads, a sheet, all pictures, and what to do next."""
    monkeypatch.setattr("headless.ad.diffusers_engine.DiffusersEngine", lambda: engine)
    own = tmp_path / "own.png"
    shutil.copy(PICTURES["demo_product.png"], own)
    arguments = ["--engine", "diffusers", "--out", str(tmp_path / "out"), "--steps", "1", "--product", str(own)]
    assert produce_ad.main(make_ad.parser().parse_args(arguments)) == 0
    written = {str(file.relative_to(tmp_path / "out")) for file in Path(tmp_path / "out").rglob("*.png")}
    assert {"ad.png", "ad_without_pfv.png", "contact_sheet.png", "inputs/demo_product.png"} <= written
    said = capsys.readouterr().out
    assert f"product: {own}" in said
    assert said.count("pixels in the mask eroded by 1 are the photo's") == 2
    assert "as it was run" in said
    assert "next: the same with SDXL" in said
