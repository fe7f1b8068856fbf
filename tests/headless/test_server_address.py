"""Addresses, headers and lists of servers: one form for each, and no secret in any message."""

from __future__ import annotations

import base64

import pytest

from headless.server.address import ServerAddress, parse_headers, read_servers

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


def basic(user_info: str) -> str:
    return f"Basic {base64.b64encode(user_info.encode()).decode()}"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("http://127.0.0.1:8188/", "http://127.0.0.1:8188"),
        ("HTTP://GPU-Box.Example:80/", "http://gpu-box.example"),
        ("https://Host:443/Comfy/One/", "https://host/Comfy/One"),
        ("https://host:8443", "https://host:8443"),
        ("http://host:443", "http://host:443"),
        ("http://[::1]:8188/", "http://[::1]:8188"),
        ("https://me:secret@host/comfy", "https://host/comfy"),
    ],
)
def test_an_address_has_one_form(text, url):
    assert ServerAddress.parse(text).url == url


BAD = ["file:///etc/passwd", "127.0.0.1:8188", "ftp://host", "http://", "http://h/?x=1", "http://h/#x", "http://h:0"]
BAD += ["http://h:99999", "http://h:x", "http://[::1", "http://a b", "http://h\n/", "http://h\\x", "http://a..b", ""]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_address_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"is no server: expected an address such as http://127\.0\.0\.1:8188"):
        ServerAddress.parse(text)


def test_user_and_password_become_a_header_and_are_not_shown():
    address = ServerAddress.parse("http://me:s%40cret%2F@host:8188", {"X-Trace": "trace-1234"})
    assert address.headers == {"X-Trace": "trace-1234", "Authorization": basic("me:s@cret/")}
    assert repr(address) == "ServerAddress(url='http://host:8188')"
    assert address == ServerAddress("http://host:8188", address.headers)


@pytest.mark.parametrize(
    "text",
    ["ftp://me:hunter22@host", "me:hunter22@host", "http://me:hunt/hunter22@host:x", "http://me:hu//hunter22@host?q=1"],
)
def test_a_password_in_a_wrong_address_is_not_repeated(text):
    with pytest.raises(ValueError, match="is no server") as raised:
        ServerAddress.parse(text)
    assert "hunter22" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_two_values_for_authorization_are_refused():
    with pytest.raises(ValueError, match="expected one of the two") as raised:
        ServerAddress.parse("http://me:hunter22@host", {"authorization": "Bearer abcdef"})
    assert "hunter22" not in str(raised.value)
    assert "abcdef" not in str(raised.value)


def test_no_secret_is_left_in_a_message():
    headers = {"X-Token": "tok-12345", "X-Short": "on"}
    address = ServerAddress.parse("http://me:hunter22@host", headers, "http://p:pr%40xy-pass@proxy:3128")
    said = f"{basic('me:hunter22')} me:hunter22 hunter22 tok-12345 p:pr%40xy-pass pr@xy-pass on"
    assert address.hide(said) == "*** *** *** *** *** *** on"


@pytest.mark.parametrize(
    ("proxy", "kept"),
    [
        ("http://Proxy:3128/", "http://Proxy:3128"),
        ("proxy:3128", "http://proxy:3128"),
        ("http://u:p@x", "http://u:p@x"),
    ],
)
def test_a_proxy_is_kept_and_not_shown(proxy, kept):
    address = ServerAddress.parse("http://127.0.0.1:8188", proxy=proxy)
    assert address.proxy == kept
    assert "proxy" not in repr(address)


@pytest.mark.parametrize("proxy", ["socks5://proxy:1080", "https://proxy", "http://proxy/path", "http://", "a b"])
def test_what_is_no_proxy_is_refused(proxy):
    with pytest.raises(ValueError, match="as a proxy, expected http://host:port"):
        ServerAddress.parse("http://host", proxy=proxy)


def test_the_environments_proxy_is_for_servers_elsewhere(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://plain:3128")
    monkeypatch.setenv("https_proxy", "secure:3129")
    monkeypatch.setenv("no_proxy", "inside.example")
    found = [ServerAddress.parse(url).proxy for url in ("http://host", "https://host", "http://a.inside.example:8188")]
    assert found == ["http://plain:3128", "http://secure:3129", None]
    here = ("http://localhost:8188", "http://127.0.0.5:8188", "http://[::1]:8188")
    assert [ServerAddress.parse(url).proxy for url in here] == [None, None, None]


def test_headers_come_from_the_environment():
    environ = {"TOKEN": "Bearer abc def", "KEY": "k"}
    found = parse_headers(["Authorization=TOKEN", "X-Api-Key=KEY"], environ)
    assert found == {"Authorization": "Bearer abc def", "X-Api-Key": "k"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["Authorization"], "expected NAME=VARIABLE"),
        (["=TOKEN"], "expected NAME=VARIABLE"),
        (["X Y=TOKEN"], "expected NAME=VARIABLE"),
        (["Authorization=Bearer hunter22"], "a value in the command itself can be read by everybody"),
        (["Authorization=hunter22-abc"], "a value in the command itself can be read by everybody"),
        (["Authorization=hunter22"], "is not set, or empty"),
        (["Authorization=EMPTY"], "is not set, or empty"),
        (["Authorization=LINES"], "has a line break or a control character"),
        (["X-A=TOKEN", "x-a=TOKEN"], "--header x-a stands twice"),
        (["Host=TOKEN"], "--header Host: the client sets it itself"),
        (["Sec-WebSocket-Key=TOKEN"], "--header Sec-WebSocket-Key: the client sets it itself"),
    ],
)
def test_a_header_that_cannot_be_is_refused_and_its_value_not_repeated(options, message):
    environ = {"TOKEN": "hunter22", "EMPTY": "", "LINES": "hunter22\nX: y"}
    with pytest.raises(ValueError, match=message) as raised:
        parse_headers(options, environ)
    assert "hunter22" not in str(raised.value)


def test_a_list_of_servers_has_one_a_line_with_headers_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("OTHER_TOKEN", "other-secret")
    file = tmp_path / "servers.txt"
    lines = [
        "# ours",
        "",
        "http://one:8188/",
        "  https://two/comfy  x-token=OTHER_TOKEN  # the new one",
        "http://three",
    ]
    file.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    one, two, three = read_servers(file, {"X-Token": "shared", "X-Trace": "t"}, "http://proxy:3128")
    assert (one.url, two.url, three.url) == ("http://one:8188", "https://two/comfy", "http://three")
    assert one.headers == three.headers == {"X-Token": "shared", "X-Trace": "t"}
    assert two.headers == {"x-token": "other-secret", "X-Trace": "t"}
    assert {one.proxy, two.proxy, three.proxy} == {"http://proxy:3128"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"http://one\nhost:8188\n", r"servers\.txt, line 2: 'host:8188' is no server"),
        (b"http://one X-Token=NOT_SET_ANYWHERE\n", r"servers\.txt, line 1: --header X-Token: the environment variable"),
        (b"# nothing\n\n", r"servers\.txt names no server: expected one address a line"),
        (b"http://\xff\n", r"servers\.txt is no UTF-8 text: .* at byte 7"),
    ],
)
def test_a_list_that_cannot_be_used_says_where(tmp_path, content, message):
    file = tmp_path / "servers.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_servers(file, {}, None)
