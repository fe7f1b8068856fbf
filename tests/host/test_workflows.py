"""The shipped workflows: in step with the nodes, readable on the canvas, and run in a real server with tiny models."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from headless.ad.workflow import load_prompt, nodes_of, set_inputs, the_node, without_pfv
from headless.ad.workflow import origin as source
from headless.host.find import PACK_ROOT, require_host
from headless.host.start import running_host
from headless.server.blocking import Client, saved_images
from headless.server.errors import FailedError
from pfv_mepa.pfv_core.ad.opacity import SEEN_ABOVE, core_of, settled
from pfv_mepa.pfv_core.ad.placement import Layout, plan_placement
from pfv_mepa.tests.host.sampling import NODE_IDS
from pfv_mepa.tests.support.tiny_stack.files import write_tiny_files
from pfv_mepa.tools.workflow_parts.definitions import PACK_ID
from pfv_mepa.tools.workflow_parts.description import Group, Link, Node, Workflow, WorkflowError
from pfv_mepa.tools.workflow_parts.forms import WorkflowFiles, to_text
from pfv_mepa.tools.workflow_parts.models import ADAPTER, CHECKPOINT, CLIP_VISION, DEPTH_CONTROLNET

NAMES = ("minimal", "full", "formats", "demo_minimal", "demo_full", "demo_formats")
FOLDER = PACK_ROOT / "workflows"
DEMO_INPUTS = FOLDER / "demo_inputs"
LOADERS = {"CheckpointLoaderSimple", "CLIPVisionLoader", "ControlNetLoader", "MEPAAdapterLoader"}

NOTE = "MarkdownNote"
TITLE_HEIGHT = 30
STEPS = 2
AD_SIZE = (192, 256)  # height, width
REFERENCE_SIZE = (200, 300)
HIDDEN = (slice(60, 150), slice(75, 225))  # columns that begin and end with a patch: 300 px are 16 of 18.75
PRODUCT = (slice(70, 150), slice(90, 170))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with this pack, tiny models under the names that stand in the workflows, and pictures for LoadImage."""
    base_directory = tmp_path_factory.mktemp("server")
    write_models_as_named(base_directory / "models")
    for name, picture in pictures().items():
        save(picture, base_directory / "input" / name)
    shutil.copytree(DEMO_INPUTS, base_directory / "input", dirs_exist_ok=True)
    host_pack = PACK_ROOT / "tests" / "support" / "tiny_stack" / "host_pack"
    with running_host(require_host(), Path(sys.executable), base_directory, [PACK_ROOT, host_pack]) as running:
        yield running


@pytest.fixture(scope="module")
def object_info(server) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/object_info", timeout=60) as answer:
        return json.load(answer)


def write_models_as_named(folder: Path) -> None:
    """Tiny models under the names that stand in the workflows of full size."""
    tiny = write_tiny_files(folder)
    for model, name in (
        (CHECKPOINT, tiny.checkpoint),
        (DEPTH_CONTROLNET, tiny.controlnet),
        (CLIP_VISION, tiny.clip_vision),
        (ADAPTER, tiny.adapter),
    ):
        (folder / model.folder / name).rename(folder / model.folder / model.name)


def pictures() -> dict[str, np.ndarray]:
    """File name -> 8-bit picture. Alpha is 0 where something is painted; the product is a cut-out."""
    return {
        "product.png": with_alpha(noise(1, AD_SIZE), PRODUCT, inside=255),
        "product_depth.png": noise(2, (96, 128)),
        "reference.png": with_alpha(noise(3, REFERENCE_SIZE), HIDDEN, inside=0),
        "reference_background.png": with_alpha(noise(3, REFERENCE_SIZE), HIDDEN, inside=0),
        "reference_background_depth.png": noise(4, REFERENCE_SIZE),
        "reference_table.png": with_alpha(noise(5, (300, 180)), HIDDEN, inside=0),
        "region_background.png": with_alpha(noise(6, AD_SIZE), (slice(0, 64), slice(None)), inside=0),
        "region_table.png": with_alpha(noise(7, AD_SIZE), (slice(152, None), slice(None)), inside=0),
    }


