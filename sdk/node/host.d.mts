import { codes, CordonError, type Context, type Params } from "./cordon.mjs";

export { codes, CordonError };
export const DEFAULT_SOCKET: "/run/cordon/cordon.sock";

/** The answer to a call that failed. */
export class HostError extends CordonError {
  /** What would mend it, if that is known. */
  readonly hint?: string;
  /** The plugin itself answered so: it can claim any code. */
  readonly fromPlugin: boolean;
  /** What the call is called in the host's records. */
  readonly requestId?: string;
}

export interface CallOptions {
  /** Milliseconds until the plugin is told to cancel; 30000. */
  timeout?: number;
  signal?: AbortSignal;
  /** Twice is as good as once: made again where daemon or plugin went away before the answer. */
  idempotent?: boolean;
  /** The trace that the call belongs to (https://www.w3.org/TR/trace-context/). */
  traceparent?: string;
  /** 1 to 64 letters, digits, '.', '_' and '-'; made up without. */
  requestId?: string;
}

/** One record of the audit log. */
export interface Event {
  seq: number; time: string; plugin?: string; kind: string; actor?: string; text: string; data?: Record<string, unknown>;
}

/** A function for plugins that were granted host.call of its name. */
export interface HostFunction {
  name: string;
  text?: string;
  /** JSON Schemas (2020-12): the daemon checks both. */
  params: object | boolean;
  result: object | boolean;
  /** Answers; ctx.plugin is who asks, as the daemon knows it. */
  call(params: any, ctx: Context & { readonly plugin: string }): unknown;
}

/** An application's connection to the daemon, made anew by the next call when it ended. */
export class Client {
  static connect(path?: string): Promise<Client>;
  /** Calls a method of a plugin; rejects with HostError. */
  call<R = unknown>(plugin: string, method: string, params?: Params, options?: CallOptions): Promise<R>;
  /** Makes any request of the control socket, such as plugin.list. */
  do<R = unknown>(method: string, params?: Params, options?: { timeout?: number; signal?: AbortSignal }): Promise<R>;
  /** What is remembered of a plugin, or of all, and then what happens. */
  events(options?: { plugin?: string; signal?: AbortSignal }): AsyncGenerator<Event, void>;
  /** Serves functions to plugins until the signal says so. */
  serve(functions: HostFunction[], options?: { signal?: AbortSignal }): Promise<void>;
  close(): Promise<void>;
}
