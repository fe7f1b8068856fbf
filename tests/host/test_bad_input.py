"""Bad input gets an error that names both sides and says what to do, before any sampling."""

from __future__ import annotations

import re
import types

import comfy.model_patcher
import nodes as host_nodes
import pytest
import torch
from comfy_api.latest import io
from safetensors.torch import load_file, save_file

from pfv_mepa.nodes.ad.compose_nodes import PFVDepthCompose
from pfv_mepa.nodes.ad.product_nodes import StrictIDComposite
from pfv_mepa.nodes.extension import NODES
from pfv_mepa.nodes.mepa.apply_nodes import MEPAAdapterLoader, PFVTokenCompress
from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from pfv_mepa.tests.host.host_queue import full_prompt, queue_for
from pfv_mepa.tests.host.sampling import (
    apply,
    image_prompt,
    outputs,
    painted,
    recorded_calls,
    reference,
    right_half,
    sample,
)
from pfv_mepa.tests.support.tiny_stack import adapter_files, models


def rebinarize(clip_vision, image, mask=None, fit="pad", threshold=0.0):
    return outputs(PFVMaskRebinarize, clip_vision=clip_vision, reference=image, fit=fit, threshold=threshold, mask=mask)


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


REFERENCE_CASES = {
    "sizes differ": (reference(240, 320), torch.ones(1, 200, 320), "mask is 200x320, its image is 240x320"),
    "unpainted": (reference(), torch.zeros(1, 240, 320), "mask 0 selects nothing"),
    "no mask at all": (reference(), torch.zeros(1, 64, 64), "mask holds no mask"),
    "everything painted": (reference(), torch.ones(1, 240, 320), "mask 0 selects the whole image"),
    "NaN in the mask": (
        reference(),
        painted() * float("nan"),
        "mask spans nan..nan, expected finite values from 0 to 1",
    ),
    "mask out of range": (reference(), painted() * 255, "mask spans 0..254, expected finite values from 0 to 1"),
    "batches differ": (reference(batch=2), painted().repeat(3, 1, 1), "mask holds 3 masks for 2 images"),
    "RGBA": (
        torch.rand(1, 240, 320, 4),
        painted(),
        "reference has 4 channels .RGBA., expected 3: use Split Image with Alpha",
    ),
    "one channel": (torch.rand(1, 240, 320, 1), painted(), "reference has 1 channels, expected 3"),
    "no batch axis": (torch.rand(240, 320, 3), painted(), r"reference is \(240, 320, 3\), expected an IMAGE"),
}


@pytest.mark.parametrize("case", REFERENCE_CASES)
def test_reference_and_mask(tiny_clip_vision, case):
    image, mask, message = REFERENCE_CASES[case]
    with pytest.raises(ValueError, match=message):
        rebinarize(tiny_clip_vision, image, mask)


@pytest.mark.parametrize(
    ("option", "message"), [({"fit": "cover"}, "fit is 'cover'"), ({"threshold": 2.0}, "threshold is 2")]
)
def test_options_that_the_host_does_not_check(tiny_clip_vision, option, message):
    with pytest.raises(ValueError, match=message):
        rebinarize(tiny_clip_vision, reference(), painted(), **option)


def test_a_mask_that_leaves_no_patch(tiny_clip_vision):
    mask = torch.zeros(1, 224, 224)
    mask[:, ::14, ::14] = 1
    with pytest.raises(
        ValueError, match=r"no patch of image 0 is left visible at threshold 0.*its hidden share is 0\.005"
    ):
        rebinarize(tiny_clip_vision, reference(224, 224), mask)


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "reference_image spans nan"), (7.0, r"spans \S+\.\.7 where it is visible"), (-1.0, "spans -1")],
)
def test_visible_pixels_out_of_range(tiny_clip_vision, value, message):
    image = reference()
    image[0, 0, 0] = value
    patch_mask, _ = rebinarize(tiny_clip_vision, image, painted())
    with pytest.raises(ValueError, match=message):
        outputs(PFVImageEncode, clip_vision=tiny_clip_vision, reference=image, patch_mask=patch_mask, mode="drop")


def test_the_patch_mask_of_another_image_or_encoder(tiny_clip_vision):
    patch_mask, _ = rebinarize(tiny_clip_vision, reference(), painted())
    with pytest.raises(ValueError, match="reference_image is 200x320, its patch mask was made for 240x320"):
        outputs(
            PFVImageEncode, clip_vision=tiny_clip_vision, reference=reference(200), patch_mask=patch_mask, mode="drop"
        )
    with pytest.raises(ValueError, match="mode is 'hide', expected one of"):
        outputs(PFVImageEncode, clip_vision=tiny_clip_vision, reference=reference(), patch_mask=patch_mask, mode="hide")


