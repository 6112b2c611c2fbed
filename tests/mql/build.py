"""Builds MQL sources with g++ through the rewriter, once per content: what is built is kept in a temporary folder."""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.mql.rewriter import rewrite

HERE = Path(__file__).parent
MQL = Path(os.environ.get("COPIER_MQL", HERE.parent.parent / "mql"))
"""The sources; a hunt for mutants names a broken copy of them."""
FLAGS = ("-std=c++17", "-O0", "-g0", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-class-memaccess")
FLAGS += ("-Wno-unused-const-variable", "-Wno-unused-parameter", "-Wno-unused-variable")
SANITIZED = os.environ.get("COPIER_SANITIZED") == "1"
"""Build what watches its own memory and arithmetic, and dies of a mistake: `make test-sanitized` says so."""
SANITIZE = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
if SANITIZED:
    FLAGS += (*SANITIZE.split(),)
HEADERS = ("mql.h", "mqlnet.h", "mql5.h", "mql4.h")
PLATFORMS = {".mq5": "__MQL5__", ".mq4": "__MQL4__"}


class BuildFailed(Exception):
    """g++ does not take the source."""


def gxx() -> str | None:
    return shutil.which("g++")


@functools.cache
def has_openssl() -> bool:
    """Return whether programs built here can speak TLS: it needs OpenSSL's headers."""
    command = [str(gxx()), "-E", "-x", "c++", "-include", "openssl/ssl.h", os.devnull]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def build(source: Path, *flags: str) -> Path:
    """Return the program an Expert Advisor becomes; raise `BuildFailed` with the compiler's first words."""
    platform = PLATFORMS[source.suffix]
    parts = (HERE / "mql.h").as_uri(), rewrite(source), (HERE / "host.cpp").read_text(encoding="utf-8")
    body = f'#include "{HERE / "mql.h"}"\n{parts[1]}\n#line 1 "host.cpp"\n{parts[2]}'
    headers = "".join((HERE / name).read_text(encoding="utf-8") for name in HEADERS)
    linked = _libraries(body)
    tls = ("-DMQL_TLS", "-lssl", "-lcrypto") if has_openssl() else ()
    content = "\0".join((body, headers, platform, *FLAGS, *tls, *linked, *flags))
    name = hashlib.sha256(content.encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"mt-copier-mql-{os.getuid() if hasattr(os, 'getuid') else 0}"
    program = folder / name
    if program.exists():
        return program
    folder.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        cpp, made = Path(work) / "expert.cpp", Path(work) / "expert"
        cpp.write_text(body, encoding="utf-8")
        command = [str(gxx()), *FLAGS, *flags, f"-D{platform}", str(cpp), "-o", str(made), *tls, *linked]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            raise BuildFailed("\n".join(errors[:20]) or done.stderr[-3000:])
        shutil.copy(made, program.with_suffix(f".{os.getpid()}"))
        program.with_suffix(f".{os.getpid()}").replace(program)
    return program


def _libraries(body: str) -> tuple[str, ...]:
    """Return what a program that imports functions is linked with."""
    if 'extern "C" int CopierVersion' not in body:
        return ()
    from tests.dll.build import library

    return (str(library(SANITIZE) if SANITIZED else library()),)
