// What a plugin in Node.js is made of, without dependencies.
//
//     import { Plugin } from "./cordon.mjs";
//
//     const plugin = new Plugin("words", "1.0.0");
//     plugin.method("words.count", ({ text }) => ({ words: text.split(/\s+/).length }));
//     await plugin.main();
//
// This one file is the whole library: a bundle carries its own copy.

import { EventEmitter } from "node:events";
import http from "node:http";
import https from "node:https";
import { Socket } from "node:net";
import { Duplex, Readable, Writable } from "node:stream";
import tls from "node:tls";

const API = 1;
const DESCRIPTOR = 3; // where a plugin finds the socket to its host
const DEFAULT_TIMEOUT = 30_000; // milliseconds, of a call to the host
const LEAVING_GRACE = 2_000; // milliseconds that handlers have once the host has gone
const MAX_TIMER = 2 ** 31 - 1;

export const codes = Object.freeze({
  invalidRequest: -32600, methodNotFound: -32601, invalidParams: -32602, internal: -32603,
  deadline: -32001, notReady: -32002, cancelled: -32003, overloaded: -32004, shuttingDown: -32005,
  tooLarge: -32006, peerGone: -32008, denied: -32011, conflict: -32012, unsupported: -32013,
});

export class CordonError extends Error {
  constructor(code, message, data) {
    super(message);
    this.code = code;
    if (data !== undefined) this.data = data;
  }
}

const told = (e) => ({ code: e.code, message: e.message, ...(e.data === undefined ? {} : { data: e.data }) });

export class ProtocolError extends Error {
  constructor(code, text) {
    super(`protocol broken (${code}): ${text}`);
    this.code = code;
  }
}

// --- reading one message, as for a hostile peer ---------------------------

const SCALAR = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
const SPACE = /[ \t\r\n]*/y;
const SAFE_INT = /^(?:0|-?[1-9]\d{0,15})$/;

// Reader checks what JSON.parse does not: duplicate keys, depth and lone
// surrogates. It keeps the id as it was written.
class Reader {
  constructor(text, maxDepth) {
    Object.assign(this, { text, maxDepth, at: 0, idText: undefined });
  }

  check() {
    this.space();
    const first = this.text[this.at];
    if (first === "[") throw new ProtocolError("envelope", "batches are not accepted");
    if (first !== "{") this.fail("an object");
    this.value(1);
    this.space();
    if (this.at !== this.text.length) this.fail("the end of the message");
  }

  fail(want) {
    throw new ProtocolError("syntax", `invalid JSON at character ${this.at}: expected ${want}`);
  }

  space() {
    SPACE.lastIndex = this.at;
    SPACE.test(this.text);
    this.at = SPACE.lastIndex;
  }

  value(depth) {
    switch (this.text[this.at]) {
      case "{": return this.object(depth);
      case "[": return this.array(depth);
      case '"': return void this.string();
    }
    SCALAR.lastIndex = this.at;
    if (!SCALAR.test(this.text)) this.fail("a value");
    this.at = SCALAR.lastIndex;
  }

  string() {
    // A long string must not be one deep match: pieces, then the whole is checked.
    const start = this.at;
    let end = start + 1;
    for (;;) {
      const quote = this.text.indexOf('"', end);
      if (quote < 0) this.fail("the end of a string");
      let slashes = 0;
      while (this.text[quote - 1 - slashes] === "\\") slashes++;
      end = quote + 1;
      if (slashes % 2 === 0) break;
    }
    const raw = this.text.slice(start, end);
    let value;
    try {
      value = JSON.parse(raw);
    } catch {
      this.fail("a string");
    }
    if (raw.includes("\\u") && LONE.test(value)) throw new ProtocolError("encoding", "half of a surrogate pair");
    this.at = end;
    return value;
  }

  enter(depth) {
    if (depth > this.maxDepth) throw new ProtocolError("depth", `nested deeper than ${this.maxDepth}`);
    this.at++;
    this.space();
  }

  array(depth) {
    this.enter(depth);
    if (this.text[this.at] === "]") return void this.at++;
    for (;;) {
      this.space();
      this.value(depth + 1);
      this.space();
      const c = this.text[this.at++];
      if (c === "]") return;
      if (c !== ",") this.fail("a comma or ]");
    }
  }

