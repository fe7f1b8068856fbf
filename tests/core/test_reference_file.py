"""Saved references: exact round trip, keys that tell everything apart, and files that are refused."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import fields, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pfv_mepa.pfv_core.reference.file import ReferenceFileError, check_origin, load_reference, save_reference
from pfv_mepa.pfv_core.reference.fit import fit_geometry
from pfv_mepa.pfv_core.reference.origin import (
    EncodedReference,
    mask_hash,
    reference_origin,
    tensor_hash,
    weights_hash,
    with_origin,
)
from pfv_mepa.pfv_core.reference.patch_mask import rebinarize
from pfv_mepa.pfv_core.reference.vit import encode_image

from .tiny_vit import TinyVit

ENCODER = TinyVit().eval()
HEIGHT, WIDTH = 48, 40


def picture(batch=2, seed=0):
    return torch.rand(batch, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def keep_mask(batch=2, hidden=12):
    """Image i hides i + 1 times as many columns as the first."""
    keep = torch.ones(batch, HEIGHT, WIDTH, dtype=torch.bool)
    for index in range(batch):
        keep[index, :, : hidden * (index + 1)] = False
    return keep


def patch_mask_of(keep, fit="pad", threshold=0.0):
    return rebinarize(keep, fit_geometry(HEIGHT, WIDTH, 32, 8, fit), threshold)


def encoded(image=None, patch_mask=None, mode="drop", encoder=ENCODER) -> EncodedReference:
    image = picture() if image is None else image
    patch_mask = patch_mask_of(keep_mask()) if patch_mask is None else patch_mask
    with torch.no_grad():
        tokens = encode_image(encoder, image, patch_mask, mode)
    return with_origin(tokens, reference_origin(image, patch_mask, mode, weights_hash(encoder)))


def assert_same(first, second):
    assert type(first) is type(second)
    assert first.encoder == second.encoder
    assert first.origin == second.origin
    assert first.kept_share == second.kept_share
    for name in ("last", "penultimate"):
        for one, other in zip(getattr(first, name), getattr(second, name), strict=True):
            assert torch.equal(one, other), name
    assert torch.equal(first.image_embeds, second.image_embeds)
    assert torch.equal(first.uncond_penultimate, second.uncond_penultimate)


@pytest.mark.parametrize("mode", ["drop", "zero"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_saved_reference_comes_back_bit_for_bit(tmp_path, mode, batch):
    reference = encoded(picture(batch), patch_mask_of(keep_mask(batch)), mode)
    path = tmp_path / "below" / "a.safetensors"
    save_reference(path, reference)
    assert_same(load_reference(path), reference)
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_a_file_from_before_kept_shares_were_saved_has_none(tmp_path):
    reference = encoded()
    assert reference.kept_share is not None
    save_reference(tmp_path / "a.safetensors", replace(reference, kept_share=None))
    assert load_reference(tmp_path / "a.safetensors").kept_share is None


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 1.5), (0.5, "x"), (float("nan"), 0.5)])
def test_kept_shares_that_cannot_be_are_refused(tmp_path, shares):
    save_reference(tmp_path / "a.safetensors", replace(encoded(), kept_share=shares))
    with pytest.raises(ReferenceFileError, match="kept shares"):
        load_reference(tmp_path / "a.safetensors")


def test_the_hash_of_a_picture_is_that_of_all_its_visible_pixels_at_once():
    image, mask = picture(3), patch_mask_of(keep_mask(3, hidden=8))
    visible = torch.where(mask.visible_pixels()[:, None], image, 0.0)
    assert reference_origin(image, mask, "drop", "0" * 64).image == tensor_hash(visible)


def test_moving_keeps_the_origin():
    reference = encoded()
    assert_same(reference.to(torch.device("cpu")), reference)


def test_the_key_changes_with_all_that_changes_tokens_and_with_nothing_else():
    image, keep = picture(), keep_mask()
    base = encoded(image, patch_mask_of(keep))
    changed_pixel = image.clone()
    changed_pixel[1, 2, 5, WIDTH - 1] += 0.001
    other_mask = keep.clone()
    other_mask[0, 20:, 30:] = False
    other_weights = TinyVit().eval()
    with torch.no_grad():
        other_weights.blocks[1].fc1.weight[3, 7] += 1e-3
    others = {
        "a visible pixel": encoded(changed_pixel, patch_mask_of(keep)),
        "the mask": encoded(image, patch_mask_of(other_mask)),
        "the fit": encoded(image, patch_mask_of(keep, fit="stretch")),
        "the threshold": encoded(image, patch_mask_of(keep, threshold=0.5)),
        "the mode": encoded(image, patch_mask_of(keep), "zero"),
        "one weight": encoded(image, patch_mask_of(keep), encoder=other_weights),
        "the order": encoded(image.flip(0), patch_mask_of(keep)),
    }
    keys = {what: reference.origin.key for what, reference in others.items()}
    assert base.origin.key not in keys.values()
    assert len(set(keys.values())) == len(others)
    hidden = torch.where(patch_mask_of(keep).visible_pixels()[:, None], image, float("nan"))
    assert encoded(hidden, patch_mask_of(keep)).origin == base.origin


def test_hashes_tell_types_shapes_and_places_apart():
    values = torch.arange(6.0)
    variants = [values, values.view(2, 3), values.view(3, 2), values.double(), values.flip(0), values.int()]
    assert len({tensor_hash(variant) for variant in variants}) == len(variants)
    assert tensor_hash(values[::2]) == tensor_hash(values[::2].contiguous())
    mask = patch_mask_of(keep_mask())
    finer = rebinarize(keep_mask(), fit_geometry(HEIGHT, WIDTH, 64, 16, "pad"), 0.0)
    assert mask_hash(mask) != mask_hash(finer)  # the same patches of another encoder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("size", [1, 3, 5, 1000])
def test_every_bit_of_every_weight_counts(dtype, size):
    module = torch.nn.Module()
    values = torch.linspace(-1, 1, size).to(dtype)
    module.weight = torch.nn.Parameter(values.clone(), requires_grad=False)
    before = weights_hash(module)
    for place in (0, size // 2, size - 1):
        changed = values.clone()
        changed.view(torch.uint8)[place * changed.element_size()] ^= 1
        module.weight = torch.nn.Parameter(changed, requires_grad=False)
        assert weights_hash(module) != before
    module.weight = torch.nn.Parameter(values, requires_grad=False)
    assert weights_hash(module) == before


def test_weights_that_lie_at_an_odd_place_of_their_memory_hash_alike():
    module = torch.nn.Module()
    memory = torch.arange(101, dtype=torch.float16)
    module.weight = torch.nn.Parameter(memory[1:], requires_grad=False)
    odd = weights_hash(module)
    module.weight = torch.nn.Parameter(memory[1:].clone(), requires_grad=False)
    assert weights_hash(module) == odd


class TestWhatIsAskedFor:
    """A file made of something else than asked."""

    origin = encoded().origin

    def refused(self, message, **asked):
        with pytest.raises(ReferenceFileError, match=message):
            check_origin("cup.safetensors", self.origin, asked)

    def test_everything_right_and_nothing_asked(self):
        check_origin("cup.safetensors", self.origin, {})
        check_origin(
            "cup.safetensors", self.origin, {f.name: getattr(self.origin, f.name) for f in fields(self.origin)}
        )

    def test_each_difference_is_named(self):
        self.refused(r"^cup\.safetensors was encoded of another picture: choose", image="0" * 64)
        self.refused("was encoded by another encoder:", encoder="0" * 64)
        self.refused("was encoded with mode drop, asked for zero:", mode="zero")
        self.refused(r"with threshold 0\.0, asked for 0\.5", threshold=0.5)
        self.refused("by another encoder and with fit pad, asked for crop:", encoder="0" * 64, fit="crop")

    def test_pixels_are_not_compared_under_another_mask(self):
        self.refused("was encoded with another mask:", mask="0" * 64, image="0" * 64)
        self.refused(r"was encoded with threshold 0\.0, asked for 0\.5:", threshold=0.5, image="0" * 64)


class TestFiles:
    """Files that are no whole saved reference."""

    @pytest.fixture
    def path(self, tmp_path):
        save_reference(tmp_path / "cup.safetensors", encoded())
        return tmp_path / "cup.safetensors"

    def refused(self, path, message):
        with pytest.raises(ReferenceFileError, match=message):
            load_reference(path)

    def rewrite(self, path, tensors=None, **metadata):
        with safe_open(path, framework="pt") as file:
            known = file.metadata()
        kept = {name: value for name, value in {**known, **metadata}.items() if value is not None}
        save_file({**load_file(path), **(tensors or {})}, path, kept)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no saved reference at"):
            load_reference(tmp_path / "none.safetensors")

    def test_cut_short(self, path):
        path.write_bytes(path.read_bytes()[:-10])
        self.refused(path, "cup.safetensors is not a whole safetensors file")

    def test_a_pickle_is_not_opened(self, path):
        torch.save({"image_embeds": torch.ones(1)}, path)
        self.refused(path, "is not a whole safetensors file")

    @pytest.mark.parametrize(
        "header", [b"[" * 100_000, b"[]", b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}']
    )
    def test_a_header_of_something_else(self, path, header):
        """What safetensors reads and torch has no type for, too."""
        path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
        self.refused(path, "is not a whole safetensors file")

    def test_another_file_of_tensors(self, path):
        save_file({"image_proj.latents": torch.ones(1)}, path)
        self.refused(path, "is no saved reference .format None, expected pfv_reference")

    def test_another_version(self, path):
        self.rewrite(path, format_version="2")
        self.refused(path, "of format version 2, this package reads 1")

    @pytest.mark.parametrize(
        "metadata",
        [
            {"encoder": "[]"},
            {"encoder": None},
            {"encoder": json.dumps({"image_size": "224"})},
            {"origin": "not JSON"},
            {"origin": json.dumps({"image": "0" * 64})},
            {"content": None},
        ],
    )
    def test_metadata_that_does_not_read(self, path, metadata):
        self.rewrite(path, **metadata)
        self.refused(path, "no readable metadata of a saved reference")

    @pytest.mark.parametrize(
        "change",
        [{"mode": "hide"}, {"fit": "tile"}, {"threshold": 2.0}, {"threshold": "0"}, {"image": "../../x"}, {"mask": 3}],
    )
    def test_an_origin_with_impossible_values(self, path, change):
        with safe_open(path, framework="pt") as file:
            origin = json.loads(file.metadata()["origin"])
        self.rewrite(path, origin=json.dumps({**origin, **change}))
        self.refused(path, "no readable metadata")

    def test_an_origin_that_was_changed_afterwards(self, path):
        with safe_open(path, framework="pt") as file:
            origin = json.loads(file.metadata()["origin"])
        self.rewrite(path, origin=json.dumps({**origin, "mode": "zero"}))
        self.refused(path, "is damaged: its content is not what was saved")

    def test_a_value_that_was_changed_afterwards(self, path):
        embeds = load_file(path)["image_embeds"]
        embeds[0, 0] += 1e-6
        self.rewrite(path, {"image_embeds": embeds})
        self.refused(path, "is damaged")

    @pytest.mark.parametrize(
        ("tensors", "named"),
        [
            ({"extra": torch.ones(1)}, "extra"),
            ({"last.0": torch.ones(5, 99)}, "last.0"),
            ({"last.0": torch.ones(1, 16)}, "last.0"),
            ({"last.1": torch.ones(18, 16)}, "last.1"),
            ({"penultimate.1": torch.ones(3, 16)}, "penultimate.1"),
            ({"uncond_penultimate": torch.ones(1, 16, 16)}, "uncond_penultimate"),
            ({"image_embeds": torch.ones(3, 12)}, "last.2, penultimate.2"),
            ({"image_embeds": torch.ones(2, 12, dtype=torch.float16)}, "image_embeds"),
            ({"image_embeds": torch.ones(0, 12)}, "last.0, last.1, penultimate.0"),
            ({"image_embeds": torch.tensor(1.0)}, "image_embeds, last.0"),
        ],
    )
    def test_tensors_that_do_not_belong_together(self, path, tensors, named):
        self.rewrite(path, tensors)
        self.refused(path, f"does not hold together as a saved reference of a ViT of .*{named}")

    def test_a_failed_save_leaves_nothing_behind(self, path, monkeypatch):
        before = path.read_bytes()
        monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save_reference(path, encoded(mode="zero"))
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == [path.name]


def save_many(path, seed, rounds):
    reference = encoded(picture(seed=seed))
    for _ in range(rounds):
        save_reference(path, reference)


def test_writers_at_once_leave_one_whole_file_at_every_moment(tmp_path):
    """Threads would share one lock of the interpreter; these are processes."""
    path = tmp_path / "shared.safetensors"
    save_many(path, 0, 1)
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    writers = [context.Process(target=save_many, args=(path, seed, 40)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    seen = {load_reference(path).origin.image}
    while any(writer.is_alive() for writer in writers):
        seen.add(load_reference(path).origin.image)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    written = {encoded(picture(seed=seed)).origin.image for seed in (0, 1, 2)}
    assert seen <= written
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert replace(load_reference(path).origin, image="") == replace(encoded().origin, image="")
