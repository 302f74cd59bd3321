"""A Python program's day."""
import asyncio, hashlib, json, multiprocessing, os, socket, sqlite3, subprocess, sys, tempfile, threading


def square(n):
    return n * n


async def talk():
    server = await asyncio.start_unix_server(lambda r, w: w.write(b"hello\n"), "/tmp/socket")
    reader, writer = await asyncio.open_unix_connection("/tmp/socket")
    assert await reader.readline() == b"hello\n"
    writer.close()
    server.close()


if __name__ == "__main__":
    found = []
    threads = [threading.Thread(target=lambda: found.append(hashlib.sha256(os.urandom(16)).hexdigest())) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "x.json"), "w") as f:
            json.dump(found, f)
        assert len(json.load(open(os.path.join(d, "x.json")))) == 4
        db = sqlite3.connect(os.path.join(d, "db"))
        db.execute("create table t (a)")
        db.execute("insert into t values (1)")
        db.commit()
        assert db.execute("select a from t").fetchone() == (1,)
        db.close()
    asyncio.run(talk())
    out = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True)
    assert out.stdout == "42\n", out
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(square, range(4)) == [0, 1, 4, 9]
    try:
        socket.getaddrinfo("localhost", 80)
    except OSError:
        pass
    print("done")
