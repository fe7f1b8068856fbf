"""What PFV Ad Report makes of the wires: a fact is carried, or said to be unknown; never dropped, never guessed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import nodes as host_nodes
import pytest

from pfv_mepa.nodes.ad.report_nodes import MARKED, NOT_SAMPLED, PERHAPS_SAMPLED, UNTOLD, PFVAdReport, _asides, _choices
from pfv_mepa.nodes.ad.report_words import columns
from pfv_mepa.nodes.host.prompt_graph import HANDED_ON, JOINED, SWITCHES, Prompt, gives, kinds, settled, upstream
from pfv_mepa.nodes.host.prompt_values import LEFT_OUT, told_upstream
from pfv_mepa.tests.host.host_queue import queue_for
from pfv_mepa.tests.host.sampling import outputs, reference
from pfv_mepa.tests.host.test_report import COUNTED, ab_graph, report_of

HAS_LOGIC = importlib.util.find_spec("comfy_extras.nodes_logic") is not None  # hosts since 0.4
LOGIC = pytest.mark.skipif(not HAS_LOGIC, reason="this host has no switch")


def node(returns: tuple[str, ...], names: tuple[str, ...] | None = None, **inputs: Any) -> type:
    """A class of a node that is never run."""
    taken = classmethod(lambda cls: {"required": inputs})
    named = {} if names is None else {"RETURN_NAMES": names}
    return type("Stub", (), {"RETURN_TYPES": returns, "FUNCTION": "run", "INPUT_TYPES": taken, **named})


STUBS = {
    "LazySwitch": node(("*",), which=("BOOLEAN",), one=("*", {"lazy": True}), other=("*", {"lazy": True})),
    "EagerSwitch": node(("*",), which=("INT",), one=("*",), other=("*",)),
    "Reroute": node(("*",), given=("*",)),
    "Coin": node(("BOOLEAN",)),
    "Poet": node(("STRING",)),
    "Clock": node(("INT",)),
    "Shelf": node(("COMBO",)),
    "TwoTexts": node(("CONDITIONING",), clip_l=("STRING", {}), t5xxl=("STRING", {}), mode=(["a", "b"],)),
    "Silent": node(("CONDITIONING",), seed=("INT",)),
    "Loader": node(("MODEL",), name=(["a.safetensors", "b.safetensors"],), kind=(["x", "y"],)),
    "Unclear": node(("CONDITIONING", "CONDITIONING"), positive=("CONDITIONING",), negative=("CONDITIONING",)),
}


@pytest.fixture(scope="module", autouse=True)
def classes():
    """The host's core nodes, its primitives and switches where it has them, the pack's, and the stubs."""
    with queue_for(None):
        for module in ("nodes_primitive", "nodes_string", *(["nodes_logic"] if HAS_LOGIC else [])):
            for one in vars(importlib.import_module(f"comfy_extras.{module}")).values():
                if isinstance(one, type) and hasattr(one, "define_schema") and one.__module__.endswith(module):
                    host_nodes.NODE_CLASS_MAPPINGS[one.GET_SCHEMA().node_id] = one
        host_nodes.NODE_CLASS_MAPPINGS.update(STUBS)
        yield


def graph(**inputs: tuple[str, dict[str, Any]]) -> Prompt:
    """{id: (class, inputs)}; a text's clip and what else is not asked for is left out."""
    return {one: {"class_type": kind, "inputs": given} for one, (kind, given) in inputs.items()}


def ad(**inputs: tuple[str, dict[str, Any]]) -> Prompt:
    """An ad of `positive` and `negative`, sampled from `model`; each is a loader or a text unless it is given."""
    given = {
        "model": ("Loader", {"name": "a.safetensors"}),
        "positive": ("CLIPTextEncode", {"text": "a bottle"}),
        "negative": ("CLIPTextEncode", {"text": "a blue jar"}),
        "sampler": ("KSampler", {"model": ["model", 0], "positive": ["positive", 0], "negative": ["negative", 0]}),
        "composite": ("StrictIDComposite", {"generated": ["decoded", 0]}),
        "decoded": ("VAEDecode", {"samples": ["sampler", 0]}),
        "report": ("PFVAdReport", {"image": ["composite", 0], "report": ["composite", 2], "model": ["model", 0]}),
    }
    return graph(**(given | inputs))


def lines(prompt: Prompt, heading: str) -> tuple[str, ...]:
    """What stands under a heading of the page."""
    known = settled(prompt, "report")
    sections = [one for column in columns(None, told_upstream(known, "report"), known) for one in column]
    return next((one.lines for one in sections if one.heading == heading), ())


def asides(prompt: Prompt) -> list[str]:
    known = settled(prompt, "report")
    return [*_asides(known, "report"), *_choices(known, told_upstream(known, "report"))]


