"""agent-yes-supervise: a record of AI agent runs that is never wrong and never late."""

__version__ = "0.1.0"
