"""PFV Cut Out, PFV Ground, PFV Product Depth: who says what is in a picture, what is refused, what is shown."""

from __future__ import annotations

import json

import pytest
import torch

from pfv_mepa.nodes.ad.cut_out_nodes import PFVCutOut
from pfv_mepa.nodes.ad.ground_nodes import PFVGround, PFVProductDepth
from pfv_mepa.pfv_core.found import photo as photo_module
from pfv_mepa.pfv_core.found.depth import plain_depth
from pfv_mepa.tests.host.sampling import outputs
from pfv_mepa.tests.support.found_once import found_once

SIZE = (120, 160)
WHITE, RED, BLUE, TABLE = (0.92, 0.92, 0.92), (0.8, 0.1, 0.1), (0.1, 0.1, 0.8), (0.5, 0.35, 0.2)


@pytest.fixture(scope="module", autouse=True)
def _each_photo_is_looked_at_once():
    with found_once(photo_module):
        yield


def box(top=30, bottom=90, left=60, right=100):
    """MASK (1, H, W) as the mask editor leaves it: 254/255."""
    mask = torch.zeros(1, *SIZE)
    mask[:, top:bottom, left:right] = 254 / 255
    return mask


def photo(*boxes, colours=(RED, BLUE), ground=WHITE):
    """IMAGE (1, H, W, 3) of things on plain ground."""
    image = torch.tensor(ground).repeat(1, *SIZE, 1)
    for one, colour in zip(boxes, colours, strict=False):
        image[one > 0] = torch.tensor(colour)
    return image


def cut_out(image=None, **inputs):
    usual = {"mask_selects": "background", "several_parts": False, "cut_off": False}
    image = photo(box()) if image is None else image
    with torch.inference_mode():
        made = PFVCutOut.execute(image, **{**usual, **inputs})
    mask, report = made.args
    return mask, json.loads(report), made.ui["pfv_line"][0]


SOLID = (box() > 0).float()


