#!/bin/sh
# What a debugger costs the guest: user time of the same workload alone, with a debugger attached that does nothing, with a
# breakpoint in its hot loop whose condition is never true, with a watchpoint elsewhere, under the virtual clock, with checkpoints,
# recorded, with a trace of code elsewhere, a coverage, a profile. Ratios of medians, interleaved.
#
#   benches/debugger.sh [WORKLOAD [ROUNDS [N]]]
#
# WORKLOAD: what `emu run bench:WORKLOAD` takes (integer), done N times (3000). EMU: the emulator (target/release/emu).
set -eu
workload=${1:-integer}
rounds=${2:-5}
n=${3:-3000}
emu=${EMU:-target/release/emu}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Somewhere in the hot loop: where the guest is after half a billion instructions.
hot=$("$emu" debug "bench:$workload" --append "n=$n" --clock virtual --checkpoint-interval 0 --serial null \
	-ex 'insns 500000000' -ex 'p/x $pc' -ex quit </dev/null | sed -n 's/^\$1 = //p')
[ -n "$hot" ] || { echo "debugger.sh: bench:$workload ends before 500 million instructions" >&2; exit 1; }

timed() { # NAME COMMAND...: appends the user time
	name=$1
	shift
	/usr/bin/env sh -c 'times_file=$1; shift; "$@" >/dev/null 2>&1 </dev/null; times >"$times_file"' sh "$work/times" "$@"
	sed -n '2s/\([0-9]*\)m\([0-9.]*\)s.*/\1 \2/p' "$work/times" | awk '{ print $1 * 60 + $2 }' >>"$work/$name"
}

for round in $(seq "$rounds"); do
	printf '\rround %s of %s' "$round" "$rounds" >&2
	timed alone "$emu" run "bench:$workload" --append "n=$n" --serial null
	timed attached "$emu" run --debug "bench:$workload" --append "n=$n" --serial null
	timed condition "$emu" debug "bench:$workload" --append "n=$n" --serial null -ex "break *$hot if \$rax == 0x123456789abcdef" -ex continue
	timed watchpoint "$emu" debug "bench:$workload" --append "n=$n" --serial null -ex 'watch *(long*)0x9000' -ex continue
	timed virtual "$emu" run "bench:$workload" --append "n=$n" --serial null --clock virtual
	timed checkpoints "$emu" debug "bench:$workload" --append "n=$n" --serial null --clock virtual -ex continue
	timed traced "$emu" trace "bench:$workload" --append "n=$n" --serial null --clock virtual --range 0x9000,+16 -o "$work/trace"
	timed coverage "$emu" trace "bench:$workload" --append "n=$n" --serial null --clock virtual --coverage "$work/drcov"
	timed profile "$emu" trace "bench:$workload" --append "n=$n" --serial null --clock virtual --profile "$work/profile.svg"
	timed recorded "$emu" run "bench:$workload" --append "n=$n" --serial null --clock virtual --record "$work/record"
done
printf '\n' >&2

median() { sort -n "$work/$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
ratio() { # NAME BASE TEXT
	awk -v a="$(median "$1")" -v b="$(median "$2")" -v t="$3" 'BEGIN { printf "%-58s %.3f\n", t, a / b }'
}
echo "bench:$workload, breakpoint at $hot, user time, 1 = without a debugger ($rounds rounds)"
ratio attached alone "a debugger is attached and idle"
ratio condition alone "a breakpoint in the hot loop, its condition never true"
ratio watchpoint alone "a watchpoint on another page"
ratio checkpoints virtual "virtual clock, with checkpoints to go back to"
ratio recorded virtual "virtual clock, recorded"
ratio traced virtual "virtual clock, a trace of code elsewhere"
ratio coverage virtual "virtual clock, coverage"
ratio profile virtual "virtual clock, profile"
