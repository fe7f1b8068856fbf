"""Headers, user, prefix, proxy and TLS, of every request and of the websocket; and where headers may not go."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from headless.server.address import ServerAddress
from headless.server.client import Server
from headless.server.errors import NotComfyError, ServerDownError, ServerError
from pfv_mepa.tests.catalogue.stub_server import Stub, tls
from pfv_mepa.tests.headless.served import PROMPT, listening, made_certificate, new_id, stub, working

SECRETS = {"Authorization": "Bearer hunter22-token", "X-Api-Key": "hunter22-key"}


class Remembering(Stub):
    """Keeps path and headers of every request."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.requests = []

    def other_answer(self, request, path):
        self.requests.append((path, request.headers.copy(), request.raw_path))
        return super().other_answer(request, path)

    @property
    def paths(self):
        return {path.split("/")[1] for path, *_ in self.requests}


EVERY_PATH = {"history", "interrupt", "object_info", "prompt", "queue", "system_stats", "upload", "view", "ws"}


def remembering(tmp_path, **options):
    return Remembering(0.3, tmp_path / "runs.txt", {}, 0, 0, **options)


async def everything(server, tmp_path):
    """Every request that the client has."""
    await server.versions()
    while not server._connected:
        await asyncio.sleep(0.01)
    await server.object_info()
    await server.upload("a.png", b"1")
    first, second = new_id(), new_id()
    await server.submit(PROMPT, first)
    finished = await server.finished(first)
    await server.download(finished.images[0], tmp_path / "a.png")
    await server.submit(PROMPT, second)
    while second not in (await server.queues())[0]:
        await asyncio.sleep(0.01)
    await server.cancel(second)


def do_everything(one, tmp_path, context=None, **options):
    async def work():
        async with working(one, context) as url:
            address = ServerAddress.parse(url.replace("://", f"://{options.pop('user', '')}"), **options)
            async with Server(address, 5.0) as server:
                await everything(server, tmp_path)

    asyncio.run(work())


def test_headers_go_with_every_request_and_with_the_websocket(tmp_path):
    one = remembering(tmp_path)
    do_everything(one, tmp_path, headers=SECRETS)
    assert one.paths == EVERY_PATH
    for path, headers, _ in one.requests:
        assert {name: headers.get(name) for name in SECRETS} == SECRETS, path
        assert len(headers.getall("Authorization")) == 1


def test_a_user_in_the_address_goes_as_a_header(tmp_path):
    one = remembering(tmp_path, header="Authorization: Basic bWU6aHVudGVyMjI=")
    do_everything(one, tmp_path, user="me:hunter22@")
    assert one.paths == EVERY_PATH
    assert not any("hunter22" in raw_path for *_, raw_path in one.requests)


def test_a_prefix_stands_before_every_path(tmp_path):
    one = remembering(tmp_path, prefix="/comfy/one")
    do_everything(one, tmp_path)
    assert one.paths == EVERY_PATH
    assert all(raw_path.startswith("/comfy/one/") for *_, raw_path in one.requests)


def test_a_server_that_wants_a_header_is_none_without_it(tmp_path):
    with pytest.raises(
        NotComfyError, match="/system_stats answered 401: 401: Unauthorized; give what it asks for with"
    ):
        ask_for_versions(remembering(tmp_path, header="X-Api-Key: hunter22-key"))


def ask_for_versions(one, **options):
    async def work():
        async with working(one) as url, Server(ServerAddress.parse(url, **options), 1.0) as server:
            await server.versions()

    asyncio.run(work())


def test_no_message_shows_a_secret_even_where_a_server_repeats_it(tmp_path):
    class Echo(Stub):
        def other_answer(self, request, path):
            said = f"you sent {dict(request.headers)}"
            return web.Response(
                status={"/system_stats": 401, "/object_info": 400, "/history/x": 500}.get(path, 200), text=said
            )

    async def work():
        messages = []
        async with working(Echo(0, tmp_path / "runs.txt", {}, 0, 0)) as url:
            for user, headers in (("", SECRETS), ("me:hunter22@", {})):
                address = ServerAddress.parse(url.replace("://", f"://{user}"), headers)
                async with Server(address, 0.2) as server:
                    for ask in (server.versions, server.object_info, server.queues, lambda one=server: one.knows("x")):
                        with pytest.raises(ServerError) as raised:
                            await ask()
                        messages.append(f"{raised.value} {address!r} {server.url}")
        return messages

    messages = asyncio.run(work())
    assert len(messages) == 8
    for message in messages:
        assert "you sent" in message
        assert "hunter22" not in message
        assert "bWU6aHVudGVyMjI" not in message
        assert "***" in message


# --- redirections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_is_sent_to_where_a_redirection_leads(tmp_path, status):
    """Above all no header; the websocket's request too is one that could follow."""
    elsewhere = []

    async def catch(request):
        elsewhere.append(request)
        return web.json_response({"queue_running": [], "queue_pending": []})

    async def work():
        target = web.Application()
        target.router.add_route("*", "/{path:.*}", catch)
        async with listening(target) as other:
            asked = []

            async def redirect(request):
                asked.append(request.path)
                return web.Response(status=status, headers={"Location": f"{other}{request.path}?session=abcdef"})

            app = web.Application()
            app.router.add_route("*", "/{path:.*}", redirect)
            async with listening(app) as url, Server(ServerAddress.parse(url, SECRETS), 60.0) as server:
                while asked.count("/ws") < 2:
                    await asyncio.sleep(0.01)
                with pytest.raises(
                    NotComfyError, match=rf"a redirection to {other}/queue; it is not followed"
                ) as raised:
                    await server.queues()
                with pytest.raises(NotComfyError):
                    await server.upload("a.png", b"1")
                return str(raised.value)

    assert "abcdef" not in asyncio.run(work())
    assert elsewhere == []


