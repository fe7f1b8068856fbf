"""The catalogue command over two real ComfyUI servers with the demo's models: it is killed, and so is a server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from headless.ad.check_ad import embedded_prompt
from headless.ad.pictures import DEMO_INPUTS
from headless.ad.workflow import load_prompt, the_node
from headless.host.find import PACK_ROOT, require_host
from headless.host.start import running_host
from pfv_mepa.tests.catalogue.harness import ENVIRONMENT, command, manifest, num_lines, run, run_and_kill
from pfv_mepa.tests.demo_weights import copy_pack

PROMPTS = ("a red bottle", "a blue bottle")
SEEDS = range(1, 7)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Two servers with this pack and random weights in the place of the trained ones."""
    pack = copy_pack(tmp_path_factory.mktemp("packs"))
    with ExitStack() as stack:
        running = []
        for number in range(2):
            folder = tmp_path_factory.mktemp(f"server_{number}")
            shutil.copytree(DEMO_INPUTS, folder / "input")
            running.append(stack.enter_context(running_host(require_host(), Path(sys.executable), folder, [pack])))
        yield running


def history(url: str) -> dict:
    with urllib.request.urlopen(f"{url}/history", timeout=30) as answer:
        return json.loads(answer.read())


def prefixes(url: str) -> Counter:
    """Runs of each job on a server, by the name under which it saved."""
    prompts = [entry["prompt"][2] for entry in history(url).values()]
    return Counter(the_node(prompt, "SaveImage")["inputs"]["filename_prefix"] for prompt in prompts)


def test_killed_command_killed_server_every_ad_once_and_exact(servers, tmp_path):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    with Image.open(DEMO_INPUTS / "demo_product.png") as product:  # a photo and a mask in two files
        product.convert("RGB").save(inputs / "photo.png")
        product.getchannel("A").save(inputs / "mask.png")
    rows = [
        {"name": text, "product": "photo.png", "product_mask": "mask.png", "prompt": text, "Sampler.steps": 2}
        for text in PROMPTS
    ]
    catalogue = inputs / "catalogue.jsonl"
    catalogue.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = command(
        catalogue, out, [server.url for server in servers], "--seeds", "1-6", "--lost-after", "1", workflow="demo_full"
    )
    run_and_kill(line, out, 2)
    with subprocess.Popen(line, env=ENVIRONMENT, cwd="/", stderr=subprocess.PIPE, text=True) as second:
        while num_lines(out) < 5:
            assert second.poll() is None, second.stderr.read()
            time.sleep(0.02)
        before = prefixes(servers[1].url)
        servers[1].process.kill()
        _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors

    lines = manifest(out)
    assert Counter((found["name"], found["seed"]) for found in lines) == Counter(
        (text, seed) for text in PROMPTS for seed in SEEDS
    )
    products = [found["files"][0]["checks"]["product"] for found in lines]
    assert all(product["exact"] == product["inside"] > 100 for product in products)
    assert {found["versions"]["comfyui"] for found in lines} == {require_host().version}
    alive = prefixes(servers[0].url)
    assert set(alive.values()) == {1}
    assert set(before.values()) == {1}
    assert set(alive) | set(before) == {f"pfv_catalogue/{found['job'][:32]}" for found in lines}
    for found in lines:
        embedded = embedded_prompt(out / found["files"][0]["file"])
        assert the_node(embedded, "KSampler")["inputs"]["seed"] == found["seed"]
        assert the_node(embedded, "CLIPTextEncode", "Prompt")["inputs"]["text"] == found["name"]
    again = run(line)
    assert "0 ads made, 12 were there" in again.stderr
    assert again.returncode == 0


def test_what_the_host_rejects_is_reported_with_its_words(servers, tmp_path):
    """The first server alone: the test before may have killed the other."""
    nodes = load_prompt(PACK_ROOT / "workflows" / "api" / "demo_minimal.json")
    nodes["900"] = {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}  # a model where an image belongs
    (tmp_path / "wrong.json").write_text(json.dumps(nodes))
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text("name,prompt,Sampler.steps\nbad,x,1\n")
    line = command(catalogue, tmp_path / "out", [servers[0].url])
    line[line.index("--workflow") + 1] = str(tmp_path / "wrong.json")
    result = run(line)
    assert result.returncode == 1
    assert "line 2, bad: given up: the server rejected the workflow" in result.stderr
    assert "node 900 (PreviewImage): Return type mismatch between linked nodes" in result.stderr
    assert manifest(tmp_path / "out") == []


def test_what_a_server_does_not_offer_is_a_bad_row(servers, tmp_path):
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text(
        "name,prompt,Sampler.steps,Sampler.sampler_name\ngood,x,1,euler\nbad,x,1,eulr\nbad,x,-1,euler\n"
    )
    result = run(command(catalogue, tmp_path / "out", [servers[0].url], workflow="demo_minimal"))
    assert result.returncode == 1
    assert "line 3: Sampler.sampler_name takes one of euler, " in result.stderr
    assert "(did you mean 'euler'?), got 'eulr'" in result.stderr
    assert "line 4: Sampler.steps takes 1 to 10000, got -1" in result.stderr
    assert [found["name"] for found in manifest(tmp_path / "out")] == ["good"]
