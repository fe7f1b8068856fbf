"""Where a server is, and what leads to it: headers and a proxy. What is secret in it is never shown."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from .errors import safe_text

DEFAULT_PORTS = {"http": 80, "https": 443}
EXAMPLE = "expected an address such as http://127.0.0.1:8188 or https://user:password@host/prefix"
AUTHORIZATION = "authorization"
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of HTTP
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SET_BY_THE_CLIENT = {"connection", "content-encoding", "content-length", "content-type", "expect", "host"}
SET_BY_THE_CLIENT |= {"proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"}
SHORTEST_SECRET = 4  # characters; hiding every "a" of a message would hide the message
HIDDEN = "***"


@dataclass(frozen=True)
class ServerAddress:
    """A server's place, in one form however it was written.

    Attributes:
        url: without user info, default port, query and trailing slash, in lower case up to its path. It is what is
            shown and kept.
        headers: sent with every request to this server and to nobody else; secret.
        proxy: address of the HTTP proxy on the way; secret, because it may hold a password.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    proxy: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str, headers: Mapping[str, str] | None = None, proxy: str | None = None) -> ServerAddress:
        """Read an address.

        Args:
            text: http(s)://[user:password@]host[:port][/prefix]. User and password become an Authorization header.
            headers: name -> value.
            proxy: http://[user:password@]host[:port]. None: what HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the
                environment say (in either case of letters); a server on this machine is then reached without one.

        Raises:
            ValueError: it is no such address, or two values for Authorization; neither is repeated in the message.
        """
        parts = _split(text, EXAMPLE)
        if parts.query or parts.fragment:
            raise ValueError(f"{_shown(text)} is no server: {EXAMPLE}, without ? and #")
        own = _basic_authorization(parts)
        if own and any(name.lower() == AUTHORIZATION for name in headers or {}):
            raise ValueError(f"{_shown(text)} has a user and there is an Authorization header: expected one of the two")
        url = f"{parts.scheme}://{_host_and_port(parts)}{parts.path.rstrip('/')}"
        return cls(url, {**(headers or {}), **own}, _check_proxy(proxy) if proxy else _environment_proxy(parts))

    def hide(self, text: str) -> str:
        """A message in which no secret of this address is left, whoever repeated it."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text

    def _secrets(self) -> set[str]:
        found = set()
        for value in self.headers.values():
            scheme, _, credentials = value.partition(" ")
            found |= {value, credentials}
            if scheme.lower() == "basic":
                with contextlib.suppress(ValueError):
                    user_info = base64.b64decode(credentials).decode()
                    found |= {user_info, user_info.partition(":")[2]}
        proxy = urlsplit(self.proxy or "")
        found |= {proxy.password or "", unquote(proxy.password or ""), proxy.netloc.rpartition("@")[0]}
        return {secret for secret in found if len(secret) >= SHORTEST_SECRET}


def parse_headers(options: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Headers whose values stand in environment variables, so that no secret stands in a command.

    Args:
        options: NAME=VARIABLE each.
        environ: variable -> value.

    Raises:
        ValueError: no such form, a value instead of a variable's name, no such variable, a name that HTTP does not
            allow, that the client sets itself, or that stands twice.
    """
    headers: dict[str, str] = {}
    for option in options:
        name, equals, variable = option.partition("=")
        _check_header_name(name if equals else "", {other.lower() for other in headers})
        headers[name] = _value_of(name, variable, environ)
    return headers


def read_servers(file: Path, headers: Mapping[str, str], proxy: str | None) -> list[ServerAddress]:
    """Servers of a file, one a line: an address, and then NAME=VARIABLE headers of its own where it has some.

    Args:
        file: UTF-8; blank lines, and what follows a # at the start of a line or after a space, are left out.
        headers: of every server; one of a line's own stands in place of one of the same name.
        proxy: of every server.

    Raises:
        ValueError: a line that is no server, or no line at all.
        OSError: the file cannot be read.
    """
    servers = []
    for number, line in enumerate(_text_of(file).splitlines(), 1):
        words = re.split(r"(?:^|\s)#", line)[0].split()
        if not words:
            continue
        try:
            own = parse_headers(words[1:], os.environ)
            names = {name.lower() for name in own}
            shared = {name: value for name, value in headers.items() if name.lower() not in names}
            servers.append(ServerAddress.parse(words[0], {**shared, **own}, proxy))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
    if not servers:
        raise ValueError(f"{file} names no server: expected one address a line")
    return servers


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text: {error.reason} at byte {error.start}") from error


def _split(text: str, expected: str) -> SplitResult:
    """Scheme, host and port are there and can be used; urlsplit alone lets a lot pass, and drops newlines in silence."""
    problem = ValueError(f"{_shown(text)} is no server: {expected}")
    if any(character.isspace() or not character.isprintable() for character in text) or "\\" in text:
        raise problem
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna")
        port = parts.port
    except ValueError:  # a port or a bracket that is none, a label that is too long; its message may hold a password
        raise problem from None
    if parts.scheme not in DEFAULT_PORTS or not host or port == 0:
        raise problem
    return parts


def _host_and_port(parts: SplitResult) -> str:
    host = parts.hostname or ""  # in lower case
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in (None, DEFAULT_PORTS[parts.scheme]) else f"{host}:{parts.port}"


def _basic_authorization(parts: SplitResult) -> dict[str, str]:
    if parts.username is None and parts.password is None:
        return {}
    user_info = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(user_info.encode()).decode()}"}


def _environment_proxy(parts: SplitResult) -> str | None:
    host = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    if not proxy or _is_this_machine(host) or proxy_bypass(_host_and_port(parts)):
        return None
    return _check_proxy(proxy)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _check_proxy(text: str) -> str:
    expected = "as a proxy, expected http://host:port or http://user:password@host:port"
    parts = _split(text if "://" in text else f"http://{text}", expected)
    if parts.scheme != "http" or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{_shown(text)} is no server: {expected}")
    return parts.geturl().rstrip("/")


def _shown(text: str) -> str:
    """An address that may be wrong in any way, without what may be a password."""
    without_user = re.sub(r"^(\w+://)?.*@", rf"\1{HIDDEN}@", safe_text(text), flags=re.DOTALL)
    return repr(re.sub(r"\?.*", f"?{HIDDEN}", without_user, flags=re.DOTALL))


def _check_header_name(name: str, taken: set[str]) -> None:
    if not HEADER_NAME.fullmatch(name):
        raise ValueError(
            "--header: expected NAME=VARIABLE, the header's name and the environment variable that holds it"
        )
    lower = name.lower()
    if lower in SET_BY_THE_CLIENT or lower.startswith("sec-websocket-"):
        raise ValueError(f"--header {name}: the client sets it itself; expected another header")
    if lower in taken:
        raise ValueError(f"--header {name} stands twice: expected each header once")


def _value_of(name: str, variable: str, environ: Mapping[str, str]) -> str:
    """What was given may be the secret itself, by mistake: no message repeats it."""
    if not VARIABLE_NAME.fullmatch(variable):
        raise ValueError(
            f"--header {name}: expected NAME=VARIABLE, the name of an environment variable that holds the value; a value "
            "in the command itself can be read by everybody on this machine"
        )
    if not environ.get(variable):
        raise ValueError(f"--header {name}: the environment variable that is to hold its value is not set, or empty")
    value = environ[variable]
    if not value.isprintable():
        raise ValueError(
            f"--header {name}: its value has a line break or a control character; expected one line of text"
        )
    return value
