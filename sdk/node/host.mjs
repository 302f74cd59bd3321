// What an application of the host in Node.js is made of: it calls plugins, sees
// what happens, and serves functions to plugins, over the daemon's socket.
//
//     import { Client } from "./host.mjs";
//
//     const client = await Client.connect();
//     const { words } = await client.call("words", "words.count", { text: "a b" });
//     await client.close();
//
// It needs cordon.mjs beside it, and nothing else.

import { randomBytes } from "node:crypto";
import { createConnection } from "node:net";
import { codes, Connection, CordonError, Plugin } from "./cordon.mjs";

export { codes, CordonError };
export const DEFAULT_SOCKET = "/run/cordon/cordon.sock";

const LIMITS = { max_frame: 2 ** 24 - 1, max_in_flight: 16, max_depth: 128 };
const DEFAULT_TIMEOUT = 30_000; // milliseconds
const RETRY_FIRST = 20, RETRY_MOST = 1000; // milliseconds between tries
const SERVE_AGAIN = 60_000; // milliseconds that serve waits for another daemon
const CONNECT_WAIT = 10_000; // milliseconds for a place among those that the daemon has not yet accepted
const QUEUE = 64; // events that wait before nothing more is read

// HostError is the answer to a call that failed: hint says what would mend it,
// fromPlugin that the plugin itself answered so, requestId what the call is
// called in the host's records.
export class HostError extends CordonError {
  constructor(err, requestId) {
    const told = typeof err.data === "object" && err.data !== null ? err.data : {};
    super(err.code, err.message, told.data);
    this.hint = told.hint;
    this.fromPlugin = told.plugin === true;
    this.requestId = requestId;
  }
}

const failed = (err, requestId) => (err instanceof CordonError && !(err instanceof HostError) ? new HostError(err, requestId) : err);

const HINTS = { ENOENT: "is cordond running?", ECONNREFUSED: "is cordond running?", EACCES: "the socket is for root, the group cordon and whom a [[role]] names" };

// dial connects. It waits where others connect faster than the daemon accepts: a
// socket that blocks would, and Node's do not (EAGAIN, connect(2)).
async function dial(path) {
  const end = performance.now() + CONNECT_WAIT;
  for (let wait = 1; ; wait = Math.min(2 * wait, 50)) {
    const stream = createConnection({ path, allowHalfOpen: true });
    const err = await new Promise((resolve) => {
      stream.once("connect", () => resolve());
      stream.once("error", resolve);
    });
    if (!err) return stream;
    if (err.code !== "EAGAIN" || performance.now() > end) {
      throw new HostError({ code: codes.peerGone, message: `cannot reach the daemon at ${path}: ${err.message}`, data: { hint: HINTS[err.code] } });
    }
    await pause(wait);
  }
}

// link is one connection to the daemon.
async function link(path, host) {
  const one = new Connection(host, await dial(path), true);
  one.obey(LIMITS);
  host.notification("daemon.leaving", () => { one.leaving = true; });
  one.over = one.run().catch(() => {}); // every call says why it ended
  one.over = one.over.then(() => { one.gone = true; });
  return one;
}

// pause waits for so many milliseconds, or until the signal says enough.
const pause = (ms, signal) => new Promise((resolve) => {
  const done = () => { clearTimeout(timer); signal?.removeEventListener("abort", done); resolve(); };
  const timer = setTimeout(done, ms);
  signal?.addEventListener("abort", done, { once: true });
  if (signal?.aborted) done();
});

export class Client {
  constructor(path) {
    Object.assign(this, { path, ids: randomBytes(4).toString("hex"), last: 0, closed: false });
  }

  static async connect(path = DEFAULT_SOCKET) {
    const client = new Client(path);
    await client.connected();
    return client;
  }

  async connected() {
    if (this.closed) throw new HostError({ code: codes.peerGone, message: "the client is closed" });
    const held = this.link && await this.link;
    if (held && !held.gone && !held.ended) return held;
    this.link = link(this.path, new Plugin("host", "0"));
    this.link.catch(() => { this.link = undefined; });
    return this.link;
  }

