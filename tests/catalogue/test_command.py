"""The command line: what it says, what its exit status means."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from headless.catalogue.command import app
from pfv_mepa.tests.catalogue.harness import (
    WORKFLOWS,
    StubProcess,
    command,
    draw_product,
    manifest,
    run,
    write_catalogue,
)

NOBODY = "http://127.0.0.1:9"


def invoke(line):
    """The same in this process."""
    return CliRunner().invoke(app, line[3:])


@pytest.fixture
def catalogue(tmp_path):
    return write_catalogue(tmp_path / "in", 2, ("64x64",), "1-2")


def test_a_dry_run_says_what_would_be_made_and_touches_nothing(catalogue, tmp_path):
    with catalogue.open("a", encoding="utf-8") as file:
        file.write("broken,../p.png,reference.png,a cup,64x64,1\n")
    result = invoke([*command(catalogue, tmp_path / "out", [NOBODY]), "--dry-run"])
    assert result.exit_code == 1  # a bad row
    assert "line 4: '../p.png': a path must not contain '..'" in result.stderr
    assert f"would make {tmp_path}/out/ads/p0_64x64_s1_" in result.stderr
    assert "4 ads to make, 0 are there; 3 rows, 1 of them bad" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_run_reports_and_its_exit_status_says_how_it_went(catalogue, tmp_path):
    with StubProcess(tmp_path) as server:
        line = command(catalogue, tmp_path / "out", [server.url])
        result = run(line)
        assert result.returncode == 0
        assert "4 ads made, 0 were there, 0 failed" in result.stderr
        assert "product checked in 4 of the 4 ads; 0 are not as asked" in result.stderr
        server.fault(wrong_product=1.0)
        result = invoke([*line, "--out", str(tmp_path / "other")])
        assert result.exit_code == 1
        assert "4 are not as asked" in result.stderr


def test_own_columns_and_mappings_reach_the_workflow(tmp_path):
    draw_product(tmp_path / "r.png", (32, 32), (1, 2, 3))
    row = {"Reference.image": "r.png", "text": "a cup", "Sampler.steps": 7, "formats": ["64x96"], "seeds": [5]}
    (tmp_path / "c.jsonl").write_text(json.dumps(row))
    with StubProcess(tmp_path) as server:
        line = command(tmp_path / "c.jsonl", tmp_path / "out", [server.url], workflow="demo_minimal")
        result = invoke([*line, "--map", "text=Prompt.text"])
    assert result.exit_code == 0, result.stderr
    inputs = manifest(tmp_path / "out")[0]["inputs"]
    assert {name: inputs[name] for name in ("Prompt.text", "Sampler.steps", "Sampler.seed", "Ad size.width")} == {
        "Prompt.text": "a cup",
        "Sampler.steps": 7,
        "Sampler.seed": 5,
        "Ad size.width": 64,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--server", "127.0.0.1:8188"], "is no server: expected an address such as http://127.0.0.1:8188"),
        (["--server", NOBODY], "one stands twice"),
        (["--map", "prompt"], "expected COLUMN='<node title>.<input>'"),
        (["--map", "prompt=Prompt.txt"], "no free input 'Prompt.txt', did you mean 'Prompt.text'?"),
        (["--formats", "64"], "'64' is no format"),
        (["--workflow", str(WORKFLOWS.parent / "full.json")], "the browser's form of a workflow"),
        (["--dask", "tcp://127.0.0.1:1"], "--server and --dask: expected one of the two"),
    ],
)
def test_wrong_use_is_said_before_anything_is_done(catalogue, tmp_path, options, message):
    result = invoke([*command(catalogue, tmp_path / "out", [NOBODY]), *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_without_a_server_the_command_ends_and_says_how_to_go_on(catalogue, tmp_path):
    limits = ["--lost-after", "0.2", "--give-up-after", "0.5"]
    result = invoke([*command(catalogue, tmp_path / "out", [NOBODY]), *limits])
    assert result.exit_code == 3
    assert "no server answered for 0 s; run the same command again to go on" in result.stderr
