"""What the conformance suite does not see: the face that handlers have."""

import asyncio
import fcntl
import json
import logging
import os
import socket
import tempfile
import threading
import time
import unittest
import unittest.mock

import cordon
import cordon_host

logging.disable()


class Plugins(unittest.TestCase):
    def setUp(self):
        self.plugin = cordon.Plugin("words", "1.0.0")

    def test_plain_and_async_handlers(self):
        @self.plugin.method("plain")
        def plain(params, ctx):
            return len(params["text"].split())

        @self.plugin.method("async")
        async def asynchronous(params, ctx):
            await asyncio.sleep(0)
            return len(params["text"].split())

        with cordon.Harness(self.plugin) as host:
            self.assertEqual(host.hello["name"], "words")
            self.assertEqual(host.call("plain", {"text": "a b"}), 2)
            self.assertEqual(host.call("async", {"text": "a b c"}), 3)

    def test_descriptors_travel_both_ways(self):
        before = len(os.listdir("/proc/self/fd"))

        @self.plugin.method("upper")
        def upper(params, ctx):
            (file,) = ctx.take_files()
            with file:
                text = file.read().upper()
            memory = cordon.Memory(len(text))
            memory.buffer[:] = text
            return cordon.WithFiles(len(text), [memory.seal()])

        @self.plugin.method("ignore")
        def ignore(params, ctx):
            return None

        with cordon.Harness(self.plugin) as host:
            self.assertEqual(host.hello["descriptors"], ["file", "memfd", "socket", "shared"])
            for _ in range(3):
                with tempfile.TemporaryFile() as sent:
                    sent.write(b"hello")
                    sent.seek(0)
                    result, (file,) = host.call_files("upper", {}, [os.fdopen(os.dup(sent.fileno()), "rb")])
                with file:
                    self.assertEqual((result, file.read(9)), (5, b"HELLO"))
                    with self.assertRaises(OSError):
                        os.pwrite(file.fileno(), b"x", 0)
                host.call_files("ignore", {}, [tempfile.TemporaryFile()])
                with self.assertRaises(ValueError):
                    host.call_files("ignore", {}, [os.fdopen(os.open("/dev/null", os.O_RDONLY))])
        deadline = time.monotonic() + 60
        while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before)

    def test_descriptors_that_nobody_announced_break_the_protocol(self):
        for extra in ({}, {"fds": ["file", "file"]}, {"fds": 1}):
            ours, its = socket.socketpair()
            failed = []

            def serve():
                try:
                    self.plugin.run(its)
                except cordon.ProtocolError as err:
                    failed.append(err.code)

            thread = threading.Thread(target=serve)
            thread.start()
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "cordon.hello", "params": {"api": 1}} | extra).encode()
            with tempfile.TemporaryFile() as file:
                socket.send_fds(ours, [len(body).to_bytes(4, "big") + body], [file.fileno()])
            thread.join(60)
            ours.close()
            self.assertEqual(failed, ["descriptors"])

    def test_deadline_travels_and_is_kept(self):
        @self.plugin.method("left")
        def left(params, ctx):
            return [params, ctx.remaining() is not None, ctx.traceparent]

        @self.plugin.method("wait")
        def wait(params, ctx):
            ctx.wait()
            ctx.check()

        @self.plugin.method("wait.async")
        async def wait_async(params, ctx):
            await asyncio.Event().wait()

        with cordon.Harness(self.plugin) as host:
            self.assertEqual(host.call("left", {"a": 1}), [{"a": 1}, False, None])
            meta = {"deadline_ms": 60000, "traceparent": "00-1-2-01"}
            self.assertEqual(host.call("left", {"a": 1, "_meta": meta}), [{"a": 1}, True, "00-1-2-01"])
            for method in ("wait", "wait.async"):
                with self.assertRaises(cordon.Error) as caught:
                    host.call(method, {"_meta": {"deadline_ms": 1}})
                self.assertEqual(caught.exception.code, cordon.DEADLINE)

    def test_cancellation_ends_the_handler(self):
        ended = threading.Event()

        @self.plugin.method("wait")
        def wait(params, ctx):
            if ctx.wait():
                ended.set()
            ctx.check()

        with cordon.Harness(self.plugin) as host:
            cancel, result = host.begin("wait")
            cancel()
            with self.assertRaises(cordon.Error) as caught:
                result()
            self.assertEqual(caught.exception.code, cordon.CANCELLED)
            self.assertTrue(ended.is_set())

    def test_host_serves_the_plugin(self):
        @self.plugin.method("look")
        def look(params, ctx):
            ctx.notify("seen", params)
            return ctx.call("kv.get", params)

        @self.plugin.method("look.async")
        async def look_async(params, ctx):
            return await ctx.acall("kv.get", params)

        serve = {"kv.get": lambda params, ctx: "value of " + params["key"]}
        with cordon.Harness(self.plugin, methods=serve) as host:
            self.assertEqual(host.call("look", {"key": "x"}), "value of x")
            self.assertEqual(host.call("look.async", {"key": "y"}), "value of y")
            self.assertEqual(host.notified, [("seen", {"key": "x"})])

    def test_what_the_host_serves_is_what_python_has(self):
        store, records = {}, []
        pages = [{"keys": ["a", "b"], "more": True}, {"keys": ["c"], "more": False}]

        @self.plugin.method("use")
        def use(params, ctx):
            ctx.put({"a": "1"})
            ctx.record("seen", level="warn", photo=1)
            ctx.add_metric("n", 2)
            return [ctx.get("a"), ctx.get("b"), list(ctx.keys()), ctx.data_usage()["bytes"], ctx.host_call("f", [1])]

        methods = {
            "kv.put": lambda p, ctx: store.update(p["set"]), "kv.get": lambda p, ctx: store.get(p["key"]),
            "kv.list": lambda p, ctx: pages.pop(0), "log": lambda p, ctx: records.append(p), "metric.add": lambda p, ctx: records.append(p),
            "data.usage": lambda p, ctx: {"bytes": 7}, "host.call": lambda p, ctx: [p["function"], p["params"]],
        }
        with cordon.Harness(self.plugin, methods) as host:
            self.assertEqual(host.call("use"), ["1", None, ["a", "b", "c"], 7, ["f", [1]]])
        self.assertEqual(records, [{"message": "seen", "level": "warn", "fields": {"photo": 1}}, {"name": "n", "value": 2}])

    def test_shutdown_runs_once_all_is_answered(self):
        order, began, release = [], threading.Event(), threading.Event()

        @self.plugin.method("slow")
        def slow(params, ctx):
            began.set()
            release.wait()
            order.append("answered")

        @self.plugin.on_shutdown
        def shut_down():
            order.append("shut down")

        with cordon.Harness(self.plugin) as host:
            _, result = host.begin("slow")
            began.wait()
            release.set()
            result()
        self.assertEqual(order, ["answered", "shut down"])

    def test_result_that_is_no_json_is_an_internal_error(self):
        self.plugin.method("set")(lambda params, ctx: {1, 2})
        self.plugin.method("nan")(lambda params, ctx: float("nan"))
        with cordon.Harness(self.plugin) as host:
            for method in ("set", "nan"):
                with self.assertRaises(cordon.Error) as caught:
                    host.call(method)
                self.assertEqual(caught.exception.code, cordon.INTERNAL)

    def test_log_lines_cannot_be_forged(self):
        record = logging.LogRecord("words", logging.INFO, "", 0, "a\nERROR words: b", None, None)
        self.assertNotIn("\n", cordon._Line("%(message)s").format(record))


