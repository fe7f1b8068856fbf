"""Bad days: what can be made is made, the rest is said, and the run ends by itself. The servers are stubs in this process."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from aiohttp import web

from headless.catalogue.kept.copies import Copies
from headless.catalogue.kept.ledger import Ledger
from headless.catalogue.kept.mirror import Mirror
from headless.catalogue.work.lane import FAULTS_IN_A_ROW, Lane
from headless.catalogue.work.run import NoServerError
from headless.pictures.door import open_picture
from headless.server.errors import CannotWriteError
from pfv_mepa.tests.catalogue.harness import WORKFLOWS, assert_each_once, draw_product, manifest, write_catalogue
from pfv_mepa.tests.catalogue.in_process import run, stub
from pfv_mepa.tests.catalogue.stub_server import Stub

FORMATS = ("64x64", "96x64")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("headless.catalogue.work.job_queue.FIRST_PAUSE", 0.01)


@pytest.fixture
def catalogue(tmp_path):
    return write_catalogue(tmp_path / "in", 2, FORMATS, "1-2")


def as_it_was(tmp_path, server, **faults):
    """The same server for another run, which has an event loop of its own: with its history and without its files."""
    found = stub(tmp_path, **faults)
    found.history, found.inputs, found.saved, found.number = server.history, server.inputs, server.saved, server.number
    return found


def as_if_the_last_was_posted_elsewhere(out):
    """The ledger before its last line, with that job under way at a server of another name; returns the line."""
    lines = (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    (out / "manifest.jsonl").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    (out / last["files"][0]["file"]).unlink()
    with (out / ".catalogue" / "sent.jsonl").open("a") as sent:
        sent.write(json.dumps([last["job"], "http://renamed:1", last["prompt_id"]]) + "\n")
    return last


def product_of(line):
    return line["inputs"]["Product photo.image"]


def failures(out):
    return [json.loads(line) for line in (out / "failures.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_that_never_ends_is_stopped_and_given_to_another_server(catalogue, tmp_path):
    hanging, good = stub(tmp_path, hang=1.0), stub(tmp_path, seconds=0.05)
    tally, heard = run(catalogue, tmp_path / "out", [hanging, good], job_timeout=1.0)
    assert_each_once(tmp_path / "out", 2, FORMATS, range(1, 3))
    assert (tally.made, tally.failed) == (8, 0)
    assert any("took longer than 1 s" in message for message in heard.said)


def test_runs_that_never_end_anywhere_are_given_up_and_the_run_ends(catalogue, tmp_path):
    tally, heard = run(catalogue, tmp_path / "out", [stub(tmp_path, hang=1.0)], job_timeout=0.3, attempts=1)
    assert (tally.made, tally.failed) == (0, 8)
    assert len(heard.given_up) == 8


class Stuck(Stub):
    """Answers, and runs nothing, until it is freed."""

    zombie = ((0, "zombie", {}, {}, []),)

    async def work(self):
        self.freed = asyncio.Event()
        self.running = list(self.zombie)
        await self.freed.wait()
        await super().work()


def test_a_server_that_answers_and_runs_nothing_keeps_no_job(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr("headless.catalogue.work.lane.FIRST_GUESS", 0.01)
    stuck, good = stub(tmp_path, kind=Stuck), stub(tmp_path, seconds=0.05)
    tally, heard = run(catalogue, tmp_path / "out", [stuck, good], job_timeout=1.0)
    assert_each_once(tmp_path / "out", 2, FORMATS, range(1, 3))
    assert (tally.made, tally.failed, len(tally.by_server)) == (8, 0, 1)
    assert stuck.pending == []
    assert sum("does not come to run; it gets no job for a while" in message for message in heard.said) == 1


def test_where_the_only_server_runs_nothing_the_run_ends(catalogue, tmp_path):
    with pytest.raises(NoServerError, match="came to run anything, for 1 s"):
        run(catalogue, tmp_path / "out", [stub(tmp_path, kind=Stuck)], job_timeout=0.4, give_up_after=1.0)


def test_a_server_that_moves_again_works_again(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr("headless.catalogue.work.lane.LOOK_AT_REST_EVERY", 0.05)
    server = stub(tmp_path, kind=Stuck)

    async def meanwhile(listed):
        await asyncio.sleep(3.0)
        server.freed.set()
        server.running = []

    tally, heard = run(catalogue, tmp_path / "out", [server], job_timeout=2.5, give_up_after=20.0, meanwhile=meanwhile)
    assert (tally.made, tally.failed) == (8, 0), heard.given_up


def test_an_output_folder_that_was_cleaned_is_no_end(catalogue, tmp_path):
    """The host's cache names the files of an earlier run, which somebody deleted."""
    server = stub(tmp_path)
    run(catalogue, tmp_path / "one", [server])
    tally, heard = run(catalogue, tmp_path / "two", [as_it_was(tmp_path, server, missing_view=1.0)])
    assert (tally.made, tally.failed) == (8, 0), heard.given_up


