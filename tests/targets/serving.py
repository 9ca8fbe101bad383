"""An HTTP server on asyncio: GET /N is answered with the SHA-256 of N in hexadecimal. What goes wrong is an ERROR."""

import asyncio
import hashlib
import os
import sys


def digest(path: str) -> bytes:
    return hashlib.sha256(path[1:].encode()).hexdigest().encode()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while request := await reader.readline():
        while (await reader.readline()).strip():
            pass
        in_thread = asyncio.get_running_loop().run_in_executor(None, digest, request.split()[1].decode())
        body = await in_thread
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
    writer.close()


async def spawn_often() -> None:
    """Children come and go; each must be told of with its own status."""
    status = 0
    while True:
        status = (status + 1) % 200
        child = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"exit {status}")
        if (found := await child.wait()) != status:
            print(f"ERROR: a child ended with {found} in place of {status}", flush=True)
        await asyncio.sleep(0.02)


async def sleep_often() -> None:
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(0.002)
        if loop.time() - before < 0.0015:
            print("ERROR: slept for less than 2 ms", flush=True)


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    background = [sleep_often()] + ([spawn_often()] if "children" in sys.argv else [])
    tasks = [asyncio.create_task(work) for work in background]
    ready = int(os.environ["TARGET_READY"])
    os.write(ready, f"port={server.sockets[0].getsockname()[1]}\nready\n".encode())
    os.close(ready)
    await asyncio.gather(server.serve_forever(), *tasks)


asyncio.run(main())
