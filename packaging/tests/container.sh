#!/bin/bash
# Runs in a container that may not use io_uring, as under the default seccomp profile of docker and podman
# (`cargo xtask package --check`): mcrd has the capabilities that these give by default, and relays.
set -eu
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
# shellcheck disable=SC2054
given=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+net_bind_service,+net_raw,+setfcap,+setgid,+setpcap,+setuid,+sys_chroot
cat >/container.json5 <<'EOF'
{ rules: [{ name: "video", input: { interface: "in0", group: "239.1.1.1", port: 5000 },
            outputs: [{ interface: "out0", group: "239.2.2.2", port: 5001 }] }] }
EOF
setpriv --bounding-set "$given" --inh-caps "$given" mcrd --config /container.json5 &
for _ in $(seq 100); do mcrctl list 2>/dev/null | grep -q active && break; sleep 0.1; done
mcrctl workers
mcrctl --json workers | grep -q '"io": "recvmmsg"'
mcrctl --json workers | grep -q '"seccomp"'
ip netns exec receiver mcrgen recv --interface eth0 --group 239.2.2.2 --port 5001 --count 1000 --max-loss 0 &
receiver=$!
for _ in $(seq 100); do ip netns exec receiver ip maddress | grep -q 239.2.2.2 && break; sleep 0.1; done
ip netns exec sender mcrgen send --interface eth0 --group 239.1.1.1 --port 5000 --rate 2000 --count 1000
wait "$receiver"
echo "ok: a container without io_uring relays"
