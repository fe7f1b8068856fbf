"""The host's own models, of the true layout with random weights: what its nodes give, and what this pack makes of it.

Every test with one of these models needs a ComfyUI that has it; on an older one the last class runs instead, which shows what
a person sees there.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import conv2d

from headless.ad.model_files import ModelFiles
from headless.host.find import PACK_ROOT, require_host
from headless.host.start import running_host
from headless.server.blocking import Client, saved_images
from headless.server.errors import FailedError, RejectedError
from lab.train import check, cut_out
from pfv_mepa.tests.host.sampling import outputs
from pfv_mepa.tests.host.test_workflows import embedded, essence, run, small, write_models_as_named
from pfv_mepa.tests.support import automatic_workflow
from pfv_mepa.tests.support.automatic_models import write_automatic_files
from pfv_mepa.tests.support.automatic_pack.operators import deform_conv2d
from pfv_mepa.tests.support.automatic_workflow import (
    BOTTLE,
    PAINTED_PHOTO,
    PAINTED_REFERENCE,
    PHOTO,
    PHOTO_SIZE,
    PRODUCT,
    REFERENCE,
    REFERENCE_SIZE,
    SIDE,
    write_photographs,
)
from pfv_mepa.tools.workflow_parts.models import ADAPTER, CHECKPOINT, CLIP_VISION, DEPTH_CONTROLNET

SINCE = {"nodes_bg_removal": "0.21", "nodes_sam3": "0.20", "nodes_depth_anything_3": "0.25"}
MISSING = [module for module in SINCE if importlib.util.find_spec(f"comfy_extras.{module}") is None]
WITHOUT_MODELS = f"this ComfyUI has no {', '.join(f'{module} (since {SINCE[module]})' for module in MISSING)}"

needs_models = pytest.mark.skipif(bool(MISSING), reason=WITHOUT_MODELS)
SUPPORT = PACK_ROOT / "tests" / "support"
PACKS = [PACK_ROOT, SUPPORT / "tiny_stack" / "host_pack", SUPPORT / "automatic_pack"]


def workflow(**options: Any) -> dict[str, Any]:
    """Of the models under the names that stand in the shipped workflows."""
    names = ModelFiles(CHECKPOINT.name, DEPTH_CONTROLNET.name, CLIP_VISION.name, ADAPTER.name)
    return automatic_workflow.workflow(models=names, **options)


def ellipse(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: what a drawing of an ellipse covers."""
    left, top, right, bottom = box
    y, x = np.mgrid[: size[1], : size[0]]
    return ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 <= 1


def rectangle(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: what a drawing of a rectangle covers, its last row and column too."""
    inside = np.zeros(size[::-1], bool)
    inside[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    return inside


def agreement(found: Any, truth: np.ndarray) -> float:
    """Intersection over union of what is above one half."""
    found = np.asarray(found) > 0.5
    return float((found & truth).sum() / (found | truth).sum())


# --- in this process --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(host_base_directory) -> Iterator[Any]:
    """The narrow files where the host looks for them, and its loaders taught, until the last test of this module."""
    import comfy.bg_removal_model
    import comfy.supported_models
    from comfy.background_removal import birefnet

    from pfv_mepa.tests.support.automatic_pack.architectures import register

    with pytest.MonkeyPatch.context() as undone:
        undone.setattr(comfy.supported_models, "models", list(comfy.supported_models.models))
        undone.setattr(*taught(comfy.bg_removal_model, "load_background_removal_model"))
        undone.setattr(*taught(birefnet, "deform_conv2d"))
        register()
        yield write_automatic_files(host_base_directory / "models")


def taught(module: Any, name: str) -> tuple[Any, str, Any]:
    """What is to be as it was when the module's tests are done."""
    return module, name, getattr(module, name)


def host_node(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"comfy_extras.{module}"), name)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """IMAGE (2, 90, 150, 3): white, with something dark on the left and on the right."""
    image = torch.full((2, 90, 150, 3), 0.95)
    image[0, 20:70, 20:60] = torch.tensor([0.3, 0.2, 0.1])
    image[1, 20:70, 90:130] = torch.tensor([0.1, 0.4, 0.2])
    return image


