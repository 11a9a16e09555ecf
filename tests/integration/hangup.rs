//! Commands that follow end when the reader of their output goes away: a hung-up terminal, a closed pipe.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use mcr_sys::poll::wait_readable;
use mcr_sys::process::Signal;
use mcr_testnet::{Daemon, IoBackend, Terminal, Topology, binary, wait_for};

use crate::scenario::send;

/// For what has to happen first.
const DEADLINE: Duration = Duration::from_secs(20);
/// The promise is 1 s; a loaded machine gets more. A command that spins or blocks never ends.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// With a part of what each shows.
const FOLLOWING: [(&[&str], &str); 4] = [
    (&["top"], "mcrctl top"),
    (&["events", "--text"], "239.1.1.9"),
    (&["stats", "--watch"], "quiet"),
    (&["trace", "show", "--follow", "quiet"], "received"),
];

fn running() -> (Topology, Daemon) {
    let topology = Topology::sender_relay_receiver();
    let config = r#"{ rules: [ { name: "quiet", input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
        outputs: [ { interface: "eth1", group: "239.2.2.2", port: 5001 } ] } ] }"#;
    let daemon = Daemon::start(&topology.relay, IoBackend::Recvmmsg, config);
    daemon.wait_until_active(1);
    assert_eq!(daemon.ctl(&["trace", "enable", "quiet"]).code, 0);
    (topology, daemon)
}

fn command(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("mcrctl"));
    command.arg("--socket").arg(daemon.socket()).args(arguments);
    command.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
    command
}

/// Makes something to show: an event, a trace record.
fn stir(topology: &Topology, daemon: &Daemon) {
    let add = "add --name stir --input-interface eth0 --input-group 239.1.1.9 --input-port 5000 --outputs 239.2.2.9:5001:eth1";
    assert_eq!(daemon.ctl(&add.split(' ').collect::<Vec<_>>()).code, 0);
    assert_eq!(daemon.ctl(&["remove", "--name", "stir"]).code, 0);
    let sent = send(&topology.sender, "eth0", "239.1.1.1", "--count 1").finish();
    assert_eq!(sent["sent"], 1, "{sent}");
}

#[test]
fn a_following_command_ends_with_its_terminal_also_without_sighup() {
    let (topology, daemon) = running();
    for (arguments, first) in FOLLOWING {
        for with_sighup in [true, false] {
            let mut terminal = Terminal::open(100, 30);
            let command = command(&daemon, arguments);
            let mut program =
                if with_sighup { terminal.start(&command) } else { terminal.start_detached(&command) };
            wait_for("its first output", DEADLINE, || {
                stir(&topology, &daemon);
                let screen = terminal.screen();
                if screen.contains(first) { Ok(()) } else { Err(screen) }
            });
            terminal.hang_up();
            program.wait_after_hangup(END_DEADLINE);
        }
    }
}

/// A daemon in a shell that is closed keeps the rules that were not saved; SIGHUP from somebody else is a reload.
#[test]
fn a_daemon_whose_terminal_goes_keeps_its_rules() {
    let topology = Topology::sender_relay_receiver();
    // Programs of a terminal are in the namespace of the thread that starts them.
    topology.relay.run(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let [socket, config] = ["mcrd.sock", "mcr.json5"].map(|name| directory.path().join(name));
        std::fs::write(&config, "{}").expect("write a file");
        let mut command = Command::new(binary("mcrd"));
        command.arg("--socket").arg(&socket).arg("--config").arg(&config);
        let terminal = Terminal::open(100, 30);
        let mut daemon = terminal.start(&command);
        let ctl = |line: &str| {
            let mut ctl = Command::new(binary("mcrctl"));
            let output = ctl.arg("--socket").arg(&socket).args(line.split(' ')).output();
            let output = output.expect("start mcrctl");
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let has_rule = || ctl("list").1.contains("239.1.1.1");
        let add =
            "add --input-interface eth0 --input-group 239.1.1.1 --input-port 5000 --outputs 239.2.2.2:5001:eth1";
        wait_for("the daemon to take a rule", DEADLINE, || if ctl(add).0 { Ok(()) } else { Err("not yet") });
        daemon.signal(Signal::HUP);
        wait_for("the reload", DEADLINE, || if has_rule() { Err("the rule is there") } else { Ok(()) });
        assert!(ctl(add).0);
        terminal.hang_up();
        // The signal comes before the requests of these clients.
        assert!(has_rule() && has_rule(), "after the terminal has gone");
        daemon.signal(Signal::TERM);
        daemon.wait_after_hangup(DEADLINE);
    });
}

#[test]
fn a_following_command_ends_quietly_with_the_reader_of_its_pipe() {
    let (topology, daemon) = running();
    for (arguments, _) in &FOLLOWING[1..] {
        let mut child = command(&daemon, arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start mcrctl");
        let stdout = child.stdout.take().expect("a pipe");
        wait_for("its first output", DEADLINE, || {
            stir(&topology, &daemon);
            match wait_readable([stdout.as_fd()], Some(Duration::from_millis(100))) {
                Ok([true]) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        drop(stdout);
        let status = wait_for("the end of a command", END_DEADLINE, || {
            child.try_wait().expect("wait for mcrctl").ok_or("it runs")
        });
        let mut told = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut told).expect("text");
        assert_eq!((status.code(), told.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
