"""Check code, docs and messages for words that the project does not use; the list is ``tools/language.txt``.

A line that needs one of the words contains ``language: allow``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
WORDS = PROJECT / "tools" / "language.txt"
ALLOW = "language: allow"
# Data and third-party texts.
SKIPPED = re.compile(
    r"^(LICENSE|constraints\.txt|tools/language\.txt|typings/|tests/data/|model_repository/.*/golden/)|\.(png|svg|json)$"
)


def words() -> list[tuple[re.Pattern[str], str]]:
    """The denied patterns, each with its replacement."""
    lines = (line for line in WORDS.read_text().splitlines() if line and not line.startswith("#"))
    pairs = (line.split("\t") for line in lines)
    return [(re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in pairs]


def findings(name: str, text: str, denied: Sequence[tuple[re.Pattern[str], str]]) -> Iterator[str]:
    """One message for each of the ``denied`` words in ``text``."""
    for number, line in enumerate(text.splitlines(), 1):
        if ALLOW not in line:
            for pattern, replacement in denied:
                if found := pattern.search(line):
                    yield f'{name}:{number}: "{found[0]}"; write: {replacement}'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="files to check; default: all files in git")
    names = parser.parse_args().files
    if not names:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True)
        names = listed.stdout.rstrip("\0").split("\0")
    denied = words()
    found: list[str] = []
    for name in names:
        path = PROJECT / name
        if path.is_file() and not SKIPPED.search(name):
            found += findings(name, path.read_text(errors="replace"), denied)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
