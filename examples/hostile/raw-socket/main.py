"""A hostile plugin: it answers like any other until its method "attack" is called.

The attack: a raw socket, to read and forge packets.
"""

import json
import socket
import sys


def attack():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except OSError as err:
        return f"refused: {err}"
    return "opened"


for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    result = attack() if request.get("method") == "attack" else "at your service"
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
