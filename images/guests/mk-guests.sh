#!/bin/sh
# Fetches and makes real guests from Debian 12 packages.
#
#   mk-guests.sh OUTDIR TARGET...
#
# Targets (each leaves files in OUTDIR and is skipped when they are there):
#   kernels     vmlinuz-amd64 (the cloud kernel), vmlinuz-686-pae, vmlinuz-686
#   generic     vmlinuz-amd64-generic (Debian's ordinary amd64 kernel)
#   shell       shell-amd64.cpio, shell-i386.cpio: busybox sh on the console
#   drivers     drivers-amd64-vmlinuz (the cloud kernel), drivers-amd64.cpio: the same shell with that kernel's drivers for
#               PCI, disks, CDs, networks and input devices; it runs /script, if there is one (of a second archive)
#   installer   di-amd64-{linux,initrd.gz}, di-amd64-gtk-initrd.gz, di-i386-...
#   grub        grub-rescue.iso, grub-rescue-floppy.img
#   memtest     memtest-x64.bin/.iso, memtest-ia32.bin/.iso
#   ipxe        ipxe.iso, ipxe.lkrn
#   firmware    seabios/, OVMF_CODE_4M.fd, OVMF_VARS_4M.fd
#   isolinux    isolinux.iso: ISOLINUX starting the amd64 cloud kernel with the shell
#   rootfs      debian-amd64.img: a 1.5 GB ext4 root disk with systemd, no boot
#               loader, plus debian-amd64-{vmlinuz,initrd}; root, no password
#   bootdisk    debian-amd64-boot.img: the same root behind an MBR with GRUB
#
# Needs apt with the i386 architecture added (dpkg --add-architecture i386;
# apt-get update), dpkg-deb, cpio; isolinux needs xorriso; rootfs and bootdisk
# need root, mmdebstrap, e2fsprogs, and for bootdisk grub-pc-bin, grub2-common,
# fdisk. The benchmark guest is made by ../guestbench/mk-initramfs.sh.
set -eu
[ $# -ge 2 ] || { sed -n '2,27s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1/debs"
out=$(cd "$1" && pwd)
shift

# unpack PACKAGE[:ARCH] DIR - download once, extract
unpack() {
	case $1 in *:*) deb="$out/debs/${1%%:*}_*_${1##*:}.deb" ;; *) deb="$out/debs/$1_*.deb" ;; esac
	ls $deb >/dev/null 2>&1 || (cd "$out/debs" && apt-get -q download "$1" >&2)
	mkdir -p "$2"
	dpkg-deb -x "$(ls -t $deb | head -n 1)" "$2"
}

# real META:ARCH - the kernel package that a meta package stands for
real() {
	apt-cache depends "$1" | sed -n 's/.*Depends: \(linux-image-[0-9][^: ]*\).*/\1/p' | head -n 1
}

have() { for f in "$@"; do [ -e "$out/$f" ] || return 1; done; }

kernel() { # NAME META ARCH
	have "$1" && return
	t=$(mktemp -d)
	unpack "$(real "$2:$3"):$3" "$t"
	cp "$t"/boot/vmlinuz-* "$out/$1"
	rm -rf "$t"
}

