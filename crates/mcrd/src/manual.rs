//! Generates the manual page, the completions and the reference from the command line.

use clap::CommandFactory;
use mcr_manual::{Committed, Program, program};

use crate::arguments::Arguments;

const APPENDIX: &str = "\
## How it works

mcrd is the supervisor: it opens every socket, joins the groups and holds the configuration. For each input interface it
starts workers, unprivileged processes that relay. Datagrams are captured below the IP layer, so routes and reverse path
filters do not affect reception. Rules come from the startup file and, at run time, from `mcrctl(1)`; a rule whose interface
is missing is pending until the interface appears.

A worker that dies is replaced, and its replacement relays what was queued meanwhile. If the supervisor dies, the workers
continue to relay. A keeper process holds their sockets and memberships; the next mcrd on the same control socket adopts
them and continues with the running config. Workers that are not adopted within `orphan_timeout_s` exit.

## Signals

| signal | meaning |
|---|---|
| `SIGHUP` | replace the running config with the startup file; when it comes because the terminal has hung up in which mcrd was started, nothing |
| `SIGUSR2` | upgrade to the program on disk without losing a datagram, as `mcrctl upgrade` |
| `SIGTERM`, `SIGINT` | leave all groups, stop the workers, and exit |

## Exit status

| code | meaning |
|---|---|
| `0` | stopped on request, or, with `--check`, the file is valid |
| `1` | could not start, or, with `--check`, the file has errors |
| `2` | wrong usage |

## Files

| file | meaning |
|---|---|
| `/etc/mcr/mcr.json5` | startup file, see `mcr.json5(5)` |
| `/run/mcr/mcrd.sock` | control socket, for `mcrctl(1)` and any Varlink client |

## Examples

Relay one group to another interface, another group and port:

```text
mcrd &
mcrctl add --name video --input-interface eth0 --input-group 239.1.1.1 --input-port 5000 \\
    --outputs 239.2.2.2:5001:eth1
mcrctl explain video
```

As a service that starts at boot: `systemctl enable --now mcrd`, `mcrctl add`, `mcrctl save`. In the network namespace RED:
`/etc/mcr/RED.json5`, `systemctl enable --now mcrd@RED`.

## See also

`mcrctl(1)`, `mcrgen(1)`, `mcr.json5(5)`
";

#[test]
fn manual_completions_and_reference_match_the_command_line() {
    let command = Arguments::command();
    program(command, Program { section: "8", appendix: APPENDIX }).iter().for_each(Committed::assert_current);
}