def test_a_vision_model_without_class_token():
    siglip = types.SimpleNamespace(model=types.SimpleNamespace(vision_model=None))
    with pytest.raises(ValueError, match=r"without class token and projection .SigLIP"):
        rebinarize(siglip, reference(), painted())


def compress(clip_vision, adapter_file, method="adapter", num_tokens=0):
    image = reference()
    patch_mask, _ = rebinarize(clip_vision, image)
    tokens, _ = outputs(PFVImageEncode, clip_vision=clip_vision, reference=image, patch_mask=patch_mask, mode="drop")
    (adapter,) = outputs(MEPAAdapterLoader, adapter_name=adapter_file.name)
    return outputs(PFVTokenCompress, image_tokens=tokens, adapter=adapter, method=method, num_tokens=num_tokens)


def test_wrong_encoder_for_the_adapter(plus_adapter_file, linear_adapter_file):
    """An encoder whose projection has the width of the right one's hidden state, as bigG's 1280 is ViT-H's."""
    wrong = models.tiny_clip_vision(width=128, projection_dim=models.VISION_WIDTH)
    with pytest.raises(
        ValueError, match=r"4 layers, hidden 128, projection 64.*hidden state has 128 channels.*takes 64"
    ):
        compress(wrong, plus_adapter_file)
    with pytest.raises(ValueError, match="image embedding has 64 channels; this linear adapter takes 32"):
        compress(wrong, linear_adapter_file)


def test_compression_that_an_adapter_does_not_have(tiny_clip_vision, plus_adapter_file, linear_adapter_file):
    with pytest.raises(ValueError, match="method is cluster, but a linear adapter takes one pooled embedding"):
        compress(tiny_clip_vision, linear_adapter_file, method="cluster")
    with pytest.raises(ValueError, match="num_tokens is 8, but this adapter's file fixes 16"):
        compress(tiny_clip_vision, plus_adapter_file, num_tokens=8)
    with pytest.raises(ValueError, match="method is 'average', expected one of"):
        compress(tiny_clip_vision, plus_adapter_file, method="average")


class TestAdapterFiles:
    """Files that people have in models/ipadapter and that are something else."""

    @pytest.fixture
    def write(self, plus_adapter_file):
        def written(change, name="wrong.safetensors"):
            tensors = dict(load_file(plus_adapter_file))
            tensors = change(tensors) or tensors
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, plus_adapter_file.parent / name)
            return name

        return written

    def refused(self, name, message):
        with pytest.raises(ValueError, match=message):
            outputs(MEPAAdapterLoader, adapter_name=name)

    def test_face_id(self, write):
        self.refused(write(lambda t: t.update({"ip_adapter.0.to_q_lora.down.weight": torch.ones(1, 1)})), "is a FaceID")

    def test_kolors(self, write):
        self.refused(write(lambda t: t.update({"image_proj.latents": torch.ones(1, 16, 2048)})), "for Kolors")

    def test_flux(self, write):
        only = {"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": torch.ones(1, 1)}
        self.refused(write(lambda t: only), "for Flux")

    def test_big_g(self, write, linear_adapter_file, tiny_clip_vision):
        """The file is right for its own encoder, and says which that is where another one encoded."""
        tensors = load_file(linear_adapter_file)
        tensors["image_proj.proj.weight"] = torch.ones(4 * models.CONTEXT_DIM, 1280)
        name = write(lambda t: tensors)
        outputs(MEPAAdapterLoader, adapter_name=name)
        with pytest.raises(ValueError, match=r"this linear adapter takes 1280: .* by this width is CLIP-ViT-bigG-14$"):
            compress(tiny_clip_vision, types.SimpleNamespace(name=name))

    def test_lora(self, write):
        only = {"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": torch.ones(1, 1)}
        self.refused(write(lambda t: only), "a LoRA: load it with a LoRA loader")

    def test_truncated(self, plus_adapter_file):
        path = plus_adapter_file.parent / "short.safetensors"
        path.write_bytes(plus_adapter_file.read_bytes()[:-1000])
        self.refused(path.name, f"not a whole safetensors file.*{path.stat().st_size} bytes")

    def test_a_pickle_that_runs_code_does_not_run(self, plus_adapter_file, tmp_path):
        class Payload:
            def __reduce__(self):
                return (open, (str(tmp_path / "ran"), "w"))

        path = plus_adapter_file.parent / "wrong.bin"
        torch.save({"image_proj": Payload()}, path)
        self.refused(path.name, "a pickle that holds more than tensors.*Use the .safetensors version")
        assert not (tmp_path / "ran").exists()

    def test_a_pickle_of_tensors_is_read(self, plus_adapter_file, tiny_clip_vision):
        nested = {"image_proj": {}, "ip_adapter": {}}
        for key, tensor in load_file(plus_adapter_file).items():
            part, name = key.split(".", 1)
            nested[part][name] = tensor
        path = plus_adapter_file.parent / "tensors.bin"
        torch.save(nested, path)
        got, expected = (image_prompt(tiny_clip_vision, file) for file in (path, plus_adapter_file))
        assert torch.equal(got.positive, expected.positive)

    def test_a_name_outside_the_folder(self, tmp_path):
        (tmp_path / "secret.safetensors").write_bytes(b"x")
        with pytest.raises(FileNotFoundError):
            outputs(MEPAAdapterLoader, adapter_name=f"../../../../..{tmp_path}/secret.safetensors")


