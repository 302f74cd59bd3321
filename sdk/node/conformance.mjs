// The plugin that ../conformance tests this library with.
import { CordonError, Plugin, ProtocolError } from "./cordon.mjs";

const notes = [];
const plugin = new Plugin("conformance", "1.0.0")
  .method("echo", (params) => params)
  .method("sink", () => null)
  .method("big", ({ bytes }) => "x".repeat(bytes))
  .method("notes", () => notes)
  .method("fail", ({ code, message, data }) => { throw new CordonError(code, message, data); })
  .method("crash", () => { throw new TypeError("as asked"); })
  .method("ask", ({ method, params }, ctx) => ctx.call(method, params))
  .method("tell", ({ method, params }, ctx) => ctx.notify(method, params))
  .method("wait", (_, { signal }) => new Promise((_resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
  }))
  .notification("note", (params) => { notes.push(params ?? null); })
  .notification("crash", () => { throw new TypeError("as asked"); });

let end = "";
try {
  await plugin.run();
} catch (err) {
  if (!(err instanceof ProtocolError)) throw err;
  end = err.code;
}
console.log(`end: ${end}`);
