"""layers: which weights are measured, and what is made of what is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.demo.evaluation import layers
from lab.demo.evaluation.ablation_units import AdapterFile, Unit
from lab.demo.evaluation.conditions import Condition
from lab.demo.evaluation.experiments import MAIN
from lab.demo.evaluation.judge import Judge, save_judge
from lab.demo.evaluation.pairs import NAMED, Split, labels, sample_pair
from lab.demo.evaluation.store import Store
from pfv_core.attention.unet_layout import ONE_LEVEL
from pfv_demo import sizes
from pfv_mepa.tests.demo_weights import write_random_weights

PAIRS = 4


def test_every_set_of_layers_and_every_part_of_the_sampling_has_a_row():
    rows = dict(layers.weightings(every=True))
    assert len(rows) == 2**4 + len(layers.PARTS) + len(layers.CURVES)
    of_layers = {tuple(weights.layers.over(ONE_LEVEL).values()) for weights in rows.values()}
    assert len(of_layers) == 2**4 - 1  # nowhere is a curve of 0
    assert list(rows)[:2] == [layers.EVERYWHERE, layers.NOWHERE]
    assert rows["middle, output 1.1"].layers.over(ONE_LEVEL) == dict(
        zip(rows["middle"].layers.over(ONE_LEVEL), (0.0, 1.0, 0.0, 1.0), strict=True)
    )
    assert len(dict(layers.weightings(every=False))) == 2 + 4 + 4


@pytest.mark.parametrize(
    ("part", "within", "outside"),
    [
        ("first third", (0.0, 0.3), (0.34, 1.0)),
        ("second third", (0.334, 0.66), (0.33, 0.67)),
        ("last half", (0.5, 1.0), (0.0, 0.49)),
    ],
)
def test_a_part_of_the_sampling_is_1_within_it_and_0_outside(part, within, outside):
    curve = dict(layers.weightings(every=True))[part].sampling
    assert [curve.at(share) for share in within] == [1.0, 1.0]
    assert [curve.at(share) for share in outside] == [0.0, 0.0]


def test_conditions_have_names_of_their_own():
    names = [one.name for situation in layers.SITUATIONS.values() for one in layers.conditions(situation).values()]
    assert len(names) == len(set(names)) == 27 + 10


def stored(out: Path, condition: Condition, adapter: AdapterFile, of_reference: bool) -> None:
    """Results as a run would leave them: the judge reads everything as in the reference, or as in the text."""
    pairs = [sample_pair(seed, Split.TEST) for seed in range(PAIRS)]
    read = labels([second if of_reference else first for first, second in pairs])
    values = {"judge": {name: read[name].tolist() for name in NAMED}, "layout": [0.5] * PAIRS}
    file = Unit(condition, adapter, Split.TEST, 0).file(out)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(values), encoding="utf-8")


def test_what_is_stored_becomes_a_table_with_differences_to_every_layer(tmp_path):
    adapter = AdapterFile(sizes.WEIGHTS / sizes.ADAPTER_FILE, MAIN, 16, 0, "adapter")
    rows = layers.conditions(layers.SITUATIONS["region"])
    stored(tmp_path, rows[layers.EVERYWHERE], adapter, True)
    stored(tmp_path, rows["middle"], adapter, False)
    found = layers.table(Store(tmp_path, [adapter], PAIRS), rows, ("wall_reference", "wall_text", "layout"), PAIRS)
    assert list(found) == [layers.EVERYWHERE, "middle"]
    assert found["middle"]["wall_text"]["value"] == 1.0
    assert found["middle"]["wall_reference"]["to_all"]["value"] == -1.0
    lines = layers.printed(found, ("wall_reference", "layout")).splitlines()
    assert lines[0] == "| image prompt in | wall colour = reference | light and dark lie as on the reference's wall |"
    assert lines[3].startswith("| middle | 0% (0%-49%) | 0.50 (0.50-0.50) |")


def test_the_command_measures_stores_and_goes_on(tmp_path, capsys):
    out, weights = tmp_path / "out", write_random_weights(tmp_path / "weights")
    save_judge(Judge(), weights / "judge.safetensors", {})
    given = {"--out": out, "--weights": weights, "--judge": weights / "judge.safetensors", "--only": "visible"}
    numbers = [f"--{name}=1" for name in ("pairs", "batch", "steps")]
    arguments = [*(str(part) for pair in given.items() for part in pair), *numbers]
    layers.main(arguments)
    first = (out / layers.RESULTS).read_text(encoding="utf-8")
    assert set(json.loads(first)["situations"]["visible"]) == set(layers.conditions(layers.SITUATIONS["visible"]))
    assert "10 of 10 units to make" in capsys.readouterr().out
    layers.main(arguments)
    assert "units to make" not in capsys.readouterr().out
    assert (out / layers.RESULTS).read_text(encoding="utf-8") == first


def test_pairs_that_do_not_fill_their_chunks_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        layers.main(["--out", str(tmp_path), "--pairs", "3", "--batch", "2"])
    assert "--pairs is 3, expected a multiple of --batch, 2" in capsys.readouterr().err
