"""Text for a log that people read line by line."""


def printable(text: str) -> str:
    """The text as one line; line breaks and other unprintable characters are escaped."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def indented(text: str) -> str:
    """The lines of a traceback, printable and indented, so that none looks like a log entry."""
    return "\n".join(f"  {printable(line)}" for line in text.split("\n"))
