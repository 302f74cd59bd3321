"""The plugin that ../conformance tests this library with.

CORDON_ASYNC=1 has async handlers in place of plain ones. With the argument
"many" it serves, for each line "KEY PATH" of standard input, whoever listens
there, and then prints "KEY BREACH".
"""

import asyncio
import logging
import os
import socket
import sys
import threading

import cordon

logging.disable()
ASYNC = bool(os.environ.get("CORDON_ASYNC"))


def failure(params):
    return cordon.Error(params["code"], params["message"], params.get("data"))


def make():
    plugin = cordon.Plugin("conformance", "1.0.0")
    notes = []

    for name in ("note", "task.dropped", "task.lost"):
        plugin.notification(name)(lambda params, ctx: notes.append(params))

    @plugin.method("files")
    def files(params, ctx):
        came = ctx.take_files()
        for file in came:
            file.close()
        return len(came)

    @plugin.notification("crash")
    def crash_note(params, ctx):
        raise RuntimeError("as asked")

    (asynchronous if ASYNC else plain)(plugin, notes)
    return plugin


def about(ctx):
    return {"traceparent": ctx.traceparent, "request_id": ctx.request_id, "deadline": ctx.deadline is not None}


def task_of(params):
    return params["method"], params.get("params"), params.get("priority", 0), params.get("within_ms", 30000) / 1000


def plain(plugin, notes):
    plugin.method("about")(lambda params, ctx: about(ctx))
    plugin.method("submit")(lambda params, ctx: ctx.submit(*task_of(params)))
    plugin.method("drop")(lambda params, ctx: ctx.cancel_task(params["task"]))
    plugin.method("echo")(lambda params, ctx: params)
    plugin.method("sink")(lambda params, ctx: None)
    plugin.method("big")(lambda params, ctx: "x" * params["bytes"])
    plugin.method("notes")(lambda params, ctx: notes)
    plugin.method("ask")(lambda params, ctx: ctx.call(params["method"], params.get("params")))
    plugin.method("tell")(lambda params, ctx: ctx.notify(params["method"], params.get("params")))

    @plugin.method("fail")
    def fail(params, ctx):
        raise failure(params)

    @plugin.method("crash")
    def crash(params, ctx):
        raise RuntimeError("as asked")

    @plugin.method("wait")
    def wait(params, ctx):
        ctx.wait()
        ctx.check()


def asynchronous(plugin, notes):
    @plugin.method("echo")
    async def echo(params, ctx):
        return params

    @plugin.method("sink")
    async def sink(params, ctx):
        return None

    @plugin.method("big")
    async def big(params, ctx):
        return "x" * params["bytes"]

    @plugin.method("notes")
    async def all_notes(params, ctx):
        return notes

    @plugin.method("ask")
    async def ask(params, ctx):
        return await ctx.acall(params["method"], params.get("params"))

    @plugin.method("about")
    async def about_it(params, ctx):
        return about(ctx)

    @plugin.method("submit")
    async def submit(params, ctx):
        return await ctx.asubmit(*task_of(params))

    @plugin.method("drop")
    async def drop(params, ctx):
        return await ctx.acancel_task(params["task"])

    @plugin.method("tell")
    async def tell(params, ctx):
        ctx.notify(params["method"], params.get("params"))

    @plugin.method("fail")
    async def fail(params, ctx):
        raise failure(params)

    @plugin.method("crash")
    async def crash(params, ctx):
        raise RuntimeError("as asked")

    @plugin.method("wait")
    async def wait(params, ctx):
        await asyncio.Event().wait()


def serve(sock=None):
    """Returns the breach that the connection ended for, "" for none."""
    try:
        if ASYNC:
            asyncio.run(make().run_async(sock))
        else:
            make().run(sock)
    except cordon.ProtocolError as err:
        return err.code
    return ""


def serve_one(key, path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    end = serve(sock)
    os.write(1, f"{key} {end}\n".encode())  # at once, beside other threads


if sys.argv[1:] == ["many"]:
    for line in sys.stdin:
        threading.Thread(target=serve_one, args=line.split(), daemon=True).start()
else:
    print("end:", serve(), flush=True)
os._exit(0)  # whatever a handler still waits for
