// The echo that the benchmark calls, on the SDK for Node.js.
import { Plugin } from "../../../../sdk/node/cordon.mjs";

await new Plugin("echo", "1.0.0").method("echo", (params) => params).main();
