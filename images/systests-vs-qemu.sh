#!/bin/sh
# Runs the directed system tests in QEMU (TCG) and compares with tests/systests/IMAGE.expected.
#
#   images/systests-vs-qemu.sh [IMAGE...]
#
# Prints every line that differs; a difference that tests/systests/qemu-deviations.tsv explains is
# printed with its reason and counted apart. Exit status 1 when one is not explained, or when an
# explained one has gone. QEMU=... picks another program, KEEP=DIR keeps QEMU's outputs.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
qemu=${QEMU:-qemu-system-x86_64}
command -v "$qemu" >/dev/null || { echo "systests-vs-qemu.sh: $qemu is missing (apt-get install qemu-system-x86)" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mk() { (cd "$here" && cargo run -q -p emu-images --example mk-image -- "$@"); }
[ $# -gt 0 ] || set -- $(mk | grep -vx demo)
bad=0
for name; do
	mk "$name" "$work/$name.img"
	timeout 10 "$qemu" -M pc -cpu max -accel tcg -m 64 -nodefaults -display none -serial "file:$work/$name.qemu" \
		-no-reboot -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "$work/$name.img" </dev/null >/dev/null 2>&1 || true
	[ -z "${KEEP:-}" ] || { mkdir -p "$KEEP"; cp "$work/$name.qemu" "$KEEP/$name.qemu"; }
	awk -F': ' -v image="$name" -v table="$here/tests/systests/qemu-deviations.tsv" -v got="$work/$name.qemu" '
		BEGIN {
			while ((getline line < table) > 0) { split(line, f, "\t"); if (f[1] == image) why[f[2]] = f[3] }
			while ((getline line < got) > 0) { split(line, f, ": "); seen[f[1]] = line }
		}
		seen[$1] != $0 {
			if ($1 in why) { known++ } else { bad++; print image ": NOT EXPLAINED" }
			print "  manual " $0; print "  qemu   " ($1 in seen ? seen[$1] : "(nothing)")
			if ($1 in why) print "  why    " why[$1]
			delete why[$1]; next
		}
		$1 in why { print image ": " $1 " no longer differs"; bad++ }
		END { printf "%s: %d lines, %d explained, %d not\n", image, NR, known, bad; exit bad > 0 }
	' "$here/tests/systests/$name.expected" || bad=1
done
exit $bad
