"""PFV Ad Report in the real host: what stands on a page is what was counted, patched and sent."""

from __future__ import annotations

import json
import shutil
from typing import Any

import nodes as host_nodes
import numpy as np
import pytest
import torch
from torch import Tensor

from headless.host.find import PACK_ROOT
from pfv_demo.sizes import IMAGE_SIZE
from pfv_mepa.nodes.ad.report_nodes import CHANGED, MARKED, NOT_SAMPLED, PFVAdReport, _asides
from pfv_mepa.nodes.ad.report_page import HEIGHT, WIDTH, Page, Section, draw_page
from pfv_mepa.nodes.ad.report_words import columns, notes_on, verdict
from pfv_mepa.nodes.host.model_facts import model_facts
from pfv_mepa.nodes.host.prompt_graph import upstream
from pfv_mepa.nodes.host.prompt_values import LEFT_OUT, told_upstream
from pfv_mepa.tests.host.host_queue import Prompt, queue_for
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, painted, reference, right_half

OLD_WORKFLOW = PACK_ROOT / "tests" / "host" / "old_workflows" / "0.2.0" / "api" / "demo_full.json"  # its ids stay
COUNTED = {
    "product_pixels": 600,
    "translucent_pixels": 40,
    "pixels_left_out": 0,
    "pixels_checked": 416,
    "pixels_equal": 416,
    "max_difference": 0.0,
    "mask_iou": None,
    "pixels_not_8_bit": 0,
}


def report_of(*ads: dict[str, Any]) -> str:
    return json.dumps({"exact": True, "ads": list(ads)})


class Kept:
    """Keeps a page and its report for the test."""

    RETURN_TYPES = ()
    FUNCTION = "keep"
    OUTPUT_NODE = True
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"page": ("IMAGE",), "report": ("STRING", {"forceInput": True})}}
    )
    last: tuple[Tensor, dict[str, Any]] | None = None

    def keep(self, page: Tensor, report: str) -> dict[str, Any]:
        Kept.last = page, json.loads(report)
        return {"ui": {}}


@pytest.fixture(scope="module")
def run_demo(host_base_directory):
    """Function: prompt -> page and report of the demo's `full` workflow with an Ad Report at its end, changed by `change`."""
    shutil.copytree(PACK_ROOT / "workflows" / "demo_inputs", host_base_directory / "input", dirs_exist_ok=True)
    with queue_for(None) as queue:
        host_nodes.NODE_CLASS_MAPPINGS["Kept"] = Kept

        def run(change=lambda prompt: None) -> tuple[Tensor, dict[str, Any]]:
            prompt: Prompt = json.loads(OLD_WORKFLOW.read_text(encoding="utf-8"))
            prompt["31"]["inputs"]["steps"] = 2
            prompt["25"]["inputs"] |= {
                "foreground_depth": ["17", 0],
                "reference_depth": ["18", 0],
                "hidden_mask": ["6", 1],
            }
            prompt["29"]["inputs"] |= {"width": IMAGE_SIZE, "height": IMAGE_SIZE}
            for of_the_extras in map(str, range(19, 25)):  # this process has the host's core nodes alone
                del prompt[of_the_extras]
            given = {"image": ["33", 0], "report": ["33", 2], "model": ["15", 0]}
            prompt["40"] = {"class_type": "PFVAdReport", "inputs": given, "_meta": {"title": "Report"}}
            prompt["41"] = {"class_type": "Kept", "inputs": {"page": ["40", 0], "report": ["40", 1]}}
            change(prompt)
            queue.executor.execute(prompt, "report", {}, ["41"])
            assert queue.events("execution_error") == []
            assert Kept.last is not None
            return Kept.last

        yield run
    Kept.last = None


def test_a_page_of_a_whole_run(run_demo):
    page, report = run_demo()
    assert page.shape == (1, HEIGHT, WIDTH, 3)
    assert report["exact"] is True
    assert report["ads"][0]["pixels_equal"] == report["ads"][0]["pixels_checked"] > 1000
    assert report["notes"] == []
    background, table = report["model"]
    assert background["kind"] == table["kind"] == "image prompt"
    assert background["strength"] == 1.0
    assert background["adapter"]["base"] == "demo"
    assert 0.2 < background["region"][0] < 0.8
    assert 0.2 < background["references"][0]["kept_share"] < 1
    told = {one["id"]: one for one in report["nodes"]}
    # What it depends on: no preview, nothing after it.
    assert set(told) == {str(number) for number in [*range(3, 19), 25, *range(27, 34)]}
    assert told["31"]["values"]["steps"] == 2
    assert told["31"]["values"]["model"] == {"from": "Table reference in its region"}
    assert told["27"] == {
        "id": "27",
        "class": "CLIPTextEncode",
        "title": "Prompt",
        "values": {"text": "a red bottle", "clip": {"from": "PFV Demo Models"}},
        "reaches": [
            {"input": "positive", "of": "31", "title": "Sampler", "through": ["Apply depth"], "perhaps": False}
        ],
    }


