#!/usr/bin/env bash
# Makes target/guest/debian.img: a small Debian with its own boot loader and kernel, for `make boot`. Its one service
# counts: every start and every line that it has synced, on the disk and on the serial console. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"
image=target/guest/debian.img
[[ $image -nt scripts/guest.sh ]] && { echo "guest: $image is there"; exit 0; }
((EUID == 0)) || { echo "guest: root is needed, for the owners of its files"; exit 1; }

mkdir -p target/guest
work=$(mktemp -d target/guest/work.XXXX)
trap 'rm -rf "$work"' EXIT

echo "guest: making a Debian root (a few minutes)"
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
mmdebstrap --quiet --variant=minbase --include=linux-image-cloud-amd64,initramfs-tools,systemd-sysv,zstd "$suite" "$work/root.tar"
mkdir "$work/root"
tar -C "$work/root" -xpf "$work/root.tar"
rm "$work/root.tar"

cat > "$work/root/usr/local/sbin/ledger" <<'LEDGER'
#!/bin/sh
# One line a start and one a second, each on the disk before it is told of.
book=/var/lib/ledger; mkdir -p $book
echo start >> $book/starts; sync $book/starts
touch $book/lines
echo "LEDGER UP starts=$(wc -l < $book/starts) lines=$(wc -l < $book/lines)"
while :; do
  echo line >> $book/lines; sync $book/lines
  echo "LEDGER LINE $(wc -l < $book/lines)"
  sleep 1
done
LEDGER
chmod 755 "$work/root/usr/local/sbin/ledger"
cat > "$work/root/etc/systemd/system/ledger.service" <<'UNIT'
[Unit]
Description=Counts starts and seconds
[Service]
ExecStart=/usr/local/sbin/ledger
StandardOutput=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
UNIT
mkdir -p "$work/root/etc/systemd/system/multi-user.target.wants"
ln -s ../ledger.service "$work/root/etc/systemd/system/multi-user.target.wants/ledger.service"
ln -sf /dev/null "$work/root/etc/systemd/system/serial-getty@ttyS0.service"
echo "LABEL=root / ext4 errors=remount-ro 0 1" > "$work/root/etc/fstab"
echo guest > "$work/root/etc/hostname"

# GPT: a partition for the boot loader, and the root. GRUB is put where its own installer would put it, which wants a
# disk that the running system knows: boot.img in the first sector, told where core.img begins (at 0x5c), core.img in
# its partition, told where its second sector is (at 0x1f4 of its first).
truncate -s 2G "$work/disk"
sgdisk -n 1:2048:4095 -t 1:ef02 -n 2:4096:4190207 -t 2:8300 "$work/disk" >/dev/null
mkfs.ext4 -q -L root -E offset=$((4096 * 512)) -d "$work/root" "$work/disk" $((4186112 / 2))k
cat > "$work/grub.cfg" <<'GRUB'
search --no-floppy --label --set=root root
linux /vmlinuz root=LABEL=root rw console=ttyS0 quiet mitigations=off
initrd /initrd.img
boot
GRUB
grub-mkimage -O i386-pc -o "$work/core.img" -p '(hd0,gpt2)/boot/grub' -c "$work/grub.cfg" \
  biosdisk part_gpt ext2 search search_label linux boot
sector() { printf '%016x' "$1" | sed 's/\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)/\\x\8\\x\7\\x\6\\x\5\\x\4\\x\3\\x\2\\x\1/'; }
put() { dd of="$work/disk" bs=1 seek="$1" conv=notrunc status=none; }
head -c 440 /usr/lib/grub/i386-pc/boot.img | put 0
printf "$(sector 2048)" | put $((0x5c))
dd if="$work/core.img" of="$work/disk" bs=512 seek=2048 conv=notrunc status=none
printf "$(sector 2049)" | put $((2048 * 512 + 0x1f4))
mv "$work/disk" "$image"
echo "guest: $image is made"
