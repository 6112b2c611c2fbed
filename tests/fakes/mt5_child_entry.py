"""Runs the child with a MetaTrader5 package whose every call is answered by the test that started it, over a socket."""

import json
import os
import socket
import sys
import types
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def _package(port: int) -> types.ModuleType:
    from tests.fakes.mt5_structs import from_plain

    lines = socket.create_connection(("127.0.0.1", port)).makefile("rwb")

    class Package(types.ModuleType):
        __version__ = "5.0.6231"

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)

            def call(*args: Any, **keywords: Any) -> Any:
                lines.write(json.dumps({"name": name, "args": args, "keywords": keywords}).encode() + b"\n")
                lines.flush()
                answer = json.loads(lines.readline())
                if "error" in answer:
                    raise {"TypeError": TypeError, "AttributeError": AttributeError}[answer["error"]](answer["text"])
                return from_plain(answer["value"])

            return call

    return Package("MetaTrader5")


if __name__ == "__main__":
    sys.modules["MetaTrader5"] = _package(int(sys.argv[1]))
    from copier.gateways import mt5_child

    os._exit(mt5_child.main())
