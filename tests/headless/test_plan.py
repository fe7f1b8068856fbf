"""Which engine and models are chosen, and what goes into the workflow."""

from __future__ import annotations

import pytest

from headless import make_ad
from headless.ad import plan
from headless.ad.model_files import ModelFiles
from headless.ad.plan import Plan, PlanError, next_steps, plan_ad, plan_workflow
from headless.ad.workflow import origin, the_node
from headless.host.find import Host

FILES = ModelFiles("c.safetensors", "n.safetensors", "v.safetensors", "a.safetensors")
NAMED = "--checkpoint c.safetensors --controlnet n.safetensors --clip-vision v.safetensors --adapter a.safetensors"


def options(arguments: str | list[str] = ""):
    return make_ad.parser().parse_args(arguments.split() if isinstance(arguments, str) else arguments)


@pytest.fixture
def host(tmp_path, monkeypatch) -> Host:
    """A ComfyUI without model files is what this machine has."""
    found = Host(tmp_path, "the test", "0.3.64")
    monkeypatch.setattr(plan, "find_host", lambda: found)
    return found


@pytest.fixture
def no_host(monkeypatch):
    monkeypatch.setattr(plan, "find_host", lambda: None)


def test_with_a_host_and_its_files_sdxl(host, monkeypatch):
    found = {"checkpoint": "c.safetensors", "controlnet": "n.safetensors", "clip_vision": "v.safetensors"}
    monkeypatch.setattr(plan, "find_model_files", lambda folder: found | {"adapter": "a.safetensors"})
    assert plan_ad(options()) == Plan(host, FILES, "")
    assert plan_ad(options()).extras == ["demo"]
    assert plan_ad(options("--demo")) == Plan(host, None, "as asked for")


def test_with_a_host_alone_the_demo_in_it(host):
    chosen = plan_ad(options())
    assert (chosen.host, chosen.models, chosen.extras) == (host, None, [])
    assert "has not an SDXL checkpoint, nor a depth ControlNet for SDXL, nor" in str(chosen)


def test_without_a_host_the_demo_in_diffusers(no_host):
    chosen = plan_ad(options())
    assert (chosen.host, chosen.models, chosen.extras) == (None, None, ["diffusers"])
    assert "in diffusers (SDXL runs in a ComfyUI)" in str(chosen)


def test_diffusers_may_be_asked_for_where_there_is_a_host(host):
    assert plan_ad(options("--engine diffusers")).host is None


def test_named_files_are_taken_without_a_look(host):
    assert plan_ad(options(NAMED)).models == FILES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--checkpoint c.safetensors",
            r"not found in .*: a depth ControlNet for SDXL, .*; name all four files, or none",
        ),
        (f"{NAMED} --engine diffusers", "leave out --engine diffusers and --demo"),
        (f"{NAMED} --demo", "leave out --engine diffusers and --demo"),
        ("--size 640x360", r"--size goes with SDXL; here the demo's models draw 256x256 pixels \(.*has not"),
        ("--format 9:16", "--format goes with SDXL"),
        ("--find bottle", "--find goes with SDXL"),
        (f"--product-mask {__file__}", "--product-mask marks a part of --product, which is not given: name both, or"),
        (f"--product {__file__} --reference-mask {__file__}", "--reference-mask marks a part of --reference, which is"),
        (
            f"--reference {__file__} --reference-mask {__file__} --whole-reference",
            "--reference-mask says what to hide, and --whole-reference hides nothing",
        ),
        ("--cut-off", "--cut-off says what a product is that is found in --product: name that"),
        (
            f"--product {__file__} --prompt vase --product-mask {__file__} --enclosed holes",
            "--enclosed says what a product is that is found in --product: name that, and no --product-mask",
        ),
        ("--find bottle --whole-reference", "--find says what to hide, and --whole-reference hides nothing"),
    ],
)
def test_what_does_not_go_together(host, arguments, message):
    with pytest.raises(PlanError, match=message):
        plan_ad(options(arguments))


def test_comfyui_asked_for_and_not_there(no_host):
    with pytest.raises(PlanError, match="no ComfyUI found: set COMFYUI_PATH"):
        plan_ad(options("--engine comfyui"))


def test_settings_go_into_the_workflow(no_host):
    given = options("--steps 12 --seed 7 --prompt vase")
    prompt = plan_workflow(plan_ad(given), given)
    sampler = the_node(prompt, "KSampler")["inputs"]
    assert (sampler["steps"], sampler["seed"]) == (12, 7)
    assert the_node(prompt, "CLIPTextEncode", "Prompt")["inputs"]["text"] == "vase"
    assert the_node(prompt, "PFVDemoModels")


