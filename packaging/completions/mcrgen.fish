# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_mcrgen_global_optspecs
    string join \n h/help V/version
end

function __fish_mcrgen_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_mcrgen_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_mcrgen_using_subcommand
    set -l cmd (__fish_mcrgen_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c mcrgen -n "__fish_mcrgen_needs_command" -s h -l help -d 'Print help'
complete -c mcrgen -n "__fish_mcrgen_needs_command" -s V -l version -d 'Print version'
complete -c mcrgen -n "__fish_mcrgen_needs_command" -f -a "send" -d 'Send numbered, checksummed datagrams at a constant rate'
complete -c mcrgen -n "__fish_mcrgen_needs_command" -f -a "recv" -d 'Receive the traffic of `mcrgen send`, and report loss, duplicates, order and latency'
complete -c mcrgen -n "__fish_mcrgen_needs_command" -f -a "replay" -d 'Send the UDP datagrams of a capture file, at the times at which they were captured'
complete -c mcrgen -n "__fish_mcrgen_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l interface -d 'Interface to use' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l group -d 'Address of the first stream: a multicast group, or a unicast address' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l port -d 'UDP port of all streams' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l groups -d 'Number of streams, sent to consecutive addresses starting at G' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l rate -d 'Datagrams per second; 0 sends as fast as possible' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l size -d 'Payload size in bytes, at least 48 (60 with --rtp, 70 with --mold); MIN-MAX selects a random size for each datagram' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l seed -d 'Seed of the random sizes, losses and reordering [default: a random one]' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l count -d 'Number of datagrams to send' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l duration -d 'Duration of sending; a run that falls behind its rate may take 10 % longer' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l burst -d 'Send the datagrams in bursts of N, at the same mean rate' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l ttl -d 'TTL, or hop limit' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l dscp -d 'DSCP value' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l loss -d 'Leave out this percentage of the datagrams, at random' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l delay -d 'Send each datagram this much later' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l reorder -d 'Send this percentage of the datagrams behind the next one of their stream, at random' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l legs -d 'Send each datagram on these legs as well, up to three, separated by commas: G:P:IF, then any of /loss=PERCENT, /delay=MS, /reorder=PERCENT; --loss, --delay and --reorder are of the first leg' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l source -d 'Source address [default: the interface\'s]' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l source-port -d 'Source port [default: any]' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l segment -d 'Pass several datagrams to the kernel in one send (UDP_SEGMENT)' -r -f -a "auto\t'With --rate 0'
always\t'Also at a rate: each burst is one send'
never\t'One datagram per send'"
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l json -d 'Print the report as JSON'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l rtp -d 'Begin each payload with an RTP header (RFC 3550) of 12 bytes'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -l mold -d 'Begin each payload with a MoldUDP64 header and the length of its only message, 22 bytes'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand send" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l interface -d 'Interface to use' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l group -d 'Address of the first stream: a multicast group, or a unicast address' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l port -d 'UDP port of all streams' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l groups -d 'Number of streams, sent to consecutive addresses starting at G' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l source -d 'Source address to join and accept (source-specific multicast); may be repeated [default: any]' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l count -d 'Number of datagrams to wait for; if the run ends earlier, the missing ones are counted as lost' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l duration -d 'Duration of receiving' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l idle -d 'Exit after this time without a datagram; 0: never' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l wait -d 'Time to wait for the first datagram; 0: forever' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l max-loss -d 'Exit with code 1 if more than N datagrams were lost, or none was received' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l legs -d 'Receive these legs as well, up to three, separated by commas; reports each leg, and what is left after a merge' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l json -d 'Print the report as JSON'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l late -d 'Count loss from the first datagram received instead of the first one sent'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -l per-stream -d 'Report each stream separately; implied by --groups above 1'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand recv" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand replay" -l interface -d 'Interface to send on' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand replay" -l only -d 'Send only the datagrams to this destination; may be repeated [default: all to multicast groups]' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand replay" -l to -d 'Send to this destination [default: the captured one]' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand replay" -l speed -d 'Speed, as a factor; 0 sends as fast as possible' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand replay" -l repeat -d 'Number of times that the file is sent; 0: until interrupted' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand replay" -l ttl -d 'TTL, or hop limit' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand replay" -l dscp -d 'DSCP value' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand replay" -l source-port -d 'Source port [default: any]' -r
complete -c mcrgen -n "__fish_mcrgen_using_subcommand replay" -l json -d 'Print the report as JSON'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand replay" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand help; and not __fish_seen_subcommand_from send recv replay help" -f -a "send" -d 'Send numbered, checksummed datagrams at a constant rate'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand help; and not __fish_seen_subcommand_from send recv replay help" -f -a "recv" -d 'Receive the traffic of `mcrgen send`, and report loss, duplicates, order and latency'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand help; and not __fish_seen_subcommand_from send recv replay help" -f -a "replay" -d 'Send the UDP datagrams of a capture file, at the times at which they were captured'
complete -c mcrgen -n "__fish_mcrgen_using_subcommand help; and not __fish_seen_subcommand_from send recv replay help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
