complete -c mcrd -l config -d 'Startup file; without this option /etc/mcr/mcr.json5, which may be missing' -r -F
complete -c mcrd -l last-good -d 'Start from the copy of the startup file that loaded last if the startup file can\'t be used, and keep that copy in FILE; without FILE in $STATE_DIRECTORY or /var/lib/mcr, as last-good.json5' -r -F
complete -c mcrd -l socket -d 'Control socket; default /run/mcr/mcrd.sock, or $XDG_RUNTIME_DIR/mcr/mcrd.sock for a user\'s own daemon' -r -F
complete -c mcrd -l log -d 'What to log: LEVEL[,FACILITY=LEVEL]... (off, error, warn, info, debug, trace; config, control, network, membership, workers, dataplane)' -r
complete -c mcrd -l log-format -d 'How log lines look' -r -f -a "text\t''
json\t''"
complete -c mcrd -l observers -d 'Members of this group may read (not change) through the control socket' -r
complete -c mcrd -l check -d 'Check the startup file, print everything that is wrong with it, and end'
complete -c mcrd -s h -l help -d 'Print help'
complete -c mcrd -s V -l version -d 'Print version'
