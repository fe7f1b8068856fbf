"""PFV Reference: the three nodes in one to the bit, and who says what is hidden."""

from __future__ import annotations

import json

import nodes as host_nodes
import pytest
import torch

from pfv_mepa.nodes.host.prompt_facts import PromptFacts, ReferenceFacts
from pfv_mepa.nodes.mepa.apply_nodes import MEPAAdapterLoader, PFVTokenCompress
from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from pfv_mepa.nodes.reference.file_nodes import PFVLoadReference, PFVSaveReference
from pfv_mepa.nodes.reference.reference_nodes import PFVReference
from pfv_mepa.pfv_core.found import reference as reference_module
from pfv_mepa.pfv_core.found.product import Found
from pfv_mepa.pfv_core.found.reference import HiddenBy
from pfv_mepa.tests.host.host_queue import full_prompt, queue_for
from pfv_mepa.tests.host.sampling import outputs, painted, reference
from pfv_mepa.tests.support.tiny_stack import models

PFVSaveReference.GET_SCHEMA()  # makes the folders known

SAM3_OFF = "found holds 3 masks for 2 references: switch individual_masks of SAM3 Detect off"


@pytest.fixture(scope="module")
def adapter(plus_adapter_file):
    return outputs(MEPAAdapterLoader, adapter_name=plus_adapter_file.name)[0]


@pytest.fixture
def node(tiny_clip_vision, adapter):
    """Function: inputs that differ from the usual -> the node's output."""

    def run(image=None, **inputs):
        usual = {"hide": "automatic", "fit": "pad", "threshold": 0.0, "mode": "drop"}
        image = reference() if image is None else image
        with torch.inference_mode():
            return PFVReference.execute(tiny_clip_vision, adapter, image, **{**usual, **inputs})

    return run


@pytest.fixture
def stands_out(monkeypatch):
    """Function: what find_product shall answer for each picture that it is asked for: an opacity, or an error."""
    asked = []

    def give(answer, mirrored=None):
        def find(image, to_hide):
            assert to_hide
            asked.append(image)
            if isinstance(answer, Exception):
                raise answer
            nothing = torch.zeros_like(answer).bool()
            return Found(answer, 0.93, 1, (), nothing if mirrored is None else mirrored, nothing, 0, nothing)

        monkeypatch.setattr(reference_module, "find_product", find)
        return asked

    return give


def box(height=240, width=320):
    mask = torch.zeros(height, width)
    mask[100:150, 30:90] = 0.8
    return mask


def scene():
    """A red box on a plain wall above a plain table, with nothing random about it."""
    image = torch.full((1, 240, 320, 3), 0.8)
    image[:, 160:] = torch.tensor([0.45, 0.4, 0.35])
    image[:, 90:200, 120:200] = torch.tensor([0.8, 0.1, 0.1])
    return image


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("mode", ["drop", "zero"])
@pytest.mark.parametrize(("fit", "threshold"), [("pad", 0.0), ("crop", 0.4), ("stretch", 0.0)])
def test_it_is_the_three_nodes_to_the_bit(tiny_clip_vision, adapter, node, batch, mode, fit, threshold):
    image, mask = reference(batch=batch, seed=4), painted()
    prompt, hidden_mask, _ = node(image, fit=fit, threshold=threshold, mode=mode, mask=mask).args
    shared = {"clip_vision": tiny_clip_vision, "reference": image}
    patch_mask, expected_mask = outputs(PFVMaskRebinarize, **shared, fit=fit, threshold=threshold, mask=mask)
    tokens, _ = outputs(PFVImageEncode, **shared, patch_mask=patch_mask, mode=mode)
    (expected,) = outputs(PFVTokenCompress, image_tokens=tokens, adapter=adapter, method="adapter", num_tokens=0)
    assert torch.equal(prompt.positive, expected.positive)
    assert torch.equal(prompt.negative, expected.negative)
    assert torch.equal(hidden_mask, expected_mask.expand(batch, -1, -1))
    assert len(prompt) == batch
    assert prompt.adapter is adapter


def test_its_settings_count(node):
    usual = node(mask=painted()).args[0].positive
    for change in ({"fit": "crop"}, {"mode": "zero"}, {"threshold": 0.9}, {"hide": "nothing"}):
        assert not torch.equal(node(**{"mask": painted(), **change}).args[0].positive, usual), change


def test_painted_wins_and_says_so(node, stands_out):
    asked = stands_out(box())
    result = node(mask=painted(), found=box()[None])
    kept = result.args[0].facts.references[0].kept_share
    assert result.ui["pfv_line"] == [f"hidden: painted, kept {kept:.0%}"]
    assert torch.equal(result.args[1], node(mask=painted()).args[1])
    assert bool((result.args[1][painted() > 0.5] == 1).all())
    assert not asked


