"""Presets, TOML files and command line overrides."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import asdict

import pytest

from lab.train.config import (
    AUGMENT,
    PRESETS,
    ConfigError,
    TrainConfig,
    add_arguments,
    config_of_arguments,
    preset,
    read_config,
    write_config,
)


def parsed(*arguments: str) -> TrainConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return config_of_arguments(parser.parse_args(arguments))


def test_paper_recipe():
    """Section 4 of the paper, number by number."""
    config = preset("sdxl")
    assert (config.base, config.kind, config.image_size, config.batch_size) == ("sdxl", "eq3", 512, 8)
    assert (config.learning_rate, config.weight_decay, config.decay_from) == (1e-4, 0.01, 1.0)
    assert (config.drop_image_share, config.mask_share, config.steps) == (0.05, 0.5, 1_000_000)
    assert config.gates == {"query": 1.0}
    assert config.text_share == 0.0
    assert len(config.hide_kinds) >= 5
    assert config.schedule.rate(0) == config.schedule.rate(999_999) == 1e-4


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_file(name, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(write_config(preset(name)))
    assert read_config(file) == preset(name)


def test_every_setting_has_an_option():
    values = {bool: ("true", True), int: ("16", 16), float: ("0.375", 0.375)}
    for name in TrainConfig.model_fields:
        value = getattr(preset("sd15"), name)
        if name != "preset" and type(value) in values:
            given, expected = values[type(value)]
            changed = parsed("--preset", "sd15", f"--{name.replace('_', '-')}", given)
            assert getattr(changed, name) == expected
    assert parsed("--max-grad-norm", "inf").max_grad_norm == math.inf


def test_command_line_beats_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('preset = "sdxl"\nbatch_size = 2\nseed = 5\nhide_kinds = { strokes = 1, dataset = 3 }\n')
    config = parsed("--config", str(file), "--batch-size", "3", "--gates", "query=1,output=2")
    assert (config.batch_size, config.seed, config.learning_rate) == (3, 5, 1e-4)
    assert config.hide_kinds == {"strokes": 1.0, "dataset": 3.0}
    assert config.gates == {"query": 1.0, "output": 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('preset = "sdxl"\nlerning_rate = 1', "no such setting: lerning_rate"),
        ("seed = 1", "names no preset"),
        ('preset = "sd3"', "preset is 'sd3', expected one of"),
        ("preset = sdxl", "not a TOML file"),
        ('preset = "sdxl"\nbatch_size = 1.5', "batch_size is 1.5: expected a whole number"),
        ('preset = "sdxl"\nsteps = true', "steps is True: expected a number"),
    ],
)
def test_bad_files(text, message, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_share": "1.5"}, "mask_share is '1.5': input should be less than or equal to 1"),
        ({"mask_share": "nan"}, "mask_share is 'nan': input should be a finite number"),
        ({"batch_size": 0}, "batch_size is 0: input should be greater than or equal to 1"),
        ({"image_size": 500}, "image_size is 500: input should be a multiple of 8"),
        ({"gates": "both=1"}, "it has both, expected some of ['output', 'query']"),
        ({"hide_kinds": "full=1"}, "it has full, expected some of"),
        ({"hide_kinds": "strokes=0"}, "at least one weight above 0"),
        ({"hide_kinds": "strokes=-1"}, "hide_kinds.strokes is '-1': input should be greater than or equal to 0"),
        ({"kind": "plus"}, "kind is 'plus': input should be 'linear'"),
        ({"precision": "fp8"}, "precision is 'fp8': input should be 'no', 'bf16' or 'fp16'"),
        ({"log_every": 0}, "log_every is 0: input should be greater than or equal to 1"),
        ({"gradient_checkpointing": "maybe"}, "gradient_checkpointing is 'maybe': expected one of true, false"),
        ({"compile": 1}, "compile is 1: expected one of true, false, yes, no, 1, 0"),
        ({"steps": 8.0}, "steps is 8.0: expected a whole number"),
        ({"max_grad_norm": "nan"}, "max_grad_norm is 'nan': input should be greater than 0"),
        ({"warmup": -5}, "warmup is -5: input should be greater than or equal to 0"),
        ({"learning_rate": -1e-4}, "learning_rate is -0.0001: input should be greater than 0"),
        ({"weight_decay": -1}, "weight_decay is -1: input should be greater than or equal to 0"),
        ({"decay_from": 2.5}, "decay_from is 2.5: input should be less than or equal to 1"),
        ({"final_rate": -1}, "final_rate is -1: input should be greater than or equal to 0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0: input should be less than 1"),
        ({"min_snr_gamma": -5}, "min_snr_gamma is -5: input should be greater than or equal to 0"),
        ({"seed": "one"}, "seed is 'one': input should be a valid integer"),
        ({"seed": "1.5", "warmup": True}, "warmup is True: expected a number; seed is '1.5': expected a whole number"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        preset("sdxl").replace(**changes)


def test_preset_and_file_together(tmp_path):
    with pytest.raises(ConfigError, match="leave --preset out"):
        parsed("--preset", "sdxl", "--config", str(tmp_path / "run.toml"))


def test_what_decides_the_weights_is_told_once_by_the_run_or_by_its_schedule():
    """What is in neither may differ between two starts of a run; a setting of both would be compared twice."""
    config = preset("sdxl")
    schedule = asdict(config.schedule)
    assert not schedule.keys() & config.identity.keys()
    free = config.model_dump().keys() - schedule.keys() - config.identity.keys() - AUGMENT
    assert free >= {"workers", "batch_size", "gradient_checkpointing", "tracker", "save_precision"}
    assert not free & {"precision", "channels_last", "compile", "hide_mode", "drop_text_share", "image_size"}
