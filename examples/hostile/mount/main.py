"""A hostile plugin: it answers like any other until its method "attack" is called.

The attack: cover /tmp with a file system of its own.
"""

import json
import ctypes
import sys


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
        return "mounted"
    return f"refused: errno {ctypes.get_errno()}"


for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    result = attack() if request.get("method") == "attack" else "at your service"
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
