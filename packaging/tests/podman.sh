#!/bin/bash
# Builds the container file and runs it with podman's default seccomp profile: it relays, without
# io_uring. `cargo xtask package --check` starts it in mount, process and network namespaces of its own.
#
# podman.sh ROOT PACKAGES MCRGEN WORK: a Debian's files to build from, where the package is, the program mcrgen, and a
# directory for podman.
set -eu
root=$1 packages=$2 mcrgen=$3 work=$4
containerfile=$(dirname "$0")/../Containerfile

# What podman and ip leave in /run goes with this namespace. crun takes one version of control groups only.
mount -t tmpfs tmpfs /run
umount /sys/fs/cgroup/unified 2>/dev/null || true
mkdir -p "$work/etc"
podman() {
    command podman --root "$work/storage" --runroot "$work/run" --tmpdir "$work/tmp" --cgroup-manager cgroupfs \
        --events-backend none --storage-driver overlay "$@"
}
# What podman asks for by default may be more than this machine's root may have.
limits=(--ulimit nofile=1024:1024 --ulimit nproc=1024:1024)

tar --directory "$root" --create . | podman import --quiet - docker.io/library/debian:bookworm-slim
podman build --quiet --pull=never "${limits[@]}" --isolation chroot -t mcr -f "$containerfile" "$packages"

ip link set lo up
for side in sender:in0:10.1.0 receiver:out0:10.2.0; do
    IFS=: read -r namespace interface net <<<"$side"
    ip netns add "$namespace"
    ip link add "$interface" type veth peer name eth0 netns "$namespace"
    ip addr add "$net.1/24" dev "$interface"
    ip -n "$namespace" addr add "$net.2/24" dev eth0
    ip link set "$interface" up
    ip -n "$namespace" link set eth0 up
done
cat >"$work/etc/mcr.json5" <<'EOF'
{ rules: [{ name: "video", input: { interface: "in0", group: "239.1.1.1", port: 5000 },
            outputs: [{ interface: "out0", group: "239.2.2.2", port: 5001 }] }] }
EOF
# Without control groups: which of them a machine has does not matter to what is looked at here.
podman run --quiet --detach --name relay --cgroups=disabled "${limits[@]}" --network host --cap-add NET_RAW --volume "$work/etc:/etc/mcr" mcr
for _ in $(seq 100); do podman exec relay mcrctl list 2>/dev/null | grep -q active && break; sleep 0.1; done
podman exec relay mcrctl workers || { podman logs relay; exit 1; }
podman exec relay mcrctl --json workers | grep -q '"io": "recvmmsg"'
podman exec relay mcrctl --json workers | grep -q '"seccomp"'
podman exec relay grep '^Seccomp:.*2$' /proc/1/status
ip netns exec receiver "$mcrgen" recv --interface eth0 --group 239.2.2.2 --port 5001 --count 1000 --max-loss 0 &
receiver=$!
for _ in $(seq 100); do ip netns exec receiver ip maddress | grep -q 239.2.2.2 && break; sleep 0.1; done
ip netns exec sender "$mcrgen" send --interface eth0 --group 239.1.1.1 --port 5000 --rate 2000 --count 1000
wait "$receiver"
podman stop --time 5 relay
[ "$(podman inspect --format '{{.State.ExitCode}}' relay)" = 0 ]
echo "ok: the container file relays under podman's default seccomp profile, without io_uring"
