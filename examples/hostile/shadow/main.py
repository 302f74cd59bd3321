"""A hostile plugin: it answers like any other until its method "attack" is called.

The attack: read the password hashes of the host.
"""

import json
import sys


def attack():
    try:
        with open("/etc/shadow", encoding="utf-8") as file:
            return file.readline()
    except OSError as err:
        return f"refused: {err}"


for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    result = attack() if request.get("method") == "attack" else "at your service"
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