shell_initramfs() { # ARCH
	have "shell-$1.cpio" && return
	t=$(mktemp -d)
	unpack "busybox-static:$1" "$t/bb"
	mkdir -p "$t/root/bin" "$t/root/proc" "$t/root/sys" "$t/root/dev" "$t/root/tmp"
	cp "$t/bb/bin/busybox" "$t/root/bin/busybox"
	cat > "$t/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev 2>/dev/null
echo "@init"
cat /proc/cmdline
exec setsid cttyhack sh -i
INIT
	chmod 755 "$t/root/init"
	(cd "$t/root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) > "$out/shell-$1.cpio"
	rm -rf "$t"
}

for target; do
	case $target in
	kernels)
		kernel vmlinuz-amd64 linux-image-cloud-amd64 amd64
		kernel vmlinuz-686-pae linux-image-686-pae i386
		kernel vmlinuz-686 linux-image-686 i386 ;;
	generic)
		kernel vmlinuz-amd64-generic linux-image-amd64 amd64 ;;
	shell)
		shell_initramfs amd64
		shell_initramfs i386 ;;
	drivers)
		have drivers-amd64.cpio && continue
		t=$(mktemp -d)
		unpack "$(real linux-image-cloud-amd64:amd64):amd64" "$t/k"
		unpack busybox-static:amd64 "$t/bb"
		v=$(ls "$t/k/lib/modules")
		mkdir -p "$t/root/bin" "$t/root/proc" "$t/root/sys" "$t/root/dev" "$t/root/mnt" "$t/root/tmp" "$t/root/m"
		cp "$t/bb/bin/busybox" "$t/root/bin/busybox"
		"$t/bb/bin/busybox" depmod -b "$t/k" "$v"
		# What each needs is behind it in modules.dep, and goes first from the end of the line.
		order=
		for m in virtio_pci virtio_blk virtio_scsi virtio_net virtio_input ata_piix sd_mod sr_mod evdev isofs; do
			for file in $(sed -n "s|^\(.*/$m\.ko\): *|\1 |p" "$t/k/lib/modules/$v/modules.dep" | tr ' ' '\n' | tac); do
				[ ! -e "$t/root/m/${file##*/}" ] || continue
				cp "$t/k/lib/modules/$v/$file" "$t/root/m/"
				order="$order ${file##*/}"
			done
		done
		cat > "$t/root/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for m in$order; do insmod /m/\$m; done