def test_what_the_wires_say_against_the_page_is_said(run_demo):
    def other_model(prompt):
        prompt["40"]["inputs"]["model"] = ["14", 0]

    assert run_demo(other_model)[1]["notes"] == [NOT_SAMPLED]

    def its_own_model(prompt):
        prompt["42"] = dict(prompt["15"])
        prompt["40"]["inputs"]["model"] = ["42", 0]

    _, report = run_demo(its_own_model)
    assert report["notes"] == [NOT_SAMPLED, MARKED]
    assert [one["id"] for one in report["nodes"] if one.get("perhaps")] == ["42"]

    def other_picture(prompt):
        prompt["39"] = {"class_type": "ImageInvert", "inputs": {"image": ["33", 0]}}
        prompt["40"]["inputs"]["image"] = ["39", 0]
        del prompt["40"]["inputs"]["model"]

    _, report = run_demo(other_picture)
    assert report["notes"] == [CHANGED]
    assert report["model"] is None


def test_a_run_with_values_by_wire_is_told_as_it_ran(run_demo, monkeypatch):
    primitives = pytest.importorskip("comfy_extras.nodes_primitive")
    logic = pytest.importorskip("comfy_extras.nodes_logic", reason="this host has no switch")
    for one in (primitives.String, primitives.Int, logic.SwitchNode):
        monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, one.GET_SCHEMA().node_id, one)

    def by_wire(prompt):
        prompt["50"] = {"class_type": "PrimitiveString", "inputs": {"value": "a green bottle"}}
        prompt["51"] = {"class_type": "PrimitiveInt", "inputs": {"value": 77}}
        sides = {"switch": True, "on_false": ["14", 0], "on_true": ["15", 0]}
        prompt["52"] = {"class_type": "ComfySwitchNode", "inputs": sides}
        frog = {"text": "a frog", "clip": prompt["27"]["inputs"]["clip"]}
        prompt["53"] = {"class_type": "CLIPTextEncode", "inputs": frog}
        texts = {"switch": False, "on_false": ["27", 0], "on_true": ["53", 0]}
        prompt["54"] = {"class_type": "ComfySwitchNode", "inputs": texts}
        prompt["27"]["inputs"]["text"] = ["50", 0]
        taker = next(one for one in prompt.values() if one["inputs"].get("positive") == ["27", 0])
        taker["inputs"]["positive"] = ["54", 0]
        prompt["31"]["inputs"] |= {"seed": ["51", 0], "model": ["52", 0]}

    report = run_demo(by_wire)[1]
    told = {one["id"]: one for one in report["nodes"]}
    assert report["notes"] == []
    assert told["27"]["values"]["text"] == "a green bottle"
    assert told["27"]["reaches"][0]["input"] == "positive"
    assert told["31"]["values"]["seed"] == 77
    assert not told.keys() & {"50", "51", "52", "53", "54"}


def ab_graph(**changes: dict[str, Any]) -> Prompt:
    """The ad is sampled by A from the plain model; B samples another picture, with the model that the report is given."""
    composite = {"generated": ["decode A", 0], "product": ["photo", 0], "product_mask": ["photo", 1]}
    inputs: dict[str, tuple[str, dict[str, Any]]] = {
        "photo": ("LoadImage", {}),
        "loader": ("CheckpointLoaderSimple", {}),
        "patched": ("MEPAApply", {"model": ["loader", 0]}),
        "A": ("KSampler", {"model": ["loader", 0]}),
        "B": ("KSampler", {"model": ["patched", 0]}),
        "decode A": ("VAEDecode", {"samples": ["A", 0]}),
        "decode B": ("VAEDecode", {"samples": ["B", 0]}),
        "ad": ("StrictIDComposite", composite),
        "report": ("PFVAdReport", {"image": ["ad", 0], "report": ["ad", 2], "model": ["patched", 0]}),
    }
    graph = {one: {"class_type": kind, "inputs": given} for one, (kind, given) in inputs.items()}
    for one, change in changes.items():
        graph.setdefault(one, {"class_type": change.get("class_type"), "inputs": {}})["inputs"] |= change["inputs"]
    return graph


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        ({}, [NOT_SAMPLED]),
        ({"report": {"inputs": {"model": ["loader", 0]}}}, []),
        ({"A": {"inputs": {"model": ["patched", 0]}}}, []),
        # What changes a model on its way, and says nothing on the page; what this pack does to it, the page would say.
        (
            {
                "A": {"inputs": {"model": ["lora", 0]}},
                "lora": {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["patched", 0]}},
            },
            [],
        ),
        (
            {"report": {"inputs": {"model": ["loader", 0]}}, "A": {"inputs": {"model": ["patched", 0]}}},
            [NOT_SAMPLED],
        ),
        # B's picture is what the ad begins with, or what A is shown of it.
        ({"A": {"inputs": {"latent_image": ["B", 0]}}}, []),
        (
            {
                "A": {"inputs": {"positive": ["hint", 0]}},
                "hint": {"class_type": "ControlNetApply", "inputs": {"image": ["decode B", 0]}},
            },
            [NOT_SAMPLED],
        ),
        # Others that take the model, and sample nothing.
        (
            {
                "A": {"inputs": {"sigmas": ["s", 0]}},
                "s": {"class_type": "BasicScheduler", "inputs": {"model": ["patched", 0]}},
            },
            [NOT_SAMPLED],
        ),
        (
            {
                "ad": {"inputs": {"canvas": ["c", 3]}},
                "c": {"class_type": "PFVAdCanvas", "inputs": {"model": ["patched", 0]}},
            },
            [NOT_SAMPLED],
        ),
        ({"s": {"class_type": "ModelSave", "inputs": {"model": ["patched", 0]}}}, [NOT_SAMPLED]),
        ({"report": {"inputs": {"image": ["decode B", 0]}}}, [CHANGED]),
    ],
)
def test_a_model_is_vouched_for_where_it_is_sampled_for_this_ad_alone(run_demo, changes, notes):
    assert _asides(ab_graph(**changes), "report") == notes


