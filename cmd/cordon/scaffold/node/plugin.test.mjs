// Runs the plugin without a daemon: node --test
import assert from "node:assert/strict";
import test from "node:test";
import { codes, Harness } from "./cordon.mjs";
import { plugin } from "./plugin.mjs";

test("greets by name", async () => {
  const host = await Harness.start(plugin);
  assert.deepEqual(await host.call("greet", { name: "Ada" }), { text: "Hello, Ada!" });
  await host.close();
});

test("says what it wants", async () => {
  const host = await Harness.start(plugin);
  await assert.rejects(host.call("greet", {}), { code: codes.invalidParams });
  await host.close();
});