def shared_memory(size):
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4)
    return os.fdopen(os.dup(fd), "r+b", buffering=0), os.fdopen(fd, "r+b", buffering=0)


class Streams(unittest.TestCase):
    def streams(self, size=0):
        a, b = socket.socketpair()
        ends = shared_memory(size) if size else (None, None)
        writer, reader = cordon.Stream(a, ends[0]), cordon.Stream(b, ends[1])
        self.addCleanup(writer.close)
        self.addCleanup(reader.close)
        return writer, reader

    def test_bytes_come_as_they_were(self):
        data = os.urandom(3_333_333)
        for size in 0, 64 << 10, 1 << 20:
            writer, reader = self.streams(size)

            def send(writer=writer):
                for _ in range(2):
                    writer.write(data)
                    writer.end()

            sender = threading.Thread(target=send)
            sender.start()
            self.assertEqual(b"".join(reader), data)
            reader.again()
            got = bytearray()
            while len(part := reader.next()):
                got += part
            self.assertEqual(got, data)
            sender.join()

    def test_a_cut_is_no_end(self):
        for size in 0, 64 << 10:
            writer, reader = self.streams(size)
            writer.write(b"some")
            writer._sock.close()
            self.assertEqual(reader.read(), b"some")
            with self.assertRaises(cordon.StreamError):
                reader.read()

    def test_a_peer_that_breaks_the_rules(self):
        writer, reader = self.streams()
        writer._sock.sendall((2 << 20).to_bytes(4, "big"))
        self.assertRaises(cordon.StreamError, reader.read)
        writer, reader = self.streams(64 << 10)
        writer.write(bytes(64 << 10))
        reader._sock.sendall((128 << 10).to_bytes(4, "big"))
        self.assertRaises(cordon.StreamError, writer.write, b"more")
        writer, reader = self.streams(64 << 10)
        writer.write(bytes(32 << 10))
        reader.read(32 << 10)
        writer._sock.sendall((32 << 10 | 1).to_bytes(4, "big"))
        self.assertRaises(cordon.StreamError, reader.read)

    def test_memory_that_can_shrink_is_not_mapped(self):
        a, b = socket.socketpair()
        self.addCleanup(b.close)
        fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 64 << 10)
        self.assertRaises(cordon.StreamError, cordon.Stream, a, os.fdopen(fd, "r+b", buffering=0))


