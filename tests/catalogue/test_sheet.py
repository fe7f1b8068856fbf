"""The contact sheet as a file: what it says of each ad, what it refuses, and that nothing in it can run. Without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tracemalloc
import zlib
from html.parser import HTMLParser

import pytest

from headless.catalogue.kept.ledger import LedgerError
from headless.catalogue.sheet.page import RECORDS_IN_A_BLOCK, write_sheet
from headless.catalogue.sheet.records import Note, notes_of

PRODUCT = {"passed": True, "by": "file", "inside": 8064, "exact": 8064, "max_difference": 0, "translucent": 0}
SIZE = {"passed": True, "expected": [1080, 1350], "found": [1080, 1350]}
HOSTILE = "</script><img src=x onerror=alert(1)><!--\"'&"


def job_of(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def file_of(name="ads/cup.png", checks=None, **more):
    return {"file": name, "size": [1080, 1350], "bytes": 7, "sha256": "f" * 64, "checks": checks or {}, **more}


def line_of(number=0, **more):
    return {"job": job_of(number), "identity": 2, "name": "cup", "line": 2, "files": [file_of()], **more}


def write(out, *lines, failures=()):
    for name, content in (("manifest.jsonl", lines), ("failures.jsonl", failures)):
        (out / name).write_text("".join(f"{json.dumps(line)}\n" for line in content))
    return write_sheet(out)


def records(page, kind="ads"):
    """What a browser unpacks."""
    blocks = re.findall(rf'<script type="text/plain" class="{kind}">([A-Za-z0-9+/=]+)</script>', page.read_text())
    return [record for block in blocks for record in json.loads(zlib.decompress(base64.b64decode(block)))]


def totals(page):
    found = json.loads(re.search(r'id="totals">(.*?)</script>', page.read_text()).group(1))
    return {key: found[key] for key in ("ads", "jobs", "superseded", "failures")}


def test_an_empty_folder_gets_a_page_that_says_so(tmp_path):
    page = write_sheet(tmp_path)
    assert page == tmp_path / "index.html"
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]
    assert records(page) == records(page, "failures") == []
    assert totals(page) == {"ads": 0, "jobs": 0, "superseded": 0, "failures": 0}


def test_a_folder_that_is_not_there_is_no_empty_run(tmp_path):
    with pytest.raises(LedgerError, match=r"there is no folder .*nowhere: expected the output folder of a run"):
        write_sheet(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_a_line_is_carried_whole(tmp_path):
    line = line_of(
        name="blue cup",
        line=7,
        format=[1080, 1350],
        seed=18446744073709551615,
        seeds={"Sampler.seed": 18446744073709551615},
        files=[file_of("ads/blue cup #1%.png", {"size": SIZE, "product": PRODUCT}, title="Save the ad 4:5")],
        inputs={
            "Prompt.text": "a cup",
            "Sampler.denoise": 0.75,
            "Product photo.image": {"file": "cup.tif", "sha256": "a" * 64, "converted": ["16 bit", "Adobe RGB"]},
        },
        texts={"14": ["exact"]},
        server="http://10.0.0.7:8188",
        prompt_id="p1",
        attempt=2,
        seconds={"run": 14.2, "total": 15.0},
        finished="2026-11-28T10:11:12Z",
        versions={"pillow": "12.0"},
        workflow="workflows/ab.json",
        something_new=[1, 2],
    )
    (found,) = records(write(tmp_path, line))
    assert found == {
        "name": "blue cup",
        "row": "7",
        "job": job_of(0),
        "seed": "18446744073709551615",
        "earlier": 0,
        "superseded": False,
        "inputs": [
            {"name": "Prompt.text", "value": "a cup", "is_text": True, "notes": []},
            {"name": "Sampler.denoise", "value": "0.75", "is_text": False, "notes": []},
            {
                "name": "Product photo.image",
                "value": "cup.tif",
                "is_text": False,
                "notes": ["converted: 16 bit; Adobe RGB", f"sha256: {'a' * 64}"],
            },
        ],
        "texts": [["node 14", "exact"]],
        "run": [
            ["server", "http://10.0.0.7:8188"],
            ["identity", "2"],
            ["seeds", "Sampler.seed 18446744073709551615"],
            ["prompt id", "p1"],
            ["attempt", "2"],
            ["seconds", "run 14.2, total 15.0"],
            ["finished", "2026-11-28T10:11:12Z"],
            ["versions", "pillow 12.0"],
            ["something new", "1; 2"],
        ],
        "workflow": ["workflows/ab.json", "workflows/ab.json"],
        "several": False,
        "path": "ads/blue cup #1%.png",
        "href": "ads/blue%20cup%20%231%25.png",
        "format": "1080x1350",
        "size": "1080x1350",
        "title": "Save the ad 4:5",
        "notes": [
            ["passed", "product: all 8,064 pixels are the photo's"],
            ["passed", "size: 1080x1350, as asked"],
        ],
        "failed": False,
        "unchecked": False,
        "file": [["bytes", "7"], ["sha256", "f" * 64]],
    }


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ({}, [("unchecked", "product: not checked"), ("not asked", "size: none was asked for")]),
        (
            {"product": PRODUCT | {"passed": False, "exact": 8052, "max_difference": 3}},
            [
                ("failed", "product: 12 of 8,064 pixels differ, by up to 3"),
                ("not asked", "size: none was asked for"),
            ],
        ),
        (
            {
                "product": PRODUCT | {"translucent": 1204},
                "size": {"passed": False, "expected": [1080, 1350], "found": [1080, 1344]},
            },
            [
                ("passed", "product: all 8,064 pixels are the photo's; 1,204 are translucent and not compared"),
                ("failed", "size: asked 1080x1350, got 1080x1344"),
            ],
        ),
        (
            {"product": PRODUCT | {"passed": False, "inside": 0, "exact": 0}, "size": SIZE},
            [("failed", "product: no pixel of it could be compared"), ("passed", "size: 1080x1350, as asked")],
        ),
        (
            {"product": {"passed": False, "by": "file", "why": "one is smaller"}, "size": SIZE},
            [("failed", "product: one is smaller"), ("passed", "size: 1080x1350, as asked")],
        ),
        (
            {
                "product": {
                    "passed": False,
                    "by": "node",
                    "ads": [
                        {"pixels_checked": 5, "pixels_equal": 5, "max_difference": 0, "translucent_pixels": 2},
                        {
                            "pixels_checked": 6,
                            "pixels_equal": 2,
                            "max_difference": 9,
                            "translucent_pixels": 1,
                            "pixels_left_out": 7,
                        },
                    ],
                },
                "size": SIZE,
            },
            [
                (
                    "failed",
                    "product: 4 of 11 pixels differ, by up to 9, by the node's own count; 3 are translucent and not "
                    "compared; 7 are left to the generated image",
                ),
                ("passed", "size: 1080x1350, as asked"),
            ],
        ),
        (
            {
                "product": {"passed": True, "by": "node", "ads": None},
                "size": SIZE,
                "colour": {"passed": None, "why": "x"},
            },
            [
                ("passed", "product: passed, without a count, by the node's own count"),
                ("passed", "size: 1080x1350, as asked"),
                ("unchecked", "colour: unchecked: x"),
            ],
        ),
    ],
)
def test_each_check_is_said_in_words(checks, expected):
    assert notes_of(checks) == [Note(*note) for note in expected]


def test_of_an_earlier_version_each_picture_gets_its_own_checks(tmp_path):
    wrong = {"passed": False, "expected": [1080, 1350], "found": [1080, 1344]}
    old = {
        "job": job_of(0),
        "name": "cup",
        "line": 2,
        "format": None,
        "seed": None,
        "files": [
            {"file": f"ads/{name}.png", "size": [64, 96], "bytes": 1, "sha256": "0"} for name in ("a", "a_2", "a_3")
        ],
        "checks": {"product": PRODUCT, "size": SIZE, "size_2": wrong},
        "workflow_sha256": "c" * 64,
    }
    page = write(tmp_path, old)
    first, second, third = records(page)
    assert first["notes"][0] == ["passed", "product: all 8,064 pixels are the photo's"]
    assert (first["failed"], first["unchecked"]) == (False, False)
    assert second["notes"] == [
        ["unchecked", "product: not checked"],
        ["failed", "size: asked 1080x1350, got 1080x1344"],
    ]
    assert (second["failed"], second["unchecked"]) == (True, True)
    assert third["notes"] == [["unchecked", "product: not checked"], ["not asked", "size: none was asked for"]]
    assert [one["format"] for one in (first, second, third)] == ["1080x1350", "1080x1350", "64x96"]
    assert ["workflow sha256", "c" * 64] in first["run"]
    assert all(one["several"] for one in (first, second, third))
    assert totals(page) == {"ads": 3, "jobs": 1, "superseded": 0, "failures": 0}


def test_of_a_job_that_was_made_again_the_last_line_counts(tmp_path):
    again = [line_of(1, files=[file_of(f"ads/{name}.png")]) for name in ("a", "a_r2", "a_r3")]
    page = write(tmp_path, again[0], line_of(2, line=1), again[1], again[2])
    assert [(one["path"], one["superseded"], one["earlier"]) for one in records(page)] == [
        ("ads/cup.png", False, 0),
        ("ads/a.png", True, 0),
        ("ads/a_r2.png", True, 1),
        ("ads/a_r3.png", False, 2),
    ]
    assert totals(page) == {"ads": 2, "jobs": 2, "superseded": 2, "failures": 0}


def test_the_ads_stand_in_the_tables_order_whatever_finished_first(tmp_path):
    made = [(3, [64, 64], 1), (2, [96, 64], 2), (2, [64, 96], 10), (2, [64, 96], 9), (2, None, None)]
    lines = [line_of(number, line=row, format=size, seed=seed) for number, (row, size, seed) in enumerate(made)]
    found = records(write(tmp_path, *lines))
    assert [one["job"] for one in found] == [job_of(number) for number in (4, 3, 2, 1, 0)]


def test_seeds_of_the_workflows_own(tmp_path):
    one, two, three = (
        line_of(number, line=number, seed=None, seeds=seeds)
        for number, seeds in enumerate([{"A.seed": 5, "B.seed": 5}, {"A.seed": 5, "B.seed": 6}, {}])
    )
    assert [found["seed"] for found in records(write(tmp_path, one, two, three))] == ["5", "A.seed 5, B.seed 6", ""]


def test_what_was_not_made_is_listed_with_its_reasons(tmp_path):
    failures = [
        {"line": 3, "reason": "formula"},
        {
            "line": 4,
            "name": "cup",
            "job": "a" * 64,
            "reason": "broke",
            "problems": ["http://a: broke", "http://b: broke"],
        },
    ]
    page = write(tmp_path, failures=failures)
    assert records(page, "failures") == [
        {"row": "3", "name": "", "job": "", "reason": "formula", "problems": []},
        {
            "row": "4",
            "name": "cup",
            "job": "a" * 64,
            "reason": "broke",
            "problems": ["http://a: broke", "http://b: broke"],
        },
    ]
    assert totals(page)["failures"] == 2


def test_passwords_that_earlier_versions_wrote_down_are_not_shown(tmp_path):
    line = line_of(server="http://me:s3cret@host:8188")
    failure = {"line": 2, "reason": "http://me:s3cret@host is gone", "problems": ["https://me:s3cret@host: 500"]}
    page = write(tmp_path, line, failures=[failure])
    assert ["server", "http://host:8188"] in records(page)[0]["run"]
    assert records(page, "failures")[0]["problems"] == ["https://host: 500"]
    assert "s3cret" not in json.dumps([records(page), records(page, "failures")])


class Elements(HTMLParser):
    """Names and attributes of all elements, in their order."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_no_text_from_elsewhere_becomes_html(tmp_path):
    """With hostile texts everywhere the page has the elements that it has with plain ones."""
    pages = []
    for text in ("plain", HOSTILE):
        out = tmp_path / str(len(pages)) / ("plain" if text == "plain" else "<img src=x onerror=alert(1)>")
        out.mkdir(parents=True)
        line = line_of(
            name=text,
            inputs={text: text},
            texts={text: [text]},
            server=text,
            files=[file_of(title=text, checks={"product": {"passed": False, "why": text}, text: {"passed": True}})],
            workflow=text,
        )
        page = write(out, line, failures=[{"line": text, "name": text, "reason": text, "problems": [text]}])
        assert records(page)[0]["name"] == text
        pages.append(Elements(page.read_text()).found)
    plain, hostile = pages
    assert [tag for tag, _ in hostile] == [tag for tag, _ in plain]
    assert "img" not in [tag for tag, _ in hostile]
    assert not [attributes for _, attributes in hostile if any(name.startswith("on") for name in attributes)]


