complete -c mcrd -l config -d 'Startup file [default: /etc/mcr/mcr.json5 if it exists]' -r -F
complete -c mcrd -l last-good -d 'Keep a copy of the startup file that was last loaded successfully, and start from it if the startup file has errors [default FILE: last-good.json5 in $STATE_DIRECTORY or /var/lib/mcr]' -r -F
complete -c mcrd -l socket -d 'Control socket [default: /run/mcr/mcrd.sock as root, else $XDG_RUNTIME_DIR/mcr/mcrd.sock]' -r -F
complete -c mcrd -l log -d 'Log levels: LEVEL[,FACILITY=LEVEL]... (levels: off, error, warn, info, debug, trace; facilities: config, control, network, membership, workers, dataplane)' -r
complete -c mcrd -l log-format -d 'Format of log lines' -r -f -a "text\t''
json\t''"
complete -c mcrd -l observers -d 'Group whose members have read-only access to the control socket' -r
complete -c mcrd -l check -d 'Check the startup file, report every error in it, and exit'
complete -c mcrd -s h -l help -d 'Print help'
complete -c mcrd -s V -l version -d 'Print version'
