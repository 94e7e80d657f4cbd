"""What is known of steps of the wall clock: what counts as one, and how long it is remembered."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path

import pytest

from supervisor import paths
from supervisor.clock_steps import WORTH_NOTING, ClockSteps
from supervisor.process import procfs
from supervisor.process.surroundings import Clocks, clocks

NOW = 1_795_500_000.0


class Machine:
    """The clocks of a machine: ``offset`` is the wall clock's from the boot's."""

    def __init__(self) -> None:
        self.offset = NOW - 1000
        self.uptime = 1000.0

    @property
    def now(self) -> float:
        """What the wall clock shows."""
        return self.offset + self.uptime

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.uptime += seconds

    def steps(self) -> ClockSteps:
        """Return what a new daemon on this machine knows."""
        return ClockSteps(lambda: Clocks(self.offset, 0.0), now=lambda: self.now)


@pytest.fixture
def machine(home: Path) -> Machine:
    """Give the test a machine, and a home to keep things in."""
    return Machine()


@pytest.fixture
def kept(home: Path) -> Path:
    """Return the file that the steps are kept in."""
    return Path(paths.state_dir(), "clock.json")


def test_no_step_at_first(machine: Machine) -> None:
    """The first look ever has nothing to compare with: no step is known."""
    steps = machine.steps()
    assert not steps.stepped_since(0)
    assert steps.observe() == 0
    assert not steps.stepped_since(0)
    machine.pass_(100)
    assert steps.observe() == 0
    assert not steps.stepped_since(0)


@pytest.mark.parametrize("step", [3600, 0.75, WORTH_NOTING])
def test_a_step_forward(machine: Machine, step: float) -> None:
    """A step forward is noted: what started before it may bear a wrong time, what started after it does not."""
    steps = machine.steps()
    steps.observe()
    before = machine.now
    machine.offset += step
    machine.pass_(1)
    after = machine.now + 1
    assert steps.observe() == pytest.approx(step)
    assert steps.stepped_since(before)
    assert steps.stepped_since(0)
    assert not steps.stepped_since(after)


def test_a_step_back(machine: Machine) -> None:
    """After a step back both the old clock's times and the new one's are in doubt, until those are past."""
    steps = machine.steps()
    steps.observe()
    before = machine.now
    machine.offset -= 3600
    assert steps.observe() == -3600
    assert steps.stepped_since(before - 3600)
    assert steps.stepped_since(before)
    assert not steps.stepped_since(before + 1)


@pytest.mark.parametrize("drift", [0.01, -0.2, 0.499])
def test_less_than_a_step_is_none(machine: Machine, drift: float) -> None:
    """What the clocks part by less than that is no step."""
    steps = machine.steps()
    steps.observe()
    machine.offset += drift
    assert steps.observe() == 0
    assert not steps.stepped_since(0)


def test_small_steps_add_up(machine: Machine) -> None:
    """Many small ones are one in the end."""
    steps = machine.steps()
    steps.observe()
    seen = []
    for _ in range(9):
        machine.offset += 0.125
        machine.pass_(1)
        seen.append(steps.observe())
    assert seen == [0, 0, 0, 0.5, 0, 0, 0, 0.5, 0]


def test_real_clocks_do_not_step() -> None:
    """Reading the real clocks again and again shows no step, and no suspend, where there was none."""
    first = clocks()
    for _ in range(1000):
        now = clocks()
        assert abs(now.offset - first.offset) < WORTH_NOTING
        assert abs(now.suspended - first.suspended) < WORTH_NOTING


def test_a_step_is_known_to_those_who_come_later(machine: Machine) -> None:
    """Another daemon of the same boot, and a command, know what one has seen."""
    steps = machine.steps()
    steps.observe()
    at = machine.now
    machine.offset += 100
    steps.observe()
    later = machine.steps()
    assert later.stepped_since(at)
    assert later.observe() == 0
    assert machine.steps().stepped_since(at)


def test_a_step_while_nobody_looked(machine: Machine) -> None:
    """A step between two daemons of one boot is seen by the second."""
    machine.steps().observe()
    at = machine.now
    machine.offset += 100
    machine.pass_(1000)
    second = machine.steps()
    assert second.observe() == 100
    assert second.stepped_since(at)


def test_another_boot_forgets(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier boot has seen is of no use: all its processes are gone, and its offset is another."""
    steps = machine.steps()
    steps.observe()
    machine.offset += 100
    steps.observe()
    monkeypatch.setattr(procfs, "boot_id", lambda: "the next")
    machine.offset += 5000
    after = machine.steps()
    assert not after.stepped_since(0)
    assert after.observe() == 0
    assert not machine.steps().stepped_since(0)


def test_the_file_is_ours_alone_and_small(machine: Machine, kept: Path) -> None:
    """It holds the boot, the offset and the last hundred steps; nothing else is left beside it."""
    steps = machine.steps()
    for _ in range(150):
        machine.offset += 1
        machine.pass_(1)
        steps.observe()
    found = json.loads(kept.read_text())
    assert (found["boot_id"], found["offset"], len(found["steps"])) == (procfs.boot_id(), machine.offset, 100)
    assert found["steps"][-1] == machine.now
    assert list(kept.parent.iterdir()) == [kept]
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


def test_looking_writes_nothing(machine: Machine, kept: Path) -> None:
    """A quiet clock costs no write."""
    steps = machine.steps()
    steps.observe()
    kept.unlink()
    for _ in range(3):
        steps.observe()
    assert not kept.exists()


def content(**otherwise: object) -> str:
    """Return what the file may hold."""
    return json.dumps({"boot_id": procfs.boot_id(), "offset": NOW - 1000, "steps": [NOW], **otherwise})


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "null",
            "[]",
            "5",
            "{}",
            '"x"',
            "\x00",
            "é",
            "[" * 5000,
            content(offset=10**400),
            content(offset=None),
            content(offset="x"),
        ),
        *(content(steps=None), content(steps=5), content(steps=["x"]), content(steps=[[]]), content(steps={"1": 2})),
        *(content(offset=float("nan")), content(offset=float("inf")), content(steps=[float("nan")])),
    ],
)
def test_a_file_that_is_none(machine: Machine, kept: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """A file that makes no sense is said once, and counts as none: later steps are seen, and kept again."""
    kept.write_text(text, encoding="utf-8")
    steps = machine.steps()
    assert not steps.stepped_since(0)
    assert steps.observe() == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    machine.offset += 100
    assert steps.observe() == 100
    assert machine.steps().stepped_since(NOW)
    assert len(caplog.records) == 1


def test_a_file_that_cannot_be_read_or_written(machine: Machine, kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing can be kept, that is a warning; the steps are known all the same, and nothing is left lying."""
    kept.mkdir()
    steps = machine.steps()
    steps.observe()
    machine.offset += 100
    assert steps.observe() == 100
    assert steps.stepped_since(NOW)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert ["read" in caplog.messages[0], *("kept" in message for message in caplog.messages[1:])] == [True] * 3
    assert list(kept.parent.iterdir()) == [kept]


def test_without_a_home(caplog: pytest.LogCaptureFixture) -> None:
    """Without any folder to keep things in, that is a warning too."""
    assert not os.path.exists(os.environ["HOME"])
    machine = Machine()
    steps = machine.steps()
    assert not steps.stepped_since(0)
    steps.observe()
    machine.offset -= 100
    assert steps.observe() == -100
    assert steps.stepped_since(NOW)
    assert caplog.records
