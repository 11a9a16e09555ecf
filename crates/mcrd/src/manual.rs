//! The manual page, the completions and the reference are those of this command line.

use clap::CommandFactory;
use mcr_manual::{Committed, Program, program};

use crate::arguments::Arguments;

const APPENDIX: &str = "\
## How it works

mcrd is the supervisor: it opens every socket, joins the groups and owns the configuration. For each interface that rules
receive on it starts workers, processes without privileges that relay. Datagrams are captured below the IP layer, so neither
routes nor reverse path filters matter to what comes in. Rules come from the startup file and, while it runs, from
`mcrctl(1)`; a rule whose interface is missing waits for it.

A worker that dies is replaced, and what arrived meanwhile is relayed by its replacement. If the supervisor dies, workers
relay on; a keeper, a process of its own, holds their sockets and groups, and the next mcrd on the same control socket takes
everything over and goes on with the config that ran. Without one for `orphan_timeout_s`, workers end. SIGTERM ends all.
SIGHUP loads the startup file. SIGUSR2, as `mcrctl upgrade`, lets the program on disk take over without losing a datagram.

## Signals

| signal | meaning |
|---|---|
| `SIGHUP` | read the startup file again and make the running config exactly what it says |
| `SIGTERM`, `SIGINT` | leave all groups, end the workers, and end |

## Exit status

| code | meaning |
|---|---|
| `0` | it ended as it was asked to, or the file is valid |
| `1` | it could not start, or the file has errors |
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

The same as a service that starts with the machine: `systemctl enable --now mcrd`, `mcrctl add`, `mcrctl save`. In a network
namespace RED: `/etc/mcr/RED.json5`, `systemctl enable --now mcrd@RED`.

## See also

`mcrctl(1)`, `mcrgen(1)`, `mcr.json5(5)`
";

#[test]
fn manual_completions_and_reference_are_of_this_command_line() {
    let command = Arguments::command();
    program(command, Program { section: "8", appendix: APPENDIX }).iter().for_each(Committed::assert_current);
}