class TestModels:
    """Models that an image prompt cannot go into."""

    def test_no_cross_attention(self, prompt):
        class Flux(torch.nn.Module):
            pass

        inner = torch.nn.Module()
        inner.diffusion_model = Flux()
        model = comfy.model_patcher.ModelPatcher(inner, torch.device("cpu"), torch.device("cpu"))
        with pytest.raises(ValueError, match="MEPA Apply: the model is a Flux, which is no U-Net with attention"):
            apply(model, prompt)

    def test_another_family(self, prompt):
        refiner = models.tiny_model("vega", context_dim=1280)
        with pytest.raises(
            ValueError, match=r"for sdxl with a context of 64 channels.*context has 1280 .the SDXL refiner"
        ):
            apply(refiner, prompt)

    def test_other_widths(self, prompt):
        with pytest.raises(
            ValueError, match="input level 1 transformer 0 block 0 the adapter has 64 channels, the model 128"
        ):
            apply(models.tiny_model("vega", channels=64), prompt)

    def test_more_cross_attentions_than_the_adapter_has(self, tiny_model_of, tiny_clip_vision, host_base_directory):
        sd15 = tiny_model_of("sd15")
        path = adapter_files.write_plus_adapter(
            host_base_directory / "models" / "ipadapter" / "sd15.safetensors",
            adapter_files.cross_attention_widths(sd15.model.diffusion_model),
            encoder_width=models.VISION_WIDTH,
            context_dim=models.CONTEXT_DIM,
        )
        with pytest.raises(
            ValueError, match=r"adapter's 16 layers do not cover this model: .* of its 70 cross-attentions"
        ):
            apply(tiny_model_of("sdxl"), image_prompt(tiny_clip_vision, path))


class TestApply:
    """Regions, batches and windows."""

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"region": torch.zeros(1, 128, 128)}, "region selects nothing"),
            ({"region": right_half() * 2}, "region spans 0..2"),
            ({"region": right_half() * float("nan")}, "region spans nan..nan"),
            ({"region": torch.rand(1, 2, 128, 128)}, r"region is \(1, 2, 128, 128\), expected a MASK"),
            ({"gate": "both"}, "gate is 'both', expected one of"),
            ({"start_percent": 0.8, "end_percent": 0.2}, "start_percent is 0.8, end_percent 0.2"),
            ({"text_share": 1.5}, "text_share is 1.5"),
        ],
    )
    def test_options(self, tiny_model, prompt, option, message):
        with pytest.raises(ValueError, match=message):
            apply(tiny_model, prompt, **option)

    @pytest.mark.parametrize(
        ("region", "size", "message"),
        [
            (right_half(96, 128), {}, "region is 96x128, the image being sampled is 128x128"),
            (right_half(batch=3), {"batch": 2}, r"region is a batch of 3, 2 image\(s\) are being sampled"),
        ],
    )
    def test_what_only_the_latent_can_tell_is_told_before_the_first_step(
        self, tiny_model, prompt, region, size, message
    ):
        patched = apply(tiny_model, prompt, region=region)
        with recorded_calls() as calls, pytest.raises(ValueError, match=message):
            sample(patched, **size)
        assert calls == []

    def test_token_batch(self, tiny_model, tiny_clip_vision, plus_adapter_file):
        three = image_prompt(tiny_clip_vision, plus_adapter_file, image=reference(batch=3))
        with recorded_calls() as calls, pytest.raises(ValueError, match=r"image prompt is a batch of 3, 2 image\(s\)"):
            sample(apply(tiny_model, three), batch=2)
        assert calls == []

    def test_a_patch_that_changes_the_number_of_queries(self, tiny_model, prompt):
        merged = tiny_model.clone()
        merged.set_model_attn2_patch(lambda n, context, value, options: (n[:, ::2], context, value))
        with pytest.raises(RuntimeError, match="another patch changed the number of queries to 32, the grid is 8x8"):
            sample(apply(merged, prompt, region=right_half()))

    def test_a_patch_that_changes_the_number_of_rows(self, tiny_model, prompt):
        doubled = tiny_model.clone()
        doubled.set_model_attn2_patch(lambda n, *contexts: tuple(t.repeat(2, 1, 1) for t in (n, *contexts[:2])))
        with pytest.raises(RuntimeError, match="number of rows in attention from 2 to 4 without saying which image"):
            sample(apply(doubled, prompt))