def test_a_full_disk_of_ours_ends_the_run_at_once_and_blames_no_server(catalogue, tmp_path, monkeypatch):
    writing = Path.open

    def full(self, mode="r", *rest, **options):
        if "w" in mode and "partial" in self.parts:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return writing(self, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    heard = None
    with pytest.raises(CannotWriteError, match="No space left on device"):
        _, heard = run(catalogue, tmp_path / "out", [stub(tmp_path)])
    assert heard is None
    monkeypatch.undo()
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path)])
    assert tally.made == 8


def test_a_full_disk_of_a_server_leaves_the_jobs_to_another(catalogue, tmp_path):
    tally, heard = run(
        catalogue, tmp_path / "out", [stub(tmp_path, no_space=1.0), stub(tmp_path, seconds=0.05)], lost_after=20
    )
    assert (tally.made, tally.failed, len(tally.by_server)) == (8, 0, 1)
    assert not any("it will be asked again" in message for message in heard.said), "the server is not down"


@pytest.mark.parametrize("path", ["/view", "/prompt", "/upload"])
def test_an_error_of_the_server_to_one_request_is_no_silence(catalogue, tmp_path, path):
    bad, good = stub(tmp_path, always_500=path), stub(tmp_path, seconds=0.05)
    tally, heard = run(catalogue, tmp_path / "out", [bad, good], lost_after=20)
    assert (tally.made, tally.failed) == (8, 0)
    assert not any("it will be asked again" in message for message in heard.said)


def test_odd_events_change_nothing(catalogue, tmp_path):
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path, seconds=0.02, odd_events=1.0)])
    assert tally.made == 8


def test_words_that_cannot_be_written_are_written(catalogue, tmp_path):
    tally, heard = run(catalogue, tmp_path / "out", [stub(tmp_path, surrogate_error=1.0)], attempts=1)
    assert (tally.made, tally.failed) == (0, 8)
    assert all("caf" in failure["reason"] for failure in failures(tmp_path / "out"))
    assert "\x1b" not in heard.given_up[0]


def test_a_photo_that_is_replaced_while_the_command_runs_is_no_other_photos_ad(catalogue, tmp_path):
    """What stands in the manifest is what was sent: where that cannot be had any more, the job fails and says so."""

    class Replacing(Stub):
        num_runs = 0

        async def run(self, *arguments):
            self.num_runs += 1
            if self.num_runs == 5:  # every row was read, and the last photo was not sent yet
                draw_product(catalogue.parent / "p1_96x64.png", (96, 64), (1, 1, 1))
            await super().run(*arguments)

    server = stub(tmp_path, kind=Replacing)
    tally, heard = run(catalogue, tmp_path / "out", [server])
    assert (tally.made, tally.failed) == (6, 2)
    assert all("changed while the command ran" in reason for reason in heard.given_up)
    for line in manifest(tmp_path / "out"):
        sent = open_picture(server.inputs[f"pfv_catalogue/{product_of(line)['sha256'][:40]}.png"], "sent")
        height, width, _ = sent.pixels.shape
        digest = hashlib.sha256(f"{width}x{height}".encode() + sent.pixels.tobytes()).hexdigest()
        assert digest == product_of(line)["sha256"]
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path)])
    assert (tally.made, tally.earlier) == (2, 6)


def test_a_stray_exception_of_one_job_ends_that_job_alone(catalogue, tmp_path, monkeypatch):
    fetch = Lane._fetch

    async def sometimes(self, ticket, finished):
        if ticket.job.seed == 1:
            raise KeyError("never thought of")
        return await fetch(self, ticket, finished)

    monkeypatch.setattr(Lane, "_fetch", sometimes)
    tally, heard = run(catalogue, tmp_path / "out", [stub(tmp_path)])
    assert (tally.made, tally.failed) == (4, 4)
    assert set(heard.given_up) == {"KeyError: 'never thought of'"}


def test_what_was_posted_to_a_server_of_another_name_is_taken_up(catalogue, tmp_path):
    """localhost for 127.0.0.1, or a new domain: whoever has the prompt is asked before it is posted anew."""
    server = stub(tmp_path)
    out = tmp_path / "out"
    run(catalogue, out, [server])
    last = as_if_the_last_was_posted_elsewhere(out)
    same = as_it_was(tmp_path, server)
    same.outputs = server.outputs
    tally, _ = run(catalogue, out, [stub(tmp_path), same])
    assert (tally.made, tally.earlier) == (1, 7)
    assert same.number == server.number, "it was posted again"
    assert manifest(out)[-1]["prompt_id"] == last["prompt_id"]


