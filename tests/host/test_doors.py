"""What images and masks may be when they come in: overshoot, half precision, one channel, soft masks; and what is refused."""

from __future__ import annotations

import itertools
import json

import nodes as host_nodes
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pfv_mepa.nodes.ad.canvas_nodes import PFVAdCanvas, PFVAdCanvasFinish, PFVAdCanvasPlace
from pfv_mepa.nodes.ad.compose_nodes import PFVDepthCompose
from pfv_mepa.nodes.ad.product_nodes import StrictIDComposite
from pfv_mepa.nodes.extension import NODES
from pfv_mepa.nodes.host.content_cache import ContentCache
from pfv_mepa.nodes.host.files import fingerprint
from pfv_mepa.nodes.mepa.region_nodes import MEPARegionBuilder, MEPARegionFromMask
from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from pfv_mepa.nodes.research.scale_nodes import PFVScaleMap
from pfv_mepa.pfv_core import masks
from pfv_mepa.tests.host.sampling import outputs, reference

SIZE = (64, 96)
CANVAS = {
    "format": "custom",
    "custom_width": 128,
    "custom_height": 96,
    "sampling_scale": "1",
    "position": "center",
    "scale_by": "original",
    "share": 1.0,
    "margin": 0.0,
    **{f"safe_{side}": 0.0 for side in ("left", "top", "right", "bottom")},
    "x": 0.5,
    "y": 0.5,
    "region_rim": 0,
    "backdrop": 0.0,
}


def product_mask(value: float = 1.0) -> Tensor:
    """A product 30 wide and 20 high."""
    mask = torch.zeros(1, *SIZE)
    mask[:, 20:40, 30:60] = value
    return mask


def glass() -> Tensor:
    """The same with a translucent body: 8 rows of 10 pixels."""
    opacity = product_mask()
    opacity[:, 26:34, 40:50] = 0.4
    return opacity


def composite(mask: Tensor, selects: str = "product", erode: int = 2, feather: int = 2, **changes):
    inputs = {"generated": reference(*SIZE, seed=1), "product": reference(*SIZE, seed=2), **changes}
    return outputs(
        StrictIDComposite, product_mask=mask, product_mask_selects=selects, erode=erode, feather=feather, **inputs
    )


def depth(foreground: Tensor, background: Tensor, mask: Tensor, selects: str = "product", **changes) -> Tensor:
    inputs = {"foreground_depth": foreground, "reference_depth": background, "product_mask": mask}
    inputs |= {"product_mask_selects": selects, "fill": "far", **changes}
    return outputs(PFVDepthCompose, **inputs)[0]


def test_one_depth_serves_a_batch_of_products_and_one_product_a_batch_of_depths():
    first, second = product_mask(), product_mask().roll(9, 2)
    near, far = torch.full((1, *SIZE, 3), 0.9), reference(*SIZE, seed=3)
    for mask, own, other in (
        (torch.cat([first, second]), near.repeat(2, 1, 1, 1), far),
        (first, near, torch.cat([far, far.flip(1)])),
    ):
        both = depth(own, other, mask)
        for index in range(2):
            at = (min(index, len(part) - 1) for part in (own, other, mask))
            parts = (part[i : i + 1] for part, i in zip((own, other, mask), at, strict=True))
            assert torch.equal(both[index : index + 1], depth(*parts))
    with pytest.raises(ValueError, match="foreground_depth holds 2 pictures, reference_depth 3: give 1 of one of them"):
        depth(near.repeat(2, 1, 1, 1), far.repeat(3, 1, 1, 1), torch.cat([first, second]))


def test_values_that_are_no_picture_s_are_refused_wherever_they_come_from():
    """A sampler in half precision may give NaN: of such an ad nothing would be exact."""
    generated = reference(*SIZE, seed=1)
    generated[0, 0, 0, 0] = torch.nan
    for wrong in (generated, 255 * reference(*SIZE, seed=1)):
        with pytest.raises(ValueError, match=r"generated spans .*, expected finite values from 0 to 1"):
            composite(product_mask(), generated=wrong)
        *_, plan, _, _, _ = canvas(custom_width=SIZE[1], custom_height=SIZE[0], sampling_scale="1")
        with pytest.raises(ValueError, match=r"image spans .*, expected finite values from 0 to 1"):
            outputs(PFVAdCanvasFinish, image=wrong, canvas=plan)


