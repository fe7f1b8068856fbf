"""The shipped workflows: in step with the nodes, readable on the canvas, and run in a real server with tiny models."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from headless.ad.workflow import load_prompt, nodes_of, possible_part, set_inputs, the_node, without_pfv
from headless.ad.workflow import origin as source
from headless.host.find import PACK_ROOT, require_host
from headless.host.start import running_host
from headless.server.blocking import Client, saved_images
from headless.server.errors import FailedError
from pfv_demo.sizes import IMAGE_SIZE, REFADGEN_FILE, STRICT_ID_FILE
from pfv_mepa.pfv_core.ad.opacity import SEEN_ABOVE, core_of, settled
from pfv_mepa.pfv_core.ad.placement import Layout, plan_placement
from pfv_mepa.tests.host.sampling import NODE_IDS
from pfv_mepa.tests.support.archive import archive_files
from pfv_mepa.tests.support.automatic_workflow import write_photographs
from pfv_mepa.tests.support.tiny_stack.files import write_tiny_files
from pfv_mepa.tools.workflow_parts.description import (
    PACK_ID,
    Group,
    Inlet,
    Instance,
    Link,
    Node,
    Subgraph,
    Workflow,
    WorkflowError,
)
from pfv_mepa.tools.workflow_parts.forms import WorkflowFiles, to_text
from pfv_mepa.tools.workflow_parts.models import ADAPTER, CHECKPOINT, CLIP_VISION, DEPTH_CONTROLNET
from pfv_mepa.tools.workflow_parts.own_subgraphs import OFFERED
from pfv_mepa.tools.workflow_parts.server import newer_nodes

FULL_NAMES = ("ad", "minimal", "full", "formats")
DEMO_NAMES = tuple(f"demo_{name}" for name in FULL_NAMES)
NEIGHBOURS = ("demo_refadgen", "demo_strict_id")  # with the demo's models alone
NAMES = (*FULL_NAMES, *DEMO_NAMES, *NEIGHBOURS)
FOLDER = PACK_ROOT / "workflows"
SUBGRAPHS = PACK_ROOT / "subgraphs"
DEMO_INPUTS = FOLDER / "demo_inputs"
LOADERS = {"CheckpointLoaderSimple", "CLIPVisionLoader", "ControlNetLoader", "MEPAAdapterLoader", "MEPALoad"}
INPUT_NODE, OUTPUT_NODE = -10, -20  # the two ends of a subgraph

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
        "product_photo.png": noise(8, AD_SIZE),
        "reference_photo.png": noise(9, REFERENCE_SIZE),
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


def levels(ui: dict[str, Any]) -> list[dict[str, Any]]:
    """The canvas and those of the subgraphs, with links as lists."""
    inner = [subgraph | {"links": [list(link.values()) for link in subgraph["links"]]} for subgraph in subgraphs(ui)]
    return [ui, *inner]


def subgraphs(ui: dict[str, Any]) -> list[dict[str, Any]]:
    return ui.get("definitions", {}).get("subgraphs", [])


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
    of_workflows = [Path("workflows", folder, f"{name}.json") for folder in ("", "api") for name in NAMES]
    assert files == sorted([*of_workflows, *(Path("subgraphs", f"{item.subgraph.name}.json") for item in OFFERED)])
    for file in files:
        shipped, made = ((folder / file).read_text(encoding="utf-8") for folder in (PACK_ROOT, tmp_path))
        assert shipped == to_text(json.loads(shipped)), f"{file}: run python3 -m tools.build_workflows"
        shipped, made = (without_spare_outputs(json.loads(text)) for text in (shipped, made))
        assert shipped == made, f"{file} is not what its description makes: run python3 -m tools.build_workflows"


def without_spare_outputs(workflow: dict[str, Any]) -> dict[str, Any]:
    """Without the outputs of the host's own nodes that follow the last linked one; the pack's keep theirs."""
    for node in [node for level in (workflow, *subgraphs(workflow)) for node in level.get("nodes", [])]:
        while node["type"] not in NODE_IDS and node["outputs"] and not node["outputs"][-1]["links"]:
            node["outputs"].pop()
    return workflow


def test_check_finds_a_file_that_differs_and_writing_restores_it(server, tmp_path):
    build(server, "--folder", str(tmp_path))
    checked = build(server, "--check", "--folder", str(tmp_path))
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout + checked.stderr
    file = tmp_path / "workflows" / "api" / "full.json"
    right = file.read_text(encoding="utf-8")
    file.write_text(right.replace('"ddim"', '"euler"'), encoding="utf-8")
    checked = build(server, "--check", "--folder", str(tmp_path))
    assert (checked.returncode, checked.stderr) == (1, "")
    stale = "workflows/api/full.json is not what its description makes: run python3 -m tools.build_workflows\n"
    assert checked.stdout == stale
    assert build(server, "--folder", str(tmp_path)).stdout == "wrote workflows/api/full.json\n"
    assert file.read_text(encoding="utf-8") == right


@pytest.mark.parametrize("name", NAMES)
def test_every_node_class_exists(name, object_info):
    ui = ui_form(name)
    types = {node["type"] for level in levels(ui) for node in level["nodes"]}
    of_subgraphs = {subgraph["id"] for subgraph in subgraphs(ui)}
    # Those of newer hosts stand in `ad` alone, whose notes say how to do without.
    assert types - {NOTE} - of_subgraphs <= set(object_info) | (set(newer_nodes()) if name == "ad" else set())


def test_what_is_kept_of_newer_nodes_is_what_a_host_that_has_them_says(object_info):
    def without_texts(value: Any) -> Any:
        if isinstance(value, list):
            return [without_texts(item) for item in value]
        if not isinstance(value, dict):
            return value
        spare = {name for name in ("tooltip", "display_name") if isinstance(value.get(name), str)}
        files = {"options"} if isinstance(value.get("options"), list) and value.get("multiselect") is False else set()
        return {name: without_texts(item) for name, item in value.items() if name not in spare | files}

    there = {name: entry for name, entry in newer_nodes().items() if name in object_info}
    if not there:
        pytest.skip("this host has none of them")
    for name, entry in there.items():
        kept, said = entry.copy(), {key: object_info[name][key] for key in entry}
        assert without_texts(said.pop("input")) == without_texts(kept.pop("input")), name
        assert said == kept, name


@pytest.mark.parametrize("name", NAMES)
def test_links_are_whole_and_their_types_match(name):
    for level in levels(ui_form(name)):
        nodes = {node["id"]: node for node in level["nodes"]}
        nodes |= {
            INPUT_NODE: {"outputs": [slot | {"links": slot["linkIds"]} for slot in level.get("inputs", [])]},
            OUTPUT_NODE: {"inputs": [slot | {"link": slot["linkIds"][0]} for slot in level.get("outputs", [])]},
        }
        for link_id, origin, origin_slot, target, target_slot, type_name in level["links"]:
            output, entry = nodes[origin]["outputs"][origin_slot], nodes[target]["inputs"][target_slot]
            assert output["type"] == entry["type"] == type_name
            assert link_id in output["links"]
            assert entry["link"] == link_id
        ends = [s["link"] for node in nodes.values() for s in node.get("inputs", []) if s["link"] is not None]
        starts = [link for node in nodes.values() for s in node.get("outputs", []) for link in s["links"] or []]
        assert sorted(ends) == sorted(starts) == [link[0] for link in level["links"]]


@pytest.mark.parametrize("name", NAMES)
def test_no_number_is_given_out_twice_in_a_file(name):
    """A newer page gives what has another's number one of its own, and the prompt is no longer the shipped one."""
    ui = ui_form(name)
    for kind in ("nodes", "groups"):
        numbers = [item["id"] for level in levels(ui) for item in level[kind]]
        assert len(set(numbers)) == len(numbers)
    numbers = [link[0] for level in levels(ui) for link in level["links"]]
    assert len(set(numbers)) == len(numbers) == ui["last_link_id"]


