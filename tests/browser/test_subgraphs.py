"""Subgraphs in the page: each instance with values of its own, and those that the pack offers to every workflow."""

from __future__ import annotations

import pytest

from pfv_mepa.tests.browser.conftest import WORKFLOWS
from pfv_mepa.tests.browser.test_open import essence, ui_form
from pfv_mepa.tools.workflow_parts.own_subgraphs import OFFERED

ADS = ("Ad 1:1", "Ad 4:5", "Ad 1.91:1")
HAS_NODES = "() => app.graph.nodes.map((node) => [node.title, node.widgets?.map((w) => [w.name, w.value]) ?? []])"


def canvases(prompt: dict) -> list[dict]:
    return [inputs for class_type, inputs in prompt.values() if class_type == "PFVAdCanvas"]


def test_each_instance_shows_its_own_values_and_sends_them(page):
    page.drop(WORKFLOWS / "formats.json")
    shown = [page.widget_values(title) for title in ADS]
    assert [values["format"] for values in shown] == ["1:1", "1080x1350", "1200x628"]
    assert [values["position"] for values in shown] == ["bottom", "bottom", "bottom_right"]
    assert [canvas["format"] for canvas in canvases(page.prompt())] == ["1:1", "1080x1350", "1200x628"]


def test_a_value_changed_on_one_instance_is_its_own(page):
    page.drop(WORKFLOWS / "demo_formats.json")
    page.set_widget("Ad 4:5", "seed", 7)
    page.set_widget("Ad 4:5", "position", "top")
    sent = page.prompt()
    changed = {key for key, node in essence(WORKFLOWS / "api" / "demo_formats.json").items() if sent[key] != node}
    assert {sent[key][0] for key in changed} == {"PFVAdCanvas", "KSampler"}
    assert len(changed) == 2
    assert len({key.split(":")[0] for key in changed}) == 1


def test_what_was_changed_is_there_again_when_the_saved_file_is_opened(page, tmp_path):
    page.drop(WORKFLOWS / "demo_formats.json")
    for number, title in enumerate(ADS):
        page.set_widget(title, "seed", 10 + number)
    sent = page.prompt()
    saved = tmp_path / "saved.json"
    saved.write_text(page.ask("() => JSON.stringify(app.graph.serialize())"), encoding="utf-8")
    page.clear()
    page.drop(saved)
    assert page.faults() == []
    assert [page.widget_values(title)["seed"] for title in ADS] == [10, 11, 12]
    assert page.prompt() == sent


def test_three_formats_run_from_the_page(page, keep):
    page.drop(WORKFLOWS / "demo_formats.json")
    page.few_steps()
    assert page.run()[-1]["type"] == "execution_success"
    for title, size in (("1:1", (256, 256)), ("4:5", (224, 280)), ("1.91:1", (352, 184))):
        assert page.shown(f"Save the ad {title}")[1].size == size
    keep("formats_ran", *ADS, *(f"Save the ad {title.removeprefix('Ad ')}" for title in ADS))


@pytest.mark.parametrize("offered", OFFERED, ids=lambda offered: offered.subgraph.name)
def test_what_the_pack_offers_is_added_from_the_search(page, offered):
    listed = page.ask("async () => (await app.api.fetchApi('/global_subgraphs')).ok")
    if not listed:
        page.complaints.clear()
        pytest.skip("this host offers no subgraphs of packs")
    name = offered.subgraph.name
    page.add_from_search(name)
    ((title, widgets),) = page.ask(HAS_NODES)
    assert title == name
    (node,) = ui_form_of(offered)["nodes"]
    promoted = [slot["name"] for slot in node["inputs"] if "widget" in slot]
    assert widgets == [[input_name, value] for input_name, value in zip(promoted, node["widgets_values"], strict=True)]
    assert page.faults() == []


def ui_form_of(offered) -> dict:
    return ui_form(f"../subgraphs/{offered.subgraph.name}")
