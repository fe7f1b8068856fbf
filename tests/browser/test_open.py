"""Workflows on their way into the page: dropped, from the templates, inside a saved PNG, and of an earlier version."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from PIL import Image

from headless.ad.workflow import load_prompt, set_inputs, the_node
from headless.host.find import PACK_ROOT
from headless.server.blocking import Client, saved_images
from pfv_mepa.tests.browser.conftest import NAMES, OF_NEWER_HOSTS, WORKFLOWS
from pfv_mepa.tools.workflow_parts.server import newer_nodes

OLD = PACK_ROOT / "tests" / "host" / "old_workflows"
OVERLAPS = """() => {
    const boxes = app.graph.nodes.map(({ title, pos: [x, y], size: [width, height] }) =>
        [title, x, y - 30, x + width, y + height])
    return boxes.flatMap(([one, left, top, right, bottom], index) => boxes.slice(index + 1)
        .filter(([, x, y, x2, y2]) => left < x2 && x < right && top < y2 && y < bottom).map(([other]) => `${one} / ${other}`))
}"""
OLD_FILES = sorted(OLD.glob("*/*.json"))


def essence(file: Path) -> dict[str, tuple[str, dict]]:
    """Of an API file: id -> class and inputs."""
    return {node_id: (node["class_type"], node["inputs"]) for node_id, node in load_prompt(file).items()}


def ui_form(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def test_the_page_opens_without_a_complaint(open_page):
    assert open_page.first_complaints == []


def skip_where_nodes_are_missing(page, name: str) -> None:
    """test_missing_parts.py has what the page says then."""
    if name == OF_NEWER_HOSTS and not all(page.has(class_type) for class_type in newer_nodes()):
        pytest.skip("this host has not all of its nodes")


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_by_drag_and_drop_and_is_saved_as_it_was(page, name, keep):
    skip_where_nodes_are_missing(page, name)
    page.drop(WORKFLOWS / f"{name}.json")
    assert page.faults() == []
    assert page.prompt() == essence(WORKFLOWS / "api" / f"{name}.json")
    assert page.says_nothing()
    form = page.ask("() => JSON.parse(JSON.stringify(app.graph.serialize()))")
    saved = {node["id"]: node for node in form["nodes"]}
    for node in ui_form(name)["nodes"]:
        assert saved[node["id"]].get("widgets_values", []) == node["widgets_values"]
        assert saved[node["id"]]["size"] == node["size"], "the page makes this node larger than the file says"
    assert nodes_of_subgraphs(form) == nodes_of_subgraphs(ui_form(name))
    page.show_all()
    keep(f"opened_{name}")


def nodes_of_subgraphs(form: dict) -> list[int]:
    return [node["id"] for subgraph in form.get("definitions", {}).get("subgraphs", []) for node in subgraph["nodes"]]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("demo_")])
def test_no_node_grows_over_another_when_a_run_has_shown_its_previews(page, name, keep):
    page.drop(WORKFLOWS / f"{name}.json")
    page.few_steps()
    assert page.run()[-1]["type"] == "execution_success"
    page.show_all()
    keep(f"ran_{name}")
    assert page.ask(OVERLAPS) == []


def test_the_templates_have_a_card_with_a_picture_for_each(page, keep):
    page.ask("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.page.locator("[role=dialog]").get_by_text(PACK_ROOT.name, exact=True).first.click()
    cards = page.page.locator("[data-testid^='template-workflow-']")
    cards.first.wait_for()
    order = cards.evaluate_all("(cards) => cards.map((card) => card.dataset.testid.replace('template-workflow-', ''))")
    assert order == list(NAMES)
    assert order[0] == "ad"
    for name in NAMES:
        card = page.page.locator(f"[data-testid='template-workflow-{name}']")
        card.scroll_into_view_if_needed()  # a picture out of sight is not loaded
        card.locator("img").first.wait_for()
        loaded = card.locator("img").first.evaluate("(img) => img.decode().then(() => img.naturalWidth)")
        assert loaded > 0, f"workflows/{name}.jpg is not there"
    cards.first.scroll_into_view_if_needed()
    keep("templates")
    page.page.locator("[data-testid='template-workflow-demo_minimal']").click()
    page.wait_for_nodes(len(ui_form("demo_minimal")["nodes"]))
    assert page.faults() == []
    assert page.prompt() == essence(WORKFLOWS / "api" / "demo_minimal.json")


def test_the_saved_png_opens_as_its_workflow(page, tmp_path):
    page.drop(WORKFLOWS / "demo_minimal.json")
    page.few_steps()
    sent = page.prompt()
    assert page.run()[-1]["type"] == "execution_success"
    client = Client(page.url)
    (image,) = saved_images({"": page.shown("Save the ad")[0]})
    png = client.download(image, tmp_path / "ad.png")
    page.clear()
    page.drop(png)
    assert page.faults() == []
    assert page.prompt() == sent
    assert page.widget_values("Sampler")["steps"] == 2


# --- earlier versions and what is missing --------------------------------------------------------------------------


@pytest.mark.parametrize("file", OLD_FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_file_of_an_earlier_version_opens_with_the_new_inputs_at_their_defaults(page, file):
    page.drop(file)
    assert page.faults() == []
    prompt = page.prompt()
    for node_id, (class_type, old_inputs) in essence(file.parent / "api" / file.name).items():
        now_class, inputs = prompt[node_id]
        assert now_class == class_type
        assert {name: inputs.get(name) for name in old_inputs} == old_inputs
        definition = page.ask("(type) => LiteGraph.registered_node_types[type].nodeData.input.optional", class_type)
        for name in set(inputs) - set(old_inputs):
            assert inputs[name] == definition[name][1]["default"], f"{class_type}.{name}"


def test_an_old_api_file_runs(server):
    (newest, *_) = sorted(OLD.iterdir(), reverse=True)
    prompt = load_prompt(newest / "api" / "demo_full.json")
    set_inputs(the_node(prompt, "KSampler"), steps=2)
    client = Client(server.url)
    assert saved_images(client.run(prompt))


def test_a_node_that_has_grown_since_takes_its_old_values_and_new_defaults(page, tmp_path):
    """The mechanism, whatever was added so far: a file from before `erode` and `feather` had been there."""
    workflow = ui_form("demo_full")
    (node,) = [node for node in workflow["nodes"] if node["type"] == "StrictIDComposite"]
    node["widgets_values"] = ["background"]
    known = ("generated", "product", "product_mask", "product_mask_selects")
    node["inputs"] = [entry for entry in node["inputs"] if entry["name"] in known]
    (tmp_path / "old.json").write_text(json.dumps(workflow), encoding="utf-8")
    page.drop(tmp_path / "old.json")
    assert page.faults() == []
    values = page.widget_values("Product's own pixels")
    assert (values["product_mask_selects"], values["erode"], values["feather"]) == ("background", 2, 4)


def test_a_missing_model_names_itself_and_where_it_comes_from(page, tmp_path, keep):
    workflow = copy.deepcopy(ui_form("minimal"))
    (node,) = [node for node in workflow["nodes"] if node["type"] == "MEPAAdapterLoader"]
    (model,) = node["properties"]["models"]
    model["name"] = node["widgets_values"][0] = "absent.safetensors"
    (tmp_path / "minimal.json").write_text(json.dumps(workflow), encoding="utf-8")
    page.drop(tmp_path / "minimal.json")
    said = page.problem()
    assert "absent.safetensors" in said
    assert "ipadapter" in said
    address = page.copied("Copy URL").replace("/blob/", "/resolve/")  # newer ones copy the page about the file
    assert address == model["url"]
    keep("missing_model")


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("demo_")])
def test_every_loader_says_which_file_it_needs_and_from_where(name):
    loaders = [node for node in ui_form(name)["nodes"] if "models" in node["properties"]]
    assert len(loaders) >= 3
    for node in loaders:
        model, *paired = node["properties"]["models"]
        assert model["name"] == node["widgets_values"][0]
        assert bool(paired) == (node["type"] == "MEPALoad")  # the encoder that the adapter needs
        for model in node["properties"]["models"]:
            assert model["url"].startswith("https://huggingface.co/")
            if "hash" in model:
                assert (len(model["hash"]), model["hash_type"]) == (64, "SHA256")
                assert model["size"] > 1e8


def test_a_missing_node_names_its_pack(page, tmp_path):
    workflow = ui_form("demo_minimal")
    node = next(node for node in workflow["nodes"] if node["type"] == "MEPAApply")
    node["type"] = node["properties"]["Node name for S&R"] = "MEPAOfTomorrow"
    (tmp_path / "tomorrow.json").write_text(json.dumps(workflow), encoding="utf-8")
    page.drop(tmp_path / "tomorrow.json")
    said = page.problem()
    assert "MEPAOfTomorrow" in said or "pfv-mepa" in said
    page.complaints.clear()  # the page also logs it


def test_pictures_of_the_templates_are_of_their_own_output():
    for name in NAMES:
        with Image.open(WORKFLOWS / f"{name}.jpg") as picture:
            assert picture.size == (384, 384)
