"""Accounts of kind `mt5-manager`: many logins behind one manager connection, which lives in one child process for all of them."""

import asyncio
import contextlib
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

from copier.clock import Clock
from copier.gateway import GatewayFacts
from copier.gateways.carriers import Carrier, ChildCarrier, Link, LinkLost, NotSent
from copier.gateways.manager_connection import ManagerOpening
from copier.gateways.mt5 import _report
from copier.gateways.remote import RemoteGateway
from copier.settings import Mt5ManagerSettings

CHILD = ("-m", "copier.gateways.mt5_manager_child")


class Managers:
    """Manager connections by what they connect to: accounts that name the same manager share one while any of them lives."""

    def __init__(self, command: Sequence[str] = ()) -> None:
        """`command` starts a child where it is not the usual one."""
        self._command = tuple(command)
        self._children: weakref.WeakValueDictionary[tuple[object, ...], ManagerChild] = weakref.WeakValueDictionary()

    def gateway(self, settings: Mt5ManagerSettings, clock: Clock) -> RemoteGateway:
        """Return a gateway, not yet open, to one login."""
        opening = ManagerOpening(
            account=f"{settings.login}@{settings.server}",
            address=settings.address,
            manager=int(settings.manager),
            password=settings.password.get_secret_value(),
            folder=str(Path(settings.folder).absolute()),
            connect_timeout_s=float(settings.connect_timeout_s),
            call_timeout_s=float(settings.call_timeout_s),
            dealing=settings.dealing,
        )
        command = self._command or (*(settings.python or (sys.executable,)), *CHILD)
        key = (settings.address, settings.manager, str(settings.folder), command)
        child = self._children.get(key)
        if child is None:
            name = f"manager {settings.manager} at {settings.address}"
            child = self._children[key] = ManagerChild(ChildCarrier(command, report=_report(name)))
        return manager_gateway(child, opening, settings, clock)


def manager_gateway(child: "ManagerChild", opening: ManagerOpening, settings: Mt5ManagerSettings, clock: Clock) -> RemoteGateway:
    """Return a gateway to one login of a child."""
    facts = GatewayFacts(
        kind="mt5-manager",
        settle_s=float(settings.settle_s),
        call_timeout_s=opening.call_timeout_s,
        tags_survive=settings.tags_survive,
    )
    login = opening.account.partition("@")[0]
    return RemoteGateway(
        LoginCarrier(child, login, opening.call_timeout_s),
        facts,
        opening,
        clock=clock,
        # The child serves one login's calls one by one; what waits here is surely not sent if it dies.
        in_flight_max=1,
        open_timeout_s=opening.connect_timeout_s + 10.0,
    )


class ManagerChild:
    """One process for one manager connection: links of many logins over the one link to it.

    An overdue answer for one login ends nobody else: the process is killed only when it has said nothing at all since that call
    was sent.
    """

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._joining = asyncio.Lock()
        self._link: Link | None = None
        self._reader: asyncio.Task[None] | None = None
        self._logins: dict[str, LoginLink] = {}
        self.heard_s = 0.0

    async def join(self, login: str, call_timeout_s: float) -> "LoginLink":
        """Return a link of one login, starting the process for the first; raise `LinkLost`."""
        async with self._joining:
            if self._link is None:
                if self._reader is not None:
                    await asyncio.gather(self._reader, return_exceptions=True)
                self._link = await self._carrier.connect()
                self._reader = asyncio.create_task(self._read(self._link), name="manager's child")
            former = self._logins.get(login)
            if former is not None:
                former.lost("another link to this login was made")
            self._logins[login] = joined = LoginLink(self, login, call_timeout_s)
            return joined

    async def send(self, login: str, frame: bytes) -> None:
        """Send one login's frame."""
        if self._link is None:
            raise NotSent("the manager's process has ended")
        await self._link.send(login.encode() + b" " + frame)

    def overdue(self, call_timeout_s: float) -> None:
        """Hear that an answer is overdue; a process that has been silent ever since it was due is killed."""
        silent_s = asyncio.get_running_loop().time() - self.heard_s
        if self._link is not None and silent_s >= call_timeout_s:
            self._link.overdue()

    async def leave(self, link: "LoginLink") -> None:
        """Let one login go; with the last of them the process ends."""
        async with self._joining:
            if self._logins.get(link.login) is not link:
                return
            del self._logins[link.login]
            if not self._logins:
                await self._end()

    async def _end(self) -> None:
        link, self._link = self._link, None
        reader, self._reader = self._reader, None
        if link is not None:
            await link.close()
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                line = await link.receive()
                self.heard_s = loop.time()
                login, _, frame = line.partition(b" ")
                joined = self._logins.get(login.decode("ascii", "replace"))
                if joined is not None and frame:
                    joined.frames.put_nowait(frame)
        except LinkLost as error:
            if self._link is link:
                self._link = None
            for joined in self._logins.values():
                joined.lost(str(error))
            with contextlib.suppress(OSError):
                await link.close()


class LoginLink:
    """One life of a login's way to the child."""

    def __init__(self, child: ManagerChild, login: str, call_timeout_s: float) -> None:
        self.login = login
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._child = child
        self._call_timeout_s = call_timeout_s
        self._lost = ""

    async def send(self, frame: bytes) -> None:
        """Send one frame; raise `NotSent`, or `LinkLost` once part of it may have left."""
        if self._lost:
            raise NotSent(self._lost)
        await self._child.send(self.login, frame)

    async def receive(self) -> bytes:
        """Return the next frame; raise `LinkLost` when no more will come."""
        frame = await self.frames.get()
        if frame is None:
            raise LinkLost(self._lost)
        return frame

    def lost(self, why: str) -> None:
        """Hear that no more frames will come."""
        if not self._lost:
            self._lost = why
            self.frames.put_nowait(None)

    def overdue(self) -> None:
        """Hear that a call had no answer by its deadline: this login starts afresh, the others go on."""
        self._child.overdue(self._call_timeout_s)
        self.lost("a call had no answer by its deadline")

    async def close(self) -> None:
        """Let the login go."""
        self.lost("it was closed")
        await self._child.leave(self)


class LoginCarrier:
    """The way to one login: joins the child all logins of its manager share."""

    def __init__(self, child: ManagerChild, login: str, call_timeout_s: float) -> None:
        self._child = child
        self._login = login
        self._call_timeout_s = call_timeout_s

    async def connect(self) -> Link:
        """Return a new link; raise `LinkLost`."""
        return await self._child.join(self._login, self._call_timeout_s)

    async def close(self) -> None:
        """Nothing lies about."""
