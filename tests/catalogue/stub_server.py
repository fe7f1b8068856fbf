"""A stand-in for ComfyUI's API: every run costs the same number of seconds and draws flat pictures. No model, no node.

    python stub_server.py --port 8201 --seconds 0.05 --log runs.txt [--faults '{"drop_answer": 0.1}']

It keeps ComfyUI's contract where the commands rely on it: one run at a time, prompt ids given by the client, a prompt that
moves from the queue to the history, `executing` with node null after the history has it, an interrupt that ends a run, a
file for every SaveImage, pictures that must have been uploaded, uploads of one name and other content that get another
name. What it does on top: it writes a line for every run that begins, and makes the faults it is given, changed by POST
/stub. It ends when it is killed, and by nothing that is sent to it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import ssl
import time
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

if __package__:
    from .stub_pictures import draw, part_of, report
else:  # as a script, a process of its own
    from stub_pictures import draw, part_of, report

NO_FAULTS: dict[str, float | str] = {  # probabilities, where nothing else is said
    "drop_request": 0.0,  # the connection is cut before anything is done
    "drop_answer": 0.0,  # the request is carried out, and the connection cut before the answer
    "error_500": 0.0,
    "always_500": "",  # the beginning of a path that answers nothing else
    "torn_picture": 0.0,  # half of the file, with the whole's length
    "bad_picture": 0.0,  # half of the file, as if it were all
    "missing_view": 0.0,  # a prompt as before names the files of then, as a host does, but they were deleted meanwhile
    "fail_run": 0.0,  # a node raises
    "surrogate_error": 0.0,  # a node raises with words that cannot be written as UTF-8, and colours a terminal
    "hang": 0.0,  # the run goes on until it is interrupted
    "drop_socket": 0.0,  # of each event
    "odd_events": 0.0,  # of each event: before it, others that a client may not expect
    "wrong_product": 0.0,  # one pixel of the product is changed
    "cut": 0.0,  # 1: the network is cut, nobody gets an answer
    "reject": 0.0,  # the workflow is invalid here
    "hide_events": 0.0,  # 1: the websocket says nothing
    "login_page": 0.0,  # every request is answered with this status and a page, or a redirection to one
    "no_space": 0.0,  # uploads fail, as the server's disk is full
}
LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Sign in &amp; go on</title></head><body>Who are you?</body></html>"
OBJECT_INFO = Path(__file__).with_name("object_info.json")  # written by write_object_info
TERRIBLE_WORDS = "cannot read 'caf\ud8e9.png'\x1b[31m\x00"
REMEMBERED = 1000  # runs and files


class Stub:
    """One server.

    Args:
        seconds: of a run.
        log: gets a line for every run that begins.
        faults: name -> what `NO_FAULTS` says of it.
        seed: of what is random.
        others: prompts of other users that always wait.
        header: "NAME: VALUE" that every request must have, or "".
        prefix: of every path but /stub, such as "/comfy".
    """

    def __init__(
        self,
        seconds: float,
        log: Path,
        faults: dict[str, Any],
        seed: int,
        others: int,
        header: str = "",
        prefix: str = "",
    ) -> None:
        self.seconds, self.log, self.others = seconds, log, others
        self.header, self.prefix = header.partition(": "), prefix
        self.faults = NO_FAULTS | faults
        self.random = random.Random(seed)
        self.pending: list[tuple] = []
        self.running: list[tuple] = []
        self.history: dict[str, dict] = {}
        self.inputs: dict[str, bytes] = {}
        self.outputs: dict[str, bytes] = {}
        self.saved: dict[str, str] = {}  # what was saved before, by the hash of what led to it
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.number = 0
        self.worked: list[tuple[float, float]] = []  # when each run began and ended
        self.arrived = asyncio.Event()
        self.interrupted = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30, middlewares=[self.with_faults])
        routes = {
            ("GET", "/ws"): self.socket,
            ("GET", "/system_stats"): self.stats,
            ("GET", "/object_info"): self.object_info,
            ("GET", "/object_info/{class}"): self.object_info,
            ("GET", "/queue"): self.queue,
            ("POST", "/queue"): self.delete,
            ("POST", "/interrupt"): self.interrupt,
            ("POST", "/prompt"): self.prompt,
            ("GET", "/history/{id}"): self.past,
            ("GET", "/view"): self.view,
            ("POST", "/upload/image"): self.upload,
        }
        app.add_routes([web.route(method, self.prefix + path, handler) for (method, path), handler in routes.items()])
        app.router.add_post("/stub", self.change)
        app.router.add_get("/stub", self.busy)
        return app

    def hit(self, fault: str) -> bool:
        return self.random.random() < self.faults[fault]

    @web.middleware
    async def with_faults(self, request: web.Request, handler) -> web.StreamResponse:
        path = request.path.removeprefix(self.prefix)
        if path == "/stub":
            return await handler(request)
        if self.hit("cut") or (path != "/ws" and self.hit("drop_request")):
            request.transport.abort()
            return web.Response(status=503)
        if (answer := self.other_answer(request, path)) is not None:  # as a mapping it is empty
            return answer
        answer = await handler(request)
        if path != "/ws" and self.hit("drop_answer"):
            request.transport.abort()
        return answer

    def other_answer(self, request: web.Request, path: str) -> web.Response | None:
        """What is answered in place of the one that was asked for."""
        name, _, value = self.header
        if name and request.headers.get(name) != value:
            return web.Response(status=401, text="401: Unauthorized")
        if status := int(self.faults["login_page"]):
            target = {"Location": "https://login.example/start?session=secret"} if 300 <= status < 400 else {}
            return web.Response(status=status, text=LOGIN_PAGE, content_type="text/html", headers=target)
        always = self.faults["always_500"]
        if (always and path.startswith(always)) or (path != "/ws" and self.hit("error_500")):
            return web.Response(status=500, text="500 Internal Server Error\n\nServer got itself in trouble")
        if path == "/upload/image" and self.hit("no_space"):
            return web.Response(status=500, text="OSError: [Errno 28] No space left on device")
        return None

    async def change(self, request: web.Request) -> web.Response:
        self.faults |= await request.json()
        if self.faults["cut"]:
            for socket in list(self.sockets.values()):
                await socket.close()
        return web.json_response(self.faults)

    async def busy(self, request: web.Request) -> web.Response:
        """Seconds between the first run's beginning and the last one's end, and of them those in which something ran."""
        if not self.worked:
            return web.json_response({"runs": 0, "seconds": 0.0, "busy": 0.0})
        span = self.worked[-1][1] - self.worked[0][0]
        busy = sum(end - begin for begin, end in self.worked)
        return web.json_response({"runs": len(self.worked), "seconds": span, "busy": busy})

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response({"system": {"comfyui_version": "stub", "python_version": "stub"}})

    async def object_info(self, request: web.Request) -> web.Response:
        classes = json.loads(OBJECT_INFO.read_text(encoding="utf-8"))
        name = request.match_info.get("class")
        return web.json_response({name: classes[name]} if name in classes else {} if name else classes)

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[request.query["clientId"]] = socket
        async for message in socket:
            if message.type == WSMsgType.ERROR:
                break
        return socket

    async def send(self, client: str, kind: str, data: dict) -> None:
        socket = self.sockets.get(client)
        if socket is None or socket.closed or self.hit("hide_events"):
            return
        with contextlib.suppress(ConnectionError, RuntimeError):  # who listened was killed: the next one asks
            if self.hit("drop_socket"):
                await socket.close()
                return
            if self.hit("odd_events"):
                await self.send_odd_ones(socket, data["prompt_id"])
            await socket.send_json({"type": kind, "data": data})

    async def send_odd_ones(self, socket: web.WebSocketResponse, prompt_id: str) -> None:
        """Of every shape that an event has not."""
        await socket.send_bytes(b"\0\0\0\1\0\0\0\2\x89PNG")  # a preview
        steps: list[Any] = [{}, {"value": None, "max": 2}, {"value": "x", "max": []}, {"value": 1}, {"max": 2}]
        steps += [{"value": float("nan"), "max": 2}, {"value": 1, "max": float("inf")}, {"value": True, "max": {}}]
        for odd in steps:
            await socket.send_json({"type": "progress", "data": {**odd, "prompt_id": prompt_id}})
        await socket.send_json({"type": "progress", "data": {"value": 7, "max": 9, "prompt_id": "somebody-else-0"}})
        for text in ("", "null", "[]", "5", "{", '"x"', '{"type": "progress"}', "[" * 100_000):
            await socket.send_str(text)
        for data in (None, [], 5, "x", {"prompt_id": None}, {"prompt_id": []}, {"prompt_id": {}}):
            await socket.send_json({"type": ["executing"], "data": data})
            await socket.send_json({"type": "executing", "data": data})

    async def queue(self, request: web.Request) -> web.Response:
        others = [[0, f"somebody-else-{index}", {}, {}, []] for index in range(self.others)]
        return web.json_response({"queue_running": self.running, "queue_pending": self.pending + others})

    async def delete(self, request: web.Request) -> web.Response:
        gone = (await request.json()).get("delete", [])
        self.pending = [item for item in self.pending if item[1] not in gone]
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        """As the host: of one prompt, where one is named."""
        wanted = (await request.json()).get("prompt_id")
        if self.running and wanted in (None, self.running[0][1]):
            self.interrupted.set()
        return web.Response()

    async def past(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["id"]
        return web.json_response({prompt_id: self.history[prompt_id]} if prompt_id in self.history else {})

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        content, name, folder = form["image"].file.read(), form["image"].filename, form.get("subfolder", "")
        stem, dot, suffix = name.rpartition(".")
        place = f"{folder}/" if folder else ""
        count = 0
        while form.get("overwrite") != "true" and self.inputs.get(place + name, content) != content:
            count += 1
            name = f"{stem} ({count}){dot}{suffix}"
        self.inputs[place + name] = content
        return web.json_response({"name": name, "subfolder": folder, "type": "input"})

    async def prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt, prompt_id = body["prompt"], body["prompt_id"]
        missing = [node_id for node_id, node in prompt.items() if self.lacks(node)]
        if missing or self.hit("reject"):
            complaint = {"message": "Custom validation failed for node", "details": "image - Invalid image file"}
            errors = {
                i: {"class_type": prompt[i]["class_type"], "errors": [complaint]}
                for i in missing or [next(iter(prompt))]
            }
            error = {"message": "Prompt outputs failed validation", "details": ""}
            return web.json_response({"error": error, "node_errors": errors}, status=400)
        self.number += 1
        self.pending.append((self.number, prompt_id, prompt, {"client_id": body["client_id"]}, []))
        self.arrived.set()
        return web.json_response({"prompt_id": prompt_id, "number": self.number, "node_errors": {}})

    def lacks(self, node: dict[str, Any]) -> bool:
        """Whether a node loads a picture of a folder of the client's that was not uploaded."""
        name = node["inputs"].get("image")
        return node["class_type"] == "LoadImage" and isinstance(name, str) and "/" in name and name not in self.inputs

    async def view(self, request: web.Request) -> web.StreamResponse:
        content = self.outputs.get(request.query["filename"])
        if content is None:
            return web.Response(status=404)
        if self.hit("bad_picture"):
            return web.Response(body=content[: len(content) // 2])
        if self.hit("torn_picture"):
            answer = web.StreamResponse(headers={"Content-Length": str(len(content))})
            await answer.prepare(request)
            await answer.write(content[: len(content) // 2])
            request.transport.abort()
            return answer
        return web.Response(body=content)

    async def work(self) -> None:
        """Run what is pending, one after the other."""
        while True:
            while not self.pending:
                self.arrived.clear()
                await self.arrived.wait()
            item = self.pending.pop(0)
            self.running = [item]
            self.interrupted.clear()
            try:
                await self.run(*item[1:4])
            except Exception as error:  # noqa: BLE001, the next one has its turn whatever a prompt does to this one
                self.end(item[1], {}, [["execution_error", _raised(type(error).__name__, str(error))]])

    async def run(self, prompt_id: str, prompt: dict, extra: dict) -> None:
        client = extra["client_id"]
        saves = [(i, node) for i, node in prompt.items() if node["class_type"] == "SaveImage"]
        with self.log.open("a") as log:
            log.write(f"{prompt_id} {saves[0][1]['inputs']['filename_prefix'] if saves else ''}\n")
        begun = time.time()
        await self.send(client, "execution_start", {"prompt_id": prompt_id})
        await self.send(client, "progress", {"value": 1, "max": 2, "prompt_id": prompt_id, "node": "1"})
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.interrupted.wait(), None if self.hit("hang") else self.seconds)
        messages = [["execution_start", {"prompt_id": prompt_id, "timestamp": int(begun * 1000)}]]
        outputs = {}
        if self.interrupted.is_set():
            messages.append(["execution_interrupted", {"node_id": "1", "node_type": "Stub"}])
        elif self.hit("fail_run"):
            messages.append(["execution_error", _raised("RuntimeError", "a fault")])
        elif self.hit("surrogate_error"):
            messages.append(["execution_error", _raised("ValueError", TERRIBLE_WORDS)])
        else:
            outputs = self.outputs_of(prompt, saves)
            messages.append(["execution_success", {"prompt_id": prompt_id, "timestamp": int(time.time() * 1000)}])
        self.end(prompt_id, outputs, messages)
        self.worked.append((begun, time.time()))
        await self.send(client, "executing", {"node": None, "prompt_id": prompt_id})

    def end(self, prompt_id: str, outputs: dict, messages: list) -> None:
        """From the queue to the history."""
        self.running = []
        self.history[prompt_id] = {"outputs": outputs, "status": {"messages": messages}}
        while len(self.history) > REMEMBERED:
            self.history.pop(next(iter(self.history)))
        while len(self.outputs) > REMEMBERED:
            self.outputs.pop(next(iter(self.outputs)))

    def outputs_of(self, prompt: dict, saves: list[tuple[str, dict]]) -> dict[str, Any]:
        """What the nodes leave: previews, files, reports."""
        outputs: dict[str, Any] = {}
        for number, (node_id, node) in enumerate(saves):
            part = part_of(prompt, node_id)
            name = self.save(part, node["inputs"]["filename_prefix"], number)
            image = {"filename": name, "subfolder": "pfv_catalogue", "type": "output"}
            outputs.setdefault("preview", {"images": [{**image, "type": "temp"}]})
            outputs[node_id] = {"images": [image]}
            reports = [i for i, other in part.items() if other["class_type"] == "StrictIDComposite"]
            outputs |= {i: {"text": [report(self.hit("wrong_product"))]} for i in reports}
        return outputs

    def save(self, part: dict, prefix: str, number: int) -> str:
        """Draw, or name what was drawn before; what was drawn before has been deleted, then."""
        essence = hashlib.sha256(json.dumps([part, prefix], sort_keys=True).encode()).hexdigest()
        if essence in self.saved and self.hit("missing_view"):
            self.outputs.pop(self.saved[essence], None)
            return self.saved[essence]
        mark = f"_{number}" if number else ""
        name = f"{prefix.rpartition('/')[2]}{mark}_{self.running[0][0]:05}_.png"
        self.outputs[name] = self.draw(part)
        self.saved[essence] = name
        return name

    def draw(self, prompt: dict) -> bytes:
        """The picture of a prompt with one SaveImage."""
        return draw(prompt, self.inputs, self.hit("wrong_product"))


def _raised(kind: str, words: str) -> dict[str, str]:
    return {"node_id": "1", "node_type": "Stub", "exception_type": kind, "exception_message": words}


def tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a stub that listens needs to speak TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


async def serve(options: argparse.Namespace) -> None:
    faults = json.loads(options.faults)
    stub = Stub(options.seconds, options.log, faults, options.seed, options.others, options.header, options.prefix)
    runner = web.AppRunner(stub.application(), access_log=None)
    await runner.setup()
    context = tls(options.certificate, options.key) if options.certificate else None
    await web.TCPSite(runner, "127.0.0.1", options.port, reuse_address=True, ssl_context=context).start()
    print("ready", flush=True)
    await stub.work()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.01)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--faults", default="{}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--others", type=int, default=0, help="prompts of other users that always wait")
    parser.add_argument("--header", default="", help="'NAME: VALUE' that every request must have")
    parser.add_argument("--prefix", default="", help="of every path, such as /comfy")
    parser.add_argument("--certificate", type=Path, help="PEM file, to speak TLS")
    parser.add_argument("--key", type=Path, help="PEM file of the certificate's key")
    asyncio.run(serve(parser.parse_args()))