class TestCutOut:
    """Painted before found before what stands out."""

    def test_what_stands_out_is_the_product(self):
        mask, report, line = cut_out()
        assert torch.equal(mask, SOLID)
        assert report == {"source": "plain_ground", "sure": report["sure"], "share": 0.125, "parts": 1}
        assert report["sure"] > 0.95
        assert line == f"found on its ground, sure to {report['sure']:.2f}: 12% of the photo"

    @pytest.mark.parametrize("selects", ["background", "product"])
    def test_painted_wins_and_is_taken_as_it_is(self, selects):
        painted = box(10, 40, 0, 50)  # at the border, nothing stands out there: a person says so
        given = painted if selects == "product" else 1 - painted
        mask, report, line = cut_out(mask=given, mask_selects=selects, found=box())
        assert torch.equal(mask, (painted > 0).float())
        assert report == {"source": "painted", "sure": None, "share": 0.0781, "parts": 1}
        assert line == "painted: 8% of the photo, cut off at the left"

    def test_the_transparency_of_a_file_keeps_its_soft_values(self):
        transparent = 1 - 0.6 * SOLID
        assert torch.equal(cut_out(mask=transparent)[0], 1 - transparent)

    @pytest.mark.parametrize("empty", [torch.zeros(1, 64, 64), torch.zeros(1, *SIZE), torch.full((1, *SIZE), 1 / 255)])
    def test_an_empty_mask_paints_nothing(self, empty):
        assert cut_out(mask=empty)[1]["source"] == "plain_ground"
        assert cut_out(mask=empty, found=box(0, 20, 30, 60), cut_off=True)[1]["source"] == "found"

    def test_what_a_model_found_wins_over_what_stands_out_and_loses_its_haze(self):
        found = torch.full((1, *SIZE), 0.09)
        found[:, 20:60, 20:60] = 0.91
        found[:, 60:62, 20:60] = 0.5
        mask, report, line = cut_out(found=found)
        expected = torch.zeros(1, *SIZE)
        expected[:, 20:60, 20:60] = 1
        expected[:, 60:62, 20:60] = 0.5
        assert torch.equal(mask, expected)
        assert report == {"source": "found", "sure": None, "share": 0.0875, "parts": 1}
        assert line == "found by the model that is connected: 9% of the photo"

    def test_specks_of_a_found_mask_are_left_out_and_that_is_said(self):
        found = box()
        found[:, 2:4, 2:4] = 1  # 4 pixels beside 2400
        mask, report, line = cut_out(found=found)
        assert torch.equal(mask, SOLID)
        assert report["parts"] == 1
        assert line.endswith("of the photo, 1 specks left out")

    def test_specks_of_paint_are_taken_and_that_is_said(self):
        painted = box()
        painted[:, 2:4, 2:4] = 1
        mask, report, line = cut_out(mask=painted, mask_selects="product")
        assert torch.equal(mask, (painted > 0).float())
        assert report["parts"] == 1
        assert line.endswith("painted: 13% of the photo, 1 specks with it")

    def test_small_things_beside_what_stands_out_are_left_out_and_that_is_said(self):
        mask, report, line = cut_out(photo(box(), box(14, 20, 20, 26), box(14, 20, 32, 38), colours=(RED, BLUE, RED)))
        assert torch.equal(mask, SOLID)
        assert report["parts"] == 1
        assert line.endswith("of the photo, 2 specks left out")

    def test_what_has_the_grounds_colour_within_it_is_said_or_refused(self):
        _, _, line = cut_out(photo(box(), box(60, 72, 76, 88), colours=(RED, BLUE), ground=BLUE))
        assert line.endswith("of the photo, 6% within its outline taken for holes: it has the ground's colour")
        with pytest.raises(ValueError, match=r"photo 0: 6% of what lies within the outline has the ground's colour"):
            cut_out(photo(box(), box(60, 72, 76, 88), colours=(RED, WHITE)))
        with pytest.raises(ValueError, match=r"photo 0: 69% of what lies within the outline has the ground's colour"):
            cut_out(photo(box(), box(34, 86, 64, 96), colours=(RED, BLUE), ground=BLUE))

    def test_what_is_enclosed_is_what_the_person_says(self):
        phone = photo(box(), box(34, 86, 64, 96), colours=(RED, WHITE))
        with pytest.raises(ValueError, match=r"Or set enclosed to holes, or to product, if that is what it is"):
            cut_out(phone)
        mask, _, line = cut_out(phone, enclosed="product")
        assert torch.equal(mask, SOLID)
        assert line.endswith("69% within its outline taken for the product: it has the ground's colour")
        mask, _, line = cut_out(phone, enclosed="holes")
        assert not mask[:, 36:84, 66:94].any()
        assert line.endswith("69% within its outline taken for holes: it has the ground's colour")
        slit = photo(box(), box(34, 86, 64, 96), box(50, 62, 56, 66), colours=(RED, WHITE, WHITE))
        with pytest.raises(
            ValueError, match=r"the outline is open, so that it cannot be filled: .* Or set enclosed to holes if that"
        ):
            cut_out(slit, enclosed="product")
        with pytest.raises(ValueError, match="enclosed is 'both', expected one of"):
            cut_out(mask=box(), mask_selects="product", enclosed="both")

    def test_several_things(self):
        two = photo(box(30, 90, 20, 50), box(30, 90, 110, 140))
        with pytest.raises(ValueError, match=r"photo 0 shows 2 separate things: switch several_parts on"):
            cut_out(two)
        mask, report, line = cut_out(two, several_parts=True)
        assert torch.equal(mask, ((box(30, 90, 20, 50) + box(30, 90, 110, 140)) > 0).float())
        assert report["parts"] == 2
        assert line.endswith("of the photo, 2 parts")
        found = box(30, 90, 20, 50) + box(30, 90, 110, 140)
        with pytest.raises(ValueError, match="photo 0 shows 2 separate things"):
            cut_out(found=found)
        assert cut_out(mask=found, mask_selects="product")[1]["parts"] == 2  # painted so

    def test_a_product_at_the_border(self):
        at_border = photo(box(60, 120, 60, 100))
        with pytest.raises(
            ValueError, match=r"photo 0: the product touches the bottom of the photo.*switch cut_off on"
        ):
            cut_out(at_border)
        mask, _, line = cut_out(at_border, cut_off=True)
        assert torch.equal(mask, (box(60, 120, 60, 100) > 0).float())
        assert line.endswith("of the photo, cut off at the bottom")
        with pytest.raises(ValueError, match="touches the top and the left of the photo"):
            cut_out(found=box(0, 50, 0, 50))

    def test_each_photo_of_a_batch_has_its_own_mask(self):
        two = torch.cat([box(), box(20, 60, 20, 60)])
        mask, *_ = cut_out(torch.cat([photo(box()), photo(box())]), found=two)
        assert torch.equal(mask, (two > 0).float())

    def test_masks_and_what_they_select_that_do_not_go_together(self):
        with pytest.raises(
            ValueError, match=r"the product would lie in 4 of the picture's corners: .* set mask_selects to product"
        ):
            cut_out(mask=box())
        with pytest.raises(
            ValueError, match=r"the product would lie in 4 of the picture's corners: .* set mask_selects to background"
        ):
            cut_out(mask=1 - box(), mask_selects="product")
        with pytest.raises(ValueError, match="mask 0 selects the whole image"):
            cut_out(mask=torch.ones(1, *SIZE))

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"found": torch.zeros(1, *SIZE)}, "found 0 selects nothing: nothing was found in the photo"),
            ({"found": torch.full((1, *SIZE), 0.09)}, "found 0 selects nothing"),
            ({"found": torch.zeros(0, *SIZE)}, "found 0 selects nothing"),
            ({"found": torch.zeros(1, 64, 64)}, "found 0 selects nothing"),
            ({"found": torch.ones(1, *SIZE)}, "found 0 selects the whole photo"),
            ({"found": torch.ones(1, 30, 40)}, "found is 30x40, its image is 120x160"),
            (
                {"found": box().repeat(3, 1, 1)},
                "found holds 3 masks for 1 photos: switch individual_masks of SAM3 Detect off",
            ),
            ({"mask": box()[:, :50], "mask_selects": "product"}, "mask is 50x160, its image is 120x160"),
            ({"mask": box() * 255}, r"mask spans 0\.\.254"),
            ({"mask_selects": "both"}, "mask_selects is 'both', expected one of"),
            ({"image": photo()}, "photo 0: nothing stands out from the ground"),
            (
                {"image": torch.rand(1, *SIZE, 3, generator=torch.Generator().manual_seed(0))},
                "photo 0: what the product is",
            ),
            ({"image": torch.rand(0, *SIZE, 3)}, r"photo is empty, \(0, 120, 160, 3\): expected one picture or more"),
            ({"image": torch.rand(1, 1, 1, 3)}, "photo 0: the picture is 1x1 pixels"),
            ({"image": photo(box()) * 255}, r"photo 0 spans .* expected finite values"),
        ],
    )
    def test_what_is_refused(self, inputs, message):
        with pytest.raises(ValueError, match=message):
            cut_out(**inputs)

    def test_each_photo_of_a_batch_by_itself(self):
        photos = torch.cat([photo(box()), photo(box(20, 60, 20, 60))])
        masks = torch.cat([box(0, 20, 0, 40), torch.zeros(1, *SIZE)])
        mask, report, line = cut_out(photos, mask=masks, mask_selects="product")
        assert torch.equal(mask, torch.cat([(masks[:1] > 0).float(), (box(20, 60, 20, 60) > 0).float()]))
        assert [one["source"] for one in report] == ["painted", "plain_ground"]
        assert line.startswith("painted: 4% of the photo, cut off at the top and the left; found on its ground")
        with pytest.raises(ValueError, match="photo 1: nothing stands out"):
            cut_out(torch.cat([photo(box()), photo()]))

    def test_half_precision_gives_the_same(self):
        assert torch.equal(cut_out(photo(box()).half())[0], SOLID)
        assert torch.equal(cut_out(found=box().half())[0], SOLID)

    def test_the_preview_is_the_product_on_checks(self):
        with torch.inference_mode():
            made = PFVCutOut.execute(photo(box()), "background", False, False)
        assert len(made.ui["images"]) == 1

    def test_a_model_is_run_only_where_nothing_is_painted(self):
        def ask(**inputs):
            return PFVCutOut.check_lazy_status(photo=photo(box()), mask_selects="product", **inputs)

        assert ask(found=None) == ask(found=None, mask=torch.zeros(1, 64, 64)) == ["found"]
        assert ask(found=None, mask=box()) == []
        assert ask() == ask(found=box()) == []
        half = {"mask": torch.cat([box(), torch.zeros(1, *SIZE)]), "found": None}
        assert PFVCutOut.check_lazy_status(photo=photo(box()).repeat(2, 1, 1, 1), **half) == ["found"]


