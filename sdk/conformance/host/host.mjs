// What integration tests the client for Node.js with: see sdk/go/conformance/host.
// Node.js sends no descriptors, so it has no stream of its own.
import { once } from "node:events";
import { Client, HostError } from "../../node/host.mjs";

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const say = (what, v) => process.stdout.write(`${what} ${JSON.stringify(v ?? null)}\n`);
const told = (err) => (err instanceof HostError ? { code: err.code, plugin: err.fromPlugin, named: !!err.requestId, data: err.data ?? null } : String(err));
const outcome = (p) => p.then((r) => [r, null], (err) => [null, told(err)]);

const client = await Client.connect(process.argv[2]);
say("about", await outcome(client.call("asker", "about", { a: [1] }, { traceparent: trace, requestId: "req-7" })));
say("fail", (await outcome(client.call("asker", "fail")))[1]);
say("nobody", (await outcome(client.call("nobody", "fail")))[1]);
say("deadline", (await outcome(client.call("asker", "wait", undefined, { timeout: 100 })))[1]);
const caller = new AbortController();
setTimeout(() => caller.abort(new HostError({ code: -32003, message: "enough" }, "x")), 100);
say("cancel", (await outcome(client.call("asker", "wait", undefined, { signal: caller.signal })))[1]);
let n;
while ((n = await client.call("asker", "cancelled")) < 2);
say("cancelled", n);
say("list", await outcome(client.do("plugin.list").then((all) => all.map(({ name, state }) => ({ Name: name, State: state })))));

const stop = new AbortController();
const served = client.serve([{
  name: "shop.price", params: true, result: true,
  call: (params, ctx) => ({ plugin: ctx.plugin, params, request_id: ctx.requestId }),
}], { signal: stop.signal });
for await (const event of client.events()) if (event.kind === "serving") break;
say("events", null);
say("served", await outcome(client.call("asker", "price", { item: "tea" }, { requestId: "req-8" })));
stop.abort();
await served;

say("away", null);
say("back", await client.call("asker", "twice", { who: "node" }, { timeout: 300_000, idempotent: true }));
await client.close();
