"""Addresses from a table: which places it may name, and which machines a name may lead to."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from .safe_paths import shown
from .source import HIDDEN_QUERY, key_of

WEB = ("https", "http")
ALLOW, ALLOW_PRIVATE = "--allow", "--allow-private-network"  # what these options are called on the command line

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ENCODED = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")  # RFC 3986: nothing left to escape
_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?$")
_FORBIDDEN = re.compile(r"[\\\x00-\x1f\x7f]")
_AZURE_HOST = ipaddress.ip_address("168.63.129.16")  # answers every machine there, though its number looks public
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # the last four bytes are the address that is reached
_OTHERS_IPV4 = tuple(map(ipaddress.ip_network, ("::/96", "2002::/16", "2001::/32")))  # carry one through a relay


class AddressError(ValueError):
    """An address that cannot be used, or may not be read; the message says why and what to do."""


class PrivateAddressError(AddressError):
    """A name that leads into the own network."""


@dataclass(frozen=True)
class Address:
    """A place that is no path on this machine.

    Attributes:
        scheme: in small letters.
        place: host and port, or bucket.
        path: in it, unescaped, without a slash at its ends.
        text: as it is asked for.
        url: of http and https.
    """

    scheme: str
    place: str
    path: str
    text: str
    url: URL | None = None

    @property
    def name(self) -> str:
        """As it stands in the catalogue, without the query, which may be a signature."""
        bare, query, _ = self.text.partition("#")[0].partition("?")
        return bare + (HIDDEN_QUERY if query else "")

    @property
    def key(self) -> str:
        """Tells it from all others, those too that differ in the query alone, and shows nothing of it."""
        return key_of(self.text)

    @property
    def root(self) -> str:
        """The whole host or bucket, as the option that allows it is written."""
        return f"{self.scheme}://{self.place}"

    def is_below(self, other: Address) -> bool:
        """Whether it is what the other one names, or lies in it."""
        same = (self.scheme, self.place) == (other.scheme, other.place)
        return same and (not other.path or f"{self.path}/".startswith(f"{other.path}/"))


def scheme_of(text: str) -> str | None:
    """`https` of `https://host/x`; None = it is no address."""
    found = _SCHEME.match(text)
    return found[1].lower() if found else None


def parsed(text: str) -> Address:
    """An address, taken apart.

    Raises:
        AddressError: it names a user, climbs with `..`, or is none.
    """
    scheme = scheme_of(text)
    if scheme is None:
        raise AddressError(f"{shown(text)!r}: expected an address such as https://host/picture.png")
    if scheme == "file":
        raise AddressError(f"{shown(text)!r}: name a file by its path relative to the folder of pictures")
    if _FORBIDDEN.search(text):
        raise AddressError(f"{shown(text)!r}: backslashes and control characters are not allowed in an address")
    url = _web_url(text) if scheme in WEB else None
    rest = text[len(scheme) + 3 :]
    bucket, _, key = rest.partition("/")
    place, path = (f"{url.host}:{url.port}", url.path) if url else (bucket, key)
    if "@" in bucket.partition("?")[0]:
        raise AddressError("an address must not hold a user or a password: leave out what stands before the @")
    if not bucket or not place:
        raise AddressError(f"{shown(text)!r}: it names no host or bucket")
    climbing = re.split(r"[/\\]", unquote(re.split(r"[?#]", rest)[0] if url else rest))
    if any(part in (".", "..") for part in climbing[1:]):
        raise AddressError(f"{shown(text)!r}: an address must not contain '.' or '..' as a part of its path")
    if url:
        port = "" if url.is_default_port() else f":{url.port}"
        host = (url.raw_host or "").lower()
        place = f"[{host}]{port}" if ":" in host else f"{host}{port}"
    return Address(scheme, place, path.strip("/"), text, url)


def _web_url(text: str) -> URL:
    """Escaped where the text is not; what is escaped stays as it is, because a signature may depend on it."""
    try:
        url = URL(text, encoded=bool(_ENCODED.fullmatch(text)))
        if not (url.host and url.port):
            raise AddressError(f"{shown(text)!r}: it names no host")
        if _NUMBER.search(url.host) and not _is_ip(url.host):  # systems read 2130706433 and 0x7f.1 as 127.0.0.1
            raise AddressError(f"{shown(text)!r}: expected a host's name, or its address as in 192.0.2.1")
        return url
    except AddressError:
        raise
    except ValueError as error:  # whose words may repeat the text
        raise AddressError(
            f"{shown(text)!r} is no address: expected one such as https://host:8443/picture.png, without user and password"
        ) from error


class AllowList:
    """Hosts and buckets, or parts of them, that a table may name.

    Args:
        allowed: as in `https://cdn.example.com`, `https://host/folder`, `s3://bucket/prefix`.
        schemes: that can be read at all.

    Raises:
        ValueError: an entry is none of these.
    """

    def __init__(self, allowed: Sequence[str], schemes: Sequence[str]) -> None:
        self._schemes = tuple(schemes)
        self._allowed = [self._entry(text) for text in allowed]

    def check(self, address: Address) -> None:
        """Refuse what is not allowed.

        Raises:
            AddressError: the message says which option allows it.
        """
        if address.scheme not in self._schemes:
            raise AddressError(f"{shown(address.text)!r}: expected {_any_of(self._schemes)}, or a relative path")
        if not any(address.is_below(entry) for entry in self._allowed):
            is_sure = "@" not in unquote(address.text)  # else what looks like the host may be a user
            place = address.root if is_sure else f"{address.scheme}://HOST"
            raise AddressError(f"{shown(address.text)!r} may not be read: allow its place with {ALLOW} {place}")

    def _entry(self, text: str) -> Address:
        try:
            entry = parsed(text)
        except AddressError as error:
            raise ValueError(f"{ALLOW} {error}") from error
        if entry.scheme not in self._schemes or set("*?#") & set(text):
            raise ValueError(
                f"{ALLOW} {shown(text)!r}: expected {_any_of(self._schemes)} and a host or bucket, as in https://cdn.example.com "
                "or s3://bucket/prefix; there are no wildcards"
            )
        return entry


def is_public(address: str) -> bool:
    """Whether an IP address is of the open internet, in whatever form it is written."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return is_public(str(found.ipv4_mapped))
        if found in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if any(found in network for network in _OTHERS_IPV4):
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved and found != _AZURE_HOST


def check_literal(url: URL) -> None:
    """Refuse a host that is a number of the own network; names are looked at when they are resolved.

    Raises:
        PrivateAddressError: it is.
    """
    host = url.host or ""
    if _is_ip(host) and not is_public(host):
        raise _private(host, host)


class PublicResolver(AbstractResolver):
    """Resolves names, and refuses those of which any address is not public.

    What it answers is what the connection is made to, so that a second answer of the name server changes nothing.

    Args:
        inner: what resolves.
    """

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As the inner one.

        Raises:
            PrivateAddressError: an address is not public.
        """
        found = await self._inner.resolve(host, port, family)
        for result in found:
            if not is_public(result["host"]):
                raise _private(host, result["host"])
        return found

    async def close(self) -> None:
        """Close the inner one."""
        await self._inner.close()


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _private(host: str, address: str) -> PrivateAddressError:
    return PrivateAddressError(
        f"{host!r} is {address}, an address of an own network and not of the internet: {ALLOW_PRIVATE} lets such be read"
    )


def _any_of(schemes: Sequence[str]) -> str:
    return ", ".join(f"{scheme}://" for scheme in schemes)
