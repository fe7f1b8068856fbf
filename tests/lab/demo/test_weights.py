"""The shipped weights do what is said of them, on a handful of held-out scenes; `lab.demo.evaluation` measures it well."""

from __future__ import annotations

from dataclasses import replace

import pytest
from safetensors import safe_open

from lab.demo.evaluation.ablation_units import find_adapters
from lab.demo.evaluation.ablations import ADAPTERS
from lab.demo.evaluation.chunk import Chunk
from lab.demo.evaluation.conditions import Depth, View
from lab.demo.evaluation.experiments import ADS, CONFLICT, IMAGE_ONLY, TEXT
from lab.demo.evaluation.judge import FILE as JUDGE_FILE
from lab.demo.evaluation.models import load_models
from lab.demo.evaluation.pairs import labels
from lab.demo.evaluation.pictures import make_images
from lab.demo.evaluation.rulers import product_overlap
from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.research.mask_input import load_mask_input
from pfv_core.research.refadgen import open_refadgen
from pfv_core.research.strict_id_file import load_strict_id
from pfv_demo.sizes import ADAPTER_FILE, MODELS, REFADGEN_FILE, STRICT_ID_FILE, WEIGHTS

NUM_FILES, MOST_BYTES = 7, 20e6
MOST_BYTES_OF_NEIGHBOURS = 15e6  # of both their files
PAIRS = 12
STEPS = 8
MOST = PAIRS - 2  # chance of as many by guessing among ten colours: below 1e-8
MANY = 7  # chance of as many by guessing among six patterns: 0.0013
FEW = PAIRS // 2


@pytest.fixture(scope="module")
def models():
    return load_models(WEIGHTS, JUDGE_FILE)


@pytest.fixture(scope="module")
def adapter():
    return load_adapter(WEIGHTS / ADAPTER_FILE)


@pytest.fixture(scope="module")
def chunk(models):
    return Chunk(models, 0, PAIRS)


@pytest.fixture(scope="module")
def images_of_the_text(models, chunk):
    return make_images(models, chunk, TEXT, None, STEPS)


def right(models, images, scenes, name):
    return int((models.judge.read(images)[name] == labels(scenes)[name]).sum())


UNSAID = {  # trained before files said which kind of machine made them; what is trained anew says it
    "judge",
    "pfv_demo_refadgen",
    "pfv_demo_strict_id",
    "eq3_c16_drop_seed0",
    "eq3_c16_seed1",
    "eq3_c16_seed2",
    "ipadapter_c16_seed0",
    "ipadapter_c16_seed1",
    "ipadapter_c16_seed2",
    "resampler_c16_seed0",
}


def test_every_file_says_which_kind_of_machine_made_it_but_for_older_ones():
    unsaid = set()
    for file in (*WEIGHTS.glob("*.safetensors"), *MODELS.glob("*/*"), *ADAPTERS.iterdir()):
        with safe_open(file, "pt") as weights:
            if "machine" not in weights.metadata():
                unsaid.add(file.stem)
    assert unsaid == UNSAID


def test_small_enough_and_licensed():
    files = sorted(WEIGHTS.glob("*.safetensors"))
    assert len(files) == NUM_FILES
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    for file in files:
        with safe_open(file, "pt") as weights:
            assert weights.metadata()["licence" if file.name == ADAPTER_FILE else "license"] == "Apache-2.0"


def test_the_neighbours_files_are_for_the_demo_and_small():
    refadgen, strict_id = MODELS / "model_patches" / REFADGEN_FILE, MODELS / "controlnet" / STRICT_ID_FILE
    assert set(MODELS.glob("*/*")) == {refadgen, strict_id}
    assert refadgen.stat().st_size + strict_id.stat().st_size < MOST_BYTES_OF_NEIGHBOURS
    assert (open_refadgen(refadgen).base, load_strict_id(strict_id).config.base) == ("demo", "demo")
    assert bool(load_mask_input(refadgen).kernel.any())
    for file in (refadgen, strict_id):
        with safe_open(file, "pt") as weights:
            assert weights.metadata()["licence"] == "Apache-2.0"


def test_the_measured_adapters_are_what_their_names_say():
    found = find_adapters(ADAPTERS)
    assert {one.family for one in found} >= {"eq3_c16", "eq3_c16_drop", "resampler_c16", "ipadapter_c16"}
    assert len(found) == len(list(ADAPTERS.iterdir()))
    for one in found:
        with safe_open(one.path, "pt") as weights:
            metadata = weights.metadata()
        assert (metadata["seed"], metadata["step"], metadata["licence"]) == (str(one.seed), "1600", "Apache-2.0")
        assert load_adapter(one.path).config.num_tokens == one.tokens


@pytest.mark.parametrize("name", ["product_color", "shape", "wall_color", "pattern", "table"])
def test_the_text_steers(models, chunk, images_of_the_text, name):
    assert right(models, images_of_the_text, chunk.wanted, name) >= MOST


def test_the_image_prompt_brings_the_wall_and_pfv_not_the_product(models, chunk, adapter):
    hidden = make_images(models, chunk, IMAGE_ONLY[View.DROPPED], adapter, STEPS)
    visible = make_images(models, chunk, IMAGE_ONLY[View.VISIBLE], adapter, STEPS)
    for name in ("wall_color", "pattern"):
        assert right(models, hidden, chunk.references, name) >= MANY
    copied = [right(models, images, chunk.references, "shape") for images in (visible, hidden)]
    assert copied[0] > copied[1]


def test_regions_decide_where_text_and_image_disagree(models, chunk, adapter):
    everywhere = make_images(models, chunk, CONFLICT.whole.at(1.0).condition, adapter, STEPS)
    gated = make_images(models, chunk, CONFLICT.mepa.at(1.0).condition, adapter, STEPS)
    assert right(models, gated, chunk.references, "wall_color") >= MOST
    assert right(models, everywhere, chunk.references, "wall_color") <= FEW
    for name in ("product_color", "table"):
        assert right(models, gated, chunk.wanted, name) >= MOST


def test_depth_puts_the_product_where_the_ad_has_it(models, adapter):
    """Before its own pixels are put back."""
    chunk, ad = Chunk(models, 0, 6), ADS[View.DROPPED, Depth.MASKED]
    overlap = {
        depth: product_overlap(
            make_images(models, chunk, replace(ad, depth=depth), adapter, STEPS), chunk.ad_drawn, chunk.oracle
        )[0].mean()
        for depth in (Depth.MASKED, None)
    }
    assert overlap[Depth.MASKED] > 0.7
    assert overlap[Depth.MASKED] > overlap[None] + 0.1
