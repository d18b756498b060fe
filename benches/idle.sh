#!/bin/sh
# What an idle guest takes: Debian at its login, with a VNC display and QMP on, as a share of a host core over 30 s.
#
#   benches/idle.sh GUESTS
#
# GUESTS: what `images/guests/mk-guests.sh GUESTS firmware bootdisk` made. EMU: the emulator (target/release/emu).
set -eu
[ $# -eq 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
work=$(mktemp -d)
"${EMU:-target/release/emu}" run --firmware "$1/seabios/bios-256k.bin" --memory 512M --timeout 600 \
	--drive "file=$1/debian-amd64-boot.img,format=raw,if=virtio,snapshot=on" \
	--serial "file:$work/serial" --display vnc=127.0.0.1:77 --qmp "unix:$work/qmp" &
emu=$!
trap 'kill $emu 2>/dev/null; rm -rf "$work"' EXIT
until grep -q 'guest login:' "$work/serial" 2>/dev/null; do
	kill -0 $emu 2>/dev/null || { echo "idle.sh: the guest has ended before its login" >&2; exit 1; }
	sleep 1
done
sleep 25
ticks() { awk '{ print $14 + $15 }' /proc/$emu/stat; }
before=$(ticks)
sleep 30
echo "$before $(ticks) $(getconf CLK_TCK)" | awk '{ printf "idle: %.1f %% of a core\n", ($2 - $1) / $3 / 30 * 100 }'