@pytest.mark.parametrize("name", NAMES)
def test_browser_form_is_the_api_form(name, object_info):
    assert as_api_form(ui_form(name), object_info) == api_form(name)


def as_api_form(ui: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """What the frontend sends for a canvas: widgets in the order of object_info, then links over them; the nodes of a subgraph
    once for each instance, under "<instance>:<node>"."""
    object_info = newer_nodes() | object_info
    definitions = {level["id"]: level for level in levels(ui)[1:]}
    prompt = {}
    for node in ui["nodes"]:
        if node["type"] in definitions:
            for inner in definitions[node["type"]]["nodes"]:
                inputs = inputs_of(inner, definitions[node["type"]], object_info, (ui, node))
                title = f"{inner.get('title', object_info[inner['type']]['display_name'])} {node['title'].removeprefix('Ad ')}"
                key = f"{node['id']}:{inner['id']}"
                prompt[key] = {"inputs": inputs, "class_type": inner["type"], "_meta": {"title": title}}
        elif node["type"] != NOTE:
            title = node.get("title", object_info[node["type"]]["display_name"])
            inputs = inputs_of(node, ui, object_info)
            prompt[str(node["id"])] = {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}
    return prompt


def inputs_of(
    node: dict[str, Any], level: dict[str, Any], object_info: dict[str, Any], outside: tuple[Any, Any] | None = None
) -> dict[str, Any]:
    """A node's values and links, those from outside a subgraph as its instance, in the outer canvas, has them."""
    found = widget_values(object_info[node["type"]], node["widgets_values"])
    for slot in node["inputs"]:
        if slot["link"] is None:
            continue
        _, origin, origin_slot, *_ = next(link for link in level["links"] if link[0] == slot["link"])
        if origin != INPUT_NODE:
            found[slot["name"]] = outlet(level, origin, origin_slot, outside and outside[1])
            continue
        canvas, instance = outside
        entry = instance["inputs"][origin_slot]
        if entry["link"] is not None:
            _, origin, origin_slot, *_ = next(link for link in canvas["links"] if link[0] == entry["link"])
            found[slot["name"]] = outlet(canvas, origin, origin_slot, None)
        elif "widget" in entry:
            promoted = [other["name"] for other in instance["inputs"] if "widget" in other]
            found[slot["name"]] = instance["widgets_values"][promoted.index(entry["name"])]
    return found


def outlet(level: dict[str, Any], origin: int, slot: int, instance: dict[str, Any] | None) -> list[Any]:
    """Id and slot of a link's origin; where that is an instance, of the node behind its output."""
    (node,) = [node for node in level["nodes"] if node["id"] == origin]
    for subgraph in subgraphs(level):
        if subgraph["id"] == node["type"]:
            (link,) = [
                link for link in subgraph["links"] if (link["target_id"], link["target_slot"]) == (OUTPUT_NODE, slot)
            ]
            return [f"{origin}:{link['origin_id']}", link["origin_slot"]]
    return [f"{instance['id']}:{origin}" if instance else str(origin), slot]


def widget_values(info: dict[str, Any], stored: list[Any]) -> dict[str, Any]:
    values = list(stored)
    named: dict[str, Any] = {}
    waiting = list((info["input"]["required"] | info["input"].get("optional", {})).items())
    while waiting:
        name, (type_name, *options) = waiting.pop(0)
        known = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
        if (not isinstance(type_name, list) and type_name not in known) or (options and options[0].get("forceInput")):
            continue
        named[name] = values.pop(0)
        if type_name == "COMFY_DYNAMICCOMBO_V3":  # followed by the inputs of what is chosen
            (chosen,) = [option["inputs"] for option in options[0]["options"] if option["key"] == named[name]]
            waiting = [(f"{name}.{key}", spec) for key, spec in chosen["required"].items()] + waiting
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


# --- subgraphs ---------------------------------------------------------------------------------------------------------

NEGATIVE = Subgraph(
    "test/negative",
    "Negative",
    "Blurs and turns over.",
    ("picture", "sigma"),
    {"turned": Link("invert", "IMAGE")},
    (
        Group(
            None,
            "",
            (
                (
                    Node("blur", "ImageBlur", "Blur", {"image": Inlet("picture"), "sigma": Inlet("sigma")}),
                    Node("invert", "ImageInvert", "Turn over", {"image": Link("blur", "IMAGE")}),
                ),
            ),
        ),
    ),
)
TWO_INSTANCES = (
    PICTURE,
    Instance("one", NEGATIVE, None, "one", {"picture": Link("picture", "IMAGE"), "sigma": 2.0}),
    Instance("two", NEGATIVE, None, "two", {"picture": Link("one", "turned")}),
)


def test_instances_of_a_subgraph_stand_in_the_api_form_each_with_its_own_values_and_links(object_info):
    prompt = WorkflowFiles(one_group(*TWO_INSTANCES), object_info).api_form()
    blurs = {"blur_radius": 1, "sigma": 2.0, "image": ["1", 0]}, {"blur_radius": 1, "sigma": 1.0, "image": ["2:5", 0]}
    assert {node_id: (node["inputs"], node["_meta"]["title"]) for node_id, node in prompt.items()} == {
        "1": ({"image": "a.png"}, "Load Image"),
        "2:4": (blurs[0], "Blur one"),
        "2:5": ({"image": ["2:4", 0]}, "Turn over one"),
        "3:4": (blurs[1], "Blur two"),
        "3:5": ({"image": ["3:4", 0]}, "Turn over two"),
    }


def test_a_subgraph_is_defined_once_and_its_instances_show_their_values(object_info):
    ui = WorkflowFiles(one_group(*TWO_INSTANCES), object_info).ui_form()
    (definition,) = subgraphs(ui)
    assert [node["type"] for node in ui["nodes"][1:]] == [definition["id"]] * 2
    assert [node["widgets_values"] for node in ui["nodes"][1:]] == [[2.0], [1.0]]
    assert [(slot["name"], slot["type"], slot["linkIds"]) for slot in definition["inputs"]] == [
        ("picture", "IMAGE", [3]),
        ("sigma", "FLOAT", [4]),
    ]
    assert [(slot["name"], slot["type"], slot["linkIds"]) for slot in definition["outputs"]] == [
        ("turned", "IMAGE", [6])
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ("picture",)}, r"its nodes take \['picture', 'sigma'\], its inputs are \('picture',\)"),
        ({"inputs": ("picture", "sigma", "seed")}, "its inputs are"),
        ({"outputs": {"turned": Link("invert", "MASK")}}, "has no single output 'MASK'"),
        ({"groups": (Group(None, "", ((TWO_INSTANCES[1],),)),)}, "one is a subgraph in a subgraph"),
        (
            {"groups": (Group(None, "", ((replace(NEGATIVE.groups[0].columns[0][0], inputs={
                "image": Inlet("picture"), "sigma": Inlet("picture")}),),)),), "inputs": ("picture",)},
            r"picture leads to inputs of several types, \['FLOAT', 'IMAGE'\]",
        ),
    ],
)  # fmt: skip
def test_builder_refuses_a_subgraph_that_is_not_whole(changes, message, object_info):
    instance = replace(TWO_INSTANCES[1], subgraph=replace(NEGATIVE, **changes))
    with pytest.raises(WorkflowError, match=message):
        WorkflowFiles(one_group(PICTURE, instance), object_info).ui_form()


