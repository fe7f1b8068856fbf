"""A page, what its voters answer, and the count."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from pfv_eval import vote

METHODS = ("with_pfv", "without_pfv", "third")
NAMES = ("a.png", "b.png", "c.png", "d.png")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for number, method in enumerate(METHODS):
        (tmp_path / method).mkdir()
        for index, name in enumerate(NAMES):
            note = PngImagePlugin.PngInfo()
            note.add_text("parameters", method)
            Image.new("RGB", (8, 8), (60 * number, 50 * index, 90)).save(tmp_path / method / name, pnginfo=note)
    return [tmp_path / method for method in METHODS]


def content_of(html: str) -> dict:
    match = re.search(r"const content = (\{.*\});\n", html)
    assert match
    return json.loads(match[1])


def answer(content: dict, key: dict, voter: str, opinion_of: dict[str, int], favourite: str | None) -> dict:
    """What the page's script saves for a voter of fixed taste."""
    method = {image: place[0] for image, place in key["images"].items()}
    result = {"page": content["page"], "key": content["key"], "voter": voter, "opinions": {}, "choices": []}
    for task in content["tasks"]:
        if task["kind"] == "opinion":
            result["opinions"][task["image"]] = opinion_of[method[task["image"]]]
        else:
            sides = [task["left"], task["right"]]
            chosen = next((side for side in sides if method[side] == favourite), None)
            result["choices"].append({"left": task["left"], "right": task["right"], "chosen": chosen})
    return result


@pytest.fixture
def made(folders: list[Path], tmp_path: Path) -> tuple[dict, dict, Path]:
    out = tmp_path / "page.html"
    vote.main(["make", "--images", *map(str, folders), "--out", str(out), "--seed", "3"])
    return content_of(out.read_text("utf-8")), json.loads((tmp_path / "page.key.json").read_text("utf-8")), out


def test_the_page_is_blind_and_complete(made):
    content, key, out = made
    html = out.read_text("utf-8")
    assert not any(word in html for word in (*METHODS, *NAMES, "http:", "https:"))
    opinions = [task["image"] for task in content["tasks"] if task["kind"] == "opinion"]
    assert sorted(opinions) == sorted(key["images"])
    places = [key["images"][image] for image in opinions]
    assert places != sorted(places)
    choices = [task for task in content["tasks"] if task["kind"] == "choice"]
    assert len(choices) == 3 * len(NAMES)
    assert all(key["images"][c["left"]][1] == key["images"][c["right"]][1] for c in choices)
    lefts = [
        key["images"][c["left"]][0]
        for c in choices
        if {key["images"][c[s]][0] for s in ("left", "right")} == {*METHODS[:2]}
    ]
    assert len(content["images"]) == len(METHODS) * len(NAMES)
    assert lefts


def test_sides_and_order_follow_the_seed(folders, tmp_path):
    def tasks(seed: int) -> list:
        vote.make_page(folders, tmp_path / "p.html", "choice", seed)
        return content_of((tmp_path / "p.html").read_text("utf-8"))["tasks"]

    assert tasks(1) == tasks(1)
    assert tasks(1) != tasks(2)


def test_round_trip(made, tmp_path, capsys):
    content, key, _ = made
    taste = {"with_pfv": 5, "without_pfv": 2, "third": 3}
    for voter, shift in (("one", 0), ("two", -1)):
        given = answer(content, key, voter, {m: max(1, v + shift) for m, v in taste.items()}, "with_pfv")
        (tmp_path / f"answers-{voter}.json").write_text(json.dumps(given))
    capsys.readouterr()
    vote.main(
        [
            "count",
            str(tmp_path / "answers-one.json"),
            str(tmp_path / "answers-two.json"),
            "--out",
            str(tmp_path / "c.json"),
        ]
    )
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "c.json").read_text())
    assert result["voters"] == 2
    assert {method: found["value"] for method, found in result["opinions"].items()} == {
        "with_pfv": 4.5,
        "without_pfv": 1.5,
        "third": 2.5,
    }
    assert result["opinions"]["with_pfv"]["low"] >= 4.0
    assert result["choices"]["with_pfv over without_pfv"]["value"] == 1.0
    assert result["choices"]["third over with_pfv"]["value"] == 0.0
    assert result["choices"]["third over without_pfv"]["value"] == 0.5  # neither


def test_a_voter_counts_once_and_half_answers_count(made, tmp_path):
    content, key, _ = made
    first, again = (answer(content, key, "one", dict.fromkeys(METHODS, value), None) for value in (1, 4))
    again["opinions"] = dict(list(again["opinions"].items())[:1])
    again["choices"] = []
    files = [tmp_path / "first.json", tmp_path / "again.json"]
    for file, given in zip(files, (first, again), strict=True):
        file.write_text(json.dumps(given))
    result = vote.count(files)
    assert result["voters"] == 1
    assert [found["value"] for found in result["opinions"].values()] == [4.0]
    assert result["choices"] == {}


def test_answers_that_do_not_belong_are_refused(made, tmp_path):
    content, key, _ = made
    good = answer(content, key, "one", dict.fromkeys(METHODS, 3), None)
    file = tmp_path / "answers.json"

    def message(**changes: object) -> str:
        file.write_text(json.dumps({**good, **changes}))
        with pytest.raises(vote.VoteError) as error:
            vote.count([file])
        return str(error.value)

    image = next(iter(good["opinions"]))
    assert "answers page other" in message(page="other")
    assert "holds 6, which this page cannot give" in message(opinions={image: 6})
    assert "holds 'nobody'" in message(opinions={"nobody": 3})
    assert "which was not shown" in message(choices=[{**good["choices"][0], "chosen": "x"}])
    assert "gone.key.json is missing" in message(key="gone.key.json")
    file.write_text("{")
    with pytest.raises(vote.VoteError, match="cannot be read as JSON"):
        vote.count([file])


def test_folders_that_cannot_be_compared_are_refused(folders, tmp_path):
    with pytest.raises(vote.VoteError, match="give two or more"):
        vote.make_page(folders[:1], tmp_path / "p.html")
    with pytest.raises(vote.VoteError, match="is no folder"):
        vote.make_page([folders[0], tmp_path / "nowhere"], tmp_path / "p.html")
    (folders[1] / "b.png").write_text("no image")
    with pytest.raises(vote.VoteError, match=r"b\.png is no image that can be read"):
        vote.make_page(folders, tmp_path / "p.html")
    (folders[1] / "b.png").unlink()
    with pytest.raises(vote.VoteError, match=r"without_pfv lacks b\.png"):
        vote.make_page(folders, tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()
