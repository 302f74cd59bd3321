"""What integration tests the client for Python with: see sdk/go/conformance/host."""

import asyncio
import json
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../python"))
sys.dont_write_bytecode = True

import cordon  # noqa: E402
import cordon_host  # noqa: E402

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def say(what, value=None):
    print(what, json.dumps(value), flush=True)


def told(err):
    return {"code": err.code, "plugin": err.from_plugin, "named": bool(err.request_id), "data": err.data}


def outcome(fn, *args, **more):
    try:
        return [fn(*args, **more), None]
    except cordon_host.HostError as err:
        return [None, told(err)]


client = cordon_host.Client(sys.argv[1])
say("about", outcome(client.call, "asker", "about", {"a": [1]}, traceparent=TRACE, request_id="req-7"))
say("fail", outcome(client.call, "asker", "fail")[1])
say("nobody", outcome(client.call, "nobody", "fail")[1])


async def late():
    try:
        await client.acall("asker", "wait", timeout=0.1)
    except cordon_host.HostError as err:
        return told(err)


say("deadline", asyncio.run(late()))
cancel, result = client.begin("asker", "wait")
threading.Timer(0.1, cancel).start()
say("cancel", outcome(result)[1])
while (n := client.call("asker", "cancelled")) < 2:
    pass
say("cancelled", n)
say("list", outcome(lambda: [{"Name": p["name"], "State": p["state"]} for p in client.do("plugin.list")]))

stream, theirs = cordon.Stream.pair()
writer = threading.Thread(target=lambda: (stream.write(bytes(3 << 20)), stream.end()))
writer.start()
result, files = client.call_files("asker", "swallow", files=[theirs], accept=1)
say("stream", [result, os.pread(files[0].fileno(), 100, 0).decode()])
writer.join()
files[0].close()
stream.close()
say("hole", outcome(client.call_files, "asker", "swallow", files=[open("/etc/hostname", "rb")])[1])

stop = threading.Event()
price = cordon_host.Function("shop.price", lambda params, ctx: {"plugin": ctx.plugin, "params": params, "request_id": ctx.request_id})
serving = threading.Thread(target=client.serve, args=([price], stop))
serving.start()
for event in client.events():
    if event["kind"] == "serving":
        break
say("events")
say("served", outcome(client.call, "asker", "price", {"item": "tea"}, request_id="req-8"))
stop.set()
serving.join()

say("away")
say("back", client.call("asker", "twice", {"who": "python"}, timeout=300, idempotent=True))
client.close()