def scene():
    """A wall above a table, and a thing on it: IMAGE and MASK."""
    picture = torch.tensor((0.4, 0.6, 0.8)).repeat(1, *SIZE, 1)
    picture[:, 72:] = torch.tensor(TABLE)
    picture[box() > 0] = torch.tensor(RED)
    return picture, box()


def ground(picture=None, **inputs):
    image, hidden = scene()
    usual = {"ground_line": "automatic", "at": 0.5, "hidden_mask": hidden}
    with torch.inference_mode():
        made = PFVGround.execute(image if picture is None else picture, **{**usual, **inputs})
    line, depth, report = made.args
    return line, depth, json.loads(report), made.ui["pfv_line"][0]


class TestGround:
    """Where the ground begins, and the depth."""

    def test_the_line_is_found_and_the_depth_is_plain(self):
        line, depth, report, said = ground()
        assert line == pytest.approx(0.6)
        assert torch.equal(depth, plain_depth(SIZE, line)[None, :, :, None].expand(1, *SIZE, 3))
        assert report == {"line": 0.6, "source": "found", "sure": report["sure"], "depth": "plain"}
        assert said == f"ground from 60% of the height, found, sure to {report['sure']:.2f}; depth plain, by geometry"

    def test_what_is_set_is_not_looked_for(self):
        line, depth, report, said = ground(torch.rand(2, *SIZE, 3), ground_line="at", at=0.25, hidden_mask=None)
        assert line == 0.25
        assert torch.equal(depth[1, :, :, 0], plain_depth(SIZE, 0.25))
        assert report == {"line": 0.25, "source": "at", "sure": None, "depth": "plain"}
        assert said == "ground from 25% of the height, as set; depth plain, by geometry"

    def test_depth_that_is_connected_is_the_depth(self):
        given = torch.rand(1, 30, 40, 3)
        line, depth, report, said = ground(depth=given)
        assert line == pytest.approx(0.6)
        assert torch.equal(depth, given)
        assert report["depth"] == "connected"
        assert "; depth as connected" in said
        assert ground(depth=given[..., :1])[1].shape == (1, 30, 40, 3)

    def test_what_is_hidden_is_not_looked_at(self):
        image, hidden = scene()
        image[hidden > 0] = float("nan")
        assert ground(image)[0] == ground()[0]

    @pytest.mark.parametrize("empty", [None, torch.zeros(1, 64, 64), torch.zeros(1, *SIZE)])
    def test_nothing_hidden(self, empty):
        image = scene()[0]
        image[box() > 0] = torch.tensor((0.4, 0.6, 0.8))
        image[:, 72:] = torch.tensor(TABLE)
        assert ground(image, hidden_mask=empty)[0] == pytest.approx(0.6)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"picture": photo(), "hidden_mask": None}, "where the ground begins cannot be told"),
            (
                {"picture": scene()[0].repeat(2, 1, 1, 1)},
                "picture holds 2 pictures, and the ground begins elsewhere in each",
            ),
            ({"ground_line": "below"}, "ground_line is 'below', expected one of"),
            ({"hidden_mask": torch.ones(1, *SIZE)}, "hidden_mask 0 selects the whole image"),
            ({"hidden_mask": torch.ones(1, 30, 40)}, "hidden_mask is 30x40, its image is 120x160"),
            ({"depth": torch.full((1, 30, 40, 3), 7.0)}, r"depth spans 7\.\.7"),
        ],
    )
    def test_what_is_refused(self, inputs, message):
        with pytest.raises(ValueError, match=message):
            ground(**inputs)


