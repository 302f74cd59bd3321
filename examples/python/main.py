"""A plugin in Python, with the standard library alone: it counts words.

The host speaks first, over the socket at descriptor 3. Every message is a
4-byte big-endian length and then that many bytes of JSON-RPC 2.0.
"""

import collections
import json
import struct

INCOMING = open(3, "rb", closefd=False)
OUTGOING = open(3, "wb", closefd=False)


def hello(params):
    """The first call of every connection: who we are and what we answer."""
    return {"api": 1, "name": "words", "version": "1.0.0"}


def count(params):
    """How many words a text has, and which five are the most frequent."""
    words = params["text"].lower().split()
    return {"words": len(words), "most": collections.Counter(words).most_common(5)}


def shutdown(params):
    """The last call: the host closes the socket after our answer."""
    return {}


METHODS = {"cordon.hello": hello, "cordon.shutdown": shutdown, "words.count": count}


def answer(request):
    """The reply to one request, whatever it asks."""
    reply = {"jsonrpc": "2.0", "id": request["id"]}
    method = METHODS.get(request["method"])
    if method is None:
        return reply | {"error": {"code": -32601, "message": "cannot find method " + request["method"]}}
    try:
        return reply | {"result": method(request.get("params") or {})}
    except (KeyError, TypeError, AttributeError) as err:
        return reply | {"error": {"code": -32602, "message": f"cannot use these params: {err!r}"}}


def receive():
    """The next message, or None when the host has closed the socket."""
    header = INCOMING.read(4)
    if len(header) < 4:
        return None
    (size,) = struct.unpack(">I", header)
    return json.loads(INCOMING.read(size))


def send(message):
    """Writes one message, whole."""
    body = json.dumps(message).encode()
    OUTGOING.write(struct.pack(">I", len(body)) + body)
    OUTGOING.flush()


while (message := receive()) is not None:
    if "method" in message and "id" in message:  # a notification wants no answer
        send(answer(message))
