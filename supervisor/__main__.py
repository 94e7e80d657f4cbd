"""``python -m supervisor`` is agent-yes-supervise."""

import sys

from supervisor.cli import main

sys.exit(main())
