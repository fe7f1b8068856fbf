"""The parts of the demonstration that need no server: options, inputs, and the workflow's settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pfv_mepa.headless import make_ad, produce_ad
from pfv_mepa.headless.client import ApiError
from pfv_mepa.headless.find_host import Host
from pfv_mepa.headless.model_files import ModelFiles
from pfv_mepa.headless.workflow import nodes_of, the_node

SIZE = (192, 128)
FILES = ModelFiles("c.safetensors", "n.safetensors", "v.safetensors", "a.safetensors")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Path]:
    return produce_ad.write_inputs(tmp_path_factory.mktemp("inputs"), SIZE)


def loaded_mask(file: Path) -> np.ndarray:
    """The MASK that ComfyUI's LoadImage gives: 1 where the file is transparent."""
    with Image.open(file) as image:
        return 1 - np.asarray(image.getchannel("A")) / 255


def test_size_option():
    assert make_ad.parser().parse_args(["--size", "640x360"]).size == (640, 360)


@pytest.mark.parametrize("size", ["640", "641x360", "0x8", "ax8", "8x8x8"])
def test_a_wrong_size_is_refused_before_anything_runs(size, capsys):
    with pytest.raises(SystemExit):
        make_ad.parser().parse_args(["--size", size])
    assert f"{size!r} is no size: expected WIDTHxHEIGHT, both divisible by 8" in capsys.readouterr().err


def test_the_inputs_are_what_the_workflow_loads(inputs):
    prompt = produce_ad.load_prompt(produce_ad.WORKFLOW)
    assert {node["inputs"]["image"] for node in nodes_of(prompt, "LoadImage")} == set(inputs)
    for file in inputs.values():
        with Image.open(file) as image:
            assert image.size == SIZE


def test_the_products_mask_is_its_background_and_its_photograph_is_whole(inputs):
    photo = produce_ad.photos.coffee(SIZE)
    assert np.array_equal(loaded_mask(inputs["product.png"]), np.asarray(photo.marked) == 0)
    with Image.open(inputs["product.png"]) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(photo.image))


def test_the_references_masks_are_somebody_elses_product(inputs):
    marked = np.asarray(produce_ad.photos.rocket(SIZE).marked) > 0
    assert np.array_equal(loaded_mask(inputs["reference_background.png"]) == 1, marked)


def test_the_regions_share_the_ad_and_leave_the_product_free(inputs):
    background = loaded_mask(inputs["region_background.png"]) == 1
    table = loaded_mask(inputs["region_table.png"]) == 1
    product = loaded_mask(inputs["product.png"]) == 0
    assert (background.astype(int) + table + product == 1).all()
    assert background[0].all()
    assert table[-1].all()


def test_models_and_settings_go_into_the_workflow():
    options = make_ad.parser().parse_args(["--steps", "12", "--seed", "7", "--prompt", "a mug"])
    prompt = produce_ad.prepare_prompt(FILES, options, tiny=False)
    sampler = the_node(prompt, "KSampler")["inputs"]
    assert (sampler["steps"], sampler["seed"]) == (12, 7)
    assert the_node(prompt, "CLIPTextEncode", "Prompt")["inputs"]["text"] == "a mug"
    assert the_node(prompt, "CheckpointLoaderSimple")["inputs"]["ckpt_name"] == FILES.checkpoint
    assert the_node(prompt, "ControlNetLoader")["inputs"]["control_net_name"] == FILES.controlnet
    assert the_node(prompt, "CLIPVisionLoader")["inputs"]["clip_name"] == FILES.clip_vision
    assert the_node(prompt, "MEPAAdapterLoader")["inputs"]["adapter_name"] == FILES.adapter


def test_real_models_keep_the_workflows_steps_and_tiny_ones_do_not():
    options = make_ad.parser().parse_args([])
    shipped = the_node(produce_ad.load_prompt(produce_ad.WORKFLOW), "KSampler")["inputs"]["steps"]
    steps = [
        the_node(produce_ad.prepare_prompt(FILES, options, tiny), "KSampler")["inputs"]["steps"]
        for tiny in (False, True)
    ]
    assert steps == [shipped, produce_ad.TINY_STEPS]


def test_without_models_the_tiny_ones_are_chosen_and_called_noise(tmp_path, capsys):
    host = Host(tmp_path, "the test", "0")
    assert produce_ad.choose_models(host, make_ad.parser().parse_args([])) is None
    said = capsys.readouterr().out
    assert "has not an SDXL checkpoint, nor" in said
    assert "noise around an exact product" in said


def test_named_models_are_taken_without_a_look(tmp_path, capsys):
    options = (
        "--checkpoint c.safetensors --controlnet n.safetensors --clip-vision v.safetensors --adapter a.safetensors"
    )
    chosen = produce_ad.choose_models(Host(tmp_path, "", "0"), make_ad.parser().parse_args(options.split()))
    assert chosen == FILES
    assert "c.safetensors, n.safetensors, v.safetensors, a.safetensors" in capsys.readouterr().out


def test_some_named_and_some_missing_is_an_error(tmp_path):
    options = make_ad.parser().parse_args(["--checkpoint", "c.safetensors"])
    with pytest.raises(
        ApiError, match=r"not found in .*: a depth ControlNet for SDXL, .*; name all four files, or none"
    ):
        produce_ad.choose_models(Host(tmp_path, "", "0"), options)
