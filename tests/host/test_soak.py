"""The short form of `tests.support.soak`: a real server under load and faults; every kind of each, few of them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from headless.host.find import require_host
from pfv_mepa.tests.support import soak
from pfv_mepa.tests.support.soak_workflow import ADAPTERS, REFERENCES, SIZES, variation
from pfv_mepa.tests.support.tiny_stack.files import write_tiny_files


def test_a_server_under_load_and_faults(tmp_path):
    write_tiny_files(tmp_path / "models")
    plan = soak.Plan(runs=14, interrupts=1, out_of_memory=1, threads=3, jobs=1)
    lines = soak.soak(require_host(), Path(sys.executable), tmp_path, plan)
    assert [line.split(":")[0] for line in lines] == ["server", "runs", "interrupts", "out of memory", "threads"]
    assert "14 without an error; resident memory" in lines[1]
    assert "3 jobs, all back" in lines[4]


def test_the_variations_have_everything_that_changes_and_are_what_their_numbers_say():
    prompts = [variation(number) for number in range(60)]
    assert prompts[7] == variation(7)

    def found(node, name):
        return {str(prompt[node]["inputs"].get(name)) for prompt in prompts}

    assert found("adapter", "adapter_name") == set(ADAPTERS)
    assert found("reference", "image") == set(REFERENCES)
    assert found("latent", "width") == {str(width) for width, _ in SIZES}
    assert found("latent", "batch_size") == {"1", "2"}
    assert found("apply", "region") == {"None", "['region', 0]"}
    assert found("apply", "strength") == {"0.0", "0.5", "1.0"}
    assert len(found("positive", "text")) > 50


class TestWhatIsFound:
    """The command must see what it is there to see."""

    @pytest.fixture
    def server(self):
        return SimpleNamespace(url="http://127.0.0.1:1", process=SimpleNamespace(pid=0))

    def runs(self, server, monkeypatch, resident):
        left = iter(resident)
        monkeypatch.setattr(soak, "_resident_bytes", lambda pid: next(left))
        monkeypatch.setattr(soak, "_result", lambda *args: b"")
        return soak._runs(server, None, Path(), len(resident))

    def test_memory_that_grows(self, server, monkeypatch):
        steady = [n << 20 for n in range(soak.WARM_RUNS)] + [700 << 20] * 40
        assert "median of 10 runs: 700 MB from run 11, 700 MB at the end" in self.runs(server, monkeypatch, steady)
        leaking = [n * (4 << 20) for n in range(50)]
        with pytest.raises(soak.SoakError, match="the server's memory grows"):
            self.runs(server, monkeypatch, leaking)

    def test_another_picture_after_an_interrupt(self, server, monkeypatch):
        pictures = iter([b"one", b"two", b"one", b"two", b"one", b"three"])
        monkeypatch.setattr(soak, "_result", lambda *args: next(pictures))
        monkeypatch.setattr(soak, "_interrupt_once", lambda *args: None)
        with pytest.raises(soak.SoakError, match="after 2 interrupts the same workflow gave another file"):
            soak._interrupts(server, None, Path(), 2)

    def test_memory_that_does_not_run_out(self, server, monkeypatch):
        monkeypatch.setattr(soak, "_result", lambda *args: b"")
        with pytest.raises(soak.SoakError, match="memory did not run out"):
            soak._out_of_memory(server, SimpleNamespace(run=lambda prompt: {}), Path(), 1)

    def test_jobs_that_do_not_come_back(self, server, monkeypatch):
        monkeypatch.setattr(soak, "LOST_AFTER", 0.2)
        with pytest.raises(
            soak.SoakError, match=r"0 of 2 jobs came back; thread 0: http://127\.0\.0\.1:1 does not answer"
        ):
            soak._threads(server, None, Path(), 2, 1)
