"""The Windows half of the named pipe, on stand-ins for what only Windows has: which pipes it makes, and when."""

import asyncio
import ctypes
import importlib.util
import socket
import sys
from ctypes import wintypes
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import copier.gateways.bridge_pipe as here
from copier.gateways.carriers import LinkLost

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there the real one is used")
FIRST, OVERLAPPED, DUPLEX, REJECT_REMOTE = 0x80000, 0x40000000, 3, 8


class Handle:
    """A pipe's handle: who connects is the other end of a pair of sockets."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.closed = False
        self.ours, self.theirs = socket.socketpair()
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def close(self) -> None:
        self.closed = True
        self.ours.close()
        self.theirs.close()


class Windows:
    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []
        self.handles: list[Handle] = []
        self.described = ""

    def create(self, *arguments: Any) -> int:
        self.made.append(arguments)
        return len(self.made)

    def handle(self, number: int) -> Handle:
        self.handles.append(Handle(number))
        return self.handles[-1]

    def describe(self, text: str, revision: int, descriptor: Any, size: None) -> int:
        self.described = text
        descriptor._obj.value = 4711
        return 1


def _sid(sid: int, text: Any) -> int:
    text._obj.value = "S-1-5-21-1-2-3-1001"
    return 1


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> tuple[Windows, Any]:
    """Import the module as on Windows."""
    system = Windows()
    constants = {"PIPE_ACCESS_DUPLEX": DUPLEX, "FILE_FLAG_OVERLAPPED": OVERLAPPED, "FILE_FLAG_FIRST_PIPE_INSTANCE": FIRST}
    winapi = ModuleType("_winapi")
    vars(winapi).update(constants | {"PIPE_WAIT": 0, "PIPE_UNLIMITED_INSTANCES": 255, "CreateNamedPipe": system.create})
    utils = ModuleType("asyncio.windows_utils")
    vars(utils)["PipeHandle"] = system.handle

    class Call:
        def __init__(self, act: Any) -> None:
            self.act = act

        def __call__(self, *arguments: Any) -> Any:
            return self.act(*arguments)

    done = Call(lambda *_: 1)
    library = SimpleNamespace(
        ConvertStringSecurityDescriptorToSecurityDescriptorW=Call(system.describe),
        OpenProcessToken=done,
        GetTokenInformation=done,
        ConvertSidToStringSidW=Call(_sid),
        GetCurrentProcess=done,
        CloseHandle=done,
    )
    monkeypatch.setitem(sys.modules, "_winapi", winapi)
    monkeypatch.setitem(sys.modules, "asyncio.windows_utils", utils)
    monkeypatch.setattr(asyncio, "windows_utils", utils, raising=False)
    monkeypatch.setattr(ctypes, "WinDLL", lambda name, use_last_error: library, raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    spec = importlib.util.spec_from_file_location("bridge_pipe_on_windows", here.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.undo()
    monkeypatch.setattr(ctypes, "WinDLL", lambda name, use_last_error: library, raising=False)
    return system, module


def play(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the running loop what a proactor's has."""
    loop: Any = asyncio.get_running_loop()

    async def accept(pipe: Handle) -> Handle:
        await pipe.connected
        return pipe

    monkeypatch.setattr(loop, "_proactor", SimpleNamespace(accept_pipe=accept), raising=False)
    duplex = lambda pipe, protocol: loop._make_socket_transport(pipe.ours, protocol)  # noqa: E731
    monkeypatch.setattr(loop, "_make_duplex_pipe_transport", duplex, raising=False)


async def test_two_instances_wait_and_each_that_is_taken_is_replaced(
    windows: tuple[Windows, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    system, module = windows
    play(monkeypatch)
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    links = []

    async def attend(link: Any, who: str) -> None:
        links.append(link)
        heard.put_nowait(await link.receive())

    listener = module.PipeListener("mt-copier")
    await listener.open(attend)
    assert [arguments[0] for arguments in system.made] == [r"\\.\pipe\mt-copier"] * 2
    for number in range(3):
        handle = system.handles[number]
        handle.theirs.send(b'{"hello":%d}\n' % number)
        handle.connected.set_result(None)
        assert await asyncio.wait_for(heard.get(), 5) == b'{"hello":%d}' % number
        assert len(system.made) == number + 3
    await listener.close()
    assert [handle.closed for handle in system.handles] == [False, False, False, True, True]
    for link in links:
        await link.close()
        with pytest.raises(LinkLost):
            await link.receive()
    for handle in system.handles:
        handle.theirs.close()


async def test_the_pipe_is_this_users_alone_of_this_machine_and_nobody_may_have_made_it_before(
    windows: tuple[Windows, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    system, module = windows
    play(monkeypatch)

    async def attend(link: Any, who: str) -> None:
        raise AssertionError

    listener = module.PipeListener("mt-copier")
    await listener.open(attend)
    first, second = system.made
    assert (first[1], second[1]) == (DUPLEX | OVERLAPPED | FIRST, DUPLEX | OVERLAPPED)
    assert first[2] == second[2] == REJECT_REMOTE
    assert system.described == "D:P(A;;GA;;;S-1-5-21-1-2-3-1001)"
    length = wintypes.DWORD.from_address(first[7]).value
    assert length == 2 * ctypes.sizeof(ctypes.c_void_p) + ctypes.sizeof(ctypes.c_void_p)
    await listener.close()
    assert all(handle.closed for handle in system.handles)