def test_the_policy_allows_this_script_and_this_style_and_pictures_alone(tmp_path):
    text = write_sheet(tmp_path).read_text()
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text).group(1).split("; ")
    rules = {name: sources for name, _, sources in (rule.partition(" ") for rule in policy)}
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(name) == f"'sha256-{digest}'"
    assert rules == {
        "default-src": "'none'",
        "img-src": "'self' file:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


def test_half_a_pair_of_surrogates_and_other_scripts_arrive(tmp_path):
    text = "كوب أزرق 青い \U0001f600 \ud83d end \udc80"
    (found,) = records(write(tmp_path, line_of(name=text)))
    assert found["name"] == "كوب أزرق 青い \U0001f600 \ufffd end \ufffd"


def test_a_prompt_of_20000_characters_is_whole(tmp_path):
    prompt = "cup, " * 4000
    (found,) = records(write(tmp_path, line_of(inputs={"Prompt.text": prompt})))
    assert found["inputs"][0]["value"] == prompt


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "javascript:alert(1)", "ads/sub/a.png", "other/a.png"])
def test_a_picture_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(LedgerError, match=rf"manifest\.jsonl, job {job_of(0)}: "):
        write(tmp_path, line_of(files=[file_of(name)]))
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    "path", ["javascript:alert(1)", "//elsewhere/a.json", "../a.json", "ads/a.json", "workflows/a/b"]
)
def test_a_workflow_elsewhere_is_text_and_no_link(tmp_path, path):
    (found,) = records(write(tmp_path, line_of(workflow=path)))
    assert found["workflow"] == [path, ""]


