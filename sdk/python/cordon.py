"""What a plugin in Python is made of, with the standard library alone.

    import cordon

    plugin = cordon.Plugin("words", "1.0.0")

    @plugin.method("words.count")
    def count(params, ctx):
        return {"words": len(params["text"].split())}

    if __name__ == "__main__":
        plugin.main()

A handler is a plain function, which runs in a thread, or an ``async def``,
which runs in an event loop. This one file is the whole library: a bundle
carries its own copy.
"""

import array
import concurrent.futures
import fcntl
import json
import logging
import os
import re
import socket
import stat
import struct
import sys
import threading
import time

__all__ = ["Plugin", "Context", "Error", "Harness", "Memory", "ProtocolError", "Stream", "StreamError", "WithFiles"]

API = 1
DESCRIPTOR = 3  # where a plugin finds the socket to its host

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL = -32603
DEADLINE = -32001
CANCELLED = -32003
OVERLOADED = -32004
SHUTTING_DOWN = -32005
TOO_LARGE = -32006
PEER_GONE = -32008
DENIED = -32011
UNSUPPORTED = -32013

DEFAULT_TIMEOUT = 30.0  # seconds, of a call to the host
LEAVING_GRACE = 2.0  # seconds that handlers have once the host has gone
MAX_SAFE_INT = 1 << 53
CO_COROUTINE = 0x80  # as in inspect; asyncio and inspect load where they are needed, or every start waits for them


class Error(Exception):
    """The answer to a request that failed: raise it, or catch it from a call."""

    def __init__(self, code, message, data=None):
        super().__init__(message)
        self.code, self.message, self.data = code, message, data

    def as_json(self):
        told = {"code": self.code, "message": self.message}
        return told if self.data is None else told | {"data": self.data}


class ProtocolError(Exception):
    """The peer broke a rule of the protocol; code is its name in PROTOCOL.md."""

    def __init__(self, code, text):
        super().__init__(f"protocol broken ({code}): {text}")
        self.code = code


# --- reading one message, as for a hostile peer ---------------------------

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def _check_depth(text, limit):
    if text.count("[") + text.count("{") <= limit:  # those in strings are counted too
        return
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        first = found.group()[0]
        if first in "[{":
            depth += 1
            if depth > limit:
                raise ProtocolError("depth", f"nested deeper than {limit}")
        elif first in "]}":
            depth -= 1


def _no_duplicates(pairs):
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ProtocolError("duplicate", "one key twice in one object")
    return members


def _integer(text):
    if text == "-0" or len(text) > 4000:  # what int() would lose, or refuse
        return float(text)
    return int(text)