def with_switch(switch: Any, kind: str = "ComfySwitchNode") -> Prompt:
    """Two models and two texts, each behind a switch; `switch` sets both."""
    names = ("on_false", "on_true") if kind in SWITCHES else ("one", "other")
    sides = {"switch" if kind in SWITCHES else "which": switch}
    return ad(
        coin=("Coin", {}),
        plain=("Loader", {"name": "a.safetensors"}),
        lora=("LoraLoaderModelOnly", {"model": ["plain", 0], "lora_name": "lora.safetensors", "strength_model": 1.0}),
        model=(kind, {**sides, names[0]: ["plain", 0], names[1]: ["lora", 0]}),
        bottle=("CLIPTextEncode", {"text": "a bottle"}),
        frog=("CLIPTextEncode", {"text": "a frog"}),
        positive=(kind, {**sides, names[0]: ["bottle", 0], names[1]: ["frog", 0]}),
    )


@LOGIC
@pytest.mark.parametrize(("switch", "models", "text"), [(False, ["a"], "bottle"), (True, ["a", "lora"], "frog")])
def test_of_a_switch_that_is_set_the_side_that_was_taken_is_told_alone(switch, models, text):
    for value in (switch, ["flag", 0]):
        prompt = with_switch(value) | graph(flag=("PrimitiveBoolean", {"value": switch}))
        assert lines(prompt, "Models") == tuple(f"{name}.safetensors" for name in models)
        assert set(lines(prompt, "Texts")) == {
            f"CLIPTextEncode (positive): a {text}",
            "CLIPTextEncode (negative): a blue jar",
        }
        assert asides(prompt) == []


@LOGIC
def test_a_model_is_the_same_before_and_behind_a_switch_that_is_set():
    for sampled, told in ((["plain", 0], ["model", 0]), (["model", 0], ["plain", 0]), (["model", 0], ["model", 0])):
        prompt = with_switch(False)
        prompt["sampler"]["inputs"]["model"], prompt["report"]["inputs"]["model"] = sampled, told
        assert asides(prompt) == []
        prompt["report"]["inputs"]["model"] = ["lora", 0]
        assert asides(prompt)[0] == NOT_SAMPLED


@pytest.mark.parametrize("kind", [pytest.param("ComfySwitchNode", marks=LOGIC), "LazySwitch", "EagerSwitch"])
def test_what_stands_behind_one_side_of_an_open_switch_is_not_claimed(kind):
    prompt = with_switch(["coin", 0], kind)
    assert lines(prompt, "Models") == ("a.safetensors (perhaps)", "lora.safetensors (perhaps)")
    assert set(lines(prompt, "Texts")) == {
        f"CLIPTextEncode (perhaps positive through {kind}): a bottle",
        f"CLIPTextEncode (perhaps positive through {kind}): a frog",
        "CLIPTextEncode (negative): a blue jar",
    }
    sides = "on_false and on_true" if kind in SWITCHES else "one and other"
    unknown = [f"The workflow does not say what was used of {sides} of {kind}.", MARKED]
    assert asides(prompt) == unknown  # the report has the switch's own model, as the sampler does
    prompt["report"]["inputs"]["model"] = ["plain", 0]
    assert asides(prompt) == [PERHAPS_SAMPLED, *unknown]
    prompt["sampler"]["inputs"]["model"], prompt["report"]["inputs"]["model"] = ["plain", 0], ["model", 0]
    assert asides(prompt) == [PERHAPS_SAMPLED, *unknown]
    prompt["sampler"]["inputs"]["model"] = prompt["report"]["inputs"]["model"] = ["plain", 0]
    assert asides(prompt) == unknown  # of the texts
    prompt["report"]["inputs"]["model"] = ["lora", 0]
    assert asides(prompt)[0] == NOT_SAMPLED


def test_a_text_of_the_ad_that_may_also_be_its_other_one_says_so():
    prompt = ad(
        other=("CLIPTextEncode", {"text": "a jar"}),
        negative=("LazySwitch", {"which": ["coin", 0], "one": ["positive", 0], "other": ["other", 0]}),
        coin=("Coin", {}),
    )
    assert lines(prompt, "Texts") == (
        "CLIPTextEncode (positive, perhaps negative through LazySwitch): a bottle",
        "CLIPTextEncode (perhaps negative through LazySwitch): a jar",
    )


