#!/usr/bin/env python3
"""Drives emu with the client library of QEMU's project (PyPI: qemu.qmp).

usage: qemu_qmp.py EMU

The guest is a boot sector of a few instructions: it copies what the keyboard sends to port E9h, and powers off when the
power button is pressed."""
import asyncio
import os
import subprocess
import sys
import tempfile

from qemu.qmp import QMPClient
from qemu.qmp.qmp_client import ExecuteError

# in al,64h; test al,1; jz button; in al,60h; out E9h,al
# button: mov dx,600h; in ax,dx; test ah,1; jz start; mov dx,604h; mov ax,2000h; out dx,ax; hlt
SECTOR = bytes.fromhex("e464 a801 7404 e460 e6e9 ba0006 ed f6c401 74ed ba0406 b80020 ef f4")


async def until(what):
    for _ in range(400):
        if what():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("waited too long")


async def main(emu):
    with tempfile.TemporaryDirectory() as d:
        guest, keys, sock = (os.path.join(d, n) for n in ("guest", "keys", "qmp"))
        with open(guest, "wb") as f:
            f.write(SECTOR.ljust(510, b"\0") + b"\x55\xaa")
        run = subprocess.Popen([emu, "run", guest, "--qmp", "unix:" + sock, "--debugcon", "file:" + keys,
                                "--serial", "null", "--timeout", "60"])
        try:
            await until(lambda: os.path.exists(sock))
            qmp = QMPClient("emu")
            await qmp.connect(sock)
            events = []

            async def listen():
                async for event in qmp.events:
                    events.append(event)

            listener = asyncio.create_task(listen())
            assert (await qmp.execute("query-status"))["status"] == "running"
            await qmp.execute("stop")
            assert (await qmp.execute("query-status"))["status"] == "paused"
            await qmp.execute("cont")
            names = {c["name"] for c in await qmp.execute("query-commands")}
            assert {"stop", "cont", "send-key", "system_powerdown", "query-cpus-fast"} <= names
            await qmp.execute("send-key", {"keys": [{"type": "qcode", "data": k} for k in ("ctrl", "c")],
                                           "hold-time": 30})
            want = bytes((0x1D, 0x2E, 0xAE, 0x9D))
            await until(lambda: os.path.exists(keys) and open(keys, "rb").read() == want)
            try:
                await qmp.execute("no-such-command")
                raise AssertionError("accepted")
            except ExecuteError as e:
                assert e.error_class == "CommandNotFound", e.error_class
            await qmp.execute("system_powerdown")
            await until(lambda: run.poll() is not None)
            assert run.returncode == 0, run.returncode
            await until(lambda: any(e["event"] == "SHUTDOWN" for e in events))
            listener.cancel()
            got = [e["event"] for e in events]
            assert got == ["STOP", "RESUME", "POWERDOWN", "SHUTDOWN"], got
            assert events[-1]["data"] == {"guest": True, "reason": "guest-shutdown"}
            try:
                await qmp.disconnect()
            except EOFError:
                pass  # emu has left first
        finally:
            run.kill()
    print("ok")


asyncio.run(main(sys.argv[1]))
