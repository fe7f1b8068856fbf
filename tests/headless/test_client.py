"""The client against a scripted server: every answer that the host gives, and what the client makes of it."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headless.server.client import (
    ApiError,
    Client,
    ExecutionFailedError,
    PromptLostError,
    PromptRejectedError,
    SavedImage,
    saved_images,
)

IDLE = {"queue_running": [], "queue_pending": []}
RUNNING = {"queue_running": [[0, "id", {}, {}, []]], "queue_pending": []}
QUEUED = {"queue_running": [[0, "other", {}, {}, []]], "queue_pending": [[1, "third"], [2, "id"]]}
NODE_ERRORS = {
    "4": {
        "class_type": "KSampler",
        "errors": [
            {"message": "Value not in list", "details": "sampler_name: 'zz' not in (list of length 42)"},
            {"message": "Required input is missing", "details": "model"},
        ],
    }
}


def finished(*messages, outputs=None):
    return {"id": {"outputs": outputs or {}, "status": {"status_str": "...", "messages": [list(m) for m in messages]}}}


class ScriptedServer(ThreadingHTTPServer):
    """Answers each path with what `answers` lists for it, the last answer for ever; remembers what it was sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = defaultdict(list)
        self.received = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body):
        self.server.received.append((self.path, self.headers, body))
        answers = self.server.answers[self.path]
        status, content = answers.pop(0) if len(answers) > 1 else answers[0]
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    scripted = ScriptedServer()
    thread = threading.Thread(target=scripted.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield scripted
    scripted.shutdown()
    scripted.server_close()
    thread.join()


@pytest.fixture
def client(server):
    return Client(server.url + "/", poll_seconds=0.01)


def sent(server, path):
    return [body for received, _, body in server.received if received == path]


def test_submit_sends_the_workflow_and_returns_the_id(server, client):
    server.answers["/prompt"] = [(200, {"prompt_id": "id", "node_errors": {}})]
    prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
    assert client.submit(prompt) == "id"
    assert json.loads(sent(server, "/prompt")[0])["prompt"] == prompt


def test_a_rejected_workflow_names_node_class_and_every_complaint(server, client):
    error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": ""}
    server.answers["/prompt"] = [(400, {"error": error, "node_errors": NODE_ERRORS})]
    with pytest.raises(PromptRejectedError) as raised:
        client.submit({})
    assert str(raised.value).splitlines() == [
        "the server rejected the workflow: Prompt outputs failed validation",
        "node 4 (KSampler): Value not in list: sampler_name: 'zz' not in (list of length 42)",
        "node 4 (KSampler): Required input is missing: model",
    ]


def test_a_partly_invalid_workflow_is_taken_out_of_the_queue_again(server, client):
    server.answers["/prompt"] = [(200, {"prompt_id": "id", "node_errors": NODE_ERRORS})]
    server.answers["/queue"] = [(200, b""), (200, RUNNING)]
    server.answers["/interrupt"] = [(200, b"")]
    with pytest.raises(PromptRejectedError, match=r"node 4 \(KSampler\)"):
        client.submit({})
    assert json.loads(sent(server, "/queue")[0]) == {"delete": ["id"]}
    assert json.loads(sent(server, "/interrupt")[0]) == {"prompt_id": "id"}


def test_another_prompt_is_not_interrupted(server, client):
    server.answers["/queue"] = [(200, b""), (200, QUEUED)]
    client.cancel("id")
    assert sent(server, "/interrupt") == []


def test_wait_returns_the_outputs_of_a_finished_run(server):
    lines = []
    client = Client(server.url, report=lines.append, poll_seconds=0.01)
    outputs = {"9": {"images": []}}
    server.answers["/history/id"] = [(200, {}), (200, {}), (200, finished(outputs=outputs))]
    server.answers["/queue"] = [(200, QUEUED)]
    assert client.wait("id") == outputs
    assert lines == ["queued, 1 before it (0 s)", "finished (0 s)"]


def test_a_run_that_moves_to_history_between_the_two_questions_is_not_lost(server, client):
    server.answers["/history/id"] = [(200, {}), (200, finished(outputs={"9": {}}))]
    server.answers["/queue"] = [(200, IDLE)]
    assert client.wait("id") == {"9": {}}


def test_a_prompt_in_neither_place_is_lost(server, client):
    server.answers["/history/id"] = [(200, {})]
    server.answers["/queue"] = [(200, IDLE)]
    with pytest.raises(PromptLostError, match="has prompt id neither in its queue nor in its history"):
        client.wait("id")


def test_a_node_that_raised_is_named_with_what_it_said(server, client):
    details = {
        "node_id": "16",
        "node_type": "MEPAApply",
        "exception_type": "ValueError",
        "exception_message": "adapter is 768 wide, model 2048\n",
    }
    server.answers["/history/id"] = [(200, finished(("execution_start", {}), ("execution_error", details)))]
    with pytest.raises(ExecutionFailedError) as raised:
        client.wait("id")
    assert str(raised.value) == "node 16 (MEPAApply) failed with ValueError: adapter is 768 wide, model 2048"
    assert (raised.value.node_id, raised.value.node_type, raised.value.exception_type) == (
        "16",
        "MEPAApply",
        "ValueError",
    )


def test_an_interrupted_run_is_a_failure(server, client):
    details = {"node_id": "3", "node_type": "KSampler"}
    server.answers["/history/id"] = [(200, finished(("execution_interrupted", details)))]
    with pytest.raises(ExecutionFailedError, match=r"node 3 \(KSampler\).*the run was stopped"):
        client.wait("id")


def test_upload_sends_the_bytes_and_returns_the_name_that_loadimage_uses(server, client, tmp_path):
    server.answers["/upload/image"] = [(200, {"name": "cup.png", "subfolder": "set", "type": "input"})]
    file = tmp_path / "photo.png"
    content = bytes(range(256)) + b"\r\n--"
    file.write_bytes(content)
    assert client.upload_image(file, "cup.png") == "set/cup.png"
    _, headers, body = server.received[0]
    form = message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
    parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
    assert parts["image"].get_filename() == "cup.png"
    assert content in body
    assert parts["type"].get_payload() == "input"
    assert parts["overwrite"].get_payload() == "true"


def test_download_is_byte_for_byte(server, client, tmp_path):
    server.answers["/view?filename=a+b.png&subfolder=&type=output"] = [(200, b"\x89PNG\x00\xff")]
    file = client.download(SavedImage("a b.png", "", "output"), tmp_path / "a.png")
    assert file.read_bytes() == b"\x89PNG\x00\xff"


def test_object_info_of_an_unknown_node_is_empty(server, client):
    server.answers["/object_info/None%20such"] = [(200, {})]
    assert client.object_info("None such") == {}


def test_other_errors_carry_the_servers_words(server, client):
    server.answers["/queue"] = [(500, b"500 Internal Server Error\n\nServer got itself in trouble")]
    with pytest.raises(ApiError, match=r"(?s)/queue answered 500: .*in trouble"):
        client.cancel("id")


def test_no_server_is_an_error_that_names_its_address():
    with pytest.raises(ApiError, match=r"http://127\.0\.0\.1:9 does not answer"):
        Client("http://127.0.0.1:9").object_info("KSampler")


def test_saved_images_come_before_previews():
    preview = {"filename": "p.png", "subfolder": "", "type": "temp"}
    saved = {"filename": "s.png", "subfolder": "x", "type": "output"}
    outputs = {"1": {"images": [preview]}, "2": {"text": ["no image"]}, "3": {"images": [saved]}}
    assert [image.filename for image in saved_images(outputs)] == ["s.png", "p.png"]