# --- a proxy ------------------------------------------------------------------------------------------------------------


class Proxy:
    """An HTTP proxy: CONNECT, and requests with a whole address; it keeps the head of each connection's first request.

    Args:
        answer: what it answers to everything, in place of what it is asked for.
    """

    def __init__(self, answer=b""):
        self.answer = answer
        self.heads = []
        self.tasks = set()

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.decode())
            method, target, _ = head.decode().split(" ", 2)
            parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
            if self.answer:
                writer.write(self.answer)
                await writer.drain()
            else:
                await self.relay(method, head, parts, reader, writer)

    async def relay(self, method, head, parts, reader, writer):
        to_reader, to_writer = await asyncio.open_connection(parts.hostname, parts.port)
        with contextlib.closing(to_writer):
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                to_writer.write(head)
            await asyncio.gather(self.copy(reader, to_writer), self.copy(to_reader, writer))

    async def copy(self, reader, writer):
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(self):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)


def through(proxy, one, tmp_path, context=None, user="", **options):
    async def work():
        async with proxy.listening() as place, working(one, context) as url:
            address = ServerAddress.parse(url, proxy=f"http://{user}{place}", **options)
            async with Server(address, 1.0) as server:
                await everything(server, tmp_path)

    asyncio.run(work())


def test_every_request_and_the_websocket_go_through_the_proxy(tmp_path):
    proxy, one = Proxy(), remembering(tmp_path)
    through(proxy, one, tmp_path, user="me:hunter22@", headers=SECRETS)
    assert one.paths == EVERY_PATH
    assert all(raw_path.startswith("http://127.0.0.1:") for *_, raw_path in one.requests), "none came straight"
    assert any("/ws?clientId=" in head for head in proxy.heads)
    assert all("Proxy-Authorization: Basic bWU6aHVudGVyMjI=\r\n" in head for head in proxy.heads)


@pytest.mark.parametrize("status", [403, 407])
def test_a_proxy_that_refuses_is_named(tmp_path, status):
    proxy = Proxy(f"HTTP/1.1 {status} No\r\nContent-Length: 6\r\n\r\nnot me".encode())
    with pytest.raises(NotComfyError, match=f"/system_stats answered {status}: not me"):
        through(proxy, stub(tmp_path), tmp_path, user="me:hunter22@")


def test_a_proxy_that_is_not_there_is_silence(tmp_path):
    async def work():
        async with working(stub(tmp_path)) as url:
            address = ServerAddress.parse(url, proxy="http://me:hunter22@127.0.0.1:9")
            async with Server(address, 0.3) as server:
                await server.versions()

    with pytest.raises(ServerDownError, match="does not answer: ClientProxyConnectionError") as raised:
        asyncio.run(work())
    assert "hunter22" not in str(raised.value)


# --- TLS ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return made_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusted(certificate, monkeypatch):
    """What the system trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))


@pytest.mark.usefixtures("trusted")
def test_tls_with_a_certificate_that_the_system_trusts(certificate, tmp_path):
    one = remembering(tmp_path, prefix="/comfy")
    do_everything(one, tmp_path, tls(*certificate), headers=SECRETS)
    assert one.paths == EVERY_PATH


@pytest.mark.usefixtures("trusted")
def test_tls_through_a_proxy_that_sees_no_header(certificate, tmp_path):
    proxy, one = Proxy(), remembering(tmp_path)
    through(proxy, one, tmp_path, tls(*certificate), user="me:hunter22@", headers=SECRETS)
    assert one.paths == EVERY_PATH
    assert all(head.startswith("CONNECT 127.0.0.1:") for head in proxy.heads)
    assert all("Proxy-Authorization: Basic bWU6aHVudGVyMjI=\r\n" in head for head in proxy.heads)
    assert not any(value in head for head in proxy.heads for value in SECRETS.values())


def test_a_certificate_that_the_system_does_not_trust_is_named_at_once(certificate, tmp_path):
    with pytest.raises(
        NotComfyError, match=r"CERTIFICATE_VERIFY_FAILED.*expected TLS with a certificate that this sys"
    ):
        ask_for_versions_by(stub(tmp_path), tls(*certificate), "https")


def test_https_where_there_is_none_is_named_at_once(tmp_path):
    with pytest.raises(NotComfyError, match="expected TLS with a certificate that this system trusts"):
        ask_for_versions_by(stub(tmp_path), None, "https")


def ask_for_versions_by(one, context: ssl.SSLContext | None, scheme):
    async def work():
        async with working(one, context) as url:
            address = ServerAddress.parse(f"{scheme}:{url.partition(':')[2]}", SECRETS)
            async with Server(address, 60.0) as server:
                await server.versions()

    asyncio.run(work())


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("status", [403, 407, 503])
def test_a_proxy_that_refuses_to_connect(certificate, tmp_path, status):
    proxy = Proxy(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
    kind, message = (ServerDownError, "does not answer") if status == 503 else (NotComfyError, "check --proxy")
    with pytest.raises(kind, match=rf"{message}.*" if status == 503 else rf"the proxy answered {status}; {message}"):
        through(proxy, stub(tmp_path), tmp_path, tls(*certificate), user="me:hunter22@")
