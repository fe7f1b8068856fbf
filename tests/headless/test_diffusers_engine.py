"""The demo's workflows in diffusers: they obey their settings, and keep what the nodes promise."""

from __future__ import annotations

import copy
import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headless import make_ad
from headless.ad import check_ad, diffusers_nodes
from headless.ad import produce as produce_ad
from headless.ad.diffusers_engine import DiffusersEngine
from headless.ad.pictures import DEMO_INPUTS
from headless.ad.workflow import load_prompt, nodes_of, set_inputs, the_node, without_pfv
from headless.host.find import PACK_ROOT
from pfv_core.found import photo, reference
from pfv_mepa.tests.demo_weights import write_random_weights
from pfv_mepa.tests.support.found_once import found_once

PICTURES = {file.name: file for file in DEMO_INPUTS.glob("*.png")}
PRODUCT, REFERENCE = "demo_product_photo.png", "demo_reference_photo.png"


def shipped(name: str):
    workflow = load_prompt(PACK_ROOT / "workflows" / "api" / f"{name}.json")
    set_inputs(the_node(workflow, "KSampler"), steps=2)
    return workflow


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> DiffusersEngine:
    return DiffusersEngine(write_random_weights(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module", autouse=True)
def _each_picture_is_looked_at_once():
    """The same few are in every workflow here."""
    with found_once(photo, reference):
        yield


def pixels(made) -> np.ndarray:
    with Image.open(made.file) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def shipped_ad(engine, tmp_path_factory):
    """Function: workflow's name, whether with PFV -> the ad's pixels as it is shipped, made once."""

    @cache
    def made(name: str, pfv: bool = True) -> np.ndarray:
        workflow = shipped(name) if pfv else without_pfv(shipped(name))
        return pixels(engine.run(workflow, PICTURES, tmp_path_factory.mktemp("shipped") / "ad.png"))

    return made


@pytest.fixture
def full():
    return shipped("demo_full")


@pytest.fixture
def ad():
    return shipped("demo_ad")


@pytest.fixture
def made_of(engine, tmp_path):
    """Function: workflow, pictures -> what the run left."""
    return lambda workflow, pictures=PICTURES: engine.run(workflow, pictures, tmp_path / "ad.png")


@pytest.fixture
def ad_of(made_of):
    """Function: workflow, pictures -> the ad's pixels."""
    return lambda workflow, pictures=PICTURES: pixels(made_of(workflow, pictures))


def test_the_same_workflow_gives_the_same_ad(ad_of, shipped_ad, full, ad):
    """So a setting that changes the ad is what changed it."""
    assert np.array_equal(shipped_ad("demo_full"), ad_of(full))
    assert np.array_equal(shipped_ad("demo_ad"), ad_of(ad))


def test_the_saved_file_keeps_the_product_and_carries_the_workflow(made_of, ad, tmp_path):
    made = made_of(ad)
    assert produce_ad.report(made)
    assert set(made.shown) >= {"Product", "Look", "Ground", "Regions", "Depth of the ad", "Product's own pixels"}
    changed = copy.deepcopy(ad)
    set_inputs(the_node(changed, "KSampler"), seed=9)
    assert not check_ad.same_workflow(check_ad.embedded_prompt(tmp_path / "ad.png"), changed)


def test_a_product_that_is_not_exact_is_reported(made_of, ad):
    made = made_of(ad)
    counts = json.loads(made.said["Product's own pixels"])
    counts["exact"] = False
    object.__setattr__(made, "said", {**made.said, "Product's own pixels": json.dumps(counts)})
    assert not produce_ad.report(made)


@pytest.mark.parametrize(
    ("class_type", "title", "change"),
    [
        ("KSampler", None, {"seed": 2}),
        ("KSampler", None, {"steps": 3}),
        ("KSampler", None, {"cfg": 1.5}),
        ("CLIPTextEncode", "Prompt", {"text": "a blue jar"}),
        ("CLIPTextEncode", "Negative prompt", {"text": "a green vase"}),
        ("ControlNetApplyAdvanced", None, {"strength": 0.5}),
        ("MEPAApply", "Background reference in its region", {"strength": 0.0}),
        ("MEPAApply", "Table reference in its region", {"text_share": 1.0}),
        ("MEPAApply", "Table reference in its region", {"std_norm": True}),
        ("MEPAApply", "Table reference in its region", {"time_weighting": True, "gamma": 400}),
        ("PFVDepthCompose", None, {"fill": "far"}),
        ("StrictIDComposite", None, {"erode": 3}),
        ("StrictIDComposite", None, {"shadow_strength": 0.5}),
    ],
)
def test_every_setting_counts(ad_of, shipped_ad, full, class_type, title, change):
    set_inputs(the_node(full, class_type, title), **change)
    assert not np.array_equal(shipped_ad("demo_full"), ad_of(full))


@pytest.mark.parametrize(
    ("class_type", "title", "change"),
    [
        ("PFVReference", None, {"hide": "nothing"}),
        ("PFVReference", None, {"threshold": 0.5}),
        ("PFVReference", None, {"mode": "zero"}),
        ("PFVGround", None, {"ground_line": "at", "at": 0.4}),
        ("PFVAdCanvas", None, {"position": "left"}),
        ("PFVAdCanvas", None, {"custom_width": 288}),
        ("MEPARegionFromMask", None, {"grow": 12}),
        ("MEPARegionShape", None, {"softness": 0.5}),
        ("MEPARegionBuilder", None, {"sharing": "partition"}),
        ("PFVDepthCompose", None, {"fill": "far"}),
        ("MEPAApply", "On the ground", {"strength": 0.0}),
    ],
)
def test_every_setting_of_the_automatic_workflow_counts(ad_of, shipped_ad, ad, class_type, title, change):
    set_inputs(the_node(ad, class_type, title), **change)
    assert not np.array_equal(shipped_ad("demo_ad"), ad_of(ad))


def test_the_rim_counts(ad_of, full):
    composite = the_node(full, "StrictIDComposite")
    set_inputs(composite, feather=4)
    within = ad_of(full)
    set_inputs(composite, rim="beyond_mask")
    assert not np.array_equal(within, ad_of(full))


@pytest.mark.parametrize(
    ("class_type", "name", "value"),
    [
        ("MEPAApply", "end_percent", 0.5),
        ("MEPAApply", "branches", ["1", 0]),
        ("KSampler", "sampler_name", "dpmpp_2m"),
    ],
)
def test_what_only_comfyui_computes_is_refused(ad_of, full, class_type, name, value):
    nodes_of(full, class_type)[0]["inputs"][name] = value
    with pytest.raises(ValueError, match=rf"{class_type} has {name} .*computed in ComfyUI only"):
        ad_of(full)


@pytest.mark.parametrize("prompt", ["a (red:1.3) bottle", "embedding:look, a bottle"])
def test_a_prompt_that_comfyui_would_not_read_as_words_is_refused(ad_of, ad, prompt):
    set_inputs(the_node(ad, "CLIPTextEncode", "Prompt"), text=prompt)
    with pytest.raises(ValueError, match=r"holds '.*', with which ComfyUI weights words .* computed in\s+ComfyUI only"):
        ad_of(ad)


def test_two_controlnets_are_refused(ad_of, ad):
    (key,) = (key for key, node in ad.items() if node["class_type"] == "ControlNetApplyAdvanced")
    (sampler,) = (node for node in ad.values() if node["class_type"] == "KSampler")
    ad["second"] = copy.deepcopy(ad[key])
    set_inputs(ad["second"], strength=0.3)
    set_inputs(sampler, negative=["second", 1])
    with pytest.raises(ValueError, match="positive and negative come from two Apply ControlNet"):
        ad_of(ad)
    set_inputs(ad["second"], positive=[key, 0], negative=[key, 1])
    set_inputs(sampler, positive=["second", 0])
    with pytest.raises(ValueError, match="Apply ControlNet follows another one"):
        ad_of(ad)


def test_a_depth_that_would_be_resized_is_refused(ad_of, ad):
    set_inputs(the_node(ad, "PFVAdCanvas"), sampling_scale="3/2")
    with pytest.raises(ValueError, match=r"needs a depth of 384x384 pixels .* computed in ComfyUI only"):
        ad_of(ad)


def altered(tmp_path: Path, name: str, where: np.ndarray) -> dict[str, Path]:
    """The pictures, with the colours of one turned around at some places."""
    with Image.open(PICTURES[name]) as image:
        values = np.array(image)
    values[where, :3] = 255 - values[where, :3]
    file = tmp_path / f"altered_{name}"
    Image.fromarray(values).save(file)
    return PICTURES | {name: file}


@pytest.mark.parametrize(("where", "influence"), [("hidden", False), ("visible", True)])
def test_only_what_is_visible_in_a_reference_reaches_the_ad(ad_of, shipped_ad, full, tmp_path, where, influence):
    name = "demo_reference_background.png"
    with Image.open(PICTURES[name]) as image:
        hidden = np.array(image)[..., 3] == 0
    pictures = altered(tmp_path, name, hidden == (where == "hidden"))
    assert np.array_equal(shipped_ad("demo_full"), ad_of(full, pictures)) != influence
    assert not np.array_equal(shipped_ad("demo_full", pfv=False), ad_of(without_pfv(full), pictures))


def test_nothing_of_the_product_that_was_found_in_a_reference_reaches_the_ad(ad_of, shipped_ad, ad, tmp_path):
    """Its inside turned around is found again, and hidden again."""
    with Image.open(PICTURES[REFERENCE]) as image:
        values = np.asarray(image.convert("RGB"), dtype=int)
    inside = np.zeros(values.shape[:2], bool)
    inside[100:125, 110:145] = True
    assert (values[inside][:, 2] > values[inside][:, 0]).all()  # of the blue vase
    pictures = altered(tmp_path, REFERENCE, inside)
    assert np.array_equal(shipped_ad("demo_ad"), ad_of(ad, pictures))
    assert not np.array_equal(shipped_ad("demo_ad", pfv=False), ad_of(without_pfv(ad), pictures))


def test_both_references_take_part(ad_of, shipped_ad, full, tmp_path):
    """Grey in the place of either one changes the ad."""
    assert len(nodes_of(full, "MEPAApply")) == 2
    for name in ("demo_reference_background.png", "demo_reference_table.png"):
        with Image.open(PICTURES[name]) as image:
            values = np.array(image)
        values[..., :3] = 128
        Image.fromarray(values).save(tmp_path / name)
        assert not np.array_equal(shipped_ad("demo_full"), ad_of(full, PICTURES | {name: tmp_path / name}))


@pytest.mark.parametrize("change", ["two_products", "cut_off", "none"])
def test_a_photo_without_one_whole_product_is_refused_before_any_sampling(ad_of, ad, tmp_path, change, capsys):
    with Image.open(PICTURES[PRODUCT]) as image:
        values = np.array(image.convert("RGB"))
    if change == "two_products":
        values[180:240, 16:48] = (20, 60, 200)
    elif change == "cut_off":
        values = values[:120]
    else:
        values[:] = values[0, 0]
    Image.fromarray(values).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"photo 0 shows|photo 0: the product touches|nothing stands out"):
        ad_of(ad, PICTURES | {PRODUCT: tmp_path / "photo.png"})
    assert "sampling" not in capsys.readouterr().out


def drawn(*boxes):
    """(1, 3, 120, 160): white, with boxes (top, bottom, left, right, grey), each over those before."""
    picture = torch.ones(1, 3, 120, 160)
    for top, bottom, left, right, grey in boxes:
        picture[..., top:bottom, left:right] = grey
    return picture


PRODUCT_BOX = (30, 90, 60, 100, 0.1)


def test_what_a_cut_out_leaves_out_is_said_or_refused_as_the_node_does():
    marked = drawn(PRODUCT_BOX, (60, 72, 76, 88, 1), (14, 20, 20, 26, 0.2))
    made = diffusers_nodes.cut_out(marked, "background", False, False, enclosed="holes")
    assert made.text.endswith(
        "of the photo, 1 specks left out, 6% within its outline taken for holes: it has the ground's colour"
    )
    for picture, share in ((marked, 6), (drawn(PRODUCT_BOX, (34, 86, 64, 96, 1)), 69)):
        with pytest.raises(ValueError, match=rf"photo 0: {share}% of what lies within the outline has the ground's"):
            diffusers_nodes.cut_out(picture, "background", False, False)
    filled = diffusers_nodes.cut_out(
        drawn(PRODUCT_BOX, (34, 86, 64, 96, 1)), "background", False, False, enclosed="product"
    )
    assert int((filled.outputs[0] == 1).sum()) == 60 * 40


def test_all_that_may_be_the_other_products_is_hidden_as_the_node_does():
    screen, mark = (34, 86, 64, 96, 1), (14, 20, 20, 26, 0.2)
    hidden = reference.hidden_of(drawn(PRODUCT_BOX, screen, mark), "automatic", None, None).mask
    assert bool(hidden[0, 30:90, 60:100].all())
    assert bool(hidden[0, 14:20, 20:26].all())


def test_a_large_photograph_is_brought_to_its_place(made_of, ad, tmp_path):
    with Image.open(PICTURES[PRODUCT]) as image:
        image.convert("RGB").resize((480, 600), Image.Resampling.BICUBIC).save(tmp_path / "photo.jpg", quality=90)
    made = made_of(ad, PICTURES | {PRODUCT: tmp_path / "photo.jpg"})
    assert produce_ad.report(made)


def with_alpha(file: Path, alpha: np.ndarray, folder: Path) -> Path:
    """The picture of a file, as opaque as is said."""
    with Image.open(file) as image:
        pixels = np.dstack([np.asarray(image.convert("RGB")), alpha.astype(np.uint8)])
    Image.fromarray(pixels).save(folder / "marked.png")
    return folder / "marked.png"


def test_a_cut_out_the_wrong_way_round_is_refused_as_in_comfyui(ad_of, ad, tmp_path):
    with Image.open(PICTURES[PRODUCT]) as image:
        around = np.full((image.height, image.width), 255)
    around[60:, 90:160] = 0  # cut off at the bottom
    with pytest.raises(ValueError, match=r"lie in 4 of the picture's corners.* set mask_selects to product") as refused:
        ad_of(ad, PICTURES | {PRODUCT: with_alpha(PICTURES[PRODUCT], around, tmp_path)})
    assert "give it inverted" in produce_ad.with_options(str(refused.value))


def test_paint_that_is_too_faint_to_hide_anything_is_refused_as_in_comfyui(ad_of, ad, tmp_path):
    with Image.open(PICTURES[REFERENCE]) as image:
        alpha = np.full((image.height, image.width), 255)
    alpha[100:150, 100:150] = 240
    with pytest.raises(ValueError, match=r"what is above 0\.1 counts as painted, so nothing does"):
        ad_of(ad, PICTURES | {REFERENCE: with_alpha(PICTURES[REFERENCE], alpha, tmp_path)})


def test_what_a_node_asks_for_is_said_in_the_commands_words():
    said = produce_ad.with_options("photo 0: what the product is cannot be told: paint the product")
    assert "--product-mask" in said
    assert produce_ad.with_options("no such file") == "no such file"


def test_a_prompt_that_is_too_long_says_so(ad_of, full):
    set_inputs(the_node(full, "CLIPTextEncode", "Prompt"), text="a red bottle " * 20)
    with pytest.raises(ValueError, match="tokens, at most 24 fit"):
        ad_of(full)


def test_a_missing_file_of_the_weights_is_named(tmp_path):
    write_random_weights(tmp_path)
    (tmp_path / "controlnet.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"controlnet.safetensors is missing"):
        DiffusersEngine(tmp_path)


def test_the_whole_run(engine, tmp_path, monkeypatch, capsys):
    """Two ads, a sheet, both pictures, and what to do next."""
    monkeypatch.setattr("headless.ad.diffusers_engine.DiffusersEngine", lambda: engine)
    own = tmp_path / "own.png"
    shutil.copy(PICTURES["demo_product.png"], own)
    arguments = ["--engine", "diffusers", "--out", str(tmp_path / "out"), "--steps", "1", "--product", str(own)]
    arguments += ["--prompt", "a bottle"]
    assert produce_ad.main(make_ad.parser().parse_args(arguments)) == 0
    written = {str(file.relative_to(tmp_path / "out")) for file in Path(tmp_path / "out").rglob("*.png")}
    assert written == {"ad.png", "ad_without_pfv.png", "contact_sheet.png", f"inputs/{PRODUCT}", f"inputs/{REFERENCE}"}
    said = capsys.readouterr().out
    assert said.count("painted: ") == 2  # the cut-out's transparency wins
    assert said.count("opaque pixels are the photo's as it was placed") == 2
    assert "as it was run" in said
    assert "next: the same with SDXL" in said


def test_where_nothing_is_hidden_there_is_one_ad(engine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("headless.ad.diffusers_engine.DiffusersEngine", lambda: engine)
    given = ["--engine", "diffusers", "--out", str(tmp_path / "out"), "--steps", "1", "--whole-reference"]
    assert produce_ad.main(make_ad.parser().parse_args(given)) == 0
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {"ad.png", "contact_sheet.png"}
    said = capsys.readouterr().out
    assert "hidden: nothing" in said
    assert "without PFV" not in said