@pytest.mark.parametrize(
    "mask", [None, torch.zeros(1, 64, 64), torch.zeros(1, 240, 320), torch.full((1, 240, 320), 1 / 255)]
)
def test_where_nothing_is_painted_what_was_found_is_hidden(node, stands_out, mask):
    """Above 0.1: a model's mask is soft, and 0 nowhere; its glass is the product's too."""
    asked = stands_out(box())
    found = 0.2 * box()[None].clamp_min(1e-9)
    found[:, 200:, 200:] = 0.1
    result = node(mask=mask, found=found)
    assert result.ui["pfv_line"][0].startswith("hidden: found by the model that is connected, kept ")
    assert torch.equal(result.args[1], node(mask=(box() > 0.5).float()[None]).args[1])
    assert not asked


def test_where_nobody_says_it_what_stands_out_is_hidden(node, stands_out):
    asked = stands_out(box())
    image = reference(seed=8)
    result = node(image)
    assert result.ui["pfv_line"][0].startswith("hidden: what stands out, sure to 0.93, kept ")
    assert torch.equal(result.args[1], node(image, mask=(box() > 0.5).float()[None]).args[1])
    assert len(asked) == 1
    assert torch.equal(asked[0], image[0].movedim(-1, 0))


def test_the_soft_edge_of_what_stands_out_is_hidden_with_it(node, stands_out):
    opacity = box() / 0.8
    opacity[99, 30:90] = 0.3
    opacity[98, 30:90] = 0.05
    stands_out(opacity)
    hidden_mask = node(threshold=1.0).args[1][0]
    assert torch.equal(hidden_mask, (opacity > 0.1).float())
    assert bool(hidden_mask[99, 30:90].all())


def test_its_mirror_image_in_the_ground_is_hidden_with_it(node, stands_out):
    mirrored = torch.zeros(240, 320).bool()
    mirrored[150:180, 30:90] = True
    stands_out(box(), mirrored)
    hidden_mask = node(threshold=1.0).args[1][0]
    assert torch.equal(hidden_mask > 0, (box() > 0) | mirrored)


def test_a_product_in_a_plain_scene_is_found(node):
    """The finder itself, not a stand-in."""
    result = node(scene(), threshold=1.0)
    product = torch.zeros(240, 320)
    product[90:200, 120:200] = 1
    found = result.args[1][0]
    assert (found * product).sum() / (found + product).clamp(max=1).sum() > 0.95
    fact = result.args[0].facts.references[0]
    assert (fact.source, fact.kept_share) == (HiddenBy.STANDS_OUT, 1.0)
    assert 0.5 < json.loads(result.args[2])["references"][0]["sure"] <= 1


def test_plain_ground_has_nothing_that_stands_out(node):
    result = node(torch.full((1, 240, 320, 3), 0.6))
    assert result.ui["pfv_line"] == ["hidden: nothing, kept 100%, because nothing stands out"]


def test_noise_is_refused(node):
    with pytest.raises(ValueError, match=r"reference 0: .*If nothing is to be hidden, set hide to nothing"):
        node()


@pytest.mark.parametrize("value", [float("nan"), 7.0])
def test_values_out_of_range_are_refused_before_anything_is_looked_for(node, stands_out, value):
    asked = stands_out(box())
    image = reference()
    image[0, 3, 3, 0] = value
    with pytest.raises(ValueError, match=r"reference 0 spans .*expected finite values from 0 to 1"):
        node(image)
    assert not asked


def test_a_picture_in_which_nothing_stands_out_is_fine_and_said(node, stands_out):
    stands_out(reference_module.NothingFoundError("nothing stands out"))
    result = node()
    assert result.ui["pfv_line"] == ["hidden: nothing, kept 100%, because nothing stands out"]
    assert result.args[0].facts.references == (ReferenceFacts(HiddenBy.NOTHING, 1.0),)
    assert not result.args[1].any()


def test_a_picture_of_which_it_is_not_sure_is_refused_with_what_to_do(node, stands_out):
    stands_out(reference_module.UnsureError("sure to 0.41 alone: paint it"))
    message = "reference 0: sure to 0.41 alone: paint it. If nothing is to be hidden, set hide to nothing"
    with pytest.raises(ValueError, match=message):
        node()


def test_nothing_hides_nothing_whatever_is_painted_and_says_so(node):
    result = node(hide="nothing", mask=painted(), found=box()[None])
    assert result.ui["pfv_line"] == ["hidden: nothing, kept 100%, as asked; what is painted is not used"]
    assert node(hide="nothing").ui["pfv_line"] == ["hidden: nothing, kept 100%, as asked"]
    assert not result.args[1].any()


