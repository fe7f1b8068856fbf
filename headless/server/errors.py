"""What can go wrong between a client and a ComfyUI server, and how a server's words are made safe to keep."""

from __future__ import annotations

import unicodedata

LONGEST_WORDS = 10_000  # characters of a server's message that stand in an error
DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they reorder the text around them


class ServerError(RuntimeError):
    """Something went wrong with a server; each kind has a class of its own."""


class ServerDownError(ServerError):
    """The server did not answer for as long as was allowed."""


class NotComfyError(ServerError):
    """Something answers at the address, but no ComfyUI that can be used; the message says what came and what to do."""


class RejectedError(ServerError):
    """The server found the workflow invalid; the message names each node and what is wrong with its inputs."""


class LostError(ServerError):
    """The server knows nothing of a prompt that it had accepted: it was restarted, or the prompt was deleted."""


class StalledError(ServerError):
    """The server answers, and a prompt waited there for too long while nothing moved; it was taken out."""


class CannotWriteError(ServerError):
    """The disk on this side does not take a picture: full, gone, or not ours to write to."""


class FailedError(ServerError):
    """A run, or a request about it, came to a bad end on a server that answers.

    Attributes:
        node_id: the node that raised or was interrupted, in the prompt; None where no node is to blame, as the others.
        node_type: its class.
        exception_type: the name of the exception's class as the host reports it; "interruption" where a run was stopped.
        exception_message: what the exception said.
    """

    def __init__(
        self,
        message: str,
        *,
        node_id: str | None = None,
        node_type: str | None = None,
        exception_type: str | None = None,
        exception_message: str | None = None,
    ) -> None:
        super().__init__(message)
        self.node_id = node_id
        self.node_type = node_type
        self.exception_type = exception_type
        self.exception_message = exception_message


class TimedOutError(FailedError):
    """The run took longer than it may, and was cancelled."""


class GoneError(FailedError):
    """A picture that the run saved is not on the server any more."""


class ServerFaultError(FailedError):
    """The server answers, but to this very request with an error of its own, again and again."""


def safe_text(words: object) -> str:
    """Words of a server that can be written, printed and kept: what cannot is spelt out, as `\\x1b`.

    That is every lone surrogate, every control character but tab and newline, line separators that are no newline, and
    marks that change the direction of writing.
    """
    text = words if isinstance(words, str) else str(words)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelt_out(character) if _is_unsafe(character) else character for character in text)


def shortened(words: object, length: int = LONGEST_WORDS) -> str:
    """Safe words of at most `length` characters, and how many were left out."""
    text = safe_text(words).strip()
    left_out = len(text) - length
    return text if left_out <= 0 else f"{text[:length]}... ({left_out} more characters)"


def _is_unsafe(character: str) -> bool:
    if character in "\t\n":
        return False
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in DIRECTIONS


def _spelt_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