def dark(pictures: Tensor) -> np.ndarray:
    return np.asarray(pictures.mean(-1) < 0.5)


@pytest.fixture(scope="module")
def remover(files) -> Any:
    loader = host_node("nodes_bg_removal", "LoadBackgroundRemovalModel")
    return outputs(loader, bg_removal_name=files.background_removal)[0]


@pytest.fixture(scope="module")
def detector(files) -> SimpleNamespace:
    import nodes

    model, clip, _ = nodes.CheckpointLoaderSimple().load_checkpoint(files.checkpoint)[:3]
    return SimpleNamespace(model=model, clip=clip)


@pytest.fixture(scope="module")
def geometry(files, pictures) -> dict[str, Any]:
    loader, inference = (host_node("nodes_depth_anything_3", name) for name in ("LoadDA3Model", "DA3Inference"))
    model = outputs(loader, model_name=files.geometry_estimation, weight_dtype="default")[0]
    options = {"resolution": 140, "resize_method": "upper_bound_resize", "mode": {"mode": "mono"}}
    return outputs(inference, da3_model=model, image=pictures, **options)[0] | {"model": model}


@needs_models
def test_the_files_have_every_tensor_and_no_other(remover, detector, geometry, files, host_base_directory):
    """The host's loaders take what has the right name and leave the rest as it was in memory, so equality is asked for."""
    models = host_base_directory / "models"
    written = load_file(models / "background_removal" / files.background_removal)
    assert same(remover.model.state_dict(), written)
    written = load_file(models / "geometry_estimation" / files.geometry_estimation)
    assert same(geometry["model"].model.diffusion_model.state_dict(), written)
    written = load_file(models / "checkpoints" / files.checkpoint)
    config = detector.model.model.model_config
    assert same(detector.model.model.diffusion_model.state_dict(), config.process_unet_state_dict(written))
    text = detector.clip.cond_stage_model.state_dict()
    text = {
        name: tensor for name, tensor in text.items() if "text_projection" not in name and "logit_scale" not in name
    }
    assert same(text, config.process_clip_state_dict({}))


def same(loaded: dict[str, Tensor], written: dict[str, Tensor]) -> bool:
    """Whether both are equal to half precision, name by name."""
    assert loaded.keys() == written.keys()
    return all(torch.equal(tensor.half(), written[name].half()) for name, tensor in loaded.items())


@needs_models
class TestRemoveBackground:
    """Its mask is soft, 1 = the thing, nowhere exactly 0, and of the photo's size."""

    def mask_of(self, remover, image: Tensor) -> Tensor:
        return outputs(host_node("nodes_bg_removal", "RemoveBackground"), bg_removal_model=remover, image=image)[0]

    def test_mask(self, remover, pictures):
        mask = self.mask_of(remover, pictures)
        assert (mask.shape, mask.dtype) == ((2, 90, 150), torch.float32)
        assert 0 < mask.min() < 1e-4
        assert 0.999 < mask.max() <= 1
        for found, truth in zip(mask, dark(pictures), strict=True):
            assert agreement(found, truth) > 0.9

    def test_half_precision_between_nodes(self, remover, pictures, monkeypatch):
        from comfy.cli_args import args

        monkeypatch.setattr(args, "fp16_intermediates", True)
        assert self.mask_of(remover, pictures).dtype == torch.float16


@needs_models
class TestDetect:
    """Its mask is hard; of individual masks there are as many as things, which may be none at all."""

    def masks_of(self, detector, image: Tensor, text: str = "the bottle", **options: Any) -> tuple[Tensor, Any]:
        import nodes

        conditioning = nodes.CLIPTextEncode().encode(detector.clip, text)[0]
        options = {"threshold": 0.5, "refine_iterations": 0, "individual_masks": False} | options
        return outputs(
            host_node("nodes_sam3", "SAM3_Detect"),
            model=detector.model,
            image=image,
            conditioning=conditioning,
            **options,
        )

    def test_union(self, detector, pictures):
        masks, boxes = self.masks_of(detector, pictures, refine_iterations=1)
        assert (masks.shape, masks.dtype) == ((2, 90, 150), torch.float32)
        assert masks.unique().tolist() == [0, 1]
        assert [len(of_picture) for of_picture in boxes] == [1, 1]
        for found, truth in zip(masks, dark(pictures), strict=True):
            assert agreement(found, truth) > 0.85

    def test_nothing_found(self, detector, pictures):
        masks, boxes = self.masks_of(detector, pictures[:1], threshold=1.0)
        assert (masks.shape, masks.any().item(), boxes) == ((1, 90, 150), False, [[]])

    def test_individual_masks(self, detector, pictures):
        masks, _ = self.masks_of(detector, pictures[:1], "bottle:3, cup", individual_masks=True)
        assert masks.shape == (4, 90, 150)
        masks, _ = self.masks_of(detector, pictures[:1], threshold=1.0, individual_masks=True)
        assert masks.shape == (0, 90, 150)


