"""What a workflow is made of, in the terms of somebody who writes one down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


class WorkflowError(ValueError):
    """The description asks for what the host's nodes do not have; the message says what they do have."""


@dataclass(frozen=True)
class Link:
    """The output of another node: `node` is its name in the description, `output` the output's name, or its type where
    only one output of that node has it."""

    node: str
    output: str


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
        inputs: a Link or a widget's value for each input; widgets that are left out keep the host's default.
        height: of the body in canvas pixels, for previews and long texts; None = what slots and widgets take.
        model: the file its widget names.
    """

    name: str
    class_type: str
    title: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    height: int | None = None
    model: ModelFile | None = None


@dataclass(frozen=True)
class Note:
    """A text on the canvas; not in the API form."""

    title: str
    text: str
    height: int


@dataclass(frozen=True)
class Group:
    """Nodes in columns, left to right, each column top to bottom. Without a title no frame is drawn."""

    title: str | None
    colour: str
    columns: tuple[tuple[Node | Note, ...], ...]
    column_width: int = 320


@dataclass(frozen=True)
class Workflow:
    """Groups from left to right."""

    name: str
    groups: tuple[Group, ...]

    def items(self) -> Iterator[Node | Note]:
        """All nodes and notes in the order of their ids."""
        for group in self.groups:
            for column in group.columns:
                yield from column
