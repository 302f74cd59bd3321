"""What an application of the host in Python is made of: it calls plugins, sees
what happens, and serves functions to plugins, over the daemon's socket.

    import cordon_host

    with cordon_host.Client() as client:
        words = client.call("words", "words.count", {"text": "a b"})["words"]

It needs cordon.py beside it, and nothing else.
"""

import itertools
import os
import queue
import socket
import struct
import threading
import time

import cordon
from cordon import CANCELLED, DEFAULT_TIMEOUT, PEER_GONE, Error, Plugin

__all__ = ["Client", "Function", "HostError", "Lost", "DEFAULT_SOCKET"]

DEFAULT_SOCKET = "/run/cordon/cordon.sock"
NOT_READY, CONFLICT = -32002, -32012

_LIMITS = {"max_frame": (1 << 24) - 1, "max_in_flight": 16, "max_depth": 128}
_RETRY_FIRST, _RETRY_MOST = 0.02, 1.0  # seconds between tries
_SERVE_AGAIN = 60.0  # seconds that serve waits for another daemon
_CONNECT_WAIT = 10.0  # seconds for a place among those that the daemon has not yet accepted
_QUEUE = 64  # events that wait before nothing more is read


class HostError(Error):
    """The answer to a call that failed: hint says what would mend it, from_plugin
    that the plugin itself answered so, request_id what the call is called in the
    host's records."""

    def __init__(self, code, message, data=None, request_id=None):
        told = data if isinstance(data, dict) else {}
        super().__init__(code, message, told.get("data"))
        self.hint, self.from_plugin = told.get("hint"), told.get("plugin") is True
        self.request_id = request_id


class Lost(HostError):
    """Some events were lost: this side was too slow."""

    def __init__(self):
        super().__init__(PEER_GONE, "some events were lost: this side was too slow")


class Function:
    """A function for plugins that were granted host.call of its name. call takes
    (params, ctx), where ctx.plugin is who asks; params and result are JSON
    Schemas, which the daemon checks."""

    def __init__(self, name, call, params=True, result=True, text=""):
        self.name, self.call, self.params, self.result, self.text = name, call, params, result, text


