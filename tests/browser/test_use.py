"""A person at the page: paints, runs, looks at previews, reads an error, a help page, a text in another language, searches."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Route

from headless.host.find import PACK_ROOT
from pfv_mepa.pfv_demo.sizes import IMAGE_SIZE
from pfv_mepa.tests.browser.comfy_page import HELP, SEARCH_FIELD, SEARCH_RESULT
from pfv_mepa.tests.browser.conftest import REFERENCE, STROKE, WORKFLOWS

CATEGORY = "PFV-MEPA"
HIDE = "Hide what is painted"
ENCODE = "Encode the reference"
APPLY = "Image prompt everywhere"
SAVE = "Save the ad"
IS_CLOSED = "(field) => !document.querySelector(field)?.offsetHeight"
PAINTED = (slice(100, 172), slice(88, 168))
DOCS = PACK_ROOT / "web" / "docs"
HELP_PAGES = sorted(file.stem for file in DOCS.glob("*.md"))
WORDS = {
    "IP-Adapter": "MEPA Apply",
    "product photo": "Strict-ID Composite",
    "regional prompt": "MEPA Apply",
    "background": "Strict-ID Composite",
    "hide product": "PFV Mask Re-binarize",
}


def bar(page, events, title: str) -> list[float]:
    """Where a node's progress bar stood, 0 to 1, at each event of a run."""
    node_id = str(page.ask("(title) => app.graph.nodes.find((node) => node.title === title).id", title))
    states = [event["detail"]["nodes"] for event in events if event["type"] == "progress_state"]
    return [nodes[node_id]["value"] / nodes[node_id]["max"] for nodes in states if node_id in nodes]


@pytest.fixture
def unpainted(page, unpainted_workflow):
    """The page with it."""
    page.drop(unpainted_workflow)
    assert page.faults() == []
    return page


def test_without_paint_a_dialog_says_what_to_do(unpainted, keep):
    assert unpainted.run()[-1]["type"] == "execution_error"
    text = unpainted.problem("mask holds no mask")
    assert "mask holds no mask" in text
    assert "Open it in the mask editor and paint" in text
    keep("error_dialog")


def test_a_person_paints_and_sees_what_is_hidden(unpainted, keep):
    page = unpainted
    page.paint(REFERENCE, STROKE)
    keep("mask_editor")
    page.save_mask(REFERENCE)
    events = page.run()
    assert events[-1]["type"] == "execution_success"
    for title in (ENCODE, APPLY):
        places = bar(page, events, title)
        # Newer hosts send ten places in a second: of a short run the first one, and the end.
        assert any(0 < place < 1 for place in places), f"the bar of {title} stands still: {places}"
        assert places[-1] == 1
    output, preview = page.shown(HIDE)
    (share,) = output["kept_share"]
    assert 0.5 < share < 0.95
    assert page.line(HIDE) == f"kept: {share:.0%}"
    with Image.open(WORKFLOWS / "demo_inputs" / "demo_reference.png") as reference:
        before = np.asarray(reference.convert("RGB"), dtype=float)
    tinted = np.abs(np.asarray(preview, dtype=float) - before).max(2) > 30
    assert preview.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert tinted[PAINTED].mean() > 0.9
    assert tinted[:32].mean() < 0.4  # nothing is painted up there: only the grid's lines
    assert page.shown(SAVE)[1].size == (IMAGE_SIZE, IMAGE_SIZE)
    keep("painted_and_run", REFERENCE, HIDE)
    keep("result", APPLY, "Sampler", SAVE)


def test_a_region_is_shown_on_the_attentions_grid(page, keep):
    page.drop(WORKFLOWS / "demo_full.json")
    page.few_steps()
    page.set_widget("Hide in the background reference", "threshold", 0.1)  # not another test's, see test_nodes_2
    assert page.run()[-1]["type"] == "execution_success"
    _, preview = page.shown("Background reference in its region")
    assert preview.size == (256, 256)  # the demo's U-Net attends on one grid, of 16x16 cells of 16 pixels
    cells = np.asarray(preview, dtype=int)[8::16, 8::16]
    blue = (cells[..., 2] - cells[..., 0]) / 178  # 0.85 - 0.15 of 255 where the region is 1
    with Image.open(WORKFLOWS / "demo_inputs" / "demo_region_background.png") as picture:
        painted = np.asarray(picture.getchannel("A")) < 128
    shares = painted.reshape(16, 16, 16, 16).mean((1, 3))
    assert 0.2 < shares.mean() < 0.8
    assert np.abs(blue - shares).max() < 0.05
    keep("regions", "Background reference in its region", "Table reference in its region")


def test_a_value_out_of_range_is_refused_with_its_limits(page, keep):
    page.drop(WORKFLOWS / "demo_minimal.json")
    page.set_widget(HIDE, "threshold", 7)
    assert page.run()[-1]["type"] == "rejected"
    text = page.problem()
    assert "PFVMaskRebinarize" in text or HIDE in text
    assert "threshold" in text
    assert re.search(r"\b7(\.0)?\b.* max(imum)? (of )?1\b", text)
    keep("rejected")
    page.complaints.clear()  # the page logs the server's refusal


