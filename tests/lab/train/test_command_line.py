"""`python -m lab.train`, with the tiny models in place of the demo's."""

from __future__ import annotations

import pytest
from PIL import Image

from lab.train import __main__ as command_line
from lab.train.config import read_config
from pfv_core.adapter.checkpoint import load_adapter

from .test_data import write_images
from .tiny_models import SIZE, tiny_models

SMALL = ["--preset", "demo", "--image-size", "32", "--batch-size", "3", "--steps", "2", "--num-tokens", "2"]
SMALL += ["--latent-width", "8", "--validate-every", "2", "--validation-steps", "1", "--validation-images", "1"]


@pytest.fixture(autouse=True)
def tiny_demo(monkeypatch):
    monkeypatch.setattr(command_line, "load_demo", lambda *_: tiny_models("demo"))


def test_trains(tmp_path, capsys):
    images, out = write_images(tmp_path / "images"), tmp_path / "run"
    command_line.main(["--data", str(images), "--out", str(out), *SMALL])
    assert f"wrote {out / 'adapter.safetensors'}" in capsys.readouterr().out
    assert load_adapter(out / "adapter.safetensors").config.base == "demo"
    assert read_config(out / "config.toml").batch_size == 3
    with Image.open(out / "validation" / "00000002.png") as sheet:
        assert sheet.size == (5 * (SIZE + 8), SIZE + 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--preset", "sdxl", "--precision", "no"],
            "error: preset sdxl needs --checkpoint (the sdxl model) and --vision",
        ),
        ([*SMALL, "--batch-size", "6"], "error: the dataset has 5 samples, a batch takes 6"),
        ([*SMALL, "--mask-share", "2"], "error: mask_share is 2.0, expected 0 to 1"),
        ([*SMALL, "--start-from", "no.safetensors"], "error: no adapter file at no.safetensors"),
        (
            ["--preset", "sdxl", "--precision", "no", "--checkpoint", "none", "--vision", "none"],
            "error: no sdxl model at none",
        ),
    ],
)
def test_errors_are_one_line(tmp_path, arguments, message):
    images = write_images(tmp_path / "images")
    with pytest.raises(SystemExit) as error:
        command_line.main(["--data", str(images), "--out", str(tmp_path / "run"), *arguments])
    assert str(error.value).startswith(message)
