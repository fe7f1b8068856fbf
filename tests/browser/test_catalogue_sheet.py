"""The contact sheet in Chromium, opened from the disk and from a web server: filters, keys, the large view, hostile texts."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import re
import threading
import time

import pytest
from PIL import Image

from headless.catalogue.sheet.page import write_sheet
from headless.host.find_chromium import find_chromium

HOSTILE = "</script><img src=x onerror=\"document.title='run'\"><svg onload=\"document.title='run'\">'&\u202e"
FORMATS = ((96, 120), (120, 64))
NUM_PRODUCTS = 110  # two pages of ads
SEEDS = (18446744073709551615, 7)
GONE = "gone.png"
FAILED, UNCHECKED = 10, 20  # every so manieth ad
PATIENCE = 60  # seconds: a busy machine is slow


def name_of(number):
    return {3: HOSTILE, 4: "كوب أزرق"}.get(number, f"cup {number:03}")


def checks_of(number, size):
    product = {"passed": True, "by": "file", "inside": 8064, "exact": 8064, "max_difference": 0, "translucent": 0}
    if number % FAILED == 1:
        product |= {"passed": False, "exact": 8052, "max_difference": 3}
    checks = {"size": {"passed": True, "expected": list(size), "found": list(size)}, "product": product}
    if number % UNCHECKED == 2:
        del checks["product"]
    return checks


def line_of(number, product, size, file):
    return {
        "job": hashlib.sha256(str(number).encode()).hexdigest(),
        "identity": 2,
        "name": name_of(product),
        "line": product + 2,
        "format": list(size),
        "seed": SEEDS[number == 1],
        "files": [
            {
                "file": f"ads/{file}",
                "size": list(size),
                "bytes": 7,
                "sha256": "f" * 64,
                "checks": checks_of(number, size),
            }
        ],
        "inputs": {
            "Prompt.text": f"{name_of(product)} on an oak table, prompt of product {product}, soft light from the left",
            "Photo.image": {"file": "cup.tif", "sha256": "a" * 64, "converted": ["Adobe RGB to sRGB"]},
        },
        "texts": {"9": [HOSTILE]},
        "server": f"http://10.0.0.{product % 2}:8188",
        "seconds": {"run": 14.2},
        "workflow": "workflows/ab.json",
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """220 ads of 110 products in two formats; the first was made twice; one picture is gone; three rows made none."""
    folder = tmp_path_factory.mktemp("sheet") / "spring & <b>sale"
    (folder / "ads").mkdir(parents=True)
    (folder / "workflows").mkdir()
    (folder / "workflows" / "ab.json").write_text("{}")
    lines = []
    for number in range(NUM_PRODUCTS * 2):
        product, size = number // 2, FORMATS[number % 2]
        file = GONE if number == 5 else f"a #{number}%.png"
        lines.append(line_of(number, product, size, file))
        if file != GONE:
            Image.new("RGB", size, (number, 90, 120)).save(folder / "ads" / file)
    lines.insert(0, lines[0] | {"files": [lines[0]["files"][0] | {"file": "ads/a #2%.png"}]})
    failures = [
        {"line": 300, "reason": f"{HOSTILE} is no path"},
        {"line": 301, "reason": "formula"},
        {"line": 302, "name": "cup 050", "job": "b" * 64, "reason": "out of memory", "problems": ["first", "second"]},
    ]
    for name, content in (("manifest.jsonl", lines), ("failures.jsonl", failures)):
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in content))
    write_sheet(folder)
    return folder


@pytest.fixture(scope="module")
def browser(playwright):
    chromium = find_chromium()
    assert chromium is not None
    launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    yield launched
    launched.close()


@pytest.fixture
def open_sheet(browser, out):
    """Function: what stands after # in the address -> the page, read to its end; nothing in it may complain."""
    complaints, opened = [], []

    def open_at(fragment="", size=(1280, 860), url=None):
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        opened.append(page)
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda line: line.type == "error" and complaints.append(f"{line.text} {line.location['url']}")
        )
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.goto(f"{url or (out / 'index.html').as_uri()}#{fragment}")
        until(page, "document.getElementById('summary').textContent.includes('written')")
        return page

    yield open_at
    for page in opened:
        page.close()
    assert [text for text in complaints if "ERR_FILE_NOT_FOUND" not in text and "favicon.ico" not in text] == []


