#!/bin/sh
# Sequential reading and writing of a disk with dd (direct I/O, 256 MiB, 1 MiB blocks): this emulator against QEMU's TCG, the same guest.
# Eight passes are one measurement, three of them a run, runs are interleaved; MiB/s of guest time, median and spread, and the
# ratio of the medians.
# With -s instead: accesses to devices per MiB that was read, for each kind of disk (counted by --stats).
#
#   benches/disk.sh [-s] GUESTS [ROUNDS]
#
# GUESTS: what `images/guests/mk-guests.sh GUESTS rootfs shell` made. EMU: the emulator (target/release/emu).
set -eu
stats=
[ "${1-}" = -s ] && { stats=1; shift; }
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
guests=$(cd "$1" && pwd)
rounds=${2:-5}
emu=${EMU:-target/release/emu}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# An initrd of busybox and the modules for all kinds of disks.
root=$guests/debian-amd64-root
version=$(ls "$root/lib/modules")
mkdir -p "$work/i/bin" "$work/i/m"
(cd "$work/i" && cpio -id --quiet 'bin/busybox' './bin/busybox' <"$guests/shell-amd64.cpio")
# What each needs is behind it in modules.dep, and goes first from the end of the line.
order=
for m in virtio_pci virtio_blk sd_mod ata_piix ahci nvme; do
	for file in $(sed -n "s|^\(.*/$m\.ko\): *|\1 |p" "$root/lib/modules/$version/modules.dep" | tr ' ' '\n' | tac); do
		cp "$root/lib/modules/$version/$file" "$work/i/m/"
		order="$order ${file##*/}"
	done
done
cat >"$work/i/init" <<EOT
#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc /sys
/bin/busybox mount -t proc p /proc
/bin/busybox mount -t sysfs s /sys
/bin/busybox mount -t devtmpfs d /dev
for m in $order; do /bin/busybox insmod /m/\$m 2>/dev/null; done
/bin/busybox sleep 2
disk=
for d in /dev/vda /dev/sda /dev/nvme0n1; do [ -b \$d ] && disk=\$d; done
[ "\$disk" ] || { echo "@no disk"; /bin/busybox poweroff -f; }
now() { read t _ </proc/uptime; echo \${t%.*}\${t#*.}; }
measure() {
  a=\$(now)
  for i in 1 2 3 4 5 6 7 8; do /bin/busybox dd bs=1M "\$@" 2>/dev/null || echo "@failed"; done
  echo "@\$what \$((\$(now) - a))"
}
case \$(/bin/busybox cat /what) in
none) ;;
read) /bin/busybox dd if=\$disk of=/dev/null bs=1M count=64 iflag=direct 2>/dev/null ;;
*)
  for n in 1 2 3; do
    what=write; measure if=/dev/zero of=\$disk count=256 oflag=direct
    what=read; measure if=\$disk of=/dev/null count=256 iflag=direct
  done ;;
esac
/bin/busybox poweroff -f
EOT
chmod +x "$work/i/init"
# What to do is not on the kernel's command line, so that boots are alike up to there.
for what in none read full; do
	echo $what >"$work/i/what"
	(cd "$work/i" && find . | LC_ALL=C sort | cpio -o -H newc --quiet) >"$work/initrd.$what"
done
truncate -s 256M "$work/disk"
kernel=$guests/debian-amd64-vmlinuz

run_emu() { # what to do, kernel words, options
	what=$1 words=$2
	shift 2
	"$emu" run --no-reboot --serial stdio --kernel "$kernel" --initrd "$work/initrd.$what" \
		--append "console=ttyS0 quiet $words" "$@" </dev/null
}

if [ -n "$stats" ]; then
	# What reading 64 MiB costs beyond a boot that reads nothing.
	count() {
		run_emu "$1" "$2" --clock virtual --stats=json:"$work/stats" $3 >/dev/null 2>&1
		python3 - "$work/stats" <<-'EOT'
			import json, sys
			s = json.load(open(sys.argv[1]))
			print(s["cpu"]["mmio_accesses"] + s["cpu"]["port_accesses"])
		EOT
	}
	printf '%-14s %s\n' disk "device accesses per MiB"
	while read -r name words options; do
		a=$(count none "$words" "$options")
		b=$(count read "$words" "$options")
		printf '%-14s %s\n' "$name" "$(((b - a) / 64))"
	done <<-EOT
		ide-pio libata.dma=0 --drive file=$work/disk,if=ide,format=raw
		ide-dma libata.dma=1 --drive file=$work/disk,if=ide,format=raw
		ahci x=0 --drive file=$work/disk,if=ahci,format=raw
		nvme x=0 --drive file=$work/disk,if=nvme,format=raw
		virtio-blk x=0 --drive file=$work/disk,if=virtio,format=raw
	EOT
	exit
fi

for _ in $(seq "$rounds"); do
	run_emu full panic=-1 --drive "file=$work/disk,if=virtio,format=raw" >>"$work/emu"
	qemu-system-x86_64 -accel tcg,thread=single -smp 1 -m 512 -cpu max -M pc -nodefaults -display none -serial stdio -no-reboot \
		-kernel "$kernel" -initrd "$work/initrd.full" -append "console=ttyS0 quiet panic=-1" \
		-drive "file=$work/disk,if=virtio,format=raw" </dev/null >>"$work/qemu"
done
python3 - "$work" <<'EOT'
import re, statistics, sys
median = {}
for what in "write", "read":
    for who in "emu", "qemu":
        text = open(f"{sys.argv[1]}/{who}", errors="replace").read()
        speeds = [8 * 25600 / max(int(t), 1) for t in re.findall(rf"@{what} (\d+)", text)]
        if not speeds or "@failed" in text or "@no disk" in text:
            sys.exit(f"{who}: the guest has not measured anything:\n{text[-2000:]}")
        median[who] = statistics.median(speeds)
        print(f"{what:5} {who:4} {median[who]:6.0f} MiB/s ({min(speeds):.0f} to {max(speeds):.0f})")
    print(f"{what:5} ratio {median['emu'] / median['qemu']:.2f}")
EOT
