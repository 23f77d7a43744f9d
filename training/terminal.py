"""Text of others on the terminal: file names and labels may contain control characters, which a terminal obeys."""


def printable(text: str) -> str:
    """`text` with control characters and other characters that can't be shown as escapes, such as `\\x1b`."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
