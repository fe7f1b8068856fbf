"""The line of text below a node stays as long as the node's picture does, on nodes that the page has built anew too."""

from __future__ import annotations

import pytest

from pfv_mepa.tests.browser.comfy_page import SHOW
from pfv_mepa.tests.browser.test_shown_again import HIDE, INSIDE, INTO_A_SUBGRAPH, LINES, REGION, workflow

SAMPLER = "Sampler"
LINE = """(title) => app.graph.nodes.find((node) => node.title === title)
    .widgets.find((widget) => widget.name === 'pfv_line')?.element.textContent ?? ''"""
CHANGE = """([title, name, value]) => {
    app.canvas.emitBeforeChange()
    app.graph.nodes.find((node) => node.title === title).widgets.find((widget) => widget.name === name).value = value
    app.canvas.emitAfterChange()
}"""
HAS = """([title, name, value]) => app.graph.nodes.find((node) => node.title === title)
    ?.widgets.find((widget) => widget.name === name).value === value"""
COMMAND = "(name) => app.extensionManager.command.execute(name)"
COMES = """([title, line]) => {
    const node = String(app.graph.nodes.find((node) => node.title === title).id)
    const detail = { node, display_node: node, output: { pfv_line: [line] }, prompt_id: 'of another page' }
    app.api.dispatchEvent(new CustomEvent('executed', { detail }))
}"""
DISCONNECT = """(title) => {
    const node = app.graph.nodes.find((node) => node.title === title)
    node.disconnectInput(node.inputs.findIndex((input) => input.name === 'region'))
}"""


def run(page) -> None:
    assert page.run()[-1]["type"] == "execution_success"


def elsewhere_and_back(page) -> None:
    """Another tab, and the one before it."""
    number = page.ask("() => app.graph.nodes.length")
    page.ask(COMMAND, "Comfy.NewBlankWorkflow")
    page.wait_for_nodes(0)
    page.ask(COMMAND, "Workspace.PreviousOpenedWorkflow")
    page.wait_for_nodes(number)


def change_and_undo(page, steps: int) -> None:
    """Another number of the sampler's steps, and the one before it."""
    page.ask(CHANGE, [SAMPLER, "steps", steps])
    page.ask(COMMAND, "Comfy.Undo")
    page.page.wait_for_function(HAS, arg=[SAMPLER, "steps", 2])


def test_lines_and_pictures_are_there_after_an_undo_a_redo_and_another_tab(page, tmp_path):
    page.drop(workflow(tmp_path, 0.27))
    run(page)
    before = {title: page.line(title) for title in LINES}
    change_and_undo(page, 3)
    assert {title: page.ask(LINE, title) for title in LINES} == before
    page.ask(COMMAND, "Comfy.Redo")
    page.page.wait_for_function(HAS, arg=[SAMPLER, "steps", 3])
    assert {title: page.ask(LINE, title) for title in LINES} == before
    elsewhere_and_back(page)
    for title in LINES:
        assert page.line(title) == before[title]
        assert page.shown(title)[1].size[0] > 100


def test_the_line_of_a_run_that_the_page_did_not_start_is_there_after_an_undo(page, tmp_path):
    """As of one that it found running when it was opened anew."""
    page.drop(workflow(tmp_path, 0.45))
    page.ask(COMES, [HIDE, "kept: 12%"])
    assert page.ask(LINE, HIDE) == "kept: 12%"
    change_and_undo(page, 3)
    assert page.ask(LINE, HIDE) == "kept: 12%"


def test_a_line_in_a_subgraph_is_there_after_an_undo(page, tmp_path):
    page.drop(workflow(tmp_path, 0.29))
    subgraph = page.ask(INTO_A_SUBGRAPH, HIDE)
    if subgraph is None:
        pytest.skip("this frontend has no subgraphs")
    run(page)
    _, line = page.ask(INSIDE, subgraph)
    assert line.startswith("kept: ")
    change_and_undo(page, 3)
    assert page.ask(INSIDE, subgraph)[1] == line


def test_a_region_that_is_taken_away_is_shown_no_more(page, tmp_path):
    page.drop(workflow(tmp_path, 0.31))
    run(page)
    line, picture = page.line(REGION), page.shown(REGION)[1]
    page.ask(DISCONNECT, REGION)
    run(page)
    page.ask(SHOW, [REGION])
    page.page.wait_for_function(f"(title) => ({LINE})(title) === 'region: the whole frame'", arg=REGION)
    assert line != "region: the whole frame"
    assert page.shown(REGION)[1].tobytes() != picture.tobytes()