class Traces(unittest.TestCase):
    def test_what_is_asked_of_the_host_says_what_for(self):
        plugin, asked = cordon.Plugin("words", "1.0.0"), []

        @plugin.method("ask")
        def ask(params, ctx):
            return ctx.call("kv.get", {"key": "x"})

        @plugin.method("ask-async")
        async def ask_async(params, ctx):
            return await ctx.acall("kv.get")

        def get(params, ctx):
            asked.append((params, ctx.traceparent, ctx.request_id))

        with cordon.Harness(plugin, methods={"kv.get": get}) as host:
            host.call("ask", {"_meta": {"traceparent": "00-1-2-01", "request_id": "r-1"}})
            host.call("ask-async", {"_meta": {"request_id": "r-2"}})
            host.call("ask")
        self.assertEqual(asked, [({"key": "x"}, "00-1-2-01", "r-1"), ({}, None, "r-2"), ({"key": "x"}, None, None)])


class Clients(unittest.TestCase):
    """A client of a daemon that is behind with accepting."""

    def setUp(self):
        self.path = os.path.join(self.enterContext(tempfile.TemporaryDirectory()), "s")
        self.daemon = self.enterContext(socket.socket(socket.AF_UNIX))
        self.daemon.bind(self.path)
        self.daemon.listen(1)
        with self.assertRaises(BlockingIOError):
            for _ in range(100):
                other = self.enterContext(socket.socket(socket.AF_UNIX))
                other.setblocking(False)
                other.connect(self.path)

    def test_waits_for_a_place(self):
        timer = threading.Timer(0.02, lambda: self.daemon.accept()[0].close())
        timer.start()
        self.addCleanup(timer.join)
        cordon_host.Client(self.path).close()

    def test_waits_no_longer_than_it_says(self):
        self.enterContext(unittest.mock.patch("cordon_host._CONNECT_WAIT", 0.02))
        with self.assertRaisesRegex(cordon_host.HostError, "cannot reach the daemon"):
            cordon_host.Client(self.path)


if __name__ == "__main__":
    unittest.main()
