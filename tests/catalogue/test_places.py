"""Pictures from anywhere: what may be read, what is never reached, and how a bad server is survived. All servers are local."""

from __future__ import annotations

import gc
import gzip
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from aiohttp.abc import AbstractResolver
from fsspec.implementations.memory import MemoryFileSystem

from headless.catalogue.sources import addresses
from headless.catalogue.sources.addresses import AddressError, is_public, parsed
from headless.catalogue.sources.places import Places
from headless.catalogue.sources.source import SourceError
from headless.catalogue.sources.stores import said
from pfv_mepa.tests.catalogue.stub_server import tls
from pfv_mepa.tests.headless.served import made_certificate

PICTURE = b"\x89PNG picture"
OWN_NETWORK = (
    "'{0}' is 127.0.0.1, an address of an own network and not of the internet: --allow-private-network lets such"
)


class Site(ThreadingHTTPServer):
    """A server whose answers are written in the test: path -> (status, headers, body or pieces of it)."""

    daemon_threads = True

    def __init__(self, address="127.0.0.1"):
        super().__init__((address, 0), _Answering)
        self.answers = {"/cup.png": (200, {"ETag": '"v1"'}, PICTURE)}
        self.asked = []  # (method, path, headers, the address on which it came)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        server.asked.append((self.command, self.path, dict(self.headers), self.connection.getsockname()[0]))
        answer = server.answers.get(self.path, (404, {}, b""))
        status, headers, body = answer(self) if callable(answer) else answer
        self.send_response(status)
        pieces = [body] if isinstance(body, bytes) else body
        headers = {"Content-Length": str(len(body)), **headers} if isinstance(body, bytes) else headers
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            for piece in pieces:
                self.wfile.write(piece)

    def log_message(self, *args):
        """Nothing."""


@contextmanager
def served(address="127.0.0.1"):
    site = Site(address)
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


@pytest.fixture
def site():
    with served() as found:
        yield found


@contextmanager
def reading(tmp_path, *allowed, private=True, **options):
    with Places(tmp_path, allowed, private, **{"pause": 0.01, **options}) as places:
        yield places


class Names(AbstractResolver):
    """Answers what the test says, the last answer again and again."""

    def __init__(self, **answers):
        self.answers = {host.replace("_", "."): found for host, found in answers.items()}
        self.asked = []

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked.append(host)
        found = self.answers[host]
        numbers = found.pop(0) if len(found) > 1 else found[0]
        common = {"hostname": host, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
        return [{**common, "host": number} for number in numbers]

    async def close(self):
        """Nothing."""


MEMORY = {"memory": "fsspec"}


@pytest.fixture
def bucket():
    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/ads/cup ä.png", PICTURE)
    yield store
    store.rm("/bucket", recursive=True)


def test_a_relative_path_is_a_file_below_the_folder(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "cup.png").write_bytes(PICTURE)
    with reading(tmp_path) as places:
        found = places.source("shop/cup.png")
        assert (found.name, found.read()) == ("shop/cup.png", PICTURE)
        with pytest.raises(SourceError, match=r"there is no file 'cup\.png' in"):
            places.source("cup.png")
        with pytest.raises(SourceError, match="expected a path relative"):
            places.source("/etc/passwd")


def test_a_picture_is_read_and_has_a_version_without_being_read(tmp_path, site):
    with reading(tmp_path, site.url) as places:
        found = places.source(f"{site.url}/cup.png")
        assert (found.version(), found.read(), found.name) == ('etag "v1"', PICTURE, f"{site.url}/cup.png")
    assert [asked[0] for asked in site.asked] == ["HEAD", "GET"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"ETag": 'W/"v1"'}, ""),  # says that the bytes may differ
        ({"ETag": 'W/"v1"', "Last-Modified": "Sat, 28 Nov 2026 06:00:00 GMT"}, "12 Sat, 28 Nov 2026 06:00:00 GMT"),
        ({"Last-Modified": "Sat, 28 Nov 2026 06:00:00 GMT"}, "12 Sat, 28 Nov 2026 06:00:00 GMT"),
        ({}, ""),
    ],
)
def test_a_server_that_says_nothing_sure_gives_no_version(tmp_path, site, headers, expected):
    site.answers["/cup.png"] = (200, headers, PICTURE)
    with reading(tmp_path, site.url) as places:
        assert places.source(f"{site.url}/cup.png").version() == expected