def test_a_model_and_a_text_are_followed_through_an_output_of_any_kind():
    prompt = ad(
        loader=("Loader", {"name": "a.safetensors"}),
        model=("Reroute", {"given": ["loader", 0]}),
        text=("CLIPTextEncode", {"text": "a bottle"}),
        positive=("Reroute", {"given": ["text", 0]}),
    )
    assert kinds(prompt, ("model", 0)) == {"MODEL"}
    assert gives(prompt, "positive", "CONDITIONING")
    assert not gives(prompt, "positive", "MODEL")
    assert "loader" not in upstream(prompt, "report", ("MODEL",))
    assert asides(prompt) == []
    prompt["report"]["inputs"]["model"] = ["loader", 0]
    assert asides(prompt) == []
    assert "CLIPTextEncode (positive through Reroute): a bottle" in lines(prompt, "Texts")


def test_what_the_report_alone_is_given_is_not_claimed_of_the_ad():
    prompt = ad(
        lora=("LoraLoaderModelOnly", {"model": ["model", 0], "lora_name": "lora.safetensors", "strength_model": 1.0}),
        patched=("MEPAApply", {"model": ["lora", 0], "strength": 0.4}),
        report=("PFVAdReport", {"image": ["composite", 0], "report": ["composite", 2], "model": ["patched", 0]}),
    )
    told = told_upstream(prompt, "report", {"composite", *upstream(prompt, "composite", sure=True)})
    assert [one["id"] for one in told if one.get("perhaps")] == ["lora", "patched"]
    assert [*_asides(prompt, "report"), *_choices(prompt, told)] == [NOT_SAMPLED, MARKED]
    _, (models, *_, settings) = columns(None, told, prompt)
    assert settings.lines == ("MEPAApply (perhaps): strength 0.4",)
    assert models.lines == ("a.safetensors", "lora.safetensors (perhaps)")


def test_a_model_that_looks_for_things_may_not_have_been_asked():
    prompt = ad(
        finder=("CheckpointLoaderSimple", {"ckpt_name": "sam.safetensors"}),
        found=("SAM3Detect", {"model": ["finder", 0]}),
        photo=("LoadImage", {"image": "a.png"}),
        cut=("PFVCutOut", {"photo": ["photo", 0], "mask": ["photo", 1], "found": ["found", 0]}),
        composite=("StrictIDComposite", {"generated": ["decoded", 0], "product_mask": ["cut", 0]}),
    )
    assert "sam.safetensors (perhaps)" in lines(prompt, "Models")
    assert asides(prompt) == ["The workflow does not say what was used of found of PFVCutOut.", MARKED]


VALUES = {
    "PrimitiveString": {"value": "a bottle"},
    "PrimitiveStringMultiline": {"value": "a\nbottle"},
    "PrimitiveInt": {"value": 77},
    "PrimitiveFloat": {"value": 0.25},
    "PrimitiveBoolean": {"value": False},
    "CustomCombo": {"choice": "euler", "index": 2},
    JOINED: {"string_a": "a bottle", "string_b": "a wall", "delimiter": ", "},
}


@pytest.mark.parametrize("kind", [*HANDED_ON, JOINED])
def test_a_value_is_handed_on_as_the_hosts_own_node_does(kind):
    known = host_nodes.NODE_CLASS_MAPPINGS.get(kind)
    if known is None:
        pytest.skip(f"this host has no {kind}")
    given = known.execute(**VALUES[kind]).result
    takes = {f"value {output}": ["giver", output] for output in range(len(given))}
    known_of = settled(graph(giver=(kind, VALUES[kind]), taker=("Taker", takes)), "taker")
    assert tuple(known_of["taker"]["inputs"].values()) == given
    assert set(known_of) == {"taker"}


@LOGIC
@pytest.mark.parametrize("switch", [False, True])
def test_a_side_is_handed_on_as_the_hosts_own_switch_does(switch):
    given = {"switch": switch, "on_false": "one", "on_true": "other"}
    assert settled(graph(switch=("ComfySwitchNode", given), taker=("Taker", {"text": ["switch", 0]})), "taker")[
        "taker"
    ]["inputs"] == {"text": host_nodes.NODE_CLASS_MAPPINGS["ComfySwitchNode"].execute(**given).result[0]}


def test_values_are_followed_through_several_nodes_and_stop_at_what_is_not_known():
    prompt = ad(
        first=("PrimitiveString", {"value": "a bottle"}),
        again=("PrimitiveString", {"value": ["first", 0]}),
        whole=(JOINED, {"string_a": ["again", 0], "string_b": "a wall", "delimiter": ", "}),
        positive=("CLIPTextEncode", {"text": ["whole", 0]}),
        poet=("Poet", {}),
        part=(JOINED, {"string_a": ["poet", 0], "string_b": "a wall", "delimiter": ", "}),
        handed=("PrimitiveString", {"value": ["poet", 0]}),
        negative=("CLIPTextEncode", {"text": ["part", 0]}),
        third=("CLIPTextEncode", {"text": ["handed", 0]}),
        both=("ConditioningCombine", {"conditioning_1": ["third", 0], "conditioning_2": ["positive", 0]}),
    )
    prompt["sampler"]["inputs"]["positive"] = ["both", 0]
    assert lines(prompt, "Texts") == (
        "CLIPTextEncode (positive through ConditioningCombine): a bottle, a wall",
        f"CLIPTextEncode (negative): from {JOINED}",
        "CLIPTextEncode (positive through ConditioningCombine): from Poet",
    )