def test_an_inlet_is_refused_outside_of_a_subgraph(object_info):
    with pytest.raises(WorkflowError, match=r"a\.image is the inlet 'picture', which test has not"):
        WorkflowFiles(one_group(Node("a", "ImageInvert", None, {"image": Inlet("picture")})), object_info)


@pytest.mark.parametrize("offered", OFFERED, ids=lambda offered: offered.subgraph.name)
def test_a_subgraph_that_is_offered_is_one_instance_without_links(offered):
    """As the page wants it: it takes the file's name for the subgraph's."""
    form = json.loads((SUBGRAPHS / f"{offered.subgraph.name}.json").read_text(encoding="utf-8"))
    (definition,) = subgraphs(form)
    (node,) = form["nodes"]
    assert node["type"] == definition["id"]
    assert definition["name"] == offered.subgraph.name
    assert form["links"] == []
    assert {slot["link"] for slot in node["inputs"]} == {None}
    assert len(node["widgets_values"]) == sum("widget" in slot for slot in node["inputs"])
    assert form["extra"]["BlueprintDescription"] == offered.subgraph.text


def test_the_archive_holds_what_is_offered():
    offered = {Path("subgraphs", f"{item.subgraph.name}.json") for item in OFFERED}
    assert {file for file in archive_files(PACK_ROOT) if file.parts[0] == "subgraphs"} == offered


