// @NAME@, a Cordon plugin. cordon.mjs beside it is the whole SDK.
import { codes, CordonError, Plugin } from "./cordon.mjs";

export const plugin = new Plugin("@NAME@", "0.1.0");

// Answers {"name": "Ada"} with {"text": "Hello, Ada!"}.
plugin.method("greet", (params, ctx) => {
  if (typeof params?.name !== "string") {
    throw new CordonError(codes.invalidParams, 'cannot greet without a name: want {"name": "..."}');
  }
  ctx.log.info("greeting a caller"); // cordon logs @NAME@
  return { text: `Hello, ${params.name}!` };
});