@needs_models
class TestDepth:
    """Its picture is grey, near is bright, and it has the size of what was measured."""

    def rendered(self, geometry, normalization: str) -> Tensor:
        output = {"output": "depth", "normalization": normalization, "apply_sky_clip": False}
        return outputs(host_node("nodes_depth_anything_3", "DA3Render"), da3_geometry=geometry, output=output)[0]

    @pytest.mark.parametrize("normalization", ["v2_style", "min_max"])
    def test_near_is_bright(self, geometry, normalization):
        depth = self.rendered(geometry, normalization)
        assert (depth.shape, depth.dtype) == ((2, 90, 150, 3), torch.float32)
        assert torch.equal(depth, depth[..., :1].expand(-1, -1, -1, 3))
        for shown, distance in zip(depth[..., 0].flatten(1), geometry["depth"].flatten(1), strict=True):
            assert (shown.min(), shown.max()) == (0, 1)
            assert (shown[distance.argmin()], shown[distance.argmax()]) == (1, 0)

    def test_raw_is_the_distance_itself(self, geometry):
        assert torch.equal(self.rendered(geometry, "raw")[..., 0], geometry["depth"])


class TestDeformableConvolution:
    """The stand-in for torchvision's."""

    def result(self, down: float = 0.0, right: float = 0.0, tap: int | None = None, factor: float = 1.0) -> Tensor:
        """Of a kernel of 3x3, of which one tap or every one is moved."""
        offset, mask = torch.zeros(1, 18, 6, 7), torch.full((1, 9, 6, 7), factor)
        moved = slice(None) if tap is None else tap
        offset.view(1, 9, 2, 6, 7)[:, moved, 0] = down
        offset.view(1, 9, 2, 6, 7)[:, moved, 1] = right
        return deform_conv2d(self.image, offset, self.weight, padding=1, mask=mask)

    @property
    def image(self) -> Tensor:
        return torch.rand(1, 2, 6, 7, generator=torch.Generator().manual_seed(0))

    @property
    def weight(self) -> Tensor:
        return torch.rand(3, 2, 3, 3, generator=torch.Generator().manual_seed(1))

    def test_unmoved_it_is_the_ordinary_one(self):
        plain = conv2d(self.image, self.weight, padding=1)
        torch.testing.assert_close(self.result(), plain)
        torch.testing.assert_close(self.result(factor=0.25), plain / 4)

    def test_moved_it_reads_elsewhere(self):
        padded = torch.nn.functional.pad(self.image, (1, 3, 1, 2))  # two more on the right, one more below
        expected = conv2d(padded, self.weight)
        torch.testing.assert_close(self.result(down=1, right=2), expected[..., 1:7, 2:9])
        between = (expected[..., 0:6, 0:7] + expected[..., 1:7, 0:7]) / 2
        torch.testing.assert_close(self.result(down=0.5), between)

    def test_one_tap_is_moved_alone(self):
        shifted = torch.nn.functional.pad(self.image, (0, 1))[..., 1:]  # tap 4 is the centre
        centre = self.weight[:, :, 1:2, 1:2]
        plain = conv2d(self.image, self.weight, padding=1)
        expected = plain - conv2d(self.image, centre) + conv2d(shifted, centre)
        torch.testing.assert_close(self.result(right=1, tap=4), expected)


