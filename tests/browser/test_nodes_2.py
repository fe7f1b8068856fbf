"""Nodes 2.0: nodes are elements of the page instead of drawings on the canvas, where a person has switched that on."""

from __future__ import annotations

from typing import Any

import pytest

from pfv_mepa.pfv_demo.sizes import IMAGE_SIZE
from pfv_mepa.tests.browser.conftest import REFERENCE, STROKE, WORKFLOWS
from pfv_mepa.tests.browser.test_open import essence

SETTING = "Comfy.VueNodes.Enabled"
HIDE = "Hide in the background reference"
REGION = "Background reference in its region"
COMPOSITE = "Product's own pixels"
SAVE = "Save the ad"
WITHOUT_A_ROW = ("upload", "control_after_generate")  # a button of the image's row, and of the seed's
WIDGETS = """(withoutARow) => app.graph.nodes.map((node) => {
    const linked = (widget) => node.inputs.some((slot) => slot.widget?.name === widget.name && slot.link != null)
    const widgets = (node.widgets ?? []).filter((widget) => !withoutARow.includes(widget.name) && !linked(widget))
    const rows = [...document.querySelectorAll(`[data-node-id='${node.id}'] .lg-node-widget`)]
    const shown = rows.map((row) => {
        const toggle = row.querySelector('[role=switch]'), field = row.querySelector('textarea, input:not([type=file])')
        return toggle ? toggle.ariaChecked === 'true' : field ? field.value : row.innerText
    })
    return [node.title, widgets.map((widget) => widget.value), shown]
})"""
PICTURES = """(title) => {
    const { id } = app.graph.nodes.find((node) => node.title === title)
    return [...document.querySelectorAll(`[data-node-id='${id}'] img`)].map((picture) => picture.naturalWidth)
}"""


@pytest.fixture(scope="module", autouse=True)
def with_nodes_2(open_page):
    """The page of this file's tests has Nodes 2.0."""
    if open_page.ask("(name) => app.ui.settings.settingsLookup[name]?.type ?? 'hidden'", SETTING) == "hidden":
        pytest.skip("this frontend does not offer Nodes 2.0 in its settings")
    open_page.open(Comfy_VueNodes_Enabled=True)
    open_page.is_usual = True  # here
    yield
    open_page.is_usual = False


def shows(row: str | bool, value: Any) -> bool:
    """Whether a row shows this value: numbers have digits of their own, choices their name above."""
    if isinstance(value, bool) or isinstance(row, bool):
        return row is value
    if isinstance(value, str):
        return row == value or row.endswith(f"\n{value}")
    try:
        return float(row) == value
    except ValueError:
        return False


def shows_all(rows: list[str | bool], values: list[Any]) -> bool:
    """Whether the values are in the rows, in this order; rows of linked widgets may lie between them."""
    left = iter(rows)
    return all(any(shows(row, value) for row in left) for value in values)


def test_a_workflow_opens_runs_and_shows_its_values_previews_and_lines(page, keep):
    page.drop(WORKFLOWS / "demo_full.json")
    drawn = "() => document.querySelectorAll('[data-node-id]').length === app.graph.nodes.length"
    page.page.wait_for_function(drawn)
    assert page.faults() == []
    assert page.prompt() == essence(WORKFLOWS / "api" / "demo_full.json")
    nodes = page.ask(WIDGETS, WITHOUT_A_ROW)
    assert sum(len(values) for _, values, _ in nodes) > 50
    assert [node for node in nodes if not shows_all(node[2], node[1])] == []
    page.few_steps()
    # Not what another test has run: of results that the host has kept a new page gets no pictures.
    page.set_widget(HIDE, "threshold", 0.05)
    assert page.run()[-1]["type"] == "execution_success"
    for title, width in ((HIDE, IMAGE_SIZE), (REGION, 256), (SAVE, IMAGE_SIZE)):
        page.page.wait_for_function(f"([title, width]) => ({PICTURES})(title).includes(width)", arg=[title, width])
    assert page.line(HIDE).startswith("kept: ")
    assert page.line(REGION).startswith("region: ")
    assert page.line(COMPOSITE).startswith("exact: ")
    keep("nodes_2", HIDE, REGION)


def test_instances_of_a_subgraph_show_their_own_values(page, keep):
    page.drop(WORKFLOWS / "formats.json")
    drawn = "() => document.querySelectorAll('[data-node-id]').length === app.graph.nodes.length"
    page.page.wait_for_function(drawn)
    assert page.prompt() == essence(WORKFLOWS / "api" / "formats.json")
    nodes = [node for node in page.ask(WIDGETS, WITHOUT_A_ROW) if node[0].startswith("Ad ")]
    assert [values[0] for _, values, _ in nodes] == ["1:1", "1080x1350", "1200x628"]
    assert [node for node in nodes if not shows_all(node[2], node[1])] == []
    keep("nodes_2_formats", "Ad 1:1", "Ad 4:5", "Ad 1.91:1")


def test_a_person_paints_and_sees_what_is_hidden(page, unpainted_workflow):
    page.drop(unpainted_workflow)
    page.paint(REFERENCE, STROKE[:-10])  # not another test's stroke: an encoded reference is kept
    page.save_mask(REFERENCE)
    assert page.run()[-1]["type"] == "execution_success"
    line = page.line("Hide what is painted")
    assert 50 < int(line.removeprefix("kept: ").removesuffix("%")) < 95