def test_what_no_server_knows_by_any_name_is_posted_anew(catalogue, tmp_path):
    out = tmp_path / "out"
    run(catalogue, out, [stub(tmp_path)])
    as_if_the_last_was_posted_elsewhere(out)
    tally, _ = run(catalogue, out, [stub(tmp_path), stub(tmp_path)])
    assert (tally.made, tally.earlier) == (1, 7)


@pytest.mark.parametrize(
    "name", ["紅茶杯" * 40, "🍵" * 60, "чашка " * 30, "e\u0301" * 70, "CON", "a/b\\c:d", ".", "\u202egnp"]
)
def test_names_of_any_script_and_length(tmp_path, name):
    draw_product(tmp_path / "p.png", (64, 64), (9, 9, 9))
    (tmp_path / "c.jsonl").write_text(json.dumps({"name": name, "product": "p.png", "seeds": 1}))
    tally, heard = run(tmp_path / "c.jsonl", tmp_path / "out", [stub(tmp_path)])
    assert tally.made == 1, heard.given_up
    (line,) = manifest(tmp_path / "out")
    assert line["name"] == name
    file = tmp_path / "out" / line["files"][0]["file"]
    assert file.is_file()
    assert len(file.name.encode()) <= 255


def test_copies_that_fail_are_made_later_and_the_ads_are_done(catalogue, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    copies = lambda ledger, says: Copies(Mirror(place.as_uri()), ledger, says)  # noqa: E731
    put = Mirror.put
    broken = {"is": True}

    def sometimes(self, name, file):
        if broken["is"]:
            shutil.rmtree(place, ignore_errors=True)
            place.write_text("in the way")
        return put(self, name, file)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Mirror, "put", sometimes)
        tally, heard = run(catalogue, tmp_path / "out", [stub(tmp_path)], copies=copies)
    assert (tally.made, tally.not_copied) == (8, 8)
    assert not tally.all_well
    assert len([message for message in heard.said if "not copied" in message]) == 8
    place.unlink()
    place.mkdir()
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path)], copies=copies)
    assert (tally.made, tally.not_copied, tally.all_well) == (0, 0, True)
    assert {file.name for file in place.iterdir()} == {file.name for file in (tmp_path / "out" / "ads").iterdir()}
    tally, _ = run(catalogue, tmp_path / "again", [stub(tmp_path)], copies=copies)
    assert tally.all_well


def test_redo_makes_again_what_is_gone_and_what_failed(catalogue, tmp_path):
    out = tmp_path / "out"
    run(catalogue, out, [stub(tmp_path)])
    gone = out / manifest(out)[3]["files"][0]["file"]
    gone.unlink()
    tally, _ = run(catalogue, out, [stub(tmp_path)])
    assert (tally.made, tally.earlier) == (0, 8)
    tally, _ = run(catalogue, out, [stub(tmp_path)], redo=["missing"])
    assert (tally.made, tally.earlier) == (1, 7)
    assert manifest(out)[-1]["files"][0]["file"].endswith("_r2.png")
    tally, _ = run(catalogue, out, [stub(tmp_path)], redo=["missing"])
    assert tally.made == 0
    with Ledger(out) as ledger:
        assert ledger.num_done == 9
    run(catalogue, tmp_path / "bad", [stub(tmp_path, wrong_product=1.0)])
    tally, _ = run(catalogue, tmp_path / "bad", [stub(tmp_path)], redo=["failed"])
    assert (tally.made, tally.not_as_asked) == (8, 0)


def test_a_server_behind_a_login_page_is_named_and_left_out(catalogue, tmp_path):
    tally, heard = run(catalogue, tmp_path / "out", [stub(tmp_path, login_page=200), stub(tmp_path)])
    assert (tally.made, len(tally.by_server)) == (8, 1)
    assert any("Sign in" in message and "--header" in message for message in heard.said)


def test_all_at_once(catalogue, tmp_path):
    """Every fault that a server may have and live, over three of them."""
    faults = {"drop_request": 0.03, "drop_answer": 0.03, "error_500": 0.03, "torn_picture": 0.05, "bad_picture": 0.05}
    faults |= {
        "fail_run": 0.1,
        "hang": 0.1,
        "odd_events": 0.3,
        "drop_socket": 0.2,
        "missing_view": 0.2,
        "surrogate_error": 0.05,
    }
    servers = [stub(tmp_path, seconds=0.01, **faults) for _ in range(3)]
    tally, _ = run(catalogue, tmp_path / "out", servers, attempts=20, job_timeout=0.5, lost_after=20)
    assert tally.made == 8
    assert_each_once(tmp_path / "out", 2, FORMATS, range(1, 3))


