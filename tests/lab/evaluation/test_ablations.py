"""From untrained weights to a page: every table, a kill in between, what is missing, and what each condition shows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.demo import drawn_once, stack
from lab.demo.evaluation import ablations
from lab.demo.evaluation.ablation_units import AblationError, AdapterFile, find_adapters, stored_adapters, units
from lab.demo.evaluation.chunk import FILLS, PATCH_FILLS, Chunk, common_wall
from lab.demo.evaluation.claims import COMPARISONS, GOALS
from lab.demo.evaluation.conditions import Area, Condition, Depth, Given, Row, View, Words
from lab.demo.evaluation.experiments import (
    AD_BLURRED,
    AD_DECODED,
    AD_GRAIN,
    AD_LIGHT,
    AD_RELIT,
    ADS,
    BLUR,
    BOUNDED,
    BY_GUIDANCE,
    CEILING,
    CONFLICT,
    IMAGE_ONLY,
    LOUD,
    MAIN,
    SEEING,
    experiments,
    with_controlnet,
)
from lab.demo.evaluation.judge import Judge, save_judge
from lab.demo.evaluation.models import Models, load_models
from lab.demo.evaluation.pairs import Split, any_scene, render
from lab.demo.evaluation.pictures import make_images, measure
from lab.demo.evaluation.readings import pack
from lab.diffusers.new_adapter import adapter_config, new_adapter
from lab.diffusers.vision import ClipVisionEncoder
from lab.evaluation.rim import ring_psnr
from pfv_core.adapter.checkpoint import load_adapter, save_adapter
from pfv_core.adapter.model import AdapterKind
from pfv_core.reference.vit import HideMode
from tools.write_ablations import with_tables

BATCH = 2
DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def small_stack() -> Iterator[None]:
    """The demo stack with fewer channels and pixels: what is tested here is not what it makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack, "IMAGE_SIZE", 64)
        patch.setattr(stack, "LATENT_SIZE", 8)
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
    controlnet = stack.new_controlnet(unet)
    for zero in (*controlnet.controlnet_down_blocks, controlnet.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(zero.weight, std=0.5)  # untrained ones say nothing
    named = {
        "autoencoder": stack.UnshuffledAutoencoder(),
        "text_encoder": stack.new_text_encoder(),
        "vision_encoder": vision,
        "unet": unet,
        "controlnet": controlnet,
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
    """Of a run with a chunk of pairs in each table, two in that of the text."""
    given = {"--weights": files / "weights", "--adapters": files / "adapters", "--out": out, "--development": BATCH}
    given |= {"--judge": files / "weights" / "judge.safetensors", "--batch": BATCH, "--steps": 1}
    pairs = [f"--pairs={table.name}={2 * BATCH if table.name == 'text' else BATCH}" for table in experiments()]
    return [*(str(part) for pair in given.items() for part in pair), *pairs, *more]


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
        assert len(found["rows"]) + len(found["missing"]) == len(table.rows)
        families = {row["family"] for row in found["rows"]}
        assert families <= {"", MAIN, "ipadapter_c16"}
        assert {row["why"] for row in found["missing"]} <= {
            f"no adapter {row.family}_seed*.safetensors" for row in table.rows if row.family not in families
        }
        for row in found["rows"]:
            assert set(row["measures"]) == set(table.measures)
            assert row["seeds"] == [0]
            for one in row["measures"].values():
                assert one["value"] is None or one["low"] <= one["value"] <= one["high"]
    assert {goal["claim"] for goal in results["goals"]} == {goal.claim for goal in GOALS}
    assert [one["claim"] for one in results["comparisons"]] == [one.claim for one in COMPARISONS]


def test_every_strength_is_tried_on_development_pairs_and_the_best_alone_on_test_pairs(whole):
    for sweep, found in zip(CONFLICT.rows, results_of(whole)["experiments"]["mepa"]["sweeps"], strict=True):
        assert list(found["tried"]) == [f"{scale:g}" for scale in sweep.scales]
        best = max(one["value"] for one in found["tried"].values())
        assert found["tried"][f"{found['best']:g}"]["value"] == best
        for row in sweep.rows:
            stored = {file.stem for file in (whole / "chunks" / row.condition.name).glob(f"{sweep.family}*/*.json")}
            chosen = row.condition.control.image_scale == found["best"]
            shared = {one.condition.name for one in BALANCE_ROWS}
            assert "development_100000" in stored
            assert ("test_00000" in stored) == (chosen or row.condition.name in shared)


BALANCE_ROWS = next(table for table in experiments() if table.name == "balance").rows


def test_the_oracle_has_no_tint_and_is_held_against_nothing(whole):
    rows = {row["condition"]: row for row in results_of(whole)["experiments"]["pfv"]["rows"]}
    assert rows["image_oracle"]["measures"]["tint"]["value"] == 0
    assert rows["image_visible"]["measures"]["tint"]["value"] != 0
    assert "against_oracle" not in rows["image_oracle"]
    assert "against_oracle" in rows["image_visible"]


def test_the_page_holds_everything(whole):
    text, results = (whole / "ablations.md").read_text(encoding="utf-8"), results_of(whole)
    for table in results["experiments"].values():
        assert table["title"] in text
        assert table["about"] in text
        assert all(row["label"] in text for row in [*table["rows"], *table["missing"]])
        assert all(row["why"] in text for row in table["missing"])
    assert all(goal["claim"] in text for goal in results["goals"])
    assert all(one["claim"] in text for one in results["comparisons"] if one["difference"])


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


def test_the_main_tables_are_whole_before_the_others_begin(files, tmp_path):
    """A run that stops in the second table has the first one, and says what it has not."""
    given = arguments(files, tmp_path, "--seeds", "0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablations, "save_text", killed_at(8))
        with pytest.raises(KeyboardInterrupt):
            ablations.main(given)
    ablations.main([*given, "--report-only"])
    tables = results_of(tmp_path)["experiments"]
    assert list(tables)[:5] == ["text", "mepa", "no_conflict", "pfv", "guided"]
    assert len(tables["text"]["rows"]) == 3
    assert not any(table["rows"] for name, table in tables.items() if name != "text")
    assert {sweep["best"] for sweep in tables["mepa"]["sweeps"]} == {None}
    assert "not chosen yet" in (tmp_path / "ablations.md").read_text(encoding="utf-8")


def test_report_only_makes_nothing(files, tmp_path):
    ablations.main(arguments(files, tmp_path, "--report-only"))
    assert not list((tmp_path / "chunks").rglob("*"))
    results = results_of(tmp_path)
    assert not any(table["rows"] for table in results["experiments"].values())
    assert {goal["status"] for goal in results["goals"]} == {"not measured"}
    assert "not measured yet" in (tmp_path / "ablations.md").read_text(encoding="utf-8")


def killed_at(call: int):
    calls = []
    write = ablations.save_text

    def save_text(file: Path, text: str) -> None:
        calls.append(file)
        if len(calls) == call:
            raise KeyboardInterrupt
        write(file, text)

    return save_text


def test_a_folder_of_other_settings_is_left_alone(files, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "out")
    with pytest.raises(AblationError, match=r"steps is 1 there and 2 here.*another --out"):
        ablations.main([*arguments(files, tmp_path / "out"), "--steps", "2"])
    with monkeypatch.context() as patch:
        patch.setattr(drawn_once, "STUDIO", "another studio")
        with pytest.raises(AblationError, match=r"scenes is .* there and .* here"):
            ablations.main(arguments(files, tmp_path / "out"))
    with pytest.raises(AblationError, match="precision is float32 there and bfloat16 here"):
        ablations.main([*arguments(files, tmp_path / "out"), "--precision", "bfloat16"])
    assert results_of(tmp_path / "out") == results_of(whole)


def test_a_run_begins_with_the_readings_of_another_and_needs_its_adapters_no_more(files, whole, tmp_path):
    pack(whole, tmp_path / "kept.zip", results_of(whole)["settings"]["adapters"])
    without = arguments(files, tmp_path / "out", "--begin", str(tmp_path / "kept.zip"))
    (tmp_path / "adapters").mkdir()
    without[without.index("--adapters") + 1] = str(tmp_path / "adapters")
    ablations.main([*without, "--seeds", "0"])
    assert results_of(tmp_path / "out") == results_of(whole)

    shutil.copy(files / "adapters" / "eq3_c16_seed1.safetensors", tmp_path / "adapters")
    ablations.main([*without, "--only", "mepa"])
    found = results_of(tmp_path / "out")["experiments"]["mepa"]
    first = results_of(whole)["experiments"]["mepa"]
    assert found["sweeps"] == first["sweeps"]  # the first training has chosen
    assert {row["family"]: row["seeds"] for row in found["rows"]} == {MAIN: [0, 1], "ipadapter_c16": [0]}

    with pytest.raises(AblationError, match=r"kept.zip holds results of other settings: steps is 1 there and 2 here"):
        ablations.main([*arguments(files, tmp_path / "third", "--begin", str(tmp_path / "kept.zip")), "--steps", "2"])
    assert not (tmp_path / "third").exists()


def test_of_another_controlnet_all_is_taken_over_that_was_made_without_it(files, whole, tmp_path, capsys):
    pack(whole, tmp_path / "kept.zip", results_of(whole)["settings"]["adapters"])
    shutil.copytree(files / "weights", tmp_path / "weights")
    controlnet = stack.load_model("controlnet", files / "weights")
    for block in controlnet.controlnet_down_blocks:
        block.weight.data.neg_()
    stack.save_weights(controlnet, tmp_path / "weights" / "controlnet.safetensors", {})
    given = arguments(files, tmp_path / "out", "--begin", str(tmp_path / "kept.zip"), "--seeds", "0")
    given[given.index("--weights") + 1] = str(tmp_path / "weights")
    capsys.readouterr()
    ablations.main([*given, "--report-only"])
    ads = {condition.name for condition in (*ADS.values(), *BY_GUIDANCE.values())}
    assert f"another ControlNet: {len(ads)} readings that were made with it are left out" in capsys.readouterr().out

    tables = ("ad", "ad_guidance")
    ablations.main([*given, *(f"--only={table}" for table in tables)])
    first, second = (results_of(out)["experiments"] for out in (whole, tmp_path / "out"))
    rows, anew = (
        {(row["condition"], row["family"]): row for table in tables for row in found.pop(table)["rows"]}
        for found in (first, second)
    )
    changed = {condition for condition, family in rows if rows[condition, family] != anew[condition, family]}
    assert changed == with_controlnet() == ads
    assert second == {}  # of these tables alone a page was asked for
    ablations.main([*given, "--report-only"])
    everything = results_of(tmp_path / "out")["experiments"]
    assert {name: found for name, found in everything.items() if name not in tables} == first

    given[given.index("--weights") + 1] = str(files / "weights")
    with pytest.raises(
        AblationError, match=r"weights is .* there and .* here"
    ):  # what a folder has stays of one ControlNet
        ablations.main(given)


def test_the_kept_adapters_are_for_the_shipped_weights_alone(files, tmp_path, capsys):
    given = arguments(files, tmp_path / "out", "--report-only")
    place = given.index("--adapters")
    with pytest.raises(SystemExit):
        ablations.main([*given[:place], *given[place + 2 :]])
    assert "trained with other weights than those in --weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_trainings_of_one_name_are_refused_where_neither_is_there(files, whole, tmp_path):
    shutil.copytree(whole / "chunks" / "image_dropped", tmp_path / "chunks" / "image_dropped")
    (stored,) = (tmp_path / "chunks" / "image_dropped").glob("eq3_c16_seed0-*")
    shutil.copytree(stored, stored.with_name("eq3_c16_seed0-0123456789ab"))
    found = find_adapters(files / "adapters", [0])
    assert stored_adapters(tmp_path, found) == []  # the files say which
    with pytest.raises(AblationError, match="two trainings called eq3_c16_seed0"):
        stored_adapters(tmp_path, [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--steps", "0"], "--steps is 0, expected 1 or more"),
        (["--development", "3"], "--development is 3, expected a multiple of --batch, 2"),
        (["--pairs", "pfv=5"], "--pairs pfv is 5, expected a multiple of --batch, 2"),
        (["--pairs", "nothing=4"], "'nothing' is no table, expected one of text, mepa"),
    ],
)
def test_bad_numbers_are_refused(files, tmp_path, capsys, given, message):
    with pytest.raises(SystemExit):
        ablations.main(arguments(files, tmp_path, *given))
    assert message in capsys.readouterr().err


def test_it_is_counted_before_it_is_made(capsys):
    ablations.main(["--count"])
    lines = capsys.readouterr().out.splitlines()
    rows = {name.strip(): images.strip() for _, name, images, _, _ in (line.split("|") for line in lines[2:])}
    assert rows["text"] == "240"  # one row is sampled, with no adapter
    assert rows["pooled"] == f"{4 * 3 * 80}"
    numbers = [int(images.replace(",", "")) for images in rows.values()]
    assert numbers[-1] == sum(numbers[:-1]) < 25_000


def test_a_count_is_what_a_run_makes(files, whole):
    adapters = find_adapters(files / "adapters", [0])
    tables = [replace(table, pairs=2 * BATCH if table.name == "text" else BATCH) for table in experiments()]
    counted = sum(images for images, _ in ablations.num_images(tables, adapters, BATCH, BATCH).values())
    given = {one.name for one in (CEILING, BLUR, AD_DECODED, AD_LIGHT, AD_GRAIN, AD_RELIT, AD_BLURRED)}
    sampled = [file for file in (whole / "chunks").rglob("*.json") if file.parts[-3] not in given]
    twice = counted - BATCH * len(sampled)  # a strength that was chosen may be a row of another table
    assert twice in (0, BATCH, 2 * BATCH, 3 * BATCH)


def test_adapters_are_found_by_name_and_seed(files, tmp_path):
    found = find_adapters(files / "adapters", [0])
    assert [(one.family, one.tokens, one.seed) for one in found] == [("eq3_c16", 16, 0), ("ipadapter_c16", 16, 0)]
    shutil.copy(files / "adapters" / "eq3_c16_seed1.safetensors", tmp_path / "eq3_c16_seed0.safetensors")
    assert find_adapters(tmp_path, [0])[0].identity != found[0].identity  # other weights have results of their own


def test_an_adapter_is_trained_with_the_mode_that_its_name_says(files, tmp_path):
    adapter = load_adapter(files / "adapters" / "eq3_c16_seed0.safetensors")
    for name, mode in (("eq3_c16_drop_seed0", "drop"), ("eq3_c16_seed0", "zero")):
        save_adapter(tmp_path / f"{name}.safetensors", adapter, {"config": f'kind = "eq3"\nhide_mode = "{mode}"\n'})
    assert [one.family for one in find_adapters(tmp_path, [0])] == ["eq3_c16_drop", "eq3_c16"]
    save_adapter(tmp_path / "eq3_c4_seed0.safetensors", adapter, {"config": 'hide_mode = "drop"\n'})
    with pytest.raises(
        AblationError, match=r"eq3_c4_seed0.safetensors was trained with hide_mode drop, its name says zero"
    ):
        find_adapters(tmp_path, [0])


def test_units_go_chunk_by_chunk_and_take_the_first_seeds():
    adapters = [AdapterFile(Path("x"), MAIN, 16, seed, f"x{seed}") for seed in (2, 0, 1)]
    rows = [Row(IMAGE_ONLY[View.DROPPED], MAIN), Row(CEILING, "")]
    made = units(rows, adapters, Split.TEST, 4, 2, seeds=2)
    assert [(unit.start, unit.condition.name, unit.adapter and unit.adapter.seed) for unit in made] == [
        (start, name, seed)
        for start in (0, 2)
        for name, seed in (("image_dropped", 0), ("image_dropped", 1), ("ceiling", None))
    ]


def test_guidance_without_a_text_makes_another_picture(models, files):
    adapter = load_adapter(files / "adapters" / "eq3_c16_seed0.safetensors")
    chunk, plain = Chunk(models, 0, 1), IMAGE_ONLY[View.VISIBLE]
    made = [make_images(models, chunk, replace(plain, guidance=guidance), adapter, 1) for guidance in (None, 3.0)]
    assert not torch.allclose(*made)
    assert (plain.guidance_scale, replace(plain, guidance=3.0).guidance_scale) == (1.0, 3.0)


def test_noise_belongs_to_the_pair(models):
    both, second = Chunk(models, 0, 2), Chunk(models, 1, 1)
    assert torch.equal(both.noise[1:], second.noise)
    assert not torch.equal(both.noise[0], both.noise[1])
    assert both.pairs[1] == second.pairs[0]


def test_another_light_and_grain_change_nothing_that_a_text_names(models):
    chunk = Chunk(models, 0, 2)
    for ad, wanted in ((False, chunk.wanted), (True, [b.with_product_of(a) for a, b in chunk.pairs])):
        relit = chunk.changed(ad, Given.RELIT)
        assert [
            replace(one, light=two.light, grain=two.grain) for one, two in zip(relit, wanted, strict=True)
        ] == wanted
        assert all(one.light != two.light and one.grain != two.grain for one, two in zip(relit, wanted, strict=True))
        light, grain = (chunk.changed(ad, given) for given in (Given.LIGHT, Given.GRAIN))
        assert [replace(one, light=two.light) for one, two in zip(light, wanted, strict=True)] == wanted
        assert [replace(one, light=two.light) for one, two in zip(relit, grain, strict=True)] == grain
    assert Chunk(models, 1, 1).changed(True, Given.RELIT) == chunk.changed(True, Given.RELIT)[1:]
    product = chunk.ad_drawn.product
    truth = chunk.ad_drawn.image.movedim(3, 1)
    both, light, grain = (
        ring_psnr(chunk.pasted(chunk.given(one)), truth, product) for one in (AD_RELIT, AD_LIGHT, AD_GRAIN)
    )
    assert both.max() < ring_psnr(truth + 0.01, truth, product).min()
    assert (light < grain).all()  # it is the light that tells


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
    hidden = chunk.shown(View.DROPPED)[1].hidden_pixels()
    for views, area in ((FILLS, product), (PATCH_FILLS, hidden)):
        for view in views:
            image, patch_mask, _ = chunk.shown(view)
            assert bool(patch_mask.patch_keep_mask.all())
            changed = (image != visible).any(1)
            assert not bool((changed & ~area).any())
            assert float((changed & area).sum() / area.sum()) > 0.9
    assert int(hidden.sum()) > int(product.sum())
    for view, area in ((View.BLACKED, product), (View.BLACKED_PATCHES, hidden)):
        assert float(chunk.shown(view)[0].amax(1)[area].max()) == 0
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
    assert chunk.captions(Words.PRODUCT) == [f"a {scene.product_color} {scene.shape}"]
    assert f"{scene.wall_color} wall" in chunk.captions(Words.EVERYTHING)[0].replace("plain ", "")
    assert chunk.references[0].wall_color not in chunk.captions(Words.EVERYTHING)[0]


def test_the_common_wall_is_wall_in_nearly_every_scene():
    drawn = render([any_scene(seed) for seed in range(5000, 5024)], stack.IMAGE_SIZE)
    wall = common_wall(24)
    assert float((drawn.wall == 1)[wall].float().mean()) > 0.97
    assert 0.1 < float(wall[0].float().mean()) < 0.45


def test_regions_are_the_wall_outside_the_products_box_or_all_around_the_ads_product(models):
    chunk = Chunk(models, 0, 5)
    drawn, wall, around = chunk.wanted_drawn, chunk.region(Area.WALL), chunk.region(Area.AROUND)
    assert float((wall * (drawn.product > 0)).sum()) == 0
    assert float((wall * (drawn.table > 0.5)).sum()) == 0
    assert bool((wall.flatten(1).mean(1) > 0.2).all())
    assert set(np.unique(wall.numpy())) == {0.0, 1.0}
    assert torch.equal(around == 1, chunk.ad_drawn.product == 0)
    assert chunk.region(Area.FRAME) is None


def test_an_ad_is_the_product_in_the_references_surroundings(models):
    chunk = Chunk(models, 0, 2)
    drawn = chunk.ad_drawn
    outside = drawn.product == 0
    assert torch.equal(drawn.product, render([b.with_product_of(a) for a, b in chunk.pairs], stack.IMAGE_SIZE).product)
    made = torch.rand(2, 3, stack.IMAGE_SIZE, stack.IMAGE_SIZE)
    pasted = chunk.pasted(made)
    inside = (drawn.product == 1)[:, None].expand_as(made)
    assert torch.equal(pasted[inside], drawn.image.permute(0, 3, 1, 2)[inside])
    assert torch.equal(pasted[outside[:, None].expand_as(made)], made[outside[:, None].expand_as(made)])


def test_the_depth_mask_hides_the_foreign_product_alone(models):
    chunk = Chunk(models, 0, 2)
    masked, whole = chunk.depth(Depth.MASKED)[:, 0], chunk.depth(Depth.WHOLE)[:, 0]
    own, foreign = chunk.ad_drawn.product > 0.5, chunk.reference_drawn.product > 0
    assert torch.equal(masked[own], chunk.ad_drawn.depth[own])
    assert torch.equal(masked[~foreign], whole[~foreign])
    assert torch.equal(whole[foreign & ~own], chunk.reference_drawn.depth[foreign & ~own])
    assert not bool((masked == whole)[foreign & ~own & (chunk.reference_drawn.product == 1)].all())


def test_the_yardsticks_are_the_truth_decoded_and_blurred(models):
    chunk = Chunk(models, 0, 2)
    for decoded, blurred, truth in ((CEILING, BLUR, chunk.wanted_drawn), (AD_DECODED, AD_BLURRED, chunk.ad_drawn)):
        image = truth.image.permute(0, 3, 1, 2)
        mush = make_images(models, chunk, blurred, None, 1)
        assert decoded.given is Given.DECODED
        assert 0.005 < float((mush - image).abs().mean()) < 0.1
        found = measure(models, chunk, mush, blurred.ad)
        assert max(found["sharpness"]) < 0.6
        assert measure(models, chunk, image, blurred.ad)["sharpness"] == [1.0, 1.0]


def test_an_ads_surroundings_are_measured_once_the_product_is_pasted(models):
    chunk = Chunk(models, 0, 2)
    image = chunk.ad_drawn.image.permute(0, 3, 1, 2).contiguous()
    without = image.clone()
    without[(chunk.ad_drawn.product == 1)[:, None].expand_as(without)] = 0.0
    found, plain = measure(models, chunk, without, ad=True), measure(models, chunk, without)
    assert found["halo"] == found["halo_strength"] == [0.0, 0.0]
    assert min(found["ring_psnr"]) > 60
    assert "halo" not in plain


def test_ads_differ_with_the_view_and_with_the_depth(models, files):
    adapter = load_adapter(files / "adapters" / "eq3_c16_seed0.safetensors").float()
    chunk = Chunk(models, 0, 1)
    images = [make_images(models, chunk, condition, adapter, 2) for condition in ADS.values()]
    assert all(not torch.equal(one, other) for one, other in combinations(images, 2))


def test_balanced_rows_differ_in_their_balance_alone():
    for plain, std_norm, time, both in (LOUD, SEEING, BOUNDED):
        assert not plain.control.std_norm
        assert plain.control.gamma is None
        normalised = replace(plain.control, std_norm=True, image_scale=1.0)  # as loud as the text
        assert std_norm.control == normalised
        assert time.control == replace(plain.control, gamma=400.0)
        assert both.control == replace(normalised, gamma=400.0)
        for row in (std_norm, time, both):
            assert (row.words, row.view, row.area) == (plain.words, plain.view, plain.area)
    assert LOUD[2].control.image_scale == LOUD[0].control.image_scale == 3.0


def test_a_balance_counts_in_the_image(models, files):
    adapter = load_adapter(files / "adapters" / "eq3_c16_seed0.safetensors").float()
    chunk = Chunk(models, 0, 1)
    images = [make_images(models, chunk, condition, adapter, 3) for condition in BOUNDED]
    assert all(not torch.equal(one, other) for one, other in combinations(images, 2))


def test_rows_of_goals_and_comparisons_are_in_their_tables():
    rows = {table.name: set(table.rows) for table in experiments()}
    assert all({goal.row, goal.against or goal.row} <= rows[goal.experiment] for goal in GOALS)
    assert all({one.first, one.second} <= rows[one.experiment] for one in COMPARISONS)
    assert len({one.claim for one in COMPARISONS if one.experiment == "mepa"}) == 2 * 4


def test_conditions_of_one_name_are_one_condition():
    rows = [
        row for table in experiments() for one in table.rows for row in (one.rows if hasattr(one, "rows") else [one])
    ]
    by_name: dict[str, Condition] = {}
    for row in rows:
        known = by_name.setdefault(row.condition.name, row.condition)
        assert replace(row.condition, label="") == replace(known, label="")


def test_the_published_page_is_what_the_kept_readings_give(tmp_path):
    """Of the shipped weights, the kept adapters and this studio: where one of them changes it is measured anew."""
    pairs = {"guided": 40, "balance": 40}
    given = [f"--pairs={table.name}={pairs.get(table.name, 60)}" for table in experiments()]
    readings = DOCS / "readings" / "ablations.zip"
    ablations.main(
        [
            "--begin",
            str(readings),
            "--out",
            str(tmp_path),
            "--precision=bfloat16",
            "--development=20",
            "--report-only",
            *given,
        ]
    )
    written = (tmp_path / "ablations.md").read_text(encoding="utf-8")
    assert written == (DOCS / "ablations.md").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert " ".join(f"--pairs {of_table}" for of_table in (one.removeprefix("--pairs=") for one in given)) in written
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert with_tables(readme, results) == readme