  object(depth) {
    this.enter(depth);
    if (this.text[this.at] === "}") return void this.at++;
    const names = new Set();
    for (;;) {
      this.space();
      this.member(names, depth);
      this.space();
      const c = this.text[this.at++];
      if (c === "}") return;
      if (c !== ",") this.fail("a comma or }");
    }
  }

  member(names, depth) {
    if (this.text[this.at] !== '"') this.fail("a member name");
    const name = this.string();
    if (names.has(name)) throw new ProtocolError("duplicate", "one key twice in one object");
    names.add(name);
    this.space();
    if (this.text[this.at++] !== ":") this.fail("a colon");
    this.space();
    const start = this.at;
    this.value(depth + 1);
    if (depth === 1 && name === "id") this.idText = this.text.slice(start, this.at);
  }
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function parse(bytes, maxDepth) {
  let text;
  try {
    text = decoder.decode(bytes);
  } catch {
    throw new ProtocolError("encoding", "invalid UTF-8");
  }
  const reader = new Reader(text, maxDepth);
  reader.check();
  return { message: JSON.parse(text), idText: reader.idText };
}

const has = Object.hasOwn;
const isObject = (v) => typeof v === "object" && v !== null && !Array.isArray(v);

function checkId(id, text) {
  if (typeof id === "string") {
    if (Buffer.byteLength(text) > 258) throw new ProtocolError("id", "an id of more than 256 bytes");
  } else if (typeof id !== "number" || !SAFE_INT.test(text) || BigInt(text) > 2n ** 53n || BigInt(text) < -(2n ** 53n)) {
    throw new ProtocolError("id", "an id must be a string or an integer within 2^53");
  }
}

function classify(m, idText) {
  if (!has(m, "jsonrpc") || m.jsonrpc !== "2.0") throw new ProtocolError("envelope", 'member "jsonrpc" must be "2.0"');
  if (has(m, "method")) return classifyCall(m, idText);
  if (!has(m, "id") || has(m, "params")) throw new ProtocolError("envelope", "neither a request nor a reply");
  const failed = has(m, "error") && m.error !== null;
  if (failed && has(m, "result") && m.result !== null) throw new ProtocolError("envelope", "a reply with a result and an error");
  if (!failed && !has(m, "result")) throw new ProtocolError("envelope", "a reply without result and error");
  if (!(failed && m.id === null)) checkId(m.id, idText);
  return failed ? "error" : "result";
}

function classifyCall(m, idText) {
  if (has(m, "result") || has(m, "error")) throw new ProtocolError("envelope", "a message with a method and a result or error");
  const size = typeof m.method === "string" ? Buffer.byteLength(m.method) : 0;
  if (size < 1 || size > 256) throw new ProtocolError("envelope", "method must be a string of 1 to 256 bytes");

  if (/[\u0000-\u001f\u007f]/.test(m.method)) throw new ProtocolError("envelope", "method has a control character");
  if (has(m, "params") && typeof m.params !== "object") throw new ProtocolError("envelope", "params must be an object or an array");
  if (!has(m, "id")) return "notification";
  checkId(m.id, idText);
  return "request";
}

// traced gives params a _meta that says what a call belongs to.
function traced(params, { traceparent, requestId } = {}) {
  if (!traceparent && !requestId || Array.isArray(params) || params && has(params, "_meta")) return params;
  return { ...params, _meta: { traceparent, request_id: requestId } };
}

// --- the plugin -----------------------------------------------------------

const log = Object.fromEntries(["info", "warn", "error"].map((level) => [level, (text, fields = {}) => {
  // One line: JSON escapes what could forge the next.
  const rest = Object.entries(fields).map(([k, v]) => ` ${k}=${JSON.stringify(v instanceof Error ? v.stack : v)}`).join("");
  process.stderr.write(`${level} ${JSON.stringify(String(text)).slice(1, -1)}${rest}\n`);
}]));

// naming is the log with the name of a request on each line.
const naming = (id) => Object.fromEntries(Object.entries(log).map(([level, write]) =>
  [level, (text, fields) => write(text, { request_id: id, ...fields })]));

const short = (v) => (typeof v === "string" && v.length <= 256 ? v : undefined);

export class Plugin {
  constructor(name, version) {
    Object.assign(this, { name, version, log, methods: new Map(), notifications: new Map(), shutdown: () => {} });
  }

