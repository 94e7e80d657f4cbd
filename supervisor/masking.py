"""What must not be stored: finding secrets among a command's arguments, and writing something else in their place.

It errs on the side of masking: a harmless word that is masked costs a little of a record, a secret that is not may
cost an account. Light: a wrapped agent waits for it, so the patterns are made only where a word gives cause.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Mapping, Sequence

MASK = "[masked]"
"""What stands where a secret was."""

_HINTS = (
    *("key", "token", "secret", "passw", "passphrase", "pwd", "credential", "auth", "bearer", "cookie", "header"),
    *("://", "session-json", "sessionjson", "--pass", "-k", "-u", "proxy"),
    *("sk-", "sk_", "rk_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "aiza", "akia", "asia"),
    *("xox", "hf_", "npm_", "pypi-", "gsk_", "xai-", "eyj"),
)
"""Without any of these, in small letters, nothing below can match."""

_SECRET_ENDS = (
    *("key", "token", "secret", "password", "passwd", "passphrase", "pwd", "credential", "credentials", "auth"),
    *("authorization", "bearer", "cookie", "cookies", "header", "headers", "accesskeyid", "sessionjson"),
)
"""A name that ends so, without its hyphens and underscores, is a secret's."""

_NO_SECRETS = frozenset({"pwd", "oldpwd", "publickey", "hotkey"})

_SECRET_VARIABLES = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "AUTH", "HEADERS", "COOKIE")
"""An environment variable whose name holds one of these has a value that is not to be stored."""

_SHORTEST_VALUE = 8
"""Shorter values of such variables are words that stand in any text."""

_LONGEST_OPTION = 24
"""What begins with a hyphen and is longer is taken for a secret that happens to begin so, not for an option."""