class _Link(cordon._Connection):
    """One connection to the daemon."""

    def __init__(self, path, host):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Where others connect faster than the daemon accepts, connect waits so long; socket(7).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_CONNECT_WAIT), int(_CONNECT_WAIT % 1 * 1e6)))
            sock.connect(path)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
        except OSError as err:
            sock.close()
            raise HostError(PEER_GONE, f"cannot reach the daemon at {path}: {err.strerror}", {"hint": _hint(err)}) from None
        super().__init__(host, sock, hosting=True)
        self._obey(_LIMITS)
        self.leaving, self.over = False, threading.Event()
        host.notifications["daemon.leaving"] = self._said_leaving
        threading.Thread(target=self._serve_all, daemon=True).start()

    def _said_leaving(self, params, ctx):
        self.leaving = True

    def _serve_all(self):
        try:
            self.run()
        except cordon.ProtocolError:
            pass  # every call says why it ended
        finally:
            self.over.set()

    def end(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def _hint(err):
    if isinstance(err, (FileNotFoundError, ConnectionRefusedError)):
        return "is cordond running?"
    return "the socket is for root, the group cordon and whom a [[role]] names" if isinstance(err, PermissionError) else None


def _told(err, request_id=None):
    return err if isinstance(err, HostError) else HostError(err.code, str(err), err.data, request_id)


class _Tries:
    """Whether a call that failed is made again, and how long to wait before."""

    def __init__(self, timeout, idempotent):
        self.until = time.monotonic() + timeout
        self.idempotent, self._gone, self._pause = idempotent, False, _RETRY_FIRST

    def left(self):
        return max(0.001, self.until - time.monotonic())

    def again(self, err, link):
        """The pause before the next try, or None."""
        code = 0 if err.from_plugin else err.code
        self._gone = self._gone or code == PEER_GONE
        never_begun = link is not None and link.leaving and link.over.is_set()
        not_up_yet = self.idempotent and self._gone and code in (PEER_GONE, NOT_READY, CONFLICT)
        pause, self._pause = self._pause, min(2 * self._pause, _RETRY_MOST)
        return pause if (never_begun or not_up_yet) and pause < self.left() else None


class Client:
    """An application's connection to the daemon, made anew by the next call when
    it ended. Threads may share it."""

    def __init__(self, path=DEFAULT_SOCKET):
        self.path = path
        self._lock, self._link, self._closed = threading.Lock(), None, False
        self._ids, self._last = os.urandom(4).hex(), itertools.count(1)
        self._connected()

    def _connected(self):
        with self._lock:
            if self._closed:
                raise HostError(PEER_GONE, "the client is closed")
            if self._link is None or self._link.over.is_set():
                self._link = _Link(self.path, Plugin("host", "0"))
            return self._link

    def _body(self, plugin, method, params, left, traceparent, request_id):
        about = {"request_id": request_id} | ({"traceparent": traceparent} if traceparent else {})
        body = {"name": plugin, "method": method, "timeout_ns": int(left * 1e9), "_meta": about}
        return body if params is None else body | {"params": params}

    def _name(self, request_id):
        return request_id or f"{self._ids}-{next(self._last)}"

    def call(self, plugin, method, params=None, timeout=DEFAULT_TIMEOUT, idempotent=False, traceparent=None, request_id=None):
        """Calls a method of a plugin; raises HostError. idempotent says that doing
        it twice is as good as once: then it is made again where the daemon or the
        plugin went away before it answered, until the timeout."""
        request_id, tries = self._name(request_id), _Tries(timeout, idempotent)
        while True:
            link = None
            try:
                link = self._connected()
                body = self._body(plugin, method, params, tries.left(), traceparent, request_id)
                return link.call("plugin.call", body, tries.left())
            except Error as err:
                told = _told(err, request_id)
                pause = tries.again(told, link)
                if pause is None:
                    raise told from None
            time.sleep(pause)

    async def acall(self, plugin, method, params=None, timeout=DEFAULT_TIMEOUT, idempotent=False, traceparent=None, request_id=None):
        """As call, for programs with an event loop. Cancelling the task cancels the
        call."""
        import asyncio

        request_id, tries = self._name(request_id), _Tries(timeout, idempotent)
        while True:
            link = None
            try:
                link = await asyncio.to_thread(self._connected)
                body = self._body(plugin, method, params, tries.left(), traceparent, request_id)
                return await link.acall("plugin.call", body, tries.left())
            except Error as err:
                told = _told(err, request_id)
                pause = tries.again(told, link)
                if pause is None:
                    raise told from None
            await asyncio.sleep(pause)

    def begin(self, plugin, method, params=None, timeout=DEFAULT_TIMEOUT):
        """Calls without waiting: (cancel, result), two functions."""
        link, request_id = self._connected(), self._name(None)
        call_id, future = link._begin("plugin.call", self._body(plugin, method, params, timeout, None, request_id))

        def cancel():
            future.cancel()
            link._give_up(call_id)

        def result():
            try:
                return future.result(timeout)
            except cordon.concurrent.futures.CancelledError:
                raise HostError(CANCELLED, "cancelled", None, request_id) from None
            except cordon.concurrent.futures.TimeoutError:
                link._give_up(call_id)
                raise HostError(cordon.DEADLINE, f"no answer within {timeout} s", None, request_id) from None
            except Error as err:
                raise _told(err, request_id) from None

        return cancel, result

    def call_files(self, plugin, method, params=None, files=(), accept=0, timeout=DEFAULT_TIMEOUT):
        """As call, with descriptors: files, sealed memory (cordon.Memory) or one end
        of a socketpair, go along and are closed. Returns the result and up to accept
        files that came with it, which the caller closes."""
        request_id = self._name(None)
        try:
            body = self._body(plugin, method, params, timeout, None, request_id) | {"accept_descriptors": accept}
            answer = self._connected().call("plugin.call", body, timeout, None, files)
        except Error as err:
            raise _told(err, request_id) from None
        return (answer.result, answer.files) if isinstance(answer, cordon.WithFiles) else (answer, [])

    def do(self, method, params=None, timeout=DEFAULT_TIMEOUT):
        """Makes any request of the control socket, such as plugin.list."""
        try:
            return self._connected().call(method, params, timeout)
        except Error as err:
            raise _told(err) from None

    def events(self, plugin=None, stop=None):
        """Gives what is remembered of a plugin, or of all, and then what happens, as
        dicts, over a connection of its own: until the loop is left, or stop, a
        threading.Event, is set."""
        waiting = queue.Queue(_QUEUE)
        host = Plugin("host", "0")
        host.notifications["event"] = lambda params, ctx: waiting.put(params)  # while it is full nothing more is read
        host.notifications["stream.end"] = lambda params, ctx: waiting.put(Lost() if (params or {}).get("lost") else None)
        link = _Link(self.path, host)
        try:
            try:
                yield from link.call("events", {"follow": True} | ({"name": plugin} if plugin else {}), DEFAULT_TIMEOUT)
            except Error as err:
                raise _told(err) from None
            while not (stop and stop.is_set()):
                try:
                    event = waiting.get(timeout=0.2)
                except queue.Empty:
                    if link.over.is_set():
                        raise HostError(PEER_GONE, "the daemon has ended the connection") from None
                    continue
                if isinstance(event, dict):
                    yield event
                else:
                    raise event or HostError(PEER_GONE, "the daemon has ended the stream")
        finally:
            link.end()
            while not link.over.wait(0.05):  # its reader may wait to hand one over
                while not waiting.empty():
                    waiting.get_nowait()

    def serve(self, functions, stop):
        """Declares functions to plugins and answers them, each in a thread, until
        stop, a threading.Event, is set. Where the daemon goes away they are declared
        to the next, for as long as one comes within a minute."""
        while self._serve_once(functions, stop):
            since, pause = time.monotonic(), _RETRY_FIRST
            while not stop.wait(pause):
                try:
                    _Link(self.path, Plugin("host", "0")).end()
                    break
                except HostError:
                    if time.monotonic() - since > _SERVE_AGAIN:
                        raise
                pause = min(2 * pause, _RETRY_MOST)

    def _serve_once(self, functions, stop):
        table = {f.name: f for f in functions}
        host = Plugin("host", "0")

        @host.method("host.function")
        def answer(params, ctx):
            f = table.get(params["function"])
            if f is None:
                raise Error(cordon.METHOD_NOT_FOUND, f"no function {params['function']!r} is served here")
            ctx.plugin = params["plugin"]
            return f.call(params["params"], ctx)

        link = _Link(self.path, host)
        try:
            declared = [{"name": f.name, "text": f.text, "params": f.params, "result": f.result} for f in functions]
            try:
                link.call("host.serve", {"functions": declared}, DEFAULT_TIMEOUT)
            except Error as err:
                raise _told(err) from None
            while not stop.wait(0.1):
                if link.over.is_set():
                    return True
            return False
        finally:
            link.end()

    def close(self):
        with self._lock:
            self._closed, link = True, self._link
        if link:
            link.end()
            link.over.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