def until(page, condition):
    """Wait; Playwright's own way compiles the condition in the page, which the page's policy forbids."""
    deadline = time.monotonic() + PATIENCE
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {condition}"
        page.wait_for_timeout(20)


def paths(page):
    """Of all ads that the filters leave, on whichever page."""
    return page.evaluate("found.map((ad) => ad.path)")


def filters(page, group):
    """Label -> the count beside it."""
    buttons = page.locator(f"#{group} button").all()
    return {one.locator(".of").inner_text(): int(one.locator(".count").inner_text()) for one in buttons}


def focused(page):
    return page.evaluate("Number(document.activeElement.dataset.number)")


def test_the_counts_are_the_ledgers(open_sheet):
    page = open_sheet()
    assert re.sub(r"written .*", "", page.inner_text("#summary")) == "220 ads · 1 given up · 2 bad rows · "
    assert page.inner_text("h1") == "spring & <b>sale"
    assert filters(page, "show") == {
        "All": 220,
        "Passed": 187,
        "Failed a check": 22,
        "Product not checked": 11,
        "Superseded, made again": 1,
        "Given up and bad rows": 3,
    }
    assert filters(page, "format") == {"120x64": 110, "96x120": 110}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Failed a check", lambda number: number % FAILED == 1),
        ("Product not checked", lambda number: number % UNCHECKED == 2),
        ("Passed", lambda number: number % FAILED != 1 and number % UNCHECKED != 2),
    ],
)
def test_a_filter_leaves_what_its_count_says(open_sheet, label, expected):
    page = open_sheet()
    number = filters(page, "show")[label]
    page.locator("#show button", has_text=label).click()
    assert paths(page) == [f"ads/{GONE if one == 5 else f'a #{one}%.png'}" for one in range(220) if expected(one)]
    assert len(paths(page)) == number
    assert page.locator("#grid .tile").count() == min(number, 200)
    assert page.inner_text("#found").startswith(f"{number} of 220 ads")


def test_filters_hold_together_and_each_can_be_taken_away(open_sheet):
    page = open_sheet()
    page.locator("#show button", has_text="Failed a check").click()
    assert filters(page, "format") == {"120x64": 22}
    page.locator("#format button", has_text="120x64").click()
    page.fill("#product-words", "CUP 05")
    assert filters(page, "product") == {"cup 050": 1, "cup 055": 1}
    page.locator("#product button", has_text="cup 055").click()
    assert paths(page) == ["ads/a #111%.png"]
    assert page.locator("#set button").all_inner_texts() == ["Failed a check", "120x64", "cup 055"]
    page.locator("#set button", has_text="Failed").click()
    page.locator("#set button", has_text="120x64").click()
    assert paths(page) == ["ads/a #110%.png", "ads/a #111%.png"]


def test_words_are_found_in_names_prompts_and_reasons_each_of_them(open_sheet):
    page = open_sheet()
    for words, number in (
        ("PROMPT product 77,", 2),
        ("oak 10.0.0.1", 110),
        ("differ 7.png", 0),
        ("7%.png", 0),
        ("a #17%.png", 1),
        ("nowhere", 0),
    ):
        page.fill("#words", words)
        until(page, "state.q === " + json.dumps(words))
        assert len(paths(page)) == number, words
    page.fill("#words", "out of memory")
    page.wait_for_selector("#not-made li")
    assert page.locator("#not-made li").all_inner_texts() == ["line 302\ncup 050\ngiven up\nout of memory\n2 attempts"]