def product_depth(**inputs):
    usual = {"product_mask": box(), "product_mask_selects": "product", "line": 0.6}
    with torch.inference_mode():
        made = PFVProductDepth.execute(**{**usual, **inputs})
    depth, report = made.args
    return depth, json.loads(report), made.ui["pfv_line"][0]


class TestProductDepth:
    """The depth of the product where it stands."""

    def test_as_near_as_the_ground_under_its_foot(self):
        depth, report, line = product_depth()
        near = plain_depth(SIZE, 0.6)[89, 0]
        assert torch.equal(depth, (SOLID * near)[..., None].expand(1, *SIZE, 3))
        assert report == {"source": "plain", "nearness": [round(near.item(), 4)], "hangs": [False]}
        assert line == f"flat, as near as {near:.2f}"
        assert torch.equal(product_depth(product_mask=1 - box(), product_mask_selects="background")[0], depth)

    def test_a_product_that_hangs_is_said_to(self):
        depth, report, line = product_depth(line=0.8)
        assert depth.max() == pytest.approx(0.12)
        assert report["hangs"] == [True]
        assert "its foot is above the ground line, so it hangs before the wall" in line

    def test_depth_that_is_connected_is_the_depth_on_the_product_alone(self):
        given = torch.rand(1, *SIZE, 3)
        outside = given.clone()
        outside[SOLID == 0] = float("nan")
        depth, report, line = product_depth(depth=outside)
        assert torch.equal(depth, given * SOLID[..., None])
        assert report == {"source": "connected", "nearness": None, "hangs": [False]}
        assert line == "as connected"

    def test_several_products(self):
        masks = torch.cat([box(), box(10, 118, 20, 40)])
        depth, report, _ = product_depth(product_mask=masks)
        assert depth.shape == (2, *SIZE, 3)
        assert report["nearness"][0] < report["nearness"][1]
        assert product_depth(product_mask=masks, depth=torch.rand(1, *SIZE, 3))[0].shape == (2, *SIZE, 3)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"depth": torch.rand(1, 30, 40, 3)}, "depth is 1 of 40x30, product_mask 1 of 160x120"),
            ({"depth": torch.rand(3, *SIZE, 3)}, "depth is 3 of 160x120, product_mask 1 of 160x120"),
            ({"depth": torch.full((1, *SIZE, 3), 7.0)}, "the product's depth spans"),
            ({"product_mask": torch.zeros(1, *SIZE)}, "product_mask 0 selects nothing"),
            ({"product_mask_selects": "both"}, "product_mask_selects is 'both', expected one of"),
        ],
    )
    def test_what_is_refused(self, inputs, message):
        with pytest.raises(ValueError, match=message):
            product_depth(**inputs)


