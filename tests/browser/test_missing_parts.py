"""What the page says of parts that a host lacks and that the pack can do without."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from pfv_mepa.tests.browser.conftest import OF_NEWER_HOSTS, WORKFLOWS
from pfv_mepa.tests.browser.test_open import essence, ui_form
from pfv_mepa.tools.workflow_parts.server import newer_nodes

SAYS = "PFV+MEPA can do without what is missing"
GREY = ("Product by BiRefNet", "By name, SAM 3", "Depth Anything 3")
MUTE_GROUPS = """(titles) => {
    for (const group of app.graph.groups) {
        if (!titles.some((title) => group.title.startsWith(title))) continue
        group.recomputeInsideNodes()
        for (const node of group.nodes) node.mode = 2
    }
}"""


def without_host_models() -> dict:
    """What is left of `ad` when the grey groups are muted."""
    prompt = essence(WORKFLOWS / "api" / f"{OF_NEWER_HOSTS}.json")
    classes = (*newer_nodes(), "PFVAdCanvasPlace")
    gone = {key for key, (class_type, _) in prompt.items() if class_type in classes}
    gone |= {key for key, (_, inputs) in prompt.items() if inputs.get("text") == "the bottle:20"}
    gone |= {key for key, (_, inputs) in prompt.items() if "sam3" in str(inputs.get("ckpt_name"))}
    kept = {key: node for key, node in prompt.items() if key not in gone}
    return {
        key: (class_type, {k: v for k, v in inputs.items() if not (isinstance(v, list) and v[0] in gone)})
        for key, (class_type, inputs) in kept.items()
    }


def with_absent_files(tmp_path, prefix: str) -> Path:
    """`ad`, whose models for finding and whose checkpoint have names that no folder has."""
    text = json.dumps(ui_form(OF_NEWER_HOSTS))
    for name in ("birefnet", "sam3.1_multiplex_fp16", "depth_anything_3_mono_large", "sd_xl_base_1.0"):
        text = text.replace(f'"{name}.safetensors"', f'"{prefix}_{name}.safetensors"')
    file = tmp_path / "ad.json"
    file.write_text(text, encoding="utf-8")
    return file


def test_nodes_of_newer_versions_are_named_with_the_link_that_is_done_without(page, keep):
    if all(page.has(class_type) for class_type in newer_nodes()):
        pytest.skip("this host has them all")
    page.drop(WORKFLOWS / f"{OF_NEWER_HOSTS}.json")
    said = page.toast(SAYS)
    keep("missing_nodes")
    assert (
        "Product (found): lacks LoadBackgroundRemovalModel of ComfyUI 0.21, RemoveBackground of ComfyUI 0.21." in said
    )
    assert "Look (found): lacks SAM3_Detect of ComfyUI 0.20. Without: what stands out is hidden." in said
    depths = "DA3Inference of ComfyUI 0.25, DA3Render of ComfyUI 0.25, LoadDA3Model of ComfyUI 0.25"
    assert f"Ground (depth), Product depth (depth): lacks {depths}." in said
    assert "mute the group it stands in" in said
    page.complaints.clear()  # the page logs them too


def test_files_that_are_not_there_are_named_with_their_folder_and_where_to_get_them(page, tmp_path, keep):
    if not all(page.has(class_type) for class_type in newer_nodes()):
        pytest.skip("this host has not the nodes that load them")
    page.drop(with_absent_files(tmp_path, "absent"))
    said = page.toast(SAYS)
    keep("missing_files")
    source = "huggingface.co/Comfy-Org"
    for line in (
        f"Product (found): lacks absent_birefnet.safetensors in models/background_removal (from {source}/BiRefNet).",
        f"Look (found): lacks absent_sam3.1_multiplex_fp16.safetensors in models/checkpoints (from {source}/sam3.1).",
        "Ground (depth), Product depth (depth): lacks absent_depth_anything_3_mono_large.safetensors in "
        f"models/geometry_estimation (from {source}/Depth-Anything-3).",
    ):
        assert line in said
    assert "delete the link in brackets" in said
    assert "sd_xl" not in said  # which nothing takes the place of: the page itself says that
    page.complaints.clear()


def with_what_others_leave(tmp_path) -> Path:
    """`ad` with models that say not where they can be had, or are no list, and with a second Product depth.

    Before that one stand two nodes that are not there, in a circle.
    """
    form = json.loads(with_absent_files(tmp_path, "unnamed").read_text(encoding="utf-8"))
    for node in form["nodes"]:
        for model in node["properties"].get("models", []):
            model["url"] = ""
        if node["type"] == "DA3Inference":
            node["properties"]["models"] = {"name": "none"}
    own = copy.deepcopy(next(node for node in form["nodes"] if node["type"] == "PFVProductDepth"))
    for slot in own["inputs"]:
        slot["link"] = 902 if slot["name"] == "depth" else None
    own |= {"id": 903, "title": "Other depth", "outputs": []}
    blank = {"pos": [0, 0], "size": [200, 60], "flags": {}, "order": 0, "mode": 0, "properties": {}}
    circle = [
        blank
        | {
            "id": node_id,
            "type": class_type,
            "inputs": [{"name": "image", "type": "IMAGE", "link": link}],
            "outputs": [{"name": "image", "type": "IMAGE", "links": further}],
        }
        for node_id, class_type, link, further in (
            (901, "OthersFirst", 901, [900]),
            (902, "OthersSecond", 900, [901, 902]),
        )
    ]
    form["nodes"] = [*circle, own, *form["nodes"]]
    form["links"] += [[900, 901, 0, 902, 0, "IMAGE"], [901, 902, 0, 901, 0, "IMAGE"], [902, 902, 0, 903, 1, "IMAGE"]]
    file = tmp_path / "others.json"
    file.write_text(json.dumps(form), encoding="utf-8")
    return file


def test_what_others_leave_in_a_workflow_does_not_silence_it(page, tmp_path):
    page.drop(with_what_others_leave(tmp_path))
    said = page.toast(SAYS)
    assert "Other depth (depth): lacks OthersFirst, OthersSecond. Without: the product gets a plain depth." in said
    if page.has("RemoveBackground"):
        assert "lacks unnamed_birefnet.safetensors in models/background_removal. Without" in said
        assert "lacks unnamed_depth_anything_3_mono_large.safetensors in models/geometry_estimation. Without" in said
    page.complaints.clear()


def test_nothing_is_said_where_nothing_is_missing(page):
    page.drop(WORKFLOWS / "demo_ad.json")
    if page.has("DA3Render"):
        page.clear()
        page.drop(WORKFLOWS / f"{OF_NEWER_HOSTS}.json")
    page.page.wait_for_timeout(1500)
    assert page.page.get_by_text(SAYS).count() == 0


def test_with_the_grey_groups_muted_the_page_sends_what_the_pack_can_do_by_itself(page):
    """On hosts without their nodes too, where what is missing must not be sent at all."""
    page.drop(WORKFLOWS / f"{OF_NEWER_HOSTS}.json")
    page.ask(MUTE_GROUPS, list(GREY))
    assert page.prompt() == without_host_models()
    page.complaints.clear()


def test_nothing_is_said_of_what_is_muted(page, tmp_path):
    page.drop(with_absent_files(tmp_path, "muted"))
    page.ask(MUTE_GROUPS, list(GREY))
    text = page.ask("() => JSON.stringify(app.graph.serialize())").replace(
        "muted_", "renamed_"
    )  # the same is said but once
    page.clear()
    saved = tmp_path / "muted.json"
    saved.write_text(text, encoding="utf-8")
    page.drop(saved)
    page.page.wait_for_timeout(1500)
    assert page.page.get_by_text(SAYS).count() == 0
    page.complaints.clear()
