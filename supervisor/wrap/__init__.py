"""Running an agent as if no wrapper were there, and recording how it ends.

Nothing of the daemon is imported here, and before the agent's exec as little as possible at all: the standard
library's sqlite3, no dataclasses, no click (tests hold that).
"""