@pytest.mark.parametrize("status", [403, 405, 501])
def test_a_server_that_refuses_head_is_asked_otherwise(tmp_path, site, status):
    site.answers["/cup.png"] = lambda request: (
        (status, {}, b"") if request.command == "HEAD" else (200, {"ETag": '"v2"'}, PICTURE)
    )
    with reading(tmp_path, site.url) as places:
        assert places.source(f"{site.url}/cup.png").version() == 'etag "v2"'


def test_what_is_not_allowed_is_refused_with_the_option_and_never_asked_for(tmp_path, site):
    with reading(tmp_path, f"{site.url}/shop") as places:
        for path in ("cup.png", "shopping/cup.png", "shop/../cup.png", "shop/%2e%2e/cup.png", "shop/..%2fcup.png"):
            with pytest.raises(SourceError):
                places.source(f"{site.url}/{path}")
        with pytest.raises(SourceError, match=rf"may not be read: allow its place with --allow {site.url}$"):
            places.source(f"{site.url}/cup.png?sig=1")
        site.answers["/shop/cup.png"] = (200, {}, PICTURE)
        assert places.source(f"{site.url}/shop/cup.png").read() == PICTURE
    assert [asked[1] for asked in site.asked] == ["/shop/cup.png"]


@pytest.mark.parametrize(
    ("allowed", "text", "is_allowed"),
    [
        ("https://cdn.example.com", "https://CDN.example.com:443/a.png", True),
        ("https://cdn.example.com/", "https://cdn.example.com/a.png", True),
        ("https://cdn.example.com", "http://cdn.example.com/a.png", False),
        ("https://cdn.example.com", "https://cdn.example.com:8443/a.png", False),
        ("https://cdn.example.com", "https://cdn.example.com.evil.org/a.png", False),
        ("https://cdn.example.com", "https://evil.org/cdn.example.com/a.png", False),
        ("https://cdn.example.com", "https://evil.org#.cdn.example.com/a.png", False),
        ("https://bücher.example", "https://xn--bcher-kva.example/a.png", True),
        ("https://[2001:db8::1]", "https://[2001:DB8::1]/a.png", True),
        ("s3://bucket/ads", "s3://bucket/ads/a.png", True),
        ("s3://bucket/ads", "s3://bucket/ads2/a.png", False),
        ("s3://bucket", "s3://bucket2/a.png", False),
        ("s3://bucket", "gs://bucket/a.png", False),
        ("s3://bucket/ads", "s3://bucket/ads/../x.png", False),
    ],
)
def test_a_place_allows_what_lies_in_it(tmp_path, allowed, text, is_allowed):
    with reading(tmp_path, allowed) as places:
        if is_allowed:
            places.source(text)
        else:
            with pytest.raises(SourceError):
                places.source(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file:///etc/passwd", "name a file by its path relative to the folder of pictures"),
        ("ftp://host/a.png", "expected https://, http://, s3://, gs://, az://, or a relative path"),
        ("https://me:secret@host/a.png", "must not hold a user or a password"),
        ("https://me@host/a.png", "must not hold a user or a password"),
        ("s3://key:secret@bucket/a.png", "must not hold a user or a password"),
        ("https://host\\@evil.org/a.png", "backslashes and control characters"),
        ("https://host/a\nb.png", "backslashes and control characters"),
        ("https:///a.png", "it names no host"),
        ("https://host:99999/a.png", "is no address"),
        ("s3:///a.png", "it names no host or bucket"),
        ("simplecache::s3://bucket/a.png", "':' is not allowed in a path"),
        ("data:image/png;base64,AAAA", "':' is not allowed in a path"),
        ("//host/a.png", "expected a path relative"),
        ("host/a.png?sig=secret", "'host/a.png?...': '?' is not allowed in a path"),
        ("host/a.png#sig=secret", "there is no file 'host/a.png#...' in"),
        ("secret@host/a.png", "there is no file '...@host/a.png' in"),
        ("//host/a.png?sig=secret", "'//host/a.png?...'"),
        ("https:/host/a.png?sig=secret", "'https:/host/a.png?...': ':' is not allowed in a path"),
        ("https:/me:secret@host/a.png", "'...@host/a.png': ':' is not allowed in a path"),
        ("https://me:secret@host:84433/a.png", "'https://...@host:84433/a.png' is no address: expected one such as"),
        ("https://me:sec/ret@host/secret@a.png", "'https://...@a.png' is no address"),
        ("https://me:sec\\secret@host/a.png", "backslashes and control characters"),
        ("https://me:[secret@host/a.png", "is no address"),
        ("https://me:secret?@host/a.png", "is no address"),
        ("https://me:secret#@host/a.png", "is no address"),
        (
            "https://me:1/secret@host/a.png",
            "'https://...@host/a.png' may not be read: allow its place with --allow https://HOST",
        ),
        ("https://secret?@host/a.png", "'https://...' may not be read: allow its place with --allow https://HOST"),
        ("https://b\u2100b.example/a.png?secret", "is no address"),
        ("https://me:secret%40host/a.png", "is no address"),
        ("file://me:secret@host/a.png", "'file://...@host/a.png': name a file by its path"),
        ("ftp://host/a.png?sig=secret", "'ftp://host/a.png?...': expected https://"),
        ("secret@" + "x" * 300, "'...@xxx"),
    ],
)
def test_what_is_no_place_is_refused(tmp_path, text, message):
    with reading(tmp_path, "https://host", "s3://bucket") as places, pytest.raises(SourceError) as refused:
        places.source(text)
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "entry",
    [
        "cdn.example.com",
        "https://*.example.com",
        "ftp://host",
        "https://",
        "https://h?x=1",
        "https://a:b@h",
        "https://h?sig=secret",
        "ftp://me:secret@h",
        "me:secret@h",
    ],
)
def test_an_entry_that_allows_nothing_is_refused(tmp_path, entry):
    with pytest.raises(ValueError, match="--allow") as refused:
        Places(tmp_path, [entry])
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("64:ff9b::5db8:d70e", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
    ],
)
def test_which_addresses_are_of_the_open_internet(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"])
def test_the_own_machine_is_not_reached(tmp_path, site, host):
    place = f"http://{host}:{site.server_port}"
    with (
        reading(tmp_path, place, private=False) as places,
        pytest.raises(
            SourceError, match=r"is .*, an address of an own network and not of the internet: --allow-private-network"
        ),
    ):
        places.source(f"{place}/cup.png").read()
    assert site.asked == []


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.0x1", "0x7f.1.", "127.0.0.1.", "1e3.07"]
)
def test_a_number_that_is_no_address_as_it_is_written_is_refused_whatever_a_system_makes_of_it(tmp_path, site, host):
    with pytest.raises(ValueError, match=r"--allow .*: expected a host's name, or its address as in"):
        Places(tmp_path, [f"http://{host}:{site.server_port}"])
    site.answers["/a"] = redirect(f"http://{host}:{site.server_port}/cup.png")
    with (
        reading(tmp_path, site.url) as places,
        pytest.raises(SourceError, match="expected a host's name, or its address as in"),
    ):
        places.source(f"{site.url}/a").read()
    assert [asked[1] for asked in site.asked] == ["/a"]


