"""What the Comfy registry shows of this pack, for the repository that it is published from.

    python3 -m tools.registry_metadata URL            writes the addresses of that repository into pyproject.toml
    python3 -m tools.registry_metadata URL --tag TAG  writes nothing; exits with 1 unless all is ready to publish TAG

The registry takes icon and banner by address, so they are known only once the repository has one. Standard library only.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from .files import save_text

ROOT = Path(__file__).resolve().parent.parent
PICTURES = {"Icon": "docs/icons/icon.svg", "Banner": "docs/icons/banner.svg"}


def addresses(url: str) -> tuple[str, str]:
    """The [project.urls] table, and the lines of [tool.comfy], for a repository on GitHub.

    Raises:
        ValueError: another address.
    """
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", url)
    if match is None:
        raise ValueError(f"{url} is no repository on GitHub: expected https://github.com/OWNER/NAME")
    repository = f"https://github.com/{match[1]}"
    raw = f"https://raw.githubusercontent.com/{match[1]}/HEAD"
    urls = {"Repository": repository, "Documentation": f"{repository}#readme", "Bug Tracker": f"{repository}/issues"}
    table = "\n".join(["[project.urls]", *(f'"{name}" = "{address}"' for name, address in urls.items())])
    return table, "\n".join(f'{name} = "{raw}/{file}"' for name, file in PICTURES.items())


def with_addresses(project: str, url: str) -> str:
    """The text of pyproject.toml with a repository's addresses instead of those that it has.

    Raises:
        ValueError: an address that is no repository on GitHub.
    """
    table, lines = addresses(url)
    project = re.sub(r"\[project\.urls\]\n(?:.+\n)*\n?", "", project)
    project = re.sub(rf"^(?:{'|'.join(PICTURES)}) = .*\n", "", project, flags=re.MULTILINE)
    project = project.replace("[tool.comfy]\n", f"[tool.comfy]\n{lines}\n", 1)
    return project.replace("[tool.setuptools.dynamic", f"{table}\n\n[tool.setuptools.dynamic", 1)


def version_of(project: str) -> str:
    """The version that pyproject.toml names."""
    match = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert match is not None
    return match[1]


def newest_version(changelog: str) -> str:
    """The version of CHANGELOG.md's first section."""
    match = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert match is not None
    return match[1]


def obstacles(project: str, changelog: str, url: str, tag: str) -> list[str]:
    """What speaks against publishing this text under this tag, one line each."""
    version, found = version_of(project), []
    if tag.removeprefix("v") != version:
        found.append(f"the tag is {tag}, pyproject.toml says {version}")
    if newest_version(changelog) != version:
        found.append(f"CHANGELOG.md begins with {newest_version(changelog)}, pyproject.toml says {version}")
    if with_addresses(project, url) != project:
        found.append(f"pyproject.toml does not name {url}: run python3 -m tools.registry_metadata {url}, and commit")
    return found


def main() -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the repository on GitHub")
    parser.add_argument("--tag", help="check that this tag can be published, instead of writing")
    arguments = parser.parse_args()
    file = ROOT / "pyproject.toml"
    project = file.read_text(encoding="utf-8")
    if arguments.tag is None:
        save_text(file, with_addresses(project, arguments.url))
        return 0
    found = obstacles(project, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), arguments.url, arguments.tag)
    print(*found or [f"{arguments.tag} is ready to be published"], sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(str(error))
