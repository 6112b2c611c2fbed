"""The child process of a manager connection, as the engine starts it: it hands every frame on to the broker's process and back.

Arguments: the broker's port; what follows them is for the real child. Runs without the product and without site packages.
"""

import os
import socket
import sys
import threading


def pump(link: socket.socket) -> None:
    while chunk := link.recv(65_536):
        os.write(1, chunk)
    os._exit(0)


with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as broker:
    threading.Thread(target=pump, args=(broker,), daemon=True).start()
    while chunk := os.read(0, 65_536):
        broker.sendall(chunk)
os._exit(0)
