"""Secrets where a job has none: refused, since its every word is written into the run, and not shown.

Addresses that hold a password, keys by the form that their issuers give them, values under names of secrets:
postgresql://me:secret@host/mlflow    https://token@host    https://host/?api_key=secret    HF_TOKEN: secret
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

Key = tuple[str | int, ...]

# All of these take time that grows with a text's length alone, and not with its square: who writes a text may begin a
# hundred thousand addresses in it and end none (`tests/orchestrator/config/test_secrets.py`).
#
# As the clients read them: of a web address the user ends before the first `/`, unless what stands there is no port; in
# a database's (SQLAlchemy) a password may hold anything but `@`.
_WEB_USER = r"[^/?#\s]*@|[^/?#:\s]*:(?!\d{0,5}(?:[/?#\s]|$))[^@\s]*@"
_WEB = re.compile(rf"(?i)(https?://)(?:{_WEB_USER})")
_OTHER = re.compile(r"(?i)((?<![a-z0-9+.-])(?!https?:)[a-z][a-z0-9+.-]*://)(?:[^/\s@]*:[^@\n]*@|[^/?#\s]*@)")
_TO_LAST_AT, _LINE_TO_LAST_AT = re.compile(r"(?<!\S)\S*@"), re.compile(r"(?m)^.*@")
"""Where those two can be: of a word, or a line, what is behind its last `@` holds no user."""
_OTHER_PASSWORD = re.compile(r"(?i)(?!https?:)[a-z][a-z0-9+.-]*://[^:/]*:[^@]+@")
_ADDRESS = re.compile(r"(?i)\s*[a-z][a-z0-9+.-]*://")
_SECRET_NAME = re.compile(r"(?i).*(password|passwd|pwd|token|secret|signature)|sig|(?!.*ssl).*key")
_INNER_SECRET = re.compile(r"(?i)\b(password|passwd|pwd)\s*=\s*[^\s;]")
_PARAMETER = re.compile(
    r"(?i)([?&;#][^\s=&;#?]*(?:password|passwd|pwd|token|secret|signature|key|odbc_connect|sig)=)[^\s&'\"]+"
)

# Settings of engines that are secrets. `eos_token` and the like are none.
_ENGINE_SECRET = re.compile(
    r"(?i)((hf|hub|auth|access|api|bearer|session)_?)?token|(api|secret|access|private)_?key(_id)?|.*(password|passwd|secret)"
)

# Names of environment variables that hold secrets. TOKENIZERS_PARALLELISM and the like are none.
_SECRET_WORD = (
    r"(?:(?:access_?|auth_?|hf)?token|password|passwd|passphrase|pwd|pass|secrets?|credentials?|"
    r"(?:(?:api|access|secret|private|auth|encryption)_?)?key(?:_id)?)"
)
_VARIABLE_SECRET = re.compile(
    rf"(?i)(?:.*_)?{_SECRET_WORD}|.*(?:password|passwd|passphrase)|(?:.*_)?(?:authorization|cookie|signature)"
)
# What a header, a database's client and a proxy take with a secret in it, whatever the variable is called.
_SECRET_VALUE = re.compile(
    r"(?i)\b(?:bearer|basic)\s+[\w.+/=-]{16,}|\b(?:password|passwd|pwd|sig)\s*=\s*[^\s;]"
    r"|(?<![^/\s@]):*+[^/\s:@]++:[^/\s@]++@[^/\s@]"
)

# Keys as their issuers write them: OpenAI and those who follow it, Hugging Face, GitHub, GitLab, Slack, AWS, Google,
# Databricks, NVIDIA; JSON web tokens, private keys.
_ISSUED = re.compile(
    r"(?<![A-Za-z0-9_-])(?:sk-[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{30,}|gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|"
    r"glpat-[\w-]{20,}|xox[abeprs]-[\w-]{10,}|A[KS]IA[A-Z0-9]{16}(?![A-Z0-9])|AIza[\w-]{35}|dapi[0-9a-f]{32}|"
    r"nvapi-[\w-]{40,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)|-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*)"
)
# `HF_TOKEN: value` and `judge.api_key=value`, in YAML's, Python's or a shell's words.
_NAMED_VALUE = re.compile(
    rf"(?i)(?<![a-z0-9_])((?:\w{{0,100}}_)?{_SECRET_WORD}['\"]?\s*[:=]\s*)(?![\s{{\[])(?:'[^']*'|\"[^\"]*\"|[^\s,}}\]]+)"
)

_WEB_CURE = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment instead"
)
_DATABASE_CURE = (
    "keep it in the client's own file (PostgreSQL: ~/.pgpass, or the one that PGPASSFILE names; MySQL: my.cnf), or put "
    "an MLflow server in front of the database"
)
_VARIABLE_CURE = "name the variable in `cluster.secrets` instead; its value is read where the driver runs"
_CURES = {
    "cluster": _VARIABLE_CURE,
    "archive": "the store's client reads its own environment variables and files (S3: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or ~/.aws)",
    "judge": "the key is read from the environment variable that judge.api_key_env names",
}


def without_password(text: str) -> str:
    """A text without the users and passwords in the addresses that it holds."""
    if "://" not in text:
        return text
    text = _TO_LAST_AT.sub(lambda found: _WEB.sub(r"\1", found[0]), text)
    text = _LINE_TO_LAST_AT.sub(lambda found: _OTHER.sub(r"\1", found[0]), text)
    return re.sub(r"://\S+", lambda address: _PARAMETER.sub(r"\1...", address[0]), text)


def without_keys(text: str) -> str:
    """A text without the keys that it holds, known by the form that issuers give them."""
    return _ISSUED.sub("...", text)


def without_secrets(text: str) -> str:
    """What somebody has written in a job, as it may be shown where it is refused: without passwords in addresses, keys,
    and what stands under the name of a secret."""
    return _NAMED_VALUE.sub(r"\1...", without_keys(without_password(text)))


def secret_in(address: str) -> str | None:
    """What of an address must not be written down, without its value; None where that is nothing. A user's name alone
    is none for a database; a web address may have a token in its place."""
    if not _ADDRESS.match(address):
        return None
    address = address.strip()
    if _WEB.match(address):
        return "a name or password"
    if _OTHER_PASSWORD.match(address):
        return "a password"
    before, _, fragment = address.partition("#")
    for name, value in (*parse_qsl(before.partition("?")[2]), *parse_qsl(fragment)):
        if _SECRET_NAME.fullmatch(name) or _INNER_SECRET.search(value):
            return f"a secret (its parameter `{name}`)"
    return None


def refusal(key: Key, value: Any) -> str | None:
    """Why a job must not have a value, and the cure, without the value; None where it may."""
    if key[:2] == ("generate", "engine") and isinstance(value, str) and value and _is_secret_argument(key):
        return "must not stand here: what a job file holds is written into the run; set HF_TOKEN in the environment"
    named = value is not None and _VARIABLE_SECRET.fullmatch(str(key[-1]))
    if key[:2] == ("cluster", "env") and (named or (isinstance(value, str) and _SECRET_VALUE.search(value))):
        return f"looks like a secret, and what a job file holds is written into the run: {_VARIABLE_CURE}"
    if key[:2] == ("cluster", "secrets") and isinstance(value, str) and "=" in value:
        return "names variables, without their values; a value is read where the driver runs"
    if key == ("judge", "api_key_env") and isinstance(value, str) and not re.fullmatch(r"[A-Za-z_]\w*", value, re.A):
        why = "what a job file holds is written into the run"
        return (
            f"`api_key_env` must be the name of an environment variable, such as OPENAI_API_KEY, and not the key: {why}"
        )
    if any(isinstance(text, str) and _ISSUED.search(text) for text in (value, *key)):
        cure = _CURES.get(str(key[0]), "keep it in the environment of whoever needs it")
        return f"looks like a secret key, and what a job file holds is written into the run: {cure}"
    found = secret_in(value) if isinstance(value, str) else None
    if found is None or (key == ("judge", "base_url") and "parameter" not in found):  # it has a check of its own
        return None
    web = value.strip().lower().startswith("http")
    cure = _CURES.get(str(key[0]), "keep it in the environment, or in the client's own file of credentials")
    if key[0] == "tracking":
        cure = _WEB_CURE if web else _DATABASE_CURE
    return f"this address holds {found}, and what a job file holds is written into the run: {cure}"


def _is_secret_argument(key: Key) -> bool:
    return any(isinstance(part, str) and _ENGINE_SECRET.fullmatch(part) for part in key[2:])


def leaves(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every single value of a document, with its key."""
    waiting: list[tuple[Key, Any]] = [(key, value)]
    while waiting:
        at, inner = waiting.pop()
        if isinstance(inner, Mapping):
            waiting += [((*at, name), below) for name, below in inner.items()]
        elif isinstance(inner, list | tuple):
            waiting += [((*at, number), below) for number, below in enumerate(inner)]
        else:
            yield at, inner