@pytest.mark.parametrize("host", ["cdn1.example.com", "4711.example", "example.x7", "0xcafe.example", "192.0.2.1"])
def test_a_name_with_numbers_in_it_is_a_name(host):
    assert parsed(f"https://{host}/a.png").place == host


def test_a_name_of_which_one_address_is_private_is_refused(tmp_path, site):
    names = Names(cdn_example=[["93.184.215.14", "127.0.0.1"]])
    place = f"http://cdn.example:{site.server_port}"
    with (
        reading(tmp_path, place, private=False, resolver=names) as places,
        pytest.raises(SourceError, match=OWN_NETWORK.format("cdn.example")),
    ):
        places.source(f"{place}/cup.png").read()
    assert site.asked == []


def only_the_second_is_public(address):
    return address == "127.0.0.2"


def test_a_name_that_changes_between_check_and_connection_gains_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(addresses, "is_public", only_the_second_is_public)
    names = Names(cdn_example=[["127.0.0.2"], ["127.0.0.1"]])
    with served("0.0.0.0") as site:
        site.answers["/cup.png"] = (200, {"Connection": "close"}, PICTURE)
        place = f"http://cdn.example:{site.server_port}"
        with reading(tmp_path, place, private=False, resolver=names) as places:
            found = places.source(f"{place}/cup.png")
            assert found.read() == PICTURE
            assert names.asked == ["cdn.example"]  # once: what was checked is what was connected to
            with pytest.raises(SourceError, match=r"'cdn\.example' is 127\.0\.0\.1"):
                found.read()
        assert [asked[3] for asked in site.asked] == ["127.0.0.2"]