echo "@init"
[ ! -e /script ] || . /script
exec setsid cttyhack sh -i
INIT
		chmod 755 "$t/root/init"
		(cd "$t/root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) > "$out/drivers-amd64.cpio"
		cp "$t/k/boot/vmlinuz-$v" "$out/drivers-amd64-vmlinuz"
		rm -rf "$t" ;;
	installer)
		for a in amd64 i386; do
			have di-$a-linux di-$a-initrd.gz && continue
			t=$(mktemp -d)
			unpack debian-installer-12-netboot-$a "$t"
			d=$t/usr/lib/debian-installer/images/12/$a
			cp "$d/text/debian-installer/$a/linux" "$out/di-$a-linux"
			cp "$d/text/debian-installer/$a/initrd.gz" "$out/di-$a-initrd.gz"
			cp "$d/gtk/debian-installer/$a/initrd.gz" "$out/di-$a-gtk-initrd.gz"
			rm -rf "$t"
		done ;;
	grub)
		have grub-rescue.iso && continue
		t=$(mktemp -d); unpack grub-rescue-pc:amd64 "$t"
		cp "$t/usr/lib/grub-rescue/grub-rescue-cdrom.iso" "$out/grub-rescue.iso"
		cp "$t/usr/lib/grub-rescue/grub-rescue-floppy.img" "$out/grub-rescue-floppy.img"
		rm -rf "$t" ;;
	memtest)
		have memtest-x64.iso && continue
		t=$(mktemp -d); unpack memtest86+:amd64 "$t"
		for w in x64 ia32; do
			cp "$t/boot/memtest86+$w.bin" "$out/memtest-$w.bin"
			cp "$t/usr/lib/memtest86+/memtest86+$w.iso" "$out/memtest-$w.iso"
		done
		rm -rf "$t" ;;
	ipxe)
		have ipxe.iso && continue
		t=$(mktemp -d); unpack ipxe "$t"
		cp "$t/usr/lib/ipxe/ipxe.iso" "$t/boot/ipxe.lkrn" "$out/"
		rm -rf "$t" ;;
	firmware)
		have seabios && continue
		t=$(mktemp -d); unpack seabios "$t"; unpack ovmf "$t"
		cp -r "$t/usr/share/seabios" "$out/seabios"
		cp "$t/usr/share/OVMF/OVMF_CODE_4M.fd" "$t/usr/share/OVMF/OVMF_VARS_4M.fd" "$out/"
		rm -rf "$t" ;;
	isolinux)
		have isolinux.iso && continue
		kernel vmlinuz-amd64 linux-image-cloud-amd64 amd64
		shell_initramfs amd64
		t=$(mktemp -d); unpack isolinux "$t/p"; unpack syslinux-common "$t/p"
		mkdir -p "$t/iso/isolinux"
		cp "$t/p/usr/lib/ISOLINUX/isolinux.bin" "$t/p/usr/lib/syslinux/modules/bios/ldlinux.c32" "$t/iso/isolinux/"
		cp "$out/vmlinuz-amd64" "$t/iso/vmlinuz"; cp "$out/shell-amd64.cpio" "$t/iso/initrd"
		printf 'DEFAULT linux\nPROMPT 0\nSERIAL 0 115200\nLABEL linux\n KERNEL /vmlinuz\n INITRD /initrd\n APPEND console=ttyS0 panic=-1\n' > "$t/iso/isolinux/isolinux.cfg"
		xorriso -as mkisofs -quiet -o "$out/isolinux.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat \
			-no-emul-boot -boot-load-size 4 -boot-info-table "$t/iso"
		rm -rf "$t" ;;
	rootfs|bootdisk)
		if ! have debian-amd64-root; then
			mmdebstrap --variant=minbase --mode=root --architectures=amd64 \
				--include=systemd-sysv,udev,kmod,init,iproute2,login,linux-image-amd64,initramfs-tools,isc-dhcp-client \
				--aptopt='Acquire::Languages "none"' \
				--customize-hook='echo root: | chroot "$1" chpasswd -e' \
				--customize-hook='echo guest > "$1/etc/hostname"' \
				--customize-hook='echo "LABEL=root / ext4 errors=remount-ro 0 1" > "$1/etc/fstab"' \
				--customize-hook='ln -sf /lib/systemd/system/serial-getty@.service "$1/etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"' \
				bookworm "$out/debian-amd64-root"
			rm -rf "$out"/debian-amd64-root/var/cache/apt/archives/*.deb "$out"/debian-amd64-root/var/lib/apt/lists/*
			cp "$out"/debian-amd64-root/boot/vmlinuz-* "$out/debian-amd64-vmlinuz"
			cp "$out"/debian-amd64-root/boot/initrd.img-* "$out/debian-amd64-initrd"
		fi
		if [ $target = rootfs ]; then
			have debian-amd64.img && continue
			truncate -s 1500M "$out/debian-amd64.img"
			mkfs.ext4 -q -F -L root -d "$out/debian-amd64-root" "$out/debian-amd64.img"
			continue
		fi
		have debian-amd64-boot.img && continue
		t=$(mktemp -d)
		v=$(ls "$out/debian-amd64-root/boot" | sed -n 's/^vmlinuz-//p')
		mkdir -p "$out/debian-amd64-root/boot/grub"
		printf 'set timeout=1\nserial --unit=0\nterminal_input console serial\nterminal_output console serial\nmenuentry Debian {\n search --label root --set=root\n linux /boot/vmlinuz-%s root=LABEL=root console=tty0 console=ttyS0\n initrd /boot/initrd.img-%s\n}\n' "$v" "$v" > "$out/debian-amd64-root/boot/grub/grub.cfg"
		truncate -s 1500M "$t/part"
		mkfs.ext4 -q -F -L root -d "$out/debian-amd64-root" "$t/part"
		# GRUB's core image, with what it needs to find its menu, between the MBR and the partition.
		printf 'search --label root --set=root\nset prefix=($root)/boot/grub\n' > "$t/early.cfg"
		grub-mkimage -O i386-pc -p /boot/grub -c "$t/early.cfg" -o "$t/core.img" \
			biosdisk part_msdos ext2 search search_label normal configfile linux serial terminal echo ls reboot halt
		img=$out/debian-amd64-boot.img
		truncate -s $((1500 + 2))M "$img"
		printf 'label: dos\nstart=4096, type=83, bootable\n' | sfdisk -q "$img"
		dd if="$t/part" of="$img" bs=1M seek=2 conv=notrunc,sparse status=none
		dd if=/usr/lib/grub/i386-pc/boot.img of="$img" bs=440 count=1 conv=notrunc status=none
		# boot.img loads core.img's first sector from LBA 1 by default; core.img's own block list says "from LBA 2".
		dd if="$t/core.img" of="$img" bs=512 seek=1 conv=notrunc status=none
		rm -rf "$t" ;;
	*) echo "unknown target $target" >&2; exit 2 ;;
	esac
	echo "$target: done" >&2
done