  method(name, handler) {
    this.methods.set(name, handler);
    return this;
  }

  notification(name, handler) {
    this.notifications.set(name, handler);
    return this;
  }

  onShutdown(handler) {
    this.shutdown = handler;
    return this;
  }

  async main() {
    try {
      await this.run();
    } catch (err) {
      this.log.error("cannot go on", { error: err });
      process.exit(1);
    }
    process.exit(0);
  }

  run(stream = hostSocket()) {
    return new Connection(this, stream).run();
  }
}

function hostSocket() {
  try {
    return new Socket({ fd: DESCRIPTOR, readable: true, writable: true, allowHalfOpen: true });
  } catch (err) {
    throw new Error(`cannot find the host: descriptor ${DESCRIPTOR} is no socket (start the plugin with cordon, or test it with Harness)`, { cause: err });
  }
}

// Connection is one end of the protocol: the host clients of host.mjs use it too.
export class Connection {
  constructor(plugin, stream, hosting = false) {
    Object.assign(this, { plugin, stream, hosting, greeted: hosting, draining: false, silent: false });
    this.served = new Map(); // the peer's requests, by id as written
    this.unfinished = 0;
    this.onIdle = () => {};
    this.last = 0;
    this.calls = new Map();
    this.late = new Set();
    this.waiting = []; // calls of ours beyond max_in_flight
    this.waitingCalls = new WaitingCalls();
    this.chunks = [];
    this.size = 0;
    this.obey({});
  }

  obey(limits) {
    const limit = (name, otherwise, most) =>
      Number.isInteger(limits[name]) && limits[name] > 0 && limits[name] <= most ? limits[name] : otherwise;
    this.maxFrame = limit("max_frame", 4 << 20, 2 ** 24 - 1);
    this.maxInFlight = limit("max_in_flight", 64, Number.MAX_SAFE_INTEGER);
    this.maxDepth = limit("max_depth", 64, 1000);
  }

  // run resolves when the host has gone between two messages, and rejects with
  // a ProtocolError when it broke a rule.
  run() {
    return new Promise((resolve, reject) => {
      this.ended = false;
      const end = (err) => {
        if (this.ended) return;
        this.ended = true;
        if (err instanceof ProtocolError) this.lastWord(err);
        this.leave().then(() => (err instanceof ProtocolError ? reject(err) : resolve()));
      };
      this.stream.on("data", (chunk) => {
        if (this.ended) return;
        try {
          this.take(chunk);
        } catch (err) {
          end(err instanceof ProtocolError ? err : new ProtocolError("internal", String(err?.stack ?? err)));
        }
      });
      this.stream.on("end", () => end(this.size > 0 ? new ProtocolError("truncated", "the stream ended inside a message") : null));
      this.stream.on("error", () => end(null)); // the host has gone, without a word
      this.stream.on("close", () => end(null));
    });
  }

  take(chunk) {
    this.chunks.push(chunk);
    this.size += chunk.length;
    for (;;) {
      const head = this.peek(4);
      if (head.length > 0 && head[0] !== 0) throw new ProtocolError("framing", `first byte 0x${head[0].toString(16)} is not 0x00 of a 4-byte length`);
      if (head.length < 4) return;
      const size = head.readUInt32BE(0);
      if (size === 0) throw new ProtocolError("framing", "an empty message");
      if (size > this.maxFrame) throw new ProtocolError("too-large", `a message of ${size} bytes, over the limit of ${this.maxFrame}`);
      if (this.size < 4 + size) return;
      const all = this.chunks.length === 1 ? this.chunks[0] : Buffer.concat(this.chunks);
      const rest = all.subarray(4 + size);
      this.chunks = rest.length > 0 ? [rest] : [];
      this.size = rest.length;
      const { message, idText } = parse(all.subarray(4, 4 + size), this.maxDepth);
      this[classify(message, idText)](message, idText);
    }
  }

