# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_mcrctl_global_optspecs
    string join \n socket= json timeout= h/help V/version
end

function __fish_mcrctl_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_mcrctl_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_mcrctl_using_subcommand
    set -l cmd (__fish_mcrctl_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c mcrctl -n "__fish_mcrctl_needs_command" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_needs_command" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_needs_command" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -s V -l version -d 'Print version'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "add" -d 'Add a rule to the running config'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "remove" -d 'Remove a rule from the running config'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "list" -d 'List the rules and their state'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "show" -d 'Print the running config as JSON5, which `load` accepts'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "check" -d 'Check a config file, without mcrd'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "diff" -d 'Show what `load --replace FILE` would change'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "load" -d 'Load a config file into the running config, atomically'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "confirm" -d 'Confirm the config that `load --confirm` loaded'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "save" -d 'Write the running config to mcrd\'s startup file, or to another file'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "stats" -d 'Show the counters of rules and workers'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "flows" -d 'Show the flows that rules receive, by source'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "explain" -d 'Diagnose a rule: where its datagrams are lost, why, and how to fix it'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "doctor" -d 'Diagnose all rules and the host'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "top" -d 'Show a live full-screen view of rules, workers and events'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "events" -d 'Print events as lines of JSON, until interrupted'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "trace" -d 'Trace single datagrams of a rule'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "exporter" -d 'Serve the counters as Prometheus metrics over HTTP'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "workers" -d 'List the worker processes'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "memberships" -d 'List the multicast group memberships of the rules'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "interfaces" -d 'List the host\'s interfaces as mcrd sees them'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "log-level" -d 'Show or set log levels'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "upgrade" -d 'Replace mcrd with another binary without losing a datagram'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "ping" -d 'Check that mcrd responds'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "version" -d 'Show the versions of mcrctl and mcrd'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "completions" -d 'Print a shell completion script'
complete -c mcrctl -n "__fish_mcrctl_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l input-interface -d 'Input interface' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l input-group -d 'Multicast group, unicast address of this host, broadcast address of a network of the interface, or `broadcast` for all of these' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l input-port -d 'UDP port' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l source -d 'Source address to accept (source-specific multicast); may be repeated [default: any]' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l leg -d 'Another input with the same feed, in the form of an output; up to 3. With --merge' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l merge -d 'Merge the legs: what tells copies from other datagrams' -r -f -a "rtp\t''
moldudp64\t''
payload\t''"
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l window-ms -d 'How far apart the legs may be, milliseconds, 1 to 2000' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l order -d 'When a datagram leaves that is behind a gap: at once, or once the gap is filled or the window is over' -r -f -a "arrival\t''
sequence\t''"
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l name -d 'Name of the rule' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l max-pps -d 'Maximum number of datagrams per second that each worker of the interface relays; the rest is dropped' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l stream -d 'Check the stream in the datagrams: loss, order and jitter of RTP, or the continuity of MPEG-TS' -r -f -a "rtp\t''
mpegts\t''"
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l outputs -d 'Outputs, as described below; may be repeated' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l promiscuous -d 'Take frames for other hosts\' MAC addresses too, as from a mirror port; sets the interface promiscuous'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l local -d 'Take what programs of this host send to the group on the interface, too'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l no-hold-port -d 'Leave the port of a unicast address to other programs; without one, the kernel refuses the senders'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l no-reassemble -d 'Drop fragments of datagrams, instead of putting them together'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand add" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand remove" -l id -d 'Rule id, as shown by `list`' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand remove" -l name -d 'Rule name' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand remove" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand remove" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand remove" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand remove" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand list" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand list" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand list" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand list" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand show" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand show" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand show" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand show" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand check" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand check" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand check" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand check" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand diff" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand diff" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand diff" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand diff" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand load" -l confirm -d 'Restore the previous config after this many seconds unless `mcrctl confirm` is run' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand load" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand load" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand load" -l replace -d 'Replace the whole running config: rules that are not in the file are removed'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand load" -l dry-run -d 'Only show what would change'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand load" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand load" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand confirm" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand confirm" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand confirm" -l revert -d 'Restore the config from before the load now'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand confirm" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand confirm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand save" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand save" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand save" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand save" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand stats" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand stats" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand stats" -l watch -d 'Repeat each second, with rates over 1 s and 10 s, until interrupted; with --json, one object per line'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand stats" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand stats" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand flows" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand flows" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand flows" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand flows" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand explain" -l listen -d 'Time to listen for datagrams and queries, 0 to 10; with 0, only the counters are used' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand explain" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand explain" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand explain" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand doctor" -l listen -d 'Time to listen for datagrams and queries, 0 to 10; with 0, only the counters are used' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand doctor" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand doctor" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand doctor" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand top" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand top" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand top" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand events" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand events" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand events" -l text -d 'Print plain text instead'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand events" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand events" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and not __fish_seen_subcommand_from enable disable show help" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and not __fish_seen_subcommand_from enable disable show help" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and not __fish_seen_subcommand_from enable disable show help" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and not __fish_seen_subcommand_from enable disable show help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and not __fish_seen_subcommand_from enable disable show help" -f -a "enable" -d 'Start to trace a rule, or restart its trace'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and not __fish_seen_subcommand_from enable disable show help" -f -a "disable" -d 'Stop a trace and keep its records'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and not __fish_seen_subcommand_from enable disable show help" -f -a "show" -d 'Show the records of a trace'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and not __fish_seen_subcommand_from enable disable show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from enable" -l sample -d 'Trace one of N arrivals, as 1/N or N' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from enable" -l records -d 'Stop after this number of records' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from enable" -l seconds -d 'Stop after this number of seconds' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from enable" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from enable" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from enable" -l drops-only -d 'Record only datagrams that are skipped or dropped'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from enable" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from enable" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from disable" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from disable" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from disable" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from disable" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from show" -l pcap -d 'Write a pcapng file instead: the arrivals, with the results as comments; - for stdout' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from show" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from show" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from show" -l follow -d 'Continue until the trace ends'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from show" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from help" -f -a "enable" -d 'Start to trace a rule, or restart its trace'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from help" -f -a "disable" -d 'Stop a trace and keep its records'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show the records of a trace'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand trace; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand exporter" -l listen -d 'Address to listen on: ADDRESS:PORT, or unix:PATH' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand exporter" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand exporter" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand exporter" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand exporter" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand workers" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand workers" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand workers" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand workers" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand memberships" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand memberships" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand memberships" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand memberships" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand interfaces" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand interfaces" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand interfaces" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand interfaces" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and not __fish_seen_subcommand_from get set help" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and not __fish_seen_subcommand_from get set help" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and not __fish_seen_subcommand_from get set help" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and not __fish_seen_subcommand_from get set help" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and not __fish_seen_subcommand_from get set help" -f -a "get" -d 'Show the current levels'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and not __fish_seen_subcommand_from get set help" -f -a "set" -d 'Set a level, including in the workers'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and not __fish_seen_subcommand_from get set help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from get" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from get" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from get" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from get" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from set" -l facility -d 'Facility to set the level of [default: all]' -r -f -a "config\t''
control\t''
network\t''
membership\t''
workers\t''
dataplane\t''"
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from set" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from set" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from set" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from help" -f -a "get" -d 'Show the current levels'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from help" -f -a "set" -d 'Set a level, including in the workers'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand log-level; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand upgrade" -l binary -d 'Binary to start [default: mcrd\'s own path]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand upgrade" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand upgrade" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand upgrade" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand upgrade" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand ping" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand ping" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand ping" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand ping" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand version" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand version" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand version" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand version" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand completions" -l socket -d 'Control socket [default: $XDG_RUNTIME_DIR/mcr/mcrd.sock if it exists, else /run/mcr/mcrd.sock]' -r -F
complete -c mcrctl -n "__fish_mcrctl_using_subcommand completions" -l timeout -d 'Timeout for each reply from mcrd' -r
complete -c mcrctl -n "__fish_mcrctl_using_subcommand completions" -l json -d 'Write JSON instead of tables'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand completions" -s h -l help -d 'Print help'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "add" -d 'Add a rule to the running config'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "remove" -d 'Remove a rule from the running config'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "list" -d 'List the rules and their state'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "show" -d 'Print the running config as JSON5, which `load` accepts'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "check" -d 'Check a config file, without mcrd'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "diff" -d 'Show what `load --replace FILE` would change'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "load" -d 'Load a config file into the running config, atomically'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "confirm" -d 'Confirm the config that `load --confirm` loaded'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "save" -d 'Write the running config to mcrd\'s startup file, or to another file'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "stats" -d 'Show the counters of rules and workers'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "flows" -d 'Show the flows that rules receive, by source'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "explain" -d 'Diagnose a rule: where its datagrams are lost, why, and how to fix it'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "doctor" -d 'Diagnose all rules and the host'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "top" -d 'Show a live full-screen view of rules, workers and events'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "events" -d 'Print events as lines of JSON, until interrupted'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "trace" -d 'Trace single datagrams of a rule'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "exporter" -d 'Serve the counters as Prometheus metrics over HTTP'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "workers" -d 'List the worker processes'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "memberships" -d 'List the multicast group memberships of the rules'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "interfaces" -d 'List the host\'s interfaces as mcrd sees them'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "log-level" -d 'Show or set log levels'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "upgrade" -d 'Replace mcrd with another binary without losing a datagram'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "ping" -d 'Check that mcrd responds'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "version" -d 'Show the versions of mcrctl and mcrd'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "completions" -d 'Print a shell completion script'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and not __fish_seen_subcommand_from add remove list show check diff load confirm save stats flows explain doctor top events trace exporter workers memberships interfaces log-level upgrade ping version completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and __fish_seen_subcommand_from trace" -f -a "enable" -d 'Start to trace a rule, or restart its trace'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and __fish_seen_subcommand_from trace" -f -a "disable" -d 'Stop a trace and keep its records'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and __fish_seen_subcommand_from trace" -f -a "show" -d 'Show the records of a trace'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and __fish_seen_subcommand_from log-level" -f -a "get" -d 'Show the current levels'
complete -c mcrctl -n "__fish_mcrctl_using_subcommand help; and __fish_seen_subcommand_from log-level" -f -a "set" -d 'Set a level, including in the workers'
