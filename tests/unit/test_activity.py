"""Whether an agent does anything."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from kit import Processes, wait_until
from nursery import linux

from supervisor.process import activity, procfs
from supervisor.process.activity import Activity
from supervisor.process.token import VARIABLE

pytestmark = linux

TOKEN = "0123456789abcdef" * 2

WAIT = "import sys; print(1, flush=True); sys.stdin.readline(); "
REST = "print(2, flush=True); sys.stdin.readline()"
BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


@pytest.fixture
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time seem to pass between two looks: whatever is done is then much for it."""
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)


@pytest.mark.usefixtures("quick_clock")
@pytest.mark.parametrize(
    "what",
    [
        BURN,
        "import os; os.write(os.open('/dev/null', 1), bytes(10))\n",
        f"import subprocess; subprocess.run([sys.executable, '-S', '-c', {BURN!r}])\n",
    ],
    ids=["processor", "writes", "a child that has ended"],
)
def test_busy(what: str, processes: Processes) -> None:
    """Processor time and writes are activity, its own and its children's; waiting is none."""
    agent = processes.python(f"{WAIT}\n{what}{REST}", stdin=-1, stdout=-1)
    assert agent.stdin is not None
    assert agent.stdout is not None
    agent.stdout.readline()
    watched = Activity(agent.pid, TOKEN)
    assert not watched.look()
    print(file=agent.stdin, flush=True)
    agent.stdout.readline()
    assert watched.look()
    assert not watched.look()


def test_not_below_it(processes: Processes, tmp_path: Path) -> None:
    """What has left the agent's tree counts by the run's token, and what is not of the run does not."""
    busy = f"{sys.executable} -S -c 'while True: pass' & echo $! >pid; mv pid {{name}}"
    agent = processes.start("sh", "-c", "read line", stdin=-1)

    def daemon(name: str, token: str) -> int:
        environment = {**os.environ, VARIABLE: token}
        processes.start("sh", "-c", busy.format(name=name), cwd=tmp_path, env=environment).wait()
        return processes.adopt(int((tmp_path / name).read_text()))

    watched = Activity(agent.pid, TOKEN)
    pid = daemon("other", "f" * 32)
    wait_until(lambda: procfs.processor_ticks(pid) > 10)
    assert not watched.look()
    pid = daemon("own", TOKEN)
    wait_until(lambda: procfs.processor_ticks(pid) > 10)
    assert watched.look()


def test_gone(processes: Processes) -> None:
    """What cannot be seen any more may be busy."""
    agent = processes.living()
    watched = Activity(agent.pid, TOKEN)
    agent.kill()
    agent.wait()
    assert watched.look()


@pytest.mark.parametrize(("share", "rate", "busy"), [(0.01, 500, False), (0.03, 0, True), (0.0, 2000, True)])
def test_a_little_is_nothing(share: float, rate: float, busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an idle terminal interface takes, a hundredth of a processor and some bytes, is no activity."""
    now = [0.0]

    def usage(_: Activity) -> activity.Usage:
        return {(1, 1.0): (now[0] * share, int(now[0] * rate))}

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Activity, "_usage", usage)
    watched = Activity(1, TOKEN)
    now[0] = 10.0
    assert watched.look() is busy
