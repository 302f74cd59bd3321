"""A plugin that owns nothing: it signs documents and sends them away.

The document, the key, the count and the connection are all the host's, and it
has each for as long as its grant holds. "cordon audit who" says what it touched.
"""

import hashlib
import hmac
import http.client
import sys

sys.path.insert(0, "/plugin")
import cordon

plugin = cordon.Plugin("clerk", "1.0.0")


@plugin.method("clerk.send")
def send(params, ctx):
    """Signs the document at path and posts it to a server, "host:port"."""
    with ctx.open(params["path"]) as document:
        text = document.read()
    signature = hmac.new(ctx.secret("clerk-key"), text, hashlib.sha256).hexdigest()
    connection = http.client.HTTPConnection("clerk")
    connection.sock = ctx.dial(params["to"])
    connection.request("POST", "/", text, {"Signature": signature})
    answer = connection.getresponse().read().decode()
    connection.close()
    sent = int(ctx.call("kv.get", {"key": "sent"}) or 0) + 1
    ctx.call("kv.put", {"set": {"sent": str(sent)}})
    return {"answer": answer, "sent": sent}


plugin.main()
