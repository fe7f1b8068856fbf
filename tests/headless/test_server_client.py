"""The client against a stub with faults, and against a few routes that answer what no ComfyUI does: each kind of error."""

from __future__ import annotations

import asyncio
import errno
import time
from collections import Counter

import pytest
from aiohttp import web

from headless.server.address import ServerAddress
from headless.server.client import Server
from headless.server.errors import (
    CannotWriteError,
    FailedError,
    GoneError,
    LostError,
    NotComfyError,
    RejectedError,
    ServerDownError,
    ServerFaultError,
    StalledError,
    TimedOutError,
)
from headless.server.outcome import Saved
from pfv_mepa.tests.catalogue.stub_server import Stub
from pfv_mepa.tests.headless.served import PROMPT, new_id, routes, stub, talk, working

IDLE = {"queue_running": [], "queue_pending": []}
NODE_ERRORS = {"4": {"class_type": "KSampler", "errors": [{"message": "Value not in list", "details": "x"}]}}


async def run(server, prompt=PROMPT, **options):
    prompt_id = new_id()
    await server.submit(prompt, prompt_id)
    return await server.finished(prompt_id, **options)


async def hears(server):
    """Until its websocket hears: a step that is done before goes by."""
    while not server._connected:
        await asyncio.sleep(0.01)


