"""A hostile plugin: it answers like any other until its method "attack" is called.

The attack: attach to process 1, to read and write its memory.
"""

import json
import ctypes
import sys

PTRACE_ATTACH = 16  # ptrace(2)


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(PTRACE_ATTACH, 1, None, None) == 0:
        return "attached"
    return f"refused: errno {ctypes.get_errno()}"


for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    result = attack() if request.get("method") == "attack" else "at your service"
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
