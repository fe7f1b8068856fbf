"""The client for scripts: what it adds to the asynchronous one, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading

import pytest

from headless.host.find import PACK_ROOT
from headless.server import client as client_module
from headless.server.address import ServerAddress
from headless.server.blocking import Client, saved_images
from headless.server.client import Server
from headless.server.errors import FailedError, LostError, NotComfyError, RejectedError, ServerDownError
from headless.server.outcome import Saved
from pfv_mepa.tests.headless.served import PROMPT, stub, working


class Served:
    """A stub in a thread of its own, because the client blocks."""

    def __init__(self, make):
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve(make)))

    async def serve(self, make):
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        self.stub = make()
        async with working(self.stub) as self.url:
            self.ready.set()
            await self.over.wait()

    def __enter__(self):
        self.thread.start()
        self.ready.wait(10)
        return self

    def __exit__(self, *error):
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join()


@pytest.fixture
def serve(tmp_path):
    return lambda **options: Served(lambda: stub(tmp_path, **options))


def num_threads():
    return sum(thread.name == "comfyui" for thread in threading.enumerate())


def test_a_workflow_runs_and_its_picture_is_fetched(serve, tmp_path):
    lines = []
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"\x89PNG")
    with serve(seconds=0.2) as served, Client(served.url + "/", report=lines.append) as client:
        assert client.url == served.url
        assert client.upload_image(photo, "my cup ä.png") == "my cup ä.png"
        assert client.upload_image(photo) == "photo.png"
        outputs = client.run(PROMPT)
        saved, preview = saved_images(outputs)
        file = client.download(saved, tmp_path / "ad.png")
        assert file.read_bytes() == served.stub.outputs[saved.filename]
        assert served.stub.inputs == {"my cup ä.png": b"\x89PNG", "photo.png": b"\x89PNG"}
    assert (saved.node_id, saved.type, preview.type) == ("2", "output", "temp")
    assert lines[0] in ("running (0 s)", "queued, 0 before it (0 s)")
    assert lines[-1] == "finished (0 s)"
    assert num_threads() == 0


def test_an_upload_takes_the_place_of_one_of_the_same_name(serve, tmp_path):
    photo = tmp_path / "photo.png"
    with serve() as served, Client(served.url) as client:
        for content in (b"1", b"2"):
            photo.write_bytes(content)
            assert client.upload_image(photo) == "photo.png"
        assert served.stub.inputs == {"photo.png": b"2"}


def test_what_a_class_is(serve):
    with serve() as served, Client(served.url) as client:
        assert client.object_info("KSampler")["name"] == "KSampler"
        assert client.object_info("None such/?") == {}


def test_a_waiting_run_says_how_many_are_before_it(serve):
    lines = []
    with serve(hang=1.0) as served, Client(served.url, report=lines.append) as client:
        first, second, third = (client.submit(PROMPT) for _ in range(3))
        client.report(client._state(third))
        client.cancel(second)
        client.cancel(third)
        client.cancel(first)
        with pytest.raises(FailedError) as raised:
            client.wait(first)
        with pytest.raises(LostError):
            client.wait(third)
    assert lines[0] == "queued, 1 before it"
    assert raised.value.exception_type == "interruption"


def test_errors_are_those_of_the_server(serve):
    with serve(reject=1.0) as served, Client(served.url) as client, pytest.raises(RejectedError, match="node 1"):
        client.run(PROMPT)
    with serve(fail_run=1.0) as served, Client(served.url) as client, pytest.raises(FailedError, match="a fault"):
        client.run(PROMPT)
    with serve(header="X-Key: hunter22") as served:
        with Client(served.url) as client, pytest.raises(NotComfyError, match="answered 401"):
            client.run(PROMPT)
        address = ServerAddress.parse(served.url, {"X-Key": "hunter22"})
        with Client(address) as client:
            assert saved_images(client.run(PROMPT))


def test_nobody_there_is_said():
    with (
        Client("http://127.0.0.1:9", lost_after=0.2) as client,
        pytest.raises(ServerDownError, match=r"http://127\.0\.0\.1:9 does not answer"),
    ):
        client.object_info("KSampler")


def test_an_address_that_is_none_is_refused_before_a_thread_is_begun():
    with pytest.raises(ValueError, match="expected an address such as"):
        Client("127.0.0.1:8188")
    assert num_threads() == 0


def test_a_client_that_nobody_holds_is_closed(serve):
    with serve() as served:
        client = Client(served.url)
        client.object_info("KSampler")
        assert num_threads() == 1
        del client
        gc.collect()
        assert num_threads() == 0


def test_a_client_that_never_asked_leaves_nothing():
    Client("http://127.0.0.1:9").close()
    with Client("http://127.0.0.1:9"):
        pass
    assert num_threads() == 0


def test_a_closed_client_says_so(serve):
    with serve() as served:
        client = Client(served.url)
        client.object_info("KSampler")
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match=r"the client of http://127\.0\.0\.1:\d+ is closed: expected a new one"):
            client.object_info("KSampler")


@pytest.mark.parametrize("when", ["submitting", "before it waits", "waiting"])
def test_who_waits_for_a_client_that_is_closed_is_told(serve, monkeypatch, when):
    """Whatever it was about at that moment."""
    ended, waits, closed = [], threading.Event(), threading.Event()

    def wait(client):
        try:
            client.run(PROMPT)
        except RuntimeError as error:
            ended.append(str(error))

    def until_closed(before):
        async def asked(*arguments):
            waits.set()
            await asyncio.sleep(3600)
            return await before(*arguments)

        return asked

    def say(_line):
        waits.set()
        if when == "before it waits":
            assert closed.wait(60)

    with serve(hang=1.0) as served:
        client = Client(served.url, report=say)
        if when == "submitting":
            monkeypatch.setattr(Server, "submit", until_closed(Server.submit))
        if when == "waiting":
            monkeypatch.setattr(Server, "queues", until_closed(Server.queues))
        thread = threading.Thread(target=wait, args=(client,), daemon=True)
        thread.start()
        assert waits.wait(60)
        client.close()
        closed.set()
        thread.join(60)
        assert ended == [f"the client of {served.url} is closed: expected a new one"]


def test_what_waits_ends_before_the_server_is_left(serve, monkeypatch):
    """Else it looks once more, through a session that is closed."""
    leave = Server.__aexit__

    async def leave_slowly(server, *error):
        await leave(server, *error)
        await asyncio.sleep(0.5)

    monkeypatch.setattr(Server, "__aexit__", leave_slowly)
    monkeypatch.setattr(client_module, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(client_module, "LOOK_EVERY_WITHOUT_SOCKET", 0.05)
    with serve(hang=1.0) as served:
        client = Client(served.url)
        prompt_id = client.submit(PROMPT)
        thread = threading.Timer(0.2, client.close)
        thread.start()
        with pytest.raises(RuntimeError, match="is closed: expected a new one"):
            client._loop.result_of(client._server.ended(prompt_id))
        thread.join()


def test_several_threads_may_use_one_client(serve):
    with serve(seconds=0.02) as served, Client(served.url) as client:
        found = []
        threads = [threading.Thread(target=lambda: found.append(client.run(PROMPT))) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({saved_images(outputs)[0].filename for outputs in found}) == 5
        assert num_threads() == 1


def test_a_script_that_ends_without_closing_ends_cleanly(serve):
    """By name, because a name is looked up in a thread of the loop's own."""
    code = (
        "import sys; sys.path.append({root!r}); from headless.server.blocking import Client; "
        "client = Client({url!r}); print(client.object_info('KSampler')['name'])"
    )
    with serve() as served:
        script = code.format(root=str(PACK_ROOT), url=served.url.replace("127.0.0.1", "localhost"))
        run = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "KSampler\n", "")


def test_nothing_of_the_client_is_imported_before_it_is_used():
    """`Prompt` is wanted on a bare Python, and by the engine that needs no server."""
    code = (
        f"import sys; sys.path.append({str(PACK_ROOT)!r}); import headless.make_ad, headless.ad.engine, "
        "headless.server.blocking; print(sorted({'aiohttp', 'tenacity', 'yarl'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("[]\n", "")


def test_saved_images_come_before_previews():
    preview = {"filename": "p.png", "subfolder": "", "type": "temp"}
    saved = {"filename": "s.png", "subfolder": "x", "type": "output"}
    outputs = {"1": {"images": [preview]}, "2": {"text": ["no image"]}, "3": {"images": [saved]}}
    assert saved_images(outputs) == [Saved("3", "s.png", "x"), Saved("1", "p.png", "", "temp")]
