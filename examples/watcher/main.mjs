// A plugin that owns nothing: it looks whether a page has changed.
//
// The connection, the memory of what the page said and the counter are all the
// host's. Node.js's own HTTP client goes over what the host connects.

import { createHash } from "node:crypto";
import http from "node:http";
import { text } from "node:stream/consumers";
import { Plugin } from "./cordon.mjs";

const get = (options) => new Promise((resolve, reject) => {
  http.get(options, (answer) => text(answer).then(resolve, reject)).on("error", reject);
});

const plugin = new Plugin("watcher", "1.0.0");

// Fetches a page from a server, "host:port", and says whether it is another than
// the last time.
plugin.method("watcher.look", async ({ to, path }, ctx) => {
  const page = await get({ agent: ctx.agent({ to }), path, headers: { host: to } });
  const now = createHash("sha256").update(page).digest("hex");
  const before = await ctx.kv.get(to + path);
  await ctx.metric.add("looked");
  if (now !== before) {
    await ctx.kv.put({ [to + path]: now });
    await ctx.record("changed", { page: to + path });
  }
  return { changed: before !== null && now !== before };
});

await plugin.main();
