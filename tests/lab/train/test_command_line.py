"""`python -m lab.train`, with tiny models in place of SDXL."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import replace

import pytest
from accelerate.state import AcceleratorState
from accelerate.utils import LoggerType
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from lab.train import __main__ as command_line
from lab.train.config import read_config
from lab.train.load import load_models
from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.research.refadgen import open_refadgen
from pfv_core.research.strict_id_file import load_strict_id

from .made_images import write_images
from .tiny_models import SIZE, tiny_models

MODELS = ["--checkpoint", "none", "--vision", "none"]
SMALL = ["--preset", "sdxl", "--precision", "no", "--image-size", "32", "--batch-size", "3", "--steps", "2"]
SMALL += ["--num-tokens", "2", "--latent-width", "8", "--workers", "0", *MODELS]
SMALL += ["--validate-every", "2", "--validation-steps", "1", "--validation-images", "1"]


@pytest.fixture(autouse=True)
def tiny_sdxl(monkeypatch):
    monkeypatch.setattr(command_line, "load_models", lambda *_, **__: tiny_models())


def test_it_trains_and_says_where_the_adapter_is(tmp_path, capsys):
    images, out = write_images(tmp_path / "images"), tmp_path / "run"
    command_line.main(["--data", str(images), "--out", str(out), *SMALL])
    assert f"wrote {out / 'adapter.safetensors'}" in capsys.readouterr().out
    assert load_adapter(out / "adapter.safetensors").config.base == "sdxl"
    assert read_config(out / "config.toml").batch_size == 3
    with Image.open(out / "validation" / "00000002.png") as sheet:
        assert sheet.size == (5 * (SIZE + 8), SIZE + 8)


REFADGEN = ["--preset", "refadgen_sdxl", "--steps", "2", "--validate-every", "2", "--checkpoint", "none"]
REFADGEN += [*SMALL[2:8], "--workers", "0", "--validation-steps", "1", "--validation-images", "1", "--licence", "MIT"]


def test_a_preset_of_refadgen_trains_without_an_image_encoder(tmp_path, capsys):
    """The same command; triplets are asked for before anything is trained."""
    images, out = write_images(tmp_path / "images"), tmp_path / "run"
    arguments = ["--data", str(images), "--out", str(out), *REFADGEN]
    with pytest.raises(SystemExit, match=r"error: 5 of the images .* have no product picture beside them"):
        command_line.main(arguments)
    for file in sorted(images.glob("*.mask.png")):
        with Image.open(file) as mask:
            Image.new("RGB", mask.size, "red").save(images / file.name.replace(".mask.", ".product."))
    command_line.main(arguments)
    assert f"wrote {out / 'refadgen.safetensors'}" in capsys.readouterr().out
    found = open_refadgen(out / "refadgen.safetensors")
    assert (found.base, found.metadata["preset"], found.metadata["licence"]) == ("sdxl", "refadgen_sdxl", "MIT")
    with Image.open(out / "validation" / "00000002.png") as sheet:
        assert sheet.size == (4 * (SIZE + 8), SIZE + 8)


STRICT_ID = [*(word if word != "refadgen_sdxl" else "strict_id_sdxl" for word in REFADGEN), "--vision", "none"]


def test_a_preset_of_strict_id_trains_on_poses_and_scales(tmp_path, capsys):
    images, out = write_images(tmp_path / "images"), tmp_path / "run"
    arguments = ["--data", str(images), "--out", str(out), *STRICT_ID, "--accumulate", "1", "--balance-from", "1"]
    with pytest.raises(
        SystemExit, match=r"error: 5 of the images .* have no pose beside them \(name.pose.png\): add them"
    ):
        command_line.main(arguments)
    for number, file in enumerate(sorted(images.glob("*.mask.png"))):
        Image.new("RGB", (9, 12), "red").save(images / file.name.replace(".mask.", ".pose."))
        file.with_name(file.name.replace(".mask.", ".subject.")).write_bytes(file.read_bytes())
        (images / f"image{number}.txt").unlink(missing_ok=True)
        sizes = {"scale": {"product_cm": 2, "subject_cm": 4, "center": 0.5}} if number else {}
        (images / f"image{number}.json").write_text(json.dumps({"caption": ""} | sizes))
    command_line.main([*arguments, "--subject-weight", "3"])
    assert f"wrote {out / 'strict_id.safetensors'}" in capsys.readouterr().out
    found = load_strict_id(out / "strict_id.safetensors").config
    assert (found.base, found.metadata["licence"]) == ("sdxl", "MIT")
    with Image.open(out / "validation" / "00000002.png") as sheet:
        assert sheet.size == (7 * (SIZE + 8), SIZE + 8)


def test_an_adapter_asks_for_its_image_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(command_line, "load_models", lambda *_, **__: replace(tiny_models(), vision=None))
    with pytest.raises(
        SystemExit, match="error: this preset trains with an image encoder, and none is given: name its"
    ):
        command_line.main(["--data", str(write_images(tmp_path)), "--out", str(tmp_path / "run"), *SMALL[:-2]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SMALL, "--batch-size", "6"], "error: there are 4 samples to train on, a batch takes 6"),
        ([*SMALL, "--mask-share", "2"], "error: mask_share is '2': input should be less than or equal to 1"),
        ([*SMALL, "--start-from", "no.safetensors"], "error: no adapter file at no.safetensors"),
        (
            [*SMALL, "--precision", "fp16"],
            "error: precision is fp16 on cpu, which has none to train in: take no, or bf16",
        ),
        (
            [*SMALL, "--tracker", "aim"],
            "error: tracker is 'aim', installed of accelerate's are ['tensorboard']: install it",
        ),
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(command_line, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps one precision for a process
    images = write_images(tmp_path / "images")
    with pytest.raises(SystemExit) as error:
        command_line.main(["--data", str(images), "--out", str(tmp_path / "run"), *arguments])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert str(error.value).startswith(message)


def test_models_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(command_line, "load_models", load_models)
    with pytest.raises(SystemExit, match="error: no sdxl model at none"):
        command_line.main(["--data", str(write_images(tmp_path)), "--out", str(tmp_path / "run"), *SMALL])
    with pytest.raises(SystemExit):
        command_line.main(["--data", str(tmp_path), "--out", str(tmp_path / "run"), *SMALL[: SMALL.index(MODELS[0])]])


def test_validation_data_and_index_of_their_own(tmp_path, capsys):
    images, shown = write_images(tmp_path / "images"), write_images(tmp_path / "shown", count=1)
    places = ["--validation-data", str(shown), "--index", str(tmp_path / "index"), "--out", str(tmp_path / "run")]
    command_line.main(["--data", str(images), *places, *SMALL])
    assert "wrote" in capsys.readouterr().out
    assert sorted(file.name.partition("-")[0] for file in (tmp_path / "index").iterdir()) == ["images", "shown"]
    assert not (images / ".pfv_index").exists()
    with pytest.raises(SystemExit, match="error: the validation data have 1 images, validation_images is 2"):
        command_line.main(["--data", str(images), *places, *SMALL, "--validation-images", "2"])


def scalars(folder):
    """What TensorBoard would draw: (step, name, value) of all event files in the order of their making."""
    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)  # then its checksum, the event, and that one's checksum
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def test_a_real_tracker_is_told_of_every_step_of_a_run_that_was_stopped(tmp_path):
    """Once each: a run that goes on adds its steps beside those before."""
    images, out = write_images(tmp_path / "images"), tmp_path / "run"
    arguments = ["--data", str(images), "--out", str(out), *SMALL, "--steps", "4", "--validate-every", "0"]
    arguments += ["--tracker", "tensorboard"]
    command_line.main([*arguments, "--stop-at", "3"])
    assert [step for step, name, _ in scalars(out / "adapter") if name == "loss"] == [1, 2, 3]
    time.sleep(1)  # a file of events is named by the second in which it was begun
    command_line.main(arguments)
    lines = [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    expected = [(line["step"], name, pytest.approx(line[name])) for line in lines for name in line if name != "step"]
    assert {"loss", "gradient"} < {name for _, name, _ in expected}
    assert scalars(out / "adapter") == expected
