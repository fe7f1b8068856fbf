"""Text between two marks of a document, written anew."""

from __future__ import annotations

import re


class MarkerError(ValueError):
    """A document without the place for a text; the message says what to do."""


def between_marks(document: str, name: str, text: str) -> str:
    """The document with `text` between `<!-- name -->` and `<!-- /name -->`, each on a line of its own.

    Raises:
        MarkerError: it has not exactly one such place.
    """
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    found = len(place.findall(document))
    if found != 1:
        raise MarkerError(
            f"the document has {found} places between <!-- {name} --> and <!-- /{name} -->, expected 1: put the two lines around "
            "what is written anew"
        )
    return place.sub(lambda match: f"{match[1]}{text}\n{match[2]}", document)