def canvas(**changes):
    inputs = {"product": reference(*SIZE, seed=2), "product_mask": product_mask(), "product_mask_selects": "product"}
    return outputs(PFVAdCanvas, **{**CANVAS, **inputs, **changes})


@pytest.mark.parametrize(("scale_by", "share"), [("original", 1.0), ("height", 0.4)])
def test_a_photo_that_was_resized_is_not_called_the_photo_itself(scale_by, share):
    image, mask, _, plan, width, height, report = canvas(scale_by=scale_by, share=share)
    (placed,) = json.loads(report)["products"]
    result = StrictIDComposite.execute(
        reference(height, width, seed=1), image, mask, "product", erode=0, feather=0, canvas=plan
    )
    counted = json.loads(result.args[2])["ads"][0]
    scale = counted["scale"]
    (line,) = result.ui["pfv_line"]
    assert scale == pytest.approx(placed["scale"], abs=1e-4)
    assert (scale != 1) == counted["resized"] == placed["resized"] == (scale_by != "original")
    assert (f"pixels are the photo's, resized once by {scale:.3g}" in line) == placed["resized"]


class TestRange:
    """Resampling overshoots; anything further out is something else."""

    @pytest.mark.parametrize(("low", "high"), [(0.0, 1.00000012), (-0.2, 1.15), (-0.25, 1.25)])
    def test_what_resampling_overshoots_is_brought_back(self, low, high):
        mask = product_mask()
        out = torch.where(mask == 1, high, low)
        assert torch.equal(masks.mask_to_core(out, "mask"), mask)
        assert torch.equal(masks.within_range(out, "image"), mask)

    @pytest.mark.parametrize(
        ("low", "high", "said"), [(-0.26, 1, r"-0\.26\.\.1"), (0, 1.26, r"0\.\.1\.26"), (-1, 1, r"-1\.\.1")]
    )
    def test_what_is_out_by_more_is_refused_with_both_ends(self, low, high, said):
        values = torch.where(product_mask() == 1, float(high), float(low))
        with pytest.raises(ValueError, match=f"mask spans {said}, expected finite values from 0 to 1"):
            masks.mask_to_core(values, "mask")
        with pytest.raises(ValueError, match=f"image spans {said}, expected finite values from 0 to 1"):
            masks.within_range(values, "image")

    @pytest.mark.parametrize("kernel", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
    def test_a_resampled_mask_and_photo_are_taken_by_every_node_that_composites(self, kernel):
        def resampled(values: np.ndarray) -> np.ndarray:
            return np.asarray(Image.fromarray(values).resize((96, 64), kernel))

        small = np.zeros((13, 19), np.float32)
        small[4:9, 5:14] = 1
        mask = torch.from_numpy(resampled(small).copy())[None]
        assert mask.min() < -0.05
        assert mask.max() > 1.05
        photo = torch.stack([mask] * 3, -1)
        ad, exact, _ = composite(mask, product=photo, erode=0, feather=0)
        assert exact.any()
        assert torch.equal(ad[exact == 1], photo.clamp(0, 1)[exact == 1])
        assert canvas(product_mask=mask, product=photo)[0].max() == 1
        assert depth(photo, photo, mask).max() == 1

    def test_a_reference_that_overshoots_is_encoded_as_its_clamped_self_and_hidden_pixels_may_be_anything(
        self, tiny_clip_vision
    ):
        over = reference(224, 224, seed=3) * 1.3 - 0.15
        over[:, :28, :28] = float("nan")
        hidden = torch.zeros(1, 224, 224)
        hidden[:, :28, :28] = 1
        inputs = {"clip_vision": tiny_clip_vision, "fit": "stretch", "threshold": 0.0, "mask": hidden}
        patch_mask, _ = outputs(PFVMaskRebinarize, reference=over, **inputs)
        tokens = [
            outputs(PFVImageEncode, clip_vision=tiny_clip_vision, reference=image, patch_mask=patch_mask, mode="drop")[
                0
            ]
            for image in (over, over.clamp(0, 1))
        ]
        assert torch.equal(tokens[0].penultimate[0], tokens[1].penultimate[0])

    def test_whole_numbers_are_refused(self):
        with pytest.raises(ValueError, match=r"product holds torch\.uint8 values, expected floating-point ones"):
            composite(product_mask(), product=(255 * reference(*SIZE)).byte())


def eight_bit(image):
    """A picture as a file has it."""
    return (image * 255).round() / 255


class TestHalfPrecision:
    """As hosts with --fp16-intermediates hand it out: steps of 255 in half precision."""

    def test_the_exact_pixels_are_those_that_arrived(self):
        photo = eight_bit(reference(*SIZE, seed=2)).half()
        ad, exact, report = composite(product_mask(254 / 255).half(), product=photo, generated=reference(*SIZE).half())
        assert ad.dtype == exact.dtype == torch.float32
        assert json.loads(report)["exact"]
        assert exact.sum() == 16 * 26
        assert torch.equal(ad[exact == 1], eight_bit(reference(*SIZE, seed=2))[exact == 1])

    def test_canvas_depth_regions_and_scale_map(self):
        photo = eight_bit(reference(*SIZE, seed=2))
        half = {"product": photo.half(), "product_mask": product_mask().half()}
        image, mask, region, plan, *_ = canvas(**half)
        assert torch.equal(image[mask == 1].sort(0)[0], photo[product_mask() == 1].sort(0)[0])
        assert torch.equal(region, 1 - mask)
        placed = outputs(PFVAdCanvasPlace, image=half["product"][..., :1], canvas=plan, backdrop=0.0)[0]
        assert placed.dtype == torch.float32
        assert outputs(PFVAdCanvasFinish, image=image.half(), canvas=plan)[0].dtype == torch.float32
        assert depth(half["product"], half["product"], half["product_mask"]).dtype == torch.float32
        (grown,) = outputs(
            MEPARegionFromMask, mask=half["product_mask"], mask_selects="product", grow=1, softness=3, around=False
        )
        shared, *_ = outputs(MEPARegionBuilder, region_1=grown.half(), sharing="layers", image=half["product"])
        assert shared.dtype == torch.float32
        sizes = {"height_from": "ratio", "product_cm": 1.0, "subject_cm": 1.0, "height_ratio": 0.5, "center": 0.0}
        assert outputs(PFVScaleMap, **half, product_mask_selects="product", **sizes)[1].dtype == torch.float32

    def test_a_reference(self, tiny_clip_vision):
        image = eight_bit(reference(100, 100))
        inputs = {"clip_vision": tiny_clip_vision, "fit": "pad", "threshold": 0.0, "mask": None}
        patch_mask, _ = outputs(PFVMaskRebinarize, reference=image, **inputs)
        encoded = [
            outputs(PFVImageEncode, clip_vision=tiny_clip_vision, reference=each, patch_mask=patch_mask, mode="drop")[0]
            for each in (image, image.half())
        ]
        assert encoded[0].origin.key == encoded[1].origin.key


class TestOneChannel:
    """Depth estimators hand out one channel."""

    def test_it_stands_for_three(self):
        near, far = reference(*SIZE, seed=4)[..., :1], reference(*SIZE, seed=5)[..., :1]
        grey = [image.expand(-1, -1, -1, 3) for image in (near, far)]
        assert torch.equal(depth(near, far, product_mask()), depth(*grey, product_mask()))
        *_, plan, _, _, _ = canvas()
        placed = [outputs(PFVAdCanvasPlace, image=each, canvas=plan, backdrop=0.0)[0] for each in (near, grey[0])]
        assert torch.equal(*placed)

    def test_a_photo_is_none(self):
        with pytest.raises(ValueError, match=r"product has 1 channels, expected 3 \(RGB\)"):
            composite(product_mask(), product=reference(*SIZE)[..., :1])
        with pytest.raises(ValueError, match="foreground_depth has 4 channels"):
            depth(torch.rand(1, *SIZE, 4), reference(*SIZE), product_mask())


class TestSoftMask:
    """A translucent product is mixed by its own opacity; exact is what is opaque."""

    @pytest.mark.parametrize("selects", ["product", "background"])
    def test_glass_keeps_its_opacity_in_the_ad(self, selects):
        mask = glass() if selects == "product" else 1 - glass()
        generated, photo = reference(*SIZE, seed=1), reference(*SIZE, seed=2)
        ad, exact, report = composite(mask, selects)
        body = torch.isclose(glass(), torch.tensor(0.4))
        torch.testing.assert_close(ad[body], 0.4 * photo[body] + 0.6 * generated[body])
        assert not exact[body].any()
        assert exact.sum() == 16 * 26 - 80
        assert torch.equal(ad[exact == 1], photo[exact == 1])
        assert torch.equal(ad[glass() == 0], generated[glass() == 0])
        (counted,) = json.loads(report)["ads"]
        assert (counted["product_pixels"], counted["translucent_pixels"], counted["pixels_checked"]) == (600, 80, 336)
        assert json.loads(report)["exact"]

    def test_the_line_says_how_much_is_translucent(self):
        photo = (reference(*SIZE, seed=2) * 255).round() / 255
        inputs = reference(*SIZE, seed=1), photo, glass(), "product", 2, 2
        (line,) = StrictIDComposite.execute(*inputs).ui["pfv_line"]
        assert line == (
            "exact: 336 of 336 pixels are the photo's; translucent, so mixed with the ad: 80; in the picture orange: blended at "
            "the rim, blue: translucent"
        )

    def test_a_cut_out_of_glass_alone_is_composited_and_nothing_of_it_is_exact(self):
        """All of the mask that LoadImage makes of it is above a half: it is no whole image."""
        mask = 1 - product_mask(0.4)
        ad, exact, report = composite(mask, "background", erode=0, feather=0)
        generated, photo = reference(*SIZE, seed=1), reference(*SIZE, seed=2)
        inside = product_mask() == 1
        torch.testing.assert_close(ad[inside], 0.4 * photo[inside] + 0.6 * generated[inside])
        assert not exact.any()
        assert json.loads(report)["exact"] is False
        (region,) = outputs(MEPARegionFromMask, mask=mask, mask_selects="background", grow=0, softness=0, around=False)
        assert torch.equal(region, product_mask())
        assert torch.equal(depth(photo, torch.zeros_like(photo), mask, "background")[inside], photo[inside])

    def test_the_canvas_carries_the_opacity_to_the_composite(self):
        photo = reference(*SIZE, seed=2)
        image, mask, region, plan, width, height, _ = canvas(
            product_mask=1 - glass(), product_mask_selects="background"
        )
        assert mask.sum().item() == pytest.approx(glass().sum().item())
        assert (mask == 1).sum() == 600 - 80
        assert torch.equal(region == 0, mask > 0)
        generated = reference(height, width, seed=1)
        ad, exact, report = composite(mask, generated=generated, product=image, canvas=plan, erode=0, feather=0)
        body = torch.isclose(mask, torch.tensor(0.4))
        own = photo[0, 26:34, 40:50].flatten(0, 1)
        torch.testing.assert_close(ad[body], 0.4 * own + 0.6 * generated[body])
        assert json.loads(report)["ads"][0]["translucent_pixels"] == 80
        assert exact.sum() == 520

    def test_a_mask_of_the_canvas_the_wrong_way_round_is_refused(self):
        image, mask, _, plan, width, height, _ = canvas()
        with pytest.raises(ValueError, match=r"lie in 4 of the picture's corners.*set product_mask_selects to product"):
            composite(mask, "background", generated=reference(height, width), product=image, canvas=plan)

    def test_a_product_that_the_canvas_did_not_place_is_refused(self):
        """The photo itself has the frame's size here: its mask, or its pixels in the canvas's mask, would be pasted and counted
        as exact."""
        generated, photo = reference(*SIZE, seed=1), reference(*SIZE, seed=2)
        given = {"custom_width": SIZE[1], "custom_height": SIZE[0], "sampling_scale": "1", "position": "top"}
        image, mask, _, plan, *_ = canvas(product=photo, product_mask=product_mask(), **given)
        whole = {"generated": generated, "canvas": plan, "erode": 0, "feather": 0}
        assert json.loads(composite(mask, product=image, **whole)[2])["exact"] is True
        with pytest.raises(
            ValueError, match=r"product_mask selects .* pixels where the canvas has not placed product 0"
        ):
            composite(product_mask(), product=photo, **whole)
        with pytest.raises(ValueError, match=r"pixels of product 0 in columns .* are not what the canvas placed there"):
            composite(mask, product=photo, **whole)
        with pytest.raises(ValueError, match="product holds 2 pictures, the canvas 1"):
            composite(mask, product=image.repeat(2, 1, 1, 1), **whole | {"generated": generated.repeat(2, 1, 1, 1)})
        saved = (image * 255).round() / 255
        assert composite(mask, product=saved, **whole)[1].any()  # as a file brings it back

    @pytest.mark.parametrize(
        ("mask", "selects", "message"),
        [
            (torch.ones(1, *SIZE), "product", "product_mask 0 selects the whole image"),
            (torch.full((1, *SIZE), 254 / 255), "product", "product_mask 0 selects the whole image"),
            (torch.ones(1, *SIZE), "background", "product_mask 0 selects the whole image"),
            (torch.zeros(1, *SIZE), "background", "product_mask 0 selects nothing"),
            (product_mask(0.05), "product", r"spans 0\.\.0\.05, so that what it selects is 0\.05 opaque at most"),
            (1 - product_mask(0.05), "background", r"spans 0\.95\.\.1, so that what it lies around is 0\.05 opaque"),
        ],
    )
    def test_masks_without_a_product(self, mask, selects, message):
        with pytest.raises(ValueError, match=message):
            composite(mask, selects)

    def test_a_soft_mask_that_hides_everything_says_so(self, tiny_clip_vision):
        inputs = {"clip_vision": tiny_clip_vision, "fit": "pad", "threshold": 0.0, "reference": reference(*SIZE)}
        with pytest.raises(ValueError, match=r"mask 0 spans 0\.6\.\.0\.6, and what is above 0\.1 counts as selected"):
            outputs(PFVMaskRebinarize, **inputs, mask=torch.full((1, *SIZE), 0.6))


def test_nodes_begin_with_what_fits_the_mask_of_a_cut_out(host_base_directory):
    """A transparent PNG through LoadImage, with every node as it is shipped. RefAdGen's were told later, last and optional: what
    was saved without it means the product, and a cut-out's mask is refused there."""
    ports = [port for node in NODES for port in node.GET_SCHEMA().inputs if port.id == "product_mask_selects"]
    told = {default: [port for port in ports if port.default == default] for default in masks.Selects}
    assert [len(told[default]) for default in (masks.Selects.BACKGROUND, masks.Selects.PRODUCT)] == [5, 2]
    assert all(port.optional for port in told[masks.Selects.PRODUCT])
    rgba = np.full((*SIZE, 4), 200, np.uint8)
    rgba[..., 3] = 255 * product_mask()[0].numpy()
    rgba[rgba[..., 3] == 0] = 0  # as many programs save what is transparent: black
    (host_base_directory / "input").mkdir(exist_ok=True)
    Image.fromarray(rgba).save(host_base_directory / "input" / "transparent.png")
    product, mask = host_nodes.LoadImage().load_image("transparent.png")
    ad, exact, _ = composite(mask, ports[0].default, product=product)
    assert exact.sum() == 16 * 26
    assert (ad[exact == 1] > 0.5).all()
    assert torch.equal(ad[product_mask() == 0], reference(*SIZE, seed=1)[product_mask() == 0])


@pytest.mark.parametrize("painted", [False, True])
def test_what_a_crop_cuts_off_is_not_hidden_and_its_depth_is_used(tiny_clip_vision, painted):
    """Re-binarize with crop, then Depth Compose: both sides of a wide reference keep their depth."""
    image, background = reference(100, 200, seed=6), reference(100, 200, seed=7)
    mask = torch.zeros(1, 100, 200)
    mask[:, 40:60, 5:20] = mask[:, 40:60, 90:110] = 1  # in the part that is cut off, and in the middle
    inputs = {"clip_vision": tiny_clip_vision, "reference": image, "fit": "crop", "threshold": 0.0}
    _, hidden = outputs(PFVMaskRebinarize, **inputs, mask=mask if painted else None)
    assert hidden.any() == painted
    assert hidden[mask == 1].all() == painted
    assert not hidden[:, :30].any()
    product = torch.zeros(1, 100, 200)
    product[:, 70:90, 20:60] = 1
    composed = depth(reference(100, 200, seed=8), background, product, hidden_mask=hidden)
    kept = (hidden == 0) & (product == 0)
    assert kept.float().mean() > (0.8 if painted else 0.95)
    assert torch.equal(composed[kept], background[kept])


class TestContentCache:
    """Bounded by bytes."""

    def test_the_least_recently_used_goes_first(self):
        cache, computed = ContentCache[str](limit=3, size=len), itertools.count()
        get = lambda key: cache.get_or_compute(key, lambda: f"{next(computed) % 10}")  # noqa: E731
        assert [get(key) for key in "abcabc"] == list("012012")
        assert [get(key) for key in "ad"] == list("03")
        assert [get(key) for key in "acd"] == list("023")
        assert get("b") == "4"
        assert len(cache) == 3

    def test_one_that_is_too_large_is_given_and_not_kept_and_empties_nothing(self):
        cache = ContentCache[str](limit=4, size=len)
        cache.get_or_compute("a", lambda: "aa")
        cache.get_or_compute("b", lambda: "bb")
        assert [cache.get_or_compute("large", lambda: "x" * 5) for _ in range(2)] == ["xxxxx"] * 2
        assert len(cache) == 2
        assert cache.get_or_compute("a", lambda: "other") == "aa"
        assert cache.get_or_compute("b", lambda: "other") == "bb"
        assert cache.get_or_compute("fits", lambda: "y" * 4) == "yyyy"
        assert len(cache) == 1


def test_a_fingerprint_is_the_files_and_changes_with_it(plus_adapter_file):
    found = fingerprint("ipadapter", plus_adapter_file.name)
    stat = plus_adapter_file.stat()
    assert found == (plus_adapter_file.name, stat.st_size, stat.st_mtime_ns)
    assert fingerprint("ipadapter", "none.safetensors") == ("none.safetensors", 0, 0)
    assert fingerprint("ipadapter", None) == ("", 0, 0), "of a name that another node will say"


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_host_can_send_a_nodes_description_to_the_page(node):
    """An old host, such as 0.3.64, sends what a node lists as choices as it is, and a class is no JSON."""
    assert json.loads(json.dumps(node.GET_NODE_INFO_V1()))["name"] == node.GET_SCHEMA().node_id


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_photos_pixels_survive_half_precision_into_the_saved_file(dtype):
    """The host saves by cutting off: what stood for a step of 255 in half precision must not become the step below."""
    steps = torch.arange(256).repeat(3)[None, None, :].expand(1, 8, -1) / 255
    photo = steps[..., None].expand(-1, -1, -1, 3).contiguous().to(dtype)
    mask = torch.zeros(1, 8, 768)
    mask[:, :, :4] = 1
    ad, exact, _ = outputs(
        StrictIDComposite,
        generated=torch.zeros(1, 8, 768, 3),
        product=photo,
        product_mask=mask,
        product_mask_selects="background",
        erode=0,
        feather=0,
    )
    saved = (255.0 * ad.numpy()).clip(0, 255).astype("uint8")
    wanted = (photo.float() * 255).round().to(torch.uint8).numpy()
    inside = exact[0].bool().numpy()
    assert inside.sum() > 5000
    assert (saved[0][inside] == wanted[0][inside]).all()
