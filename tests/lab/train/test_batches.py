"""What of a sample is dropped, hidden and ruled, and that it depends on nothing but its place in the run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lab.train.batches import Batches, read_ahead
from lab.train.data import DataError, image_folder
from pfv_core.attention.control import Gate
from pfv_core.reference.vit import EncoderSpec

from .test_data import write_images
from .tiny_models import PATCH, SIZE, Squares, tiny_config

SPEC = EncoderSpec(SIZE, PATCH, 2, 16, 12)


def batches(dataset=None, process=0, num_processes=1, **changes):
    return Batches(dataset or Squares(), tiny_config(**changes), SPEC, process, num_processes)


def rows(source, steps):
    """Every sample of some steps: (index, has_image, masked, has a region)."""
    found = []
    for step in range(steps):
        batch = source[step]
        for item, caption in enumerate(batch.captions):
            masked = not bool(batch.keep_mask[item].all())
            region = batch.region is not None and not bool((batch.region[item] == 1).all())
            found.append((caption, bool(batch.has_image[item]), masked, region))
    return found


def assert_equal(one, other):
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, field.name


def test_a_step_is_the_same_whoever_makes_it():
    for step in (0, 5, 2):
        assert_equal(batches()[step], batches()[step])
    source = batches()
    source[7]
    assert_equal(source[2], batches()[2])


def test_processes_take_parts_of_the_same_step():
    whole = batches(batch_size=6)[3]
    parts = [batches(batch_size=3, process=process, num_processes=2)[3] for process in (0, 1)]
    for name in ("image", "keep_mask", "text_share", "has_image", "time_ids"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name
    assert whole.captions == parts[0].captions + parts[1].captions
    assert whole.gate == parts[0].gate == parts[1].gate


def test_shares_of_the_paper():
    """5 % text only; masks and regions in half of the others, everything visible and unbounded in the other half."""
    found = rows(batches(text_only_share=0.05, region_share_unmasked=0, region_kinds="visible=1", steps=300), 300)
    with_image = [row for row in found if row[1]]
    assert 0.02 < 1 - len(with_image) / len(found) < 0.08
    assert 0.45 < sum(row[2] for row in with_image) / len(with_image) < 0.55
    assert all(row[2] == row[3] for row in with_image)
    assert not any(row[2] or row[3] for row in found if not row[1])


def test_dropped_text():
    captions = [row[0] for row in rows(batches(drop_text_share=0.3), 100)]
    assert 0.2 < captions.count("") / len(captions) < 0.4


def test_dataset_mask_hides_the_product():
    batch = batches(mask_share=1, text_only_share=0, hide_kinds="dataset=1", region_kinds="visible=1")[0]
    product = Squares().sample(0, None).product_mask > 0
    assert torch.equal(batch.keep_mask, (~product).expand(4, -1, -1))
    assert torch.equal(batch.region, batch.keep_mask.float())
    assert bool((batch.text_share == 0).all())
    assert all(key.endswith(".dataset") for key in batch.token_keys)


def test_dataset_region():
    batch = batches(
        mask_share=0, text_only_share=0, region_share_unmasked=1, region_kinds="dataset=1", text_share=0.25
    )[0]
    assert bool(batch.keep_mask.all())
    assert torch.equal(batch.region[0], Squares().sample(0, None).region)
    assert bool((batch.text_share == 0.25).all())


def test_without_regions_there_is_none():
    batch = batches(region_share_masked=0, region_share_unmasked=0)[0]
    assert batch.region is None
    assert bool((batch.text_share == 1).all())


def test_random_masks_leave_a_patch_and_are_not_cached():
    for step in range(20):
        batch = batches(mask_share=1, text_only_share=0, hide_kinds="half_plane=1,patches=1")[step]
        cells = batch.keep_mask.view(4, SIZE // PATCH, PATCH, SIZE // PATCH, PATCH).transpose(2, 3).flatten(3).all(3)
        assert bool(cells.flatten(1).any(1).all())
        assert batch.token_keys == [""] * 4


def test_gates_by_their_weights():
    source = batches(gates="query=1,output=3")
    gates = [source[step].gate for step in range(200)]
    assert 0.65 < gates.count(Gate.OUTPUT) / 200 < 0.85


def test_read_ahead_is_the_same(tmp_path):
    """With and without worker processes, from any step."""
    dataset = image_folder(write_images(tmp_path), SIZE)
    source = batches(dataset, batch_size=2)
    for workers in (0, 1):
        read = list(read_ahead(source, 3, 6, workers))
        assert [batch.step for batch in read] == [3, 4, 5]
        for batch in read:
            assert_equal(batch, source[batch.step])


def test_too_few_samples():
    with pytest.raises(DataError, match="the dataset has 3 samples, a batch takes 4"):
        batches(Squares(3))


def test_missing_masks(tmp_path):
    dataset = image_folder(write_images(tmp_path, masks=False), SIZE)
    with pytest.raises(DataError, match=r"5 of the images .*have no mask"):
        batches(dataset)
    batches(dataset, hide_kinds="strokes=1")


def test_missing_region(tmp_path):
    dataset = image_folder(write_images(tmp_path), SIZE)
    source = batches(dataset, text_only_share=0, region_kinds="dataset=1", region_share_unmasked=1)
    with pytest.raises(DataError, match=r"image\d.* has no region, region_kinds dataset needs one"):
        source[0]


def broken(tmp_path):
    folder = write_images(tmp_path)
    (folder / "image1.png").write_bytes(b"no image")
    return image_folder(folder, SIZE)


def test_broken_image_stops(tmp_path):
    with pytest.raises(DataError, match=r"image1.png cannot be read"):
        batches(broken(tmp_path), batch_size=5)[0]


def test_broken_image_is_skipped_and_told(tmp_path):
    batch = batches(broken(tmp_path), batch_size=5, broken_images="skip", mask_share=0, drop_text_share=0)[0]
    assert sorted(batch.captions) == ["caption 0", "caption 2", "caption 2", "caption 3", "caption 4"]
    assert len(batch.skipped) == 1
    assert "image1.png" in batch.skipped[0]


def test_every_image_broken(tmp_path):
    folder = write_images(tmp_path)
    for file in [*folder.glob("*.jpg"), *folder.glob("image?.png")]:
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="every one of the 5 samples is broken"):
        batches(image_folder(folder, SIZE), batch_size=5, broken_images="skip")[0]


def test_mask_over_everything():
    class Covered(Squares):
        def sample(self, index, generator):
            return dataclasses.replace(super().sample(index, generator), product_mask=torch.ones(SIZE, SIZE))

    with pytest.raises(DataError, match=r"the mask of square \d+ hides every patch"):
        batches(Covered(), mask_share=1, text_only_share=0, hide_kinds="dataset=1")[0]
