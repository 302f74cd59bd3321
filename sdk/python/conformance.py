"""The plugin that ../conformance tests this library with.

CORDON_ASYNC=1 has async handlers in place of plain ones.
"""

import asyncio
import logging
import os

import cordon

logging.disable()
plugin = cordon.Plugin("conformance", "1.0.0")
notes = []


def failure(params):
    return cordon.Error(params["code"], params["message"], params.get("data"))


@plugin.notification("note")
def note(params, ctx):
    notes.append(params)


@plugin.notification("crash")
def crash_note(params, ctx):
    raise RuntimeError("as asked")


def plain():
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


def asynchronous():
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


end = ""
try:
    if os.environ.get("CORDON_ASYNC"):
        asynchronous()
        asyncio.run(plugin.run_async())
    else:
        plain()
        plugin.run()
except cordon.ProtocolError as err:
    end = err.code
print("end:", end, flush=True)
os._exit(0)  # whatever a handler still waits for