def test_a_setting_that_comes_over_a_wire_is_named_by_its_giver():
    prompt = ad(
        number=("PrimitiveInt", {"value": 77}),
        clock=("Clock", {}),
        shelf=("Shelf", {}),
        model=("Loader", {"name": ["shelf", 0], "kind": ["shelf", 0]}),
    )
    prompt["sampler"]["inputs"] |= {"seed": ["number", 0], "steps": ["clock", 0], "cfg": 3.0}
    prompt["composite"]["inputs"] |= {"erode": ["clock", 0], "feather": 4}
    assert lines(prompt, "Sampling") == ("KSampler: seed 77, steps from Clock, cfg 3.0",)
    assert lines(prompt, "Settings") == ("StrictIDComposite: erode from Clock, feather 4",)
    assert lines(prompt, "Models") == ("Loader: name from Shelf",)


def test_texts_are_told_whatever_their_inputs_are_called():
    prompt = ad(
        positive=("TwoTexts", {"clip_l": "a bottle", "t5xxl": "", "mode": "a"}),
        negative=("Silent", {"seed": ["clock", 0]}),
        clock=("Clock", {}),
    )
    assert lines(prompt, "Texts") == (
        "TwoTexts (positive): clip_l: a bottle / t5xxl: (empty)",
        "Silent (negative): no text is set on it",
    )


def test_a_text_says_at_which_inputs_it_ends():
    prompt = ad()
    prompt["sampler"]["inputs"]["negative"] = ["zero", 0]
    prompt |= graph(zero=("ConditioningZeroOut", {"conditioning": ["positive", 0]}))
    assert lines(prompt, "Texts") == ("CLIPTextEncode (positive, negative through ConditioningZeroOut): a bottle",)
    prompt = ad()
    prompt["sampler"]["inputs"]["negative"] = ["positive", 0]
    assert lines(prompt, "Texts") == ("CLIPTextEncode (positive, negative): a bottle",)
    prompt = ad(patch=("MEPAApplyText", {"model": ["model", 0], "text": ["negative", 0]}))
    prompt["sampler"]["inputs"]["model"] = ["patch", 0]
    assert lines(prompt, "Texts") == (
        "CLIPTextEncode (positive of KSampler): a bottle",
        "CLIPTextEncode (negative of KSampler, text of MEPAApplyText): a blue jar",
    )


@pytest.mark.parametrize(
    ("between", "told"),
    [
        ("ControlNetApplyAdvanced", ("positive through {}", "negative through {}")),
        # Two prompts in and two out, and no names: it is not known which is which.
        ("Unclear", ("positive of {}", "negative of {}")),
    ],
)
def test_a_text_is_followed_through_a_node_that_takes_two_where_names_say_which(between, told):
    prompt = ad(between=(between, {"positive": ["positive", 0], "negative": ["negative", 0]}))
    prompt["sampler"]["inputs"] |= {"positive": ["between", 0], "negative": ["between", 1]}
    texts = ("a bottle", "a blue jar")
    assert lines(prompt, "Texts") == tuple(
        f"CLIPTextEncode ({role.format(between)}): {text}" for role, text in zip(told, texts, strict=True)
    )


def test_lists_are_told_without_folders_and_secrets():
    value = {"on": True, "lora": "mine/lora.safetensors", "api_key": "abc", "more": ["/home/somebody/pictures"]}
    prompt = ad(model=("Loader", {"lora_1": value}))
    told = {one["id"]: one for one in told_upstream(prompt, "report")}
    plain = {"on": True, "lora": "lora.safetensors", "api_key": LEFT_OUT, "more": ["pictures"]}
    assert told["model"]["values"] == {"lora_1": plain}
    (line,) = lines(prompt, "Models")
    assert line.startswith('Loader: {"on": true, "lora": "lora.safetensors"')


def test_a_page_without_a_workflow_says_so():
    assert UNTOLD in outputs(PFVAdReport, image=reference(60, 80), report=report_of(COUNTED))[1]


def test_a_plain_workflow_is_told_without_a_mark():
    assert asides(ab_graph(A={"inputs": {"model": ["patched", 0]}})) == []
    assert asides(ad()) == []
    assert not any("perhaps" in one for one in told_upstream(ad(), "report"))
