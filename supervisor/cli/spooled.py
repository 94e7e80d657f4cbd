"""What is spooled, brought into its stores before a command looks at them."""

from __future__ import annotations

from supervisor.cli.output import print_troubles
from supervisor.spool import files


def take_spooled() -> None:
    """Bring what is spooled into its stores, and say on stderr what still waits, and why; cheap where nothing does."""
    try:
        if not files.waiting():
            return
    except OSError:  # whoever needs that folder will say what is wrong with it
        return
    from supervisor.spool.applying import apply_spooled  # noqa: PLC0415  rarely needed

    print_troubles(apply_spooled().troubles)