def redirect(to, status=302):
    return (status, {"Location": to}, b"")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_within_what_is_allowed_is_followed(tmp_path, site, status):
    site.answers["/a"] = redirect("/cup.png", status)
    with reading(tmp_path, site.url) as places:
        assert places.source(f"{site.url}/a").read() == PICTURE
        assert places.source(f"{site.url}/a").version() == 'etag "v1"'


def test_five_redirections_are_followed_and_six_are_not(tmp_path, site):
    for number in range(1, 7):
        site.answers[f"/{number}"] = redirect(f"/{number - 1}")
    site.answers["/0"] = (200, {}, PICTURE)
    with reading(tmp_path, site.url) as places:
        assert places.source(f"{site.url}/5").read() == PICTURE
        with pytest.raises(SourceError, match="is redirected more than 5 times"):
            places.source(f"{site.url}/6").read()


def test_a_redirection_elsewhere_is_refused_with_the_option_and_not_asked_for(tmp_path, site):
    with served() as other:
        site.answers["/a?sig=secret"] = redirect(f"{other.url}/cup.png?sig=secret")
        with reading(tmp_path, site.url) as places, pytest.raises(SourceError) as refused:
            places.source(f"{site.url}/a?sig=secret").read()
        assert other.asked == []
    assert str(refused.value) == (
        f"'{site.url}/a?...' is redirected to '{other.url}/cup.png?...': '{other.url}/cup.png?...' may not be read: allow its "
        f"place with --allow {other.url}"
    )


@pytest.mark.parametrize(
    "to",
    [
        "file:///etc/passwd",
        "s3://bucket/a.png",
        "http://me:pw@host/a",
        "",
        "http://[",
        "//169.254.169.254/x",
        "http://me:secret@host:84433/a",
        "http://host/a?sig=secret",
    ],
)
def test_a_redirection_to_what_is_no_picture_on_the_web_is_refused(tmp_path, site, to):
    site.answers["/a"] = redirect(to)
    with (
        reading(tmp_path, site.url, "s3://bucket") as places,
        pytest.raises(SourceError, match="is redirected") as refused,
    ):
        places.source(f"{site.url}/a").read()
    assert "secret" not in str(refused.value)


