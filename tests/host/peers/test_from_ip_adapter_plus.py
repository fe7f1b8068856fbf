"""docs/from_ipadapter.md: where it says that the picture is the same, it is, to rounding; where it says it is not, it is not."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from pfv_mepa.nodes.mepa.weights_nodes import MEPAWeights
from pfv_mepa.nodes.reference.reference_nodes import PFVCombineReferences
from pfv_mepa.tests.host import sampling
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, reference, right_half
from pfv_mepa.tests.support.tiny_stack import adapter_files, models

NEAR = 2e-5
SD15_MIDDLE = "ip_adapter.31.to_v_ip.weight"  # their key for the middle block is one the host never calls
SDXL_MIDDLE = [f"ip_adapter.{number}.to_v_ip.weight" for number in range(121, 140, 2)]


def distance(first, second):
    return ((first - second).norm() / second.norm()).item()


def sample(model, **settings):
    """One step tells two models apart."""
    return sampling.sample(model, **{"steps": 1, **settings})


def picture(seed):
    return reference(224, 224, seed=seed)


def without_middle(path, names):
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    for name in names:
        tensors[name].zero_()
    save_file(tensors, path)
    return path


class Both:
    """A model, an adapter file and an encoder, for their nodes and for ours."""

    def __init__(self, pack, model, file, clip_vision) -> None:
        self.pack, self.model, self.file, self.clip_vision = pack, model, file, clip_vision
        self.nested = {"image_proj": {}, "ip_adapter": {}}
        for key, tensor in load_file(file).items():
            part, name = key.split(".", 1)
            with torch.inference_mode():  # as their loader node gets them
                self.nested[part][name] = tensor.clone()

    def theirs(self, image, node="IPAdapterAdvanced", weight=1.0, **settings):
        with torch.inference_mode():
            return getattr(self.pack, node)().apply_ipadapter(
                self.model,
                self.nested,
                image=image,
                weight=weight,
                clip_vision=self.clip_vision,
                **{"weight_type": "linear", **settings},
            )[0]

    def prompt(self, image):
        return image_prompt(self.clip_vision, self.file, image=image, fit="crop")

    def combined(self, *images, how="concatenate", negative=None):
        prompts = {f"image_prompt_{number}": self.prompt(image) for number, image in enumerate(images, 1)}
        weights = {f"weight_{number}": 1.0 for number in range(1, 5)}
        away = None if negative is None else self.prompt(negative)
        return PFVCombineReferences.execute(combine=how, **prompts, **weights, negative=away).args[0]

    def ours(self, prompt, **settings):
        return apply(self.model, prompt, **settings)


@pytest.fixture(scope="module")
def linear(ip_adapter_plus, host_base_directory, tiny_clip_vision):
    """SDXL's topology and context width, by which the pack recognises SDXL, and a linear adapter."""
    model = models.tiny_model("sdxl", context_dim=2048)
    file = adapter_files.write_linear_adapter(
        host_base_directory / "models" / "ipadapter" / "from-linear.safetensors",
        adapter_files.cross_attention_widths(model.model.diffusion_model),
        image_embed_dim=models.VISION_PROJECTION,
        context_dim=2048,
    )
    return Both(ip_adapter_plus, model, without_middle(file, SDXL_MIDDLE), tiny_clip_vision)


@pytest.fixture(scope="module")
def plus(ip_adapter_plus, host_base_directory, tiny_clip_vision):
    """SD1.5 and a plus adapter of the resampler's size that the pack takes every SD1.5 file to have."""
    model = models.tiny_model("sd15", context_dim=768)
    file = adapter_files.write_plus_adapter(
        host_base_directory / "models" / "ipadapter" / "from-plus.safetensors",
        adapter_files.cross_attention_widths(model.model.diffusion_model),
        encoder_width=models.VISION_WIDTH,
        context_dim=768,
        num_heads=12,
    )
    return Both(ip_adapter_plus, model, without_middle(file, [SD15_MIDDLE]), tiny_clip_vision)


