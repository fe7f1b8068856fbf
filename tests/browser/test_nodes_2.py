"""Nodes 2.0: nodes are elements of the page instead of drawings on the canvas, where a person has switched that on."""

from __future__ import annotations

from typing import Any

import pytest

from pfv_mepa.tests.browser.conftest import WORKFLOWS
from pfv_mepa.tests.browser.test_open import essence

SETTING = "Comfy.VueNodes.Enabled"
HIDE = "Hide in the background reference"
REGION = "Background reference in its region"
COMPOSITE = "Product's own pixels"
SAVE = "Save the ad"
WITHOUT_A_ROW = ("upload", "control_after_generate")  # a button of the image's row, and of the seed's
WIDGETS = """(withoutARow) => app.graph.nodes.flatMap((node) => {
    const linked = (widget) => node.inputs.some((slot) => slot.widget?.name === widget.name && slot.link != null)
    const seen = (node.widgets ?? []).filter((widget) => !withoutARow.includes(widget.name) && !linked(widget))
    return seen.map(({ name, value }) => {
        const row = document.querySelector(`[data-node-id='${node.id}'] [data-widget-name='${name}']`)
        const toggle = row?.querySelector('[role=switch]'), field = row?.querySelector('textarea, input:not([type=file])')
        const shown = toggle ? toggle.ariaChecked === 'true' : field ? field.value : row?.innerText
        return [`${node.title}.${name}`, value, shown ?? null]
    })
})"""
PICTURES = """(title) => {
    const { id } = app.graph.nodes.find((node) => node.title === title)
    return [...document.querySelectorAll(`[data-node-id='${id}'] img`)].map((picture) => picture.naturalWidth)
}"""


@pytest.fixture
def page_2(page):
    """The page with Nodes 2.0, and an empty canvas."""
    if page.ask("(name) => app.ui.settings.settingsLookup[name]?.type ?? 'hidden'", SETTING) == "hidden":
        pytest.skip("this frontend does not offer Nodes 2.0 in its settings")
    page.open(Comfy_VueNodes_Enabled=True)
    yield page
    page.open(Comfy_VueNodes_Enabled=False)


def shows(shown: Any, value: Any) -> bool:
    """Whether what a row shows is its widget's value: numbers have digits of their own, choices their name above."""
    if shown is None or isinstance(value, bool):
        return shown is value
    return (
        float(shown) == value
        if isinstance(value, (int, float))
        else str(shown) == value or shown.endswith(f"\n{value}")
    )


def test_a_workflow_opens_runs_and_shows_its_values_previews_and_lines(page_2, keep):
    page_2.drop(WORKFLOWS / "demo_full.json")
    drawn = "() => document.querySelectorAll('[data-node-id]').length === app.graph.nodes.length"
    page_2.page.wait_for_function(drawn)
    assert page_2.faults() == []
    assert page_2.prompt() == essence(WORKFLOWS / "api" / "demo_full.json")
    rows = page_2.ask(WIDGETS, WITHOUT_A_ROW)
    assert len(rows) > 60
    assert [row for row in rows if not shows(row[2], row[1])] == []
    page_2.set_widget("Sampler", "steps", 2)
    assert page_2.run()[-1]["type"] == "execution_success"
    for title, width in ((HIDE, 128), (REGION, 256), (SAVE, 128)):
        page_2.page.wait_for_function(f"([title, width]) => ({PICTURES})(title).includes(width)", arg=[title, width])
    assert page_2.line(HIDE).startswith("kept: ")
    assert page_2.line(REGION).startswith("region: ")
    assert page_2.line(COMPOSITE).startswith("exact: ")
    keep("nodes_2", HIDE, REGION)
