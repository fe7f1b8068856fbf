"""What a run does with one or several servers, good and bad ones. The servers are stubs in this process."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from headless.catalogue.work.run import NoServerError
from pfv_mepa.tests.catalogue.harness import SOFT_FAULTS, assert_each_once, manifest, write_catalogue
from pfv_mepa.tests.catalogue.in_process import run, stub
from pfv_mepa.tests.catalogue.stub_server import Stub

FORMATS = ("64x64", "96x64")
SEEDS = range(1, 4)


@pytest.fixture
def catalogue(tmp_path):
    return write_catalogue(tmp_path / "in", 2, FORMATS, "1-3")


def runs(tmp_path):
    """Runs of each job, by the first half of its id."""
    lines = (tmp_path / "runs.txt").read_text().splitlines()
    return Counter(line.rpartition("/")[2] for line in lines)


def test_every_job_once_with_its_checks_and_timings(catalogue, tmp_path):
    tally, heard = run(catalogue, tmp_path / "out", [stub(tmp_path)])
    lines = assert_each_once(tmp_path / "out", 2, FORMATS, SEEDS)
    assert (tally.made, tally.failed, tally.product_checked, tally.not_as_asked) == (12, 0, 12, 0)
    assert tally.all_well
    assert set(runs(tmp_path).values()) == {1}
    assert (1, 2) in heard.steps
    line = lines[0]
    product = line["files"][0]["checks"]["product"]
    assert product["exact"] == product["inside"] > 0
    assert line["versions"]["comfyui"] == "stub"
    assert set(line["seconds"]) == {"upload", "post", "run", "server", "fetch", "total"}
    assert line["attempt"] == 1
    shown = line["inputs"]["Product photo.image"]
    assert shown["file"] == f"{line['name']}_{'x'.join(map(str, line['format']))}.png"
    assert len(shown["sha256"]) == 64


def test_a_second_run_has_nothing_to_do(catalogue, tmp_path):
    run(catalogue, tmp_path / "out", [stub(tmp_path)])
    before = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path)])
    assert (tally.made, tally.earlier) == (0, 12)
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == before
    assert set(runs(tmp_path).values()) == {1}


def test_two_runs_make_the_same_names(catalogue, tmp_path):
    for out in ("one", "two"):
        run(catalogue, tmp_path / out, [stub(tmp_path)])
    one, two = ({file.name for file in (tmp_path / out / "ads").iterdir()} for out in ("one", "two"))
    assert one == two
    assert "p0_64x64_s1" in {name.rpartition("_")[0] for name in one}


def test_pictures_are_uploaded_once_to_a_server(catalogue, tmp_path):
    server = stub(tmp_path)
    run(catalogue, tmp_path / "out", [server])
    assert len(server.inputs) == 2 * len(FORMATS) + 1


def test_a_picture_that_the_server_has_lost_is_sent_again(catalogue, tmp_path):
    class Forgetful(Stub):
        async def run(self, *arguments):
            await super().run(*arguments)
            self.inputs.clear()

    tally, heard = run(catalogue, tmp_path / "out", [stub(tmp_path, kind=Forgetful)])
    assert (tally.made, tally.failed) == (12, 0)
    assert heard.said == []


def test_soft_faults_make_no_job_run_twice(catalogue, tmp_path):
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path, **SOFT_FAULTS) for _ in range(3)], lost_after=20.0)
    assert_each_once(tmp_path / "out", 2, FORMATS, SEEDS)
    assert tally.made == 12
    assert set(runs(tmp_path).values()) == {1}


def test_an_answer_that_is_lost_does_not_post_twice(catalogue, tmp_path):
    """Every second answer is cut off after the server has carried out the request."""
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path, drop_answer=0.5)], lost_after=60.0)
    assert tally.made == 12
    assert set(runs(tmp_path).values()) == {1}


def test_a_websocket_that_says_nothing_is_not_needed(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr("headless.server.client.LOOK_EVERY", 0.05)
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path, seconds=0.01, hide_events=1.0)])
    assert tally.made == 12


def test_a_failed_run_is_tried_again_and_given_up_in_the_end(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr("headless.catalogue.work.job_queue.FIRST_PAUSE", 0.01)
    tally, heard = run(catalogue, tmp_path / "out", [stub(tmp_path, fail_run=1.0)], attempts=3)
    assert (tally.made, tally.failed) == (0, 12)
    assert not tally.all_well
    assert set(heard.given_up) == {"node 1 (Stub) failed with RuntimeError: a fault"}
    assert set(runs(tmp_path).values()) == {3}
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert len(failures) == 12
    assert len(failures[0]["problems"]) == 3
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path)])  # what failed is not in the ledger: it is made now
    assert tally.made == 12


def test_what_fails_on_one_server_goes_to_another(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr("headless.catalogue.work.job_queue.FIRST_PAUSE", 0.01)
    tally, _ = run(
        catalogue, tmp_path / "out", [stub(tmp_path, fail_run=1.0), stub(tmp_path, seconds=0.02)], attempts=2
    )
    assert (tally.made, tally.failed) == (12, 0)
    assert len(tally.by_server) == 1


def test_a_server_that_rejects_everything_takes_no_job_from_one_that_does_not(catalogue, tmp_path):
    tally, heard = run(catalogue, tmp_path / "out", [stub(tmp_path, reject=1.0), stub(tmp_path, seconds=0.02)])
    assert (tally.made, tally.failed) == (12, 0)
    assert any("Invalid image file" in message for message in heard.said)


def test_what_all_servers_reject_is_given_up_with_the_nodes_named(catalogue, tmp_path):
    tally, heard = run(catalogue, tmp_path / "out", [stub(tmp_path, reject=1.0), stub(tmp_path, reject=1.0)])
    assert (tally.made, tally.failed) == (0, 12)
    assert "Custom validation failed for node: image - Invalid image file" in heard.given_up[0]
    assert not (tmp_path / "runs.txt").exists()


def test_one_wrong_pixel_of_a_product_is_not_as_asked(catalogue, tmp_path):
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path, wrong_product=1.0)])
    assert (tally.made, tally.not_as_asked) == (12, 12)
    assert not tally.all_well
    for line in manifest(tmp_path / "out"):
        product = line["files"][0]["checks"]["product"]
        assert not product["passed"]
        assert product["inside"] - product["exact"] == 1


def test_a_server_that_others_use_leaves_the_jobs_to_one_that_is_free(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "headless.catalogue.work.lane.FIRST_GUESS", 1000.0
    )  # seconds that each of the others is thought to take
    free, busy = stub(tmp_path), stub(tmp_path, others=3)
    tally, _ = run(catalogue, tmp_path / "out", [free, busy])
    assert (tally.made, len(tally.by_server)) == (12, 1)
    assert (free.number, busy.number) == (12, 0)


def test_a_server_that_others_always_use_is_shared_with_them(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr("headless.catalogue.work.lane.FIRST_GUESS", 0.01)
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path, others=1)])
    assert tally.made == 12


def test_a_server_has_one_job_that_runs_and_one_that_waits(catalogue, tmp_path):
    class Slow(Stub):
        """Takes as long as the other server takes for all the rest."""

        async def run(self, *arguments):
            while fast.number < 10 or fast.pending or fast.running:
                await asyncio.sleep(0.01)
            await super().run(*arguments)

    slow, fast = stub(tmp_path, kind=Slow), stub(tmp_path)
    tally, _ = run(catalogue, tmp_path / "out", [slow, fast])
    assert tally.made == 12
    assert (slow.number, fast.number) == (2, 10)


def test_the_next_job_waits_on_the_server_before_the_last_one_is_fetched(catalogue, tmp_path):
    seen = []

    class Looking(Stub):
        async def view(self, request):
            seen.append(len(self.pending) + len(self.running))
            return await super().view(request)

    run(catalogue, tmp_path / "out", [stub(tmp_path, seconds=0.2, kind=Looking)])
    assert all(seen[:-2])
    assert seen[-1] == 0


def test_bad_rows_are_reported_and_the_rest_goes_on(catalogue, tmp_path):
    with catalogue.open("a", encoding="utf-8") as file:
        file.write("broken,nowhere.png,reference.png,a cup,64x64,1\n")
        file.write('p0,p0_{format}.png,reference.png,"a cup, 0",64x64,1\n')  # stands there already
        file.write("p9,p0_{format}.png,reference.png,a cup,64x64,1\n")
    tally, heard = run(catalogue, tmp_path / "out", [stub(tmp_path)])
    assert heard.bad_rows == [f"4: column 'product': there is no file 'nowhere.png' in {catalogue.parent}"]
    assert (tally.made, tally.bad_rows, tally.repeated, tally.rows) == (13, 1, 1, 5)
    assert not tally.all_well


def test_no_server_at_all_ends_the_run_and_loses_nothing(catalogue, tmp_path):
    with pytest.raises(
        NoServerError, match="no server answered, or came to run anything, for 1 s; run the same command again"
    ):
        run(catalogue, tmp_path / "out", [stub(tmp_path, cut=1.0)], lost_after=0.3, give_up_after=1.0)
    tally, _ = run(catalogue, tmp_path / "out", [stub(tmp_path)])
    assert tally.made == 12
