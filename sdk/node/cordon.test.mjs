// What the conformance suite does not see: the face that handlers have.
import assert from "node:assert/strict";
import test from "node:test";
import { codes, Harness, Plugin } from "./cordon.mjs";

const words = () => new Plugin("words", "1.0.0");

test("plain and async handlers", async () => {
  const host = await Harness.start(words()
    .method("plain", ({ text }) => text.split(" ").length)
    .method("async", async ({ text }) => text.split(" ").length));
  assert.equal(host.hello.name, "words");
  assert.equal(await host.call("plain", { text: "a b" }), 2);
  assert.equal(await host.call("async", { text: "a b c" }), 3);
  await host.close();
});

test("a deadline travels and is kept", async () => {
  const host = await Harness.start(words()
    .method("left", (params, ctx) => [params, ctx.deadline !== undefined, ctx.traceparent ?? null])
    .method("wait", (_, { signal }) => new Promise((_r, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
    })));
  assert.deepEqual(await host.call("left", { a: 1 }), [{ a: 1 }, false, null]);
  const _meta = { deadline_ms: 60000, traceparent: "00-1-2-01" };
  assert.deepEqual(await host.call("left", { a: 1, _meta }), [{ a: 1 }, true, "00-1-2-01"]);
  await assert.rejects(host.call("wait", { _meta: { deadline_ms: 1 } }), { code: codes.deadline });
  await host.close();
});

test("a cancellation ends the handler", async () => {
  const caller = new AbortController();
  let ended;
  const seen = new Promise((resolve) => { ended = resolve; });
  const host = await Harness.start(words().method("wait", (_, { signal }) => new Promise((_r, reject) => {
    signal.addEventListener("abort", () => { ended(signal.reason.code); reject(signal.reason); });
    caller.abort(new Error("enough"));
  })));
  await assert.rejects(host.call("wait", undefined, { signal: caller.signal }), /enough/);
  assert.equal(await seen, codes.cancelled);
  await host.close();
});

test("the host serves the plugin", async () => {
  const host = await Harness.start(words().method("look", (params, ctx) => {
    ctx.notify("seen", params);
    return ctx.call("kv.get", params);
  }), { methods: { "kv.get": ({ key }) => `value of ${key}` } });
  assert.equal(await host.call("look", { key: "x" }), "value of x");
  assert.deepEqual(host.notified, [{ method: "seen", params: { key: "x" } }]);
  await host.close();
});

test("what is asked of the host says what for", async () => {
  const asked = [];
  const host = await Harness.start(words().method("ask", (params, ctx) => ctx.call("kv.get", params)), {
    methods: { "kv.get": (params, ctx) => { asked.push([params, ctx.traceparent, ctx.requestId]); return 1; } },
  });
  await host.call("ask", { key: "x", _meta: { traceparent: "00-1-2-01", request_id: "r-1" } });
  await host.call("ask");
  assert.deepEqual(asked, [[{ key: "x" }, "00-1-2-01", "r-1"], [undefined, undefined, undefined]]);
  await host.close();
});

test("shutdown runs once all is answered", async () => {
  const order = [];
  let release;
  const released = new Promise((resolve) => { release = resolve; });
  const host = await Harness.start(words()
    .method("slow", async () => { await released; order.push("answered"); })
    .onShutdown(() => { order.push("shut down"); }));
  const slow = host.call("slow");
  const closed = host.close();
  release();
  await slow;
  await closed;
  assert.deepEqual(order, ["answered", "shut down"]);
});

test("a result that is no JSON is an internal error", async (t) => {
  t.mock.method(process.stderr, "write", () => true);
  const host = await Harness.start(words().method("big", () => 1n));
  await assert.rejects(host.call("big"), { code: codes.internal });
  t.mock.restoreAll();
  await host.close();
});
