"""Tricks in the catalogue, in the workflow and in what a server answers: nothing outside the given folders is touched."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

import psutil
import pytest
from aiohttp import web
from PIL import Image

from headless.catalogue.sources.safe_paths import UnsafePathError, check_relative, file_in, slug
from headless.catalogue.workflow.named_inputs import Workflow, WorkflowError
from headless.host.find import PACK_ROOT
from headless.server.address import ServerAddress
from pfv_mepa.tests.catalogue.harness import KINDS, StubProcess, command, manifest, run_and_kill, write_catalogue
from pfv_mepa.tests.catalogue.in_process import run, stub
from pfv_mepa.tests.catalogue.stub_server import Stub

PACKAGE = PACK_ROOT / "headless" / "catalogue"
TRICKS = [
    "../secret.png",
    "sub/../../secret.png",
    "/etc/passwd",
    "~/secret.png",
    "..\\secret.png",
    "sub\\secret.png",
    "C:\\secret.png",
    "C:secret.png",
    "\\\\host\\share\\secret.png",
    "file:///etc/passwd",
    "http://127.0.0.1/secret.png",
    "sub//secret.png",
    "./secret.png",
    "secret.png\0.txt",
    "secret.png\n",
    "",
]


@pytest.mark.parametrize("text", TRICKS)
def test_path_tricks_are_refused(text):
    with pytest.raises(UnsafePathError):
        check_relative(text)


@pytest.mark.parametrize("text", ["cup.png", "sub folder/cup 1.png", "ä/杯.png", "..cup.png", "cup..png"])
def test_plain_paths_are_not(text):
    check_relative(text)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(tmp_path, kind):
    root, secret = tmp_path / "in", tmp_path / "secret"
    (root / "real").mkdir(parents=True)
    secret.mkdir()
    for folder in (secret, root / "real"):
        (folder / "a.png").write_bytes(b"x")
    targets = {"file": "a.png", "folder": ""}
    (root / "out").symlink_to(secret / targets[kind])
    (root / "within").symlink_to(root / "real" / targets[kind])
    suffix = {"file": "", "folder": "/a.png"}[kind]
    with pytest.raises(UnsafePathError, match="a link leads out of"):
        file_in(root, f"out{suffix}")
    assert file_in(root, f"within{suffix}") == (root / "real" / "a.png").resolve()


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FileNotFoundError):
        file_in(tmp_path, "pipe.png")


@pytest.mark.parametrize("trick", ["../secret.png", "/etc/passwd", "..\\secret.png", "C:\\x.png"])
def test_a_catalogue_with_tricks_posts_nothing_of_them(tmp_path, trick):
    catalogue = tmp_path / "in" / "c.jsonl"
    catalogue.parent.mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    rows = [{"reference": trick}, {"reference": "r.png", "reference_mask": trick}]
    rows.append({"Reference.image": trick, "prompt": "x"})
    Image.new("RGB", (64, 64)).save(catalogue.parent / "r.png")
    catalogue.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = stub(tmp_path)
    tally, heard = run(catalogue, tmp_path / "out", [server], "minimal")
    assert (tally.bad_rows, tally.made, server.number, server.inputs) == (3, 0, 0, {})
    assert all(repr(trick) in reason for reason in heard.bad_rows)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("..\\..\\x", "x"),
        ("CON", "ad-CON"),
        ("a/b:c*?", "a-b-c"),
        ("Tasse Nr. 5 + blau", "Tasse-Nr-5-blau"),
        ("杯子", "杯子"),
        ("...", "ad"),
        ("x" * 500, "x" * 120),
        ("=cmd|calc", "cmd-calc"),
        ("\u202egnp.exe", "gnp-exe"),
    ],
)
def test_a_name_becomes_a_part_of_a_file_name(name, expected):
    assert slug(name) == expected


def test_names_with_tricks_stay_in_the_folder(tmp_path):
    catalogue = tmp_path / "in" / "c.jsonl"
    catalogue.parent.mkdir()
    names = ["../../up", "/abs", "a\\b", "same name", "same/name", "CON", "x" * 300]
    catalogue.write_text("".join(json.dumps({"name": name, "prompt": "x"}) + "\n" for name in names))
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path)], "minimal")
    assert tally.made == len(names)
    assert len(list((tmp_path / "out" / "ads").iterdir())) == len(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "runs.txt"]


@pytest.mark.parametrize("value", ["../../../etc/passwd", "/etc/passwd", "..\\x.png", "C:\\x.png", 5])
def test_a_workflow_that_names_a_picture_elsewhere_is_refused(value):
    with pytest.raises(WorkflowError, match="names a picture outside the server's input folder"):
        Workflow({"1": {"class_type": "LoadImage", "inputs": {"image": value}}}, KINDS)


@pytest.mark.parametrize("prefix", ["../../evil", "/abs/evil", "%date%", ["1", 0]])
def test_where_a_workflow_saves_is_never_the_workflows_choice(prefix):
    nodes = {
        "1": {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix}},
        "2": {"class_type": "SaveLatent", "inputs": {"filename_prefix": prefix}},
    }
    filled = Workflow(nodes, KINDS).filled({}, "pfv_catalogue/job")
    assert [node["inputs"]["filename_prefix"] for node in filled.values()] == ["pfv_catalogue/job"] * 2


class Hostile(Stub):
    """Names its files as it likes."""

    names: tuple[str, str] = ("", "")

    async def run(self, prompt_id, prompt, extra):
        await super().run(prompt_id, prompt, extra)
        image = self.history[prompt_id]["outputs"]["14"]["images"][0]
        self.outputs[self.names[0]] = self.outputs[image["filename"]]
        image["filename"], image["subfolder"] = self.names


@pytest.fixture
def one_row(tmp_path):
    catalogue = tmp_path / "in" / "c.jsonl"
    catalogue.parent.mkdir()
    catalogue.write_text(json.dumps({"name": "a", "prompt": "x", "formats": "64x64"}) + "\n")
    return catalogue


@pytest.mark.parametrize("names", [("../../../evil.png", "../.."), ("/tmp/evil.png", "/"), ("..\\evil.png", "C:\\")])
def test_names_that_a_server_gives_are_not_used_here(one_row, tmp_path, names, monkeypatch):
    monkeypatch.setattr(Hostile, "names", names)
    tally, _ = run(one_row, tmp_path / "out", [stub(tmp_path, kind=Hostile)], "demo_minimal")
    assert tally.made == 1
    (ad,) = (tmp_path / "out" / "ads").iterdir()
    assert ad.name == f"a_64x64_{manifest(tmp_path / 'out')[0]['job'][:16]}.png"
    assert not (tmp_path / "evil.png").exists()


class NoPicture(Stub):
    """Sends what is no picture."""

    def draw(self, prompt):
        return b"\x80\x04\x95\x1d\x00\x00\x00cos\nsystem\n(S'touch evil'\ntR."


def test_what_is_no_picture_is_never_opened_as_anything_else(one_row, tmp_path):
    tally, heard = run(one_row, tmp_path / "out", [stub(tmp_path, kind=NoPicture)], "demo_minimal", attempts=1)
    assert (tally.made, tally.failed) == (0, 1)
    assert "is no picture of a known kind" in heard.given_up[0]
    assert not list((tmp_path / "out" / "ads").iterdir())


class Redirecting(Stub):
    """Sends whoever asks for a picture to another address."""

    asked = 0

    async def view(self, request):
        if "elsewhere" in request.query:
            Redirecting.asked += 1
        raise web.HTTPFound("/view?elsewhere=1")


def test_a_redirection_is_not_followed(one_row, tmp_path):
    tally, heard = run(one_row, tmp_path / "out", [stub(tmp_path, kind=Redirecting)], "demo_minimal", attempts=1)
    assert (tally.failed, Redirecting.asked) == (1, 0)
    assert "/view answered 302" in heard.given_up[0]


class Nonsense(Stub):
    """Answers JSON of another shape."""

    answer: object = None

    async def past(self, request):
        return web.json_response(self.answer and {request.match_info["id"]: self.answer})


@pytest.mark.parametrize(
    "answer",
    [
        {"outputs": 5, "status": {}},
        {"outputs": {"9": {"images": [{"type": "output"}]}}, "status": {"messages": []}},
        {"outputs": {"9": {"images": "x"}}, "status": {"messages": [["execution_error", {}]]}},
        {"outputs": {}, "status": {"messages": []}},
    ],
)
def test_an_answer_of_another_shape_is_a_failure_and_no_crash(one_row, tmp_path, answer, monkeypatch):
    monkeypatch.setattr(Nonsense, "answer", answer)
    tally, _ = run(one_row, tmp_path / "out", [stub(tmp_path, kind=Nonsense)], "demo_minimal", attempts=1)
    assert (tally.made, tally.failed) == (0, 1)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8188", "ftp://host", "http://", "http://h/?x=1", ""])
def test_an_address_is_http_or_nothing(url):
    with pytest.raises(ValueError, match="expected an address such as"):
        ServerAddress.parse(url)


def test_the_command_listens_on_no_port(tmp_path):
    """Looked at while it works, with the sockets of the whole process."""
    catalogue = write_catalogue(tmp_path / "in", 2, ("64x64",), "1-20")
    seen = []

    with StubProcess(tmp_path, seconds=0.02) as server:
        line = command(catalogue, tmp_path / "out", [server.url])
        run_and_kill(line, tmp_path / "out", 3, look=lambda pid: seen.extend(psutil.Process(pid).net_connections()))
    assert seen
    assert {found.status for found in seen} <= {"ESTABLISHED", "SYN_SENT", "CLOSE_WAIT", "TIME_WAIT", "NONE"}
    assert {found.raddr.ip for found in seen if found.raddr} == {"127.0.0.1"}


FORBIDDEN = {"pickle", "marshal", "shelve", "torch", "joblib", "dill", "cloudpickle", "subprocess", "ctypes"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.stem)
def test_nothing_is_unpickled_or_evaluated(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.partition(".")[0] for name in names} & FORBIDDEN
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS


def test_the_command_imports_no_torch():
    code = "import sys, headless.catalogue.command; print(sorted({'torch'} & set(sys.modules)))"

    found = subprocess.run([sys.executable, "-c", code], cwd=PACK_ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