  // peek returns the first bytes, without joining all that is there.
  peek(n) {
    if (this.chunks.length === 0) return Buffer.alloc(0);
    if (this.chunks[0].length < n && this.chunks.length > 1) this.chunks = [Buffer.concat(this.chunks)];
    return this.chunks[0].subarray(0, n);
  }

  request(m, idText) {
    if (m.method === "cordon.hello" && !this.hosting) return this.hello(m, idText);
    if (!this.greeted) throw new ProtocolError("phase", "a request before the hello");
    if (this.served.has(idText)) throw new ProtocolError("id", "an id that is in use by another request");
    if (this.draining) return this.answer(idText, { error: { code: codes.shuttingDown, message: "the plugin is shutting down" } });
    if (m.method === "cordon.shutdown") return void this.drain(idText);
    if (this.served.size >= this.maxInFlight) return this.answer(idText, { error: { code: codes.overloaded, message: "too many requests at once" } });
    this.serve(m, idText);
  }

  context(m) {
    const controller = new AbortController();
    let meta = {};
    if (isObject(m.params) && has(m.params, "_meta")) {
      if (isObject(m.params._meta)) meta = m.params._meta;
      delete m.params._meta;
    }
    const traceparent = short(meta.traceparent), requestId = short(meta.request_id);
    const trace = { traceparent, requestId };
    const ctx = Object.assign(new Served(this, { signal: controller.signal, trace }), {
      signal: controller.signal, log: requestId && this.plugin.log === log ? naming(requestId) : this.plugin.log, traceparent, requestId,
      call: (method, params, options) => this.call(method, params, { signal: controller.signal, trace, ...options }),
      notify: (method, params) => this.notify(method, params),
      submit: async (method, params, { priority = 0, deadline = 30_000 } = {}) =>
        (await ctx.call("task.submit", { method, ...(params === undefined ? {} : { params }), priority, deadline_ms: Math.round(deadline) })).task,
      cancelTask: async (task) => (await ctx.call("task.cancel", { task })).cancelled,
    });
    if (Number.isInteger(meta.deadline_ms) && meta.deadline_ms > 0 && meta.deadline_ms <= MAX_TIMER) {
      ctx.deadline = performance.now() + meta.deadline_ms;
      controller.timer = setTimeout(() => controller.abort(new CordonError(codes.deadline, "deadline exceeded")), meta.deadline_ms);
    }
    return { params: m.params ?? undefined, ctx, controller };
  }

  async serve(m, idText) {
    const { params, ctx, controller } = this.context(m);
    this.served.set(idText, controller);
    this.unfinished++;
    let reply;
    try {
      const handler = this.plugin.methods.get(m.method);
      if (!handler) throw new CordonError(codes.methodNotFound, `cannot find method ${JSON.stringify(m.method)}`);
      reply = { result: (await handler(params, ctx)) ?? null };
    } catch (err) {
      reply = { error: this.told(err, m.method, controller.signal) };
    }
    clearTimeout(controller.timer);
    this.served.delete(idText); // before the answer: its reader may use the id again
    this.answer(idText, reply);
    this.unfinished--;
    if (this.unfinished === 0) this.onIdle();
  }

  // told is what the caller is told of a failure; the rest goes to the log.
  told(err, method, signal) {
    if (signal.aborted && (err === signal.reason || err?.name === "AbortError")) {
      return signal.reason instanceof CordonError ? told(signal.reason) : { code: codes.cancelled, message: "cancelled" };
    }
    if (err instanceof CordonError) return told(err);
    this.plugin.log.error("cannot handle a request", { method, error: err });
    return { code: codes.internal, message: "internal error" };
  }

  async drain(idText) {
    this.draining = true;
    if (this.unfinished > 0) await new Promise((resolve) => { this.onIdle = resolve; });
    try {
      await this.plugin.shutdown();
      this.answer(idText, { result: {} });
    } catch (err) {
      this.answer(idText, { error: this.told(err, "cordon.shutdown", new AbortController().signal) });
    }
  }

