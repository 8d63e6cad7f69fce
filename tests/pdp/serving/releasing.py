"""Prints KiB of machine code in memory, before and after `release_code`, and what code that it released answers.

With the argument `kept` nothing is released.
"""

import re
import sys
from hashlib import sha256
from pathlib import Path
from threading import Thread

import grpc

from pdp.serving.memory import release_code

CODE = re.compile(r"^\S+ r-xp \S+ \S+ \S+ +/.*\n(?:[A-Z].*\n)*?Rss: +(\d+) kB$", re.MULTILINE)


def code_kib(process: str = "self") -> int:
    """How much of the code of programs and libraries the process has mapped."""
    return sum(map(int, CODE.findall(Path(f"/proc/{process}/smaps").read_text())))


def digest() -> str:
    """What OpenSSL's code answers."""
    return sha256(b"code").hexdigest()


def busy() -> None:
    """Runs code until the program ends."""
    while True:
        digest()


if __name__ == "__main__":
    Thread(target=busy, daemon=True).start()
    with grpc.insecure_channel("unix:/nowhere"):
        before = code_kib()
        if "kept" not in sys.argv:
            release_code()
        sys.stdout.write(f"{before} {code_kib()} {digest()}\n")
