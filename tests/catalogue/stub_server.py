"""A stand-in for ComfyUI's API: every run costs the same number of seconds and draws a flat picture. No model, no node.

    python stub_server.py --port 8201 --seconds 0.05 --log runs.txt [--faults '{"drop_answer": 0.1}']

It keeps ComfyUI's contract where the catalogue command relies on it: one run at a time, prompt ids given by the client, a
prompt that moves from the queue to the history, `executing` with node null after the history has it, pictures that must
have been uploaded, uploads of one name and other content that get another name. What it does on top: it writes a line for
every run that begins, and makes faults with the probabilities it is given, changed by POST /stub.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import io
import json
import random
import time
from pathlib import Path

from aiohttp import WSMsgType, web
from PIL import Image

NO_FAULTS = {
    "drop_request": 0.0,  # the connection is cut before anything is done
    "drop_answer": 0.0,  # the request is carried out, and the connection cut before the answer
    "error_500": 0.0,
    "torn_picture": 0.0,  # half of the file, with the whole's length
    "bad_picture": 0.0,  # half of the file, as if it were all
    "fail_run": 0.0,  # a node raises
    "drop_socket": 0.0,  # of each event
    "wrong_product": 0.0,  # one pixel of the product is changed
    "cut": 0.0,  # 1: the network is cut, nobody gets an answer
    "reject": 0.0,  # the workflow is invalid here
    "hide_events": 0.0,  # 1: the websocket says nothing
}


class Stub:
    """One server."""

    def __init__(self, seconds: float, log: Path, faults: dict[str, float], seed: int, others: int) -> None:
        self.seconds, self.log, self.others = seconds, log, others
        self.faults = NO_FAULTS | faults
        self.random = random.Random(seed)
        self.pending: list[tuple] = []
        self.running: list[tuple] = []
        self.history: dict[str, dict] = {}
        self.inputs: dict[str, bytes] = {}
        self.outputs: dict[str, bytes] = {}
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.number = 0
        self.arrived = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30, middlewares=[self.with_faults])
        app.add_routes(
            [
                web.post("/stub", self.change),
                web.get("/ws", self.socket),
                web.get("/system_stats", self.stats),
                web.get("/queue", self.queue),
                web.post("/queue", self.delete),
                web.post("/interrupt", self.interrupt),
                web.post("/prompt", self.prompt),
                web.get("/history/{id}", self.past),
                web.get("/view", self.view),
                web.post("/upload/image", self.upload),
            ]
        )
        return app

    def hit(self, fault: str) -> bool:
        return self.random.random() < self.faults[fault]

    @web.middleware
    async def with_faults(self, request: web.Request, handler) -> web.StreamResponse:
        if request.path == "/stub":
            return await handler(request)
        if self.hit("cut") or (request.path != "/ws" and self.hit("drop_request")):
            request.transport.abort()
            return web.Response(status=503)
        if request.path != "/ws" and self.hit("error_500"):
            return web.Response(status=500, text="500 Internal Server Error")
        answer = await handler(request)
        if request.path != "/ws" and self.hit("drop_answer"):
            request.transport.abort()
        return answer

    async def change(self, request: web.Request) -> web.Response:
        self.faults |= await request.json()
        if self.faults["cut"]:
            for socket in list(self.sockets.values()):
                await socket.close()
        return web.json_response(self.faults)

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response({"system": {"comfyui_version": "stub", "python_version": "stub"}})

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
        with contextlib.suppress(ConnectionError):  # who listened was killed: the next one asks
            if self.hit("drop_socket"):
                await socket.close()
            else:
                await socket.send_json({"type": kind, "data": data})

    async def queue(self, request: web.Request) -> web.Response:
        others = [[0, f"somebody-else-{index}", {}, {}, []] for index in range(self.others)]
        return web.json_response({"queue_running": self.running, "queue_pending": self.pending + others})

    async def delete(self, request: web.Request) -> web.Response:
        gone = (await request.json()).get("delete", [])
        self.pending = [item for item in self.pending if item[1] not in gone]
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        return web.Response()

    async def past(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["id"]
        return web.json_response({prompt_id: self.history[prompt_id]} if prompt_id in self.history else {})

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        content, name, folder = form["image"].file.read(), form["image"].filename, form.get("subfolder", "")
        stem, dot, suffix = name.rpartition(".")
        count = 0
        while self.inputs.get(f"{folder}/{name}", content) != content:
            count += 1
            name = f"{stem} ({count}){dot}{suffix}"
        self.inputs[f"{folder}/{name}"] = content
        return web.json_response({"name": name, "subfolder": folder, "type": "input"})

    async def prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt, prompt_id = body["prompt"], body["prompt_id"]
        missing = [
            node_id
            for node_id, node in prompt.items()
            if node["class_type"] == "LoadImage"
            and "/" in node["inputs"]["image"]
            and node["inputs"]["image"] not in self.inputs
        ]
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
            await self.run(*item[1:4])

    async def run(self, prompt_id: str, prompt: dict, extra: dict) -> None:
        client = extra["client_id"]
        save_id, save = next((i, node) for i, node in prompt.items() if node["class_type"] == "SaveImage")
        with self.log.open("a") as log:
            log.write(f"{prompt_id} {save['inputs']['filename_prefix']}\n")
        begun = time.time()
        await self.send(client, "progress", {"value": 1, "max": 2, "prompt_id": prompt_id, "node": "1"})
        await asyncio.sleep(self.seconds)
        times = [["execution_start", {"prompt_id": prompt_id, "timestamp": int(begun * 1000)}]]
        outputs = {}
        if self.hit("fail_run"):
            details = {
                "node_id": "1",
                "node_type": "Stub",
                "exception_type": "RuntimeError",
                "exception_message": "a fault",
            }
            times.append(["execution_error", details])
        else:
            name = f"{save['inputs']['filename_prefix'].rpartition('/')[2]}_{self.number:05}_.png"
            self.outputs[name] = self.draw(prompt)
            times.append(["execution_success", {"prompt_id": prompt_id, "timestamp": int(time.time() * 1000)}])
            image = {"filename": name, "subfolder": "pfv_catalogue", "type": "output"}
            outputs = {"preview": {"images": [{**image, "type": "temp"}]}, save_id: {"images": [image]}}
        self.running = []
        self.history[prompt_id] = {"outputs": outputs, "status": {"messages": times}}
        while len(self.history) > 1000:
            self.history.pop(next(iter(self.history)))
        while len(self.outputs) > 1000:
            self.outputs.pop(next(iter(self.outputs)))
        await self.send(client, "executing", {"node": None, "prompt_id": prompt_id})

    def draw(self, prompt: dict) -> bytes:
        """A flat picture whose colour is the prompt's hash, with the product's own pixels where the workflow has one."""
        essence = {i: node["inputs"] for i, node in prompt.items() if node["class_type"] != "SaveImage"}
        colour = tuple(hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).digest()[:3])
        composite = next((node for node in prompt.values() if node["class_type"] == "StrictIDComposite"), None)
        latent = next((node["inputs"] for node in prompt.values() if node["class_type"] == "EmptyLatentImage"), {})
        size = tuple(side if isinstance(side := latent.get(name), int) else 64 for name in ("width", "height"))
        if composite:
            photo = prompt[composite["inputs"]["product"][0]]["inputs"]["image"]
            with Image.open(io.BytesIO(self.inputs[photo])) as product:
                ad = Image.new("RGB", product.size, colour)
                ad.paste(product.convert("RGB"), mask=product.getchannel("A"))
                if self.hit("wrong_product"):
                    middle = (product.width // 2, product.height // 2)
                    ad.putpixel(middle, tuple(255 - value for value in ad.getpixel(middle)))
        else:
            ad = Image.new("RGB", size, colour)
        buffer = io.BytesIO()
        ad.save(buffer, "PNG")
        return buffer.getvalue()


async def serve(options: argparse.Namespace) -> None:
    stub = Stub(options.seconds, options.log, json.loads(options.faults), options.seed, options.others)
    runner = web.AppRunner(stub.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port, reuse_address=True).start()
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
    asyncio.run(serve(parser.parse_args()))
