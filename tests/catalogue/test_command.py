"""The command line: what it says, what its exit status means."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from typer.testing import CliRunner

from headless.catalogue import __version__
from headless.catalogue.command import app
from headless.catalogue.progress import SHOWN_OF_A_KIND
from pfv_mepa.tests.catalogue.harness import (
    ENVIRONMENT,
    WORKFLOWS,
    StubProcess,
    command,
    draw_product,
    manifest,
    num_lines,
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


def test_a_dry_run_asks_the_servers_says_what_would_be_made_and_touches_nothing(catalogue, tmp_path):
    with catalogue.open("a", encoding="utf-8") as file:
        file.write("broken,../p.png,reference.png,a cup,64x64,1\n")
    with StubProcess(tmp_path / "in") as server:
        result = invoke([*command(catalogue, tmp_path / "out", [server.url, NOBODY]), "--dry-run"])
        assert not server.log.exists()
    assert result.exit_code == 1  # a bad row, and a server that is not there
    assert f"{server.url}: ComfyUI stub" in result.stderr
    assert f"{NOBODY} does not answer" in result.stderr
    assert "line 4: column 'product': '../p.png': a path must not contain '..'" in result.stderr
    assert f"would make {tmp_path}/out/ads/p0_64x64_s1_" in result.stderr
    assert "4 ads to make, 0 were there; 3 rows, 1 of them bad" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_dry_run_opens_every_picture(catalogue, tmp_path):
    photo = catalogue.parent / "p1_64x64.png"
    photo.write_bytes(photo.read_bytes()[:-200])
    with StubProcess(tmp_path / "in") as server:
        result = invoke([*command(catalogue, tmp_path / "out", [server.url]), "--dry-run"])
    assert result.exit_code == 1
    assert "line 3: column 'product': 'p1_64x64.png'" in result.stderr
    assert "2 ads to make" in result.stderr


def test_what_a_server_lacks_is_said_before_anything_runs(catalogue, tmp_path):
    shipped = json.loads((WORKFLOWS / "full.json").read_text(encoding="utf-8"))
    shipped["999"] = {"class_type": "SomebodyElsesNode", "inputs": {}}
    next(node for node in shipped.values() if node["class_type"] == "KSampler")["inputs"]["sampler_name"] = "magic"
    file = tmp_path / "in" / "own.json"
    file.write_text(json.dumps(shipped), encoding="utf-8")
    with StubProcess(tmp_path / "in") as server:
        line = [*command(catalogue, tmp_path / "out", [server.url]), "--dry-run"]
        line[line.index("--workflow") + 1] = str(file)
        result = invoke(line)
    assert result.exit_code == 1
    assert "ComfyUI stub, without node class SomebodyElsesNode; Sampler.sampler_name: 'magic'" in result.stderr


def test_the_version_is_told():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"pfv-catalogue {__version__}\n")


def test_bad_rows_of_one_kind_are_summed_up(catalogue, tmp_path):
    with catalogue.open("a", encoding="utf-8") as file:
        for number in range(40):
            file.write(f"broken,gone_{number}.png,reference.png,a cup,64x64,1\n")
    with StubProcess(tmp_path) as server:
        result = invoke(command(catalogue, tmp_path / "out", [server.url]))
    assert result.exit_code == 1
    assert result.stderr.count("there is no file") == SHOWN_OF_A_KIND + 1
    assert f"... and {40 - SHOWN_OF_A_KIND} more like: column ...: there is no file" in result.stderr
    failures = (tmp_path / "out" / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in failures] == list(range(4, 44))


def test_columns_that_are_not_used_are_named_once(catalogue, tmp_path):
    text = catalogue.read_text(encoding="utf-8").splitlines()
    extra = [f"extra {number}" for number in range(40)]
    wide = [f"{text[0]},{','.join(extra)}", *(f"{line},{',' * 39}" for line in text[1:])]
    catalogue.write_text("\n".join(wide) + "\n", encoding="utf-8")
    with StubProcess(tmp_path) as server:
        result = run(command(catalogue, tmp_path / "out", [server.url]))
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("40 columns are not used: extra 0, extra 1, ") == 1


def test_headers_come_from_the_environment_and_are_written_nowhere(catalogue, tmp_path, monkeypatch):
    secret = "s3cr3t-t0ken-of-the-shop"
    monkeypatch.setenv("SHOP_TOKEN", secret)
    with StubProcess(tmp_path, header=f"X-Api-Key: {secret}") as server:
        line = command(catalogue, tmp_path / "out", [server.url])
        refused = invoke([*line, "--give-up-after", "0"])
        assert refused.exit_code == 3
        assert "401" in refused.stderr
        assert "--header" in refused.stderr
        result = invoke([*line, "--header", "X-Api-Key=SHOP_TOKEN"])
    assert result.exit_code == 0, result.stderr
    for file in (tmp_path / "out").rglob("*"):
        assert file.is_dir() or secret.encode() not in file.read_bytes(), file
    assert secret not in result.stderr


def test_a_password_in_an_address_is_written_nowhere(catalogue, tmp_path):
    with StubProcess(tmp_path, header="Authorization: Basic bWU6c2VjcmV0LXdvcmQ=") as server:
        url = server.url.replace("://", "://me:secret-word@")
        result = invoke(command(catalogue, tmp_path / "out", [url]))
    assert result.exit_code == 0, result.stderr
    assert {line["server"] for line in manifest(tmp_path / "out")} == {server.url}
    for file in (tmp_path / "out").rglob("*"):
        assert file.is_dir() or b"secret-word" not in file.read_bytes(), file


def test_servers_of_a_file_come_and_go_while_it_runs(tmp_path):
    catalogue = write_catalogue(tmp_path / "in", 4, ("64x64",), "1-10")
    listed = tmp_path / "servers.txt"
    with ExitStack() as stack:
        first, second = (stack.enter_context(StubProcess(tmp_path, seconds=0.15)) for _ in range(2))
        listed.write_text(f"# the shop's\n{first.url}\n", encoding="utf-8")
        line = [*command(catalogue, tmp_path / "out", []), "--servers", str(listed)]
        with subprocess.Popen(line, env=ENVIRONMENT, cwd="/", stderr=subprocess.PIPE, text=True) as process:
            wait_for_lines(tmp_path / "out", 2, process)
            listed.write_text("nonsense", encoding="utf-8")  # in the middle of being written: they stay as they were
            wait_for_lines(tmp_path / "out", 12, process)
            listed.write_text(f"{second.url}\n", encoding="utf-8")
            _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    made_by = [found["server"] for found in manifest(tmp_path / "out")]
    assert Counter(made_by).total() == 40
    assert set(made_by[:5]) == {first.url}
    assert set(made_by[-5:]) == {second.url}
    assert "the servers stay as they were" in errors


def wait_for_lines(out, count, process):
    while num_lines(out) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def test_a_sheet_of_all_ads_and_the_workflow_lie_beside_the_manifest(catalogue, tmp_path):
    with StubProcess(tmp_path) as server:
        result = invoke(command(catalogue, tmp_path / "out", [server.url]))
    assert f"contact sheet: {tmp_path / 'out' / 'index.html'}" in result.stderr
    assert (tmp_path / "out" / "index.html").is_file()
    (workflow,) = {line["workflow"] for line in manifest(tmp_path / "out")}
    assert json.loads((tmp_path / "out" / workflow).read_text()) == json.loads((WORKFLOWS / "full.json").read_text())


def test_ads_are_copied_to_another_place(catalogue, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    with StubProcess(tmp_path) as server:
        line = command(catalogue, tmp_path / "out", [server.url], "--copy-to", place.as_uri())
        assert invoke(line).exit_code == 0
        (next(place.iterdir())).unlink()
        assert invoke(line).exit_code == 0  # what was copied once is there, or somebody took it
    assert len(list(place.iterdir())) == 3


def test_without_a_terminal_there_is_a_line_a_minute(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr("headless.catalogue.work.run.MINUTE", 0.2)
    with StubProcess(tmp_path, seconds=0.3) as server:
        result = invoke(command(catalogue, tmp_path / "out", [server.url]))
    assert re.search(r"[1-3] of 4 jobs: [1-3] made, 0 were there, 0 failed, about 0 min left", result.stderr)


def test_a_run_reports_and_its_exit_status_says_how_it_went(catalogue, tmp_path):
    with StubProcess(tmp_path) as server:
        line = command(catalogue, tmp_path / "out", [server.url])
        result = run(line)
        assert result.returncode == 0
        assert "4 ads made, 0 were there, 0 failed" in result.stderr
        assert "product checked in 4 of the 4 pictures; 0 ads are not as asked" in result.stderr
        server.fault(wrong_product=1.0)
        result = invoke([*line, "--out", str(tmp_path / "other")])
        assert result.exit_code == 1
        assert "4 ads are not as asked" in result.stderr


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
        (["--server", NOBODY], f"{NOBODY} stands twice"),
        (["--map", "prompt"], "expected COLUMN='<node title>.<input>'"),
        (["--map", "prompt=Prompt.txt"], "no free input 'Prompt.txt', did you mean 'Prompt.text'?"),
        (["--formats", "64"], "'64' is no format"),
        (["--workflow", str(WORKFLOWS.parent / "full.json")], "the browser's form of a workflow"),
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
    assert f"{NOBODY} does not answer: " in result.stderr
    assert "no server answered; run the same command again to go on" in result.stderr


def test_what_lies_in_the_sheets_place_is_noticed_before_anything_is_made(catalogue, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("<h1>the shop's</h1>")
    with StubProcess(tmp_path) as server:
        result = invoke(command(catalogue, tmp_path / "out", [server.url]))
        assert not server.log.exists()
    assert result.exit_code == 2
    assert "index.html was not written by this command: move it away" in result.stderr


def test_a_workflow_that_saves_nothing_is_wrong_use(catalogue, tmp_path):
    nodes = json.loads((WORKFLOWS / "full.json").read_text(encoding="utf-8"))
    nodes = {node_id: node for node_id, node in nodes.items() if node["class_type"] != "SaveImage"}
    (tmp_path / "w.json").write_text(json.dumps(nodes))
    line = command(catalogue, tmp_path / "out", [NOBODY])
    line[line.index("--workflow") + 1] = str(tmp_path / "w.json")
    result = invoke(line)
    assert (result.exit_code, "w.json saves no picture" in result.stderr) == (2, True)


def test_pictures_that_are_gone_are_no_success(catalogue, tmp_path):
    with StubProcess(tmp_path) as server:
        line = command(catalogue, tmp_path / "out", [server.url])
        assert invoke(line).exit_code == 0
        for file in (tmp_path / "out" / "ads").iterdir():
            file.unlink()
        result = invoke(line)
        assert result.exit_code == 1
        assert "4 were there (4 of them without a picture that is not there any more: --redo missing)" in result.stderr
        assert invoke([*line, "--redo", "missing"]).exit_code == 0
        assert invoke(line).exit_code == 0


def test_a_table_without_rows_is_no_success(catalogue, tmp_path):
    catalogue.write_text("name,product\n")
    with StubProcess(tmp_path) as server:
        result = invoke(command(catalogue, tmp_path / "out", [server.url]))
    assert (result.exit_code, "no row below the header" in result.stderr) == (1, True)


def test_a_place_that_cannot_be_copied_to_is_wrong_use(catalogue, tmp_path):
    result = invoke([*command(catalogue, tmp_path / "out", [NOBODY]), "--copy-to", "ftp://x/y"])
    assert (result.exit_code, "--copy-to: 'ftp://x/y'" in result.stderr) == (2, True)
