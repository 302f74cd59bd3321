// The plugin that ../conformance tests this library with. With the argument
// "many" it serves, for each line "KEY PATH" of standard input, whoever listens
// there, and then prints "KEY BREACH".
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { CordonError, Plugin, ProtocolError } from "./cordon.mjs";

function make() {
  const notes = [];
  return new Plugin("conformance", "1.0.0")
    .method("echo", (params) => params)
    .method("sink", () => null)
    .method("big", ({ bytes }) => "x".repeat(bytes))
    .method("notes", () => notes)
    .method("fail", ({ code, message, data }) => { throw new CordonError(code, message, data); })
    .method("crash", () => { throw new TypeError("as asked"); })
    .method("ask", ({ method, params }, ctx) => ctx.call(method, params))
    .method("tell", ({ method, params }, ctx) => ctx.notify(method, params))
    .method("about", (_, ctx) => ({ traceparent: ctx.traceparent ?? null, request_id: ctx.requestId ?? null, deadline: ctx.deadline !== undefined }))
    .method("submit", ({ method, params, priority, within_ms: deadline }, ctx) => ctx.submit(method, params, { priority, deadline }))
    .method("drop", ({ task }, ctx) => ctx.cancelTask(task))
    .method("wait", (_, { signal }) => new Promise((_resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
    }))
    .notification("note", (params) => { notes.push(params ?? null); })
    .notification("task.dropped", (params) => { notes.push(params); })
    .notification("task.lost", (params) => { notes.push(params); })
    .notification("crash", () => { throw new TypeError("as asked"); });
}

async function serve(stream) {
  try {
    await make().run(stream);
  } catch (err) {
    if (!(err instanceof ProtocolError)) throw err;
    return err.code;
  }
  return "";
}

if (process.argv[2] === "many") {
  createInterface({ input: process.stdin }).on("line", (line) => {
    const [key, path] = line.split(" ");
    const stream = connect({ path, allowHalfOpen: true });
    stream.once("connect", async () => console.log(`${key} ${await serve(stream)}`));
  }).on("close", () => process.exit(0));
} else {
  console.log(`end: ${await serve()}`);
}
