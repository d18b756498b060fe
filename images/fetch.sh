#!/bin/sh
# Fetches Debian's kernels and busybox and makes every guest the README and the boot tests use.
#
#   images/fetch.sh OUTDIR [apps]
#
# Leaves in OUTDIR:
#   vmlinuz-amd64 (cloud kernel), vmlinuz-686-pae, vmlinuz-686     kernels
#   initramfs-amd64-micro.cpio, initramfs-i386-micro.cpio          guestbench as the first process
#   shell-amd64.cpio, shell-i386.cpio                              busybox sh on the console
#   drivers-amd64.cpio, drivers-amd64-vmlinuz                      the same with drivers, and the kernel that they are for
#   guestbench64, guestbench32                                     the same program for the host
#   grub-rescue.iso, memtest-*.iso, isolinux.iso, ipxe.iso ...     boot media
#   seabios/, OVMF_CODE_4M.fd, OVMF_VARS_4M.fd                     firmware
# and with "apps" also initramfs-amd64-apps.cpio (whole programs, 30 MB).
#
# What is there already is not made again. Needs Debian 12's apt with the i386 architecture,
# gcc with -m32, make, dpkg-deb, cpio and xorriso; as root it adds the architecture itself.
set -eu
case ${1:-} in '' | -*) sed -n '2,18s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac
out=$1 want_apps=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)

missing() { echo "fetch.sh: $1" >&2; exit 1; }

for tool in apt-get apt-cache dpkg dpkg-deb cpio make gcc xorriso; do
	command -v "$tool" >/dev/null || missing "$tool is missing (apt-get install apt dpkg cpio make gcc gcc-multilib xorriso)"
done
printf 'int main(void) { return 0; }\n' > "$out/.probe.c"
gcc -m32 -static "$out/.probe.c" -o "$out/.probe" 2>/dev/null ||
	{ rm -f "$out/.probe.c"; missing "gcc cannot build static 32-bit programs (apt-get install gcc-multilib)"; }
rm -f "$out/.probe" "$out/.probe.c"

if ! dpkg --print-foreign-architectures | grep -qx i386; then
	[ "$(id -u)" = 0 ] || missing "the i386 architecture is not known to apt (as root: dpkg --add-architecture i386 && apt-get update)"
	dpkg --add-architecture i386
fi
if ! apt-cache show busybox-static:i386 linux-image-686:i386 linux-image-cloud-amd64 >/dev/null 2>&1; then
	[ "$(id -u)" = 0 ] || missing "apt's lists lack the kernels for amd64 and i386 (as root: apt-get update)"
	apt-get -q update >&2
fi

make -s -C "$here/guestbench" OUT="$out"
"$here/guests/mk-guests.sh" "$out" kernels shell drivers firmware grub memtest ipxe isolinux
initramfs() { # ARCH KIND
	[ -e "$out/initramfs-$1-$2.cpio" ] || BENCH_DIR=$out "$here/guestbench/mk-initramfs.sh" "$1" "$2" "$out"
}
initramfs amd64 micro
initramfs i386 micro
[ "$want_apps" != apps ] || initramfs amd64 apps
echo "fetch.sh: everything is in $out" >&2