def test_a_warning_of_a_run_stands_on_the_page(page, keep):
    page.drop(WORKFLOWS / "demo_minimal.json")
    page.few_steps()
    page.set_widget(APPLY, "start_percent", 0.999)
    assert page.run()[-1]["type"] == "execution_success"
    assert re.search(r"MEPA Apply: none of the \d+ steps of this sampling begins", page.toast("PFV+MEPA"))
    keep("warning")


def test_a_warning_stands_there_once_in_a_run(page):
    """Samplings of one workflow say the same."""
    again = "a warning that comes again"
    page.drop(WORKFLOWS / "demo_minimal.json")
    page.few_steps()
    for _ in ("one run", "another"):
        page.dismiss()
        assert page.run()[-1]["type"] == "execution_success"
        for _ in ("one sampling", "another"):
            page.ask("(message) => comfyAPI.api.api.dispatchCustomEvent('pfv_told', { message })", again)
        page.toast(again)
        assert page.toasts(again) == 1


# --- texts ----------------------------------------------------------------------------------------------------------


def test_the_help_page_of_a_node_opens_with_its_picture(page, keep):
    page.drop(WORKFLOWS / "demo_minimal.json")
    page.click_title(HIDE)
    page.page.locator(HELP).first.click()
    help_page = page.page.locator(".node-help-content")
    help_page.locator("h1").first.wait_for()
    assert help_page.locator("h1").first.inner_text() == "PFV Mask Re-binarize"
    picture = help_page.locator("img").first
    assert picture.evaluate("(img) => img.decode().then(() => img.naturalWidth)") > 0
    assert help_page.locator("table").count()
    keep("help")


@pytest.mark.parametrize("node_id", HELP_PAGES)
def test_every_help_page_says_what_is_next(node_id):
    assert "\n## Next\n" in (DOCS / f"{node_id}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("node_id", HELP_PAGES)
def test_help_pages_show_a_picture_that_the_node_made(node_id):
    assert f"]({node_id}.jpg)" in (DOCS / f"{node_id}.md").read_text(encoding="utf-8")
    assert (DOCS / f"{node_id}.jpg").is_file()


def is_found(page, name: str) -> bool:
    """Whether the search lists a node of this name, sooner or later."""
    options = page.page.locator(SEARCH_RESULT, has_text=re.compile(rf"(^|· )\s*{re.escape(name)}\s*({CATEGORY})?$"))
    options.first.wait_for()
    return bool(options.count())


def test_search_finds_the_nodes_under_the_words_people_use(page, keep):
    field = page.search()
    for words, name in WORDS.items():
        field.fill(words)
        assert is_found(page, name)
        if words == "regional prompt":
            keep("search")
    page.page.keyboard.press("Escape")


def test_the_words_are_found_whether_or_not_the_host_sends_search_aliases(open_page):
    """Newer hosts send them with every node, known to the page or not, and again when the nodes are read anew."""

    def with_aliases(route: Route) -> None:
        answer = route.fetch()
        nodes = answer.json()
        route.fulfill(
            response=answer, json={name: node | {"search_aliases": ["alias"]} for name, node in nodes.items()}
        )

    open_page.page.route("**/object_info", with_aliases)
    try:
        open_page.open()
        for read_anew in (False, True):
            if read_anew:
                open_page.ask("() => app.refreshComboInNodes()")
            field = open_page.search()
            for words, name in WORDS.items():
                field.fill(words)
                assert is_found(open_page, name)
            open_page.page.keyboard.press("Escape")
            open_page.page.wait_for_function(IS_CLOSED, arg=SEARCH_FIELD)
    finally:
        open_page.page.unroute("**/object_info")
        open_page.is_usual = False


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_another_language_is_on_the_canvas_and_in_the_search(open_page, language):
    texts = json.loads((PACK_ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))["MEPAApply"]
    open_page.open(Comfy_Locale=language)
    open_page.ask("() => { app.graph.add(LiteGraph.createNode('MEPAApply')) }")
    node = open_page.ask(
        """() => { const [node] = app.graph.nodes
        return [node.title, node.inputs.map((slot) => slot.label ?? slot.localized_name ?? slot.name)] }"""
    )
    assert node[0] == texts["display_name"]
    assert texts["inputs"]["image_prompt"]["name"] in node[1]
    open_page.search().fill("IP-Adapter")
    assert is_found(open_page, texts["display_name"])


def test_the_words_are_those_of_a_language_that_is_chosen_while_the_page_is_open(open_page):
    """The node's own name may stay in the other language until the page is opened anew: newer pages read it too early."""
    texts, words = (
        json.loads((PACK_ROOT / "locales" / "ja" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("nodeDefs", "main")
    )
    names = [texts["MEPAApplyText"]["display_name"], "MEPA Apply Text"]
    open_page.open()
    try:
        open_page.ask("async () => { await app.extensionManager.setting.set('Comfy.Locale', 'ja') }")
        field = open_page.search()

        def search() -> None:
            field.fill("")
            field.fill(words["pfvMepa"]["searchWords"]["MEPAApplyText"].split(", ")[1])

        is_there = """([results, names]) => [...document.querySelectorAll(results)]
            .some((result) => names.some((name) => result.innerText.includes(name)))"""
        open_page.until(search, is_there, [SEARCH_RESULT, names])
    finally:
        open_page.is_usual = False
