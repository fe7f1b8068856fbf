"""From untrained weights to a report: every table, a kill in between, and what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.demo import stack
from lab.demo.evaluation import ablations
from lab.demo.evaluation.ablation_units import AblationError, AdapterFile, Unit, find_adapters, units
from lab.demo.evaluation.chunk import Chunk, Models, load_models, make_images, sure_wall, wall_region
from lab.demo.evaluation.claims import COMPARISONS, GOALS
from lab.demo.evaluation.conditions import (
    BOUNDED,
    CONFLICT,
    IMAGE_ONLY,
    LOUD,
    MAIN,
    SEEING,
    Condition,
    Row,
    View,
    Words,
    experiments,
)
from lab.demo.evaluation.judge import Judge, save_judge
from lab.demo.evaluation.summary import status
from lab.demo.scenes import render, sample_pair, sample_scene
from lab.diffusers.new_adapter import adapter_config, new_adapter
from lab.diffusers.vision import ClipVisionEncoder
from lab.evaluation.statistics import Interval
from pfv_core.adapter.checkpoint import load_adapter, save_adapter
from pfv_core.adapter.model import AdapterKind
from pfv_core.reference.vit import HideMode

PAIRS, BATCH = 3, 2


@pytest.fixture(scope="module")
def small_stack() -> Iterator[None]:
    """The demo stack with fewer channels: what is tested here is not what it makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(stack.UNET, "block_out_channels", (32, 64))
        patch.setitem(stack.UNET, "attention_head_dim", (1, 1))
        patch.setitem(stack.AUTOENCODER, "block_out_channels", (32, 32))
        patch.setitem(stack.VISION, "num_hidden_layers", 2)
        patch.setitem(stack.TEXT, "num_hidden_layers", 2)
        yield


