"""The neighbours' measuring: what is made, stored, chosen and told, and that each way of both methods makes its pictures."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lab.demo import stack
from lab.demo.evaluation import (
    companion_chunk,
    measure_neighbours,
    neighbour_refadgen,
    neighbour_strict_id,
    neighbours_together,
)
from lab.demo.evaluation.ablation_units import AblationError
from lab.demo.evaluation.judge import Judge, save_judge
from lab.demo.evaluation.models import load_models
from lab.demo.evaluation.neighbour_plan import Claim, Column, Derived, Plan, Scenes, Table, Way
from lab.demo.evaluation.neighbour_store import Run, Store, find_trained
from lab.demo.evaluation.neighbours import counted, page, run_plans, summarize
from lab.demo.evaluation.readings import pack, unpack
from lab.demo.splits import Split
from lab.diffusers import sample
from lab.diffusers.new_adapter import adapter_config, new_adapter
from lab.diffusers.refadgen import RefAdGen, load_refadgen
from lab.diffusers.strict_id import save_strict_id_net, strict_id_from
from lab.diffusers.vision import ClipVisionEncoder
from lab.files import save_text
from pfv_core.adapter.checkpoint import save_adapter
from pfv_core.adapter.model import AdapterKind
from pfv_core.research.strict_id_file import StrictIDConfig

PLAIN = Way("plain", "without a file", 0.2)
SWEPT = Way("swept", "with a strength", 0.0, ("net",), scales=(0.5, 1.0, 2.0))
BOTH = Way("both", "with two files", 0.0, ("net", "other"))
SCENES = Scenes(4, 6, 2)
TABLE = Table("one", "A table", "What it is about.", (PLAIN, SWEPT), ("right", "far"))


@dataclass
class Made:
    """A maker whose pictures are grey: a way's own value plus its strength's distance to 2 from below."""

    calls: list[tuple[str, str, int]]

    def chunk(self, split: Split, start: int, count: int):
        return split, start, count

    def make(self, chunk, way: Way, files: dict[str, Path]) -> Tensor:
        split, start, count = chunk
        self.calls.append((way.name, split.value, start))
        value = way.how + (0.0 if not files else way.scale / 4 if split is Split.DEVELOPMENT else 0.9)
        return torch.full((count, 3, 4, 4), value)

    def measure(self, chunk, way: Way, image: Tensor) -> dict[str, Tensor]:
        value = image.mean((1, 2, 3))
        return {"right": (value > 0.5).double(), "far": value + torch.arange(len(value)) / 100, "chosen": value}


def plan(maker):
    return Plan(
        name="toy",
        title="Toy",
        about="About it.",
        tables=(TABLE, replace(TABLE, name="again")),
        measures={
            "right": Column("right", "higher", is_rate=True, read_of=("half",)),
            "far": Column("far"),
            "chosen": Column("chosen"),
        },
        claims=(
            Claim("more", "one", "far", "swept", "plain"),
            Claim("less", "one", "right", "plain", "swept"),
        ),
        chosen_by="chosen",
        maker=lambda _models, _steps: maker,
        images_of=lambda _way: 3,
        in_common=lambda _split, seeds: {"half": [seed // 2 for seed in seeds]},
    )


@pytest.fixture
def nets(tmp_path):
    folder = tmp_path / "nets"
    folder.mkdir()
    for name in ("net_seed0", "net_seed2", "other_seed0", "net_seedx"):
        (folder / f"{name}.safetensors").write_text(name)
    return find_trained(folder, ["net", "other", "gone"])


def run_toy(nets, out, name="toy"):
    maker = Made([])
    toy, store = plan(maker), Store(out, name, nets, 2, "chosen")
    run = Run(maker, store, "float32")
    for table in toy.tables:
        run.make([one for way in table.ways for one in way.tried], Split.DEVELOPMENT, 2, table.name)
        run.make([store.chosen(way, 2) or way for way in table.ways], Split.TEST, 4, table.name)
    return toy, store, maker.calls


def test_files_are_found_by_family_and_seed(nets):
    assert sorted(nets["net"]) == [0, 2]
    assert nets["gone"] == {}


def test_several_files_are_those_of_one_seed(nets, tmp_path):
    store = Store(tmp_path, "toy", nets, 2, "chosen")
    (both,) = store.trained_of(BOTH)
    assert both.seed == 0
    assert {name: path.stem for name, path in both.files.items()} == {"net": "net_seed0", "other": "other_seed0"}
    assert both.identity == "+".join(
        store.trained_of(Way("", "", None, (family,)))[0].identity for family in BOTH.families
    )
    assert store.trained_of(Way("", "", None, ("net", "gone"))) == []


def test_the_best_strength_of_the_development_scenes_is_measured_on_the_test_scenes(nets, tmp_path):
    _, store, calls = run_toy(nets, tmp_path)
    assert store.tried(SWEPT, 2) == {0.5: 0.125, 1.0: 0.25, 2.0: 0.5}
    assert store.chosen(SWEPT, 2).name == "swept_at_2"
    assert {name for name, split, _ in calls if split == "test"} == {"plain", "swept_at_2"}
    assert len(calls) == len(set(calls)) + 2  # of two trainings the first one chooses, both are measured on two chunks
    assert (tmp_path / "chunks" / "toy" / "plain" / "none" / "test_00000.npz").is_file()


def test_what_is_stored_is_not_made_again(nets, tmp_path):
    _, store, _ = run_toy(nets, tmp_path)
    assert run_toy(nets, tmp_path)[2] == []
    store.file(PLAIN, store.trained_of(PLAIN)[0], Split.TEST, 2).unlink()
    assert run_toy(nets, tmp_path)[2] == [("plain", "test", 2)]


def test_readings_of_trainings_whose_files_are_gone_count(nets, tmp_path):
    toy, store, _ = run_toy(nets, tmp_path / "first")
    (tmp_path / "first" / "run.json").write_text("{}")
    pack(tmp_path / "first", tmp_path / "kept.zip", store.identities.values())
    unpack(tmp_path / "kept.zip", tmp_path / "second")
    gone = Store(tmp_path / "second", "toy", {}, 2, "chosen")
    assert summarize(toy, gone, SCENES)["tables"] == summarize(toy, store, SCENES)["tables"]
    assert run_toy({}, tmp_path / "second")[2] == []  # nothing can be made, and nothing is lacking
    (tmp_path / "net_seed3.safetensors").write_text("later")
    later = find_trained(tmp_path, ["net"])
    assert run_toy(later, tmp_path / "second")[2] == [("swept_at_2", "test", 0), ("swept_at_2", "test", 2)]
    third = Store(tmp_path / "second", "toy", later, 2, "chosen")
    rows = summarize(toy, third, SCENES)["tables"]["one"]["rows"]
    assert [row["seeds"] for row in rows] == [[], [0, 2, 3]]


def test_two_trainings_of_one_seed_are_refused_where_neither_is_there(nets, tmp_path):
    _, store, _ = run_toy(nets, tmp_path)
    (tmp_path / "chunks" / "toy" / "other_way" / "net_seed2-0123456789ab").mkdir(parents=True)
    assert Store(tmp_path, "toy", nets, 2, "chosen").trained_of(SWEPT) == store.trained_of(SWEPT)  # the files say which
    with pytest.raises(AblationError, match="results of two trainings called net_seed2"):
        Store(tmp_path, "toy", {}, 2, "chosen")


def test_all_strengths_are_tried_with_one_training(nets, tmp_path):
    """Of seed 0 there are results at one strength and no file: what a later training does at the others is no answer to it."""
    _, store, _ = run_toy(nets, tmp_path)
    for scale in (1.0, 2.0):
        shutil.rmtree(tmp_path / "chunks" / "toy" / SWEPT.at(scale).name)
    later = {"net": {2: nets["net"][2]}}
    assert Store(tmp_path, "toy", later, 2, "chosen").tried(SWEPT, 2) == {0.5: store.tried(SWEPT, 2)[0.5]}
    assert Store(tmp_path, "toy", later, 2, "chosen").chosen(SWEPT, 2) is None


def test_a_replaced_training_s_readings_are_not_packed_and_nothing_leaves_the_folder(nets, tmp_path):
    _, store, _ = run_toy(nets, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{}")
    old = tmp_path / "run" / "chunks" / "toy" / "swept_at_2" / "net_seed0-0123456789ab" / "test_00000.json"
    save_text(old, "{}")
    pack(tmp_path / "run", tmp_path / "kept.zip", store.identities.values())
    with zipfile.ZipFile(tmp_path / "kept.zip", "a") as archive:
        archive.writestr("chunks/../../outside.json", "{}")
    (tmp_path / "here").mkdir()
    unpack(tmp_path / "kept.zip", tmp_path / "here" / ".." / "again")
    packed = {file.relative_to(tmp_path / "again") for file in (tmp_path / "again").rglob("*.json")}
    expected = {file.relative_to(tmp_path / "run") for file in (tmp_path / "run" / "chunks").rglob("*.json")}
    assert packed == expected - {old.relative_to(tmp_path / "run")}
    assert not (tmp_path / "outside.json").exists()


def test_another_plan_s_ways_of_the_same_names_are_its_own(nets, tmp_path):
    first = run_toy(nets, tmp_path)[2]
    assert run_toy(nets, tmp_path, "other")[2] == first


def test_of_packed_plans_each_takes_its_own(nets, tmp_path):
    """Which readings of another plan were made with another ControlNet this one does not know."""
    for name in ("toy", "other"):
        run_toy(nets, tmp_path / "run", name)
    (tmp_path / "run" / "run.json").write_text("{}")
    pack(tmp_path / "run", tmp_path / "kept.zip", Store(tmp_path / "run", "toy", nets, 2, "chosen").identities.values())
    unpack(tmp_path / "kept.zip", tmp_path / "again", {"plain"}, "toy")
    assert {file.parts[-4:-2] for file in (tmp_path / "again").rglob("*.json")} == {
        ("toy", SWEPT.at(scale).name) for scale in SWEPT.scales
    }


def test_what_follows_from_other_measures_is_not_stored(nets, tmp_path):
    _, store, _ = run_toy(nets, tmp_path)
    derived = {"chosen": Derived(("right", "far"), lambda right, far: right - far), "not": Derived(("gone",), abs)}
    today = Store(tmp_path, "toy", nets, 2, "chosen", derived)
    (stored,), (found,) = (one.values(PLAIN, Split.TEST, 4).values() for one in (store, today))
    assert found["chosen"] == pytest.approx(stored["right"] - stored["far"])
    assert found.keys() == stored.keys()


def test_what_earlier_chunks_alone_hold_is_not_read(nets, tmp_path):
    """A measure that was stored once and is derived now."""
    _, store, _ = run_toy(nets, tmp_path)
    first = store.file(PLAIN, store.trained_of(PLAIN)[0], Split.TEST, 0)
    first.write_text(json.dumps(json.loads(first.read_text()) | {"gone": [1, 1]}))
    (found,) = store.values(PLAIN, Split.TEST, 4).values()
    assert found.keys() == {"right", "far", "chosen"}
    assert len(found["far"]) == 4


def test_tables_and_claims(nets, tmp_path):
    toy, store, _ = run_toy(nets, tmp_path)
    results = json.loads(json.dumps(summarize(toy, store, SCENES)))
    plain, swept = results["tables"]["one"]["rows"]
    assert (plain["seeds"], swept["seeds"], swept["label"]) == ([], [0, 2], "with a strength, scale 2")
    assert plain["measures"]["far"]["value"] == pytest.approx(0.205)
    assert (plain["measures"]["right"]["value"], swept["measures"]["right"]["value"]) == (0.0, 1.0)
    more, less = results["claims"]
    assert more["difference"]["value"] == pytest.approx(0.7)
    assert (more["verdict"], less["verdict"]) == ("holds", "cannot be told apart")
    assert less["p"] > 0.05  # all of four scenes differ; two of each are alike, and two looks are few
    settings = {"steps": 1, "precision": "float32"}
    text = page(toy, results | {"settings": settings, "scenes": 4, "development": 2})
    assert "| more | far | 0.700" in text
    assert (
        "with a strength, on the development scenes, by chosen: 0.5: 0.125, 1: 0.250, 2: 0.500. The best, 2, is the last"
        in text
    )


def test_a_table_of_many_scenes_is_of_one_training(nets, tmp_path):
    toy = replace(plan(maker := Made([])), tables=(TABLE, TABLE.of_many()))
    toy = replace(toy, claims=(*toy.claims, replace(toy.claims[0], table="one_many")))
    _, store, _ = run_toy(nets, tmp_path)
    run = Run(maker, store, "float32")
    chosen = [store.chosen(way, 2) for way in TABLE.ways]
    run.make(chosen, Split.TEST, SCENES.many, "many", one=True)
    assert maker.calls == [(name, "test", 4) for name in ("plain", "swept_at_2")]  # two chunks are there
    results = json.loads(json.dumps(summarize(toy, store, SCENES)))
    few, many = (results["tables"][name] for name in ("one", "one_many"))
    assert [(table["scenes"], [row["seeds"] for row in table["rows"]]) for table in (few, many)] == [
        (4, [[], [0, 2]]),
        (6, [[], [0]]),
    ]
    assert many["rows"][0]["measures"]["far"]["value"] == pytest.approx(0.2 + (0 + 1) / 2 / 100)
    assert [one["verdict"] for one in results["claims"]] == ["holds", "cannot be told apart", "holds"]
    text = page(toy, results | {"settings": {"steps": 1, "precision": "float32"}, "scenes": 4, "development": 2})
    assert "The same of 6 test scenes, with one training of each row.\n" in text
    assert text.count("on the development scenes, by chosen") == 1


def test_of_many_scenes_the_training_is_one_whose_readings_are_whole_or_whose_files_are_here(nets, tmp_path):
    toy, store, _ = run_toy(nets, tmp_path)
    later = Store(
        tmp_path, "toy", {"net": {2: nets["net"][2]}}, 2, "chosen"
    )  # seed 0 has readings of four scenes, and no file
    chosen = store.chosen(SWEPT, 2)
    assert [one.seed for one in later.trainings(chosen, Split.TEST, 6, one=True)] == [2]
    assert [one.seed for one in later.trainings(chosen, Split.TEST, 4, one=True)] == [0]
    Run(Made([]), later, "float32").make([PLAIN, chosen], Split.TEST, 6, "many", one=True)
    assert [*later.values(chosen, Split.TEST, 6, one=True)] == [2]
    many = replace(toy, tables=(TABLE.of_many(),), claims=(replace(toy.claims[0], table="one_many"),))
    (claim,) = summarize(many, Store(tmp_path, "toy", {}, 2, "chosen"), SCENES)["claims"]
    assert claim["difference"] is not None


def test_two_ways_of_many_scenes_stand_beside_each_other_whatever_their_seeds(nets, tmp_path):
    """Each has one training; of few scenes they would need the same seeds."""
    other = Way("other", "another file", -0.25, ("other",))
    ways = (replace(SWEPT, scales=()), other)
    few = Table("one", "One", "", ways, ("far",))
    toy = replace(plan(None), tables=(few, few.of_many()), claims=())
    claims = tuple(Claim(name, name, "far", "swept", "other") for name in ("one", "one_many"))
    found = {"net": {2: nets["net"][2]}, "other": nets["other"]}
    store = Store(tmp_path, "toy", found, 2, "chosen")
    Run(Made([]), store, "float32").make(ways, Split.TEST, 6, "many", one=True)
    few_claim, many_claim = summarize(replace(toy, claims=claims), store, SCENES)["claims"]
    assert few_claim["difference"] is None
    assert many_claim["difference"]["value"] == pytest.approx(0.25)


def test_two_ways_of_one_file_are_not_compared_where_their_trainings_differ(nets, tmp_path):
    ways = (replace(SWEPT, scales=()), replace(SWEPT, name="again", scales=()))
    table = Table("one", "One", "", ways, ("far",)).of_many()
    toy = replace(plan(None), tables=(table,), claims=(Claim("c", "one_many", "far", "swept", "again"),))
    for way, seed in zip(ways, (0, 2), strict=True):
        store = Store(tmp_path, "toy", {"net": {seed: nets["net"][seed]}}, 2, "chosen")
        Run(Made([]), store, "float32").make([way], Split.TEST, 6, "many", one=True)
    (claim,) = summarize(toy, Store(tmp_path, "toy", nets, 2, "chosen"), SCENES)["claims"]
    assert claim["difference"] is None


def test_a_table_of_many_may_have_some_of_the_ways():
    assert TABLE.of_many().ways == TABLE.ways
    assert TABLE.of_many("swept").ways == (SWEPT,)
    with pytest.raises(KeyError, match="swetp"):
        TABLE.of_many("swetp")
    for table in neighbour_strict_id.TABLES:
        asked = [claim for claim in neighbour_strict_id.PLAN.claims if claim.table == table.name]
        assert {one for claim in asked for one in (claim.first, claim.second)} <= {way.name for way in table.ways}


def test_what_is_missing_is_named_and_no_claim_is_made_of_it(tmp_path):
    toy, store = plan(Made([])), Store(tmp_path, "toy", {"net": {}}, 2, "chosen")
    results = summarize(toy, store, SCENES)
    missing = ["without a file", "with a strength: no net_seed*.safetensors"]
    assert results["tables"]["one"]["missing"] == missing
    assert [one["verdict"] for one in results["claims"]] == ["not measured", "not measured"]


SCALES = ("scale", "scale_untold", "scale_decoded")


def test_counting(capsys):
    # 3 pictures a scene: 3 strengths of 40 scenes, 2 ways of 100; the second table has nothing new.
    assert counted(plan(None), 1, Scenes(100, 500, 40)).splitlines()[2:] == [
        "| one | 960 |",
        "| again | 0 |",
        "| all | 960 |",
    ]
    # Of many there are 400 more; the second training has none of them.
    many = replace(plan(None), tables=(TABLE, TABLE.of_many()))
    assert counted(many, 2, Scenes(100, 500, 40)).splitlines()[2:4] == ["| one | 1,260 |", "| one_many | 2,400 |"]
    # What no height tells apart is drawn once.
    told, untold, true = (next(w for w in neighbour_strict_id.TABLES[0].ways if w.name == n).how for n in SCALES)
    assert (told.pictures, untold.pictures, true.pictures) == (4, 1, 0)
    neighbour_refadgen.main(["--count", "--pairs", "20"])
    alone = capsys.readouterr().out
    assert "| lambda | 140 |" in alone
    measure_neighbours.main(["--count", "--pairs", "20"])
    assert capsys.readouterr().out.startswith(alone.rstrip())
    with pytest.raises(SystemExit):
        measure_neighbours.main(["--count", "--only", "lambda"])  # of one plan alone
    with pytest.raises(SystemExit):
        neighbour_refadgen.main(["--count", "--pairs", "30"])
    assert "multiple of --batch" in capsys.readouterr().err


@pytest.fixture(scope="module")
def small():
    """Fewer channels and pixels: what is tested here is not what it makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack, "IMAGE_SIZE", 64)
        patch.setattr(stack, "LATENT_SIZE", 8)
        patch.setitem(stack.UNET, "block_out_channels", (32, 64))
        patch.setitem(stack.UNET, "attention_head_dim", (1, 1))
        patch.setitem(stack.AUTOENCODER, "block_out_channels", (32, 32))
        for module in (companion_chunk, neighbour_strict_id, neighbours_together):
            patch.setattr(module, "RULER_SIZE", 64)
        yield