def test_what_was_not_made_stands_below_and_alone(open_sheet):
    page = open_sheet()
    assert page.locator("#not-made li").count() == 3
    page.locator("#show button", has_text="Given up").click()
    assert page.locator("#grid .tile").count() == 0
    assert page.inner_text("#not-made h2") == "Given up and bad rows of the last run: 3"
    assert page.locator("#not-made .row").all_inner_texts() == ["line 300", "line 301", "line 302"]
    assert page.locator("#not-made .reason").all_inner_texts() == [f"{HOSTILE} is no path", "formula", "out of memory"]


def test_what_is_seen_can_be_shared_as_an_address(open_sheet):
    page = open_sheet()
    page.locator("#format button", has_text="96x120").click()
    page.fill("#words", "cup 01")
    until(page, "state.q === 'cup 01'")
    page.locator("#sizes button", has_text="L").click()
    page.locator(".tile").nth(2).click()
    page.wait_for_selector("dialog[open]")
    shared = page.url.partition("#")[2]
    other = open_sheet(shared)
    other.wait_for_selector("dialog[open]")
    assert other.inner_text("#large-name") == "cup 011"
    assert (paths(other), other.input_value("#words")) == (paths(page), "cup 01")
    assert other.get_attribute("#grid", "data-size") == "l"
    other.keyboard.press("Escape")
    until(other, "!location.hash.includes('ad=')")


def test_a_tile_says_what_failed_and_why(open_sheet):
    page = open_sheet("q=cup+050")
    passed, failed = page.locator(".tile").all()
    assert passed.inner_text().split("\n") == ["cup 050", "✓", "96x120 · seed\u00a018446744073709551615"]
    assert failed.inner_text().split("\n") == [
        "cup 050",
        "✕",
        "120x64 · seed\u00a018446744073709551615",
        "product: 12 of 8,064 pixels differ, by up to 3",
    ]


def test_keys_walk_the_grid_over_pages_and_open_an_ad(open_sheet):
    page = open_sheet()
    page.keyboard.press("ArrowRight")
    assert focused(page) == 0
    columns = page.evaluate("columns()")
    assert columns == 4
    for key, expected in (
        ("ArrowRight", 1),
        ("ArrowDown", 5),
        ("ArrowUp", 1),
        ("ArrowLeft", 0),
        ("ArrowLeft", 0),
        ("End", 219),
    ):
        page.keyboard.press(key)
        assert focused(page) == expected, key
    assert page.inner_text("#pages span") == "Page 2 of 2"
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("ArrowRight")
    until(page, "opened === 1")
    page.keyboard.press("Escape")
    until(page, "!document.getElementById('large').open")
    until(page, "document.activeElement.dataset.number === '1'")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "words"


def test_the_large_view_says_how_an_ad_was_made(open_sheet):
    page = open_sheet("q=cup+050")
    page.locator(".tile").nth(1).click()
    page.wait_for_selector("dialog[open]")
    text = page.inner_text(".facts")
    for expected in (
        "120x64 · seed\u00a018446744073709551615",
        "product: 12 of 8,064 pixels differ, by up to 3",
        "size: 120x64, as asked",
        "cup 050 on an oak table, prompt of product 50, soft light from the left",
        "converted: Adobe RGB to sRGB",
        "http://10.0.0.0:8188",
        "run 14.2",
        "line 52",
    ):
        assert expected in text
    assert page.get_attribute(".facts a[href^=workflows]", "href") == "workflows/ab.json"
    until(page, "document.querySelector('.stage img').naturalWidth === 120")
    assert page.get_attribute(".stage a", "href") == "ads/a%20%23101%25.png"


def test_an_earlier_version_is_a_step_away(open_sheet):
    page = open_sheet()
    page.locator(".tile").first.click()
    page.get_by_role("button", name="Show 1 earlier version").click()
    until(page, "!document.getElementById('large').open")
    assert paths(page) == ["ads/a #2%.png"]
    assert page.inner_text("#found") == "1 superseded"
    assert page.inner_text(".tile .of") == "96x120 · seed\u00a018446744073709551615 · superseded"


