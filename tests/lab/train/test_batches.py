"""What of a sample is dropped, hidden and ruled, and that it depends on nothing but its place in the run."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

from lab.train.batches import read_ahead, time_ids
from lab.train.data import DataError, Sample
from lab.train.image_files import open_dataset
from lab.train.prompt_rows import require_masks
from lab.train.visibility import on_latents
from pfv_core.attention.control import Gate
from pfv_core.attention.query_mask import query_mask

from .made_images import write_images
from .tiny_models import PATCH, SIZE, Squares, tiny_batches, tiny_config

CPU = torch.device("cpu")
DROPS = ("drop_image_share", "drop_text_share", "drop_both_share")
NO_DROPS = dict.fromkeys(DROPS, 0)


def rows(source, count):
    """The first samples of a run."""
    return [source.rows.at(position, []) for position in range(count)]


def assert_equal(one, other):
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, field.name


def test_a_step_is_the_same_whoever_makes_it():
    for step in (0, 5, 2):
        assert_equal(tiny_batches()[step], tiny_batches()[step])
    source = tiny_batches()
    source[7]
    assert_equal(source[2], tiny_batches()[2])


def test_time_ids_are_of_the_picture_before_it_was_cut():
    sample = Sample(torch.zeros(3, 64, 64), "", original_size=(100, 200), crop=(3, 7))
    assert time_ids(sample) == [100, 200, 3, 7, 64, 64]


def test_processes_take_parts_of_the_same_step():
    whole = tiny_batches(batch_size=6)[3]
    parts = [tiny_batches(batch_size=3, process=process, num_processes=2)[3] for process in (0, 1)]
    for name in ("image", "pixels", "patches", "region", "text_share", "has_image", "time_ids"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name
    assert whole.captions == parts[0].captions + parts[1].captions
    assert whole.gate == parts[0].gate == parts[1].gate


def test_shares_of_the_paper():
    """5 % text only; masks and regions in half of the others, everything visible and unbounded in the other half."""
    found = rows(tiny_batches(**NO_DROPS, region_share_unmasked=0, region_kinds="visible=1"), 600)
    masked = [not bool(row.keep_mask.all()) for row in found]
    bounded = [not bool((row.region == 1).all()) for row in found]
    assert 0.45 < sum(masked) / len(masked) < 0.55
    assert masked == bounded
    text_only = rows(tiny_batches(**{**NO_DROPS, "drop_image_share": 0.05}, region_share_unmasked=0), 800)
    without = [row for row in text_only if not row.has_image]
    assert 0.03 < len(without) / len(text_only) < 0.07
    assert all(row.caption and bool(row.keep_mask.all()) and bool((row.region == 1).all()) for row in without)
    assert {row.text_share for row in without} == {1.0}


def test_image_text_or_both_are_dropped_as_in_the_public_training():
    """One of three things happens to a sample, or none."""
    found = rows(tiny_batches(drop_image_share=0.1, drop_text_share=0.2, drop_both_share=0.3), 600)
    kinds = {(False, True): "image", (True, False): "text", (False, False): "both", (True, True): "none"}
    counts = Counter(kinds[row.has_image, bool(row.caption)] for row in found)
    for kind, share in (("image", 0.1), ("text", 0.2), ("both", 0.3), ("none", 0.4)):
        assert abs(counts[kind] / len(found) - share) < 0.05, counts


def test_a_negative_has_the_region_of_a_positive():
    """Guidance gives both chunks the same region: so the negative is trained with one."""
    settings = {"mask_share": 0, "region_share_unmasked": 1, "region_kinds": "half_plane=1", "text_share": 0.25}
    shown = rows(tiny_batches(**NO_DROPS, **settings), 8)
    negative = rows(tiny_batches(**{**NO_DROPS, "drop_both_share": 1}, **settings), 8)
    for one, other in zip(shown, negative, strict=True):
        assert torch.equal(one.region, other.region)
        assert (one.text_share, other.text_share) == (0.25, 0.25)
        assert (other.caption, other.has_image, other.token_key) == ("", False, "")


def test_a_dropped_image_reaches_nothing_of_the_batch_but_the_target():
    """Its pixels are zeros, normalised: what the negative's tokens are made of."""
    batch = tiny_batches(**{**NO_DROPS, "drop_both_share": 1})[0]
    assert not bool(batch.pixels.any())
    assert bool(batch.patches.all())
    assert bool(batch.image.any())