  notification(m) {
    if (!this.greeted) throw new ProtocolError("phase", "a notification before the hello");
    if (m.method === "$/cancelRequest") {
      if (!isObject(m.params) || !has(m.params, "id")) return;
      const { id } = m.params;
      for (const [idText, controller] of this.served) {
        if (JSON.parse(idText) === id) controller.abort(new CordonError(codes.cancelled, "cancelled"));
      }
      return;
    }
    const handler = this.plugin.notifications.get(m.method) ?? this.plugin.anyNotification?.(m.method);
    if (!handler) return;
    const { params, ctx } = this.context(m);
    const failed = (err) => this.plugin.log.error("cannot handle a notification", { method: m.method, error: err });
    try {
      Promise.resolve(handler(params, ctx)).catch(failed);
    } catch (err) {
      failed(err);
    }
  }

  hello(m, idText) {
    if (this.greeted) return this.answer(idText, { error: { code: codes.invalidRequest, message: "the hello was said before" } });
    const p = isObject(m.params) ? m.params : {};
    const newest = p.api, oldest = p.api_min ?? 1;
    const fail = (code, text) => {
      this.answer(idText, { error: { code, message: text } });
      throw new ProtocolError("hello", text);
    };
    if (!Number.isInteger(newest) || !Number.isInteger(oldest)) fail(codes.invalidParams, "cannot use this hello: it has no versions");
    if (API < oldest || API > newest) fail(codes.unsupported, `this plugin speaks API ${API}, the host ${oldest} to ${newest}`);
    this.obey(isObject(p.limits) ? p.limits : {});
    this.greeted = true;
    this.answer(idText, { result: { api: API, name: this.plugin.name, version: this.plugin.version } });
  }

  result(m, idText) {
    this.takeCall(idText)?.resolve(m.result);
  }

  error(m, idText) {
    const e = m.error;
    if (m.id === null) throw new ProtocolError("refused", `the peer could not read us: ${JSON.stringify(e).slice(0, 200)}`);
    const call = this.takeCall(idText);
    if (!call) return;
    if (!isObject(e) || !Number.isSafeInteger(e.code) || typeof e.message !== "string") {
      call.reject(new CordonError(codes.peerGone, "the connection has ended"));
      throw new ProtocolError("envelope", "an error without an integer code and a message");
    }
    call.reject(new CordonError(e.code, e.message, e.data));
  }

  takeCall(idText) {
    if (this.late.delete(idText)) return undefined;
    const call = this.calls.get(idText);
    if (!call) throw new ProtocolError("unasked", "a reply that nobody waits for");
    this.calls.delete(idText);
    return call;
  }

  async call(method, params, { timeout = DEFAULT_TIMEOUT, signal, trace } = {}) {
    if (params !== undefined && params !== null && typeof params !== "object") {
      throw new CordonError(codes.invalidParams, `cannot call ${method}: params must be an object or an array`);
    }
    if (this.ended) throw new CordonError(codes.peerGone, "the connection has ended");
    params = traced(params, trace);
    while (this.calls.size >= this.maxInFlight) await new Promise((resolve) => this.waiting.push(resolve));
    signal?.throwIfAborted();
    const id = String(++this.last);
    let timer, abort;
    try {
      return await new Promise((resolve, reject) => {
        this.calls.set(id, { resolve, reject });
        const giveUp = (reason) => {
          if (!this.calls.delete(id)) return;
          this.late.add(id);
          this.trySend(`"method":"$/cancelRequest","params":{"id":${id}}`);
          reject(reason);
        };
        timer = setTimeout(() => giveUp(new CordonError(codes.deadline, `cannot call ${method}: no answer within ${timeout} ms`)), timeout);
        abort = () => giveUp(signal.reason);
        signal?.addEventListener("abort", abort, { once: true });
        this.send(`"id":${id},"method":${JSON.stringify(method)}${this.params(params)}`);
      });
    } finally {
      this.calls.delete(id);
      clearTimeout(timer);
      if (abort) signal?.removeEventListener("abort", abort);
      this.waiting.shift()?.();
    }
  }

  notify(method, params) {
    this.send(`"method":${JSON.stringify(method)}${this.params(params)}`);
  }

  params(params) {
    return params === undefined || params === null ? "" : `,"params":${JSON.stringify(params)}`;
  }