def test_ip_adapter_is_mepa_apply(linear):
    """IPAdapter (Simple): weight, start_at, end_at, attn_mask."""
    settings = {"start_at": 0.0, "end_at": 0.6, "attn_mask": right_half()}
    with torch.inference_mode():
        pipeline = {"ipadapter": {"model": linear.nested}, "clipvision": {"model": linear.clip_vision}}
        theirs = linear.pack.IPAdapterSimple().apply_ipadapter(
            linear.model, pipeline, picture(0), 0.8, weight_type="standard", **settings
        )[0]
    ours = linear.ours(linear.prompt(picture(0)), strength=0.8, region=right_half(), end_percent=0.6)
    assert distance(sample(ours, steps=4), sample(theirs, steps=4)) < NEAR
    whole = linear.ours(linear.prompt(picture(0)), strength=0.8, region=right_half())
    assert distance(sample(whole, steps=4), sample(theirs, steps=4)) > 1e-3


@pytest.mark.parametrize("batch", [1, 2])
def test_concat_of_several_pictures_is_concatenate(linear, batch):
    """Pictures 1 and 2 as one look; and Encoder, Combine Embeds (concat) and Embeds are the same."""
    images = torch.cat([picture(1), picture(2)])
    ours = sample(linear.ours(linear.combined(picture(1), picture(2))), batch=batch)
    assert distance(ours, sample(linear.theirs(images, combine_embeds="concat"), batch=batch)) < NEAR
    assert distance(ours, sample(linear.ours(linear.prompt(picture(1))), batch=batch)) > 1e-3
    with torch.inference_mode():
        encode = linear.pack.IPAdapterEncoder().encode
        embeds = [encode(linear.nested, image, 1.0, clip_vision=linear.clip_vision)[0] for image in images[:, None]]
        (together,) = linear.pack.IPAdapterCombineEmbeds().batch(embeds[0], "concat", embeds[1])
        theirs = linear.pack.IPAdapterEmbeds().apply_ipadapter(
            linear.model, linear.nested, together, 1.0, "linear", 0.0, 1.0, torch.zeros_like(together)
        )[0]
    assert distance(ours, sample(theirs, batch=batch)) < NEAR


def test_image_negative_is_negative(linear):
    settings = {"image_negative": picture(2)}
    ours = sample(linear.ours(linear.combined(picture(1), negative=picture(2))))
    assert distance(ours, sample(linear.theirs(picture(1), **settings))) < NEAR
    assert distance(ours, sample(linear.theirs(picture(1)))) > 1e-3


def test_plus_with_a_black_picture_to_move_away_from(plus):
    """For plus adapters their negative is a black picture, ours what the training had: zero normalised pixels, mid-grey."""
    black = torch.zeros(1, 224, 224, 3)
    theirs = sample(plus.theirs(picture(1)))
    assert distance(sample(plus.ours(plus.combined(picture(1), negative=black))), theirs) < NEAR
    assert distance(sample(plus.ours(plus.prompt(picture(1)))), theirs) > 1e-4
    at_cfg_1 = (sample(model, cfg=1.0) for model in (plus.ours(plus.prompt(picture(1))), plus.theirs(picture(1))))
    assert distance(*at_cfg_1) < NEAR


def test_plus_with_several_pictures_and_a_picture_to_move_away_from(plus):
    images = torch.cat([picture(1), picture(2)])
    ours = sample(plus.ours(plus.combined(picture(1), picture(2), negative=picture(3)), strength=0.7))
    theirs = sample(plus.theirs(images, weight=0.7, combine_embeds="concat", image_negative=picture(3)))
    assert distance(ours, theirs) < NEAR


def test_batch_is_a_batch_of_references(linear):
    images = torch.cat([picture(1), picture(2)])
    ours = sample(linear.ours(linear.prompt(images)), batch=2)
    assert distance(ours, sample(linear.theirs(images, node="IPAdapterBatch"), batch=2)) < NEAR
    assert distance(ours[:1], sample(linear.ours(linear.prompt(images.flip(0))), batch=2)[:1]) > 1e-3


