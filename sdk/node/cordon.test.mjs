// What the conformance suite does not see: the face that handlers have.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import http from "node:http";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import test from "node:test";
import { codes, CordonError, Harness, Plugin } from "./cordon.mjs";
import { Client } from "./host.mjs";

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

// fakeHost serves the byte forms from memory: what is sent comes back in capitals.
function fakeHost() {
  const streams = new Map();
  const files = new Map([["/f", Buffer.from("bits")]]);
  const kept = {};
  let last = 0;
  const open = () => {
    const id = String(++last).padStart(32, "0");
    streams.set(id, { bytes: Buffer.alloc(0), ended: false, wake: () => {} });
    return id;
  };
  const methods = {};
  for (const capability of ["net.dial", "net.listen"]) {
    methods[`${capability}.send`] = ({ stream, data = "", end }) => {
      const s = streams.get(stream);
      const bytes = Buffer.from(data, "base64").subarray(0, 1000); // a slow reader takes it in parts
      s.bytes = Buffer.concat([s.bytes, Buffer.from(bytes.toString().toUpperCase())]);
      if (end) s.ended = true;
      s.wake();
      return { sent: bytes.length };
    };
    methods[`${capability}.receive`] = async ({ stream, most, wait_ms }) => {
      const s = streams.get(stream);
      if (s.bytes.length === 0 && !s.ended && wait_ms > 0) await new Promise((resolve) => { s.wake = resolve; });
      const part = s.bytes.subarray(0, most);
      s.bytes = s.bytes.subarray(part.length);
      return part.length === 0 && s.ended ? { data: "", end: true } : { data: part.toString("base64") };
    };
    methods[`${capability}.close`] = ({ stream }) => { streams.get(stream)?.wake(); streams.delete(stream); return {}; };
  }
  let pending = 1;
  return { streams, files, kept, methods: {
    ...methods,
    "net.dial.open": ({ to }) => {
      if (to !== "a.example:80") throw new CordonError(codes.denied, `net.dial ${to} is not granted`);
      return { stream: open(), address: "192.0.2.1:80" };
    },
    "net.listen.open": ({ at }) => ({ stream: open(), address: at }),
    "net.listen.accept": () => (pending-- > 0 ? { stream: open() } : new Promise(() => {})),
    "fs.read": ({ path, offset = 0, length }) => ({ data: files.get(path).subarray(offset, offset + length).toString("base64"), size: files.get(path).length }),
    "fs.write": ({ path, offset, data, create, truncate }) => {
      if (!create && !files.has(path)) throw new CordonError(codes.denied, "no such file");
      const old = truncate ? Buffer.alloc(0) : files.get(path) ?? Buffer.alloc(0);
      const bytes = Buffer.from(data, "base64");
      files.set(path, Buffer.concat([old.subarray(0, offset), bytes, old.subarray(offset + bytes.length)]));
      return {};
    },
    "kv.get": ({ key }) => kept[key] ?? null,
    "kv.put": ({ set }) => { Object.assign(kept, set); return {}; },
    "secret.read": ({ name }) => ({ data: Buffer.from(`secret of ${name}`).toString("base64") }),
    "host.call": ({ function: name, params }) => ({ name, params }),
  } };
}

test("what the host serves is what Node.js has", async () => {
  const fake = fakeHost();
  const host = await Harness.start(words()
    .method("echo", async ({ text }, ctx) => {
      const socket = await ctx.dial("a.example:80");
      socket.end(text);
      let heard = "";
      for await (const chunk of socket) heard += chunk;
      return [heard, socket.remoteAddress, socket.remotePort];
    })
    .method("astray", (_, ctx) => ctx.dial("b.example:80"))
    .method("http", (_, ctx) => new Promise((resolve, reject) => {
      http.get("http://a.example/", { agent: ctx.agent() }, (answer) => resolve(answer)).on("error", reject);
    }))
    .method("listen", async (_, ctx) => {
      const listener = await ctx.listen("127.0.0.1:80");
      const [stream] = await once(listener, "connection");
      stream.write("x");
      const [byte] = await once(stream, "data");
      return [listener.address, byte.toString()];
    })
    .method("files", async (_, ctx) => {
      const file = ctx.open("/f");
      const before = await file.readFile("utf8");
      await pipeline(["a".repeat(300_000), "b"], file.createWriteStream());
      let size = 0;
      for await (const chunk of file.createReadStream()) size += chunk.length;
      await ctx.open("/g").writeFile("new");
      return [before, size, await file.size()];
    })
    .method("rest", async (_, ctx) => {
      await ctx.kv.put({ a: "1" });
      return [await ctx.kv.get("a"), (await ctx.secret("k")).toString(), await ctx.hostCall("f", 1)];
    }), { methods: fake.methods });
  const text = "hello ".repeat(1000);
  assert.deepEqual(await host.call("echo", { text }), [text.toUpperCase(), "192.0.2.1", 80]);
  await assert.rejects(host.call("astray"), { code: codes.denied });
  await assert.rejects(host.call("http")); // what comes back in capitals is no HTTP
  assert.deepEqual(await host.call("listen"), ["127.0.0.1:80", "X"]);
  assert.deepEqual(await host.call("files"), ["bits", 300_001, 300_001]);
  assert.equal(fake.files.get("/g").toString(), "new");
  assert.deepEqual(await host.call("rest"), ["1", "secret of k", { name: "f", params: 1 }]);
  await host.close();
});

// A daemon that is behind with accepting: it goes on when it is told.
const BEHIND = `
  const { createServer } = require("node:net");
  createServer(() => {}).listen({ path: process.argv[1], backlog: 1 }, () => {
    process.stdout.write("x");
    require("node:fs").readSync(0, Buffer.alloc(1));
  });`;

test("a client waits for a place among those that are not yet accepted", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "cordon-"));
  const path = join(dir, "s");
  const daemon = spawn(process.execPath, ["-e", BEHIND, path], { stdio: ["pipe", "pipe", "inherit"] });
  const others = [];
  t.after(() => {
    for (const one of others) one.destroy();
    daemon.kill("SIGKILL");
    rmSync(dir, { recursive: true });
  });
  await once(daemon.stdout, "data");
  for (let full = false; !full;) {
    const one = createConnection({ path });
    others.push(one);
    full = await new Promise((resolve, reject) => {
      one.on("connect", () => resolve(false));
      one.on("error", (err) => (err.code === "EAGAIN" ? resolve(true) : reject(err)));
    });
  }
  const client = Client.connect(path);
  setTimeout(() => daemon.stdin.write("x"), 20);
  await (await client).close();
});
