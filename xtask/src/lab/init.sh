#!/bin/busybox sh
# The guest's first process: mounts the host's root, read only, under a layer in memory, runs /job there and powers off.
# xtask's lab/initramfs.rs puts busybox, modules, settings and job beside it.
PATH=/bin
. /settings
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module" || echo "lab: no module $module"; done

mount $ROOT /lower || echo "lab: no root"
mount -t tmpfs -o size=75% tmpfs /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root || echo "lab: no overlay"
for directory in proc sys dev; do mount --move /$directory /root/$directory; done
mount -t tmpfs tmpfs /root/run
mkdir -p /root/run/lab /root/run/netns /root/lab /root/dev/shm /root/dev/pts /root/lib/modules
mount -t tmpfs tmpfs /root/lab
mount -t devpts devpts /root/dev/pts
mount -t tmpfs tmpfs /root/dev/shm
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
ln -sf /proc/self/fd /root/dev/fd

# The kernel loads modules itself, such as for `ip link add type bond`. It runs modprobe here, in the first file system.
mount -t proc proc /proc
mount --bind "/root$MODULES" /lib/modules || echo "lab: no modules in $MODULES"
mount --bind /lib/modules /root/lib/modules
echo /bin/modprobe > /proc/sys/kernel/modprobe
cp /bin/busybox /job /root/run/lab/
modprobe ipv6 2>/dev/null # Debian's kernels have it built in, but for user mode.
for module in tun $CARD; do modprobe "$module" || echo "lab: no module $module"; done
ifconfig lo up
for number in 0 1 2 3; do
  [ -z "$CARD" ] || nameif nic$number 52:54:00:00:00:0$number || echo "lab: no card $number"
done

echo "lab: Linux $(uname -r), ready after $(cut -d' ' -f1 /root/proc/uptime) s"
# The root of the mount namespace, not a directory in it: who is in chroot(2) may not create user namespaces. This shell and the
# kernel's modprobe stay in the first file system, beneath.
cd /root && mount --move . /
chroot . /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
  TMPDIR=/lab LANG=C.UTF-8 /run/lab/busybox sh /run/lab/job
echo "lab: exit code $?"
poweroff -f
