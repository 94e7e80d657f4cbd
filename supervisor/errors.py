"""The errors a user can cause. Each is one line with its remedy; anything else that escapes is a bug of ours."""

from __future__ import annotations


class SuperviseError(Exception):
    """A user's error: ``message`` says what is wrong, ``remedy`` what to do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class StoreError(SuperviseError):
    """A store cannot be opened, read or written."""


class StoreMissing(StoreError):
    """There is no store at that directory."""


class StoreBusy(StoreError):
    """Another process holds the store's lock for longer than we may wait."""


class StoreDamaged(StoreError):
    """A store's file is no database, or a broken one."""


class StoreRefused(StoreError):
    """A store that must not be touched: a symbolic link, a stranger's, or one that brings code of its own."""


class DaemonRunning(SuperviseError):
    """Another daemon of this user holds the lock."""


class NotFound(SuperviseError):
    """Nothing matches what the user named, or too much does."""


class ServiceError(SuperviseError):
    """The service cannot be installed, removed or asked after."""