  answer(idText, reply) {
    try {
      this.send(`"id":${idText},${JSON.stringify(reply).slice(1, -1)}`);
    } catch (err) {
      if (!(err instanceof CordonError)) this.plugin.log.error("cannot write an answer as JSON", { error: err });
      const error = err instanceof CordonError ? told(err) : { code: codes.internal, message: "internal error" };
      this.trySend(`"id":${idText},"error":${JSON.stringify(error)}`);
    }
  }

  trySend(members) {
    try {
      this.send(members);
    } catch { /* nobody is there to be told */ }
  }

  send(members) {
    if (this.silent) throw new CordonError(codes.peerGone, "the connection has ended");
    const body = `{"jsonrpc":"2.0",${members}}`;
    const size = Buffer.byteLength(body);
    if (size > this.maxFrame) throw new CordonError(codes.tooLarge, `a message of ${size} bytes, over the limit of ${this.maxFrame}`);
    const frame = Buffer.allocUnsafe(4 + size);
    frame.writeUInt32BE(size, 0);
    frame.write(body, 4);
    this.stream.write(frame);
  }

  lastWord(err) {
    if (err.code !== "refused") this.trySend(`"id":null,"error":${JSON.stringify({ code: codes.invalidRequest, message: err.message })}`);
    this.silent = true;
  }

  // leave cancels what is open, and gives it a while.
  async leave() {
    for (const { reject } of this.calls.values()) reject(new CordonError(codes.peerGone, "the connection has ended"));
    this.calls.clear();
    for (const controller of this.served.values()) controller.abort(new CordonError(codes.cancelled, "cancelled"));
    if (this.unfinished > 0) {
      let timer;
      await Promise.race([
        new Promise((resolve) => { this.onIdle = resolve; }),
        new Promise((resolve) => { timer = setTimeout(resolve, LEAVING_GRACE); }),
      ]);
      clearTimeout(timer);
    }
    if (!this.stream.destroyed) await new Promise((resolve) => this.stream.end(resolve)); // what was written goes out first
    this.stream.destroy();
  }
}

// --- what the host serves ---------------------------------------------------
//
// Node.js takes no descriptors, so each is the byte form: connections are streams
// over calls, and files are read and written by calls. Each needs a grant, and
// rejects with CordonError (denied) without one.

const PIECE = 256 << 10; // bytes of one call, at most
const WAIT = 5_000; // milliseconds that a call waits for something to come

// Served is what a handler's ctx has of it. What it opens outlives the request.
class Served {
  #connection;

  #call;

  constructor(connection, options) {
    this.#connection = connection;
    this.#call = (method, params) => connection.call(method, params, options);
    this.kv = {
      get: (key) => this.#call("kv.get", { key }),
      put: (set, condition) => this.#call("kv.put", condition === undefined ? { set } : { set, if: condition }),
      list: (prefix = "", after = "") => this.#call("kv.list", { prefix, after }),
    };
    this.metric = {
      add: (name, value = 1) => this.#call("metric.add", { name, value }),
      set: (name, value) => this.#call("metric.set", { name, value }),
    };
  }