def _no_constant(text):
    raise ValueError(text + " is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_int=_integer, parse_constant=_no_constant)


def _has_lone_surrogate(value):
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return True
        return False
    if isinstance(value, dict):
        return any(_has_lone_surrogate(k) or _has_lone_surrogate(v) for k, v in value.items())
    return isinstance(value, list) and any(map(_has_lone_surrogate, value))


def _parse(raw, max_depth):
    """One message as an object, or the ProtocolError that it is."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as err:
        raise ProtocolError("encoding", f"invalid UTF-8 at byte {err.start}") from None
    text = text.strip(" \t\r\n")
    _check_depth(text, max_depth)
    try:
        message, end = _DECODER.raw_decode(text)
    except ValueError as err:
        raise ProtocolError("syntax", f"invalid JSON: {err}") from None
    if end != len(text):
        raise ProtocolError("syntax", "more than one value")
    if isinstance(message, list):
        raise ProtocolError("envelope", "batches are not accepted")
    if not isinstance(message, dict):
        raise ProtocolError("syntax", "a message is an object")
    if "\\u" in text and _has_lone_surrogate(message):
        raise ProtocolError("encoding", "half of a surrogate pair")
    return message


def _is_int(value):
    return type(value) is int and -MAX_SAFE_INT <= value <= MAX_SAFE_INT


def _check_id(value):
    if isinstance(value, str):
        if len(json.dumps(value, ensure_ascii=False).encode()) > 258:
            raise ProtocolError("id", "an id of more than 256 bytes")
    elif not _is_int(value):
        raise ProtocolError("id", "an id must be a string or an integer within 2^53")


def _classify(message):
    """request, notification, result or error; or the ProtocolError it is."""
    if message.get("jsonrpc") != "2.0":
        raise ProtocolError("envelope", 'member "jsonrpc" must be "2.0"')
    if "method" in message:
        return _classify_call(message)
    if "id" not in message or "params" in message:
        raise ProtocolError("envelope", "neither a request nor a reply")
    failed = message.get("error") is not None
    if failed and message.get("result") is not None:
        raise ProtocolError("envelope", "a reply with a result and an error")
    if not failed and "result" not in message:
        raise ProtocolError("envelope", "a reply without result and error")
    if not (failed and message["id"] is None):
        _check_id(message["id"])
    return "error" if failed else "result"


def _classify_call(message):
    if "result" in message or "error" in message:
        raise ProtocolError("envelope", "a message with a method and a result or error")
    method = message["method"]
    if not isinstance(method, str) or not 1 <= len(method.encode()) <= 256:
        raise ProtocolError("envelope", "method must be a string of 1 to 256 bytes")
    if any(c < " " or c == "\x7f" for c in method):
        raise ProtocolError("envelope", "method has a control character")
    if not isinstance(message.get("params"), (dict, list, type(None))):
        raise ProtocolError("envelope", "params must be an object or an array")
    if "id" not in message:
        return "notification"
    _check_id(message["id"])
    return "request"


def _key(request_id):
    """1 and "1" are different ids."""
    return (type(request_id), request_id)


def _is_async(handler):
    return bool(getattr(getattr(handler, "__code__", None), "co_flags", 0) & CO_COROUTINE)


# --- descriptors ----------------------------------------------------------

MAX_DESCRIPTORS = 253  # the kernel's own bound for one message, unix(7)
_IMMUTABLE = 0x2 | 0x4 | 0x8  # F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
_ADD_SEALS, _GET_SEALS = 1033, 1034


class WithFiles:
    """A handler's result that descriptors go along with: files, sockets, and
    what Memory.seal made, as objects with fileno() and close(). They are closed
    once they are sent."""

    def __init__(self, result, files):
        self.result, self.files = result, list(files)


class Memory:
    """Bytes to be filled in place, as .buffer, and then sent: nothing copies
    them. seal() makes them a file for WithFiles, which nobody can change."""

    def __init__(self, size):
        import mmap

        fd = os.memfd_create("cordon", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._file = os.fdopen(fd, "r+b", buffering=0)
        os.posix_fallocate(fd, 0, size)
        self._map = mmap.mmap(fd, size)
        self.buffer = memoryview(self._map)

    def seal(self):
        """The file. Views of the buffer must be released before."""
        self.buffer.release()
        self._map.close()
        fcntl.fcntl(self._file, _ADD_SEALS, _IMMUTABLE)
        return self._file

    def close(self):
        self.buffer.release()
        self._map.close()
        self._file.close()


def _kind_of(fd):
    about = os.fstat(fd)
    if stat.S_ISSOCK(about.st_mode):
        return "socket"
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("cannot send a descriptor that is neither a regular file nor a socket")
    try:
        sealed = fcntl.fcntl(fd, _GET_SEALS) & _IMMUTABLE == _IMMUTABLE
    except OSError:
        sealed = False
    return "memfd" if sealed and about.st_blocks * 512 >= about.st_size else "file"


def _opened(fd):
    """A received descriptor as an object that closes itself."""
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        return socket.socket(fileno=fd)
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    return os.fdopen(fd, {os.O_RDONLY: "rb", os.O_WRONLY: "wb"}.get(mode, "r+b"), buffering=0)


def _close_all(files):
    for file in files:
        file.close()


# --- streams --------------------------------------------------------------

_WINDOW = 1 << 20  # bytes under way that their reader has not taken, without memory
_CHUNK = 256 << 10  # bytes that one chunk of ours holds
_STALL = 30.0  # seconds that either end waits for the other
_RING = range(64 << 10, (16 << 20) + 1)  # bytes of memory that both ends map
_SIZED = 0x1 | 0x2 | 0x4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW


class StreamError(Exception):
    """A stream ended before its writer said so, or its peer broke a rule."""


class Stream:
    """One end of a stream of bytes that goes one way, over a socket of its own
    that travelled with a request or an answer, and through memory where the host
    shared some. One thread reads it, or one writes. An async handler uses it by
    asyncio.to_thread."""

    def __init__(self, sock, memory=None):
        """Takes over a connected unix socket and the memory, if that came too."""
        self._sock, self._map, self._window = sock, None, _WINDOW
        try:
            sock.settimeout(_STALL)
            if memory is not None:
                self._map = _shared(memory)
                self._window = len(self._map)
        except BaseException:
            sock.close()
            raise
        self._credit = self._allowed = self._window
        self._at = self._left = self._taken = self._lent = 0
        self._rest, self._ended = memoryview(b""), False

    @classmethod
    def pair(cls):
        """This side's end, and the one for call_files or WithFiles."""
        ours, theirs = socket.socketpair()
        return cls(ours), theirs

    def read(self, size=_CHUNK):
        """Up to size bytes; b"" where the writer ended the stream. Raises
        StreamError where it went without."""
        if self._map is None:
            return self._read_socket(size)
        if not self._rest:
            self._rest = self._next()
        part, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return part

    def next(self):
        """The bytes that come next as a memoryview, valid until the next call and
        without a copy where memory is shared: the writer can change them there, so
        what must not change between two looks has to be copied first. Empty at the
        end of the stream."""
        if self._map is None:
            return memoryview(self._read_socket(_CHUNK))
        rest, self._rest = self._rest or self._next(), memoryview(b"")
        return rest

    def __iter__(self):
        return iter(self.read, b"")

    def again(self):
        """Goes on behind the end: a stream that both sides keep takes one payload
        after the other."""
        if not self._ended:
            raise StreamError("cannot go on with a stream that has not ended")
        self._ended = False

    def write(self, data):
        """Writes all of data; waits while the reader has taken none of the last
        bytes that may be under way."""
        data = memoryview(data).cast("B")
        while len(data):
            size = min(len(data), _CHUNK) if self._map is None else min(len(data), self._window - self._at, self._window // 2)
            size = self._await_credit(size)
            if self._map is None:
                self._send(struct.pack(">I", size) + data[:size])
            else:
                self._map[self._at : self._at + size] = data[:size]
                self._send(struct.pack(">I", size))
                self._at = (self._at + size) % self._window
            self._credit -= size
            data = data[size:]

    def end(self):
        """Says that all was written. Without it the reader is told of a cut."""
        self._send(b"\0\0\0\0")

    def close(self):
        self._rest.release()
        self._sock.close()
        if self._map is not None:
            self._map.release()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _read_socket(self, size):
        if self._ended or not self._left and not self._begin():
            return b""
        part = self._receive(min(size, self._left))
        self._left -= len(part)
        self._taken += len(part)
        if self._taken >= self._window // 2:
            self._grant()
        return part

    def _next(self):
        if self._ended:
            return memoryview(b"")
        self._taken, self._lent = self._taken + self._lent, 0
        if self._taken >= self._window // 4:
            self._grant()
        if not self._begin():
            return memoryview(b"")
        if self._left > self._window - self._at:
            raise StreamError(f"a chunk of {self._left} bytes, and {self._window - self._at} are left up to the end of the memory")
        part = self._map[self._at : self._at + self._left]
        self._at, self._lent, self._left = (self._at + self._left) % self._window, self._left, 0
        return part

    def _begin(self):
        """Begins the next chunk; whether there is one."""
        size = self._number()
        if size > self._allowed:
            raise StreamError(f"a chunk of {size} bytes, and its writer had credit for {self._allowed}")
        self._ended, self._left = size == 0, size
        self._allowed -= size
        return size > 0

    def _grant(self):
        """Lets the writer send as much again as was taken."""
        self._allowed, taken, self._taken = self._allowed + self._taken, self._taken, 0
        try:
            self._send(struct.pack(">I", taken))
        except StreamError:
            pass  # a writer that has said all may leave

    def _await_credit(self, size):
        """How many of size bytes may be sent now; all of them where memory is shared."""
        while self._credit < (1 if self._map is None else size):
            more = self._number()
            if self._credit + more > self._window:
                raise StreamError(f"its reader granted {more} bytes, more than were sent")
            self._credit += more
        return min(size, self._credit)

    def _number(self):
        raw = b""
        while len(raw) < 4:
            raw += self._receive(4 - len(raw))
        return struct.unpack(">I", raw)[0]

    def _receive(self, size):
        try:
            part = self._sock.recv(size)
        except TimeoutError:
            raise StreamError(f"nothing came for {_STALL:.0f} s") from None
        except ConnectionError:
            part = b""
        if not part:
            raise StreamError("the stream was cut off")
        return part

    def _send(self, data):
        try:
            self._sock.sendall(data)
        except TimeoutError:
            raise StreamError(f"nothing was taken for {_STALL:.0f} s") from None
        except ConnectionError:
            raise StreamError("the stream was cut off") from None


def _shared(memory):
    """Memory that both ends write to, mapped; its file is closed."""
    import mmap

    with memory:
        size = os.fstat(memory.fileno()).st_size
        try:
            seals = fcntl.fcntl(memory, _GET_SEALS)
        except OSError:
            seals = 0
        if seals != _SIZED or size not in _RING:
            raise StreamError("cannot share memory that has another size, or whose size is not sealed")
        return memoryview(mmap.mmap(memory.fileno(), size))


# --- the plugin -----------------------------------------------------------


class Plugin:
    """A table of handlers, and how to serve them to the host."""

    def __init__(self, name, version, workers=16):
        """workers bounds how many plain handlers run at once."""
        self.name, self.version, self.workers = name, version, workers
        self.methods, self.notifications = {}, {}
        self.shutdown = None
        self.log = logging.getLogger(name)

    def method(self, name):
        """Decorates a handler: (params, ctx) -> result, plain or async."""
        return lambda handler: self.methods.setdefault(name, handler)

    def notification(self, name):
        """Decorates a handler of notifications, which come in order. A plain
        one runs in the reader: it must not wait for the host."""
        return lambda handler: self.notifications.setdefault(name, handler)

    def on_shutdown(self, handler):
        """Decorates what runs once all requests are answered, before the host
        is told that the plugin may be ended."""
        self.shutdown = handler
        return handler

    def main(self):
        """Serves the host until it says goodbye, and exits."""
        _log_to_stderr()
        try:
            self.run()
        except ProtocolError as err:
            self.log.error("cannot go on: %s", err)
            sys.exit(1)

    def run(self, sock=None):
        """Serves the host over sock, by default the one at descriptor 3, and
        closes it. Raises ProtocolError when the host broke a rule."""
        _Connection(self, sock or _host_socket()).run()

    async def run_async(self, sock=None):
        """As run, for a program that has an event loop: async handlers run in it."""
        import asyncio

        loop = asyncio.get_running_loop()
        connection = _Connection(self, sock or _host_socket(), loop)
        done = loop.create_future()

        def serve():
            try:
                connection.run()
            except BaseException as err:  # handed on, whatever it is
                loop.call_soon_threadsafe(done.set_exception, err)
            else:
                loop.call_soon_threadsafe(done.set_result, None)

        threading.Thread(target=serve, daemon=True).start()
        await done


def _host_socket():
    try:
        return socket.socket(fileno=os.dup(DESCRIPTOR))
    except OSError as err:
        raise SystemExit(
            f"cannot find the host: descriptor {DESCRIPTOR} is no socket ({err}); "
            "start the plugin with cordon, or test it with cordon.Harness"
        ) from None


class _Line(logging.Formatter):
    """One line a record: a line end in it could forge the next."""

    def format(self, record):
        return super().format(record).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _log_to_stderr():
    if not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Line("%(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])


class _Named(logging.LoggerAdapter):
    """A log with the name of a request on each line."""

    def process(self, msg, kwargs):
        return f"{msg} request_id={self.extra['request_id']}", kwargs


def _short(value):
    return value if isinstance(value, str) and len(value) <= 256 else None


class Context:
    """What a handler knows of its request."""

    def __init__(self, connection, meta):
        self._connection = connection
        self._cancelled = threading.Event()
        self._calls = set()
        self._task = None
        self._files = []
        #: The trace context that the request belongs to, and what it is called in
        #: the host's records; what is asked of the host with this context says so too.
        self.traceparent, self.request_id = _short(meta.get("traceparent")), _short(meta.get("request_id"))
        left = meta.get("deadline_ms")
        #: Seconds of time.monotonic() at which the caller gives up, or None.
        self.deadline = time.monotonic() + left / 1000 if _is_int(left) and left > 0 else None
        self.log = connection.plugin.log
        if self.request_id:
            self.log = _Named(self.log, {"request_id": self.request_id})

    @property
    def cancelled(self):
        """Whether nobody waits for the answer any longer."""
        return self._cancelled.is_set() or self.remaining() == 0

    def remaining(self):
        """Seconds until the deadline, never negative; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def check(self):
        """Raises when nobody waits any longer: for loops in plain handlers."""
        if self._cancelled.is_set():
            raise Error(CANCELLED, "cancelled")
        if self.remaining() == 0:
            raise Error(DEADLINE, "deadline exceeded")

    def wait(self, seconds=None):
        """Waits until cancelled, the deadline or so many seconds; whether cancelled."""
        waits = [s for s in (seconds, self.remaining()) if s is not None]
        self._cancelled.wait(min(waits) if waits else None)
        return self.cancelled

    def take_files(self):
        """The descriptors that came with the request, as open files and sockets.
        Who takes them closes them; the others are closed after the handler."""
        files, self._files = self._files, []
        return files

    def take_stream(self):
        """The stream that came with the request, which the handler closes."""
        files = self.take_files()
        if not 1 <= len(files) <= 2 or not isinstance(files[0], socket.socket):
            _close_all(files)
            raise Error(INVALID_PARAMS, f"{len(files)} descriptors came where one stream was to")
        return Stream(*files)

    def call(self, method, params=None, timeout=DEFAULT_TIMEOUT):
        """Asks the host and waits for its answer; raises Error. For plain handlers."""
        return self._connection.call(method, self._traced(params), timeout, self)

    def call_files(self, method, params=None, files=(), timeout=DEFAULT_TIMEOUT):
        """As call, with descriptors: files go along and are closed. Returns the
        result and the files that came with it, which the caller closes."""
        answer = self._connection.call(method, self._traced(params), timeout, self, files)
        return (answer.result, answer.files) if isinstance(answer, WithFiles) else (answer, [])

    def _traced(self, params):
        """params with a _meta that says what a call belongs to."""
        about = {"traceparent": self.traceparent, "request_id": self.request_id}
        about = {name: value for name, value in about.items() if value}
        if not about or not isinstance(params, (dict, type(None))) or params and "_meta" in params:
            return params
        return dict(params or {}, _meta=about)

    # What the host serves, as Python has it. Each needs a grant, and raises Error
    # (DENIED) without one.

    def open(self, path, mode="r", create=False, truncate=False):
        """A file of the host, open: "r" for reading, "w" for both. The caller
        closes it."""
        params = {"path": path}
        if mode != "r":
            params.update(access="rw", create=create, truncate=truncate)
        return self._one("fs.open", params)

    def dial(self, to, timeout=DEFAULT_TIMEOUT):
        """A socket that is connected to a granted "host:port": wrap it in TLS, or
        give it to http.client as a connection's sock. The caller closes it."""
        return self._one("net.dial", {"to": to}, timeout)

    def listen(self, at):
        """A listening socket for what connects to a granted "address:port" of the
        host. The caller closes it."""
        return self._one("net.listen", {"at": at})

    def secret(self, name):
        """The bytes of a secret that the host keeps under a name."""
        with self._one("secret.open", {"name": name}) as file:
            return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)

    def get(self, key):
        """A value of the plugin's own store, or None."""
        return self.call("kv.get", {"key": key})

    def put(self, values, when=None):
        """Sets keys of the plugin's own store in one transaction; None takes one
        away. With when, only if the store has what that says: CONFLICT otherwise."""
        self.call("kv.put", {"set": values} if when is None else {"set": values, "if": when})

    def keys(self, prefix=""):
        """The keys of the plugin's own store that begin with prefix, in order."""
        after = ""
        while True:
            page = self.call("kv.list", {"prefix": prefix, "after": after})
            yield from page["keys"]
            if not page["more"]:
                return
            after = page["keys"][-1]

    def record(self, message, level="info", **fields):
        """Writes a structured record to the plugin's log."""
        self.call("log", {"message": message, "level": level, "fields": fields})

    def add_metric(self, name, value=1):
        """Adds to a counter of the plugin's own."""
        self.call("metric.add", {"name": name, "value": value})

    def set_metric(self, name, value):
        """Sets a gauge of the plugin's own."""
        self.call("metric.set", {"name": name, "value": value})

    def data_usage(self):
        """How much of its data directory the plugin uses: a dict."""
        return self.call("data.usage")

    def host_call(self, name, params=None, timeout=DEFAULT_TIMEOUT):
        """Calls a function that an application of the host serves."""
        return self.call("host.call", {"function": name, "params": params}, timeout)

    def _one(self, method, params, timeout=DEFAULT_TIMEOUT):
        _, files = self.call_files(method, params, timeout=timeout)
        return files[0]

    async def acall(self, method, params=None, timeout=DEFAULT_TIMEOUT):
        """As call, for async handlers."""
        return await self._connection.acall(method, self._traced(params), timeout)

    def submit(self, method, params=None, priority=0, within=30.0):
        """Leaves work for later: the host calls the plugin's own method when its turn
        comes, those of the highest priority (0 to 9) first. It is done within so many
        seconds, or dropped: the notification task.dropped says so. Returns the task's
        number."""
        return self.call("task.submit", self._task_of(method, params, priority, within))["task"]

    async def asubmit(self, method, params=None, priority=0, within=30.0):
        """As submit, for async handlers."""
        return (await self.acall("task.submit", self._task_of(method, params, priority, within)))["task"]

    def cancel_task(self, task):
        """Ends a task, or keeps it from beginning; whether there was one."""
        return self.call("task.cancel", {"task": task})["cancelled"]

    async def acancel_task(self, task):
        """As cancel_task, for async handlers."""
        return (await self.acall("task.cancel", {"task": task}))["cancelled"]

    @staticmethod
    def _task_of(method, params, priority, within):
        task = {"method": method, "priority": priority, "deadline_ms": round(within * 1000)}
        return task if params is None else task | {"params": params}

    def notify(self, method, params=None):
        """Tells the host something that it does not answer."""
        self._connection.notify(method, params)

    def _cancel(self):
        self._cancelled.set()
        for future in list(self._calls):
            future.cancel()
        if self._task:
            self._task.cancel()


class _Connection:
    """One end of the protocol, in threads: this one reads, workers answer."""

    def __init__(self, plugin, sock, loop=None, hosting=False):
        self.plugin, self.sock, self.hosting = plugin, sock, hosting
        self._arrived = []  # descriptors that no message has claimed yet
        self._unix = sock.family == socket.AF_UNIX
        self._loop, self._loop_lock = loop, threading.Lock()
        self._lock = threading.Lock()  # guards all below
        self._writing = threading.Lock()
        self._silent = False
        self._greeted = hosting
        self._draining = False
        self._served = {}  # the peer's requests: key -> Context
        self._answering = 0  # those whose answer is being written
        self._idle = threading.Condition(self._lock)
        self._last, self._calls, self._late = 0, {}, set()
        self._pool = None
        self._obey({})

    def _obey(self, limits):
        def limit(name, default, most):
            value = limits.get(name)
            return value if _is_int(value) and 0 < value <= most else default

        self.max_frame = limit("max_frame", 4 << 20, (1 << 24) - 1)
        self.max_in_flight = limit("max_in_flight", 64, MAX_SAFE_INT)
        self.max_depth = min(limit("max_depth", 64, 1000), sys.getrecursionlimit() // 4)
        self._places = threading.BoundedSemaphore(self.max_in_flight)

    # reading

    def run(self):
        try:
            while (raw := self._frame()) is not None:
                message = _parse(raw, self.max_depth)
                kind = _classify(message)
                message["fds"] = files = self._claim(message.get("fds", [])) if self._arrived or "fds" in message else []
                if files and kind == "notification":
                    raise ProtocolError("descriptors", "file descriptors came with a notification")
                getattr(self, "_on_" + kind)(message)
        except ProtocolError as err:
            self._last_word(err)
            raise
        except OSError:  # the host has gone, without a word
            pass
        finally:
            self._leave()

    def _frame(self):
        head = self._read(4, "a length")
        if head is None:
            return None
        (size,) = struct.unpack(">I", head)
        if size == 0:
            raise ProtocolError("framing", "an empty message")
        if size > self.max_frame:
            raise ProtocolError("too-large", f"a message of {size} bytes, over the limit of {self.max_frame}")
        body = self._read(size, "a message")
        if body is None:
            raise ProtocolError("truncated", "the stream ended before a message")
        return body

    def _read(self, size, what):
        data = bytearray()
        while len(data) < size:
            part = self._receive(min(size - len(data), 1 << 16))
            if not part and not data:
                return None
            if what == "a length" and not data and part and part[0] != 0:
                raise ProtocolError("framing", f"first byte {part[0]:#04x} is not 0x00 of a 4-byte length")
            if not part:
                raise ProtocolError("truncated", "the stream ended inside " + what)
            data += part
        return bytes(data)

    def _receive(self, size):
        if not self._unix:
            return self.sock.recv(size)
        part, control, _, _ = self.sock.recvmsg(size, socket.CMSG_SPACE(4 * MAX_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i", data[: len(data) - len(data) % 4])
                self._arrived.extend(fds)
        return part

    def _claim(self, kinds):
        """The descriptors of a message: no byte of another was read with them."""
        if not isinstance(kinds, list) or len(kinds) != len(self._arrived):
            raise ProtocolError("descriptors", f"{len(self._arrived)} file descriptors came along, and the message announced others")
        arrived, self._arrived = self._arrived, []
        return [_opened(fd) for fd in arrived]

    def _on_request(self, message):
        request_id, method = message["id"], message["method"]
        if method == "cordon.hello" and not self.hosting:
            return self._hello(request_id, message.get("params"))
        if not self._greeted:
            raise ProtocolError("phase", "a request before the hello")
        params, ctx = self._context(message)
        ctx._files = message["fds"]
        refusal = self._admit(request_id, method, ctx)
        if refusal:
            _close_all(ctx.take_files())
            return self._answer(request_id, error=refusal)
        if method == "cordon.shutdown":
            threading.Thread(target=self._drain, args=(request_id, ctx), daemon=True).start()
        else:
            self._start(request_id, method, params, ctx)

    def _context(self, message):
        params = message.get("params")
        meta = params.pop("_meta", None) if isinstance(params, dict) else None
        return params, Context(self, meta if isinstance(meta, dict) else {})

    def _admit(self, request_id, method, ctx):
        with self._lock:
            if _key(request_id) in self._served:
                raise ProtocolError("id", "an id that is in use by another request")
            if self._draining:
                return Error(SHUTTING_DOWN, "the plugin is shutting down")
            if method == "cordon.shutdown":
                self._draining = True
            elif len(self._served) >= self.max_in_flight:
                return Error(OVERLOADED, "too many requests at once")
            else:
                self._served[_key(request_id)] = ctx
        return None

    def _start(self, request_id, method, params, ctx):
        handler = self.plugin.methods.get(method)
        if handler is None:
            return self._finish(request_id, ctx, error=Error(METHOD_NOT_FOUND, f"cannot find method {method!r}"))
        if _is_async(handler):
            self._schedule(self._serve_async(request_id, handler, params, ctx))
        else:
            if self._pool is None:
                self._pool = concurrent.futures.ThreadPoolExecutor(self.plugin.workers)
            self._pool.submit(self._serve, request_id, handler, params, ctx)
        return None

    def _serve(self, request_id, handler, params, ctx):
        try:
            ctx.check()
            self._finish(request_id, ctx, handler(params, ctx))
        except Exception as err:
            self._finish(request_id, ctx, error=self._told(err, ctx))

    async def _serve_async(self, request_id, handler, params, ctx):
        import asyncio

        ctx._task = asyncio.current_task()
        try:
            ctx.check()
            result = await asyncio.wait_for(handler(params, ctx), ctx.remaining())
            self._finish(request_id, ctx, result)
        except (Exception, asyncio.CancelledError) as err:
            self._finish(request_id, ctx, error=self._told(err, ctx))

    def _told(self, err, ctx):
        """What the caller is told of an exception; the rest goes to the log."""
        if type(err).__name__ == "CancelledError" or ctx._cancelled.is_set() and isinstance(err, Error) and err.code == CANCELLED:
            return Error(CANCELLED, "cancelled")
        if isinstance(err, Error):
            return err
        if type(err).__name__ == "TimeoutError" and ctx.remaining() == 0:
            return Error(DEADLINE, "deadline exceeded")
        self.plugin.log.error("cannot handle a request", exc_info=err)
        return Error(INTERNAL, "internal error")

    def _finish(self, request_id, ctx, result=None, error=None):
        with self._lock:  # before the answer: its reader may use the id again
            self._served.pop(_key(request_id), None)
            self._answering += 1
        _close_all(ctx.take_files())
        self._answer(request_id, result, error)
        with self._lock:
            self._answering -= 1
            self._idle.notify_all()

    def _drain(self, request_id, ctx):
        with self._lock:
            self._idle.wait_for(lambda: not self._served and not self._answering)
        try:
            if self.plugin.shutdown:
                self.plugin.shutdown()
            self._answer(request_id, {})
        except Exception as err:
            self._answer(request_id, error=self._told(err, ctx))

    def _on_notification(self, message):
        if not self._greeted:
            raise ProtocolError("phase", "a notification before the hello")
        method = message["method"]
        if method == "$/cancelRequest":
            return self._on_cancel(message.get("params"))
        handler = self.plugin.notifications.get(method)
        if handler is None:
            return None
        params, ctx = self._context(message)
        try:
            if _is_async(handler):
                self._schedule(handler(params, ctx))
            else:
                handler(params, ctx)
        except Exception as err:
            self.plugin.log.error("cannot handle a notification", exc_info=err)
        return None

    def _on_cancel(self, params):
        wanted = params.get("id") if isinstance(params, dict) else None
        if not isinstance(wanted, (str, int)):
            return
        with self._lock:
            ctx = self._served.get(_key(wanted))
            loop = self._loop
        if ctx is None:
            return
        if ctx._task:
            loop.call_soon_threadsafe(ctx._cancel)
        else:
            ctx._cancel()

    def _schedule(self, coroutine):
        import asyncio

        asyncio.run_coroutine_threadsafe(coroutine, self._event_loop())

    def _event_loop(self):
        """The program's loop, or one of our own in a thread."""
        import asyncio

        with self._loop_lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True).start()
            return self._loop

    def _hello(self, request_id, params):
        if self._greeted:
            return self._answer(request_id, error=Error(INVALID_REQUEST, "the hello was said before"))
        params = params if isinstance(params, dict) else {}
        newest, oldest = params.get("api"), params.get("api_min", 1)
        if not _is_int(newest) or not _is_int(oldest):
            self._answer(request_id, error=Error(INVALID_PARAMS, "cannot use this hello: it has no versions"))
            raise ProtocolError("hello", "a hello without versions")
        if not oldest <= API <= newest:
            self._answer(request_id, error=Error(UNSUPPORTED, f"this plugin speaks API {API}, the host {oldest} to {newest}"))
            raise ProtocolError("hello", f"the host speaks API {oldest} to {newest}, this plugin {API}")
        self._obey(params["limits"] if isinstance(params.get("limits"), dict) else {})
        self._greeted = True
        takes = ["file", "memfd", "socket", "shared"] if self._unix else []
        return self._answer(request_id, {"api": API, "name": self.plugin.name, "version": self.plugin.version, "descriptors": takes})

    # calls of our own

    def _on_result(self, message):
        files = message["fds"]
        if (future := self._take(message["id"])) is None:
            _close_all(files)
        elif getattr(future, "takes_files", False):
            _settle(future.set_result, WithFiles(message["result"], files))
        else:
            _close_all(files)
            _settle(future.set_result, message["result"])

    def _on_error(self, message):
        error = message["error"]
        if message["id"] is None:
            raise ProtocolError("refused", f"the peer could not read us: {str(error)[:200]}")
        future = self._take(message["id"])
        if future is None:
            return
        error = error if isinstance(error, dict) else {}
        if not _is_int(error.get("code")) or not isinstance(error.get("message"), str):
            raise ProtocolError("envelope", "an error without an integer code and a message")
        _settle(future.set_exception, Error(error["code"], error["message"], error.get("data")))

    def _take(self, reply_id):
        with self._lock:
            if type(reply_id) is int and reply_id in self._late:
                self._late.remove(reply_id)
                return None
            if type(reply_id) is not int or reply_id not in self._calls:
                raise ProtocolError("unasked", "a reply that nobody waits for")
            return self._calls.pop(reply_id)

    def _begin(self, method, params, files=None):
        if not isinstance(params, (dict, list, tuple, type(None))):
            raise Error(INVALID_PARAMS, f"cannot call {method}: params must be an object or an array")
        future = concurrent.futures.Future()
        future.takes_files = files is not None
        with self._lock:
            self._last += 1
            call_id = self._last
            self._calls[call_id] = future
        try:
            self._send({"id": call_id, "method": method} | ({} if params is None else {"params": params}), files or ())
        except OSError:
            future.set_exception(Error(PEER_GONE, f"cannot call {method}: the connection has ended"))
        return call_id, future

    def _give_up(self, call_id):
        with self._lock:
            if self._calls.pop(call_id, None) is None:
                return
            self._late.add(call_id)
        self._try_send({"method": "$/cancelRequest", "params": {"id": call_id}})

    def call(self, method, params, timeout, ctx=None, files=None):
        if not self._places.acquire(timeout=timeout):
            raise Error(DEADLINE, f"cannot call {method}: no answer within {timeout} s")
        try:
            call_id, future = self._begin(method, params, files)
            if ctx:
                ctx._calls.add(future)
                if ctx._cancelled.is_set():
                    future.cancel()
            try:
                return future.result(timeout)
            except concurrent.futures.CancelledError:
                self._give_up(call_id)
                raise Error(CANCELLED, "cancelled") from None
            except concurrent.futures.TimeoutError:
                self._give_up(call_id)
                raise Error(DEADLINE, f"cannot call {method}: no answer within {timeout} s") from None
            finally:
                if ctx:
                    ctx._calls.discard(future)
        finally:
            self._places.release()

    async def acall(self, method, params, timeout):
        import asyncio

        loop = asyncio.get_running_loop()
        if not self._places.acquire(blocking=False):
            await loop.run_in_executor(None, self._places.acquire)
        try:
            call_id, future = self._begin(method, params)
            try:
                return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
            except asyncio.CancelledError:
                self._give_up(call_id)
                raise
            except asyncio.TimeoutError:
                self._give_up(call_id)
                raise Error(DEADLINE, f"cannot call {method}: no answer within {timeout} s") from None
        finally:
            self._places.release()

    def notify(self, method, params=None):
        self._send({"method": method} | ({} if params is None else {"params": params}))

    # writing

    def _answer(self, request_id, result=None, error=None):
        files = ()
        if isinstance(result, WithFiles):
            result, files = result.result, result.files
        try:
            self._send({"id": request_id} | ({"error": error.as_json()} if error else {"result": result}), files)
        except Error as err:  # over max_frame
            self._try_send({"id": request_id, "error": err.as_json()})
        except (TypeError, ValueError) as err:
            self.plugin.log.error("cannot write a result as JSON: %s", err)
            self._try_send({"id": request_id, "error": {"code": INTERNAL, "message": "internal error"}})
        except OSError:  # nobody is there to be told
            pass

    def _try_send(self, message):
        try:
            self._send(message)
        except (Error, OSError):
            pass

    def _send(self, message, files=()):
        try:
            self._write(message, [f.fileno() for f in files])
        finally:
            _close_all(files)

    def _write(self, message, fds):
        if fds:
            message = message | {"fds": [_kind_of(fd) for fd in fds]}
        body = json.dumps({"jsonrpc": "2.0"} | message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        if len(body) > self.max_frame:
            raise Error(TOO_LARGE, f"a message of {len(body)} bytes, over the limit of {self.max_frame}")
        with self._writing:
            if self._silent:
                raise OSError("the connection has ended")
            frame = struct.pack(">I", len(body)) + body
            if fds:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                frame = frame[self.sock.sendmsg([frame], rights) :]
            self.sock.sendall(frame)

    def _last_word(self, err):
        if err.code != "refused":
            self._try_send({"id": None, "error": {"code": INVALID_REQUEST, "message": str(err)}})
        with self._writing:
            self._silent = True

    def _leave(self):
        """Cancels what is open, and gives it a while."""
        with self._lock:
            open_requests, calls, self._calls = list(self._served.values()), self._calls, {}
        for future in calls.values():
            _settle(future.set_exception, Error(PEER_GONE, "the connection has ended"))
        for ctx in open_requests:
            if ctx._task:
                self._loop.call_soon_threadsafe(ctx._cancel)
            else:
                ctx._cancel()
        with self._lock:
            self._idle.wait_for(lambda: not self._served and not self._answering, LEAVING_GRACE)
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
        for fd in self._arrived:
            os.close(fd)
        self._arrived = []
        self.sock.close()


def _settle(settle, value):
    try:
        settle(value)
    except concurrent.futures.InvalidStateError:  # cancelled meanwhile
        pass


class Harness:
    """Runs a plugin without a daemon, in this process: for its tests.

        with cordon.Harness(plugin) as host:
            assert host.call("words.count", {"text": "a b"}) == {"words": 2}

    It is the host's end: give it methods to serve what the plugin asks for.
    """

    def __init__(self, plugin, methods=None, limits=None):
        ours, its = socket.socketpair()
        host = Plugin("host", "0")
        host.methods.update(methods or {})
        self.notified = []  # (method, params) of what the plugin notified
        host.notifications = _Everything(self.notified)
        self._error = None
        self._plugin = threading.Thread(target=self._run, args=(plugin, its), daemon=True)
        self._conn = _Connection(host, ours, hosting=True)
        self._reader = threading.Thread(target=self._conn.run, daemon=True)
        self._plugin.start()
        self._reader.start()
        self.hello = self.call("cordon.hello", {"api": API, "api_min": API, "plugin": plugin.name, "limits": limits or {}})

    def _run(self, plugin, sock):
        try:
            plugin.run(sock)
        except ProtocolError as err:
            self._error = err

    def call(self, method, params=None, timeout=DEFAULT_TIMEOUT):
        """Calls the plugin; raises Error with what it answers."""
        return self._conn.call(method, params, timeout)

    def call_files(self, method, params=None, files=(), timeout=DEFAULT_TIMEOUT):
        """As call, with descriptors: see Context.call_files."""
        answer = self._conn.call(method, params, timeout, None, files)
        return answer.result, answer.files

    def notify(self, method, params=None):
        self._conn.notify(method, params)

    def begin(self, method, params=None):
        """Calls without waiting: (cancel, result), two functions."""
        call_id, future = self._conn._begin(method, params)
        cancel = lambda: self._conn.notify("$/cancelRequest", {"id": call_id})  # noqa: E731
        return cancel, lambda timeout=DEFAULT_TIMEOUT: future.result(timeout)

    def close(self):
        """Says goodbye as the daemon does, and waits for the plugin's end."""
        self.call("cordon.shutdown")
        self._conn.sock.shutdown(socket.SHUT_WR)
        self._plugin.join()
        if self._error:
            raise self._error

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0] is None:
            self.close()


class _Everything(dict):
    """Takes every notification."""

    def __init__(self, into):
        super().__init__()
        self._into = into

    def get(self, method, default=None):
        return lambda params, ctx: self._into.append((method, params))
