"""Throws bytes at whatever reads them from outside: the library's readers of answers, and an Expert Advisor's of frames."""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.dll.build import DLL, HERE, need, program
from tests.mql.build import HERE as MQL_HERE
from tests.mql.rewriter import rewrite

FLAGS = ("-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined")
PERMIT = {"token": 1, "notAfterMs": 99_999_999_999_999}
FRAMES = [
    {"id": 1, "op": "open", "params": {"account": "5001@Broker-Demo", "protocol": 1, "token": 1}},
    {"id": 2, "op": "get_positions", "params": {}, "permit": None},
    {"id": 3, "op": "get_quote", "params": {"symbol": "EURUSD"}},
    {"command": "a.1", "id": 4, "op": "execute_trade", "permit": PERMIT,
     "params": {"symbol": "EURUSD", "action": "buy", "lots": 0.3, "slippage": 3, "magic": 0, "comment": "\u20ac", "tag": "mc1"}},
    {"command": "a.2", "id": 5, "op": "close_position", "params": {"ticket": 7, "lots": 0.1, "slippage": 3}, "permit": PERMIT},
    {"command": "a.3", "id": 6, "op": "modify_position", "params": {"ticket": 7, "stopLoss": 1.0}, "permit": PERMIT},
    {"id": 7, "op": "get_deals", "params": {"since": "2024-01-08T12:00:00Z"}},
    {"ping": 1},
    {"challenge": "0f" * 16, "nonce": "0f" * 16, "proof": "0f" * 32},
    {"welcome": True},
    {"refused": "no \"quoted\" \\ words"},
]  # fmt: skip
ANSWERS = [
    b"+OK\r\n:7\r\n", b"$5\r\nhello\r\n*2\r\n:1\r\n$-1\r\n", b"-ERR no\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
]  # fmt: skip


def answers() -> Path:
    """Build the target of the library's readers of Redis' and the web's answers."""
    sources = [str(DLL / name) for name in ("resp.cpp", "http.cpp", "system.cpp")]
    return program(HERE / "fuzz_answers.cpp", need("clang++", "clang"), *FLAGS, *sources, "-ldl", name="answers")


def frames() -> Path:
    """Build the target of an Expert Advisor's session and dispatcher."""
    host = (MQL_HERE / "fuzz_host.cpp").read_text(encoding="ascii")
    headers = "".join(path.read_text(encoding="utf-8") for path in sorted(MQL_HERE.glob("*.h")))
    body = f'#include "{MQL_HERE / "mql.h"}"\n{rewrite(MQL_HERE / "fuzz.mq5")}\n#line 1 "fuzz_host.cpp"\n{host}\n'
    name = hashlib.sha256((body + headers).encode()).hexdigest()[:24]
    source = Path(tempfile.gettempdir()) / f"mt-copier-fuzz-{os.getuid()}-{name}.cpp"
    source.write_text(body, encoding="utf-8")
    flags = (*FLAGS, "-w", "-DMQL_FUZZ", "-D__MQL5__", f"-DCONTENT=0x{name[:8]}")
    return program(source, need("clang++", "clang"), *flags, name="frames")


def seeds(target: str) -> list[bytes]:
    """Return where a target begins."""
    if target == "answers":
        return [b"\x04" + (b"\x01" if each.startswith(b"HTTP") else b"\x00") + each for each in ANSWERS]
    lines = [json.dumps(each, separators=(",", ":")).encode() + b"\n" for each in FRAMES]
    return [b"\x10" + bytes([kind]) + line for kind in (0, 1) for line in (*lines, b"".join(lines), b"\r\n\n{\n")]


def fuzz(target: str, seconds: int, folder: Path) -> tuple[bool, str]:
    """Run one target from the seeds and what `folder` has kept; return whether it kept its promises, and its last words."""
    made = {"answers": answers, "frames": frames}[target]()
    corpus, begin, common = folder / "corpus", folder / "seeds", folder / "common"
    for each in (corpus, begin, common):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (begin / str(number)).write_bytes(seed)
    words = ["-print_final_stats=1", "-max_len=2000", f"-max_total_time={seconds}", "-timeout=20", f"-artifact_prefix={folder}/"]
    environment = {"PATH": os.environ["PATH"], "MQL_COMMON": str(common), "MQL_FILES": str(common)}
    done = subprocess.run(
        [str(made), *words, str(corpus), str(begin)], env=environment, capture_output=True, timeout=seconds + 120, check=False
    )
    said = done.stderr.decode(errors="replace")
    return done.returncode == 0, said


def runs_of(said: str) -> int:
    """Return how many inputs a target has had."""
    found = re.search(r"stat::number_of_executed_units: *(\d+)", said)
    return int(found[1]) if found else 0


def main() -> int:
    """Run both targets and say what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long for each target")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="where inputs are kept from run to run")
    given = parser.parse_args()
    failed = 0
    for target in ("answers", "frames"):
        kept, said = fuzz(target, given.seconds, given.keep / target)
        sys.stdout.write(f"{target}: {runs_of(said)} inputs, {'every promise kept' if kept else said[-3000:]}\n")
        failed += not kept
    return failed


if __name__ == "__main__":
    sys.exit(main())
