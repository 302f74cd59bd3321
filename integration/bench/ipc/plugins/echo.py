"""The echo that the benchmark calls, on the SDK for Python."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[4] / "sdk" / "python"))
import cordon  # noqa: E402

plugin = cordon.Plugin("echo", "1.0.0")
plugin.method("echo")(lambda params, ctx: params)
plugin.main()