class TestProduct:
    """Depth Compose and Strict-ID Composite."""

    def composite(self, **changes):
        mask = torch.zeros(1, 64, 64)
        mask[:, 20:40, 20:40] = 1
        inputs = {
            "generated": reference(64, 64),
            "product": reference(64, 64, seed=1),
            "product_mask": mask,
            "product_mask_selects": "product",
            "erode": 2,
            "feather": 4,
        }
        return outputs(StrictIDComposite, **{**inputs, **changes})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"generated": reference(64, 72)}, r"generated is \(1, 3, 64, 72\), product \(1, 3, 64, 64\)"),
            ({"product_mask": torch.zeros(1, 64, 64)}, "product_mask 0 selects nothing"),
            ({"product_mask": torch.ones(1, 64, 64)}, "product_mask 0 selects the whole image"),
            ({"product_mask": torch.ones(1, 32, 64)}, "product_mask is 32x64, its image is 64x64"),
            ({"product_mask_selects": "both"}, "product_mask_selects is 'both'"),
            ({"erode": 20}, "nothing of product 0 is left after eroding its mask by 20 px"),
            ({"erode": -1}, "erode is -1"),
            ({"product": torch.rand(1, 64, 64, 4)}, "product has 4 channels"),
            ({"product": reference(64, 64) * float("nan")}, "product spans nan"),
        ],
    )
    def test_composite(self, change, message):
        with pytest.raises(ValueError, match=message):
            self.composite(**change)

    def test_depth(self):
        mask = torch.zeros(1, 64, 64)
        mask[:, 20:40, 20:40] = 1
        inputs = {
            "foreground_depth": reference(64, 64),
            "product_mask": mask,
            "product_mask_selects": "product",
            "reference_depth": reference(64, 64),
            "fill": "far",
        }
        with pytest.raises(ValueError, match="fill is 'near', expected one of"):
            outputs(PFVDepthCompose, **{**inputs, "fill": "near"})
        with pytest.raises(ValueError, match=r"foreground_depth is \(1, 3, 64, 64\), reference_depth \(1, 3, 32, 64\)"):
            outputs(PFVDepthCompose, **{**inputs, "reference_depth": reference(32, 64)})
        with pytest.raises(ValueError, match=r"reference_depth spans \S+\.\.1\.99"):
            outputs(PFVDepthCompose, **{**inputs, "reference_depth": reference(64, 64) * 2})


# --- numbers that come by a wire --------------------------------------------------------------------------------------

NUMBERS = [
    pytest.param(node, one, id=f"{node.__name__}-{one.id}")
    for node in NODES
    for one in node.GET_SCHEMA().inputs
    if isinstance(one, io.Int.Input | io.Float.Input)
]


@pytest.mark.parametrize(("node", "widget"), NUMBERS)
def test_a_number_is_held_to_its_widgets_range(node, widget):
    """Before the node looks at anything else."""
    whole = isinstance(widget, io.Int.Input)
    for value in (
        widget.min - 1,
        widget.max + 1,
        float("nan"),
        str(widget.default),
        True,
        None,
        *([0.5] if whole else []),
    ):
        with pytest.raises(
            ValueError,
            match=rf"{node.GET_SCHEMA().display_name}: {widget.id} is {re.escape(repr(value))}, expected .*number",
        ):
            outputs(node, **{widget.id: value})
    for value in (widget.min, widget.max, widget.default):
        with pytest.raises(TypeError, match="missing"):  # of the others
            outputs(node, **{widget.id: value})


class GivenNumber:
    """A FLOAT that no widget is asked for."""

    RETURN_TYPES = ("FLOAT",)
    FUNCTION = "give"
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})

    def give(self):
        return (5.5,)


def test_a_number_that_comes_by_a_wire_is_held_to_its_range(tiny_model, plus_adapter_file, monkeypatch):
    """The host looks at what is typed, not at what a node gives."""
    prompt = full_prompt(plus_adapter_file.name, strength=["number", 0])
    prompt["number"] = {"class_type": "GivenNumber", "inputs": {}}
    with queue_for(tiny_model) as queue:
        monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, "GivenNumber", GivenNumber)
        assert queue.run(prompt) is None
        (error,) = queue.events("execution_error")
    assert error["node_type"] == "MEPAApply"
    assert (
        "MEPA Apply: strength is 5.5, expected a number from 0.0 to 5.0: change the node" in error["exception_message"]
    )
