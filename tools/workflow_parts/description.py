"""What a workflow is made of, in the terms of somebody who writes one down."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PACK_ID = "pfv-mepa"  # the project's name in pyproject.toml: how the frontend finds the pack of a missing node


class WorkflowError(ValueError):
    """The description asks for what the host's nodes do not have; the message says what they do have."""


@dataclass(frozen=True)
class Link:
    """The output of another node: `node` is its name in the description, `output` the output's name, or its type where
    only one output of that node has it."""

    node: str
    output: str


@dataclass(frozen=True)
class Inlet:
    """In a subgraph: what comes in from outside under this name, a link or a widget's value.

    Attributes:
        name: of the subgraph's input.
        value: of the widget where an instance says nothing; None = the host's default.
    """

    name: str
    value: Any = None


@dataclass(frozen=True)
class ModelFile:
    """A file that a loader wants, so that the frontend can say where to get it.

    Attributes:
        name: what the loader calls it.
        folder: below the host's models.
        url: where it comes from.
        size: bytes; None = not known.
        sha256: of its content; None = not known.
    """

    name: str
    folder: str
    url: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        name: what links in the description call it.
        class_type: the host's node id.
        title: shown, and what headless users find it by; None = the node's display name.
        inputs: a Link, a widget's value or, in a subgraph, an Inlet for each input; widgets that are left out keep the
            host's default.
        height: of the body in canvas pixels, for previews and long texts; None = what slots and widgets take.
        models: the files its widgets name or look for.
    """

    name: str
    class_type: str
    title: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    height: int | None = None
    models: tuple[ModelFile, ...] = ()


@dataclass(frozen=True)
class Note:
    """A text on the canvas; not in the API form."""

    title: str
    text: str
    height: int


@dataclass(frozen=True)
class Group:
    """Nodes in columns, left to right, each column top to bottom.

    Attributes:
        title: of the frame around them; None = no frame is drawn.
        colour: of the frame.
        columns: what stands below each other.
        column_width: canvas pixels.
        starts_row: whether it stands below all groups before it, under the first that has a frame.
    """

    title: str | None
    colour: str
    columns: tuple[tuple[Node | Instance | Note, ...], ...]
    column_width: int = 320
    starts_row: bool = False


@dataclass(frozen=True)
class Subgraph:
    """Nodes that a canvas shows as one, as often as it has instances of them.

    Attributes:
        key: tells it from every other of the pack, whatever their names are.
        name: shown.
        text: what it is for, shown where the page offers it.
        inputs: names in their order; each is an Inlet of one inner input or more, of one type. Those with widgets come last.
        outputs: name -> the inner output.
        groups: of the inner canvas; no instance stands in them.
    """

    key: str
    name: str
    text: str
    inputs: tuple[str, ...]
    outputs: Mapping[str, Link]
    groups: tuple[Group, ...]

    @property
    def id(self) -> str:
        """How instances name it."""
        return named_uuid(f"subgraphs/{self.key}")


@dataclass(frozen=True)
class Instance:
    """A subgraph on the canvas, with links and values of its own.

    Attributes:
        name: what links in the description call it.
        subgraph: what it is an instance of.
        title: shown; None = the subgraph's name.
        suffix: behind the titles of its inner nodes in the API form, where every title stands once.
        inputs: a Link or a widget's value for each of the subgraph's inputs; widgets that are left out keep the host's default.
        height: of the body in canvas pixels; None = what slots and widgets take.
    """

    name: str
    subgraph: Subgraph
    title: str | None
    suffix: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    height: int | None = None

    @property
    def class_type(self) -> str:
        """What stands in its place where a node has its class."""
        return self.subgraph.id


@dataclass(frozen=True)
class Workflow:
    """Groups from left to right, in rows."""

    name: str
    groups: tuple[Group, ...]

    def subgraphs(self) -> list[Subgraph]:
        """Those that have instances, in the order in which they come."""
        return list(
            {item.class_type: item.subgraph for item in items(self.groups) if isinstance(item, Instance)}.values()
        )


def items(groups: Iterable[Group]) -> Iterator[Node | Instance | Note]:
    """What stands in groups, in the order of the ids."""
    for group in groups:
        for column in group.columns:
            yield from column


def named_uuid(name: str) -> str:
    """The same for the same name, and another pack's for none."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK_ID}/{name}"))
