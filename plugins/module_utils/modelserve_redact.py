"""Remove secrets from text: those that are known by value, and those that match a pattern."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, unquote

MARK = "<redacted>"
SHORTEST = 6  # a shorter value occurs in any text by chance
LEARN_SHORTEST = 8
DEEPEST = 20000  # characters of a list or a key block that are searched

WORD = r"(?:token|secret|passw|api[ _-]?key|authorization|private)"
KEY = re.compile(WORD, re.IGNORECASE)
# Keys that match by chance: their values are removed in place, but not searched for in other texts.
# What a section's secret.<NAME> holds is the name of a secret, and "secrets" of an application names and digests.
BY_CHANCE = re.compile(
    r"tokeniz|tokens|_(?:path|file|dir|mode|url|ip|port|size|ttl)$|^secret\.|^secrets$", re.IGNORECASE
)

BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----(?:(?!-----).){0,20000}"
    r"(?:-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----)?",
    re.DOTALL,
)
BLOCK_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----")
BLOCK_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\ \r\n\t"

URL = re.compile(r"""(:(?:\\?/){2})([^\s"<>/?#\\]{1,2000})(?=@)""")
# A password that should have been quoted: characters that end a host's name, but not "host:port/".
URL_UNQUOTED = re.compile(r"""(:(?:\\?/){2})([^\s"<>@/?#:\\]{0,200}:(?!\d{1,5}(?:[/?#"'\s]|$))[^\s"<>]{1,2000})(?=@)""")

NAME = r"[\w.\-]{0,80}"
LINE = re.compile(
    r"^(?P<indent>[ \t]*)(?:export[ \t]+|set[ \t]+|[-*][ \t]+)?"
    r"(?P<key>" + NAME + "?" + WORD + NAME + r")[ \t]*[:=]=*[ \t]*(?P<value>[^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
CONTINUED = re.compile(r"(?:\n[ \t]+\S[^\n]*)+")
ESCAPED_LINE = re.compile(
    r"(?<=\\n)(?P<key>[ \t]*" + NAME + "?" + WORD + NAME + r")[ \t]*[:=]=*[ \t]*"
    r'(?P<value>(?:(?!\\[nr])(?:\\.|[^"\\\n]))*)',
    re.IGNORECASE,
)
ASSIGNED = re.compile(
    r"(?P<key>" + WORD + NAME + r""")(?P<quoted>\\*["'])?[\])]{0,2}"""
    r"""(?:[ \t]*(?:=>|->|[:=!]=*)[ \t]*|\s{0,99},\s{0,99}\\*["']value\\*["']\s{0,99}:)""",
    re.IGNORECASE,
)
SCHEME = re.compile(r"(?:bearer|basic|digest|token|negotiate|apikey)[ \t]+", re.IGNORECASE)
STRING = re.compile(
    r"""[bru]{0,2}(?:"(?:[^"\\\n]|\\.)*(?:"|$)|'(?:[^'\\\n]|\\.)*(?:'|$)|(?P<b>\\+)(?P<q>["'])[^\n]*?(?:(?<!\\)(?P=b)(?P=q)|$))"""
    r"""[^\s,;}\])"':\\]*""",
    re.IGNORECASE | re.MULTILINE,
)
NOTHING = re.compile(r"(?:true|false|null|none)(?=[\s,}\])\\\"']|$)", re.IGNORECASE)
NUMBER = re.compile(r"-?\d[\d.eE+-]*(?=[\s,}\])\\\"']|$)")
BARE = re.compile(r"""(?:[^\s"\\]|\\.|"(?![\s,\]})]|$))+""", re.MULTILINE)
WORD_REST = re.compile(r"""[^\s,;}\])"']*""")
BRACKETS = {"[": "]", "{": "}", "(": ")"}

BEARER = re.compile(r"""(\bbearer(?:[ \t]|%20|\+)+)([^\s"',]+)""", re.IGNORECASE)
OPTION = re.compile(
    r"((?<!\S)--?[\w-]{0,60}?" + WORD + r"""[\w-]{0,60}[ \t]+)("[^"\n]*"?|'[^'\n]*'?|\S+)""", re.IGNORECASE
)
# Keys with an issuer's prefix, and JSON web tokens.
ISSUED = re.compile(
    r"\b(?:(?:gh[opsu]|hf|glpat|sk|xox[abp]|github_pat|npm|pypi)[_-][\w-]{16,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
CONFIG_LINE = re.compile("(" + WORD + r"|\bauth[ \t]).*", re.IGNORECASE)


class Redactor:
    """Replace secrets by a mark. Call ``add`` and ``learn`` first, then ``text``, ``document`` and ``config``."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._removed: list[tuple[str, str]] | None = None  # keys and values that patterns remove, while learning

    def add(self, secret: str) -> None:
        """Remember a secret's value in each notation: plain, in JSON, in a URL."""
        for value in {secret, secret.strip()}:
            if len(value.strip()) >= SHORTEST:
                self._known |= {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
                self._known |= {repr(value)[1:-1], quote(value), quote(value, safe="")}

    def add_file(self, content: str) -> None:
        """Remember the secrets of a file: the whole text, each line, and each probable value in a line.

        Of a JSON object, which has the values of sections' secrets by name, the values alone.
        """
        values = json_values(content)
        if values is not None:
            for value in values:
                self.add_file(value)
            return
        self.add(content)
        for line in content.splitlines():
            self.add(line)
            for separator in ":=":
                for part in (line.partition(separator)[2], line.rpartition(separator)[2]):
                    self.add(part)
                    self.add(part.strip(" \t,;\"'"))
            for value in re.findall(r"""[^\s:=,;"'{}\[\]]{12,}""", line):
                self.add(value)

    def learn(self, redact: Callable[[str], str], text: str) -> None:
        """Remember the values that ``redact`` (one of the methods below) removes from ``text``."""
        removed: list[tuple[str, str]] = []
        self._removed = removed
        try:
            redact(text)
        finally:
            self._removed = None
        for key, value in removed:
            value = value.strip(" \t\r\n,;\"'\\")
            if BY_CHANCE.search(key) or len(value) < LEARN_SHORTEST or MARK in value:
                continue
            # A path or a plain word is no secret. Removing it would make the archive unreadable.
            if not os.path.exists(value) and re.search(r"[^a-z_/-]", value):
                self.add(value)

    def text(self, text: str) -> str:
        """Return any text without its secrets."""
        text = self._without_known(text)
        text = BLOCK.sub(MARK, text)
        text = _without_block_ends(text)
        text = URL.sub(self._in_url, text)
        text = URL_UNQUOTED.sub(self._in_url, text)
        text = self._without_lines(text)
        text = ESCAPED_LINE.sub(lambda match: self._keep_key(match, "="), text)
        text = self._without_assigned(text)
        text = BEARER.sub(lambda match: match.group(1) + self._remove("", match.group(2)), text)
        text = OPTION.sub(lambda match: match.group(1) + self._remove("", match.group(2)), text)
        return ISSUED.sub(lambda match: self._remove("", match.group()), text)

    def document(self, text: str) -> str:
        """Return a JSON document, or any other text, without its secrets."""
        try:
            value = json.loads(text)
        except ValueError:
            return self.text(text)
        return self.text(json.dumps(self._value(value), indent=1, ensure_ascii=False) + "\n")

    def config(self, text: str) -> str:
        """Return a configuration whose keys and values are separated by blanks without its secrets.

        The rest of a line is removed after a word that announces a secret.
        """
        return CONFIG_LINE.sub(lambda match: f"{match.group(1)} {MARK}", self.text(text))

    def _remove(self, key: str, value: str) -> str:
        if self._removed is not None:
            self._removed.append((key, value))
        return MARK

    def _without_known(self, text: str) -> str:
        spans = []
        for secret in self._known:
            start = text.find(secret)
            while start >= 0:
                spans.append((start, start + len(secret)))
                start = text.find(secret, start + 1)
        if not spans:
            return text
        pieces, at = [], 0
        for start, end in _merged(spans):
            pieces += [text[at:start], MARK]
            at = end
        return "".join([*pieces, text[at:]])

    def _in_url(self, match: re.Match[str]) -> str:
        user, _, password = match.group(2).partition(":")
        self._remove("", unquote(password or user))
        return match.group(1) + self._remove("", password or user)

    def _keep_key(self, match: re.Match[str], separator: str) -> str:
        if not match.group("value").strip():
            return match.group()
        return f"{match.group('key')}{separator}{self._remove(match.group('key').strip(), match.group('value'))}"

    def _without_lines(self, text: str) -> str:
        """Remove the value of ``key = value`` at a line's start, with the indented lines that continue it."""
        pieces, at = [], 0
        for match in LINE.finditer(text):
            if match.start() < at:
                continue
            end = match.end()
            more = CONTINUED.match(text, end) if not match.group("indent") else None
            value = match.group("value") + (more.group() if more else "")
            if not value.strip():
                continue
            for line in value.splitlines():
                self._remove(match.group("key"), line)
            pieces += [text[at : match.start("value")], MARK]
            at = more.end() if more else end
        return "".join([*pieces, text[at:]])

    def _without_assigned(self, text: str) -> str:
        """Remove the value of ``key=value`` and ``"key": value`` within a line or a document."""
        pieces, at = [], 0
        for match in ASSIGNED.finditer(text):
            if match.start() < at:
                continue
            start = match.end()
            if match.group("quoted"):
                start += len(text[start : start + 200]) - len(text[start : start + 200].lstrip())
            end = _value_end(text, start, bool(match.group("quoted")))
            if end > start:
                self._remove(match.group("key"), text[start:end])
                pieces += [text[at:start], f'"{MARK}"' if match.group("quoted") == '"' else MARK]
                at = end
        return "".join([*pieces, text[at:]])

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if isinstance(value, dict):
            names_secret = any(KEY.search(str(value.get(name, ""))) for name in ("name", "key"))
            return {
                self.text(key): self._whole(key, item)
                if KEY.search(key) or (names_secret and key == "value")
                else self._value(item)
                for key, item in value.items()
            }
        return value

    def _whole(self, key: str, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (list, dict)):
            for item in value.values() if isinstance(value, dict) else value:
                self._whole(key, item)
            return MARK
        return self._remove(key, str(value))


def json_values(content: str) -> list[str] | None:
    """Return the values of a JSON object of texts; None for any other text."""
    try:
        document = json.loads(content)
    except ValueError:
        return None
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        return None
    return list(document.values())


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans in order, with overlapping and adjacent ones joined."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _without_block_ends(text: str) -> str:
    """Remove key blocks whose start was cut off, with or without a time before each line."""
    match = BLOCK_END.search(text)
    while match:
        head = text[: match.start()].rstrip(BLOCK_CHARACTERS)
        lines = head.split("\n")
        least = 1  # a block's last line may be short, the others are not
        while len(lines) > 1 and len(lines[-2]) - len(lines[-2].rstrip(BLOCK_CHARACTERS)) >= least:
            lines.pop()
            lines[-1] = lines[-1].rstrip(BLOCK_CHARACTERS)
            least = 16
        text = "\n".join(lines) + MARK + text[match.end() :]
        match = BLOCK_END.search(text)
    return text


def _value_end(text: str, start: int, quoted_key: bool) -> int:
    """Return the end of the value that starts at ``start``."""
    scheme = SCHEME.match(text, start)
    if scheme:
        start = scheme.end()
    if text[start : start + 1] in BRACKETS and text[start : start + 1]:
        return _bracket_end(text, start)
    if quoted_key and NOTHING.match(text, start):
        return start
    number = NUMBER.match(text, start) if quoted_key else None
    match = STRING.match(text, start) or number or BARE.match(text, start)
    return match.end() if match else start


def _bracket_end(text: str, start: int) -> int:
    """Return the end of the bracket that opens at ``start``, or of the word that it is part of."""
    closing: list[str] = []
    limit = min(len(text), start + DEEPEST)
    for at in range(start, limit):
        if text[at] in BRACKETS:
            closing.append(BRACKETS[text[at]])
        elif closing and text[at] == closing[-1]:
            closing.pop()
            if not closing:
                rest = WORD_REST.match(text, at + 1)
                return rest.end() if rest else at + 1
    return limit
