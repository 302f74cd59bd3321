import type { Duplex } from "node:stream";

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