@pytest.mark.parametrize("torn", [b'{"job": "22', b"{", b"\0\0", b'{"job": "2222", "files": []}', b"[1]\n"])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    write(tmp_path, line_of(), failures=[{"line": 2, "reason": "a"}])
    for name in ("manifest.jsonl", "failures.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(torn)
    page = write_sheet(tmp_path)
    assert totals(page) == {"ads": 1, "jobs": 1, "superseded": 0, "failures": 1}


@pytest.mark.parametrize("name", ["manifest.jsonl", "failures.jsonl"])
def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path, name):
    write(tmp_path, line_of(1), line_of(2), failures=[{"line": 2, "reason": "a"}, {"line": 3, "reason": "b"}])
    file = tmp_path / name
    file.write_bytes(b"x" + file.read_bytes())
    with pytest.raises(LedgerError, match=rf"{name}, line 1 is no line"):
        write_sheet(tmp_path)


def test_a_page_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    before = write(tmp_path, line_of()).read_bytes()
    with pytest.raises(LedgerError):
        write(tmp_path, line_of(), line_of(2, files=[file_of("../a.png")]))
    assert (tmp_path / "index.html").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["failures.jsonl", "index.html", "manifest.jsonl"]
    assert totals(write(tmp_path, line_of(), line_of(2)))["ads"] == 2


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_in_its_place_is_refused(tmp_path, dangling):
    out, target = tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    if not dangling:
        target.write_text("mine")
    (out / "index.html").symlink_to(target)
    with pytest.raises(LedgerError, match=r"index\.html is a link"):
        write_sheet(out)
    assert target.exists() is not dangling
    assert dangling or target.read_text() == "mine"


