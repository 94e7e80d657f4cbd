"""The logs: what agents wrote, as files in their project's ``.agent-yes/logs/``; written by wrap, read by commands.

`supervisor.log.folder` and `supervisor.log.writer` are loaded by a wrapped agent's wrapper and stay light.
"""
