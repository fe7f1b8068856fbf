"""The kept readings are what today's rulers read: of the true pictures, which no model samples, some are read again."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch

from lab.demo import stack
from lab.demo.evaluation import neighbour_refadgen, neighbour_strict_id
from lab.demo.evaluation.judge import FILE as JUDGE_FILE
from lab.demo.evaluation.models import load_models
from lab.demo.evaluation.neighbour_plan import Way
from lab.demo.evaluation.readings import NO_TRAINING, RESULTS
from lab.demo.splits import Split
from tools.write_neighbours import READINGS, ROOT

SCENES = 2
TRUE = [
    pytest.param(module, way, id=way.name)
    for module in (neighbour_refadgen, neighbour_strict_id)
    for way in dict.fromkeys(way for table in module.TABLES for way in table.ways)
    if way.name.endswith(("decoded", "without"))
]


@pytest.mark.parametrize(("module", "way"), TRUE)
def test_a_true_picture_is_read_as_it_was(module, way: Way):
    maker = module.PLAN.maker(load_models(stack.WEIGHTS, JUDGE_FILE), 1)
    chunk = maker.chunk(Split.TEST, 0, SCENES)
    with torch.no_grad():
        values = maker.measure(chunk, way, maker.make(chunk, way, {}))
    with zipfile.ZipFile(ROOT / READINGS) as archive:
        kept = json.loads(archive.read(f"{RESULTS}/{module.PLAN.name}/{way.name}/{NO_TRAINING}/test_00000.json"))
    for name, read in values.items():
        stored = np.array(kept[name][:SCENES], float)
        assert np.allclose(read.numpy(), stored, rtol=1e-3, atol=0.01, equal_nan=True), (name, read, stored)


def test_there_are_true_pictures_in_every_plan():
    assert len(TRUE) == 6
