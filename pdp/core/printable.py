"""Text for a log that people read line by line."""


def printable(text: str) -> str:
    """The text as one line: line breaks, and whatever else would not show, are escapes."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def indented(text: str) -> str:
    """Lines of a traceback, each printable and set in, so that none reads as an entry of its own."""
    return "\n".join(f"  {printable(line)}" for line in text.split("\n"))