def test_a_server_whose_disk_is_full_gets_no_further_job_for_a_while(catalogue, tmp_path):
    """Ten thousand rows are not tried on it one after the other."""
    with pytest.raises(NoServerError):
        run(catalogue, tmp_path / "out", [stub(tmp_path, no_space=1.0)], attempts=50, lost_after=20, give_up_after=2.0)
    server = stub(tmp_path, no_space=1.0)
    tally, heard = run(catalogue, tmp_path / "two", [server, stub(tmp_path, seconds=0.4)], lost_after=20)
    assert tally.made == 8
    assert sum("will be tried again" in message for message in heard.said) <= 2 * FAULTS_IN_A_ROW


def test_what_a_node_refuses_is_asked_of_each_server_once(catalogue, tmp_path):
    class Refusing(Stub):
        def outputs_of(self, prompt, saves):
            raise ValueError("image is 128x96, the product photo was 256x192")

    servers = [stub(tmp_path, kind=Refusing), stub(tmp_path, kind=Refusing)]
    tally, _ = run(catalogue, tmp_path / "out", servers, attempts=5)
    assert (tally.made, tally.failed) == (0, 8)
    assert sum(server.number for server in servers) == 16


def test_two_ads_of_one_size_are_told_apart_by_their_place_in_the_workflow(tmp_path):
    """The history has them in the order in which they were run, which may be another one each time."""

    class Shuffled(Stub):
        def outputs_of(self, prompt, saves):
            return dict(reversed(super().outputs_of(prompt, saves).items()))

    nodes = json.loads((WORKFLOWS / "demo_minimal.json").read_text(encoding="utf-8"))
    save = next(node_id for node_id, node in nodes.items() if node["class_type"] == "SaveImage")
    nodes["900"] = {**nodes[save], "_meta": {"title": "Again"}}
    (tmp_path / "two.json").write_text(json.dumps(nodes))
    draw_product(tmp_path / "r.png", (32, 32), (1, 2, 3))
    (tmp_path / "c.jsonl").write_text(json.dumps({"reference": "r.png"}))
    for number, kind in enumerate((Stub, Shuffled)):
        out = tmp_path / f"out_{number}"
        run(tmp_path / "c.jsonl", out, [stub(tmp_path, kind=kind)], tmp_path / "two")
        files = manifest(out)[0]["files"]
        assert [file["title"] for file in files] == ["Save the ad", "Again"]
        assert [file["file"].endswith("_2.png") for file in files] == [False, True]


@pytest.mark.parametrize("trouble", ["reject", "fail_run"])
def test_what_one_server_cannot_do_waits_for_another_that_is_away_for_a_moment(catalogue, tmp_path, trouble):
    class Away(Stub):
        """Silent for a while, soon after the beginning."""

        @web.middleware
        async def with_faults(self, request, handler):
            if self.number >= 1 and not hasattr(self, "back_at"):
                self.back_at = time.monotonic() + 1.5
            self.faults["cut"] = float(time.monotonic() < getattr(self, "back_at", 0))
            return await super().with_faults(request, handler)

    servers = [stub(tmp_path, **{trouble: 1.0}), stub(tmp_path, seconds=0.05, kind=Away)]
    tally, heard = run(catalogue, tmp_path / "out", servers, lost_after=0.3, give_up_after=20.0)
    assert (tally.made, tally.failed) == (8, 0), heard.given_up


def test_a_server_that_is_struck_off_while_it_is_silent_holds_nothing_up(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr("headless.catalogue.work.run.LOOK_AT_SERVERS_EVERY", 0.05)
    dead, good = stub(tmp_path, cut=1.0), stub(tmp_path, seconds=0.1, fail_run=0.3)

    async def meanwhile(listed):
        await asyncio.sleep(1.0)
        del listed[0]
        await asyncio.sleep(0.2)
        dead.faults["cut"] = 0.0

    tally, _ = run(catalogue, tmp_path / "out", [dead, good], attempts=20, lost_after=0.2, meanwhile=meanwhile)
    assert (tally.made, tally.failed) == (8, 0)
    assert dead.number == 0


def test_a_server_that_is_struck_off_and_listed_again_works_on(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr("headless.catalogue.work.run.LOOK_AT_SERVERS_EVERY", 0.05)

    async def meanwhile(listed):
        await asyncio.sleep(0.3)
        (only,) = listed
        listed.clear()
        await asyncio.sleep(0.3)
        listed.append(only)

    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path, seconds=0.15)], give_up_after=3.0, meanwhile=meanwhile)
    assert tally.made == 8