def test_dataset_mask_hides_the_product():
    source = tiny_batches(**NO_DROPS, mask_share=1, hide_kinds="dataset=1", region_kinds="visible=1")
    product = Squares().sample(0, None).product_mask > 0
    for row in rows(source, 4):
        assert torch.equal(row.keep_mask, ~product)
        assert torch.equal(row.region, row.keep_mask.float())
        assert row.text_share == 0
        assert row.token_key.endswith(".dataset")
    seen = (~product).view(SIZE // PATCH, PATCH, SIZE // PATCH, PATCH).transpose(1, 2).flatten(2).all(2).flatten()
    assert torch.equal(source[0].patches, seen.expand(4, -1))


def test_dataset_region():
    settings = {"mask_share": 0, "region_share_unmasked": 1, "region_kinds": "dataset=1", "text_share": 0.25}
    source = tiny_batches(**NO_DROPS, **settings)
    region = Squares().sample(0, None).region
    assert torch.equal(source.rows.at(0, []).region, region)
    batch = source[0]
    assert bool(batch.patches.all())
    assert torch.equal(batch.region, on_latents(region[None]).expand(4, -1, -1))
    assert bool((batch.text_share == 0.25).all())


@pytest.mark.parametrize("latent", [(8, 8), (5, 7), (9, 4)])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_region_on_latents_gives_every_layer_what_its_pixels_give(latent, level):
    """To the bit, for regions of zeros and ones, at odd sizes too."""
    height, width = (8 * side for side in latent)
    region = (torch.rand(3, height, width, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    region[0], region[1] = 1, 0
    grid = tuple(-(-side // 2**level) for side in latent)
    small = on_latents(region)
    assert small.shape == (3, *latent)
    assert torch.equal(query_mask(small, grid, latent).float(), query_mask(region, grid, latent).float())


def test_without_regions_there_is_none():
    batch = tiny_batches(region_share_masked=0, region_share_unmasked=0)[0]
    assert batch.region is None
    assert bool((batch.text_share == 1).all())


def test_random_masks_leave_a_patch_and_are_not_cached():
    for step in range(20):
        batch = tiny_batches(**NO_DROPS, mask_share=1, hide_kinds="half_plane=1,patches=1")[step]
        assert bool(batch.patches.any(1).all())
        assert batch.token_keys == [""] * 4


def test_hidden_pixels_are_not_in_a_batch():
    """Whatever lies under a hidden patch, what the encoder gets is the same to the bit."""

    class Painted(Squares):
        def sample(self, index, generator):
            sample = super().sample(index, generator)
            return dataclasses.replace(
                sample, image=torch.where(sample.product_mask > 0, 1 - sample.image, sample.image)
            )

    settings = {**NO_DROPS, "mask_share": 1, "hide_kinds": "dataset=1"}
    one, other = tiny_batches(**settings)[0], tiny_batches(Painted(), **settings)[0]
    assert not torch.equal(one.image, other.image)
    assert torch.equal(one.pixels, other.pixels)
    shown = {**settings, "mask_share": 0}
    assert not torch.equal(tiny_batches(**shown)[0].pixels, tiny_batches(Painted(), **shown)[0].pixels)


def test_gates_by_their_weights():
    source = tiny_batches(gates="query=1,output=3")
    gates = [source[step].gate for step in range(60)]
    assert 0.65 < gates.count(Gate.OUTPUT) / 60 < 0.85


def test_read_ahead_is_the_same(tmp_path):
    """With and without worker processes, from any step."""
    dataset = open_dataset(write_images(tmp_path), SIZE)
    source = tiny_batches(dataset, batch_size=2)
    for workers in (0, 1):
        read = list(read_ahead(source, 3, 6, workers, CPU))
        assert [batch.step for batch in read] == [3, 4, 5]
        for batch in read:
            assert_equal(batch, source[batch.step])


def test_too_few_samples():
    with pytest.raises(DataError, match="there are 3 samples to train on, a batch takes 4"):
        tiny_batches(Squares(3))


def test_missing_masks(tmp_path):
    dataset = open_dataset(write_images(tmp_path, masks=False), SIZE)
    with pytest.raises(DataError, match=r"5 of the images .*have no mask"):
        require_masks(dataset, tiny_config())
    require_masks(dataset, tiny_config(hide_kinds="strokes=1"))
    require_masks(dataset, tiny_config(mask_share=0))
    require_masks(Squares(), tiny_config())


def test_missing_region(tmp_path):
    dataset = open_dataset(write_images(tmp_path), SIZE)
    source = tiny_batches(dataset, drop_image_share=0, region_kinds="dataset=1", region_share_unmasked=1)
    with pytest.raises(DataError, match=r"image\d.* has no region, region_kinds dataset needs one"):
        source[0]


def broken(tmp_path):
    folder = write_images(tmp_path)
    (folder / "image1.png").write_bytes(b"no image")
    return open_dataset(folder, SIZE)


def test_broken_image_stops(tmp_path):
    with pytest.raises(DataError, match=r"image1.png cannot be read"):
        tiny_batches(broken(tmp_path), batch_size=5)[0]


def test_broken_image_is_skipped_and_told(tmp_path):
    batch = tiny_batches(broken(tmp_path), batch_size=5, broken_images="skip", mask_share=0, **NO_DROPS)[0]
    assert sorted(batch.captions) == ["caption 0", "caption 2", "caption 2", "caption 3", "caption 4"]
    assert len(batch.skipped) == 1
    assert "image1.png" in batch.skipped[0]


def test_every_image_broken(tmp_path):
    folder = write_images(tmp_path)
    for file in [*folder.glob("*.jpg"), *folder.glob("image?.png")]:
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="every one of the 5 samples is broken"):
        tiny_batches(open_dataset(folder, SIZE), batch_size=5, broken_images="skip")[0]


def test_mask_over_everything():
    class Covered(Squares):
        def sample(self, index, generator):
            return dataclasses.replace(super().sample(index, generator), product_mask=torch.ones(SIZE, SIZE))

    with pytest.raises(DataError, match=r"the mask of square \d+ hides every patch"):
        tiny_batches(Covered(), mask_share=1, drop_image_share=0, hide_kinds="dataset=1")[0]


class OnPinnedMemory(torch.Tensor):
    """A tensor that says it was pinned: there is no GPU here to pin for."""


def test_every_tensor_of_a_batch_is_pinned_and_nothing_else_changes(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone().as_subclass(OnPinnedMemory))
    batch = tiny_batches()[0]
    pinned = batch.pin_memory()
    assert_equal(pinned, batch)
    tensors = [value for value in vars(pinned).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6 + (batch.region is not None)
    assert all(isinstance(tensor, OnPinnedMemory) for tensor in tensors)


@pytest.mark.parametrize(("device", "expected"), [("cpu", False), ("mps", False), ("cuda", True)])
def test_batches_for_a_gpu_come_in_pinned_memory(monkeypatch, device, expected):
    given = {}
    monkeypatch.setattr("lab.train.batches.DataLoader", lambda *_, **options: given.update(options) or [])
    list(read_ahead(tiny_batches(), 0, 1, 0, torch.device(device)))
    assert given["pin_memory"] is expected
