"""The code of a Markdown page: its fenced blocks, the commands of its shell blocks, and its inline commands."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:umt|python) [^`]+)`(?!`)")


class Block(NamedTuple):
    language: str
    text: str
    line: int  # of its first line in the page, from 1


def fenced_blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1) for match in FENCED.finditer(text)]


def shell_commands(text: str) -> list[list[str]]:
    """The words of every command: lines are continued by a backslash, and `&&` joins commands."""
    commands = []
    for line in text.replace("\\\n", " ").replace("$(which umt)", "umt").splitlines():
        command: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                command.append(word)
            elif command:
                commands.append(command)
                command = []
    return commands


def inline_commands(page: Path) -> list[list[str]]:
    """The words of every command with arguments in the text of a page, but for those with a placeholder: an ellipsis
    or a name in capitals."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    commands = [shlex.split(" ".join(command.split())) for command in INLINE.findall(text)]
    return [words for words in commands if not any(is_placeholder(word) for word in words)]


def is_placeholder(word: str) -> bool:
    return "…" in word or "..." in word or re.fullmatch(r"\[?[A-Z]{2,}(\.\w+)?\]?|\[.*|.*\]", word) is not None
