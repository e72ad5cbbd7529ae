"""`make fuzz`: every target of `tests.fuzz.readers` for its share of the time, then the counts.

    python -m tests.fuzz.__main__ --seconds 3600
    python -m tests.fuzz.__main__ --only manifest

What was found to reach new lines is kept in cache/fuzz and is where the next call begins. A finding
ends its target, and the status is 1; its bytes lie in cache/fuzz/<target>-crash-...: make them a
test.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found]

from tests.fuzz.json_text import mutated

with atheris.instrument_imports(include=["train"]):
    from tests.fuzz.readers import TARGETS
    from tests.fuzz.target import check, scratch

CORPORA = Path("cache/fuzz")
_PYTHON = os.path.dirname(os.__file__)
"""Opened for encodings, which are loaded when they are first met."""
_SEEN = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+)")


def fuzz(name: str, seconds: int) -> None:
    """Feeds a target until something is found or the time is over; it does not return."""
    target = TARGETS[name]
    corpus = CORPORA / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha256(seed).hexdigest()).write_bytes(seed)
    with scratch(target) as folder:
        for seed in target.seeds():
            assert check(target, folder, seed), "a seed must be accepted"
        watched = False

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            if watched and event == "open" and isinstance(arguments[0], str | bytes):
                place = os.path.realpath(os.fsdecode(arguments[0]))
                assert place.startswith((str(folder), _PYTHON)), f"opened {place}"

        def one(content: bytes) -> None:
            nonlocal watched
            watched = True
            try:
                check(target, folder, content)
            finally:
                watched = False

        def mutate(content: bytes, most: int, seed: int) -> bytes:
            changed = mutated(content, seed) if seed % 4 else None
            return bytes(atheris.Mutate(content, most)) if changed is None else changed[:most]

        sys.addaudithook(watch)
        options = [
            f"-max_total_time={seconds}",
            f"-artifact_prefix={CORPORA}/{name}-",
            "-max_len=16384",
            "-timeout=30",
            "-rss_limit_mb=4096",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutate)
        atheris.Fuzz()


def main() -> int:
    """Fuzzes targets one after the other and prints what was done."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=3600, help="of all targets together")
    parser.add_argument("--only", choices=TARGETS, help="one target, in this process")
    arguments = parser.parse_args()
    if arguments.only:
        fuzz(arguments.only, arguments.seconds)
    share = str(max(arguments.seconds // len(TARGETS), 1))
    found = False
    for name in TARGETS:
        command = [sys.executable, "-m", "tests.fuzz.__main__", "--only", name, "--seconds", share]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        executions, edges = max(
            ((int(count), int(edges)) for count, edges in _SEEN.findall(done.stderr)),
            default=(0, 0),
        )
        outcome = "found, see above" if done.returncode else "nothing found"
        if done.returncode:
            found = True
            print(done.stdout, done.stderr, sep="\n")
        print(f"{name:<14}{executions:>11,} executions {edges:>6,} edges  {outcome}", flush=True)
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
