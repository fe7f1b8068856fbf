"""A page that is opened anew while the host has everything in its cache shows the pictures and lines of every node again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pfv_mepa.tests.browser.comfy_page import SHOW
from pfv_mepa.tests.browser.conftest import WORKFLOWS

HIDE = "Hide in the background reference"
REGION = "Background reference in its region"
DEPTH = "Depth of the ad"
COMPOSITE = "Product's own pixels"
LINES = {HIDE: "kept: ", REGION: "region: ", DEPTH: "hidden in the reference", COMPOSITE: "exact: "}
SHOWN = """(title) => {
    const node = app.graph.nodes.find((node) => node.title === title)
    const line = node.widgets?.find((widget) => widget.name === 'pfv_line')
    return [node.imgs?.[0]?.naturalWidth ?? 0, line?.element.innerText ?? '']
}"""
INTO_A_SUBGRAPH = """(title) => {
    const node = app.graph.nodes.find((node) => node.title === title)
    return app.graph.convertToSubgraph?.(new Set([node])).node.id
}"""
INSIDE = """(id) => {
    const [node] = app.graph.getNodeById(id).subgraph.nodes
    return [`${id}:${node.id}`, node.widgets?.find((widget) => widget.name === 'pfv_line')?.element.innerText ?? '']
}"""


def workflow(folder: Path, threshold: float) -> Path:
    """demo_full with few steps, and a threshold that no other test has: what others ran is in the host's cache."""
    content = json.loads((WORKFLOWS / "demo_full.json").read_text(encoding="utf-8"))
    for node in content["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 2
        if node.get("title") == HIDE:
            node["widgets_values"][1] = threshold
    file = folder / "again.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def run(page: Any) -> set[str]:
    """Run; the nodes that the host said it has cached."""
    page.ask(
        "() => app.api.addEventListener('execution_cached', ({ detail }) => { window.cachedNodes = detail.nodes })"
    )
    assert page.run()[-1]["type"] == "execution_success"
    return set(page.ask("() => window.cachedNodes"))


def test_pictures_and_lines_are_there_again_and_not_those_of_other_values(page, tmp_path):
    """The same node ids, another threshold: what was made last is shown, and what was made with it."""
    page.drop(workflow(tmp_path, 0.45))
    run(page)
    others = page.line(HIDE)
    file = workflow(tmp_path, 0.17)
    page.drop(file)
    run(page)
    before = {title: page.line(title) for title in LINES}
    assert before[HIDE] != others
    page.open()
    page.drop(file)
    assert [page.ask(SHOWN, title) for title in LINES] == [[0, ""]] * len(LINES)
    assert run(page) >= set(page.prompt()), "the host has made something anew"
    for title, beginning in LINES.items():
        assert page.line(title) == before[title]  # it brings the node into view: only there its picture is loaded
        assert page.line(title).startswith(beginning)
        assert page.shown(title)[1].size[0] > 100


def test_a_node_in_a_subgraph_is_there_again(page, tmp_path):
    page.drop(workflow(tmp_path, 0.19))
    subgraph = page.ask(INTO_A_SUBGRAPH, HIDE)
    if subgraph is None:
        pytest.skip("this frontend has no subgraphs")
    file = tmp_path / "subgraph.json"
    file.write_text(json.dumps(page.ask("() => JSON.parse(JSON.stringify(app.graph.serialize()))")), encoding="utf-8")
    run(page)
    inside, line = page.ask(INSIDE, subgraph)
    assert line.startswith("kept: ")
    page.open()
    page.drop(file)
    assert page.ask(INSIDE, subgraph) == [inside, ""]
    assert inside in run(page)
    page.page.wait_for_function(f"([id, line]) => ({INSIDE})(id)[1] === line", arg=[subgraph, line])


def test_pictures_that_were_deleted_are_not_shown(page, tmp_path, server):
    file = workflow(tmp_path, 0.23)
    page.drop(file)
    run(page)
    temporary = server.log.parent / "temp"
    temporary.rename(tmp_path / "temp")
    try:
        page.open()
        page.drop(file)
        run(page)
        page.ask(SHOW, [HIDE])
        page.page.wait_for_timeout(1500)
        assert page.ask(SHOWN, HIDE)[0] == 0
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        (tmp_path / "temp").rename(temporary)
    page.complaints.clear()  # the browser logs what it does not find
