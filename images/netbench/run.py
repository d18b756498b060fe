#!/usr/bin/env python3
"""TCP between a guest and a server on the host, through user networking: emu beside QEMU.

    python3 images/netbench/run.py --guests OUT [--emu target/release/emu] [--nic e1000] [--megabytes 256] [--rounds 3]

OUT is what images/guests/mk-guests.sh has made (debian-amd64-vmlinuz, debian-amd64-root with the kernel's modules) and has a busybox
somewhere in shell-amd64.cpio. The guest takes a lease, fetches a file over HTTP, sends and receives, and pings its gateway; a run in
which one of these fails counts as failed. Times are taken on the host, by the server, from a connection's first byte to its last.
"""
import argparse, hashlib, os, pathlib, shutil, socket, statistics, subprocess, sys, tempfile, threading, time

HERE = pathlib.Path(__file__).parent
MODULES = ['failover', 'net_failover', 'mii', 'e1000', '8139cp', 'virtio', 'virtio_ring', 'virtio_pci_modern_dev',
           'virtio_pci_legacy_dev', 'virtio_pci', 'virtio_net']
FILE = bytes(range(256)) * 4096


def initramfs(guests, to):
    """busybox, the modules, nettool."""
    root = to / 'root'
    root.mkdir()
    shell = (guests / 'shell-amd64.cpio').resolve()
    subprocess.run(['cpio', '-id', '--quiet'], stdin=open(shell, 'rb'), cwd=root, check=True)
    (root / 'modules').mkdir()
    tree = guests / 'debian-amd64-root' / 'lib' / 'modules'
    for n, name in enumerate(MODULES):
        for found in tree.rglob(name + '.ko'):
            shutil.copy(found, root / 'modules' / f'{n:02}-{name}.ko')
    shutil.copy(HERE / 'init', root / 'init')
    os.chmod(root / 'init', 0o755)
    subprocess.run(['gcc', '-static', '-O2', '-o', root / 'bin' / 'nettool', HERE / 'nettool.c'], check=True)
    names = subprocess.run(['find', '.'], cwd=root, capture_output=True, check=True).stdout
    out = to / 'net.cpio'
    with open(out, 'wb') as f:
        subprocess.run(['cpio', '-o', '--quiet', '-H', 'newc'], cwd=root, input=names, stdout=f, check=True)
    return out


class Server:
    """A file over HTTP, a sink and a source, on three ports in a row; seconds by name."""

    def __init__(self, megabytes):
        self.size = megabytes << 20
        self.seconds = {}
        while True:
            first = socket.create_server(('127.0.0.1', 0))
            self.port = first.getsockname()[1]
            try:
                others = [socket.create_server(('127.0.0.1', self.port + n)) for n in (1, 2)]
                break
            except OSError:
                first.close()
        for sock, serve in zip([first] + others, (self.http, self.sink, self.source)):
            threading.Thread(target=self.loop, args=(sock, serve), daemon=True).start()

    def loop(self, sock, serve):
        while True:
            peer, _ = sock.accept()
            try:
                serve(peer)
            except OSError:
                pass
            peer.close()

    def http(self, peer):
        peer.recv(4096)
        peer.sendall(b'HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n' % len(FILE) + FILE)

    def sink(self, peer):
        room = memoryview(bytearray(1 << 20))
        got, begin = 0, None
        while n := peer.recv_into(room):
            begin = begin or time.perf_counter()
            got += n
        if got == self.size:
            self.seconds['guest to host'] = time.perf_counter() - begin

    def source(self, peer):
        piece = bytes(1 << 20)
        begin = time.perf_counter()
        for _ in range(self.size >> 20):
            peer.sendall(piece)
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)
        self.seconds['host to guest'] = time.perf_counter() - begin


def run(command, server, timeout):
    server.seconds = {}
    done = subprocess.run(command, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
    text = done.stdout.decode(errors='replace')
    wanted = ['@lease 10.0.2.15', '@file ' + hashlib.sha256(FILE).hexdigest(), '@sent', '@received', '@ping']
    missing = [w for w in wanted if w not in text]
    if missing or len(server.seconds) != 2:
        sys.exit(f'failed: {missing} in\n{text[-3000:]}\n{done.stderr.decode(errors="replace")[-1000:]}')
    return {name: server.size / 1e6 / s for name, s in server.seconds.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--guests', type=pathlib.Path, required=True)
    p.add_argument('--emu', default='target/release/emu')
    p.add_argument('--nic', default='e1000')
    p.add_argument('--megabytes', type=int, default=256)
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--only', choices=['emu', 'qemu'])
    p.add_argument('--timeout', type=int, default=600)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as to:
        image = initramfs(a.guests.resolve(), pathlib.Path(to))
        server = Server(a.megabytes)
        kernel = str(a.guests / 'debian-amd64-vmlinuz')
        append = f'console=ttyS0 quiet netbench={server.port},{a.megabytes}'
        qemu_nic = {'virtio-net-pci': 'virtio-net-pci'}.get(a.nic, a.nic)
        commands = {
            'emu': [a.emu, 'run', '--memory', '512M', '--no-reboot', '--kernel', kernel, '--initrd', str(image),
                    '--append', append, '--nic', f'user,model={a.nic}'],
            'qemu': ['qemu-system-x86_64', '-accel', 'tcg,thread=single', '-cpu', 'max', '-m', '512', '-nodefaults', '-display',
                     'none', '-serial', 'stdio', '-no-reboot', '-kernel', kernel, '-initrd', str(image), '-append', append,
                     '-nic', f'user,model={qemu_nic}'],
        }
        commands = {k: v for k, v in commands.items() if a.only in (None, k)}
        rates = {name: {} for name in commands}
        for _ in range(a.rounds):
            for name, command in commands.items():
                for what, rate in run(command, server, a.timeout).items():
                    rates[name].setdefault(what, []).append(rate)
                    print(f'{name:5} {what}: {rate:.0f} MB/s', flush=True)
        print(f'\n{a.nic}, {a.megabytes} MiB, median of {a.rounds} (lowest to highest), MB/s')
        for what in ('guest to host', 'host to guest'):
            row = [f'{n} {statistics.median(r[what]):.0f} ({min(r[what]):.0f} to {max(r[what]):.0f})' for n, r in rates.items()]
            if len(rates) == 2:
                row.append(f'ratio {statistics.median(rates["emu"][what]) / statistics.median(rates["qemu"][what]):.2f}')
            print(f'{what}: ' + ', '.join(row))


main()
