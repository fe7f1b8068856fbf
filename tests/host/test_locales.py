"""The nodes' texts in every language: none is missing, left over or older than the English text that it says."""

from __future__ import annotations

import json
import re
import sys
from contextlib import nullcontext

import pytest

from pfv_mepa.nodes.extension import NODES
from pfv_mepa.tools import build_locales as locales
from pfv_mepa.tools.frozen_nodes import NoPackError

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


CHOICES = {"product", "adapter", "at"}  # inputs whose names are choices of others, which stay as they are


@pytest.mark.parametrize("language", locales.TRANSLATIONS)
def test_an_input_is_named_as_the_page_shows_it_and_as_messages_call_it(language):
    """The page labels inputs in its language; what the server refuses names them by their ids."""
    for node, said in locales.read(language, "nodeDefs.json").items():
        labels = {key: one["name"] for key, one in said.get("inputs", {}).items() if one.get("name", key) != key}
        parts = [said, *said.get("inputs", {}).values(), *said.get("outputs", {}).values()]
        for text in filter(None, (part.get(kind) for part in parts for kind in ("description", "tooltip"))):
            for key in labels.keys() - CHOICES:
                bare = re.sub(rf"{re.escape(labels[key])}\uff08{key}\uff09", "", text)
                assert not re.search(rf"(?<![A-Za-z0-9_/.]){key}(?![A-Za-z0-9_/.])", bare), (node, key, text)


@pytest.fixture
def texts(monkeypatch, tmp_path):
    """Function: write texts of languages, by path; the record begins with what is written first."""
    monkeypatch.setattr(locales, "LOCALES", tmp_path)
    monkeypatch.setattr(locales, "RECORD", tmp_path / "translated_from.json")

    def write(**languages):
        for language, of_language in languages.items():
            (tmp_path / language).mkdir(exist_ok=True)
            (tmp_path / language / "main.json").write_text(json.dumps(of_language), encoding="utf-8")
        if not locales.RECORD.exists():
            run(monkeypatch, "--translated")

    return write


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["build_locales", *arguments])
    return locales.main()


def all_faults():
    return [line for language in locales.TRANSLATIONS for line in locales.faults(language, locales.recorded())]


def test_a_missing_and_a_left_over_text_are_found(texts):
    texts(en={"a": "A", "b": "B"}, zh={"b": "b", "c": "c"}, ja={"a": "a", "b": "b"})
    assert all_faults() == ["zh/main.json/a is missing", "zh/main.json/c is left over: no node has it"]


def test_a_text_that_stayed_when_the_english_one_changed_must_be_named(texts, monkeypatch, capsys):
    texts(en={"a": "A", "b": "B"}, zh={"a": "a", "b": "b"}, ja={"a": "a", "b": "b"})
    assert not all_faults()
    texts(en={"a": "A new", "b": "B"}, zh={"a": "a new", "b": "b"})
    unrecorded = "zh/main.json/a is not recorded: run python3 -m tools.build_locales --translated"
    stayed = "ja/main.json/a: the English text has changed, this one has not"
    assert all_faults() == [unrecorded, stayed]
    capsys.readouterr()
    assert run(monkeypatch, "--translated") == 1
    assert capsys.readouterr().out.splitlines() == [stayed]
    assert run(monkeypatch, "--translated", "ja/main.json/a") == 0
    assert not all_faults()


def test_a_corrected_text_is_recorded_before_the_english_one_changes(texts, monkeypatch):
    """Else it would pass for a translation of a text that came after it."""
    texts(en={"a": "A"}, zh={"a": "a"}, ja={"a": "a"})
    texts(zh={"a": "corrected"})
    assert all_faults() == ["zh/main.json/a is not recorded: run python3 -m tools.build_locales --translated"]
    run(monkeypatch, "--translated")
    texts(en={"a": "A new"}, ja={"a": "a new"})
    run(monkeypatch, "--translated")
    assert all_faults() == ["zh/main.json/a: the English text has changed, this one has not"]


def test_a_name_of_no_text_is_refused_before_anything_is_written(texts, monkeypatch, capsys):
    texts(en={"a": "A"}, zh={"a": "a"}, ja={"a": "a"})
    texts(en={"a": "A new"})
    before = locales.RECORD.read_bytes()
    with pytest.raises(SystemExit):
        run(monkeypatch, "--translated", "ja/main.json/a", "main.json/a")
    assert "there is no text main.json/a: name" in capsys.readouterr().err
    assert locales.RECORD.read_bytes() == before


def test_english_stays_where_the_server_has_not_the_pack(texts, monkeypatch, tmp_path):
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "nodeDefs.json").write_text("{}")
    other = {"KSampler": {"category": "sampling", "python_module": "nodes"}}
    monkeypatch.setattr(locales, "object_info_of", lambda server: nullcontext(other))
    with pytest.raises(NoPackError):
        run(monkeypatch, "--server", "http://127.0.0.1:1")
    assert (tmp_path / "en" / "nodeDefs.json").read_text() == "{}"


def test_english_is_written_from_a_server_that_has_the_pack_in_another_folder(texts, monkeypatch):
    infos = {info["name"]: info for info in (node.GET_NODE_INFO_V1() for node in NODES)}
    there = {name: info | {"python_module": "custom_nodes.another_name"} for name, info in infos.items()}
    monkeypatch.setattr(locales, "object_info_of", lambda server: nullcontext(there))
    run(monkeypatch, "--server", "http://127.0.0.1:1")
    assert locales.read("en", "nodeDefs.json") == {name: locales.english_texts(info) for name, info in infos.items()}


def test_the_record_is_as_the_command_writes_it():
    assert locales.RECORD.read_text(encoding="utf-8") == locales.to_record(locales.recorded())


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
