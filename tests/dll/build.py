"""Builds the library and its test programs once per content: what is built is kept in a temporary folder."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.conftest import absent
from tests.mql.build import MQL, SANITIZE

HERE = Path(__file__).parent
DLL = MQL / "dll"
SANITIZERS = {
    "address": SANITIZE,
    "thread": "-O1 -g -fsanitize=thread",
}
WINDOWS = {"x64": "x86_64-w64-mingw32", "x86": "i686-w64-mingw32"}
FOLDERS = {"x64": "mt5", "x86": "mt4"}


def need(program: str, package: str) -> str:
    """Return where a program is; skip the test without it, or fail it where everything must be there."""
    found = shutil.which(program)
    if found is None:
        absent(f"{program} is not installed (Debian, Ubuntu: apt install {package})")
    return found


def library(flags: str = "-O2") -> Path:
    """Return the library as Linux has it."""
    need("g++", "g++")
    return _made("linux", "libcopierlink.so", flags)


def windows_library(bits: str) -> Path:
    """Return the DLL of x64, which MetaTrader 5 loads, or of x86, for MetaTrader 4."""
    need(f"{WINDOWS[bits]}-g++-win32", "mingw-w64")
    return _made("windows", f"{FOLDERS[bits]}/CopierLink.dll", "")


def _made(target: str, name: str, flags: str) -> Path:
    sources = sorted(path for path in DLL.iterdir() if path.is_file())
    folder = _kept(target, flags, *(path.read_bytes() for path in sources))
    if not (folder / name).exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            command = ["make", "-C", str(DLL), target, f"OUT={work}", f"FLAGS={flags}"]
            _run(command)
            shutil.copytree(work, folder, dirs_exist_ok=True)
    return folder / name


def program(source: Path, compiler: str, *flags: str, name: str = "program") -> Path:
    """Return a C++ program built from one of the sources here."""
    sources = [source.read_bytes(), *(path.read_bytes() for path in sorted(DLL.iterdir()) if path.is_file())]
    folder = _kept(compiler, *flags, *sources)
    made = folder / name
    if not made.exists():
        folder.mkdir(exist_ok=True)
        working = folder / f"{os.getpid()}-{name}"
        _run([compiler, "-std=c++17", "-Wall", "-Wextra", str(source), "-o", str(working), *flags])
        working.replace(made)
    return made


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    if done.returncode:
        raise AssertionError(f"{' '.join(command[:4])} ...: {done.stderr[:3000]}")


def _kept(*parts: str | bytes) -> Path:
    name = hashlib.sha256(b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"mt-copier-dll-{os.getuid() if hasattr(os, 'getuid') else 0}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / name
