#!/bin/bash
# shellcheck disable=SC2317  # functions are called through check
# Runs in a booted Debian with the package installed (`cargo xtask package --check`): does the service do what its
# manual says? Prints a line for each thing it looked at, and ends with code 1 if one failed.
set -u
failed=0
seen=

# check WHAT COMMAND...: COMMAND has to succeed within 10 seconds.
check() {
    what=$1; shift
    for _ in $(seq 100); do
        if seen=$("$@" 2>&1); then echo "ok: $what"; return; fi
        sleep 0.1
    done
    echo "FAILED: $what: $*: $seen"
    failed=1
}

main_pid() { systemctl show --value -p MainPID "${1:-mcrd}"; }
status_of() { grep -E "^$2:" "/proc/$(main_pid "$1")/status"; }
has() { "${@:2}" 2>&1 | grep -qE -- "$1"; }
relays() {
    ip netns exec receiver mcrgen recv --interface eth0 --group 239.2.2.2 --port 5001 --count 1000 --max-loss 0 &
    receiver=$!
    # The receiver's joins are in force when it says so; mcrgen send would find out too late.
    for _ in $(seq 50); do ip netns exec receiver ip maddress | grep -q 239.2.2.2 && break; sleep 0.1; done
    ip netns exec sender mcrgen send --interface eth0 --group 239.1.1.1 --port 5000 --rate 2000 --count 1000
    wait "$receiver"
}

# sender ── in0, this host, out0 ── receiver
for side in sender:in0:10.1.0 receiver:out0:10.2.0; do
    IFS=: read -r namespace interface net <<<"$side"
    ip netns add "$namespace"
    ip link add "$interface" type veth peer name eth0 netns "$namespace"
    ip addr add "$net.1/24" dev "$interface"
    ip -n "$namespace" addr add "$net.2/24" dev eth0
    ip link set "$interface" up
    ip -n "$namespace" link set eth0 up
    ip -n "$namespace" link set lo up
done

check "the service is up" systemctl -q is-active mcrd
check "its user is mcr" has "^Uid:\s+$(id -u mcr)\s" status_of mcrd Uid
check "CAP_NET_RAW and CAP_NET_BIND_SERVICE are its only capabilities" has '0000000000002400$' status_of mcrd CapBnd
check "no new privileges" has '1$' status_of mcrd NoNewPrivs
check "system calls are filtered" has '2$' status_of mcrd Seccomp
check "a rule is added" mcrctl add --name video --input-interface in0 --input-group 239.1.1.1 --input-port 5000 \
    --outputs 239.2.2.2:5001:out0
check "it relays and loses nothing" relays
mcrctl workers
for layer in tx-locked ring seccomp; do
    check "its worker's sandbox has the layer $layer" has "\"$layer\"" mcrctl --json workers
done
check "a unicast input on a port below 1024 is added" mcrctl add --name syslog --input-interface in0 --input-group 10.1.0.1 \
    --input-port 514 --outputs 239.2.2.3:5001:out0
check "and its port is held" has 'mcrd' mcrctl --json memberships
check "it is removed" mcrctl remove --name syslog
check "the rule is explained" has 'video' mcrctl explain --listen 1 video
check "the doctor sees the host's settings" has 'net\.core\.rmem_max is [1-9]' mcrctl --json doctor --listen 1
lacks() { ! has "$@"; }
check "and has nothing against the service's rights" lacks capability_missing mcrctl --json doctor --listen 1
check "a member of group mcr may look" setpriv --reuid nobody --regid mcr --clear-groups mcrctl list
check "others may not" has 'may not call' setpriv --reuid nobody --regid nogroup --clear-groups mcrctl list
check "the running config is saved" mcrctl save
check "the startup file is the daemon's" has '^mcr$' stat -c %U /etc/mcr/mcr.json5
check "the last good file is kept" test -s /var/lib/mcr/last-good.json5
check "it is read again" systemctl reload mcrd

# What stays while daemons come and go.
worker() { mcrctl --json workers | grep -o '"pid": [0-9]*'; }
worker=$(worker)
same_worker() { [ "$(worker)" = "$worker" ]; }
another_daemon() { [ "$(main_pid)" != "$before" ] && [ "$(main_pid)" != 0 ] && mcrctl ping; }

before=$(main_pid)
kill -KILL "$before"
check "it relays while a killed daemon is started again" relays
check "systemd has started another" another_daemon
check "with its rules" has video.*active mcrctl list
check "its worker is the same" same_worker

mkdir -p /run/systemd/system/mcrd.service.d
printf '[Service]\nWatchdogSec=1s\n' >/run/systemd/system/mcrd.service.d/test.conf
systemctl daemon-reload
check "it is restarted" systemctl restart mcrd
check "it serves" mcrctl ping
worker=$(worker)
before=$(main_pid)
kill -STOP "$before"
check "it relays while the daemon hangs" relays
check "the watchdog ends a daemon that hangs" another_daemon
check "its worker is the same" same_worker

before=$(main_pid)
check "it is upgraded without a pause" mcrctl upgrade
check "systemd follows to the new process" another_daemon
check "which is watched and alive" systemctl -q is-active mcrd
check "its worker is the same" same_worker
before=$(main_pid)
check "a new package is installed" dpkg --install /mcr.deb
check "it hands over too" another_daemon
check "it relays" relays
check "no worker was killed by its sandbox" has '"sandbox_kills": 0' mcrctl --json workers

ip netns add red
ip -n red link set lo up
cat >/etc/mcr/red.json5 <<'EOF'
{ rules: [{ name: "red", input: { interface: "lo", group: "239.3.3.3", port: 5000 },
            outputs: [{ interface: "lo", group: "239.4.4.4", port: 5001 }] }] }
EOF
check "a daemon starts in a network namespace" systemctl start mcrd@red
check "it is in that namespace" has '^lo ' mcrctl --socket /run/mcr/red/mcrd.sock interfaces
check "with its own rules" has red.*active mcrctl --socket /run/mcr/red/mcrd.sock list
check "it stops" systemctl stop mcrd@red
check "the other one goes on" mcrctl ping

echo '{ rules: [' >/etc/mcr/mcr.json5
check "it starts from the last good file" systemctl restart mcrd
check "and says so" has last-good mcrctl version
check "the service stops" systemctl stop mcrd
check "nothing of it is left" has '^0$' pgrep -c -x mcrd
check "no unit has failed" has '^0 loaded' systemctl --failed
echo "$failed checks failed"
exit "$failed"
