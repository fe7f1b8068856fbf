"""The client for scripts that do not await.

with Client("http://127.0.0.1:8188") as client:
    client.upload_image(Path("cup.png"))
    outputs = client.run(json.loads(Path("workflow.api.json").read_text()))
    for image in saved_images(outputs):
        client.download(image, Path(image.filename))
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from .address import ServerAddress
from .client import Prompt, Server
from .outcome import OUTPUT, Saved, images_of

REPORT_EVERY = 10.0  # seconds

Result = TypeVar("Result")


def _silent(line: str) -> None:
    del line


class Client:
    """A `Server` in an event loop of its own; it raises what that raises.

    It is closed at the end of a `with` block, by `close`, or when nobody holds it any more. What is asked of a closed client,
    and what another thread still waited for when it was closed, raises a RuntimeError.

    Args:
        server: an address such as http://127.0.0.1:8188, or one that was parsed.
        report: called with one line of progress now and then; nothing is reported by default.
        lost_after: seconds of trying one request in vain, after which the server counts as down.
    """

    def __init__(
        self, server: str | ServerAddress, report: Callable[[str], None] = _silent, lost_after: float = 60.0
    ) -> None:
        address = server if isinstance(server, ServerAddress) else ServerAddress.parse(server)
        self.url = address.url
        self.report = report
        self._server = Server(address, lost_after)
        self._loop = _Loop(self._server)
        self._close = weakref.finalize(self, self._loop.end)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of every connection; what runs on the server goes on."""
        self._close()

    def upload_image(self, file: Path, name: str | None = None) -> str:
        """Put an image into the server's input folder, over one of the same name; returns what LoadImage calls it."""
        work = self._server.upload(name or file.name, file.read_bytes(), subfolder="", overwrite=True)
        return self._loop.result_of(work)

    def object_info(self, node_class: str) -> dict[str, Any]:
        """The server's description of a node class; empty when it has none of that name."""
        return dict(self._loop.result_of(self._server.object_info(node_class)).get(node_class, {}))

    def submit(self, prompt: Prompt) -> str:
        """Queue a workflow and return its prompt id."""
        prompt_id = str(uuid.uuid4())
        self._loop.result_of(self._server.submit(prompt, prompt_id))
        return prompt_id

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, and interrupt it if it is the one that runs."""
        self._loop.result_of(self._server.cancel(prompt_id))

    def wait(self, prompt_id: str) -> dict[str, Any]:
        """Wait for the end of a run and return its outputs by node id."""
        started = time.monotonic()
        with self._loop.started(self._server.ended(prompt_id)) as ended:
            pause = 0.0
            while not concurrent.futures.wait([ended], pause).done:
                self.report(f"{self._state(prompt_id)} ({time.monotonic() - started:.0f} s)")
                pause = REPORT_EVERY
            outputs = ended.result().outputs
        self.report(f"finished ({time.monotonic() - started:.0f} s)")
        return outputs

    def run(self, prompt: Prompt) -> dict[str, Any]:
        """`submit`, then `wait`."""
        return self.wait(self.submit(prompt))

    def download(self, image: Saved, file: Path) -> Path:
        """Fetch an image, byte for byte as the server has it."""
        self._loop.result_of(self._server.download(image, file))
        return file

    def _state(self, prompt_id: str) -> str:
        _, pending = self._loop.result_of(self._server.queues())
        return f"queued, {pending.index(prompt_id)} before it" if prompt_id in pending else "running"


def saved_images(outputs: Mapping[str, Any]) -> list[Saved]:
    """The images of a run's outputs, those in the server's output folder before its temporary previews."""
    return sorted(images_of(outputs), key=lambda image: image.type != OUTPUT)


class _Loop:
    """An event loop in a thread, in which a server is entered; it holds nothing of the client that made it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ended = False

    @contextmanager
    def started(self, work: Coroutine[Any, Any, Result]) -> Iterator[Future[Result]]:
        """Some work under way; what is not done at the end of the block is cancelled."""
        future = self._begin(work)
        try:
            yield future
        except concurrent.futures.CancelledError as error:
            raise self._closed() from error
        finally:
            future.cancel()

    def result_of(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do some work."""
        with self.started(work) as future:
            return future.result()

    def end(self) -> None:
        """Leave the server and end the thread; called once."""
        with self._lock:  # what begins comes before the end and is cancelled by it, or is refused: none waits for ever
            self._ended = True
            if self._thread is None:
                self._loop.close()
                return
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._over.set)
        if threading.current_thread() is not self._thread:  # a collection of garbage may run in any thread
            self._thread.join()

    def _begin(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        with self._lock:
            try:
                if self._ended:
                    raise self._closed()
                self._begin_once()
                return asyncio.run_coroutine_threadsafe(work, self._loop)
            except BaseException:
                work.close()
                raise

    def _closed(self) -> RuntimeError:
        return RuntimeError(f"the client of {self._server.url} is closed: expected a new one")

    def _begin_once(self) -> None:
        if self._thread is None:
            entered: Future[None] = Future()
            self._thread = threading.Thread(target=self._run, args=(entered,), name="comfyui", daemon=True)
            self._thread.start()
            entered.result()

    def _run(self, entered: Future[None]) -> None:
        # Not asyncio.run: it starts a thread to end the executor's, which an interpreter that is about to end refuses.
        try:
            self._loop.run_until_complete(self._serve(entered))
        finally:
            self._loop.close()

    async def _serve(self, entered: Future[None]) -> None:
        try:
            await self._server.__aenter__()
        except BaseException as error:
            entered.set_exception(error)
            raise
        entered.set_result(None)
        await self._over.wait()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)  # before the server is left: none finds its session closed
        await self._server.__aexit__(None, None, None)
