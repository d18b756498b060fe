#!/bin/sh
# Builds the benchmark guest's initramfs from Debian packages.
#
#   mk-initramfs.sh amd64|i386 micro|apps OUTDIR
#
# Leaves OUTDIR/initramfs-ARCH-KIND.cpio.  "micro" has
# the static benchmark program and busybox; "apps" (amd64 only) adds whole
# programs with the shared libraries they need.  Needs apt (with the i386
# architecture added for i386), dpkg-deb and cpio; no root.
# The kernels are made by ../guests/mk-guests.sh.
set -eu

arch=$1 kind=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out/debs"
out=$(cd "$out" && pwd)
root=$out/root-$arch-$kind

case $arch in
amd64) bench=guestbench64 ;;
i386)  bench=guestbench32 ;;
*) echo "unknown architecture $arch" >&2; exit 2 ;;
esac

# fetch PACKAGE...: download what is not there yet.
fetch() {
	for p in "$@"; do
		ls "$out/debs/${p}_"*"_$arch.deb" >/dev/null 2>&1 ||
			(cd "$out/debs" && apt-get -q download "$p:$arch")
	done
}

# unpack PACKAGE DIR
unpack() {
	mkdir -p "$2"
	dpkg-deb -x "$(ls "$out/debs/${1}_"*"_$arch.deb" | tail -n 1)" "$2"
}

fetch busybox-static
rm -rf "$root"
mkdir -p "$root/bin" "$root/bench" "$root/proc" "$root/sys" "$root/dev" "$root/tmp"
if [ "$kind" = apps ]; then
	pkgs="libc6 libgcc-s1 libstdc++6 zlib1g openssl libssl3 gzip xz-utils liblzma5 7zip
	      python3.11-minimal libpython3.11-minimal libexpat1
	      sqlite3 libsqlite3-0 libreadline8 libtinfo6"
	fetch $pkgs
	for p in $pkgs; do
		unpack "$p" "$root/pkg"
	done
	# Merge the packages into one tree where /bin and /lib are real folders.
	for d in bin sbin lib lib64 usr etc; do
		[ -d "$root/pkg/$d" ] && mkdir -p "$root/$d" && cp -a "$root/pkg/$d/." "$root/$d/"
	done
	rm -rf "$root/pkg" "$root/usr/share/doc" "$root/usr/share/man" "$root/usr/share/locale" \
		"$root/usr/lib/x86_64-linux-gnu/gconv"
	cp "$here/apps.sh" "$here/bench.py" "$here/bench.sql" "$root/bench/"
fi
unpack busybox-static "$out/bb-$arch"
cp "$out/bb-$arch/bin/busybox" "$root/bin/busybox"
rm -rf "$out/bb-$arch"
cp "${BENCH_DIR:-$here}/$bench" "$root/bin/guestbench"
install -m 755 "$here/init" "$root/init"
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) > "$out/initramfs-$arch-$kind.cpio"
rm -rf "$root"
ls -l "$out/initramfs-$arch-$kind.cpio"