# --- through a server -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with this pack, tiny models of every kind, and both photographs, plain and painted."""
    base_directory = tmp_path_factory.mktemp("server")
    write_models_as_named(base_directory / "models")
    if not MISSING:
        write_automatic_files(base_directory / "models")
        broken = base_directory / "models" / "checkpoints" / BROKEN
        shutil.copy(base_directory / "models" / "ipadapter" / "tiny_random_adapter_sdxl_vit_h.safetensors", broken)
        shutil.copy(broken, base_directory / "models" / "background_removal" / BROKEN)
    for painted in (False, True):
        write_photographs(base_directory / "input", painted)
    with running_host(require_host(), Path(sys.executable), base_directory, PACKS) as running:
        yield SimpleNamespace(url=running.url, client=Client(running.url), log=running.log, folder=base_directory)


DATA_PAGE = PACK_ROOT / "docs" / "training_data.md"


@pytest.mark.parametrize(
    "by_model", [False, pytest.param(True, marks=needs_models)], ids=["as it is", "with the host's model"]
)
def test_the_documented_way_from_pictures_to_masks_runs_as_it_stands(server, tmp_path, by_model):
    """Its blocks of Python, then the two commands that follow: a photograph becomes a triplet that a training would take."""
    write_photographs(tmp_path)
    (tmp_path / REFERENCE).unlink()
    (tmp_path / PHOTO).with_suffix(".txt").write_text("a brown ball")
    blocks = re.findall(r"```python\n(.*?)```", DATA_PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (asking,) = (block for block in blocks if "CUT = {" in block)
    (with_model,) = (block for block in blocks if 'CUT["found"] =' in block)
    first, at_work, last = asking.partition("with Client(SERVER)")
    told = f'FOLDER, SERVER = Path({str(tmp_path)!r}), "{server.url}"'
    first = re.sub(r"FOLDER, SERVER = .*", lambda _: told, first)
    exec(compile(first + (with_model if by_model else "") + at_work + last, DATA_PAGE.name, "exec"), {})
    mask = (tmp_path / PHOTO).with_suffix(".mask.png")
    with Image.open(mask) as image:
        assert image.size == PHOTO_SIZE
        assert agreement(np.asarray(image.convert("L")) / 255, ellipse(PRODUCT, PHOTO_SIZE)) > 0.9
    cut_out.main(["--products", str(tmp_path)])
    with Image.open(mask.with_name(mask.name.replace(".mask.", ".product."))) as alone:
        assert alone.size == PHOTO_SIZE
    check.main([str(tmp_path), "--image-size", "256", "--workers", "0"])


BROKEN = "no_model_at_all.safetensors"  # whoever loads it fails: a run that ends well did not


def shown(server, prompt: dict[str, Any], **wanted: tuple[str, int]) -> dict[str, Any]:
    """Run what the wanted outputs need, and nothing else: reports and numbers from JSON, pictures and masks of 8 bits as 0..1."""
    prompt, kinds = above(prompt, {node for node, _ in wanted.values()}), {}
    for name, (node, slot) in wanted.items():
        kind = kinds[name] = server.client.object_info(prompt[node]["class_type"])["output"][slot]
        link = [node, slot]
        if kind == "MASK":
            prompt |= {f"{name} as image": made("MaskToImage", mask=link)}
            link = [f"{name} as image", 0]
        picture = made("SaveImage", images=link, filename_prefix=name)
        prompt |= {f"{name} shown": picture if kind in ("MASK", "IMAGE") else made("PreviewAny", source=link)}
    answer = server.client.run(prompt)
    lines = {node: output["pfv_line"][0] for node, output in answer.items() if "pfv_line" in output}
    return {name: read(server, name, kind, answer) for name, kind in kinds.items()} | {"lines": lines}


def above(prompt: dict[str, Any], nodes: set[str]) -> dict[str, Any]:
    """These nodes and all that they need; a server refuses a prompt for any node that it does not know."""
    needed = dict.fromkeys(nodes)
    waiting = list(nodes)
    while waiting:
        links = prompt[waiting.pop()]["inputs"].values()
        new = {link[0] for link in links if isinstance(link, list)} - needed.keys()
        needed |= dict.fromkeys(new)
        waiting += new
    return {name: prompt[name] for name in needed}


def read(server, name: str, kind: str, answer: dict[str, Any]) -> Any:
    if kind not in ("MASK", "IMAGE"):
        return json.loads(answer[f"{name} shown"]["text"][0])
    (image,) = [image for image in saved_images(answer) if image.node_id == f"{name} shown"]
    file = server.client.download(image, server.folder / f"{name}.png")
    with Image.open(file) as picture:
        return np.asarray(picture.convert("L" if kind == "MASK" else "RGB")) / 255


def made(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def with_broken(prompt: dict[str, Any]) -> dict[str, Any]:
    """Both models that find something are no models: nothing comes of a run that loads one."""
    prompt["remover"]["inputs"]["bg_removal_name"] = BROKEN
    prompt["sam"]["inputs"]["ckpt_name"] = BROKEN
    return prompt


@needs_models
class TestFoundByModels:
    """What a model found is used where nothing is painted, and is not even looked for where something is."""

    def test_cut_out(self, server):
        got = shown(server, workflow(), mask=("cut_out", 0), report=("cut_out", 1))
        assert agreement(got["mask"], ellipse(PRODUCT, PHOTO_SIZE)) > 0.97
        assert (got["mask"].min(), got["mask"].max()) == (0, 1)
        hazy = (got["mask"] > 0) & (got["mask"] < 24 / 255) | (got["mask"] > 231 / 255) & (got["mask"] < 1)
        assert not hazy.any()
        assert got["report"]["source"] == "found"
        assert "found by the model" in got["lines"]["cut_out"]

    def test_reference(self, server):
        got = shown(server, workflow(), mask=("look", 1), report=("look", 2))
        bottle = ellipse(BOTTLE, REFERENCE_SIZE)
        assert bottle.mean() < got["mask"].mean() < 3 * bottle.mean()  # whole patches of 25 pixels
        assert got["mask"][bottle].mean() > 0.97
        assert [reference["source"] for reference in got["report"]["references"]] == ["found"]
        assert "found by the model" in got["lines"]["look"]

    def test_painted_wins_and_no_model_is_run(self, server):
        prompt = with_broken(workflow(photo=f"painted_{PHOTO}", reference=f"painted_{REFERENCE}"))
        got = shown(
            server,
            prompt,
            cut=("cut_out", 0),
            hidden=("look", 1),
            cut_report=("cut_out", 1),
            hidden_report=("look", 2),
        )
        assert np.array_equal(got["cut"], rectangle(PAINTED_PHOTO, PHOTO_SIZE))
        assert got["hidden"][rectangle(PAINTED_REFERENCE, REFERENCE_SIZE)].all()
        assert got["hidden"].mean() < 0.3
        assert got["cut_report"]["source"] == "painted"
        assert [reference["source"] for reference in got["hidden_report"]["references"]] == ["painted"]

    @pytest.mark.parametrize("node", ["cut_out", "look"])
    def test_where_nothing_is_painted_the_model_is_run(self, server, node):
        """So the test before this one can fail."""
        with pytest.raises(FailedError, match=r"model file is invalid|Could not detect model type"):
            shown(server, with_broken(workflow()), report=(node, {"cut_out": 1, "look": 2}[node]))

    def test_hide_nothing_runs_no_model(self, server):
        prompt = with_broken(workflow())
        prompt["look"]["inputs"]["hide"] = "nothing"
        got = shown(server, prompt, mask=("look", 1), report=("look", 2))
        assert not got["mask"].any()
        assert [reference["source"] for reference in got["report"]["references"]] == ["nothing"]

    @pytest.mark.parametrize("individual_masks", [False, True])
    def test_a_name_that_is_not_found_is_refused(self, server, individual_masks):
        prompt = workflow(threshold=1.0)
        prompt["bottle"]["inputs"]["individual_masks"] = individual_masks
        with pytest.raises(FailedError, match="nothing was found under that name"):
            shown(server, prompt, report=("look", 2))

    def test_several_individual_masks_are_refused(self, server):
        prompt = workflow(name="bottle:3")
        prompt["bottle"]["inputs"]["individual_masks"] = True
        with pytest.raises(FailedError, match="switch individual_masks of SAM3 Detect off"):
            shown(server, prompt, report=("look", 2))


@needs_models
class TestMeasuredDepth:
    """A depth picture that is connected is the depth."""

    def test_of_the_reference(self, server):
        got = shown(
            server,
            workflow(),
            measured=("reference_depth", 0),
            depth=("ground", 1),
            line=("ground", 0),
        )
        assert np.array_equal(got["depth"], got["measured"])
        assert got["depth"].shape[:2] == REFERENCE_SIZE[::-1]
        assert got["line"] == 0.7

    def test_of_the_product(self, server):
        got = shown(server, workflow(), depth=("product_depth", 0), placed=("placed_depth", 0), mask=("canvas", 1))
        assert got["depth"].shape == (SIDE, SIDE, 3)
        product = got["mask"] == 1
        assert np.array_equal(got["depth"][product], got["placed"][product])

    def test_both_in_one(self, server):
        got = shown(server, workflow(), depth=("depth", 0), product=("product_depth", 0), mask=("canvas", 1))
        assert got["depth"].shape == (SIDE, SIDE, 3)
        product = got["mask"] == 1
        assert product.any()
        assert np.array_equal(got["depth"][product], got["product"][product])


@needs_models
def test_two_photographs_to_an_ad(server):
    got = shown(
        server, workflow(), ad=("composite", 0), mask=("canvas", 1), canvas=("canvas", 0), exact=("composite", 1)
    )
    assert got["ad"].shape == (SIDE, SIDE, 3)
    exact = got["exact"] == 1
    assert 500 < exact.sum() < (got["mask"] > 0).sum()
    assert np.array_equal(got["ad"][exact], got["canvas"][exact])
    assert got["ad"][got["mask"] == 0].std() > 0


@needs_models
def test_the_shipped_workflow_runs_with_what_the_models_find(server, tmp_path):
    prompt = small("ad")
    ad = run(server, prompt, tmp_path / "ad.png")
    assert ad.size == (128, 128)
    assert embedded(ad) == essence(prompt)


@needs_models
def test_half_precision_between_nodes(server, tmp_path):
    """With --fp16-intermediates the photographs arrive in half precision; on a CPU the host cannot remove their background."""
    for name in ("models", "input"):
        (tmp_path / name).symlink_to(server.folder / name)
    with running_host(require_host(), Path(sys.executable), tmp_path, PACKS, ["--fp16-intermediates"]) as running:
        half = SimpleNamespace(client=Client(running.url), folder=tmp_path)
        prompt = workflow()
        prompt["product"] = prompt["bottle"] | {"inputs": prompt["bottle"]["inputs"] | {"image": ["photo", 0]}}
        prompt["cut_out"]["inputs"]["found"] = ["product", 0]
        got = shown(half, prompt, cut=("cut_out", 0), ad=("composite", 0))
        assert agreement(got["cut"], ellipse(PRODUCT, PHOTO_SIZE)) > 0.9
        assert got["ad"].shape == (SIDE, SIDE, 3)


@pytest.mark.skipif(not MISSING, reason="this ComfyUI has every one of these models")
class TestWithoutThem:
    """A host from before these models."""

    def test_a_workflow_with_them_is_refused_by_their_name(self, server):
        with pytest.raises(RejectedError, match=r"RemoveBackground|LoadBackgroundRemovalModel|SAM3_Detect|DA3"):
            shown(server, workflow(), mask=("cut_out", 0))

    def test_the_pack_loads_beside_the_support_for_them(self, server):
        assert "IMPORT FAILED" not in server.log.read_text(encoding="utf-8")


def test_without_their_link_the_pack_finds_by_itself(server):
    """On every host."""
    prompt = workflow()
    for node in ("cut_out", "look"):
        del prompt[node]["inputs"]["found"]
    wanted = {"cut_report": ("cut_out", 1), "look_report": ("look", 2)}
    got = shown(server, prompt, cut=("cut_out", 0), hidden=("look", 1), **wanted)
    assert got["cut_report"]["source"] == "plain_ground"
    assert [reference["source"] for reference in got["look_report"]["references"]] == ["stands_out"]
    assert agreement(got["cut"], ellipse(PRODUCT, PHOTO_SIZE)) > 0.97
    assert got["hidden"][ellipse(BOTTLE, REFERENCE_SIZE)].mean() > 0.97