def noise(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def with_alpha(picture: np.ndarray, box: tuple[slice, slice], inside: int) -> np.ndarray:
    alpha = np.full(picture.shape[:2], 255 - inside, dtype=np.uint8)
    alpha[box] = inside
    return np.dstack([picture, alpha])


def save(picture: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file)


def ui_form(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def api_form(name: str) -> dict[str, Any]:
    return load_prompt(FOLDER / "api" / f"{name}.json")


# --- in step with the nodes -------------------------------------------------------------------------------------------


def build(server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.build_workflows", "--server", server.url, *arguments]
    return subprocess.run(command, cwd=PACK_ROOT, capture_output=True, text=True, check=False)


def test_files_are_what_the_descriptions_make(server, tmp_path):
    """But for outputs that this host's own nodes have and those of the oldest do not, of which nothing is linked."""
    built = build(server, "--folder", str(tmp_path))
    assert built.returncode == 0, built.stdout + built.stderr
    files = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*.json"))
    assert files == sorted(Path(folder) / f"{name}.json" for folder in ("", "api") for name in NAMES)
    for file in files:
        shipped, made = ((folder / file).read_text(encoding="utf-8") for folder in (FOLDER, tmp_path))
        assert shipped == to_text(json.loads(shipped)), f"{file}: run python3 -m tools.build_workflows"
        shipped, made = (without_spare_outputs(json.loads(text)) for text in (shipped, made))
        assert shipped == made, f"{file} is not what its description makes: run python3 -m tools.build_workflows"


def without_spare_outputs(workflow: dict[str, Any]) -> dict[str, Any]:
    """Without the outputs of the host's own nodes that follow the last linked one; the pack's keep theirs."""
    for node in workflow.get("nodes", []):
        while node["type"] not in NODE_IDS and node["outputs"] and not node["outputs"][-1]["links"]:
            node["outputs"].pop()
    return workflow


def test_check_finds_a_file_that_differs_and_writing_restores_it(server, tmp_path):
    folder = tmp_path / "workflows"
    build(server, "--folder", str(folder))
    checked = build(server, "--check", "--folder", str(folder))
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout + checked.stderr
    file = folder / "api" / "full.json"
    right = file.read_text(encoding="utf-8")
    file.write_text(right.replace('"ddim"', '"euler"'), encoding="utf-8")
    checked = build(server, "--check", "--folder", str(folder))
    assert (checked.returncode, checked.stderr) == (1, "")
    assert checked.stdout == "api/full.json is not what its description makes: run python3 -m tools.build_workflows\n"
    assert build(server, "--folder", str(folder)).stdout == "wrote api/full.json\n"
    assert file.read_text(encoding="utf-8") == right


@pytest.mark.parametrize("name", NAMES)
def test_every_node_class_exists(name, object_info):
    types = {node["type"] for node in ui_form(name)["nodes"]}
    assert types - {NOTE} <= set(object_info)


@pytest.mark.parametrize("name", NAMES)
def test_links_are_whole_and_their_types_match(name):
    ui = ui_form(name)
    nodes = {node["id"]: node for node in ui["nodes"]}
    for link_id, origin, origin_slot, target, target_slot, type_name in ui["links"]:
        output, entry = nodes[origin]["outputs"][origin_slot], nodes[target]["inputs"][target_slot]
        assert output["type"] == entry["type"] == type_name
        assert link_id in output["links"]
        assert entry["link"] == link_id
    ends = [slot["link"] for node in ui["nodes"] for slot in node["inputs"] if slot["link"] is not None]
    starts = [link for node in ui["nodes"] for slot in node["outputs"] for link in slot["links"] or []]
    assert sorted(ends) == sorted(starts) == [link[0] for link in ui["links"]]


@pytest.mark.parametrize("name", NAMES)
def test_browser_form_is_the_api_form(name, object_info):
    assert as_api_form(ui_form(name), object_info) == api_form(name)


def as_api_form(ui: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """What the frontend sends for a canvas: widgets in the order of object_info, then links over them."""
    origins = {link[0]: [str(link[1]), link[2]] for link in ui["links"]}
    prompt = {}
    for node in ui["nodes"]:
        if node["type"] == NOTE:
            continue
        info = object_info[node["type"]]
        links = {slot["name"]: origins[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        prompt[str(node["id"])] = {
            "inputs": widget_values(info, node["widgets_values"]) | links,
            "class_type": node["type"],
            "_meta": {"title": node.get("title", info["display_name"])},
        }
    return prompt


def widget_values(info: dict[str, Any], stored: list[Any]) -> dict[str, Any]:
    values = list(stored)
    named = {}
    for name, (type_name, *options) in (info["input"]["required"] | info["input"].get("optional", {})).items():
        if not isinstance(type_name, list) and type_name not in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
            continue
        named[name] = values.pop(0)
        if options and options[0].get("control_after_generate"):
            assert values.pop(0) == "fixed"  # else the seed of a shipped workflow would change with each run
        if options and options[0].get("image_upload"):
            assert values.pop() == "image"
    assert not values
    return named


# --- what the builder refuses -----------------------------------------------------------------------------------------


def one_group(*nodes: Node) -> Workflow:
    return Workflow("test", (Group("group", "#444", (nodes,)),))


PICTURE = Node("picture", "LoadImage", None, {"image": "a.png"})


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([Node("a", "NoSuchNode")], "a: the host has no node class 'NoSuchNode'"),
        (
            [Node("a", "LoadImage", None, {"picture": "a.png"})],
            r"a \(LoadImage\) has no inputs \['picture'\], only \['image'\]",
        ),
        ([Node("a", "LoadImage")], r"a \(LoadImage\): image has no default, give it a value"),
        ([Node("a", "InvertMask")], r"a \(InvertMask\): input mask needs a link"),
        ([PICTURE, Node("a", "InvertMask", None, {"mask": Link("picture", "IMAGE")})], "a.mask wants MASK"),
        ([PICTURE, Node("a", "InvertMask", None, {"mask": Link("picture", "DEPTH")})], "has no single output 'DEPTH'"),
        ([Node("a", "InvertMask", None, {"mask": Link("b", "MASK")})], "a.mask is linked to 'b', which is not in"),
        ([Node("a", "InvertMask", None, {"mask": Link("a", "MASK")})], "the links form a circle"),
        ([PICTURE, PICTURE], "a name is used twice"),
        ([Node("a", "LoadImage", None, {"image": "a.png"}, height=50)], "a is 50 px high, its widgets need 102"),
    ],
)
def test_builder_refuses_what_the_host_does_not_have(nodes, message, object_info):
    with pytest.raises(WorkflowError, match=message):
        WorkflowFiles(one_group(*nodes), object_info).ui_form()


# --- the demo twins ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_demo_twin_differs_in_its_loaders_and_settings_alone(name):
    def wiring(prompt: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Title -> class and links by the title they come from; a loader's are those of one source of models."""
        titles = {node_id: node["_meta"]["title"] for node_id, node in prompt.items()}
        sources = {i for i, node in prompt.items() if node["class_type"] in LOADERS | {"PFVDemoModels"}}
        return {
            titles[node_id]: {
                name: "models" if value[0] in sources else (titles[value[0]], value[1])
                for name, value in node["inputs"].items()
                if isinstance(value, list)
            }
            | {"": node["class_type"]}
            for node_id, node in prompt.items()
            if node_id not in sources
        }

    assert wiring(api_form(f"demo_{name}")) == wiring(api_form(name))
    classes = [node["class_type"] for node in api_form(f"demo_{name}").values()]
    assert classes.count("PFVDemoModels") == 1
    assert not set(classes) & LOADERS


def test_the_demo_has_the_pictures_it_names():
    named = {node["inputs"]["image"] for name in NAMES[3:] for node in nodes_of(api_form(name), "LoadImage")}
    assert named == {file.name for file in DEMO_INPUTS.glob("*.png")}


# --- what is in them ---------------------------------------------------------------------------------------------------

ELSEWHERE = {  # than in `formats`
    "PFVSaveReference",  # of catalogues
    "PFVLoadReference",
    "RefAdGenMaskInput",  # wants a trained file
    "PFVAdCanvasFinish",  # Strict-ID Composite does the same
    "MEPACrop",  # of samplings of a part of the ad
}


def test_formats_uses_every_tool_of_the_pack():
    used = {node["class_type"] for name in ("formats", "demo_formats") for node in api_form(name).values()}
    assert set(NODE_IDS) - used == ELSEWHERE


@pytest.mark.parametrize("name", ["formats", "demo_formats"])
@pytest.mark.parametrize("title", ["1:1", "4:5", "1.91:1"])
def test_each_format_has_one_apply_with_a_branch_the_product_in_view_and_a_shadow(name, title):
    prompt = api_form(name)
    apply = source(prompt, the_node(prompt, "KSampler", f"Sampler {title}"), "model")
    assert apply is the_node(prompt, "MEPAApply", f"Background reference in {title}")
    branch = source(prompt, apply, "branches")
    assert branch is the_node(prompt, "MEPABranch", f"Table reference in {title}")
    assert "branches" not in branch["inputs"]
    look, canvas = source(prompt, apply, "model"), the_node(prompt, "PFVAdCanvas", f"Canvas {title}")
    assert look["class_type"] == "RefAdGenAttentionFusion"
    assert source(prompt, look, "product_mask") is canvas
    assert source(prompt, source(prompt, look, "reference_latent"), "pixels") is canvas
    prompted = source(prompt, the_node(prompt, "ControlNetApplyAdvanced", f"Apply depth to {title}"), "control_net")
    assert source(prompt, prompted, "model") is apply
    assert the_node(prompt, "StrictIDComposite", f"Product's own pixels in {title}")["inputs"]["shadow_strength"] > 0
    for balance in ("std_norm", "time_weighting", "gamma"):
        assert apply["inputs"][balance] == branch["inputs"][balance]


# --- readable on the canvas -------------------------------------------------------------------------------------------


def rectangle(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom, with the title above the body."""
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE_HEIGHT, left + width, top + height


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def frames(ui: dict[str, Any]) -> list[tuple[float, ...]]:
    return [(x, y, x + width, y + height) for x, y, width, height in (group["bounding"] for group in ui["groups"])]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps(name):
    ui = ui_form(name)
    for one, other in combinations([rectangle(node) for node in ui["nodes"]], 2):
        assert not overlap(one, other)
    for one, other in combinations(frames(ui), 2):
        assert not overlap(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_every_node_lies_in_one_group_and_notes_in_none(name):
    ui = ui_form(name)
    for node in ui["nodes"]:
        left, top, right, bottom = rectangle(node)
        around = [f for f in frames(ui) if f[0] < left and f[1] < top and right < f[2] and bottom < f[3]]
        touched = [f for f in frames(ui) if overlap(f, rectangle(node))]
        assert len(around) == len(touched) == (node["type"] != NOTE)


@pytest.mark.parametrize("name", NAMES)
def test_groups_and_links_go_from_left_to_right(name):
    ui = ui_form(name)
    assert all(one[2] < other[0] for one, other in pairwise(frames(ui)))
    places = {node["id"]: node["pos"] for node in ui["nodes"]}
    for _, origin, _, target, *_ in ui["links"]:
        (left, top), (target_left, target_top) = places[origin], places[target]
        assert left < target_left or (left == target_left and top < target_top)


def test_groups_name_the_steps_in_order():
    titles = {name: [group["title"][3:].split()[0] for group in ui_form(name)["groups"]] for name in NAMES}
    assert titles["minimal"] == ["Reference", "Adapter", "Sampling", "Result"]
    assert titles["full"] == ["References", "Adapter", "Product", "Sampling", "Result"]
    assert titles["formats"] == ["References", "Adapter", "1:1", "4:5", "1.91:1", "Scale"]
    assert [titles[f"demo_{name}"] for name in NAMES[:3]] == [titles[name] for name in NAMES[:3]]
    for name in ("full", "formats"):
        colours = [group["color"] for group in ui_form(name)["groups"]]
        assert len(set(colours)) == len(colours)


# --- what headless users and designers are told -----------------------------------------------------------------------


def readme_table(name: str) -> dict[tuple[str, str], str]:
    """(title, node class) -> as shipped, of the inputs table of one workflow."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    section = text.split(f"\n### {name}\n")[1].split("\n#")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {(title, class_type): shipped for title, class_type, _, shipped in rows[2:]}


@pytest.mark.parametrize("name", NAMES)
def test_readme_lists_the_inputs_by_title(name):
    prompt = api_form(name)
    listed = readme_table(name)
    for title, class_type in listed:
        assert the_node(prompt, class_type, title)
    to_fill = [*nodes_of(prompt, "LoadImage"), *nodes_of(prompt, "CLIPTextEncode")]
    assert {(node["_meta"]["title"], node["class_type"]) for node in to_fill} <= set(listed)
    for node in nodes_of(prompt, "LoadImage"):
        assert listed[node["_meta"]["title"], "LoadImage"] == f"`{node['inputs']['image']}`"


@pytest.mark.parametrize("name", NAMES)
def test_titles_are_unique(name):
    titles = [node["_meta"]["title"] for node in api_form(name).values()]
    assert len(set(titles)) == len(titles)


def test_frontend_can_name_the_pack_of_a_missing_node():
    project = (PACK_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^name = "(.+)"$', project, re.MULTILINE)[1] == PACK_ID
    for node in ui_form("full")["nodes"]:
        if node["type"] in NODE_IDS:
            assert node["properties"]["cnr_id"] == PACK_ID


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_help_page_explains_every_input(node_id, object_info, server):
    page = (PACK_ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
    info = object_info[node_id]
    assert page.startswith(f"# {info['display_name']}\n")
    rows = {
        name for line in page.splitlines() if line[:3] == "| `" for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    shown = [names for kind, names in info["input_order"].items() if kind != "hidden"]
    assert {name for names in shown for name in names} <= rows
    with urllib.request.urlopen(f"{server.url}/extensions/{PACK_ROOT.name}/docs/{node_id}.md", timeout=60) as answer:
        assert answer.read().decode() == page


def test_templates_are_the_browser_forms(server):
    with urllib.request.urlopen(f"{server.url}/workflow_templates", timeout=60) as answer:
        assert sorted(json.load(answer)[PACK_ROOT.name]) == sorted(NAMES)


# --- run --------------------------------------------------------------------------------------------------------------


def run(server, prompt: dict[str, Any], file: Path) -> Image.Image:
    """The image that a workflow saves."""
    client = Client(server.url)
    ad = saved_images(client.run(prompt))[0]
    assert ad.type == "output"
    with Image.open(client.download(ad, file)) as image:
        image.load()
        return image


def quick(name: str) -> dict[str, Any]:
    prompt = api_form(name)
    set_inputs(the_node(prompt, "KSampler"), steps=STEPS)
    return prompt


def embedded(image: Image.Image) -> dict[str, Any]:
    prompt = json.loads(image.info["prompt"])
    return {node_id: (node["class_type"], node["inputs"]) for node_id, node in prompt.items()}


def essence(prompt: dict[str, Any]) -> dict[str, Any]:
    return {node_id: (node["class_type"], node["inputs"]) for node_id, node in prompt.items()}


def test_minimal_makes_an_image_that_carries_its_workflow(server, tmp_path):
    prompt = quick("minimal")
    set_inputs(the_node(prompt, "EmptyLatentImage"), width=AD_SIZE[1], height=AD_SIZE[0])
    ad = run(server, prompt, tmp_path / "ad.png")
    assert ad.size == AD_SIZE[::-1]
    assert embedded(ad) == essence(prompt)
    assert np.asarray(ad).std() > 0


@pytest.fixture(scope="module")
def full_ad(server, tmp_path_factory) -> Image.Image:
    return run(server, quick("full"), tmp_path_factory.mktemp("full") / "ad.png")


def test_full_keeps_the_product_exact_and_carries_its_workflow(full_ad):
    prompt = quick("full")
    assert embedded(full_ad) == essence(prompt)
    photo = Image.fromarray(pictures()["product.png"])
    erode = the_node(prompt, "StrictIDComposite")["inputs"]["erode"]
    mask = np.asarray(photo.getchannel("A").filter(ImageFilter.MinFilter(2 * erode + 1))) > 0
    assert 0 < mask.sum() < (np.asarray(photo.getchannel("A")) > 0).sum()
    same = (np.asarray(full_ad) == np.asarray(photo.convert("RGB"))).all(axis=2)
    assert same[mask].all()
    assert same[np.asarray(photo.getchannel("A")) == 0].mean() < 0.01


@pytest.mark.parametrize("name", ["demo_minimal", "demo_full"])
def test_a_demo_twin_runs_as_it_is_shipped_and_loads_its_models_once(name, server, tmp_path):
    prompt = api_form(name)
    ad = run(server, prompt, tmp_path / "ad.png")
    assert ad.size == (128, 128)
    assert embedded(ad) == essence(prompt)
    loads = server.log.read_text(encoding="utf-8").count("model_type V_PREDICTION")
    set_inputs(the_node(prompt, "KSampler"), seed=2)
    other = run(server, prompt, tmp_path / "other.png")
    assert not np.array_equal(np.asarray(ad), np.asarray(other))
    assert server.log.read_text(encoding="utf-8").count("model_type V_PREDICTION") == loads > 0


def test_one_product_in_three_formats_is_exact_in_each(server, tmp_path):
    """Every ad has its exact size, carries its workflow, and holds the photo's own pixels where its canvas says."""
    prompt = api_form("demo_formats")
    for node in nodes_of(prompt, "KSampler"):
        set_inputs(node, steps=STEPS)
    client = Client(server.url)
    outputs = client.run(prompt)
    ads = {
        image.filename.removesuffix("_00001_.png"): image for image in saved_images(outputs) if image.type == "output"
    }
    photo = Image.open(DEMO_INPUTS / "demo_product.png")
    own, opacity = np.asarray(photo.convert("RGB")), settled(np.asarray(photo.getchannel("A"), np.float32) / 255)
    for key, title, size in (
        ("ad_1x1", "1:1", (128, 128)),
        ("ad_1080x1350", "4:5", (112, 140)),
        ("ad_1200x628", "1.91:1", (172, 90)),
    ):
        with Image.open(client.download(ads[key], tmp_path / f"{key}.png")) as ad:
            assert ad.size == size
            assert embedded(ad) == essence(prompt)
            pixels = np.asarray(ad)
        settings = the_node(prompt, "PFVAdCanvas", f"Canvas {title}")["inputs"]
        layout = Layout(settings["position"], settings["scale_by"], settings["share"], settings["margin"])
        placement = plan_placement(torch.from_numpy(opacity > SEEN_ABOVE), size[::-1], layout)
        assert not placement.resized
        inside = (core_of(opacity[None], 1)[0] & (opacity == 1))[placement.source.slices]
        assert np.array_equal(pixels[placement.target.slices][inside], own[placement.source.slices][inside])
        assert pixels[:, :20].std() > 5
        composite = node_id(prompt, "StrictIDComposite", f"Product's own pixels in {title}")
        (report,) = outputs[composite]["text"]
        assert json.loads(report)["exact"]
        assert json.loads(report)["ads"][0]["pixels_checked"] == inside.sum() > 500


def node_id(prompt: dict[str, Any], class_type: str, title: str) -> str:
    node = the_node(prompt, class_type, title)
    return next(number for number, other in prompt.items() if other is node)


@pytest.mark.parametrize(("where", "influence"), [("hidden", False), ("visible", True)])
def test_only_what_is_visible_in_a_reference_reaches_the_ad(where, influence, server, full_ad, tmp_path):
    painted = np.zeros(REFERENCE_SIZE, dtype=bool)
    painted[HIDDEN] = True
    prompt = quick("full")
    for title in ("Background reference", "Background reference depth"):
        node = the_node(prompt, "LoadImage", title)
        picture = pictures()[node["inputs"]["image"]]
        change = painted if where == "hidden" else ~painted
        picture[change, :3] = 255 - picture[change, :3]
        save(picture, tmp_path / "changed.png")
        set_inputs(node, image=Client(server.url).upload_image(tmp_path / "changed.png", f"{where} {title}.png"))
    ad = run(server, prompt, tmp_path / "ad.png")
    assert (not np.array_equal(np.asarray(ad), np.asarray(full_ad))) == influence


@pytest.mark.parametrize("name", ["demo_minimal", "demo_full", "demo_formats"])
def test_with_the_links_to_its_masks_deleted_a_workflow_runs_and_shows_another_ad(server, tmp_path, name):
    """As the notes on the canvas say."""
    prompt = api_form(name)
    for node in nodes_of(prompt, "KSampler"):
        set_inputs(node, steps=STEPS)
    ad, other = (run(server, one, tmp_path / "ad.png") for one in (prompt, without_pfv(prompt)))
    assert ad.size == other.size
    assert not np.array_equal(np.asarray(ad), np.asarray(other))


def test_a_reference_without_a_painted_mask_is_explained(server, tmp_path):
    prompt = quick("minimal")
    save(noise(9, (64, 96)), tmp_path / "unpainted.png")
    uploaded = Client(server.url).upload_image(tmp_path / "unpainted.png")
    set_inputs(the_node(prompt, "LoadImage"), image=uploaded)
    with pytest.raises(FailedError, match="mask holds no mask"):
        run(server, prompt, tmp_path / "ad.png")
