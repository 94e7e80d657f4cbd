"""Which programs outlive agents by design."""

from __future__ import annotations

import pytest

from supervisor.process.lasting import is_lasting


@pytest.mark.parametrize(
    "line",
    [
        "codex app-server --managed-daemon",
        "/opt/codex/bin/codex -c a=b app-server",
        "node /usr/lib/node_modules/@openai/codex/bin/codex.js app-server",
        "codex pid-update-loop",
        "cline --cline-hub-daemon",
        "/x/cline.exe --cline-hub-daemon",
        "tmux new -d",
        "SCREEN -dmS x",
        "gpg-agent --homedir /x --daemon",
        "/venv/bin/python3 /venv/bin/ays daemon",
    ],
)
def test_lasting(line: str) -> None:
    """Daemons that agents share, multiplexers and the user's own daemons last."""
    assert is_lasting(tuple(line.split()))


@pytest.mark.parametrize(
    "line",
    [
        "codex",
        "codex resume --last",
        "codex exec hi",
        "cline task",
        "node server.js app-server",
        "sh -c codex app-server",
        "grep codex app-server",
        "ays wrap daemon-like",
        "vim tmux",
        "sleep 1000",
    ],
)
def test_passing(line: str) -> None:
    """Agents themselves, and what only names such a daemon, do not."""
    assert not is_lasting(tuple(line.split()))


def test_tmux_server() -> None:
    """A server of tmux goes by a name that it has given itself."""
    assert is_lasting(("tmux: server",))


def test_no_name() -> None:
    """A process may be started without a name."""
    assert not is_lasting(("",))
    assert not is_lasting(())