def test_a_link_in_the_place_of_the_unfinished_page_is_not_followed(tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    mine.write_text("mine")
    (out / f".index.html.{os.getpid()}").symlink_to(mine)
    assert write_sheet(out).is_file()
    assert mine.read_text() == "mine"


def test_somebody_elses_page_is_left_alone(tmp_path):
    (tmp_path / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(LedgerError, match=r"index\.html was not written by this command: move it away"):
        write_sheet(tmp_path)
    assert (tmp_path / "index.html").read_text() == "<h1>mine</h1>"


def test_a_folder_in_its_place_is_refused(tmp_path):
    (tmp_path / "index.html").mkdir()
    with pytest.raises(LedgerError, match=r"index\.html is no file: move it away"):
        write_sheet(tmp_path)


def test_memory_does_not_grow_with_the_ledger(tmp_path):
    """Ten times as many lines cost ten times their order, not ten times their content, 1,000 bytes a line here."""
    peaks = []
    for number_of_lines in (2 * RECORDS_IN_A_BLOCK, 20 * RECORDS_IN_A_BLOCK):
        with (tmp_path / "manifest.jsonl").open("w") as manifest:
            for number in range(number_of_lines):
                print(json.dumps(line_of(number, inputs={"Prompt.text": f"{number} " * 150})), file=manifest)
        tracemalloc.start()
        write_sheet(tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 18 * RECORDS_IN_A_BLOCK * 300