def masked(args: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return a command's arguments, or other texts such as a prompt, as they may be stored.

    Args:
        args: as the agent gets them, in their order: an option may say what the next one is.
        environment: the agent's; the values of its secrets are masked wherever they stand.
    """
    known = _secret_values(environment)
    if not _may_hold_secrets("\n".join(args), known):
        return list(args)
    stored: list[str] = []
    option = ""
    for arg in args:
        if option and not _is_option(arg):
            stored.append(_masked_value(option, arg, known))
            option = ""
        else:
            stored.append(_masked_text(arg, known))
            option = arg if _is_option(arg) and _takes_secret(arg) else ""
    return stored


def is_masked(texts: Iterable[str]) -> bool:
    """Tell whether something has been masked in stored texts, so that they are not what was started."""
    return any(MASK in text for text in texts)


def _may_hold_secrets(text: str, known: Sequence[str]) -> bool:
    small = text.lower()
    return any(hint in small for hint in _HINTS) or any(value in text for value in known)


def _secret_values(environment: Mapping[str, str]) -> list[str]:
    """Return the values of variables that are named like secrets, the longest first; a path is none."""
    values = {
        value
        for name, value in environment.items()
        if len(value) >= _SHORTEST_VALUE and value[0] != "/" and any(word in name.upper() for word in _SECRET_VARIABLES)
    }
    return sorted(values, key=len, reverse=True)


def _is_option(arg: str) -> bool:
    return arg.startswith("-") and len(arg) <= _LONGEST_OPTION and "=" not in arg and " " not in arg


def _takes_secret(option: str) -> bool:
    return option in ("-k", "-u", "-H", "--user", "--pass") or option.endswith("proxy") or _names_secret(option)


def _names_secret(name: str) -> bool:
    """Tell whether a name, of an option, a variable, a field or a header, is that of a secret."""
    small = name.lower().lstrip("-")
    plain = small.replace("-", "").replace("_", "").replace(".", "")
    return plain.endswith(_SECRET_ENDS) and plain not in _NO_SECRETS and not small.startswith("no-")


def _masked_value(option: str, value: str, known: Sequence[str]) -> str:
    """Return the value of an option that takes a secret, or may."""
    if option == "-k":  # a key for some agents, for many programs something else
        return MASK if len(value) >= 16 and " " not in value else _masked_text(value, known)
    if option in ("-u", "--user"):
        name, colon, _ = value.partition(":")
        return f"{name}:{MASK}" if colon and "/" not in name else _masked_text(value, known)
    if option.endswith("proxy"):
        _, at, host = value.rpartition("@")
        return f"{MASK}@{host}" if at and "://" not in value else _masked_text(value, known)
    if option == "-H" or option.lower().endswith(("header", "headers")):
        name, colon, _ = value.partition(":")
        if colon and name.replace("-", "").isalnum():
            return f"{name}: {MASK}" if _names_secret(name) else _masked_text(value, known)
        if option == "-H":
            return _masked_text(value, known)
    return MASK


def _masked_text(text: str, known: Sequence[str]) -> str:
    name, equals, value = text.partition("=")
    if equals and value and _is_name(name) and _names_secret(name):
        return f"{name}={MASK}"
    for value in known:
        text = text.replace(value, MASK)
    if not _may_hold_secrets(text, ()):
        return text
    patterns = _compiled()
    text = patterns.key.sub(MASK, text)
    text = patterns.url.sub(lambda found: f"{MASK}@" if found[1] is None else f"{found[1]}:{MASK}@", text)
    text = patterns.header.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)
    return patterns.pair.sub(_masked_pair, text)


def _is_name(text: str) -> bool:
    return text.replace("-", "").replace("_", "").replace(".", "").isalnum()


def _masked_pair(found: re.Match[str]) -> str:
    """Return a name with its value, the latter masked if the name is a secret's and this is no mere prose."""
    name, between, quote, value = found.group("name", "between", "quote", "value")
    if not _names_secret(name) or not (between == "=" or quote or _looks_random(value)):
        return found[0]
    return f"{name}{between}{quote or ''}{MASK}{quote or ''}"


def _looks_random(value: str | None) -> bool:
    return value is not None and len(value) >= _SHORTEST_VALUE and any(letter.isdigit() for letter in value)


class _Patterns:
    """The regular expressions: making them takes milliseconds."""

    __slots__ = ("header", "key", "pair", "url")

    def __init__(self) -> None:
        import re  # noqa: PLC0415  needed only where there is something to look for

        self.key = re.compile(
            r"(?<![A-Za-z0-9])(?:sk-[\w-]{16,}|[sr]k_(?:live|test)_\w{8,}|gh[opsur]_\w{16,}|github_pat_\w{16,}"
            r"|glpat-[\w-]{16,}|AIza[\w-]{20,}|A[KS]IA[A-Z0-9]{12,}|xox[a-z]-[\w-]{8,}|hf_\w{16,}|npm_\w{16,}"
            r"|pypi-[\w-]{16,}|gsk_\w{16,}|xai-[\w-]{16,}|eyJ[\w-]{6,}\.[\w-]{4,}(?:\.[\w-]*)?)"
            r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
        )
        self.url = re.compile(r"(?<=://)(?:([^\s/@:]*):[^\s/]*|[^\s/@:]{16,})@")
        self.header = re.compile(
            r"(?i)(authorization\s*:\s*(?:bearer|basic|token|digest)\s+|(?:^|[\"'])(?:[\w-]++(?:(?<=cookie)|"
            r"(?<=authorization))|(?=[\w-]*?x-)[\w-]++(?:(?<=key)|(?<=token)|(?<=secret)|(?<=auth)))\s*:\s*)[^\r\n\"']+"
            r"|(\bbearer\s+)[\w.~+/=-]{12,}"
        )
        self.pair = re.compile(
            rf"(?i)(?<![\w.-])(?P<name>[\w.-]*(?:{'|'.join(_SECRET_ENDS)}|access[_-]key[_-]id|session[_-]json))"
            r"(?P<between>(?:\\*[\"'])?\s*[=:]\s*)(?:(?P<quote>\\*[\"'])(?:(?!(?P=quote))(?:\\.|[^\\]))*(?P=quote)?"
            r"|(?P<value>[^\s&;,\"'{}()\[\]\\]+))"
        )


_patterns: _Patterns | None = None


def _compiled() -> _Patterns:
    global _patterns  # noqa: PLW0603  made once
    if _patterns is None:
        _patterns = _Patterns()
    return _patterns