def test_a_node_that_saved_nothing_is_noticed(tmp_path):
    class Forgetting(Stub):
        def outputs_of(self, prompt, saves):
            return super().outputs_of(prompt, saves[:1])

    nodes = json.loads((WORKFLOWS / "demo_minimal.json").read_text(encoding="utf-8"))
    save = next(node_id for node_id, node in nodes.items() if node["class_type"] == "SaveImage")
    nodes["900"] = {**nodes[save], "_meta": {"title": "Again"}}
    (tmp_path / "two.json").write_text(json.dumps(nodes))
    draw_product(tmp_path / "r.png", (32, 32), (1, 2, 3))
    (tmp_path / "c.jsonl").write_text(json.dumps({"reference": "r.png"}))
    tally, heard = run(
        tmp_path / "c.jsonl", tmp_path / "out", [stub(tmp_path, kind=Forgetting)], tmp_path / "two", attempts=1
    )
    assert (tally.made, heard.given_up) == (0, ["the run saved nothing for 'Again'"])


@pytest.mark.parametrize(("saved", "made"), [(2, 1), (1, 0)])
def test_nodes_that_save_inside_a_subgraph_are_told_apart_by_their_whole_ids(tmp_path, saved, made):
    """A page sends them as `<instance>:<node>`, and a host's history has them so."""

    class Saving(Stub):
        def outputs_of(self, prompt, saves):
            return super().outputs_of(prompt, saves[:saved])

    nodes = json.loads((WORKFLOWS / "demo_minimal.json").read_text(encoding="utf-8"))
    save = next(node_id for node_id, node in nodes.items() if node["class_type"] == "SaveImage")
    nodes["12:8"] = nodes.pop(save)
    nodes["12:9"] = {**nodes["12:8"], "_meta": {"title": "Again"}}
    (tmp_path / "inside.json").write_text(json.dumps(nodes))
    draw_product(tmp_path / "r.png", (32, 32), (1, 2, 3))
    (tmp_path / "c.jsonl").write_text(json.dumps({"reference": "r.png"}))
    tally, heard = run(
        tmp_path / "c.jsonl", tmp_path / "out", [stub(tmp_path, kind=Saving)], tmp_path / "inside", attempts=1
    )
    assert (tally.made, heard.given_up) == (made, [] if made else ["the run saved nothing for 'Again'"])


def test_a_place_for_copies_that_hangs_holds_up_no_server(catalogue, tmp_path, monkeypatch):
    def slowly(self, name, file):
        time.sleep(0.5)

    monkeypatch.setattr(Mirror, "put", slowly)
    place = tmp_path / "place"
    place.mkdir()
    server = stub(tmp_path, seconds=0.02)
    copies = lambda ledger, says: Copies(Mirror(place.as_uri()), ledger, says)  # noqa: E731
    tally, _ = run(catalogue, tmp_path / "out", [server], copies=copies)
    assert (tally.made, tally.not_copied) == (8, 0)
    assert server.worked[-1][1] - server.worked[0][0] < 1.0 + 8 * 0.1, "8 copies of 0.5 s were waited for"


def test_a_broken_index_of_jobs_ends_the_run_and_makes_nothing_twice(catalogue, tmp_path, monkeypatch):
    def broken(self, *arguments, **options):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("headless.catalogue.kept.job_index.JobIndex.mark_made", broken)
        with pytest.raises(CannotWriteError, match="database or disk is full"):
            run(catalogue, tmp_path / "out", [stub(tmp_path)])
    run(catalogue, tmp_path / "out", [stub(tmp_path)])
    assert_each_once(tmp_path / "out", 2, FORMATS, range(1, 3))


def test_a_run_whose_end_cannot_be_asked_for_a_while_is_not_run_again(catalogue, tmp_path):
    """The server answers everything but /history: what runs there is looked for again, and not posted anew."""

    class Mute(Stub):
        until = 0.0

        async def past(self, request):
            self.until = self.until or time.monotonic() + 2.5
            if time.monotonic() < self.until:
                return web.Response(status=500)
            return await super().past(request)

    server = stub(tmp_path, seconds=0.05, kind=Mute)
    tally, heard = run(catalogue, tmp_path / "out", [server], lost_after=20)
    assert (tally.made, tally.failed) == (8, 0), heard.given_up
    assert server.number == 8
