"""A small client of ComfyUI's HTTP API. Standard library only.

client = Client("http://127.0.0.1:8188")
client.upload_image(Path("cup.png"))
outputs = client.run(json.loads(Path("workflow.api.json").read_text()))
for image in saved_images(outputs):
    client.download(image, Path(image.filename))
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]  # API format: node id -> {"class_type", "inputs", "_meta"?}

REPORT_EVERY_SECONDS = 10


class ApiError(RuntimeError):
    """The server refused a request; the message is what it answered."""


class PromptRejectedError(ApiError):
    """The server found the workflow invalid; the message names each node and what is wrong with its inputs."""


class ExecutionFailedError(RuntimeError):
    """A node raised, or the run was interrupted.

    Attributes:
        node_id: the node's id in the prompt.
        node_type: its class.
        exception_type: the name of the exception's class, as the host reports it.
        exception_message: what the exception said.
    """

    def __init__(self, node_id: str, node_type: str, exception_type: str, exception_message: str) -> None:
        self.node_id = node_id
        self.node_type = node_type
        self.exception_type = exception_type
        self.exception_message = exception_message
        super().__init__(f"node {node_id} ({node_type}) failed with {exception_type}: {exception_message.strip()}")


class PromptLostError(RuntimeError):
    """The server knows nothing of a prompt it had accepted: it was deleted, or the server was restarted."""


@dataclass(frozen=True)
class SavedImage:
    """An image that a run left on the server, in the terms of its /view address."""

    filename: str
    subfolder: str
    type: str


def _silent(line: str) -> None:
    del line


class Client:
    """Talks to one server.

    Args:
        url: the server's address, such as http://127.0.0.1:8188.
        report: called with one line of progress now and then; nothing is reported by default.
        timeout: seconds for one request; runs may take any time.
        poll_seconds: pause between two looks at a run.
    """

    def __init__(
        self, url: str, report: Callable[[str], None] = _silent, timeout: float = 60, poll_seconds: float = 0.25
    ) -> None:
        self.url = url.rstrip("/")
        self.report = report
        self.timeout = timeout
        self.poll_seconds = poll_seconds
        self.client_id = uuid.uuid4().hex

    def upload_image(self, file: Path, name: str | None = None) -> str:
        """Put an image into the server's input folder, over one of the same name; returns what LoadImage calls it."""
        content_type, body = _multipart(
            {"type": "input", "overwrite": "true"}, "image", name or file.name, file.read_bytes()
        )
        answer = self._json("/upload/image", body, content_type)
        return f"{answer['subfolder']}/{answer['name']}" if answer.get("subfolder") else str(answer["name"])

    def object_info(self, node_class: str) -> dict[str, Any]:
        """The server's description of a node class; empty when it has none of that name."""
        return dict(self._json(f"/object_info/{urllib.parse.quote(node_class)}").get(node_class, {}))

    def submit(self, prompt: Prompt) -> str:
        """Queue a workflow and return its prompt id.

        Raises:
            PromptRejectedError: some node is invalid. The host would run the valid rest of a workflow with several
                outputs; here that is an error too, and the prompt is taken out of the queue again.
        """
        body = json.dumps({"prompt": prompt, "client_id": self.client_id}).encode()
        answer = self._json("/prompt", body, "application/json")
        prompt_id = str(answer["prompt_id"])
        if answer.get("node_errors"):
            self.cancel(prompt_id)
            raise PromptRejectedError(_rejection({"message": "some outputs are invalid"}, answer["node_errors"]))
        return prompt_id

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, and interrupt it if it is the one that runs."""
        self._post("/queue", {"delete": [prompt_id]})
        running, _ = self._queues()
        if prompt_id in running:
            self._post("/interrupt", {"prompt_id": prompt_id})

    def wait(self, prompt_id: str) -> dict[str, Any]:
        """Wait for the end of a run and return its outputs by node id.

        Raises:
            ExecutionFailedError: a node raised, or somebody interrupted the run.
            PromptLostError: the server knows nothing of it.
        """
        started = time.monotonic()
        next_report = 0.0
        while (entry := self._finished(prompt_id)) is None:
            elapsed = time.monotonic() - started
            if elapsed >= next_report:
                self.report(f"{self._state(prompt_id)} ({elapsed:.0f} s)")
                next_report = elapsed + REPORT_EVERY_SECONDS
            time.sleep(self.poll_seconds)
        _raise_if_failed(entry)
        self.report(f"finished ({time.monotonic() - started:.0f} s)")
        return dict(entry["outputs"])

    def run(self, prompt: Prompt) -> dict[str, Any]:
        """`submit`, then `wait`."""
        return self.wait(self.submit(prompt))

    def download(self, image: SavedImage, file: Path) -> Path:
        """Fetch an image, byte for byte as the server has it."""
        query = urllib.parse.urlencode({"filename": image.filename, "subfolder": image.subfolder, "type": image.type})
        file.write_bytes(self._request(f"/view?{query}"))
        return file

    def _finished(self, prompt_id: str) -> dict[str, Any] | None:
        """The run's history entry, or None while it is queued or runs.

        The host moves a prompt from its queue to its history in one step, but the two are asked for one after the
        other: a prompt that is in neither may have moved between the questions, so history is asked once more.
        """
        if entry := self._history(prompt_id):
            return entry
        running, pending = self._queues()
        if prompt_id in running or prompt_id in pending:
            return None
        if entry := self._history(prompt_id):
            return entry
        raise PromptLostError(f"{self.url} has prompt {prompt_id} neither in its queue nor in its history")

    def _history(self, prompt_id: str) -> dict[str, Any] | None:
        entry: dict[str, Any] | None = self._json(f"/history/{prompt_id}").get(prompt_id)
        return entry

    def _queues(self) -> tuple[list[str], list[str]]:
        """Running and waiting prompts, of one moment: a prompt moves from one list to the other."""
        answer = self._json("/queue")
        running, pending = ([item[1] for item in answer[part]] for part in ("queue_running", "queue_pending"))
        return running, pending  # each item is [number, prompt_id, prompt, ...]

    def _state(self, prompt_id: str) -> str:
        _, pending = self._queues()
        return f"queued, {pending.index(prompt_id)} before it" if prompt_id in pending else "running"

    def _post(self, path: str, content: dict[str, Any]) -> None:
        self._request(path, json.dumps(content).encode(), "application/json")

    def _json(self, path: str, body: bytes | None = None, content_type: str = "") -> Any:
        return json.loads(self._request(path, body, content_type))

    def _request(self, path: str, body: bytes | None = None, content_type: str = "") -> bytes:
        headers = {"Content-Type": content_type} if content_type else {}
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            raise _api_error(path, error.code, error.read()) from error
        except urllib.error.URLError as error:
            raise ApiError(f"{self.url} does not answer: {error.reason}") from error


def saved_images(outputs: Mapping[str, Any]) -> list[SavedImage]:
    """The images of a run's outputs, those in the server's output folder before its temporary previews."""
    images = [
        SavedImage(image["filename"], image["subfolder"], image["type"])
        for output in outputs.values()
        for image in output.get("images", [])
    ]
    return sorted(images, key=lambda image: image.type != "output")


def _raise_if_failed(entry: Mapping[str, Any]) -> None:
    status = entry.get("status") or {}
    for event, details in status.get("messages", []):
        if event == "execution_error":
            raise ExecutionFailedError(
                details["node_id"], details["node_type"], details["exception_type"], details["exception_message"]
            )
        if event == "execution_interrupted":
            raise ExecutionFailedError(details["node_id"], details["node_type"], "interruption", "the run was stopped")


def _api_error(path: str, status: int, body: bytes) -> ApiError:
    text = body.decode(errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        return ApiError(f"{path} answered {status}: {text.strip()[:500]}")
    if isinstance(answer, dict) and "node_errors" in answer:
        return PromptRejectedError(_rejection(answer["error"], answer["node_errors"]))
    return ApiError(f"{path} answered {status}: {text.strip()[:500]}")


def _rejection(error: str | Mapping[str, Any], node_errors: Mapping[str, Any]) -> str:
    """One line for the whole and one for each complaint about a node."""
    summary = error if isinstance(error, str) else f"{error['message']} {error.get('details', '')}".strip()
    lines = [
        f"node {node_id} ({found['class_type']}): {complaint['message']}: {complaint['details']}"
        for node_id, found in (node_errors or {}).items()
        for complaint in found["errors"]
    ]
    return "\n".join([f"the server rejected the workflow: {summary}", *lines])


def _multipart(fields: Mapping[str, str], file_field: str, file_name: str, content: bytes) -> tuple[str, bytes]:
    """Content type and body of a form with one file."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{file_field}"; filename="{file_name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        + b"\r\n"
    )
    return f"multipart/form-data; boundary={boundary}", b"".join(parts) + f"--{boundary}--\r\n".encode()