def test_each_picture_of_a_batch_has_its_own(node, stands_out):
    """The first is painted, the second is not."""
    stands_out(box())
    image, mask = reference(batch=2, seed=5), torch.cat([painted(), torch.zeros_like(painted())])
    result = node(image, mask=mask)
    assert [fact.source for fact in result.args[0].facts.references] == [HiddenBy.PAINTED, HiddenBy.STANDS_OUT]
    for index, alone in enumerate((node(image[:1], mask=mask[:1]), node(image[1:]))):
        assert torch.allclose(result.args[0].positive[index], alone.args[0].positive[0], atol=1e-5)
        assert torch.equal(result.args[1][index], alone.args[1][0])
    assert " painted, " in result.ui["pfv_line"][0]
    assert "; what stands out, sure to 0.93, " in result.ui["pfv_line"][0]


def test_a_large_batch_is_told_in_one_line_and_its_first_pictures_are_shown(node):
    mask = torch.cat([painted()] * 17 + [painted().flip(1)])
    result = node(reference(batch=18), mask=mask, fit="stretch")
    shares = [fact.kept_share for fact in result.args[0].facts.references]
    assert result.ui["pfv_line"] == [
        f"hidden in 18 references: 18 painted; kept {min(shares):.0%} to {max(shares):.0%} (the first 16 are shown)"
    ]
    assert len(result.ui["images"]) == 16


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.zeros(1, 240, 320), "found 0 selects nothing: nothing was found under that name"),
        (torch.zeros(0, 240, 320), "found 0 selects nothing: nothing was found under that name"),
        (torch.full((1, 240, 320), 0.4), r"found 0 spans 0\.4\.\.0\.4, and what is above 0\.1 counts as selected"),
        (torch.zeros(1, 64, 64), "found 0 selects nothing: nothing was found under that name"),
        (torch.ones(1, 240, 320), "found 0 selects the whole image"),
        (box()[None].repeat(3, 1, 1), SAM3_OFF),
        (torch.cat([box()[None], torch.zeros(1, 240, 320)]), "found 1 selects nothing"),
        (box(200)[None], "found is 200x320, its image is 240x320"),
    ],
)
def test_what_a_model_did_not_find_is_refused(node, found, message):
    with pytest.raises(ValueError, match=message):
        node(reference(batch=2), found=found)


def test_what_was_found_of_a_painted_picture_is_nobodys_business(node):
    masks = torch.stack([painted()[0], torch.zeros(240, 320)])
    found = torch.stack([torch.ones(240, 320), box()])  # of the painted one everything was found
    sources = json.loads(node(reference(batch=2), mask=masks, found=found).args[2])["references"]
    assert [one["source"] for one in sources] == ["painted", "found"]


@pytest.mark.parametrize("mask", [torch.ones(1, 240, 320), torch.zeros(1, 8, 8) + 0.05, torch.ones(1, 30, 40)])
def test_where_nothing_is_hidden_no_mask_is_judged(node, mask):
    result = node(mask=mask, hide="nothing")
    assert result.ui["pfv_line"] == ["hidden: nothing, kept 100%, as asked; what is painted is not used"]


def test_unknown_choices_and_another_encoder_are_refused(node, adapter):
    with pytest.raises(ValueError, match=r"hide is 'all', expected one of \['automatic', 'nothing'\]"):
        node(hide="all")
    wrong = models.tiny_clip_vision(width=128)
    with pytest.raises(ValueError, match="hidden state has 128 channels"):
        PFVReference.execute(wrong, adapter, reference(), "nothing", "pad", 0.0, "drop")


def test_the_report_has_what_went_in(node, plus_adapter_file, tiny_clip_vision):
    result = node(mask=painted())
    prompt, _, report = result.args
    kept = prompt.facts.references[0].kept_share
    assert 0.5 < kept < 1
    assert json.loads(report) == {
        "references": [{"source": "painted", "sure": None, "kept_share": kept}],
        "encoder": "a ViT of 4 layers, hidden 64, projection 32",
        "adapter_kind": "resampler",
        "adapter_file": plus_adapter_file.name,
    }
    assert len(result.ui["images"]) == 1


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("mode", ["drop", "zero"])
def test_the_single_nodes_carry_what_they_know_and_no_more(tiny_clip_vision, adapter, node, fit, mode):
    shared = {"clip_vision": tiny_clip_vision, "reference": reference()}
    patch_mask, _ = outputs(PFVMaskRebinarize, **shared, fit=fit, threshold=0.0, mask=painted())
    tokens, _ = outputs(PFVImageEncode, **shared, patch_mask=patch_mask, mode=mode)
    saved, file = outputs(PFVSaveReference, image_tokens=tokens, name="facts")
    loaded, _ = outputs(PFVLoadReference, file=file, mode="as_saved")
    expected = PromptFacts(
        "a ViT of 4 layers, hidden 64, projection 32", (ReferenceFacts(None, patch_mask.kept_share.item()),)
    )
    for each in (tokens, saved, loaded):
        (prompt,) = outputs(PFVTokenCompress, image_tokens=each, adapter=adapter, method="adapter", num_tokens=0)
        assert prompt.facts == expected