def test_a_redirection_from_a_public_host_into_the_own_network_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(addresses, "is_public", only_the_second_is_public)
    names = Names(cdn_example=[["127.0.0.2"]], inside_example=[["127.0.0.1"]])
    with served("0.0.0.0") as site:
        inside = f"http://inside.example:{site.server_port}"
        site.answers |= {"/a": redirect(f"{inside}/cup.png"), "/b": redirect(f"{site.url}/cup.png")}
        place = f"http://cdn.example:{site.server_port}"
        with reading(tmp_path, place, inside, site.url, private=False, resolver=names) as places:
            with pytest.raises(
                SourceError, match=r"is redirected to '.*': 'inside\.example' is 127\.0\.0\.1, an address of"
            ):
                places.source(f"{place}/a").read()
            with pytest.raises(
                SourceError, match=r"is redirected to '.*': '127\.0\.0\.1' is 127\.0\.0\.1, an address of"
            ):
                places.source(f"{place}/b").read()
        assert {asked[3] for asked in site.asked} == {"127.0.0.2"}


def test_a_body_that_never_ends_is_read_no_further_than_allowed(tmp_path, site):
    sent = []

    def pieces():
        while True:
            sent.append(1)
            yield b"x" * 100_000

    site.answers["/big.png"] = (200, {"Connection": "close"}, pieces())
    with (
        reading(tmp_path, site.url, max_bytes=1_000_000) as places,
        pytest.raises(SourceError, match=r"big\.png' has more than 1000000 bytes: expected a picture of at most"),
    ):
        places.source(f"{site.url}/big.png").read()
    assert len(sent) < 200


def test_a_picture_as_large_as_allowed_is_read_and_one_that_says_it_is_larger_is_not(tmp_path, site):
    site.answers["/big.png"] = (200, {"Content-Length": "1000000000000"}, [])
    with reading(tmp_path, site.url, max_bytes=len(PICTURE), seconds=5) as places:
        assert places.source(f"{site.url}/cup.png").read() == PICTURE
        with pytest.raises(SourceError, match="has more than 12 bytes"):
            places.source(f"{site.url}/big.png").read()


def test_what_is_empty_is_no_picture(tmp_path, site, bucket):
    site.answers["/empty.png"] = (200, {}, b"")
    bucket.pipe_file("/bucket/empty.png", b"")
    (tmp_path / "empty.png").touch()
    with reading(tmp_path, site.url, "memory://bucket", packages=MEMORY) as places:
        for text in (f"{site.url}/empty.png", "memory://bucket/empty.png", "empty.png"):
            with pytest.raises(SourceError, match=f"^'{text}' is empty: expected a picture$"):
                places.source(text).read()


def test_a_body_that_is_packed_is_refused_and_not_unpacked(tmp_path, site):
    site.answers["/cup.png"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(b"\0" * 10_000_000))
    with reading(tmp_path, site.url) as places, pytest.raises(SourceError, match="is sent packed as 'gzip'"):
        places.source(f"{site.url}/cup.png").read()
    assert [site.asked[0][2][name] for name in ("Accept-Encoding", "Accept")] == ["identity", "*/*"]


def test_a_body_that_comes_in_drops_is_given_up_in_time(tmp_path, site):
    def drops():
        for _ in range(1000):
            time.sleep(0.05)
            yield b"x"

    site.answers["/slow.png"] = (200, {"Connection": "close"}, drops())
    with reading(tmp_path, site.url, seconds=0.5) as places:
        began = time.monotonic()
        with pytest.raises(SourceError, match=r"slow\.png' was not sent within 0\.5 s"):
            places.source(f"{site.url}/slow.png").read()
    assert time.monotonic() - began < 20


