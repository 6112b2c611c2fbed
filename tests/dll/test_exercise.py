"""A program that uses the library roughly, on Linux, under the sanitizers, and as a DLL of both sizes under Wine."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.dll.build import DLL, HERE, SANITIZERS, WINDOWS, library, need, program, windows_library
from tests.dll.servers import Servers, authority, cut, deaf, echo, redis, web

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
WINE = "/usr/lib/wine/wine64"
SAID = [
    r"loaded: \d\d bits", "arguments: refused", r"pipe: 10000 round trips, median .*", "pipe: closed", "pipe: for its user alone",
    r"tcp: 10000 round trips, median .*", "tcp: 100 connections cut", "tcp: the queue is bounded", "tcp: the links are bounded",
    "http: 20 calls", "redis: 20 messages", "database: .*", r"tls: 1000 round trips, median .*", "tls: another name is refused",
    "tls: a stranger is refused", "unload while busy: .*", "loaded again: works", "all done",
]  # fmt: skip


class Ports:
    def __init__(self, servers: Servers, folder: Path) -> None:
        openssl = need("openssl", "openssl")
        secure, self.authority_pem, self.authority_der = authority(folder, openssl)
        (folder / "other").mkdir()
        stranger, *_ = authority(folder / "other", openssl)
        self.plain = [str(servers.serve(act)) for act in (echo, cut, deaf, web, redis)]
        self.tls = [str(servers.serve(echo, context)) for context in (secure, stranger)]


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    with Servers() as servers:
        yield Ports(servers, tmp_path)


def run(command: list[str], tmp_path: Path, **more: str) -> list[str]:
    environment = {"PATH": os.environ["PATH"], "COPIER_PIPES": str(tmp_path), **more}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=580)
    said = [line for line in done.stdout.splitlines() if not line.startswith("a job says")]
    talks = "wine" in command[0] or "unshare" in command[0]
    assert said[-1:] == ["all done"], (done.stdout[-3000:], done.stderr[-3000:])
    assert talks or done.stderr == "", done.stderr[-3000:]
    return said


def expect(said: list[str], *without: str) -> None:
    wanted = [each for each in SAID if not each.startswith(without or ("nothing",))]
    assert len(said) == len(wanted), said
    assert all(re.fullmatch(each, line) for each, line in zip(wanted, said, strict=True)), said


def test_the_library_does_on_linux_all_that_the_program_asks_of_it(ports: Ports, tmp_path: Path) -> None:
    exercise = program(HERE / "exercise.cpp", need("g++", "g++"), "-O1", "-ldl")
    words = [*ports.plain, *ports.tls, "none"]
    said = run([str(exercise), str(library()), *words], tmp_path, SSL_CERT_FILE=str(ports.authority_pem))
    expect(said)
    assert "database: refused" in said


@pytest.mark.parametrize("kind", SANITIZERS)
def test_no_sanitizer_finds_anything_while_the_library_is_used(ports: Ports, tmp_path: Path, kind: str) -> None:
    flags = SANITIZERS[kind]
    exercise = program(HERE / "exercise.cpp", need("g++", "g++"), *flags.split(), "-ldl")
    words = [*ports.plain, *ports.tls, "none"]
    options = {"ASAN_OPTIONS": "abort_on_error=1", "TSAN_OPTIONS": "halt_on_error=1", "SSL_CERT_FILE": str(ports.authority_pem)}
    expect(run([str(exercise), str(library(flags)), *words], tmp_path, **options))


def need_wine() -> None:
    if not Path(WINE).exists():
        absent("wine64 is not installed (Debian, Ubuntu: apt install wine64 wine)")


def windows_exercise(bits: str) -> Path:
    compiler = need(f"{WINDOWS[bits]}-g++-win32", "mingw-w64")
    return program(HERE / "exercise.cpp", compiler, "-O1", "-static", "-lcrypt32", name="exercise.exe")


def test_the_x64_dll_does_under_wine_all_that_the_program_asks_of_it(ports: Ports, tmp_path: Path) -> None:
    need_wine()
    shutil.copy(windows_library("x64"), tmp_path)
    prefix = {"WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all", "HOME": str(tmp_path)}
    command = [WINE, str(windows_exercise("x64")), "CopierLink.dll", *ports.plain, *ports.tls, "ca.der"]
    said = run(command, tmp_path, **prefix)
    expect(said)
    assert "loaded: 64 bits" in said
    assert "unload while busy: gone" in said


def test_the_x86_dll_does_in_a_32_bit_wine_all_that_the_program_asks_of_it(ports: Ports, tmp_path: Path) -> None:
    root = os.environ.get("COPIER_I386_ROOT")
    if not root:
        pytest.skip("no 32-bit Wine: docs/gateways/dll.md says how to make one, COPIER_I386_ROOT where it is")
    work = Path(root) / "tmp" / "exercise"
    work.mkdir(exist_ok=True)
    shutil.copy(windows_library("x86"), work)
    shutil.copy(windows_exercise("x86"), work)
    inside = "cd /tmp/exercise && exec /usr/lib/wine/wine exercise.exe CopierLink.dll " + " ".join(ports.plain)
    # Wine finds itself by /proc, which a bare chroot has not; a namespace of its own leaves nothing mounted behind.
    enter = 'mount --bind /proc "$0/proc" && exec chroot "$0" env HOME=/root WINEDEBUG=-all sh -c "$1"'
    command = [need("unshare", "util-linux"), "--mount", "sh", "-c", enter, root, inside]
    said = run(command, tmp_path)
    expect(said, "tls")
    assert "loaded: 32 bits" in said
    assert "unload while busy: gone" in said


def promised() -> set[str]:
    return set(re.findall(r"COPIER_CALL (\w+)\(", (DLL / "copier_link.h").read_text(encoding="ascii")))


@pytest.mark.parametrize("bits", WINDOWS)
def test_a_dll_offers_exactly_the_undecorated_names_of_its_header(bits: str) -> None:
    made = windows_library(bits)
    done = subprocess.run([f"{WINDOWS[bits]}-objdump", "-p", str(made)], capture_output=True, text=True, check=True, timeout=60)
    table = done.stdout.split("[Ordinal/Name Pointer] Table")[1].split("\n\n")[0]
    assert set(re.findall(r"\[ *\d+\] (\S+)", table)) == promised()
    assert f"file format {'pei-x86-64' if bits == 'x64' else 'pei-i386'}" in done.stdout


@pytest.mark.parametrize("bits", WINDOWS)
def test_a_dll_needs_nothing_that_windows_does_not_bring(bits: str) -> None:
    made = windows_library(bits)
    done = subprocess.run([f"{WINDOWS[bits]}-objdump", "-p", str(made)], capture_output=True, text=True, check=True, timeout=60)
    libraries = {name.lower() for name in re.findall(r"DLL Name: (\S+)", done.stdout)}
    known = {"advapi32.dll", "crypt32.dll", "kernel32.dll", "msvcrt.dll", "secur32.dll", "winhttp.dll", "ws2_32.dll"}
    assert libraries <= known
    imported = set(done.stdout.split("[Ordinal/Name Pointer]")[0].split())
    assert {"connect", "recv", "CreateNamedPipeW"} <= imported
    assert not {"listen", "accept", "bind", "WSAAccept", "AcceptEx"} & imported


def test_the_same_sources_make_the_same_dll(tmp_path: Path) -> None:
    made = windows_library("x64")
    command = ["make", "-C", str(DLL), f"{tmp_path}/mt5/CopierLink.dll", f"OUT={tmp_path}"]
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    assert (tmp_path / "mt5" / "CopierLink.dll").read_bytes() == made.read_bytes()