def test_a_picture_that_is_gone_says_so(open_sheet):
    page = open_sheet("q=gone.png")
    page.wait_for_selector(".gone")
    assert page.inner_text(".gone").split("\n") == ["gone", "not in ads/, or no whole picture"]


def test_texts_from_elsewhere_stay_texts(open_sheet):
    page = open_sheet("show=all&product=" + "%3C%2Fscript%3E")
    page.locator("#set button").first.click()
    page.fill("#words", "onerror")
    until(page, "state.q === 'onerror'")
    assert page.locator(".tile .name").first.inner_text() == HOSTILE
    page.locator(".tile").first.click()
    page.wait_for_selector("dialog[open]")
    page.locator(".facts details summary").click()
    assert page.inner_text("#large-name") == HOSTILE
    assert page.title() == "spring & <b>sale: contact sheet"
    assert page.locator("svg, img[src='x'], [onerror], [onload]").count() == 0


@pytest.mark.parametrize("size", [(1280, 860), (390, 844)])
def test_nothing_sticks_out_at_either_width(open_sheet, size):
    page = open_sheet(size=size)
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert page.locator("#filters").get_attribute("open") == ("" if size[0] > 760 else None)
    page.locator(".tile").first.click()
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("document.getElementById('large').scrollWidth") <= size[0]
    assert page.get_by_role("button", name="Close").is_visible()


def test_only_pictures_in_sight_are_loaded(open_sheet, browser):
    page = open_sheet(size=(1280, 400))
    until(page, "document.images[0].complete && document.images[0].naturalWidth > 0")
    page.wait_for_timeout(1500)  # all 200 of these small ones are there by then, where none waits
    loaded = page.evaluate("[...document.images].filter((image) => image.naturalWidth > 0).length")
    assert 4 <= loaded < 100


@pytest.mark.parametrize("lost", ["ads", "failures", "the end"])
def test_a_page_that_has_lost_something_says_so(browser, out, tmp_path, lost):
    text = (out / "index.html").read_text()
    if lost == "the end":
        text = text[: text.index('<script type="text/plain" class="failures"')]
    else:
        text = re.sub(f'<script type="text/plain" class="{lost}">.*?</script>', "", text)
    (tmp_path / "index.html").write_text(text)
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("#trouble:not([hidden])")
    assert page.inner_text("#trouble").startswith("This page was cut off on its way")
    page.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Says nothing of what it serves."""

    def log_message(self, *arguments):
        """Nothing."""


def test_any_web_server_will_do(open_sheet, out, browser):
    """Everything that is asked for lies in the folder, and is asked for by its name."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=out))
    threading.Thread(target=server.serve_forever).start()
    try:
        page = open_sheet("q=cup+05", url=f"http://127.0.0.1:{server.server_port}/index.html")
        until(page, "[...document.images].slice(0, 8).every((image) => image.naturalWidth > 0)")
        assert page.locator(".tile img").count() == 24
        page.close()
    finally:
        server.shutdown()
        server.server_close()


def test_an_empty_run_says_that_there_is_nothing(browser, tmp_path):
    page = browser.new_page()
    page.goto(write_sheet(tmp_path).as_uri())
    page.wait_for_selector(".nothing")
    assert page.inner_text(".nothing") == "No ad has been made yet."
    page.close()


def test_on_paper_the_columns_are_equal_and_the_controls_are_left_out(open_sheet):
    page = open_sheet("show=all", size=(794, 1100))
    page.emulate_media(media="print")
    widths = page.evaluate("getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ')")
    assert len(widths) == 4
    assert len(set(widths)) == 1
    assert not page.locator("#filters").is_visible()
    assert not page.locator("#words").is_visible()


def test_an_address_of_an_ad_that_is_not_there_says_so(open_sheet):
    page = open_sheet("ad=ads/nowhere.png")
    assert page.inner_text("#trouble") == "ads/nowhere.png is not here: it was superseded, or the filters leave it out."