@pytest.fixture(scope="module")
def files(small, tmp_path_factory):
    """weights/ of a small stack, and models/ with what the ways take, one training each."""
    folder = tmp_path_factory.mktemp("files")
    weights, trained = folder / "weights", folder / "models"
    trained.mkdir()
    torch.manual_seed(0)
    unet, vision = stack.new_unet(), stack.new_vision_encoder()
    controlnet = stack.new_controlnet(unet)
    for zero in (*controlnet.controlnet_down_blocks, controlnet.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(zero.weight, std=0.5)
    named = {
        "autoencoder": stack.UnshuffledAutoencoder(),
        "text_encoder": stack.new_text_encoder(),
        "vision_encoder": vision,
        "unet": unet,
        "controlnet": controlnet,
    }
    for name, model in named.items():
        stack.save_weights(model, weights / f"{name}.safetensors", {})
    save_judge(Judge(), weights / "judge.safetensors", {})
    spec = ClipVisionEncoder(vision).spec
    for variant in neighbour_refadgen.VARIANTS:
        module = RefAdGen(unet, with_mask=variant != "no_mask_channel")
        if module.mask_kernel is not None:
            torch.nn.init.normal_(module.mask_kernel)
        module.save(trained / f"refadgen_{variant}_seed0.safetensors", "demo", torch.float32, {})
    net = strict_id_from(controlnet, spec, 0)
    torch.nn.init.normal_(net.controlnet.controlnet_cond_embedding.conv_in.weight, std=0.5)
    for variant in ("whole", "no_time_weighting", "no_balance"):
        config = StrictIDConfig("demo", net.branches.sizes, spec, variant != "no_balance", None)
        config = replace(config, gamma=400.0) if variant == "whole" else config
        save_strict_id_net(trained / f"strict_id_{variant}_seed0.safetensors", net, config, torch.float32)
    kind = {"kind": AdapterKind.EQ3, "num_tokens": 4, "latent_width": 32}
    adapter = new_adapter(unet, adapter_config(unet, base="demo", encoder=spec, **kind), 0)
    save_adapter(trained / "ipadapter_c16_seed0.safetensors", adapter)
    save_adapter(
        trained / "eq3_c16_seed0.safetensors",
        new_adapter(unet, adapter_config(unet, base="demo", encoder=spec, **kind), 1),
    )
    return folder


def test_a_trained_refadgen_is_read_as_it_was_written(files, tmp_path):
    unet = stack.load_model("unet", files / "weights")
    written = RefAdGen(unet)
    with torch.no_grad():
        for parameter in written.parameters():  # none of it is the U-Net's any more
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    written.save(tmp_path / "refadgen.safetensors", "demo", torch.float32, {})
    read = load_refadgen(unet, tmp_path / "refadgen.safetensors")
    expected, found = written.state_dict(), read.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not any(parameter.requires_grad for parameter in read.parameters())
    without = load_refadgen(unet, files / "models" / "refadgen_no_mask_channel_seed0.safetensors")
    assert without.mask_kernel is None


def pictures(module, files, ways, count):
    """Of some scenes: by way its pictures and its values."""
    models = load_models(files / "weights", files / "weights" / "judge.safetensors")
    maker = module.PLAN.maker(models, 1)
    chunk = maker.chunk(Split.TEST, 0, count)
    made = {}
    for way in ways:
        given = {family: files / "models" / f"{family}_seed0.safetensors" for family in way.families}
        image = maker.make(chunk, way, given)
        made[way.name] = image, maker.measure(chunk, way, image)
    return made


def test_each_way_of_refadgen_makes_its_own_pictures(files):
    tables = {table.name: table for table in neighbour_refadgen.TABLES}
    unnamed = tables["unnamed"].ways[-1]
    ways = [*tables["main"].ways, *tables["parts"].ways[3::2], tables["lambda"].ways[0], unnamed]
    made = pictures(neighbour_refadgen, files, ways, 2)
    named = neighbour_refadgen.MEASURES.keys() - neighbour_refadgen.PLAN.derived.keys()
    for name, (image, values) in made.items():
        assert image.shape == (2, 3, 64, 64), name
        assert values.keys() == named, name
        assert all(value.shape == (2,) for value in values.values()), name
    shown = [image for image, _ in made.values()]
    assert not any(torch.equal(one, other) for n, one in enumerate(shown) for other in shown[:n])


@pytest.mark.parametrize("module", [neighbour_refadgen, neighbour_strict_id, neighbours_together])
def test_a_plan_knows_which_ways_are_made_with_the_controlnet(module, files, monkeypatch):
    maker = module.PLAN.maker(load_models(files / "weights", files / "weights" / "judge.safetensors"), 1)
    chunk, run = maker.chunk(Split.TEST, 0, 1), []
    control = sample._control
    monkeypatch.setattr(sample, "_control", lambda net, *more: run.append(net is not None) or control(net, *more))
    ways = [way for table in module.PLAN.tables for way in table.ways if not way.name.startswith(("gamma", "scale"))]
    for way in dict.fromkeys(ways):
        given = {family: files / "models" / f"{family}_seed0.safetensors" for family in way.families}
        run.clear()
        maker.make(chunk, way.tried[0] if way.scales else way, given)
        assert any(run) == (way.name in module.PLAN.with_controlnet), way.name
    assert bool(module.PLAN.with_controlnet) == (module is not neighbours_together)
    swept = {one.name for way in ways if way.name in module.PLAN.with_controlnet for one in way.tried}
    assert swept <= module.PLAN.with_controlnet


def test_each_way_of_strict_id_makes_its_own_pictures(files):
    left_out = {"pose_decoded", "conflict_decoded", "paste_decoded", "prompt", "guided_best"} | {
        f"gamma_{g}" for g in (200, 400, 600, 800)
    }
    ways = [way for table in neighbour_strict_id.TABLES for way in table.ways if way.name not in left_out]
    made = pictures(neighbour_strict_id, files, ways, 1)
    for name, (image, values) in made.items():
        count = 4 if name.startswith("scale") else 3 if name.startswith("pose") else 1
        assert image.shape == (count, 3, 64, 64), name
        assert all(value.shape == (1,) for value in values.values()), name
    for table in neighbour_strict_id.TABLES:
        for way in table.ways:
            if way.name in made:
                assert set(table.columns) <= {*made[way.name][1], *neighbour_strict_id.PLAN.derived}, way.name
    told, leaning = made["scale"][0], made["pose"][0]
    assert not torch.equal(told[0], told[1])
    assert not torch.equal(leaning[0], leaning[1])
    none, own, normed = (made[name][0] for name in ("no_appearance", "conflict", "guided_std_norm"))
    assert not any(torch.equal(one, other) for one, other in ((none, own), (own, normed), (normed, none)))
    late = [made[name][0] for name in ("guided_time", "guided_both", "trained_both")]
    assert torch.equal(late[0], late[1])  # the one step is above twice gamma: no appearance to balance
    assert torch.equal(late[1], late[2])
    assert not torch.equal(late[0], own)
    assert not torch.equal(made["guided"][0], own)
    assert not torch.equal(made["pose_guided"][0], leaning)


def test_what_is_drawn_once_would_be_drawn_alike_for_every_height_and_lean(files):
    models = load_models(files / "weights", files / "weights" / "judge.safetensors")
    maker = neighbour_strict_id.StrictIDMaker(models, 1)
    chunk = maker.chunk(Split.TEST, 0, 1)
    ways = {way.name: way for table in neighbour_strict_id.TABLES for way in table.ways if way.how.drawn_once}
    assert ways.keys() == {"scale_untold", "pose_untold"}
    for way in ways.values():
        given = {family: files / "models" / f"{family}_seed0.safetensors" for family in way.families}
        each = [maker._pictures(chunk, way, scenes, given) for scenes in chunk.asked(way.how)]
        assert len(each) > 1
        assert all(torch.equal(one, each[0]) for one in each), way.name


def test_each_way_of_joining_the_three_makes_its_own_pictures(files):
    made = pictures(neighbours_together, files, neighbours_together.WAYS, 1)
    assert len(made) == 8
    for name, (image, values) in made.items():
        assert image.shape == (1, 3, 64, 64), name
        assert values.keys() == neighbours_together.MEASURES.keys(), name
    shown = [image for image, _ in made.values()]
    assert not any(torch.equal(one, other) for n, one in enumerate(shown) for other in shown[:n])


def test_the_command_writes_page_and_results_and_goes_on(files, tmp_path, capsys):
    """The plan's own, cut down to one table of one way without a sweep."""
    table = neighbour_refadgen.LAMBDA
    short = replace(neighbour_refadgen.PLAN, tables=(replace(table, ways=table.ways[:1]),), claims=())
    given = ["--models", str(files / "models"), "--out", str(tmp_path), "--weights", str(files / "weights")]
    given += ["--judge", str(files / "weights" / "judge.safetensors"), "--steps", "1", "--batch", "2"]
    run_plans((short,), None, [*given, "--pairs", "2"])
    assert json.loads((tmp_path / "neighbour_refadgen.json").read_text())["tables"]["lambda"]["rows"]
    first = (tmp_path / "neighbour_refadgen.md").read_text()
    assert "| lambda 0 | 1 |" in first
    assert "development" not in first  # nothing has a strength to choose, so none is asked for
    run_plans((short,), None, [*given, "--pairs", "2", "--report-only"])
    assert (tmp_path / "neighbour_refadgen.md").read_text() == first