@pytest.fixture(scope="module")
def files(small_stack: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """weights/ and adapters/ with eq3_c16 of two seeds, and an IP-Adapter."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    unet, vision = stack.new_unet(), stack.new_vision_encoder()
    named = {
        "autoencoder": stack.UnshuffledAutoencoder(),
        "text_encoder": stack.new_text_encoder(),
        "vision_encoder": vision,
        "unet": unet,
    }
    for name, model in named.items():
        stack.save_weights(model, folder / "weights" / f"{name}.safetensors", {})
    save_judge(Judge(), folder / "weights" / "judge.safetensors", {"accuracy": json.dumps({"drawn": {"table": "1.0"}})})
    (folder / "adapters").mkdir()
    config = adapter_config(
        unet, kind=AdapterKind.EQ3, base="demo", encoder=ClipVisionEncoder(vision).spec, num_tokens=16, latent_width=32
    )
    for name, seed in (("eq3_c16_seed0", 0), ("eq3_c16_seed1", 1), ("ipadapter_c16_seed0", 2)):
        adapter = new_adapter(unet, config, seed)
        for value in adapter.ip_adapter.to_v_ip:
            value.weight.data.mul_(100)  # untrained models answer faintly
        save_adapter(folder / "adapters" / f"{name}.safetensors", adapter)
    return folder


@pytest.fixture(scope="module")
def models(files: Path) -> Models:
    return load_models(files / "weights", files / "weights" / "judge.safetensors")


def arguments(files: Path, out: Path, *more: str) -> list[str]:
    given = {"--weights": files / "weights", "--adapters": files / "adapters", "--out": out, "--pairs": PAIRS}
    given |= {"--judge": files / "weights" / "judge.safetensors", "--batch": BATCH, "--steps": 1}
    return [str(part) for pair in given.items() for part in pair] + list(more)


@pytest.fixture(scope="module")
def whole(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every table, with one seed."""
    out = tmp_path_factory.mktemp("out")
    ablations.main(arguments(files, out, "--seeds", "0"))
    return out


def results_of(out: Path) -> dict:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_every_table_is_measured_and_what_is_missing_is_named(whole):
    results = results_of(whole)
    for table in experiments():
        found = results["experiments"][table.name]
        there = {(row["condition"], row["family"]) for row in found["rows"]}
        missing = {(row["condition"], row["family"]) for row in found["missing"]}
        assert there | missing == {(row.condition.name, row.family) for row in table.rows}
        assert {family for _, family in there} <= {"", MAIN, "ipadapter_c16"}
        assert all(row["why"] == f"no adapter {row['family']}_seed*.safetensors" for row in found["missing"])
        for row in found["rows"]:
            assert set(row["measures"]) == set(table.measures)
            assert (row["pairs"], len(row["seeds"])) == (PAIRS, 1)
            for measure in row["measures"].values():
                assert measure["value"] is None or measure["low"] <= measure["value"] <= measure["high"]
    assert {goal["claim"] for goal in results["goals"]} == {goal.claim for goal in GOALS}


def test_the_oracle_has_no_tint_and_no_difference_to_itself(whole):
    rows = {row["condition"]: row for row in results_of(whole)["experiments"]["pfv"]["rows"]}
    assert rows["image_oracle"]["measures"]["tint"]["value"] == 0
    assert rows["image_visible"]["measures"]["tint"]["value"] != 0
    assert all(found["value"] == 0 for found in rows["image_oracle"]["against_oracle"].values())


def test_the_report_holds_everything(whole):
    html = unescape((whole / "report.html").read_text(encoding="utf-8"))
    results = results_of(whole)
    assert not any(mark in html for mark in ("http:", "https:", "src='", "<link"))
    for table in results["experiments"].values():
        assert all(row["label"] in html for row in [*table["rows"], *table["missing"]])
        assert all(row["why"] in html for row in table["missing"])
    assert all(goal["claim"] in html for goal in results["goals"])
    assert all(one["claim"] in html for one in results["comparisons"])
    assert all(name in html for name in results["scores"])
    assert html.count("<svg") >= 4
    sheets = 3 + len(IMAGE_ONLY) + 2 + 4 + len(CONFLICT) + 1 + 3 + len(LOUD) + len(BOUNDED)
    assert html.count("data:image/jpeg") == BATCH * sheets


def test_scores_that_cannot_be_had_say_why(whole):
    scores = results_of(whole)["scores"]
    assert {name.split(",")[0] for name in scores} == {"FID", "KID", "IS", "CLIP score", "LPIPS", "LPIPS on the wall"}
    assert "--clip FOLDER" in scores["CLIP score, text alone"]["note"]
    for score in scores.values():
        assert (score["value"] is None) == score["note"].startswith("not computed: ")


def test_killed_and_started_again_gives_the_same_results(files, whole, tmp_path, monkeypatch):
    """Killed while the third unit is stored; the table that it belongs to comes out as without the kill."""
    given = arguments(files, tmp_path, "--seeds", "0,1", "--only", "compression", "--only", "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablations, "save_text", killed_at(3))
        with pytest.raises(KeyboardInterrupt):
            ablations.main(given)
    stored = sorted((tmp_path / "chunks").rglob("*.json"))
    assert len(stored) == 3 - 1
    before = {file: file.stat().st_mtime_ns for file in stored}
    ablations.main(given)
    assert {file: file.stat().st_mtime_ns for file in stored} == before
    resumed = results_of(tmp_path)
    ablations.main(given)
    assert results_of(tmp_path) == resumed

    unbroken = results_of(whole)["experiments"]
    assert resumed["experiments"]["text"] == unbroken["text"]
    row = resumed["experiments"]["compression"]["rows"][0]
    assert (row["condition"], row["seeds"]) == ("image_dropped", [0, 1])
    for part in (whole / "chunks" / "image_dropped").glob("eq3_c16_seed0-*/*.json"):
        assert part.read_bytes() == (tmp_path / part.relative_to(whole)).read_bytes()


def test_report_only_makes_nothing(files, tmp_path):
    ablations.main(arguments(files, tmp_path, "--report-only"))
    assert not list((tmp_path / "chunks").rglob("*"))
    results = results_of(tmp_path)
    assert not any(table["rows"] for table in results["experiments"].values())
    assert {goal["status"] for goal in results["goals"]} == {"not measured"}
    assert "not measured yet" in (tmp_path / "report.html").read_text(encoding="utf-8")


def killed_at(call: int):
    calls = []
    write = ablations.save_text

    def save_text(file: Path, text: str) -> None:
        calls.append(file)
        if len(calls) == call:
            raise KeyboardInterrupt
        write(file, text)

    return save_text


def test_a_folder_of_other_settings_is_left_alone(files, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    with pytest.raises(AblationError, match=r"steps is 1 there and 2 here.*another --out"):
        ablations.main([*arguments(files, tmp_path / "out"), "--steps", "2"])
    assert results_of(tmp_path / "out") == results_of(whole)


def test_bad_numbers_are_refused(files, tmp_path, capsys):
    with pytest.raises(SystemExit):
        ablations.main(arguments(files, tmp_path, "--pairs", "0"))
    assert "--pairs is 0, expected 1 or more" in capsys.readouterr().err


def test_adapters_are_found_by_name_and_seed(files, tmp_path):
    found = find_adapters(files / "adapters", [0])
    assert [(one.family, one.tokens, one.seed) for one in found] == [("eq3_c16", 16, 0), ("ipadapter_c16", 16, 0)]
    shutil.copy(files / "adapters" / "eq3_c16_seed1.safetensors", tmp_path / "eq3_c16_seed0.safetensors")
    assert find_adapters(tmp_path, [0])[0].identity != found[0].identity  # other weights have results of their own


def test_shared_conditions_are_made_once():
    adapter = AdapterFile(Path("x"), MAIN, 16, 0, "x")
    rows = [row for table in experiments() for row in table.rows]
    made = units(rows, [adapter], 5, 2)
    assert len({(unit.condition.name, unit.start) for unit in made}) == len(made)
    assert {(unit.start, unit.count) for unit in made} == {(0, 2), (2, 2), (4, 1)}


def test_a_chunk_of_fewer_pairs_is_made_again(tmp_path):
    unit = Unit(Condition("x", "x"), None, 0, 3)
    unit.file(tmp_path).parent.mkdir(parents=True)
    unit.file(tmp_path).write_text(json.dumps({"count": 2}))
    assert not unit.done(tmp_path)
    unit.file(tmp_path).write_text(json.dumps({"count": 3}))
    assert unit.done(tmp_path)


def test_noise_belongs_to_the_pair(models):
    both, second = Chunk(models, 0, 2), Chunk(models, 1, 1)
    assert torch.equal(both.noise[1:], second.noise)
    assert not torch.equal(both.noise[0], both.noise[1])
    assert both.pairs[1] == second.pairs[0]


def test_views_hide_and_change_the_product_alone(models):
    chunk = Chunk(models, 0, 2)
    product = chunk.reference_drawn.product > 0
    visible, everything, _ = chunk.shown(View.VISIBLE)
    assert bool(everything.patch_keep_mask.all())
    for view in (View.DROPPED, View.ZEROED):
        image, patch_mask, mode = chunk.shown(view)
        assert torch.equal(image, visible)
        assert bool((~patch_mask.hidden_pixels() & product).sum() == 0)
        assert mode is {View.DROPPED: HideMode.DROP, View.ZEROED: HideMode.ZERO}[view]
    for view in (View.BLURRED, View.BLACKED, View.GREYED):
        image, patch_mask, _ = chunk.shown(view)
        assert bool(patch_mask.patch_keep_mask.all())
        outside = ~product[:, None].expand_as(image)
        assert torch.equal(image[outside], visible[outside])
        assert not torch.equal(image, visible)
    assert torch.equal(chunk.shown(View.BLACKED)[0].amax(1)[product], torch.zeros(int(product.sum())))
    oracle = render(chunk.references, stack.IMAGE_SIZE, product=False).image
    assert torch.equal(chunk.shown(View.ORACLE)[0], oracle.permute(0, 3, 1, 2))


def test_hidden_pixels_change_nothing(models):
    """The tokens of a dropped view are those of a reference whose product has any other colour."""
    chunk, painted = Chunk(models, 0, 2), Chunk(models, 0, 2)
    drawn = painted.reference_drawn
    drawn.image[drawn.product > 0] = 0.25
    tokens, others = chunk.tokens(View.DROPPED).penultimate, painted.tokens(View.DROPPED).penultimate
    assert all(torch.equal(one, other) for one, other in zip(tokens, others, strict=True))
    seen, changed = chunk.tokens(View.VISIBLE).penultimate, painted.tokens(View.VISIBLE).penultimate
    assert not any(torch.equal(one, other) for one, other in zip(seen, changed, strict=True))


def test_texts_say_what_the_condition_asks(models):
    chunk = Chunk(models, 0, 1)
    scene = chunk.wanted[0]
    assert chunk.captions(Words.NOTHING) == [""]
    assert "wall" not in chunk.captions(Words.PRODUCT_AND_TABLE)[0]
    assert f"{scene.wall_color} wall" in chunk.captions(Words.EVERYTHING)[0].replace("plain ", "")
    assert chunk.references[0].wall_color not in chunk.captions(Words.EVERYTHING)[0]


def test_the_sure_wall_is_wall_in_every_scene():
    scenes = [sample_scene(seed) for seed in range(100)]
    drawn = render(scenes, stack.IMAGE_SIZE)
    wall = sure_wall(len(scenes))
    assert bool((drawn.wall[wall] == 1).all())
    assert 0.15 < float(wall[0].float().mean()) < 0.35


def test_the_region_is_wall_outside_the_products_box():
    scenes = [sample_scene(seed) for seed in range(5)]
    drawn, region = render(scenes, stack.IMAGE_SIZE), wall_region(scenes)
    assert float((region * (drawn.product > 0)).sum()) == 0
    assert float((region * (drawn.table > 0.5)).sum()) == 0
    assert bool((region.flatten(1).mean(1) > 0.2).all())
    assert set(np.unique(region.numpy())) == {0.0, 1.0}


def test_pairs_share_nothing_and_end():
    for seed in range(30):
        first, second = sample_pair(seed)
        assert first.wall_color != second.wall_color
        assert first.product_color != second.product_color


@pytest.mark.parametrize(
    ("value", "low", "high", "relation", "expected"),
    [
        (0.99, 0.985, 1.0, ">=", "met"),
        (0.99, 0.97, 1.0, ">=", "met, not certain"),
        (0.97, 0.95, 0.99, ">=", "missed, not certain"),
        (0.90, 0.88, 0.92, ">=", "missed"),
        (0.97, 0.96, 0.975, "<=", "met"),
        (1.2, 1.1, 1.3, "<=", "missed"),
        (1.0, 0.99, 1.1, ">", "met"),
        (1.0, 0.9, 1.1, ">", "met, not certain"),
        (0.9, 0.8, 1.1, ">", "missed"),
        (1.0, 0.9, 1.1, "not >", "met"),
        (1.2, 1.0, 1.3, "not >", "missed"),
    ],
)
def test_status_of_a_goal(value, low, high, relation, expected):
    assert status(Interval(value, low, high, 1, 10), relation, 0.98) == expected


def test_balanced_rows_differ_in_their_balance_alone():
    for plain, std_norm, time, both in (LOUD, SEEING, BOUNDED):
        assert not plain.control.std_norm
        assert plain.control.gamma is None
        normalised = replace(plain.control, std_norm=True, image_scale=1.0)  # as loud as the text
        assert std_norm.control == normalised
        assert time.control == replace(plain.control, gamma=400.0)
        assert both.control == replace(normalised, gamma=400.0)
        for row in (std_norm, time, both):
            assert (row.words, row.view, row.in_region) == (plain.words, plain.view, plain.in_region)
    assert LOUD[2].control.image_scale == LOUD[0].control.image_scale == 3.0


def test_a_balance_counts_in_the_image(models, files):
    adapter = load_adapter(files / "adapters" / "eq3_c16_seed0.safetensors").float()
    chunk = Chunk(models, 0, 1)
    images = [make_images(models, chunk, condition, adapter, 3) for condition in BOUNDED]
    assert all(not torch.equal(one, other) for one, other in combinations(images, 2))


def test_rows_of_goals_and_comparisons_are_measured():
    rows = {(row.condition.name, row.family) for table in experiments() for row in table.rows}
    assert {(goal.condition, goal.family) for goal in GOALS} <= rows
    compared = {side for one in COMPARISONS for side in (one.first, one.second)}
    assert {side for side in compared if side[0] != "best global"} <= rows
    assert all(isinstance(row, Row) for table in experiments() for row in table.rows)