def test_a_page_for_each_ad_and_the_same_again():
    ads = reference(60, 80, batch=2, seed=1)
    report = report_of(COUNTED, COUNTED | {"pixels_equal": 400})
    page, text = outputs(PFVAdReport, image=ads, report=report)
    assert page.shape == (2, HEIGHT, WIDTH, 3)
    assert not torch.equal(page[0], page[1])
    assert torch.equal(outputs(PFVAdReport, image=ads, report=report)[0], page)
    assert json.loads(text)["ads"][1]["pixels_equal"] == 400
    result = PFVAdReport.execute(ads, report)
    assert result.ui["pfv_line"] == [
        "Product exact: 416 of 416 pixels are the photo's; Product NOT exact: 400 of 416 pixels are the photo's"
    ]
    assert len(result.ui["images"]) == 2


def test_the_verdict_and_its_notes():
    assert verdict(COUNTED) == verdict(COUNTED | {"scale": 1.0, "resized": False})
    assert verdict(COUNTED) == ("Product exact: 416 of 416 pixels are the photo's", True)
    resized = "Product exact: 416 of 416 pixels are the photo's, resized once by 0.64"
    assert verdict(COUNTED | {"scale": 0.64, "resized": True}) == (resized, True)
    hardly = COUNTED | {"scale": 1602 / 1600, "resized": True}
    assert verdict(hardly)[0] == "Product exact: 416 of 416 pixels are the photo's, resized once by 1.001"
    assert verdict(COUNTED | {"pixels_checked": 0, "pixels_equal": 0})[1] is False
    assert notes_on(COUNTED) == (
        "600 pixels show the product; 144 of them are blended at its rim, 40 are translucent and mixed with the ad.",
    )
    left_out = COUNTED | {"pixels_left_out": 100}
    assert notes_on(left_out) == (
        "500 pixels show the product; 44 of them are blended at its rim, 40 are translucent and mixed with the ad.",
        "100 further pixels of its mask are left to the generated image.",
    )
    worse = COUNTED | {"mask_iou": 0.5, "pixels_not_8_bit": 7}
    assert notes_on(worse)[1:] == (
        "7 checked pixels are no 8-bit photo's: a saved file rounds them.",
        "The product as the model drew it and as it was asked for overlap by 50%.",
    )


def test_what_a_model_carries(tiny_model, tiny_clip_vision, plus_adapter_file):
    prompt = image_prompt(tiny_clip_vision, plus_adapter_file, mask=painted())
    model = apply(tiny_model, prompt, region=right_half(64, 128), strength=0.7, text_share=0.25, end_percent=0.5)
    (one,) = model_facts(model)
    assert (one["strength"], one["text_share"], one["region"], one["end_percent"]) == (0.7, 0.25, [0.5], 0.5)
    assert one["adapter"] == {"file": plus_adapter_file.name, "kind": "resampler", "base": prompt.adapter.config.base}
    assert one["tokens"] == prompt.positive.shape[1]
    assert model_facts(tiny_model) == []
    (section, *_), _ = columns(model_facts(model), [], {})
    assert section.lines[0] == "1. image prompt, 50% of the frame, strength 0.7"
    assert section.lines[1] == "the text keeps 25% there; from 0% to 50% of the sampling"


