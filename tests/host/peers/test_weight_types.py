"""Weights over the layers against the weight types of the IP-Adapter pack that most people use: the same numbers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from pfv_mepa.nodes.mepa.weights_nodes import MEPAWeights
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, reference, right_half, sample
from pfv_mepa.tests.support.tiny_stack import adapter_files, models

CONTEXT = {"sdxl": 2048, "sd15": 768}  # by which the pack tells them apart
MIDDLE = {
    "sdxl": range(121, 140, 2),
    "sd15": range(31, 32),
}  # their key for the middle block is one the host never calls

THEIRS = {  # their weight type -> ours
    "linear": "all",
    "ease in": "ease_in",
    "ease out": "ease_out",
    "ease in-out": "ease_in_out",
    "reverse in-out": "reverse_in_out",
    "weak input": "weak_input",
    "weak middle": "weak_middle",
    "weak output": "weak_output",
    "strong middle": "strong_middle",
    "style transfer": "style_transfer",
    "composition": "composition",
    "strong style transfer": "strong_style_transfer",
    "style and composition": "style_and_composition",
}


@pytest.fixture(scope="module", params=list(CONTEXT))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def wide_model(family):
    """The family's topology and context width; everything else is tiny."""
    return models.tiny_model(family, context_dim=CONTEXT[family])


@pytest.fixture(scope="module")
def adapter_file(host_base_directory, family, wide_model):
    """A linear adapter whose middle block has values of 0, so that it adds nothing wherever it is patched."""
    path = adapter_files.write_linear_adapter(
        host_base_directory / "models" / "ipadapter" / f"weight-types-{family}.safetensors",
        adapter_files.cross_attention_widths(wide_model.model.diffusion_model),
        image_embed_dim=models.VISION_PROJECTION,
        context_dim=CONTEXT[family],
    )
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    for number in MIDDLE[family]:
        tensors[f"ip_adapter.{number}.to_v_ip.weight"].zero_()
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def theirs(ip_adapter_plus, adapter_file, tiny_clip_vision, wide_model):
    """Function: weight type -> the model patched by the pack's own node."""
    nested = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in load_file(adapter_file).items():
        part, name = key.split(".", 1)
        with torch.inference_mode():
            nested[part][name] = tensor.clone()
    embeds = tiny_clip_vision.encode_image(reference(224, 224))["image_embeds"]

    def patched(weight_type, weight, **options):
        execute = ip_adapter_plus.ipadapter_execute
        with torch.inference_mode():
            embedded = {"pos_embed": embeds, "neg_embed": torch.zeros_like(embeds)}
            return execute(
                wide_model.clone(), nested, None, weight=weight, weight_type=weight_type, **embedded, **options
            )[0]

    return patched


@pytest.fixture(scope="module")
def ours(adapter_file, tiny_clip_vision, wide_model):
    """Function: layers, table -> the model patched by MEPA Apply with the same file and picture."""
    prompt = image_prompt(tiny_clip_vision, adapter_file, image=reference(224, 224), fit="crop")

    def patched(layers, strength, table="", **options):
        (weights,) = outputs(MEPAWeights, layers=layers, layer_table=table, sampling="constant", sampling_table="")
        return apply(wide_model, prompt, strength=strength, weights=weights, **options)

    return patched


def distance(first, second):
    return float((first - second).norm() / second.norm())


def distance_of_steps(one, other):
    return distance(sample(one, steps=1), sample(other, steps=1))


@pytest.fixture(scope="module")
def latents(theirs, ours):
    """By their type and by our name, at weight and strength 1."""
    return (
        {weight_type: sample(theirs(weight_type, 1.0), steps=1) for weight_type in THEIRS},
        {layers: sample(ours(layers, 1.0), steps=1) for layers in THEIRS.values()},
    )


@pytest.mark.parametrize(("weight_type", "layers"), THEIRS.items())
def test_their_weight_types_by_our_names(latents, weight_type, layers):
    """And by no other name; all but that of the middle block, where this adapter gives nothing."""
    of_theirs, of_ours = latents
    near = {name for name, latent in of_ours.items() if distance(latent, of_theirs[weight_type]) < 2e-5}
    assert near == ({"all", "weak_middle"} if layers in ("all", "weak_middle") else {layers})


def test_a_type_in_a_region(theirs, ours):
    expected = theirs("ease in", 0.8, attn_mask=right_half())
    assert distance_of_steps(ours("ease_in", 0.8, region=right_half()), expected) < 2e-5


def test_their_layer_weights_by_our_table(theirs, ours, family):
    """They count transformers in running order, and what is not named has no image prompt."""
    names = {
        "sdxl": {3: "input 2.1", 6: "output 2.1", 9: "output 1.1"},
        "sd15": {5: "input 2.1", 9: "output 2.2", 15: "output 0.2"},
    }
    numbers = dict(zip(names[family], (0.4, 0.7, 1.3), strict=True))
    their_table = ", ".join(f"{number}:{weight}" for number, weight in numbers.items())
    our_table = ", ".join(["all: 0", *(f"{names[family][number]}: {weight}" for number, weight in numbers.items())])
    expected = theirs("linear", 0.8, layer_weights=their_table)
    assert distance_of_steps(ours("custom", 0.8, our_table), expected) < 2e-5
