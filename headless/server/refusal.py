"""What an answer means that is not the one asked for: a login page, a wrong address, a picture that is gone."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .errors import FailedError, GoneError, NotComfyError, ServerError, shortened
from .outcome import rejection

VIEW = "/view"
LOGIN = frozenset((401, 407))
FORBIDDEN = 403  # also the host's own answer to a file outside its folders
NOT_HERE = frozenset((404, 405, 410, 426, 501))
OVERLOADED = frozenset((408, 425, 429))
SHOWN = 100  # characters of what came instead
GIVE_HEADERS = "give what it asks for with --header NAME=VARIABLE, or a user as https://user:password@host"
CHECK_ADDRESS = "expected a ComfyUI: check host, port and the prefix of the path"


@dataclass(frozen=True)
class Answer:
    """An answer that was not asked for.

    Attributes:
        url: the server's.
        path: of the request.
        status: of HTTP.
        text: the beginning of what came.
        location: where a redirection leads to.
    """

    url: str
    path: str
    status: int
    text: str = ""
    location: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether it is the server's own fault, so that the same request may succeed later."""
        return self.status in OVERLOADED or (self.status >= 500 and self.status not in NOT_HERE)

    @property
    def said(self) -> str:
        """Path, status and words in one line."""
        return f"{self.path} answered {self.status}: {self._words(300)}"

    def error(self) -> ServerError:
        """The error that it is, where it is no fault of the server's own."""
        complaint = _parsed(self.text)
        if isinstance(complaint, dict) and "node_errors" in complaint:
            return rejection(complaint.get("error", ""), complaint["node_errors"])
        if self.path == VIEW and self.status in (404, 410):
            return GoneError(f"the picture is no longer on {self.url}: {self.said}")
        if self._is_no_comfy:
            return not_comfy(self.url, f"{self.path} answered {self.status}: {self._words(SHOWN)}", self._advice)
        return FailedError(f"{self.url}: {self.said}")

    @property
    def _is_no_comfy(self) -> bool:
        if self.status < 400 or self.status in LOGIN:
            return True
        of_this_address = self.status == FORBIDDEN or self.status in NOT_HERE
        return self.path != VIEW and (of_this_address or (self.status == 400 and is_html(self.text)))

    @property
    def _advice(self) -> str:
        if self.location:
            return f"it is not followed; name that address if the ComfyUI is there, else {GIVE_HEADERS}"
        if self.status in NOT_HERE:
            return CHECK_ADDRESS
        return GIVE_HEADERS if self.status in LOGIN or self.status == FORBIDDEN or is_html(self.text) else CHECK_ADDRESS

    def _words(self, length: int) -> str:
        if self.location:
            return f"a redirection to {_without_secrets(self.location)}"
        title = re.search(r"<title[^>]*>(.*?)</title", self.text, re.IGNORECASE | re.DOTALL)
        if title:
            return f"a page titled {shortened(html.unescape(title[1]), length)!r}"
        return shortened(self.text, length) or "nothing"


def not_comfy(url: str, came: str, advice: str = CHECK_ADDRESS) -> NotComfyError:
    """The error for an address where something else answers."""
    return NotComfyError(f"{url} is no ComfyUI, or keeps it behind a login: {came}; {advice}")


def is_html(text: str) -> bool:
    """Whether a page came; no JSON begins like one."""
    return text.lstrip("\ufeff \t\r\n").startswith("<")


def _without_secrets(location: str) -> str:
    """A target without user and query, which may hold a session."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return shortened(location.partition("?")[0].rpartition("@")[2], SHOWN)
    host = parts.netloc.rpartition("@")[2]
    return shortened(parts._replace(netloc=host, query="", fragment="").geturl(), 2 * SHOWN)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