def test_a_body_that_ends_early_is_tried_again_and_never_taken_for_the_picture(tmp_path, site):
    half = (200, {"Content-Length": "99", "Connection": "close"}, [PICTURE])
    answers = iter([half, half, (200, {}, PICTURE)])
    site.answers["/cup.png"] = lambda _: next(answers)
    with reading(tmp_path, site.url) as places:
        assert places.source(f"{site.url}/cup.png").read() == PICTURE
        site.answers["/cup.png"] = half
        with pytest.raises(SourceError, match="cannot be read: ClientPayloadError, 3 times"):
            places.source(f"{site.url}/cup.png").read()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_three_times(tmp_path, site, status):
    answers = iter([(status, {}, b""), (status, {}, b""), (200, {}, PICTURE)])
    site.answers["/cup.png"] = lambda _: next(answers)
    with reading(tmp_path, site.url) as places:
        assert places.source(f"{site.url}/cup.png").read() == PICTURE
        site.answers["/cup.png"] = (status, {}, b"")
        with pytest.raises(SourceError, match=rf"cup\.png' was answered with status {status}, 3 times"):
            places.source(f"{site.url}/cup.png").read()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"is not there \(status 404\)"),
        (410, r"is not there \(status 410\)"),
        (403, r"may not be read \(status 403\): is it public, or has its signature run out\?"),
        (401, r"may not be read \(status 401\)"),
        (204, "was answered with status 204: expected 200 and the picture"),
        (206, "was answered with status 206: expected 200 and the picture"),
    ],
)
@pytest.mark.parametrize("what", ["read", "version"])
def test_an_answer_that_will_not_change_is_asked_for_once_and_said(tmp_path, site, status, message, what):
    site.answers["/cup.png?sig=secret"] = (status, {"Content-Length": None if status == 204 else "0"}, b"")
    with (
        reading(tmp_path, site.url) as places,
        pytest.raises(SourceError, match=rf"^'{site.url}/cup\.png\?\.\.\.' {message}"),
    ):
        getattr(places.source(f"{site.url}/cup.png?sig=secret"), what)()
    assert len([asked for asked in site.asked if asked[0] == "GET"]) <= 1


def test_a_certificate_that_nobody_trusts_is_said_at_once(tmp_path, site):
    site.socket = tls(*made_certificate(tmp_path)).wrap_socket(site.socket, server_side=True)
    place = site.url.replace("http:", "https:")
    with (
        reading(tmp_path, place) as places,
        pytest.raises(
            SourceError, match=r"cannot be reached: ClientConnectorCertificateError \(.*CERTIFICATE_VERIFY_FAILED"
        ),
    ):
        places.source(f"{place}/cup.png").read()


def test_a_host_that_does_not_answer_is_said_without_its_query(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with reading(tmp_path, place) as places, pytest.raises(SourceError) as refused:
            places.source(f"{place}/cup.png?sig=secret").read()
    assert "cup.png?...' cannot be read: ClientConnectorError" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("/my cup.png", "/my%20cup.png"),
        ("/my%20cup.png", "/my%20cup.png"),
        ("/100%.png", "/100%25.png"),
        ("/Täßchen 杯.png", "/T%C3%A4%C3%9Fchen%20%E6%9D%AF.png"),
        ("/a%2Fb~c%7Ed.png?X-Sig=a%2Bb%3D%3d&e=1+2", "/a%2Fb~c%7Ed.png?X-Sig=a%2Bb%3D%3d&e=1+2"),
        ("/cup.png#part", "/cup.png"),
    ],
)
def test_what_must_be_escaped_is_and_what_is_stays_byte_for_byte(tmp_path, site, written, asked):
    site.answers[asked] = (200, {}, PICTURE)
    with reading(tmp_path, site.url) as places:
        assert places.source(f"{site.url}{written}").read() == PICTURE
    assert site.asked[0][1] == asked


def test_a_name_holds_no_query():
    assert parsed("https://host/a.png?X-Amz-Signature=secret").name == "https://host/a.png?..."
    assert parsed("https://host/a.png").name == "https://host/a.png"
    assert parsed("https://host/a@2x.png").name == "https://host/a@2x.png"


def test_an_address_is_told_from_others_by_its_query_too(tmp_path):
    with reading(tmp_path, "https://host", "memory://bucket", packages=MEMORY) as places:
        for place in ("https://host/a.png", "memory://bucket/a.png"):
            keys = [places.source(f"{place}{query}").key for query in ("?id=1", "?id=2", "", "")]
            assert len(set(keys)) == 3