  // call calls a method of a plugin. idempotent says that doing it twice is as
  // good as once: then it is made again where the daemon or the plugin went away
  // before it answered, until the timeout.
  async call(plugin, method, params, { timeout = DEFAULT_TIMEOUT, signal, idempotent = false, traceparent, requestId } = {}) {
    const until = performance.now() + timeout;
    const id = requestId ?? `${this.ids}-${++this.last}`;
    let gone = false;
    for (let wait = RETRY_FIRST; ; wait = Math.min(2 * wait, RETRY_MOST)) {
      let one;
      try {
        one = await this.connected();
        const left = Math.max(1, Math.ceil(until - performance.now()));
        const body = { name: plugin, method, timeout_ns: left * 1e6, _meta: { traceparent, request_id: id } };
        if (params !== undefined) body.params = params;
        return await one.call("plugin.call", body, { timeout: left, signal });
      } catch (err) {
        const why = failed(err, id);
        const code = why instanceof HostError && !why.fromPlugin ? why.code : 0;
        gone ||= code === codes.peerGone;
        const again = one?.leaving && one.ended // it was never begun
          || idempotent && gone && (code === codes.peerGone || code === codes.notReady || code === codes.conflict); // or is not up again yet
        if (!again || this.closed || signal?.aborted || performance.now() + wait >= until) throw why;
        await pause(wait, signal);
      }
    }
  }

  // do makes any request of the control socket, such as plugin.list.
  async do(method, params, options) {
    const one = await this.connected();
    return one.call(method, params, options).catch((err) => { throw failed(err); });
  }

  // events gives what is remembered of a plugin, or of all, and then what happens,
  // over a connection of its own, until the loop is left or the signal says so.
  async *events({ plugin, signal } = {}) {
    const host = new Plugin("host", "0");
    const queue = [];
    let wake = () => {}, end;
    const one = await link(this.path, host);
    const finish = (err) => { end ??= { err }; wake(); };
    host.notification("event", (event) => {
      queue.push(event);
      if (queue.length >= QUEUE) one.stream.pause();
      wake();
    });
    host.notification("stream.end", ({ lost }) => finish(new HostError({ code: codes.peerGone, message: lost ? "some events were lost: this side was too slow" : "the daemon has ended the stream" })));
    one.over.then(() => finish(new HostError({ code: codes.peerGone, message: "the daemon has ended the connection" })));
    const stop = () => finish();
    signal?.addEventListener("abort", stop, { once: true });
    if (signal?.aborted) stop();
    try {
      yield* await one.call("events", { name: plugin, follow: true }).catch((err) => { throw failed(err); });
      for (;;) {
        while (queue.length > 0) yield queue.shift();
        one.stream.resume();
        if (end?.err) throw end.err;
        if (end) return;
        await new Promise((resolve) => { wake = resolve; });
      }
    } finally {
      signal?.removeEventListener("abort", stop);
      one.stream.destroy();
    }
  }

  // serve declares functions to plugins that were granted host.call of their
  // names, and answers them until the signal says so. Where the daemon goes away
  // they are declared to the next, for as long as one comes within a minute.
  async serve(functions, { signal } = {}) {
    for (;;) {
      await this.serveOnce(functions, signal);
      const since = performance.now();
      for (let wait = RETRY_FIRST; ; wait = Math.min(2 * wait, RETRY_MOST)) {
        if (signal?.aborted) return;
        try {
          (await link(this.path, new Plugin("host", "0"))).stream.destroy();
          break;
        } catch (err) {
          if (performance.now() - since > SERVE_AGAIN) throw err;
        }
        await pause(wait, signal);
      }
    }
  }

  async serveOnce(functions, signal) {
    const table = new Map(functions.map((f) => [f.name, f]));
    const host = new Plugin("host", "0").method("host.function", ({ function: name, plugin, params }, ctx) => {
      const f = table.get(name);
      if (!f) throw new CordonError(codes.methodNotFound, `no function ${JSON.stringify(name)} is served here`);
      return f.call(params, { ...ctx, plugin });
    });
    const one = await link(this.path, host);
    try {
      const declared = functions.map(({ name, text, params, result }) => ({ name, text, params, result }));
      await one.call("host.serve", { functions: declared }).catch((err) => { throw failed(err); });
      await Promise.race([one.over, new Promise((resolve) => {
        signal?.addEventListener("abort", resolve, { once: true });
        if (signal?.aborted) resolve();
      })]);
    } finally {
      one.stream.destroy();
    }
  }

  async close() {
    this.closed = true;
    const one = await this.link?.catch(() => {});
    one?.stream.destroy();
    await one?.over;
  }
}
