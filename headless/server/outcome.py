"""What a server's history says of a run: its pictures, its texts, its time, or what went wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import FailedError, RejectedError, safe_text, shortened

OUTPUT = "output"  # the folder of what was saved; previews are in "temp"
INTERRUPTION = "interruption"


@dataclass(frozen=True)
class Saved:
    """An image that a run left on the server, in the terms of its /view address.

    Attributes:
        node_id: what saved it.
        filename: its name there, never to be used as a name here.
        subfolder: below the folder of its type.
        type: "output", or "temp" for a preview.
    """

    node_id: str
    filename: str
    subfolder: str
    type: str = OUTPUT


@dataclass(frozen=True)
class Finished:
    """A run that ended well.

    Attributes:
        images: what it saved (no previews), in the order of its nodes.
        seconds: the server's own time from start to end; None where it did not say.
        texts: node id -> what the node showed as text.
        outputs: node id -> all that the node left for a page, as the server has it.
    """

    images: list[Saved]
    seconds: float | None
    texts: dict[str, list[str]]
    outputs: dict[str, Any] = field(default_factory=dict, repr=False)


def finished_of(entry: Mapping[str, Any]) -> Finished:
    """Read an entry of the history.

    Raises:
        FailedError: a node raised, somebody interrupted the run, or the entry is none.
    """
    times: dict[str, Any] = {}
    for event, details in _messages(entry):
        times[event] = details.get("timestamp")
        _raise_if_failed(event, details)
    outputs = entry.get("outputs")
    if not isinstance(outputs, dict):
        raise FailedError(
            f"the history of the run cannot be read: expected outputs by node, got {shortened(outputs, 100)!r}"
        )
    images = [image for image in images_of(outputs) if image.type == OUTPUT]
    return Finished(
        images, _seconds(times.get("execution_start"), times.get("execution_success")), _texts(outputs), outputs
    )


def images_of(outputs: Mapping[str, Any]) -> list[Saved]:
    """The images of a run's outputs, previews among them, in the order of its nodes.

    Raises:
        FailedError: an image has no name, or one that no request can carry.
    """
    return [
        _image(str(node_id), image)
        for node_id, image in _entries(outputs, "images")
        if isinstance(image, dict) and isinstance(image.get("type"), str)  # some nodes leave other things there
    ]


def rejection(error: object, node_errors: object) -> RejectedError:
    """One line for the whole and one for each complaint about a node."""
    lines = [f"the server rejected the workflow: {_summary(error)}"]
    for node_id, found in (node_errors if isinstance(node_errors, dict) else {}).items():
        details = found if isinstance(found, dict) else {}
        for complaint in _list(details.get("errors")):
            said = complaint if isinstance(complaint, dict) else {"message": complaint, "details": ""}
            lines.append(f"node {node_id} ({details.get('class_type')}): {said.get('message')}: {said.get('details')}")
    return RejectedError(shortened("\n".join(lines)))


def _summary(error: object) -> str:
    return f"{error.get('message')} {error.get('details', '')}".strip() if isinstance(error, dict) else str(error)


def _messages(entry: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events of the run as the host keeps them; what is none is left out."""
    status = entry.get("status")
    for message in _list(status.get("messages") if isinstance(status, dict) else None):
        if isinstance(message, list) and len(message) == 2 and isinstance(message[1], dict):
            yield str(message[0]), message[1]


def _raise_if_failed(event: str, details: Mapping[str, Any]) -> None:
    if event not in ("execution_error", "execution_interrupted"):
        return
    node_id, node_type = _word(details, "node_id"), _word(details, "node_type")
    kind, said = _word(details, "exception_type"), _word(details, "exception_message")
    if event == "execution_interrupted":
        kind, said = INTERRUPTION, "the run was stopped"
        message = f"the run was interrupted at node {node_id} ({node_type})"
    else:
        message = f"node {node_id} ({node_type}) failed with {kind}: {(said or 'no message').strip()}"
    raise FailedError(message, node_id=node_id, node_type=node_type, exception_type=kind, exception_message=said)


def _word(details: Mapping[str, Any], name: str) -> str | None:
    value = details.get(name)
    return None if value is None else shortened(value)


def _image(node_id: str, image: Mapping[str, Any]) -> Saved:
    names: list[Any] = [image.get("filename"), image.get("subfolder", ""), image["type"]]
    if not names[0] or not all(isinstance(name, str) and name == safe_text(name) for name in names):
        raise FailedError(f"the history of the run cannot be read: node {node_id} saved {shortened(image, 200)!r}")
    return Saved(safe_text(node_id), *names)


def _texts(outputs: Mapping[str, Any]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for node_id, text in _entries(outputs, "text"):
        texts.setdefault(safe_text(node_id), []).append(safe_text(text))
    return texts


def _entries(outputs: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Node id and each thing of a list that nodes leave under a name; a node may leave anything of another shape."""
    for node_id, output in outputs.items():
        for one in _list(output.get(name) if isinstance(output, dict) else None):
            yield node_id, one


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _seconds(start: object, end: object) -> float | None:
    if not isinstance(start, int | float) or not isinstance(end, int | float):
        return None
    try:
        seconds = (end - start) / 1000
    except OverflowError:
        return None
    return round(seconds, 3) if math.isfinite(seconds) else None
