"""Which words of a command are secrets, and which only look a little like some."""

from __future__ import annotations

import time

import pytest

from supervisor.masking import MASK, is_masked, masked

M = MASK
GITHUB = "ghp_" + "a1B2" * 9
ANTHROPIC = "sk-ant-api03-" + "x-Y_" * 10
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----"
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "ZAI_API_KEY": "correct-horse-battery",
    "SHORT_TOKEN": "abc",
    "SSH_AUTH_SOCK": "/run/ssh/agent.1",
    "EDITOR": "emacsclient",
}


@pytest.mark.parametrize(
    ("args", "stored"),
    [
        (["--api-key", "X"], ["--api-key", M]),
        (["--api-key=X"], [f"--api-key={M}"]),
        (["--apiKey", "X Y"], ["--apiKey", M]),
        (["--openai-api-key", "X", "--yes"], ["--openai-api-key", M, "--yes"]),
        (["--key", "X"], ["--key", M]),
        (["--token", "-abcdefghijklmnopqrstuvwxyz0"], ["--token", M]),
        (["--password", "--verbose"], ["--password", "--verbose"]),
        (["-k", "a1b2c3d4e5f6g7h8"], ["-k", M]),
        (["-u", "me:pw"], ["-u", f"me:{M}"]),
        (["--proxy", "me:pw@host:1"], ["--proxy", f"{M}@host:1"]),
        (["--augment-session-json", "{}"], ["--augment-session-json", M]),
        (["token=abc def"], [f"token={M}"]),
        (["env", "ANTHROPIC_AUTH_TOKEN=a b", "claude"], ["env", f"ANTHROPIC_AUTH_TOKEN={M}", "claude"]),
        (
            ["sh", "-c", "export A_TOKEN=x B_SECRET='y z'; claude"],
            ["sh", "-c", f"export A_TOKEN={M} B_SECRET='{M}'; claude"],
        ),
        (["-H", "Authorization: Bearer X"], ["-H", f"Authorization: {M}"]),
        (["--header", "X-Api-Key:X"], ["--header", f"X-Api-Key: {M}"]),
        (["-HAuthorization: Bearer X"], [f"-HAuthorization: {M}"]),
        (["Cookie: a=b; c=d"], [f"Cookie: {M}"]),
        (["curl -H 'Authorization: Basic Zm9v' /"], [f"curl -H 'Authorization: {M}' /"]),
        (["-c", 'p.http_headers={Authorization="Bearer X"}'], ["-c", f"p.http_headers={M}"]),
        (["-c", 'p={ "x-api-key" = "X" }'], ["-c", f'p={{ "x-api-key" = "{M}" }}']),
        (["--settings", '{"env":{"A_KEY":"X \\" Y","B":"c"}}'], ["--settings", f'{{"env":{{"A_KEY":"{M}","B":"c"}}}}']),
        (
            ["--mcp-config", '{"headers":{"Authorization":"X"}}'],
            ["--mcp-config", f'{{"headers":{{"Authorization":"{M}"}}}}'],
        ),
        (['"{\\"apiKey\\":\\"X\\"}"'], [f'"{{\\"apiKey\\":\\"{M}\\"}}"']),
        (["https://me:p@ss@host/x"], [f"https://me:{M}@host/x"]),
        (["postgres://:pw@host/x"], [f"postgres://:{M}@host/x"]),
        (["https://abcdef0123456789ab@host/x"], [f"https://{M}@host/x"]),
        (["https://host/?api_key=X&b=c"], [f"https://host/?api_key={M}&b=c"]),
        ([f"use {GITHUB}, please"], [f"use {M}, please"]),
        (["api_key: a1b2c3d4"], [f"api_key: {M}"]),
        (["say correct-horse-battery"], [f"say {M}"]),
        (["\udcff token=\udcfe\0"], [f"\udcff token={M}"]),
    ],
)
def test_masked(args: list[str], stored: list[str]) -> None:
    """What looks like a secret, by its name or by its shape, is masked; what stands around it stays."""
    assert masked(args, ENVIRONMENT) == stored
    assert is_masked(stored) == (stored != args)
    assert masked(stored, ENVIRONMENT) == stored


@pytest.mark.parametrize(
    "secret",
    [
        GITHUB,
        ANTHROPIC,
        JWT,
        PEM,
        "sk-" + "Ab3" * 16,
        "sk-proj-" + "Ab3_" * 16,
        "github_pat_" + "11AA0_" * 10,
        "AIza" + "Sy-B" * 9,
        "AKIA" + "IOSFODNN7EXAMPLE",
        "xoxb-" + "1234-" * 5,
        "glpat-" + "ab12" * 5,
        "hf_" + "abCD" * 8,
        "npm_" + "ab12" * 9,
        "sk_live_" + "ab12" * 6,
    ],
)
@pytest.mark.parametrize("around", ["{}", "see '{}'.", "--flag={}", '{{"x":"{}"}}', "a,{},b"])
def test_known_shapes(secret: str, around: str) -> None:
    """Keys of known shapes are masked wherever they stand, in arguments and in a prompt."""
    text = around.format(secret)
    assert masked([text], {}) == [around.format(MASK)]


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--continue", "--model", "opus"],
        ["-p", "fix the login token: it expires too early"],
        ["auth: fix the login", "the key: press any", "password = foo", "a bearer of news"],
        ["--max-tokens", "4096", "--auth-type", "oauth", "--key-file", "/x", "--no-auth", "hi"],
        ["disk-usage-of-the-whole-machine", "task-estimation-of-the-week", "monkey business"],
        ["https://git@github.com/x.git", "git@github.com:x/y.git", "http://host:80/@x", "npm:left-pad@1.0"],
        ["-k", "unit or other", "-u", "root", "PWD=/x"],
        ["/run/ssh/agent.1 is abc, says emacsclient"],
        ["\udcff", "\0", "", "=", "-", "--", "==="],
    ],
)
def test_no_secrets(args: list[str]) -> None:
    """Words that only look a little like secrets are stored as they are."""
    assert masked(args, ENVIRONMENT) == args


@pytest.mark.parametrize(
    "text",
    [
        *("a" * 300_000 + "key", "ghp_" * 60_000, '"' * 100_000 + "key=", "token=" * 50_000, "://" + ":@" * 60_000),
        *("-----BEGIN PRIVATE KEY-----" * 2_000, "eyJ" * 60_000 + ".", "a-key " * 50_000, "bearer " * 50_000),
        *("http://" * 40_000 + "@", "key: " * 50_000, "key" + " " * 100_000, "cookie:" + " " * 100_000),
        *('"' + "x-" * 60_000 + " key", '"' + "x-key-" * 30_000, "'" + "-" * 100_000 + "cookie"),
    ],
    ids=range(16),
)
def test_long_texts(text: str) -> None:
    """However long a command line is, and whatever it holds, its agent does not wait for the masking."""
    began = time.process_time()
    masked([text], {})
    assert time.process_time() - began < 1