def test_regional_conditioning_is_a_mepa_apply_for_each(linear):
    """Regional Conditioning, Combine Params and From Params; the texts' masks are the host's own in both."""
    left, right = 1 - right_half(), right_half()
    regional = linear.pack.IPAdapterRegionalConditioning().conditioning
    params = [
        regional(picture(seed), weight, 1.0, "linear", 0.0, 1.0, mask)[0]
        for seed, weight, mask in ((1, 0.9, left), (2, 0.5, right))
    ]
    (both,) = linear.pack.IPAdapterCombineParams().combine(*params)
    theirs = linear.theirs(None, node="IPAdapterFromParams", ipadapter_params=both, combine_embeds="concat")
    ours = linear.ours(linear.prompt(picture(1)), strength=0.9, region=left)
    ours = apply(ours, linear.prompt(picture(2)), strength=0.5, region=right)
    assert distance(sample(ours), sample(theirs)) < NEAR


def test_average_is_another_one(linear):
    """Theirs is of the encoder's answers, ours of the image prompts: pictures that keep different patches have no common mean."""
    images = torch.cat([picture(1), picture(2)])
    ours = sample(linear.ours(linear.combined(picture(1), picture(2), how="average")))
    assert distance(ours, sample(linear.theirs(images, combine_embeds="average"))) > 1e-3


def test_the_encoders_weight_hardly_counts_where_a_norm_follows(linear):
    """A layer norm takes a factor on its input away, up to the bias, so an Encoder weight of 2 is nearly that of 1."""
    with torch.inference_mode():
        encode = linear.pack.IPAdapterEncoder().encode
        by_weight = []
        for weight in (1.0, 2.0):
            embeds, zero = encode(linear.nested, picture(1), weight, clip_vision=linear.clip_vision)
            model = linear.pack.IPAdapterEmbeds().apply_ipadapter(
                linear.model, linear.nested, embeds, 1.0, "linear", 0.0, 1.0, zero
            )[0]
            by_weight.append(sample(model))
    doubled = sample(linear.ours(linear.prompt(picture(1)), strength=2.0))
    assert distance(by_weight[1], by_weight[0]) < 0.1 * distance(doubled, by_weight[0])


@pytest.mark.parametrize("scaling", ["K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty"])
def test_other_embeds_scalings_are_other_pictures(linear, scaling):
    ours = sample(linear.ours(linear.prompt(picture(1)), strength=0.6))
    assert distance(ours, sample(linear.theirs(picture(1), weight=0.6, embeds_scaling="V only"))) < NEAR
    assert distance(ours, sample(linear.theirs(picture(1), weight=0.6, embeds_scaling=scaling))) > 1e-4


def test_what_they_leave_out_of_the_middle_is_a_weight_here(ip_adapter_plus, tiny_clip_vision, host_base_directory):
    """An adapter with values in the middle block, as every real one has: theirs is ours with the table `middle: 0`."""
    model = models.tiny_model("sdxl", context_dim=2048)
    file = adapter_files.write_linear_adapter(
        host_base_directory / "models" / "ipadapter" / "from-whole.safetensors",
        adapter_files.cross_attention_widths(model.model.diffusion_model),
        image_embed_dim=models.VISION_PROJECTION,
        context_dim=2048,
    )
    both = Both(ip_adapter_plus, model, without_middle(file, []), tiny_clip_vision)
    (weights,) = outputs(MEPAWeights, layers="custom", layer_table="middle: 0", sampling="constant", sampling_table="")
    theirs, prompt = sample(both.theirs(picture(1))), both.prompt(picture(1))
    assert distance(sample(both.ours(prompt, weights=weights)), theirs) < NEAR
    assert distance(sample(both.ours(prompt)), theirs) > 1e-3
