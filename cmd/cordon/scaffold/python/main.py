"""@NAME@, a Cordon plugin. cordon.py beside it is the whole SDK."""

import cordon

plugin = cordon.Plugin("@NAME@", "0.1.0")


@plugin.method("greet")
def greet(params, ctx):
    """Answers {"name": "Ada"} with {"text": "Hello, Ada!"}."""
    name = params.get("name") if isinstance(params, dict) else None
    if not isinstance(name, str):
        raise cordon.Error(cordon.INVALID_PARAMS, 'cannot greet without a name: want {"name": "..."}')
    ctx.log.info("greeting a caller")  # cordon logs @NAME@
    return {"text": f"Hello, {name}!"}


if __name__ == "__main__":
    plugin.main()
