"""The nodes' texts in every language: none is missing, left over or older than the English text that it says."""

from __future__ import annotations

import re

import pytest

from pfv_mepa.nodes.extension import NODES
from pfv_mepa.tools import build_locales as locales

LANGUAGES = ("en", *locales.TRANSLATIONS)


def test_english_is_what_the_nodes_say():
    now = {info["name"]: locales.english_texts(info) for info in (node.GET_NODE_INFO_V1() for node in NODES)}
    assert locales.read("en", "nodeDefs.json") == now, "run python3 -m tools.build_locales"


def test_every_node_has_words_to_be_searched_by():
    words = locales.read("en", "main.json")["pfvMepa"]["searchWords"]
    assert set(words) == {node.GET_SCHEMA().node_id for node in NODES}


@pytest.mark.parametrize("language", locales.TRANSLATIONS)
def test_a_translation_is_complete_and_up_to_date(language):
    assert not locales.faults(language, locales.recorded())


@pytest.mark.parametrize("language", locales.TRANSLATIONS)
def test_a_translation_keeps_the_choices_and_numbers_of_the_english_text(language):
    """A choice is called by the name that the widget shows, in every language."""
    english, texts = locales.texts_of("en"), locales.texts_of(language)
    for path, text in english.items():
        choices = re.findall(r"\b[a-z]\w*_\w*(?=:)|\b(?:pad|crop|stretch|drop|zero|add|blend|clean|step)(?=:)", text)
        for choice in choices:
            assert choice in texts[path], path


def test_a_missing_a_left_over_and_a_changed_text_are_found(monkeypatch):
    english = {"nodeDefs.json/A/display_name": "A", "nodeDefs.json/B/display_name": "B"}
    theirs = {"nodeDefs.json/B/display_name": "b", "nodeDefs.json/C/display_name": "c"}
    monkeypatch.setattr(locales, "texts_of", lambda language: english if language == "en" else theirs)
    record = {"nodeDefs.json/B/display_name": "of an older text"}
    assert locales.faults("zh", record) == [
        "locales/zh lacks nodeDefs.json/A/display_name",
        "locales/zh has nodeDefs.json/C/display_name, which no node has",
        "locales/zh: the English text of nodeDefs.json/B/display_name has changed",
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_files_are_as_the_command_writes_them(language):
    for name in locales.FILES:
        text = (locales.LOCALES / language / name).read_text(encoding="utf-8")
        assert text == locales.to_text(locales.read(language, name))


@pytest.mark.parametrize("language", LANGUAGES)
def test_search_words_stand_in_what_the_page_searches(language):
    """Frontend 1.27 finds what begins among the first 30 letters of a name, where the words are put."""
    for node_id, words in locales.read(language, "main.json")["pfvMepa"]["searchWords"].items():
        assert max(match.start() for match in re.finditer(r"[^ ]+", words)) < 30, node_id