def test_the_host_lists_what_is_offered(server):
    try:
        with urllib.request.urlopen(f"{server.url}/global_subgraphs", timeout=60) as answer:
            listed = [entry for entry in json.load(answer).values() if entry["source"] == "custom_node"]
    except HTTPError as refused:
        refused.close()
        pytest.skip("this host offers no subgraphs of packs")
    assert {entry["name"] for entry in listed} == {item.subgraph.name for item in OFFERED}
    assert {entry["info"]["node_pack"] for entry in listed} == {f"custom_nodes.{PACK_ROOT.name}"}


# --- the demo twins ----------------------------------------------------------------------------------------------------


HOST_MODELS = {
    "RemoveBackground",
    "SAM3_Detect",
    "DA3Inference",
    "DA3Render",
    "LoadDA3Model",
    "LoadBackgroundRemovalModel",
}


@pytest.mark.parametrize("name", FULL_NAMES)
def test_a_demo_twin_differs_in_its_loaders_and_settings_alone(name):
    """And that of `ad` in what the host's models find, which the pack's own nodes find there."""

    def wiring(prompt: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Title -> class and links by the title they come from; a loader's are those of one source of models."""
        titles = {node_id: node["_meta"]["title"] for node_id, node in prompt.items()}
        sources = {i for i, node in prompt.items() if node["class_type"] in LOADERS | {"PFVDemoModels"}}
        by_models = {i for i, node in prompt.items() if node["class_type"] in HOST_MODELS} | only_for_host_models(
            prompt
        )
        return {
            titles[node_id]: {
                name: "models" if value[0] in sources else (titles[value[0]], value[1])
                for name, value in node["inputs"].items()
                if isinstance(value, list) and value[0] not in by_models
            }
            | {"": node["class_type"]}
            for node_id, node in prompt.items()
            if node_id not in sources | by_models
        }

    def only_for_host_models(prompt: dict[str, Any]) -> set[str]:
        titles = {"What must not come through", "Depth where the product stands"}
        return {node_id for node_id, node in prompt.items() if node["_meta"]["title"] in titles}

    assert wiring(api_form(f"demo_{name}")) == wiring(api_form(name))
    classes = [node["class_type"] for node in api_form(f"demo_{name}").values()]
    assert classes.count("PFVDemoModels") == 1
    assert not set(classes) & LOADERS


def test_the_demo_has_the_pictures_it_names():
    named = {
        node["inputs"]["image"] for name in (*DEMO_NAMES, *NEIGHBOURS) for node in nodes_of(api_form(name), "LoadImage")
    }
    assert named == {file.name for file in DEMO_INPUTS.glob("*.png")}


# --- what is in them ---------------------------------------------------------------------------------------------------

ELSEWHERE = {  # than in a workflow
    "PFVSaveReference",  # of catalogues
    "PFVLoadReference",
    "MEPABranch",  # superseded by MEPA Apply, stacked
    "PFVAdCanvasFinish",  # Strict-ID Composite does the same
    "MEPACrop",  # of samplings of a part of the ad
    "MEPATiles",  # of upscalers of other packs
    "PFVCombineReferences",  # of several pictures as one look
    "MEPAWeights",  # for those who know which layers they want
    "MEPAApplyText",
    "PFVAdReport",
}


def test_the_workflows_use_every_other_tool_of_the_pack():
    used = {node["class_type"] for name in NAMES for node in api_form(name).values()}
    assert set(NODE_IDS) - used <= ELSEWHERE
    assert used & ELSEWHERE == set()


@pytest.mark.parametrize("name", ["formats", "demo_formats"])
@pytest.mark.parametrize("title", ["1:1", "4:5", "1.91:1"])
def test_each_format_has_both_looks_in_regions_of_their_own_the_product_in_view_and_a_shadow(name, title):
    prompt = api_form(name)
    table = source(prompt, the_node(prompt, "KSampler", f"Sampler {title}"), "model")
    assert table is the_node(prompt, "MEPAApply", f"Table look {title}")
    background = source(prompt, table, "model")
    assert background is the_node(prompt, "MEPAApply", f"Background look {title}")
    assert (background["inputs"]["region"][1], table["inputs"]["region"][1]) == (
        2,
        1,
    )  # of Regions: region_3 and region_2
    look, canvas = source(prompt, background, "model"), the_node(prompt, "PFVAdCanvas", f"Canvas {title}")
    assert look["class_type"] == "RefAdGenAttentionFusion"
    assert source(prompt, look, "product_mask") is canvas
    assert source(prompt, source(prompt, look, "reference_latent"), "pixels") is canvas
    prompted = source(prompt, the_node(prompt, "ControlNetApplyAdvanced", f"Apply depth {title}"), "control_net")
    assert source(prompt, prompted, "model") is table
    composite = the_node(prompt, "StrictIDComposite", f"Product's own pixels {title}")
    assert composite["inputs"]["shadow_strength"] > 0
    save = the_node(prompt, "SaveImage", f"Save the ad {title}")
    assert source(prompt, save, "images") is composite


@pytest.mark.parametrize("name", ["formats", "demo_formats"])
def test_the_formats_are_three_instances_of_one_node(name):
    ui = ui_form(name)
    (definition,) = subgraphs(ui)
    instances = [node for node in ui["nodes"] if node["type"] == definition["id"]]
    assert [node["title"] for node in instances] == ["Ad 1:1", "Ad 4:5", "Ad 1.91:1"]
    assert len({json.dumps(node["widgets_values"]) for node in instances}) == 3
    assert len(ui["nodes"]) <= 25
    assert (FOLDER / f"{name}.json").stat().st_size < 80_000


@pytest.mark.parametrize("name", ["ad", "demo_ad"])
def test_the_ad_of_two_photographs_leaves_what_is_found_open_to_painting(name):
    prompt = api_form(name)
    cut_out, look = the_node(prompt, "PFVCutOut"), the_node(prompt, "PFVReference")
    for node, picture in ((cut_out, "Product photo"), (look, "Reference")):
        assert source(prompt, node, "mask") is the_node(prompt, "LoadImage", picture)
        assert ("found" in node["inputs"]) == (name == "ad")
    for apply, region in (("Background", 2), ("On the ground", 1)):
        node = the_node(prompt, "MEPAApply", apply)
        assert source(prompt, node, "image_prompt") is look
        assert node["inputs"]["region"][1] == region
    ground = the_node(prompt, "MEPARegionShape", "Ground region")
    assert source(prompt, ground, "y1") is source(prompt, ground, "y2") is the_node(prompt, "PFVGround")
    assert source(prompt, the_node(prompt, "PFVProductDepth"), "line") is the_node(prompt, "PFVGround")
    assert the_node(prompt, "PFVDepthCompose")["inputs"]["fit"] == "stretch"
    assert source(prompt, the_node(prompt, "PFVAdCanvas"), "product_mask") is cut_out
    assert len(nodes_of(prompt, "LoadImage")) == 2


def test_refadgen_is_asked_as_it_was_trained_and_pastes_nothing():
    """With one file, an empty prompt and a clean photo; where the product stands says the mask at the input alone."""
    prompt = api_form("demo_refadgen")
    fusion = source(prompt, the_node(prompt, "KSampler"), "model")
    assert fusion is the_node(prompt, "RefAdGenAttentionFusion", "See the product photo")
    asked = {"strength": 1.0, "combine": "as_trained", "reference_noise": "clean"}
    assert fusion["inputs"].items() >= asked.items()
    assert "product_mask" not in fusion["inputs"]
    assert source(prompt, fusion, "reference_prompt")["inputs"]["text"] == ""
    photo = source(prompt, source(prompt, fusion, "reference_latent"), "pixels")
    assert photo is the_node(prompt, "LoadImage", "Product photo")
    load, mask = source(prompt, fusion, "reference_model"), source(prompt, fusion, "model")
    assert (load["class_type"], mask["class_type"]) == ("RefAdGenLoad", "RefAdGenMaskInput")
    assert load["inputs"]["refadgen_name"] == mask["inputs"]["mask_input_name"] == REFADGEN_FILE
    assert source(prompt, mask, "product_mask") is the_node(prompt, "LoadImage", "Place of the product")
    assert not nodes_of(prompt, "StrictIDComposite")


def test_strict_id_is_asked_as_it_was_trained_and_the_products_own_pixels_come_back():
    prompt = api_form("demo_strict_id")
    photo, sampler = the_node(prompt, "LoadImage", "Product photo"), the_node(prompt, "KSampler")
    control, plain = (source(prompt, sampler, end) for end in ("positive", "negative"))
    assert plain is the_node(prompt, "ControlNetApplyAdvanced", "Apply it without the pictures")
    scale = source(prompt, control, "image")
    assert source(prompt, plain, "image") is scale
    assert {**control["inputs"], "control_net": None} == {**plain["inputs"], "control_net": None}
    assert (scale["class_type"], control["inputs"]["image"][1]) == ("PFVScaleMap", 1)
    branches = source(prompt, control, "control_net")
    assert source(prompt, branches, "control_net")["inputs"] == {"control_net_name": STRICT_ID_FILE}
    assert source(prompt, plain, "control_net") is source(prompt, branches, "control_net")
    as_trained = {"pose_strength": 1.0, "appearance_strength": 1.0}
    as_trained |= dict.fromkeys(("std_norm", "time_weighting"), "as_trained")
    assert branches["inputs"].items() >= as_trained.items()
    for name, is_painted in (("pose", False), ("appearance", True)):
        encode = source(prompt, branches, name)
        assert encode["inputs"]["mode"] == "zero"
        seen = source(prompt, encode, "patch_mask")
        assert (seen["inputs"]["fit"], "mask" in seen["inputs"]) == ("crop", is_painted)
        picture = the_node(prompt, "LoadImage", name.title())
        assert picture is source(prompt, seen, "reference") is source(prompt, encode, "reference")
    composite = source(prompt, the_node(prompt, "SaveImage"), "images")
    assert composite["class_type"] == "StrictIDComposite"
    assert source(prompt, composite, "product") is source(prompt, scale, "product") is photo


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
    for level in levels(ui_form(name)):
        for one, other in combinations([rectangle(node) for node in level["nodes"]], 2):
            assert not overlap(one, other)
        for one, other in combinations(frames(level), 2):
            assert not overlap(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_every_node_lies_in_one_group_and_notes_in_none(name):
    for level in levels(ui_form(name)):
        for node in level["nodes"]:
            left, top, right, bottom = rectangle(node)
            around = [f for f in frames(level) if f[0] < left and f[1] < top and right < f[2] and bottom < f[3]]
            touched = [f for f in frames(level) if overlap(f, rectangle(node))]
            assert len(around) == len(touched) == (node["type"] != NOTE)


@pytest.mark.parametrize("name", NAMES)
def test_groups_and_links_go_from_left_to_right_or_down_into_the_next_row(name):
    for level in levels(ui_form(name)):
        assert all(one[2] < other[0] or one[3] < other[1] for one, other in pairwise(frames(level)))
        places = {node["id"]: (*node["pos"], row_of(node, level)) for node in level["nodes"]}
        for _, origin, _, target, *_ in level["links"]:
            if min(origin, target) < 0:  # an end of a subgraph
                continue
            (left, top, row), (target_left, target_top, target_row) = places[origin], places[target]
            assert row < target_row or left < target_left or (left == target_left and top < target_top)
            assert row <= target_row


def row_of(node: dict[str, Any], level: dict[str, Any]) -> float:
    """Top of the frame that a node lies in; that of no frame, for a note."""
    return next((f[1] for f in frames(level) if overlap(f, rectangle(node))), 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_of_a_common_size_shows_the_whole_canvas_at_a_readable_zoom(name):
    ui = ui_form(name)
    corners = [rectangle(node) for node in ui["nodes"]] + frames(ui)
    width = max(corner[2] for corner in corners) - min(corner[0] for corner in corners)
    height = max(corner[3] for corner in corners) - min(corner[1] for corner in corners)
    assert min(1500 / width, 850 / height) > 0.25


def test_groups_name_the_steps_in_order():
    titles = {name: [group["title"][3:].split()[0] for group in ui_form(name)["groups"]] for name in NAMES}
    assert titles["minimal"] == ["Reference", "Adapter", "Sampling", "Result"]
    assert titles["full"] == ["References", "Adapter", "Product", "Sampling", "Result"]
    assert titles["formats"] == ["References", "Adapter", "One"]
    assert [titles[f"demo_{name}"] for name in FULL_NAMES[1:]] == [titles[name] for name in FULL_NAMES[1:]]
    assert titles["demo_refadgen"] == ["Product,", "RefAdGen", "Sampling", "Result"]
    assert titles["demo_strict_id"] == ["Product", "Pose", "Strictly-ID", "Sampling", "Result"]
    steps = ["1  Your two pictures and your sentence", "2  Product", "3  Look of the reference", "4  Depth"]
    steps += ["5  The look in the background and on the ground", "6  Sampling", "7  Result"]
    numbered = {name: [g["title"] for g in ui_form(name)["groups"] if g["title"][0].isdigit()] for name in NAMES}
    assert numbered["ad"] == numbered["demo_ad"] == steps
    for name in ("full", "formats", *NEIGHBOURS):
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


@pytest.mark.parametrize("name", ["demo_ad", "demo_minimal", "demo_full"])
def test_a_demo_twin_loads_its_models_once_and_runs_with_the_links_to_its_masks_deleted(name, server, tmp_path):
    """Deleted as the notes on the canvas say."""
    prompt = quick(name)
    ad = run(server, prompt, tmp_path / "ad.png")
    assert ad.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert embedded(ad) == essence(prompt)
    loads = server.log.read_text(encoding="utf-8").count("model_type V_PREDICTION")
    seeded = copy.deepcopy(prompt)
    set_inputs(the_node(seeded, "KSampler"), seed=2)
    for other in (seeded, without_pfv(prompt)):
        made = run(server, other, tmp_path / "other.png")
        assert made.size == ad.size
        assert not np.array_equal(np.asarray(ad), np.asarray(made))
    assert server.log.read_text(encoding="utf-8").count("model_type V_PREDICTION") == loads > 0


@pytest.mark.parametrize(
    ("name", "class_type", "title", "changed"),
    [
        ("demo_refadgen", "RefAdGenAttentionFusion", "See the product photo", {"strength": 0.0}),
        ("demo_strict_id", "PFVScaleMap", "Scale", {"subject_cm": 12.0}),
        ("demo_strict_id", "StrictIDBranches", "Pose and appearance", {"pose_strength": 0.0}),
        ("demo_strict_id", "StrictIDBranches", "Pose and appearance", {"appearance_strength": 0.0}),
    ],
)
def test_a_neighbours_demo_runs_and_what_its_note_changes_changes_it(
    name, class_type, title, changed, server, tmp_path
):
    prompt = quick(name)
    ad = run(server, prompt, tmp_path / "ad.png")
    assert ad.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert embedded(ad) == essence(prompt)
    assert np.asarray(ad).std() > 5
    set_inputs(the_node(prompt, class_type, title), **changed)
    assert not np.array_equal(np.asarray(ad), np.asarray(run(server, prompt, tmp_path / "other.png")))


def test_strict_id_keeps_the_product_exact(server, tmp_path):
    ad = np.asarray(run(server, quick("demo_strict_id"), tmp_path / "ad.png"))
    with Image.open(DEMO_INPUTS / "demo_product_left.png") as photo:
        own, opacity = np.asarray(photo.convert("RGB")), np.asarray(photo.getchannel("A"), np.float32) / 255
    inside = core_of(settled(opacity)[None], 1)[0] & (opacity == 1)
    assert inside.sum() > 500
    assert np.array_equal(ad[inside], own[inside])
    assert (ad[opacity == 0] != own[opacity == 0]).any(1).mean() > 0.9


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
        ("ad_1x1", "1:1", (IMAGE_SIZE, IMAGE_SIZE)),
        ("ad_4x5", "4:5", (224, 280)),
        ("ad_1.91x1", "1.91:1", (352, 184)),
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
        composite = node_id(prompt, "StrictIDComposite", f"Product's own pixels {title}")
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


def small(name: str) -> dict[str, Any]:
    prompt = quick(name)
    size = {
        "format": "custom",
        "custom_width": 128,
        "custom_height": 128,
        "sampling_scale": "1",
    }  # tiny models are of no family
    set_inputs(the_node(prompt, "PFVAdCanvas"), **size)
    set_inputs(the_node(prompt, "PFVGround"), ground_line="at", at=0.72)  # the photograph is drawn in flat colours
    return prompt


def test_ad_runs_without_what_a_host_has_not(server, object_info, tmp_path):
    """As its note says: without the nodes of the grey groups and their links, or without their files."""
    write_photographs(Path(server.log).parent / "input")
    prompt, said = possible_part(small("ad"), object_info)
    assert {node["class_type"] for node in prompt.values()} & HOST_MODELS == set()
    assert "Look finds by itself what found would have told it" in said
    ad = run(server, prompt, tmp_path / "ad.png")
    assert ad.size == (128, 128)


def test_a_reference_without_a_painted_mask_is_explained(server, tmp_path):
    prompt = quick("minimal")
    save(noise(9, (64, 96)), tmp_path / "unpainted.png")
    uploaded = Client(server.url).upload_image(tmp_path / "unpainted.png")
    set_inputs(the_node(prompt, "LoadImage"), image=uploaded)
    with pytest.raises(FailedError, match="mask holds no mask"):
        run(server, prompt, tmp_path / "ad.png")
