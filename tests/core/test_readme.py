"""The README's example of the core without a host runs as it stands; what documents point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pfv_mepa.pfv_core.adapter.checkpoint import save_adapter
from pfv_mepa.pfv_core.reference import open_clip_vit
from pfv_mepa.pfv_core.reference.vit import EncoderSpec

from .third_party import import_third_party
from .tiny_adapters import AdapterKind, tiny_adapter
from .weights import randomize

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
FOLDERS = ("", "benchmarks/", "docs/", "pfv_demo/", "web/**/", "workflows/")
DOCUMENTS = sorted(str(file.relative_to(ROOT)) for folder in FOLDERS for file in ROOT.glob(f"{folder}*.md"))


def test_the_example_without_comfyui_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    open_clip = import_third_party("open_clip")
    visual = open_clip.transformer.VisionTransformer(
        image_size=224, patch_size=14, width=32, layers=2, heads=4, mlp_ratio=2.0, output_dim=12
    )
    monkeypatch.setattr(
        open_clip_vit, "load_open_clip", lambda weights: open_clip_vit.OpenClipVit(randomize(visual, seed=1))
    )
    adapter_file = tmp_path / "adapter.safetensors"
    spec = EncoderSpec(image_size=224, patch_size=14, num_layers=2, hidden_size=32, projection_size=12)
    save_adapter(adapter_file, tiny_adapter(AdapterKind.RESAMPLER, spec))
    painted = torch.zeros(1, 120, 200, dtype=torch.bool)
    painted[:, 40:80, 60:120] = True
    names = {"weights": None, "painted": painted, "image": torch.rand(1, 3, 120, 200), "adapter_file": adapter_file}
    exec(
        compile(code.replace("from pfv_core.", "from pfv_mepa.pfv_core."), "README.md", "exec"), names
    )  # one name a process
    assert names["positive"].shape == names["negative"].shape == (1, 4, 24)
    assert torch.isfinite(names["positive"]).all()


def pointed_to(text):
    """What a document links to, and the places in this project that it names in code."""
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    top = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._")
    return [link for link in links if link and ":" not in link], re.findall(rf"`((?:{top})/[^`\s]*)`", text)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_document_points_to_is_there(name):
    document = ROOT / name
    links, places = pointed_to(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []
    assert [place for place in places if not any(ROOT.glob(place.split("::")[0].rstrip("/")))] == []


def test_the_readme_points_to_its_picture_figures_and_licence():
    links, _ = pointed_to(README.read_text(encoding="utf-8"))
    assert {"docs/overview.png", "benchmarks/results.md", "workflows/README.md", "LICENSE"} <= set(links)
