"""A hostile plugin: it answers like any other until its method "attack" is called.

The attack: all the memory there is. Never run it bare.
"""

import json
import sys


def attack():
    hoard = []
    while True:
        hoard.append(bytearray(1 << 20))


for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    result = attack() if request.get("method") == "attack" else "at your service"
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