@pytest.mark.parametrize("node", [PFVCutOut, PFVGround, PFVProductDepth])
def test_outputs_and_inputs_have_names_of_their_own_and_say_what_they_are(node):
    schema = node.GET_SCHEMA()
    ports = [*schema.inputs, *schema.outputs]
    assert len({port.id for port in ports}) == len(ports)
    assert all(port.tooltip for port in ports)


def test_a_chain_of_the_three_fits():
    """The photo's cut-out stands on the ground that the reference has."""
    image, hidden = scene()
    mask, _ = outputs(PFVCutOut, photo=photo(box()), mask_selects="background", several_parts=False, cut_off=False)
    line, depth, _ = outputs(PFVGround, picture=image, ground_line="automatic", at=0.5, hidden_mask=hidden)
    standing, _ = outputs(PFVProductDepth, product_mask=mask, product_mask_selects="product", line=line)
    foot = standing[0, 89, 80]
    assert torch.equal(foot, depth[0, 89, 80])


def test_a_model_that_is_half_sure_has_found_nothing_half_transparent():
    with pytest.raises(ValueError, match=r"found 0 is 0\.40 at most, expected more than 0\.5 somewhere"):
        cut_out(found=0.4 * SOLID)


@pytest.mark.parametrize("near", ["bright", "dark"])
def test_a_depth_that_does_not_near_downwards_is_said(near):
    depth = plain_depth(SIZE, 0.5)[None, :, :, None].expand(-1, -1, -1, 3)
    depth = depth if near == "bright" else 1 - depth
    with torch.inference_mode():
        made = PFVGround.execute(photo(), "at", 0.5, depth=depth)
    assert ("near must be bright" in made.ui["pfv_line"][0]) == (near == "dark")
