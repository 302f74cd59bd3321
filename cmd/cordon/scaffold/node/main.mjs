// What runs behind the walls; plugin.mjs has the handlers.
import { plugin } from "./plugin.mjs";

await plugin.main();
