"""What came of a play, in lines for people and an exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chaos.oracle import Findings
from chaos.world import Kind, World

_SHOWN = 20
"""Lines of a kind that are printed."""

_TRACEBACK = "Traceback (most recent call last)"


@dataclass(slots=True)
class Figures:
    """How the play itself went, in seconds."""

    seed: int
    played: float
    settled: float
    slowest_step: float
    looks: int
    file: Path | None
    """Takes the figures as a line of JSON."""


def report(world: World, findings: Findings, daemon_exits: list[str], figures: Figures) -> int:
    """Print what was done and found; return 1 if anything was wrong."""
    tracebacks = list(tracebacks_in((*(world.scratch / "logs").iterdir(), *(world.scratch / "state").rglob("bug-*"))))
    found = {
        "wrong": findings.wrong,
        "lost": findings.missing,
        "doubled": findings.doubled,
        "daemon exit": daemon_exits,
        "traceback": tracebacks,
    }
    for what, lines in found.items():
        for line in lines[:_SHOWN]:
            print(f"{what}: {line}")
    print(f"faults: {sum(world.faults.values())} of {len(world.faults)} kinds")
    for name, count in sorted(world.faults.items()):
        print(f"  {count:4} {name}")
    kinds = {kind: sum(run.kind is kind for run in world.runs) for kind in Kind}
    print(f"played for {figures.played:.0f} s, all settled {figures.settled:.1f} s later;", end=" ")
    print(f"rows compared with the living {figures.looks} times; slowest step {figures.slowest_step:.2f} s")
    print(f"runs: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}")
    print(f"judged {findings.judged}: {len(findings.wrong)} wrong, {len(findings.missing)} lost,", end=" ")
    print(f"{len(findings.doubled)} doubled; {findings.unknowable} not knowable, {findings.taken} taken by a fault")
    print(f"daemons: {len(world.daemons)}, {len(daemon_exits)} ended unasked; tracebacks: {len(tracebacks)}")
    bad = any(found.values())
    if figures.file is not None:
        counts = {
            "seed": figures.seed,
            "seconds": round(figures.played),
            "faults": sum(world.faults.values()),
            "runs judged": findings.judged,
            **{what: len(found[what]) for what in ("wrong", "lost", "doubled")},
            "daemons": len(world.daemons),
            "ended unasked": len(daemon_exits),
            "tracebacks": len(tracebacks),
            "not knowable": findings.unknowable,
            "taken by a fault": findings.taken,
            "settled after, s": round(figures.settled, 1),
            "load, cores": f"{os.getloadavg()[1]:.0f}, {os.cpu_count()}",
            "by kind": world.faults,
        }
        with open(figures.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(counts) + "\n")
    print(f"seed {figures.seed}: {'FAILED' if bad else 'ok'}", flush=True)
    return 1 if bad else 0


def tracebacks_in(logs: Iterable[Path]) -> Iterable[str]:
    """Yield what logs say around their first traceback."""
    for log in logs:
        text = log.read_text(errors="replace")
        at = text.find(_TRACEBACK)
        if at >= 0:
            yield f"{log.name}: {text[max(0, at - 200) : at + 3000]}"
