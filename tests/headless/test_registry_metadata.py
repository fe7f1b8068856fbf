"""What the Comfy registry is told: complete, in step with the changelog, and of the right repository."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import tomli

from headless.host.find import PACK_ROOT
from pfv_demo.sizes import ADAPTER_FILE, FILES, REFADGEN_FILE, STRICT_ID_FILE
from pfv_mepa.tests.support.archive import archive_files
from pfv_mepa.tools import registry_metadata as registry

PROJECT = (PACK_ROOT / "pyproject.toml").read_text(encoding="utf-8")
CHANGELOG = (PACK_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
URL = "https://github.com/somebody/ads"


def test_the_changelog_begins_with_the_version():
    assert registry.newest_version(CHANGELOG) == registry.version_of(PROJECT)
    versions = re.findall(r"^## (\S+)$", CHANGELOG, re.MULTILINE)
    assert versions == sorted(versions, key=lambda version: [int(part) for part in version.split(".")], reverse=True)


def test_addresses_are_written_once_and_replaced():
    written = registry.with_addresses(PROJECT, URL)
    parsed = tomli.loads(written)
    assert parsed["project"]["urls"]["Repository"] == URL
    comfy = parsed["tool"]["comfy"]
    assert comfy["Icon"] == "https://raw.githubusercontent.com/somebody/ads/HEAD/docs/icons/icon.svg"
    assert comfy["Banner"] == "https://raw.githubusercontent.com/somebody/ads/HEAD/docs/icons/banner.svg"
    assert registry.with_addresses(written, URL + ".git") == written
    assert registry.with_addresses(registry.with_addresses(written, "https://github.com/a/b"), URL) == written
    without = {"urls"}, {"Icon", "Banner"}
    before = tomli.loads(PROJECT)
    for section, left_out in zip(("project", "tool"), without, strict=True):
        now, then = (text[section] if section == "project" else text["tool"]["comfy"] for text in (parsed, before))
        assert {k: v for k, v in now.items() if k not in left_out} == {
            k: v for k, v in then.items() if k not in left_out
        }


@pytest.mark.parametrize(
    "url", ["", "github.com/somebody/ads", "https://example.com/ads", "https://github.com/somebody"]
)
def test_another_address_is_refused(url):
    with pytest.raises(ValueError, match=r"expected https://github\.com/OWNER/NAME"):
        registry.with_addresses(PROJECT, url)


def test_a_version_is_published_only_when_all_agrees():
    ready, version = registry.with_addresses(PROJECT, URL), registry.version_of(PROJECT)
    assert registry.obstacles(ready, CHANGELOG, URL, f"v{version}") == []
    assert registry.obstacles(ready, CHANGELOG, URL, "v9.9.9") == [f"the tag is v9.9.9, pyproject.toml says {version}"]
    assert registry.obstacles(ready, "## 9.9.9\n", URL, version) == [
        f"CHANGELOG.md begins with 9.9.9, pyproject.toml says {version}"
    ]
    (line,) = registry.obstacles(ready, CHANGELOG, "https://github.com/a/b", version)
    assert line.startswith("pyproject.toml does not name https://github.com/a/b: run")


def test_the_command_says_what_speaks_against_it():
    command = [sys.executable, "-m", "tools.registry_metadata", URL, "--tag", "v9.9.9"]
    checked = subprocess.run(command, cwd=PACK_ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "the tag is v9.9.9" in checked.stdout


def test_the_workflow_checks_first_and_holds_no_secret():
    text = (PACK_ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    assert text.index("tools.registry_metadata") < text.index("Comfy-Org/publish-node-action@")
    assert re.findall(r"token: (.+)", text) == ["${{ secrets.REGISTRY_ACCESS_TOKEN }}"]


@pytest.mark.parametrize(("name", "size"), [("icon", (400, 400)), ("banner", (1260, 540))])
def test_icon_and_banner_have_the_registrys_shapes(name, size):
    """At most 400x400 and square; 21:9."""
    root = ElementTree.parse(PACK_ROOT / "docs" / "icons" / f"{name}.svg").getroot()
    assert (int(root.get("width")), int(root.get("height"))) == size


def test_what_is_left_out_of_the_archive_is_named_from_the_root():
    """A bare `docs/` would take the help pages in web/docs with it."""
    lines = (PACK_ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    left_out = [line for line in lines if not line.startswith("#")]
    assert all(line.startswith("/") and (PACK_ROOT / line.strip("/")).is_dir() for line in left_out)


def test_the_archive_holds_what_a_host_reads():
    found = {file.parts[0] for file in archive_files(PACK_ROOT) if len(file.parts) > 1}
    assert found == {"nodes", "pfv_core", "pfv_demo", "web", "workflows", "subgraphs", "locales"}


def test_the_archive_holds_the_demos_files():
    names = {file.name for file in archive_files(PACK_ROOT) if file.parts[0] == "pfv_demo"}
    assert names >= {*(f"{name}.safetensors" for name in FILES), ADAPTER_FILE, REFADGEN_FILE, STRICT_ID_FILE}


STARTS_SOMETHING = {
    "subprocess",
    "os.system",
    "os.popen",
    "os.exec",
    "pip",
    "ensurepip",
    "ctypes",
    "socket",
    "urllib",
}


def test_the_archive_starts_no_process_and_opens_no_connection():
    """A scanner of node packs counts such imports, wherever they stand."""
    for file in archive_files(PACK_ROOT):
        if file.suffix != ".py":
            continue
        for node in ast.walk(ast.parse((PACK_ROOT / file).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
            names += [node.func.id] if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else []
            bad = {name for name in names if name in {"eval", "exec"} or name.split(".")[0] in STARTS_SOMETHING}
            bad |= set(names) & STARTS_SOMETHING
            assert not bad, f"{file}:{getattr(node, 'lineno', 0)} uses {bad}"