  async dial(to) {
    const { stream, address } = await this.#call("net.dial.open", { to });
    return new HostStream(this.#connection, "net.dial", stream, address);
  }

  async listen(at, taken) {
    const { stream, address } = await this.#call("net.listen.open", { at });
    const listener = new HostListener(this.#connection, stream, address);
    if (taken) listener.on("connection", taken);
    listener.accept();
    return listener;
  }

  serve(at, server) {
    return this.listen(at, (stream) => server.emit("connection", stream));
  }

  agent(options = {}) {
    return new HostAgent(this.#connection, options);
  }

  httpsAgent(options = {}) {
    return new HostsAgent(this.#connection, options);
  }

  open(path) {
    return new HostFile(this.#connection, path);
  }

  async secret(name) {
    return Buffer.from((await this.#call("secret.read", { name })).data, "base64");
  }

  data() {
    return this.#call("data.usage");
  }

  record(message, fields, level = "info") {
    return this.#call("log", fields === undefined ? { message, level } : { message, fields, level });
  }

  hostCall(name, params) {
    return this.#call("host.call", params === undefined ? { function: name } : { function: name, params });
  }
}

// pieceOf is how many bytes go into one message as base64.
const pieceOf = (connection) => Math.max(1, Math.min(PIECE, Math.floor(((connection.maxFrame - 1024) * 3) / 4)));

async function dialOver(connection, to) {
  const { stream, address } = await connection.call("net.dial.open", { to });
  return new HostStream(connection, "net.dial", stream, address);
}

// waitingCalls keeps calls that only wait from taking every place there is.
class WaitingCalls {
  constructor() {
    this.here = 0;
    this.queue = [];
  }

  async call(connection, method, params) {
    const places = Math.max(1, Math.floor(connection.maxInFlight / 2));
    while (this.here >= places) await new Promise((resolve) => this.queue.push(resolve));
    this.here++;
    try {
      return await connection.call(method, { ...params, wait_ms: this.queue.length > 0 ? 100 : WAIT });
    } finally {
      this.here--;
      this.queue.shift()?.();
    }
  }
}

// HostStream is a connection, as a socket has it.
class HostStream extends Duplex {
  constructor(connection, capability, id, address) {
    super({ allowHalfOpen: true });
    Object.assign(this, { connection, capability, id, asking: false, remoteAddress: address?.replace(/:\d+$/, ""), remotePort: Number(/:(\d+)$/.exec(address ?? "")?.[1]) || undefined });
  }

  ask(what, params) {
    return this.connection.call(`${this.capability}.${what}`, { stream: this.id, ...params });
  }

  _read() {
    if (!this.asking) this.take();
  }

  async take() {
    this.asking = true;
    const params = { stream: this.id, most: pieceOf(this.connection) };
    try {
      while (!this.destroyed) {
        const { data, end } = await this.connection.waitingCalls.call(this.connection, `${this.capability}.receive`, params);
        if (this.destroyed) return;
        if (!end && data === "") continue;
        this.asking = false; // push may ask for more at once
        this.push(end ? null : Buffer.from(data, "base64"));
        return;
      }
    } catch (err) {
      this.destroy(err.code === codes.peerGone ? undefined : err); // the plugin is ending, with all it has
    }
  }

  async send(bytes, end) {
    const piece = pieceOf(this.connection);
    for (let at = 0; at < bytes.length;) {
      const { sent } = await this.ask("send", { data: bytes.subarray(at, at + piece).toString("base64") });
      at += sent;
    }
    if (end) await this.ask("send", { end: true });
  }

  _write(chunk, _encoding, done) {
    this.send(chunk, false).then(() => done(), done);
  }

  _final(done) {
    this.send(Buffer.alloc(0), true).then(() => done(), done);
  }

  _destroy(err, done) {
    this.ask("close").then(() => done(err), () => done(err)); // it may have gone already
  }

  // What HTTP and TLS ask of a socket. There is nothing to set.
  setNoDelay() { return this; }

  setKeepAlive() { return this; }

  ref() { return this; }

  unref() { return this; }

  setTimeout(ms, then) {
    clearTimeout(this.timer);
    if (ms > 0) {
      this.timer = setTimeout(() => this.emit("timeout"), ms).unref();
      if (then) this.once("timeout", then);
    }
    return this;
  }
}

// HostListener emits "connection" with a HostStream for each that comes, and
// "close" at its end.
class HostListener extends EventEmitter {
  constructor(connection, id, address) {
    super();
    Object.assign(this, { connection, id, address, closed: false });
  }

  async accept() {
    try {
      while (!this.closed) {
        const { stream } = await this.connection.waitingCalls.call(this.connection, "net.listen.accept", { stream: this.id });
        if (stream !== null) this.emit("connection", new HostStream(this.connection, "net.listen", stream));
      }
    } catch (err) {
      if (!this.closed && this.listenerCount("error") > 0) this.emit("error", err);
      this.closed = true;
    }
    this.emit("close");
  }

  async close() {
    if (this.closed) return;
    this.closed = true;
    await this.connection.call("net.listen.close", { stream: this.id });
  }
}

// target is where an agent's request goes, unless the agent says otherwise.
const target = (options, port) => options.to ?? `${options.host ?? options.hostname}:${options.port ?? port}`;

class HostAgent extends http.Agent {
  #connection;

  constructor(connection, options) {
    super({ keepAlive: false, ...options });
    this.#connection = connection;
  }

  createConnection(options, done) {
    dialOver(this.#connection, target(options, 80)).then((stream) => done(null, stream), done);
  }
}

class HostsAgent extends https.Agent {
  #connection;

  constructor(connection, options) {
    super({ keepAlive: false, maxCachedSessions: 0, ...options });
    this.#connection = connection;
  }

  createConnection(options, done) {
    dialOver(this.#connection, target(options, 443)).then((stream) => {
      done(null, tls.connect({ ...options, path: undefined, socket: stream, servername: options.servername || options.host }));
    }, done);
  }
}

// HostFile is a file of the host, by its path.
class HostFile {
  #connection;

  constructor(connection, path) {
    this.#connection = connection;
    this.path = path;
  }

  async read(offset = 0, length = PIECE) {
    const { data } = await this.#connection.call("fs.read", { path: this.path, offset, length: Math.min(length, pieceOf(this.#connection)) });
    return Buffer.from(data, "base64");
  }

  async write(data, { offset = 0, create = false, truncate = false } = {}) {
    const bytes = Buffer.from(data);
    const piece = pieceOf(this.#connection);
    let at = 0;
    do {
      const part = bytes.subarray(at, at + piece).toString("base64");
      await this.#connection.call("fs.write", { path: this.path, offset: offset + at, data: part, create: create && at === 0, truncate: truncate && at === 0 });
      at += piece;
    } while (at < bytes.length);
  }

  async size() {
    return (await this.#connection.call("fs.read", { path: this.path, length: 0 })).size;
  }

  async readFile(encoding) {
    const parts = [];
    for (let at = 0; ;) {
      const part = await this.read(at);
      if (part.length === 0) break;
      parts.push(part);
      at += part.length;
    }
    const all = Buffer.concat(parts);
    return encoding ? all.toString(encoding) : all;
  }

  writeFile(data) {
    return this.write(data, { create: true, truncate: true });
  }

  createReadStream() {
    let at = 0;
    const file = this;
    return new Readable({
      read() {
        file.read(at).then((part) => {
          at += part.length;
          this.push(part.length === 0 ? null : part);
        }, (err) => this.destroy(err));
      },
    });
  }

  createWriteStream({ truncate = true } = {}) {
    let at = 0;
    let first = true;
    const put = (chunk) => {
      const begin = first;
      first = false;
      const offset = at;
      at += chunk.length;
      return this.write(chunk, { offset, create: begin, truncate: begin && truncate });
    };
    return new Writable({
      write: (chunk, _encoding, done) => { put(chunk).then(() => done(), done); },
      final: (done) => { (first ? put(Buffer.alloc(0)) : Promise.resolve()).then(() => done(), done); },
    });
  }
}

// --- a harness for tests --------------------------------------------------

// pair makes two streams, each the other's peer.
function pair() {
  const make = () => {
    const side = new Duplex({
      allowHalfOpen: true,
      read() {},
      write(chunk, _encoding, done) { side.other.push(chunk); done(); },
      final(done) { side.other.push(null); done(); },
    });
    return side;
  };
  const a = make(), b = make();
  a.other = b;
  b.other = a;
  return [a, b];
}

export class Harness {
  static async start(plugin, { methods = {}, limits = {} } = {}) {
    const harness = new Harness();
    const [ours, its] = pair();
    const host = new Plugin("host", "0");
    for (const [name, handler] of Object.entries(methods)) host.method(name, handler);
    harness.notified = [];
    host.anyNotification = (method) => (params) => { harness.notified.push({ method, params }); };
    harness.ended = plugin.run(its);
    harness.ended.catch(() => {}); // close tells
    harness.connection = new Connection(host, ours, true);
    harness.connection.run().catch(() => {});
    harness.hello = await harness.call("cordon.hello", { api: API, api_min: API, plugin: plugin.name, limits });
    return harness;
  }

  call(method, params, options) {
    return this.connection.call(method, params, options);
  }

  notify(method, params) {
    this.connection.notify(method, params);
  }

  async close() {
    await this.call("cordon.shutdown");
    this.connection.stream.end();
    await this.ended;
  }
}
