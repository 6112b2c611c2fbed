"""Redis users for an ACL file: one per role, which can do what its role does and nothing else."""

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from copier.errors import CopierError, SettingsError
from copier.model import Record
from copier.settings import Settings
from copier.stream import KEY

_CONNECT = "+ping +time"
_PUBLISH = "+xadd +xrange"
_READ = "+xread +xrevrange"


class RedisUser(Record, frozen=True, kw_only=True):
    """One user: what it may do, and to which streams."""

    name: str
    password: str
    rules: str

    @property
    def line(self) -> str:
        """Its line in the ACL file, with the password's hash only."""
        digest = hashlib.sha256(self.password.encode()).hexdigest()
        return f"user {self.name} on #{digest} resetkeys resetchannels -@all {self.rules}"

    def url(self, redis: str) -> str:
        """Return the address to log in with at a Redis."""
        parts = urlsplit(redis)
        where = f"{self.name}:{quote(self.password, safe='')}@{parts.netloc.rpartition('@')[2]}"
        return urlunsplit((parts.scheme, where, parts.path or "/0", parts.query, ""))


def redis_users(settings: Settings, workers: Mapping[str, Sequence[str]]) -> list[RedisUser]:
    """Return a user per watcher and worker, one for everything in one process, and one that only looks.

    `workers` names each worker's followers; none of them is all. Raise `SettingsError` for a follower that is not there.
    """
    users = [_user(f"watcher-{master}", f"{_PUBLISH} {_READ} {_streams('RW', [master])}") for master in settings.masters]
    for worker, names in (workers or {"main": ()}).items():
        strangers = [name for name in names if name not in settings.followers]
        if strangers:
            raise SettingsError(
                [f"follower {name}: expected one of {', '.join(settings.followers)}" for name in strangers], source="command"
            )
        followers = [settings.followers[name] for name in names or settings.followers]
        masters = sorted({copy.master for follower in followers for copy in follower.copies})
        users.append(_user(f"worker-{worker}", f"{_READ} {_streams('R', masters)}"))
    users.append(_user("everything", f"{_PUBLISH} {_READ} {_streams('RW', sorted(settings.masters))}"))
    users.append(_user("reader", f"+xlen +xinfo|stream +xrevrange {_streams('R', sorted(settings.masters))}"))
    return users


def _user(name: str, rules: str) -> RedisUser:
    return RedisUser(name=name, password=secrets.token_urlsafe(32), rules=f"{_CONNECT} {rules}")


def _streams(access: str, masters: Sequence[str]) -> str:
    return " ".join(f"%{access}~{KEY.format(master)}" for master in masters)


def write(users: Sequence[RedisUser], redis: str, folder: Path) -> list[Path]:
    """Write `users.acl` and each user's address into files that only their owner may read; none of them may be there yet.

    `redis` is where Redis is, such as `rediss://redis.example:6380/0`; what it says of a user is left out.
    """
    acl = "\n".join(["user default off resetkeys resetchannels -@all", *(user.line for user in users), ""])
    texts = {"users.acl": acl, **{f"{user.name}.url": user.url(redis) + "\n" for user in users}}
    there = [name for name in texts if (folder / name).exists()]
    if there:
        raise CopierError(f"{folder} already has {', '.join(there)}; expected a new folder, passwords are not overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with open(os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
    return [folder / name for name in texts]
