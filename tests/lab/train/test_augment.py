"""Degradation of references: what changes, what does not, and that it depends on the sample's place in the run alone."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from lab.train.augment import Degradation, Displacement, degrade, displace
from lab.train.batches import read_ahead
from lab.train.config import ConfigError, preset
from lab.train.data import seeded
from lab.train.loop import TrainingStateError

from .tiny_models import PATCH, Squares, tiny_batches, tiny_config
from .tiny_runs import ADAPTER, losses

NO_DROPS = {"drop_image_share": 0, "drop_text_share": 0, "drop_both_share": 0}
OFF = {"noise": 0.0, "shadow": 0.0, "warp": 0.0, "view": 0.0}
STRONG = {"augment_share": 1.0, "augment_noise": 0.2, "augment_warp": 5.0, "augment_view": 30.0}


def picture(height: int = 48, width: int = 64):
    return torch.rand(3, height, width, generator=seeded(1, 0, "picture"))


def everything(image):
    return torch.ones(image.shape[1:], dtype=torch.bool)


def alone(position: int = 0, image=None, keep_mask=None, **limits):
    """Degraded by some of the limits, the others 0."""
    image = picture() if image is None else image
    keep_mask = everything(image) if keep_mask is None else keep_mask
    return degrade(image, keep_mask, Degradation(**{**OFF, **limits}), seeded(3, position, "augment"))


def test_all_off_changes_no_bit():
    image, keep_mask = picture(), picture()[0] > 0.5
    out, mask = alone(image=image, keep_mask=keep_mask)
    assert torch.equal(out, image)
    assert torch.equal(mask, keep_mask)


@pytest.mark.parametrize("name", OFF)
def test_each_kind_changes_the_picture_and_stays_in_range(name):
    limits = {name: {"noise": 0.3, "shadow": 0.8, "warp": 8.0, "view": 30.0}[name]}
    for position in range(5):
        out, mask = alone(position, **limits)
        assert not torch.equal(out, picture())
        assert 0 <= float(out.min()) <= float(out.max()) <= 1
        assert bool(mask.all())


def test_noise_is_as_large_as_it_is_drawn():
    """On mid-grey, where nothing is cut off: the deviations of many draws spread evenly from 0 to the limit."""
    grey = torch.full((3, 48, 64), 0.5)
    spread = [float((alone(position, image=grey, noise=0.1)[0] - grey).std()) for position in range(200)]
    assert max(spread) < 0.1 * 1.05
    assert 0.045 < sum(spread) / len(spread) < 0.055


def test_a_shadow_only_takes_light_and_no_colour():
    image = picture().clamp_min(0.1)
    for position in range(10):
        share = alone(position, image=image, shadow=0.6)[0] / image
        assert torch.allclose(share[0], share[1], atol=1e-6)
        assert 0.4 - 1e-6 <= float(share.min()) < 1
        assert float(share.max()) <= 1
        assert float((share[0, 1:] - share[0, :-1]).abs().max()) < 0.5  # its edge is soft


def test_a_warp_moves_no_pixel_further_than_its_limit():
    """On a ramp of columns the value of a pixel says where it came from."""
    ramp = ((torch.arange(64) + 0.5) / 64).expand(3, 48, 64)
    moved = [(alone(position, image=ramp, warp=4.0)[0] - ramp).abs().max() for position in range(50)]
    assert 0.01 < float(max(moved)) <= 0.04 + 1e-5


def test_a_view_is_a_perspective():
    """Where each pixel came from, read off two ramps, fits one homography; and the middle stays where it is."""
    side = 65
    ramp = (torch.arange(side) + 0.5) / side
    image = torch.stack([ramp[None].expand(side, -1), ramp[:, None].expand(-1, side), torch.zeros(side, side)])
    inner = slice(20, 45)  # far from the border, where the picture goes on as it ends
    for position in range(10):
        out = alone(position, image=image, view=30.0)[0]
        assert torch.allclose(out[:2, 32, 32], torch.tensor(0.5), atol=1e-5)
        u, v, x, y = (t[inner, inner].flatten().double() - 0.5 for t in (image[0], image[1], out[0], out[1]))
        one, none = torch.ones_like(u), torch.zeros_like(u)
        rows = [
            torch.stack([u, v, one, none, none, none, -u * x, -v * x], 1),
            torch.stack([none, none, none, u, v, one, -u * y, -v * y], 1),
        ]
        fit = torch.linalg.lstsq(torch.cat(rows), torch.cat([x, y])[:, None]).solution
        assert float((torch.cat(rows) @ fit - torch.cat([x, y])[:, None]).abs().max()) < 1e-5
        assert float(fit[6:].abs().max()) > 1e-4  # it is no affine map


def test_a_turned_plane_by_hand():
    """20 degrees about the vertical axis, camera 2 sides away: rotation and projection of a point written out."""
    import math

    from lab.train.augment import CAMERA, _turned

    angle = math.radians(20)
    for x, y in itertools.product((-0.8, 0.3), (-0.5, 0.7)):
        depth = 2 * CAMERA + x * math.sin(angle)
        pixel = 2 * CAMERA * x * math.cos(angle) / depth, 2 * CAMERA * y / depth
        along, across = _turned(torch.tensor(pixel[0]), torch.tensor(pixel[1]), angle)
        assert math.isclose(float(along), x, abs_tol=1e-6)
        assert math.isclose(float(across), y, abs_tol=1e-6)


def test_nothing_hidden_reaches_a_visible_pixel():
    """Whatever stands under the mask, NaN too: the visible pixels are the same bits, and the hidden part moved along."""
    image, keep_mask = picture(), everything(picture())
    keep_mask[12:30, 20:44] = False
    strong = {"noise": 0.2, "shadow": 0.6, "warp": 6.0, "view": 30.0}
    for position in range(10):
        out, mask = alone(position, image, keep_mask, **strong)
        assert not torch.equal(mask, keep_mask)
        assert 0.2 < float((~mask).float().mean()) / float((~keep_mask).float().mean()) < 5
        for filling in (0.0, 1.0, float("nan")):
            other, other_mask = alone(position, torch.where(keep_mask, image, filling), keep_mask, **strong)
            assert torch.equal(other_mask, mask)
            assert torch.equal(other[:, mask], out[:, mask])


def test_a_weight_of_zero_takes_nothing_of_a_hidden_nan():
    """Past the upper border the first row goes on; the second, hidden one has a part of exactly 0 in it."""
    image, keep_mask = picture(), everything(picture())
    keep_mask[1:20] = False
    seen = 0
    for position in range(10):
        out, mask = alone(position, torch.where(keep_mask, image, float("nan")), keep_mask, view=45.0)
        assert torch.isfinite(out[:, mask]).all()
        seen += int(mask[:8].sum())
    assert seen > 0


def test_the_same_place_draws_the_same_numbers_whatever_the_limits():
    first = degrade(picture(), everything(picture()), Degradation(), generator := seeded(3, 0, "augment"))
    again = degrade(picture(), everything(picture()), Degradation(), seeded(3, 0, "augment"))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    off = seeded(3, 0, "augment")
    degrade(picture(), everything(picture()), Degradation(**OFF), off)
    assert torch.equal(generator.get_state(), off.get_state())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"noise": 1.5}, "noise is 1.5, expected 0 to 1"),
        ({"shadow": -0.1}, "shadow is -0.1, expected 0 to 1"),
        ({"warp": 12.0}, "warp is 12.0, expected 0 to 10"),
        ({"view": 60.0}, "view is 60.0, expected 0 to 45"),
        ({"view": float("nan")}, "view is nan"),
    ],
)
def test_bad_limits(limits, message):
    with pytest.raises(ValueError, match=message):
        Degradation(**limits)
    with pytest.raises(ConfigError, match=f"augment_{message}"):
        preset("sdxl").replace(**{f"augment_{name}": value for name, value in limits.items()})


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"image is \(3, 48, 64\), keep_mask \(48, 48\)"):
        degrade(picture(), torch.ones(48, 48, dtype=torch.bool), Degradation(), seeded(0, 0, "x"))


# --- in the trainer ---------------------------------------------------------------------------------------------------


def rows(source, count=4):
    """The first samples of a run."""
    return [source.rows.at(position, []) for position in range(count)]


def is_degraded(row):
    return not torch.equal(row.reference, row.sample.image)


def test_it_is_off_unless_asked_for():
    assert preset("sdxl").augment_share == preset("sd15").augment_share == 0.0
    found = rows(tiny_batches())
    assert not any(map(is_degraded, found))
    assert any(row.token_key for row in found)


def test_the_target_and_everything_else_stay_as_they_are():
    """Its numbers are its own: with it on, the same samples, masks and regions come as with it off."""
    plain, degraded = tiny_batches(mask_share=0), tiny_batches(mask_share=0, **STRONG)
    for step in range(5):
        one, other = plain[step], degraded[step]
        for name in (field.name for field in dataclasses.fields(one)):
            if name in ("pixels", "patches", "token_keys"):
                continue
            left, right = getattr(one, name), getattr(other, name)
            assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, name
        for item, has_image in enumerate(other.has_image.tolist()):
            assert torch.equal(one.pixels[item], other.pixels[item]) is not has_image
        assert other.token_keys == [""] * 4  # never the same twice: nothing to cache


def test_the_hidden_part_moves_with_the_reference_and_the_region_does_not():
    settings = {"mask_share": 1, **NO_DROPS, "hide_kinds": "dataset=1", "region_kinds": "visible=1"}
    bare = {**STRONG, "augment_shadow": 0.0, "augment_noise": 0.0}
    for one, other in zip(rows(tiny_batches(**settings)), rows(tiny_batches(**settings, **bare)), strict=True):
        assert torch.equal(one.region, other.region)
        assert not torch.equal(one.keep_mask, other.keep_mask)
        background = one.sample.image[:, 0, 0].view(3, 1)
        visible = other.reference[:, other.keep_mask]  # no edge of the product is left in sight
        assert torch.allclose(visible, background.expand_as(visible), atol=1e-5)


def test_the_share_of_samples():
    found = rows(tiny_batches(**NO_DROPS, mask_share=0, augment_share=0.3), 200)
    assert 0.2 < sum(map(is_degraded, found)) / len(found) < 0.4


def test_read_ahead_and_processes_make_the_same():
    source = tiny_batches(**STRONG)
    for ahead in read_ahead(source, 2, 4, 0, torch.device("cpu")):
        assert torch.equal(ahead.pixels, source[ahead.step].pixels)
    whole = tiny_batches(batch_size=6, **STRONG)[3]
    parts = [tiny_batches(None, process, 2, batch_size=3, **STRONG)[3] for process in (0, 1)]
    assert torch.equal(whole.pixels, torch.cat([part.pixels for part in parts]))


def test_a_sample_of_which_nothing_would_be_seen_stays_as_it_is():
    """One visible patch: a degradation that hides it too is not taken."""

    class OnePatch(Squares):
        def sample(self, index, generator):
            sample = super().sample(index, generator)
            product = torch.ones(self.size, self.size)
            product[:PATCH, :PATCH] = 0
            return dataclasses.replace(sample, product_mask=product)

    settings = {"mask_share": 1, **NO_DROPS, "hide_kinds": "dataset=1"}
    batch = tiny_batches(OnePatch(), **settings, **STRONG)[0]
    assert batch.patches.sum(1).tolist() == [1] * 4


def test_the_adapter_sees_the_degraded_reference(tmp_path):
    settings = {"mask_share": 0, **NO_DROPS}
    training = ADAPTER.starter(tmp_path)(**settings, **STRONG)
    degraded, clean = training.batches[1], tiny_batches(**settings)[1]
    seen = float(training.loss(degraded).detach())
    otherwise = float(training.loss(dataclasses.replace(degraded, pixels=clean.pixels)).detach())
    training.close()
    assert seen != otherwise


def test_stop_and_go_on(tmp_path):
    """Resumed in the middle, the losses are the same bits."""
    start = ADAPTER.starter(tmp_path)
    for folder, stops in (("whole", (None,)), ("parts", (1, 4, None))):
        for stop in stops:
            start(name=folder, **STRONG).run(stop)
    assert losses(start(name="whole", **STRONG)) == losses(start(name="parts", **STRONG))


def test_a_run_without_it_goes_on_and_one_with_it_is_another_run(tmp_path):
    assert not {name for name in tiny_config().identity if name.startswith("augment")}
    assert tiny_config(**STRONG).identity["augment_view"] == 30.0
    start = ADAPTER.starter(tmp_path)
    start().run(2)
    with pytest.raises(TrainingStateError, match=r"augment_share is None there and 1.0 here"):
        start(**STRONG)


def displaced(position=0, image=None, keep_mask=None, **limits):
    image = picture() if image is None else image
    keep_mask = everything(image) if keep_mask is None else keep_mask
    still = {"turn": 0.0, "flip": 0.0, "area": 1.0}
    return displace(image, keep_mask, Displacement(**{**still, **limits}), seeded(3, position, "appearance"))


def test_an_appearance_that_is_not_displaced_is_itself():
    out, mask = displaced()
    torch.testing.assert_close(out, picture(), rtol=0, atol=1e-5)
    assert bool(mask.all())


def test_a_mirrored_appearance_is_its_mirror_image():
    torch.testing.assert_close(displaced(flip=1.0)[0], picture().flip(2), rtol=0, atol=1e-5)
    mirrored = [torch.allclose(displaced(n, flip=0.5)[0], picture().flip(2), atol=1e-5) for n in range(100)]
    assert 30 < sum(mirrored) < 70


def test_a_cut_out_keeps_its_share_of_the_area():
    """Of a slope the values that are left span the square root of the share."""
    slope = torch.linspace(0, 1, 64).expand(3, 64, 64).contiguous()
    spans = [float(out.max() - out.min()) for out in (displaced(n, slope, area=0.25)[0] for n in range(60))]
    assert 0.47 < min(spans) < 0.6
    assert 0.9 < max(spans) <= 1.0


@pytest.mark.parametrize("shape", [(48, 48), (48, 64)])
def test_a_turn_keeps_angles_and_lengths(shape):
    """A disc stays a disc of its size, and what is hidden turns with it."""
    y, x = torch.meshgrid(torch.arange(shape[0]) - shape[0] / 2, torch.arange(shape[1]) - shape[1] / 2, indexing="ij")
    disc = (((y + 0.5) ** 2 + (x + 0.5 - 6) ** 2) < 64).float().expand(3, *shape).contiguous()
    hidden = (((y + 0.5) ** 2 + (x + 0.5 + 8) ** 2) < 36).float()
    for position in range(5):
        out, mask = displaced(position, disc, hidden == 0, turn=180.0)
        assert float(out[0].sum()) == pytest.approx(float(disc[0].sum()), rel=0.03)
        assert float((~mask).sum()) >= float(hidden.sum()) * 0.95
        assert not torch.equal(out, disc)


def test_no_hidden_value_reaches_a_visible_pixel_of_an_appearance():
    keep_mask = picture()[1] > 0.2
    bright = torch.where(keep_mask, picture(), float("nan"))
    for position in range(5):
        one, mask = displaced(position, picture(), keep_mask, turn=30.0, flip=0.5, area=0.25)
        other, same = displaced(position, bright, keep_mask, turn=30.0, flip=0.5, area=0.25)
        assert torch.equal(mask, same)
        assert torch.equal(torch.where(mask, one, 0.0), torch.where(mask, other, 0.0))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"turn": 181}, "turn is 181, expected 0 to 180"),
        ({"flip": 2}, "flip is 2, expected 0 to 1"),
        ({"area": 0}, "area is 0"),
    ],
)
def test_displacements_outside_their_range(limits, message):
    with pytest.raises(ValueError, match=message):
        Displacement(**limits)