def ask(**inputs):
    return PFVReference.check_lazy_status(reference=reference(), **{"hide": "automatic", **inputs})


def test_a_model_that_finds_is_run_only_where_nothing_is_painted():
    """None is what the host hands over for an input that is connected and not there yet."""
    assert ask(found=None) == ask(found=None, mask=torch.zeros(1, 64, 64)) == ["found"]
    assert ask(found=None, mask=painted()) == []
    assert ask(found=None, hide="nothing") == []
    assert ask() == ask(found=box()[None]) == []
    assert ask(found=None, mask=torch.cat([painted(), torch.zeros(1, 240, 320)])) == ["found"]


class MaskOf:
    """MASK of the usual reference: 1 in a box, or 0 all over. Counts its runs by name."""

    RETURN_TYPES = ("MASK",)
    FUNCTION = "make"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"name": ("STRING", {}), "empty": ("BOOLEAN", {})}})
    runs: list[str] = []  # noqa: RUF012, of the class on purpose

    def make(self, name: str, empty: bool):
        MaskOf.runs.append(name)
        return (torch.zeros(1, 64, 64) if empty else painted(),)


@pytest.mark.parametrize(("empty", "runs"), [(False, ["painted"]), (True, ["found", "painted"])])
def test_in_the_hosts_queue_nothing_upstream_of_found_runs_where_something_is_painted(
    monkeypatch, tiny_model_of, plus_adapter_file, empty, runs
):
    monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, "MaskOf", MaskOf)
    monkeypatch.setattr(MaskOf, "runs", [])
    prompt = full_prompt(plus_adapter_file.name)
    for name in ("mask", "encode", "compress"):
        del prompt[name]
    links = {name: [name, 0] for name in ("found", "adapter")}
    settings = {"hide": "automatic", "fit": "pad", "threshold": 0.0, "mode": "drop"}
    look = {"clip_vision": ["models", 1], "reference": ["picture", 0], "mask": ["paint", 0], **links, **settings}
    prompt["look"] = {"class_type": "PFVReference", "inputs": look}
    for name, nothing in (("paint", empty), ("found", False)):
        inputs = {"name": {"paint": "painted"}.get(name, name), "empty": nothing}
        prompt[name] = {"class_type": "MaskOf", "inputs": inputs}
    prompt["apply"]["inputs"]["image_prompt"] = ["look", 0]
    with queue_for(tiny_model_of("vega")) as queue:
        assert queue.run(prompt) is not None, queue.events("execution_error")
    assert sorted(MaskOf.runs) == runs


@pytest.mark.parametrize("highest", [0.05, 0.1])
def test_faint_paint_is_refused_and_never_passed_over(node, highest):
    faint = torch.zeros(1, 240, 320)
    faint[:, 100:150, 30:90] = highest
    with pytest.raises(ValueError, match=rf"mask 0 spans 0\.\.{highest:g}, and what is above 0\.1 counts as painted"):
        node(scene(), mask=faint)


def test_a_cut_out_s_transparency_hides_all_but_its_product_and_that_is_said(node):
    around = (box() == 0).float()
    line = node(scene(), mask=around).ui["pfv_line"][0]
    assert line.startswith("hidden: painted, kept ")
    assert line.endswith("; corners hidden and the middle seen, as of a cut-out: is that what is wanted?")
    assert "cut-out" not in node(scene(), mask=box()).ui["pfv_line"][0]


def test_what_stands_out_at_the_border_may_be_ground(node, monkeypatch):
    nothing = box() > 1
    found = Found(box(), 0.99, 1, ("left",), nothing, nothing, 0, nothing)
    monkeypatch.setattr(reference_module, "find_product", lambda image, to_hide: found)
    with pytest.raises(ValueError, match="reference 0: what stands out touches the left of the picture"):
        node(scene())


def test_all_that_may_be_the_other_products_is_hidden(node):
    """Its mark beside it, and a screen in the wall's colour, of which nobody has to say whether it is a hole."""
    image = scene()
    image[:, 110:150, 130:190] = 0.8
    image[:, 30:40, 30:40] = torch.tensor([0.1, 0.1, 0.8])
    mask = node(image).args[1][0]
    assert bool((mask[90:200, 120:200] == 1).all())
    assert bool((mask[30:40, 30:40] == 1).all())
    assert mask.mean() < 0.3