def test_the_prompt_names_what_the_photo_shows(host):
    """The shipped photograph's with SDXL; of another photo nobody knows it, so it is asked for."""
    given = options(NAMED)
    prompt = plan_workflow(plan_ad(given), given)
    assert "cup" in the_node(prompt, "CLIPTextEncode", "Prompt")["inputs"]["text"]
    with pytest.raises(PlanError, match="--product shows another product than the workflow's prompt names"):
        plan_ad(options(f"--product {__file__}"))
    given = options(f"--product {__file__} --prompt vase")
    assert the_node(plan_workflow(plan_ad(given), given), "CLIPTextEncode", "Prompt")["inputs"]["text"] == "vase"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", ("refuse", False, False)),
        ("--enclosed holes", ("holes", False, False)),
        ("--several-parts", ("refuse", True, False)),
        ("--enclosed product --cut-off", ("product", False, True)),
    ],
)
def test_what_is_told_of_a_product_goes_to_what_finds_it(no_host, arguments, expected):
    given = options(f"--product {__file__} --prompt vase {arguments}")
    cut_out = the_node(plan_workflow(plan_ad(given), given), "PFVCutOut")["inputs"]
    assert (cut_out["enclosed"], cut_out["several_parts"], cut_out["cut_off"]) == expected


def test_settings_that_are_not_given_stay_the_workflows(no_host):
    prompt = plan_workflow(plan_ad(options()), options())
    assert the_node(prompt, "KSampler")["inputs"]["steps"] == 20
    zero = options("--seed 0")
    assert the_node(plan_workflow(plan_ad(zero), zero), "KSampler")["inputs"]["seed"] == 0


def test_sdxls_files_go_into_the_workflow(host):
    given = options(NAMED)
    prompt = plan_workflow(plan_ad(given), given)
    assert the_node(prompt, "CheckpointLoaderSimple", "Checkpoint")["inputs"]["ckpt_name"] == FILES.checkpoint
    assert the_node(prompt, "ControlNetLoader")["inputs"]["control_net_name"] == FILES.controlnet
    pair = the_node(prompt, "MEPALoad")["inputs"]
    assert (pair["adapter_name"], pair["encoder_name"]) == (FILES.adapter, FILES.clip_vision)


def test_a_reference_may_be_taken_whole(no_host):
    assert the_node(plan_workflow(plan_ad(options()), options()), "PFVReference")["inputs"]["hide"] == "automatic"
    given = options("--whole-reference")
    assert the_node(plan_workflow(plan_ad(given), given), "PFVReference")["inputs"]["hide"] == "nothing"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--format 1080x1350", {"format": "1080x1350"}),
        ("--size 640x360", {"format": "custom", "custom_width": 640, "custom_height": 360}),
    ],
)
def test_the_ads_size_goes_onto_its_canvas(host, arguments, expected):
    given = options(f"{NAMED} {arguments}")
    canvas = the_node(plan_workflow(plan_ad(given), given), "PFVAdCanvas")["inputs"]
    assert canvas | expected == canvas


def test_two_sizes_are_one_too_many(host):
    given = options(f"{NAMED} --format 1:1 --size 640x360")
    with pytest.raises(PlanError, match="both say how large the ad is"):
        plan_workflow(plan_ad(given), given)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("the red can", "the red can:20"),
        ("the red can, a bottle:2,", "the red can:20, a bottle:2"),
        ("cans : 3", "cans : 3"),
    ],
)
def test_what_is_to_be_found_in_the_reference_goes_to_what_finds_it(host, words, expected):
    """All of it: without a number one is found, and the others would come through."""
    given = options([*NAMED.split(), "--find", words])
    prompt = plan_workflow(plan_ad(given), given)
    named = the_node(prompt, "CLIPTextEncode", "What must not come through")
    assert named["inputs"]["text"] == expected
    assert origin(prompt, the_node(prompt, "SAM3_Detect"), "conditioning") is named


def test_next_steps_name_four_files_where_to_put_and_where_to_get_them(host, no_host):
    steps = next_steps(plan_ad(options()))
    assert "git clone" in steps
    assert steps.count("https://huggingface.co/") == 4
    for folder in ("checkpoints/", "controlnet/", "clip_vision/", "ipadapter/"):
        assert f" {folder}" in steps
    with_host = next_steps(Plan(host, None, ""))
    assert f"into {host.path / 'models'}:" in with_host
    assert "git clone" not in with_host
