import type { EventEmitter } from "node:events";
import type { Agent, AgentOptions, Server } from "node:http";
import type { Agent as SecureAgent, AgentOptions as SecureAgentOptions } from "node:https";
import type { Duplex, Readable, Writable } from "node:stream";

/** The answer to a request that failed: throw it, or catch it from a call. */
export class CordonError extends Error {
  constructor(code: number, message: string, data?: unknown);
  readonly code: number;
  readonly data?: unknown;
}

/** The peer broke a rule of the protocol; `code` is its name in PROTOCOL.md. */
export class ProtocolError extends Error {
  readonly code: string;
}

export const codes: Readonly<{
  invalidRequest: -32600; methodNotFound: -32601; invalidParams: -32602; internal: -32603;
  deadline: -32001; notReady: -32002; cancelled: -32003; overloaded: -32004; shuttingDown: -32005;
  tooLarge: -32006; peerGone: -32008; denied: -32011; conflict: -32012; unsupported: -32013;
}>;

export type Params = Record<string, unknown> | unknown[];

export interface Log {
  info(text: string, fields?: Record<string, unknown>): void;
  warn(text: string, fields?: Record<string, unknown>): void;
  error(text: string, fields?: Record<string, unknown>): void;
}

/** What a handler knows of its request. */
export interface Context {
  /** Aborts when the caller cancels, at its deadline, and with the connection. */
  readonly signal: AbortSignal;
  /** When the caller gives up, as of performance.now(). */
  readonly deadline?: number;
  /** The trace context that the request belongs to, and what it is called in the host's records; calls made with this context say so too. */
  readonly traceparent?: string;
  readonly requestId?: string;
  /** Writes lines that name the request. */
  readonly log: Log;
  /** Asks the host; rejects with CordonError. Cancelled with the request. */
  call<R = unknown>(method: string, params?: Params, options?: { timeout?: number }): Promise<R>;
  /** Tells the host something that it does not answer. */
  notify(method: string, params?: Params): void;
  /**
   * Leaves work for later: the host calls the plugin's own method when its turn comes, those of the highest priority
   * (0 to 9) first. It is done within so many milliseconds (30000), or dropped: the notification task.dropped says so.
   * Resolves with the task's number.
   */
  submit(method: string, params?: Params, options?: { priority?: number; deadline?: number }): Promise<number>;
  /** Ends a task, or keeps it from beginning; whether there was one. */
  cancelTask(task: number): Promise<boolean>;

  // What the host serves. Each needs a grant, and rejects with CordonError
  // (denied) without one. Connections, listeners and files outlive the request.

  /** Connects to a granted "host:port". */
  dial(to: string): Promise<HostStream>;
  /** Listens at a granted "address:port" of the host. */
  listen(at: string, taken?: (stream: HostStream) => void): Promise<HostListener>;
  /** Listens for a server of node:http, which is not to listen itself. */
  serve(at: string, server: Server): Promise<HostListener>;
  /** For http.request: connects to the request's host and port, or always to `to`. */
  agent(options?: AgentOptions & { to?: string }): Agent;
  /** The same for https.request. */
  httpsAgent(options?: SecureAgentOptions & { to?: string }): SecureAgent;
  /** A file of the host, by its path there. Nothing is opened yet. */
  open(path: string): HostFile;
  /** A secret that the host keeps under a name. */
  secret(name: string): Promise<Buffer>;
  /** The plugin's own store; values are strings. */
  readonly kv: {
    get(key: string): Promise<string | null>;
    /** Sets keys in one transaction, null takes one away; `condition` is what must be there. */
    put(set: Record<string, string | null>, condition?: Record<string, string | null>): Promise<unknown>;
    list(prefix?: string, after?: string): Promise<{ keys: string[]; more: boolean; size_bytes: number; max_bytes: number }>;
  };
  readonly metric: {
    add(name: string, value?: number): Promise<void>;
    set(name: string, value: number): Promise<void>;
  };
  /** How much of its data directory the plugin uses. */
  data(): Promise<{ bytes: number; files: number; max_bytes: number; persistent: boolean; incomplete?: boolean }>;
  /** Writes a structured record to the plugin's log. */
  record(message: string, fields?: Record<string, string | number | boolean | null>, level?: "debug" | "info" | "warn" | "error"): Promise<void>;
  /** Calls a function that an application of the host serves. */
  hostCall<R = unknown>(name: string, params?: unknown): Promise<R>;
}

/** A connection that the host relays; a socket in all but name. */
export interface HostStream extends Duplex {
  /** Of who was dialled; unknown of who has connected. */
  readonly remoteAddress?: string;
  readonly remotePort?: number;
}

/** Emits "connection" with a HostStream, "close", and "error" if somebody listens for it. */
export interface HostListener extends EventEmitter {
  readonly address: string;
  close(): Promise<void>;
}

/** A file of the host. */
export interface HostFile {
  readonly path: string;
  /** At most 256 KiB at once; nothing at its end. */
  read(offset?: number, length?: number): Promise<Buffer>;
  write(data: string | Uint8Array, options?: { offset?: number; create?: boolean; truncate?: boolean }): Promise<void>;
  size(): Promise<number>;
  readFile(): Promise<Buffer>;
  readFile(encoding: BufferEncoding): Promise<string>;
  /** Replaces what is in it. */
  writeFile(data: string | Uint8Array): Promise<void>;
  createReadStream(): Readable;
  createWriteStream(options?: { truncate?: boolean }): Writable;
}

/** Gets what the caller sent, unchecked: `undefined` without params. */
export type Handler<P = any, R = unknown> = (params: P, ctx: Context) => R | Promise<R>;

export class Plugin {
  constructor(name: string, version: string);
  readonly log: Log;
  /** Makes a handler answer a method. Requests are handled side by side. */
  method<P = any, R = unknown>(name: string, handler: Handler<P, R>): this;
  /** Makes a handler take the notifications of a method, in order. */
  notification<P = any>(name: string, handler: (params: P, ctx: Context) => void | Promise<void>): this;
  /** Runs once all requests are answered, before the host is told. */
  onShutdown(handler: () => void | Promise<void>): this;
  /** Serves the host until it says goodbye, and exits. */
  main(): Promise<void>;
  /** Serves the host over a stream, by default descriptor 3. */
  run(stream?: Duplex): Promise<void>;
}

/** Runs a plugin without a daemon, in this process: for its tests. */
export class Harness {
  static start(plugin: Plugin, options?: {
    methods?: Record<string, Handler>;
    limits?: { max_frame?: number; max_in_flight?: number; max_depth?: number };
  }): Promise<Harness>;
  readonly hello: { api: number; name?: string; version?: string };
  /** What the plugin notified. */
  readonly notified: { method: string; params: unknown }[];
  call<R = unknown>(method: string, params?: Params, options?: { timeout?: number; signal?: AbortSignal }): Promise<R>;
  notify(method: string, params?: Params): void;
  /** Says goodbye as the daemon does, and waits for the plugin's end. */
  close(): Promise<void>;
}
