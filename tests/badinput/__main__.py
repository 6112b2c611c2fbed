"""Knocks at every door with inputs that grow from good ones, guided by coverage where atheris is installed, and counts them.

python -m tests.badinput --seconds 60              every door for a minute
python -m tests.badinput --seconds 600 answer      one of them
python -m tests.badinput --seconds 60 --write      and put the table into docs/reliability-bad-input.md
"""

# ruff: noqa: E501 - tables of what is handed in

import argparse
import importlib.util
import logging
import mmap
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "reliability-bad-input.md"
INPUT_MAX = 16_384
HANGS_S = 20
MEMORY_MB = 3_072
BEGIN, END = "<!-- what was tried -->", "<!-- end -->"


class Tried(NamedTuple):
    """What came of one door."""

    door: str
    what: str
    inputs: int
    taken: int
    trouble: str


class Counter:
    """Two numbers that outlive the process that counts."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(16))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 16)
        self.tried, self.taken = struct.unpack("QQ", self._map[:16])

    def count(self, *, taken: bool) -> None:
        self.tried += 1
        self.taken += taken
        self._map[:16] = struct.pack("QQ", self.tried, self.taken)


def knock_on(name: str, seconds: int, folder: Path) -> None:
    """Be the process that knocks at one door until the time is over, something falls, hangs, or takes too much memory."""
    logging.disable(logging.CRITICAL)
    if importlib.util.find_spec("atheris") is None:
        _knock_at_random(name, seconds, folder)
        return
    import atheris

    with atheris.instrument_imports(include=["copier"]):
        from tests.badinput.doors import DOORS, knock
    door, counter = DOORS[name], Counter(folder / "count")
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(door.seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    words = folder / "words"
    words.write_text(
        "".join('"' + "".join(f"\\x{byte:02x}" for byte in word[:60]) + '"\n' for word in door.words), encoding="ascii"
    )

    def one(data: bytes) -> None:
        counter.count(taken=knock(door, data))

    options = [
        f"-max_total_time={seconds}", f"-max_len={INPUT_MAX}", f"-timeout={HANGS_S}", f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={folder}/", "-verbosity=0", *([f"-dict={words}"] if door.words else []),
    ]  # fmt: skip

    def mutate(data: bytes, size_max: int, seed: int) -> bytes:
        # Decoders written in C show no coverage: what they are given must keep its form most of the time.
        chance = random.Random(seed)
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, size_max))
        return mutated(chance, (*door.seeds, data) if data else door.seeds, door.words)[:size_max]

    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def _knock_at_random(name: str, seconds: int, folder: Path) -> None:
    from tests.badinput.doors import DOORS, knock

    door, counter, chance = DOORS[name], Counter(folder / "count"), random.Random(time.time_ns())
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MB << 20, MEMORY_MB << 20))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = mutated(chance, door.seeds, door.words)
        (folder / "crash-last").write_bytes(data)
        signal.alarm(HANGS_S)
        counter.count(taken=knock(door, data))
    signal.alarm(0)
    (folder / "crash-last").unlink(missing_ok=True)


TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[A-Za-z0-9_.+-]+')
NASTY = (
    b"0", b"-1", b"1e400", b"1e-400", b"1e999999999", b"-1e25", b"0.00000001", b"1e-28", b"9" * 60, b'"NaN"', b'"-Infinity"', b'"sNaN"', b'""',
    b'"\xf0\x9f\x92\xa9"', b'"\\u0000"', b"null", b"true", b"[]", b"{}", b'"1e-999999"', b"1.5", b"100", b"1000000", b'"EURUSD"', b"5",
    b'"2026-01-01T00:00:00Z"', b'"0001-01-01T00:00:00Z"', b'"9999-12-31T23:59:59Z"', b'"sell"', b'"closed"', b"0.3", b"0.1", b"9", b"NaN",
)  # fmt: skip


def mutated(chance: random.Random, seeds: tuple[bytes, ...], words: tuple[bytes, ...]) -> bytes:
    """Return a good input spoilt in a few places: mostly one value for another, so that its form stays, else anywhere."""
    data = bytearray(chance.choice(seeds))
    if chance.random() < 0.7:
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            found = list(TOKENS.finditer(data))
            if found:
                token = chance.choice(found)
                data[token.start() : token.end()] = chance.choice(NASTY + words if chance.random() < 0.3 else NASTY)
        return bytes(data[:INPUT_MAX])
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at, length = chance.randint(0, len(data)), chance.choice((0, 1, 2, 8, 64))
        match chance.randrange(6):
            case 0:
                data[at : at + length] = b""
            case 1:
                data[at : at + length] = chance.randbytes(length)
            case 2:
                data[at:at] = data[at : at + length] * chance.randint(1, 8)
            case 3 if words:
                data[at : at + length] = chance.choice(words)
            case 4:
                data[at:at] = chance.choice(seeds)[: chance.randint(0, 200)]
            case _:
                data[at:] = data[at : at + chance.choice((0, 50, 5_000))]
    return bytes(data[:INPUT_MAX])


def main() -> int:
    """Knock at every door that was named, tell what came of it, and return 1 if anything fell."""
    from tests.badinput.doors import DOORS

    words = argparse.ArgumentParser(prog="python -m tests.badinput", description=__doc__)
    words.add_argument("doors", nargs="*", help=f"of {', '.join(DOORS)}; none named is all")
    words.add_argument("--seconds", type=int, default=20, help="for each door")
    words.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    words.add_argument("--inside", default="", help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.inside:
        knock_on(asked.doors[0], asked.seconds, Path(asked.inside))
        return 0
    if strangers := set(asked.doors) - DOORS.keys():
        words.error(f"no such door: {', '.join(sorted(strangers))}")
    results = []
    for name in asked.doors or DOORS:
        results.append(_run(name, DOORS[name].what, asked.seconds))
        sys.stdout.write(_line(results[-1]) + "\n")
        sys.stdout.flush()
    if asked.write:
        write(results, asked.seconds)
    return int(any(result.trouble for result in results))


def _run(name: str, what: str, seconds: int) -> Tried:
    with tempfile.TemporaryDirectory(prefix="mt-copier-badinput-") as place:
        folder = Path(place)
        command = [sys.executable, "-m", "tests.badinput", name, "--seconds", str(seconds), "--inside", place]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
        trouble = ""
        if done.returncode:
            said = re.findall(r"Fallen: .*|ERROR: .*|.*Error: .*", done.stderr) or done.stderr.splitlines()[-3:]
            trouble = (said[-1] if said else f"ended with {done.returncode}")[:500]
            for path in [*folder.glob("crash-*"), *folder.glob("timeout-*"), *folder.glob("oom-*")]:
                kept = Path(tempfile.gettempdir()) / f"mt-copier-{name}-{path.name}"
                kept.write_bytes(path.read_bytes())
                trouble += f" (input kept in {kept})"
        counter = Counter(folder / "count")
        return Tried(name, what, counter.tried, counter.taken, trouble)


def _line(tried: Tried) -> str:
    return f"{tried.door:10} {tried.inputs:>10,} tried {tried.taken:>10,} taken  {tried.trouble or 'nothing fell'}"


def write(results: list[Tried], seconds: int) -> None:
    """Put what was tried into the document, between its two marks."""
    guided = "guided by coverage (atheris)" if importlib.util.find_spec("atheris") else "at random"
    rows = [
        f"{seconds} seconds for each door, {guided}, on {time.strftime('%Y-%m-%d', time.gmtime())}:",
        "",
        "| door | what comes in | inputs | taken | refused with the door's own error | ended otherwise |",
        "|---|---|---|---|---|---|",
        *(
            f"| `{r.door}` | {r.what} | {r.inputs:,} | {r.taken:,} | {r.inputs - r.taken:,} | {'yes: ' + r.trouble if r.trouble else '0'} |"
            for r in results
        ),
        "",
        f"Together {sum(r.inputs for r in results):,} inputs.",
    ]
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