def test_many_threads_read_at_once_over_few_connections(tmp_path, site):
    with reading(tmp_path, site.url) as places, ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: places.source(f"{site.url}/cup.png").read(), range(200)))
    assert found == [PICTURE] * 200


def test_places_that_nobody_closes_leave_nothing_open(tmp_path, site):
    places = Places(tmp_path, [site.url], True)
    places.source(f"{site.url}/cup.png").read()
    session = places._web._sessions[0]
    del places
    gc.collect()
    assert session.closed


def test_an_object_of_a_bucket_is_read(tmp_path, bucket):
    with reading(tmp_path, "memory://bucket", packages=MEMORY) as places:
        found = places.source("memory://bucket/ads/cup ä.png")
        assert (found.name, found.read()) == ("memory://bucket/ads/cup ä.png", PICTURE)
        before = found.version()
        assert before == found.version()
        time.sleep(0.001)
        bucket.pipe_file("/bucket/ads/cup ä.png", PICTURE)
        assert found.version() != before


def test_the_etag_of_a_store_is_its_version(tmp_path, bucket, monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: {"ETag": '"abc"', "size": 1})
    with reading(tmp_path, "memory://bucket", packages=MEMORY) as places:
        assert places.source("memory://bucket/ads/cup ä.png").version() == 'etag "abc"'


def test_a_store_that_says_nothing_sure_gives_no_version(tmp_path, bucket, monkeypatch):
    def unknown(*_):
        raise NotImplementedError

    monkeypatch.setattr(MemoryFileSystem, "modified", unknown)
    with reading(tmp_path, "memory://bucket", packages=MEMORY) as places:
        assert places.source("memory://bucket/ads/cup ä.png").version() == ""


def test_an_object_that_is_too_large_or_not_there_is_said(tmp_path, bucket):
    with reading(tmp_path, "memory://bucket", packages=MEMORY, max_bytes=5) as places:
        with pytest.raises(SourceError, match=r"'memory://bucket/ads/cup ä.png' has more than 5 bytes"):
            places.source("memory://bucket/ads/cup ä.png").read()
        with pytest.raises(SourceError, match=r"^'memory://bucket/x.png' is not there$"):
            places.source("memory://bucket/x.png").read()
        with pytest.raises(SourceError, match=r"^'memory://bucket/x.png' is not there$"):
            places.source("memory://bucket/x.png").version()


def test_errors_of_a_store_are_said_without_secrets(tmp_path, bucket, monkeypatch):
    class NoCredentialsError(Exception):
        pass

    def fails(*_, **__):
        raise NoCredentialsError("Unable to locate credentials for https://x/y?sig=secret\nsecond line")

    monkeypatch.setattr(MemoryFileSystem, "open", fails)
    with reading(tmp_path, "memory://bucket", packages=MEMORY) as places, pytest.raises(SourceError) as refused:
        places.source("memory://bucket/ads/cup ä.png").read()
    assert str(refused.value) == (
        "'memory://bucket/ads/cup ä.png' cannot be read: NoCredentialsError Unable to locate credentials for https://x/y?..."
    )
    assert said(PermissionError("no")) == "PermissionError no"
    assert said(OSError("no way to http://me:secret@proxy:3128 from here")) == (
        "OSError no way to http://...@proxy:3128 from here"
    )


def test_a_scheme_whose_package_is_missing_names_it(tmp_path, monkeypatch):
    def missing(scheme, **_):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with (
        reading(tmp_path, "s3://bucket") as places,
        pytest.raises(SourceError, match=r"^s3:// needs the package s3fs: pip install s3fs$"),
    ):
        places.source("s3://bucket/cup.png").read()


def test_an_address_is_taken_apart_once():
    found = parsed("HTTPS://Host.Example:8443/a/b.png?x=1")
    assert (found.scheme, found.place, found.path) == ("https", "host.example:8443", "a/b.png")
    assert found.root == "https://host.example:8443"
    with pytest.raises(AddressError, match="expected an address such as"):
        parsed("cup.png")