class Counting(Stub):
    """Counts what is asked of it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.asked = Counter()

    def other_answer(self, request, path):
        self.asked[f"{request.method} {path.split('/')[1]}"] += 1
        return super().other_answer(request, path)


def counting(tmp_path, **faults):
    return Counting(0.0, tmp_path / "runs.txt", faults, 0, 0)


# --- a good server ------------------------------------------------------------------------------------------------------


def test_a_workflow_goes_there_and_its_picture_comes_back(tmp_path):
    async def work(server):
        name = await server.upload("cup 1 ä.png", b"\x89PNG")
        finished = await run(server)
        await server.download(finished.images[0], tmp_path / "ad.png")
        return name, finished, await server.versions(), await server.queues(), await server.answers()

    one = stub(tmp_path)
    name, finished, versions, queues, answers = talk(one, work)
    assert name == "pfv_catalogue/cup 1 ä.png"
    assert one.inputs == {name: b"\x89PNG"}
    (image,) = finished.images
    assert (image.node_id, image.subfolder, image.type) == ("2", "pfv_catalogue", "output")
    assert (tmp_path / "ad.png").read_bytes() == one.outputs[image.filename]
    assert finished.seconds < 1
    assert versions == {"comfyui": "stub", "python": "stub"}
    assert (queues, answers) == (([], []), True)


def test_an_upload_over_another_one_takes_its_place_only_where_that_is_asked_for(tmp_path):
    async def work(server):
        names = [await server.upload("a.png", content) for content in (b"1", b"2", b"1")]
        names += [await server.upload("a.png", content, subfolder="", overwrite=True) for content in (b"1", b"2")]
        return names

    one = stub(tmp_path)
    names = ["pfv_catalogue/a.png", "pfv_catalogue/a (1).png", "pfv_catalogue/a.png", "a.png", "a.png"]
    assert talk(one, work) == names
    assert one.inputs["a.png"] == b"2"


@pytest.mark.parametrize("name", ["a\n.png", "\ud800.png", "a\x00.png"])
def test_a_name_that_no_form_can_carry_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is no name for a file: expected printable characters"):
        talk(stub(tmp_path), lambda server: server.upload(name, b""))


def test_what_a_class_is_and_what_all_are(tmp_path):
    async def work(server):
        return await server.object_info("LoadImage"), await server.object_info("None such"), await server.object_info()

    one, none, everything = talk(stub(tmp_path), work)
    assert (one["LoadImage"]["name"], none) == ("LoadImage", {})
    assert one["LoadImage"] == everything["LoadImage"]
    assert one["LoadImage"]["input"]["required"]["image"][1] == {"image_upload": True}


def test_several_prompts_at_once_have_each_their_own_end_and_steps(tmp_path):
    steps = []

    async def work(server):
        prompts = []
        for width in (64, 96, 128):
            latent = {"class_type": "EmptyLatentImage", "inputs": {"width": width, "height": 64, "batch_size": 1}}
            save = {"class_type": "SaveImage", "inputs": {"filename_prefix": f"w{width}", "images": ["1", 0]}}
            prompts.append({"1": latent, "2": save})
        ids = [new_id() for _ in prompts]
        await hears(server)
        for prompt, prompt_id in zip(prompts, ids, strict=True):
            await server.submit(prompt, prompt_id)
        ended = await asyncio.gather(*(server.finished(prompt_id) for prompt_id in ids))
        return ids, [finished.images[0].filename.partition("_")[0] for finished in ended]

    ids, names = talk(stub(tmp_path, seconds=0.05), work, on_progress=lambda *step: steps.append(step))
    assert names == ["w64", "w96", "w128"]
    assert steps == [(prompt_id, 1, 2) for prompt_id in ids]


def test_every_picture_of_a_workflow_comes_in_the_order_of_its_nodes(tmp_path):
    second = {"class_type": "SaveImage", "inputs": {"filename_prefix": "b", "images": ["1", 0]}}
    finished = talk(stub(tmp_path), lambda server: run(server, {**PROMPT, "3": second}))
    assert [image.node_id for image in finished.images] == ["2", "3"]
    assert len({image.filename for image in finished.images}) == 2


def test_the_end_is_heard_and_not_waited_for(tmp_path, monkeypatch):
    """With the looks far apart, only the websocket can have told."""
    monkeypatch.setattr("headless.server.client.LOOK_EVERY", 60.0)

    async def work(server):
        await hears(server)
        begun = time.monotonic()
        await run(server)
        return time.monotonic() - begun

    assert talk(stub(tmp_path, seconds=0.2), work) < 40


def test_a_websocket_that_says_nothing_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("headless.server.client.LOOK_EVERY", 0.05)
    assert talk(stub(tmp_path, seconds=0.1, hide_events=1.0), run).images


def test_odd_events_are_passed_over(tmp_path):
    steps = []

    async def work(server):
        await hears(server)
        return await run(server)

    finished = talk(stub(tmp_path, odd_events=1.0), work, on_progress=lambda *step: steps.append(step[1:]))
    assert finished.images
    assert steps == [(1, 2)]


def test_a_cancelled_prompt_is_gone_from_the_queue_and_a_running_one_is_interrupted(tmp_path):
    async def work(server):
        running, waiting = new_id(), new_id()
        for prompt_id in (running, waiting):
            await server.submit(PROMPT, prompt_id)
        await server.cancel(waiting)
        with pytest.raises(LostError, match=f"has prompt {waiting} neither in its queue nor in its history"):
            await server.finished(waiting)
        await server.cancel(running)
        with pytest.raises(FailedError, match="the run was interrupted at node 1") as raised:
            await server.finished(running)
        return raised.value.exception_type

    assert talk(stub(tmp_path, hang=1.0), work) == "interruption"


# --- errors of a run ----------------------------------------------------------------------------------------------------


def test_a_node_that_raises_is_a_failed_run(tmp_path):
    with pytest.raises(FailedError, match=r"^node 1 \(Stub\) failed with RuntimeError: a fault$") as raised:
        talk(stub(tmp_path, fail_run=1.0), run)
    error = raised.value
    found = (error.node_id, error.node_type, error.exception_type, error.exception_message)
    assert found == ("1", "Stub", "RuntimeError", "a fault")


def test_words_that_cannot_be_written_are_made_safe(tmp_path):
    with pytest.raises(FailedError) as raised:
        talk(stub(tmp_path, surrogate_error=1.0), run)
    assert str(raised.value) == r"node 1 (Stub) failed with ValueError: cannot read 'caf\ud8e9.png'\x1b[31m\x00"
    assert str(raised.value).encode().decode().isprintable()
    assert raised.value.exception_message.isprintable()


def test_a_run_that_saves_nothing_is_a_failure_where_a_picture_is_wanted(tmp_path):
    prompt = {"1": PROMPT["1"]}

    async def work(server):
        prompt_id = new_id()
        await server.submit(prompt, prompt_id)
        ended = await server.ended(prompt_id)
        with pytest.raises(FailedError, match="the run saved no image: the workflow needs a SaveImage node"):
            await server.finished(prompt_id)
        return ended.images

    assert talk(stub(tmp_path), work) == []


def test_a_run_may_not_run_longer_than_allowed(tmp_path):
    one = stub(tmp_path, hang=1.0)

    async def work(server):
        begun = time.monotonic()
        with pytest.raises(TimedOutError, match=r"the run took longer than 0\.3 s on http://127\.0\.0\.1:\d+ and was"):
            await run(server, run_timeout=0.3)
        seconds = time.monotonic() - begun
        one.faults["hang"] = 0.0
        return seconds, (await run(server)).images

    seconds, images = talk(one, work)
    assert 0.3 <= seconds < 30
    assert len(images) == 1, "the server is free again"


def test_the_time_that_a_run_waits_does_not_count(tmp_path):
    """Four of 0.4 s, one behind the other: the last one ends after 1.6 s, and may run for 1.2 s."""

    async def work(server):
        ids = [new_id() for _ in range(4)]
        for prompt_id in ids:
            await server.submit(PROMPT, prompt_id)
        begun = time.monotonic()
        await asyncio.gather(*(server.finished(prompt_id, run_timeout=1.2) for prompt_id in ids))
        return time.monotonic() - begun

    assert talk(stub(tmp_path, seconds=0.4), work) > 1.5


class Stuck(Stub):
    """Takes every prompt and runs none; `zombie` is what runs there for ever."""

    zombie: tuple = ()

    async def work(self):
        self.running = [(0, one, {}, {}, []) for one in self.zombie]
        await asyncio.Event().wait()


@pytest.mark.parametrize("zombie", [(), ("zombie",)])
def test_what_nothing_comes_to_is_taken_out(tmp_path, zombie):
    one = Stuck(0.0, tmp_path / "runs.txt", {}, seed=0, others=0)
    one.zombie = zombie

    async def work(server):
        waiting = [asyncio.create_task(run(server, run_timeout=0.4)) for _ in range(2)]
        begun = time.monotonic()
        ended = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
        return ended, time.monotonic() - begun

    ended, seconds = talk(one, work)
    assert [type(error) for error in ended] == [StalledError, StalledError]
    assert str(ended[0]).startswith("nothing moved for 0.4 s in the queue of http://127.0.0.1:")
    assert seconds >= 0.4
    assert one.pending == []


def test_behind_others_a_prompt_waits_as_long_as_they_come_and_go(tmp_path, monkeypatch):
    """Five of 0.4 s that are not ours are before it: it may wait for 1.2 s while nothing moves."""
    monkeypatch.setattr("headless.server.client.LOOK_EVERY", 0.05)

    async def work(server):
        for _ in range(5):
            prompt_id = new_id()
            await server.submit(PROMPT, prompt_id)
            server._ours.discard(prompt_id)
        begun = time.monotonic()
        await run(server, run_timeout=1.2)
        return time.monotonic() - begun

    assert talk(stub(tmp_path, seconds=0.4), work) > 1.5


def test_behind_a_run_of_ours_that_is_stopped_a_prompt_waits_for_its_own_time(tmp_path, monkeypatch):
    """What is told to stop may go on for a while: that is not yet a server that runs nothing."""
    monkeypatch.setattr("headless.server.client.LOOK_EVERY", 0.05)
    one = stub(tmp_path, hang=1.0)

    async def late(request):
        async def stop():
            await asyncio.sleep(0.5)
            one.faults["hang"] = 0.0
            one.interrupted.set()

        one.stopping = asyncio.create_task(stop())
        return web.Response()

    one.interrupt = late

    async def work(server):
        return await asyncio.gather(*(run(server, run_timeout=1.5) for _ in range(2)), return_exceptions=True)

    first, second = talk(one, work)
    assert isinstance(first, TimedOutError)
    assert len(second.images) == 1


def test_a_rejected_workflow_names_node_class_and_complaint(tmp_path):
    with pytest.raises(RejectedError) as raised:
        talk(stub(tmp_path, reject=1.0), run)
    assert str(raised.value).splitlines() == [
        "the server rejected the workflow: Prompt outputs failed validation",
        "node 1 (EmptyLatentImage): Custom validation failed for node: image - Invalid image file",
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"node_errors": NODE_ERRORS}, r"node 4 \(KSampler\): Value not in list: x"),
        ({"prompt_id": "another"}, r"does not take prompt ids: it is too old, ComfyUI 0\.3\.60 or newer is expected"),
    ],
)
def test_what_was_queued_in_part_or_under_another_id_is_taken_out_again(answer, message):
    deleted = []

    async def delete(request):
        deleted.append((await request.json())["delete"])
        return web.Response()

    prompt_id = new_id()
    application = routes(POST_prompt=answer, POST_queue=delete, GET_queue=IDLE)
    with pytest.raises(RejectedError, match=message):
        talk(application, lambda server: server.submit(PROMPT, prompt_id))
    assert deleted == [[answer.get("prompt_id", prompt_id)]]


def test_a_prompt_whose_answer_was_lost_is_not_posted_twice(tmp_path):
    class Losing(Stub):
        lost = 0

        async def prompt(self, request):
            answer = await super().prompt(request)
            if not self.lost:
                self.lost += 1
                request.transport.abort()
            return answer

    one = Losing(0.0, tmp_path / "runs.txt", {}, 0, 0)
    assert talk(one, run, lost_after=60.0).images
    assert (one.lost, one.number) == (1, 1)


def test_a_prompt_that_did_not_arrive_is_posted_again(tmp_path):
    class Deaf(Stub):
        heard = 0

        async def prompt(self, request):
            self.heard += 1
            return await super().prompt(request) if self.heard > 2 else web.Response(status=502)

    one = Deaf(0.0, tmp_path / "runs.txt", {}, 0, 0)
    assert talk(one, run, lost_after=60.0).images
    assert (one.heard, one.number) == (3, 1)


# --- pictures -----------------------------------------------------------------------------------------------------------


def test_a_picture_that_was_deleted_is_gone_and_another_name_makes_it_again(tmp_path):
    again = {**PROMPT, "2": {**PROMPT["2"], "inputs": {"filename_prefix": "other", "images": ["1", 0]}}}

    async def work(server):
        (first,) = (await run(server)).images
        (second,) = (await run(server)).images
        assert first == second
        with pytest.raises(GoneError, match=r"the picture is no longer on http://127\.0\.0\.1:\d+: /view answered 404"):
            await server.download(second, tmp_path / "ad.png")
        (third,) = (await run(server, again)).images
        await server.download(third, tmp_path / "ad.png")
        return third

    one = stub(tmp_path, missing_view=1.0)
    third = talk(one, work)
    assert (tmp_path / "ad.png").read_bytes() == one.outputs[third.filename]


def test_a_picture_that_came_in_parts_is_fetched_again_until_it_is_whole(tmp_path):
    async def work(server):
        (image,) = (await run(server)).images
        await server.download(image, tmp_path / "ad.png")
        return image

    one = stub(tmp_path, torn_picture=0.7)
    image = talk(one, work, lost_after=60.0)
    assert (tmp_path / "ad.png").read_bytes() == one.outputs[image.filename]


class Full:
    """A file on a disk that is full."""

    def write(self, block):
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
        pass


@pytest.mark.parametrize("kind", ["no folder", "a folder", "full"])
def test_our_disk_is_not_the_servers_fault(tmp_path, kind, monkeypatch):
    one = counting(tmp_path)
    one.outputs["a.png"] = b"x" * 1000
    file = {"no folder": tmp_path / "none" / "a.png", "a folder": tmp_path, "full": tmp_path / "a.png"}[kind]
    if kind == "full":
        monkeypatch.setattr("pathlib.Path.open", lambda *_: Full())
    reason = {"no folder": "No such file", "a folder": "Is a directory", "full": "No space left on device"}[kind]
    with pytest.raises(CannotWriteError, match=f"cannot be written: {reason}"):
        talk(one, lambda server: server.download(Saved("1", "a.png", ""), file))
    assert one.asked["GET view"] == 1


# --- a server that is not well ------------------------------------------------------------------------------------------


def test_nobody_there_is_said_after_the_time_allowed():
    async def work():
        async with Server(ServerAddress.parse("http://127.0.0.1:9"), 0.3) as server:
            assert not await server.answers()
            await server.versions()

    begun = time.monotonic()
    with pytest.raises(ServerDownError, match=r"http://127\.0\.0\.1:9 does not answer: ClientConnectorError"):
        asyncio.run(work())
    assert time.monotonic() - begun < 20


def test_a_network_that_is_cut_is_a_server_that_is_down(tmp_path):
    with pytest.raises(ServerDownError, match="does not answer: ServerDisconnectedError"):
        talk(stub(tmp_path, cut=1.0), lambda server: server.queues(), lost_after=0.3)


@pytest.mark.parametrize("path", ["/history", "/prompt", "/system_stats"])
def test_one_request_that_always_fails_is_not_the_server_being_down(tmp_path, path):
    one = counting(tmp_path, always_500=path)

    async def work(server):
        if path == "/system_stats":
            await server.versions()
        await run(server)

    message = rf"answers, but to this request not well in 5 tries: {path}.* answered 500: 500 Internal Server Error"
    begun = time.monotonic()
    with pytest.raises(ServerFaultError, match=message):
        talk(one, work, lost_after=60.0)
    assert time.monotonic() - begun < 40
    method = "POST" if path == "/prompt" else "GET"
    assert one.asked[f"{method} {path[1:]}"] == 5


def test_one_request_that_fails_for_as_long_as_is_allowed_is_not_the_server_being_down(tmp_path, monkeypatch):
    monkeypatch.setattr("headless.server.wire.random.uniform", lambda _low, high: high)  # by chance pauses may be none
    with pytest.raises(ServerFaultError, match=r"answers, but to this request not well in [12] tries: /system_stats"):
        talk(stub(tmp_path, always_500="/system_stats"), lambda server: server.versions(), lost_after=0.15)


def test_a_server_that_fails_at_everything_is_down(tmp_path):
    with pytest.raises(ServerDownError, match="does not answer well: /queue answered 500"):
        talk(stub(tmp_path, error_500=1.0), lambda server: server.queues(), lost_after=0.5)


def test_a_server_without_space_for_an_upload_says_so(tmp_path):
    with pytest.raises(ServerFaultError, match=r"/upload/image answered 500: OSError: .* No space left on device"):
        talk(stub(tmp_path, no_space=1.0), lambda server: server.upload("a.png", b"x"), lost_after=60.0)


def test_faults_now_and_then_are_tried_again(tmp_path):
    one = stub(tmp_path, error_500=0.3, drop_request=0.2, drop_answer=0.2, drop_socket=0.5)
    assert talk(one, run, lost_after=60.0).images
    assert one.number == 1


def test_a_slow_server_is_waited_for(tmp_path):
    class Slow(Stub):
        async def queue(self, request):
            await asyncio.sleep(1.5)
            return await super().queue(request)

    one = Slow(0.0, tmp_path / "runs.txt", {}, 0, 0)
    assert talk(one, lambda server: server.queues(), lost_after=0.5) == ([], [])


def test_leaving_a_server_that_hangs_takes_no_time(tmp_path):
    async def socket(request):
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        await asyncio.sleep(60)  # it reads nothing, so it never sees that it is to close
        return answer

    async def work(server):
        while not server._connected:
            await asyncio.sleep(0.01)
        return time.monotonic()

    left = talk(routes(GET_ws=socket), work)
    assert time.monotonic() - left < 30


def test_who_is_cancelled_while_leaving_leaves_no_connection(tmp_path):
    async def work():
        async with working(stub(tmp_path)) as url:
            server = Server(ServerAddress.parse(url), 1.0)
            await server.__aenter__()
            await server.queues()
            leaving = asyncio.create_task(server.__aexit__(None, None, None))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            return server._wire._session.closed, server._listener.done()

    assert asyncio.run(work()) == (True, True)


# --- something else that answers ----------------------------------------------------------------------------------------

LOGIN = r"is no ComfyUI, or keeps it behind a login: /queue answered {}: {}; {}"
GIVE = r"give what it asks for with --header NAME=VARIABLE, or a user as https://user:password@host"
TITLE = "a page titled 'Sign in & go on'"
REDIRECTED = r"a redirection to https://login\.example/start; it is not followed; name that address .* else give"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (200, LOGIN.format(200, TITLE, GIVE)),
        (302, r"/queue answered 302: a redirection to https://login\.example/start; it is not followed; name"),
        (307, REDIRECTED),
        (401, LOGIN.format(401, TITLE, GIVE)),
        (403, LOGIN.format(403, TITLE, GIVE)),
        (404, LOGIN.format(404, TITLE, "expected a ComfyUI: check host, port")),
    ],
)
def test_a_login_page_is_named_at_once_with_what_to_do(tmp_path, status, message):
    one = counting(tmp_path, login_page=status)

    async def work(server):
        assert not await server.answers()
        with pytest.raises(NotComfyError, match=message) as raised:
            await server.queues()
        return str(raised.value)

    said = talk(one, work, lost_after=60.0)
    assert "secret" not in said
    assert one.asked["GET queue"] == 2


@pytest.mark.parametrize("status", [200, 302, 401])
def test_a_login_page_is_no_picture(tmp_path, status):
    with pytest.raises(NotComfyError, match=f"/view answered {status}"):
        talk(
            stub(tmp_path, login_page=status),
            lambda server: server.download(Saved("1", "a.png", ""), tmp_path / "a.png"),
        )
    assert not (tmp_path / "a.png").exists()


def answering(status, text, kind="text/plain"):
    async def handle(request):
        return web.Response(status=status, text=text, content_type=kind)

    return handle


@pytest.mark.parametrize("content", ["[]", "5", "null", '{"queue_running": 5}', '{"queue_running": [5]}', "{}", "OK"])
def test_another_service_is_no_comfyui(content):
    application = routes(GET_queue=answering(200, content), GET_system_stats=answering(200, content))

    async def work(server):
        for question in (server.queues, server.versions):
            with pytest.raises(NotComfyError, match=r"is no ComfyUI.*expected a ComfyUI: check host, port and the pre"):
                await question()

    talk(application, work, lost_after=60.0)


def test_a_prefix_that_is_missing_is_no_comfyui(tmp_path):
    async def work():
        async with working(stub(tmp_path, prefix="/comfy")) as url:
            server = Server(ServerAddress.parse(url.removesuffix("/comfy")), 60.0)
            async with server:
                await server.versions()

    with pytest.raises(
        NotComfyError, match=r"/system_stats answered 404: .*check host, port and the prefix of the path"
    ):
        asyncio.run(work())


def test_what_does_not_speak_http_is_no_comfyui():
    async def work():
        async def greet(reader, writer):
            writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
            await writer.drain()
            await reader.read(1000)
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", 0) as listener:
            port = listener.sockets[0].getsockname()[1]
            async with Server(ServerAddress.parse(f"http://127.0.0.1:{port}"), 60.0) as server:
                await server.queues()

    with pytest.raises(NotComfyError, match="what came is no HTTP"):
        asyncio.run(work())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"/history/\S+ answered \[\]"),
        ("null", r"/history/\S+ answered null"),
        ('{"%s": 5}', "the history of the run cannot be read: 5"),
        ('{"%s": {"status": {}}}', "expected outputs by node, got 'None'"),
        ('{"%s": {"outputs": {"9": {"images": "x"}}, "status": {}}}', "the run saved no image"),
    ],
)
def test_a_history_of_another_shape_is_an_error_of_the_run(content, message):
    prompt_id = new_id()
    application = routes(GET_queue=IDLE)
    application.router.add_get("/history/{id}", answering(200, content.replace("%s", prompt_id)))
    with pytest.raises(FailedError, match=message):
        talk(application, lambda server: server.finished(prompt_id))


@pytest.mark.parametrize("content", ["{}", '{"name": 5}', '{"name": ""}', '{"name": "a", "subfolder": 5}', "[]"])
def test_an_upload_without_a_name_in_the_answer_is_an_error(content):
    application = routes(POST_upload_image=answering(200, content))
    with pytest.raises(FailedError, match=r"/upload/image answered"):
        talk(application, lambda server: server.upload("a.png", b""))


def test_an_upload_that_is_too_large_is_refused_with_the_servers_words():
    application = routes(POST_upload_image=answering(413, "Maximum request body size 104857600 exceeded"))
    with pytest.raises(FailedError, match="/upload/image answered 413: Maximum request body size 104857600 exceeded"):
        talk(application, lambda server: server.upload("a.png", b""))