def test_what_is_known_of_a_reference_and_no_more():
    def line(**known):
        reference = {"source": None, "kept_share": None, "weight": 1.0, "against": False} | known
        adapter = {"file": "a.safetensors", "kind": "resampler", "base": "sdxl"}
        one = {"kind": "image prompt", "region": None, "tokens": 16, "adapter": adapter, "references": [reference]}
        return columns([one], [], {})[0][0].lines[-1]

    assert line() == "reference: nothing more is known of it"
    painted = "reference: hidden as it was painted, or transparent in its file; 60% of its patches were seen"
    assert line(source="painted", kept_share=0.6) == painted
    assert line(source="stands_out", weight=0.5) == "reference: hidden what stands out; weight 0.5"
    assert line(against=True) == "reference: to move away from"


def graph(**inputs: Any) -> Prompt:
    return {
        "1": {"class_type": "Loader", "inputs": inputs, "_meta": {"title": "Load it"}},
        "2": {"class_type": "Between", "inputs": {"given": ["1", 0], "gone": ["77", 0]}},
        "3": {"class_type": "PFVAdReport", "inputs": {"image": ["2", 0]}},
        "4": {"class_type": "After", "inputs": {"page": ["3", 0]}},
    }


def test_only_what_comes_before_is_told_and_a_link_by_its_givers_title():
    assert upstream(graph(), "3") == ["1", "2"]
    _, between = told_upstream(graph(), "3")
    assert between == {
        "id": "2",
        "class": "Between",
        "title": "Between",
        "values": {"given": {"from": "Load it"}, "gone": {"from": "node 77"}},
    }


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ckpt_name", "sdxl/base.safetensors", "base.safetensors"),
        ("ckpt_name", "C:\\My models\\base.safetensors", "base.safetensors"),
        ("image", "clipspace/clipspace-painted-7.png [input]", "clipspace-painted-7.png [input]"),
        ("folder", "/home/somebody/pictures", "pictures"),
        ("folder", "/home/somebody/pictures/", "pictures/"),
        ("address", "https://me:hidden@example.org/x", LEFT_OUT),
        ("api_key", "abc", LEFT_OUT),
        ("auth_token", "abc", LEFT_OUT),
        ("num_tokens", 16, 16),
        ("text", "a red/blue bottle, v1.5", "a red/blue bottle, v1.5"),
        ("text", "/imagine a bottle", "/imagine a bottle"),
        ("denoise", 0.75, 0.75),
    ],
)
def test_no_path_and_no_secret_is_told(name, value, told):
    assert told_upstream(graph(**{name: value}), "3")[0]["values"] == {name: told}


def page(lines: tuple[str, ...] = (), good: bool = True, title: str = "Ad report") -> Page:
    picture = np.full((50, 200, 3), 128, np.uint8)
    return Page(title, picture, "A verdict", good, ("A note.",), ((Section("Left", lines),), ()))


def test_a_page_shows_the_picture_and_its_verdict_in_its_colour():
    good, bad = draw_page(page()), draw_page(page(good=False))
    assert good.shape == (HEIGHT, WIDTH, 3)
    changed = (good != bad).any(2)
    assert (good[changed][:, 1] >= bad[changed][:, 1]).all()
    assert (good == 128).all(2).sum() >= 1120 * 280 - 4 * 1400  # 4:1, as wide as the page
    assert (good[-30:] == 255).all()


def test_lines_that_have_no_room_are_counted_on_the_page():
    few, many, more = (draw_page(page(tuple(f"line {n}" for n in range(count)))) for count in (5, 200, 201))
    assert (many[-55:] == 255).all()
    assert not np.array_equal(few, many)
    assert not np.array_equal(many, more)  # the number


def test_a_word_wider_than_the_column_is_broken():
    drawn = draw_page(page(("w" * 500,)))
    assert (drawn[:, WIDTH // 2 : WIDTH // 2 + 10][1000:] == 255).all()


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (
            "exact",
            "report is no report of Strict-ID Composite, expected JSON with exact, and with ads that have mask_iou, .* 'exact'",
        ),
        ('{"ads": []}', "report is no report of Strict-ID Composite"),
        ('{"exact": true, "ads": [{"ours": 1}]}', "report is no report of Strict-ID Composite"),
        ('{"exact": true, "ads": [3]}', "report is no report of Strict-ID Composite"),
        ("[1]", "report is no report of Strict-ID Composite"),
        (report_of(COUNTED, COUNTED), "report is of 2 ads, image holds 1"),
    ],
)
def test_another_report_is_refused(report, message):
    with pytest.raises(ValueError, match=message):
        outputs(PFVAdReport, image=reference(60, 80), report=report)
