//! Promise: `mcrctl top` shows on a real terminal what really passes, follows its keys, misses a daemon that goes, and leaves
//! the terminal as it found it.

use std::process::Command;
use std::time::Duration;

use mcr_sys::process::Signal;
use mcr_testnet::{Daemon, Generator, IoBackend, Program, Terminal, Topology, assert_accounting};

/// For everything that is waited for; the screen follows within a second or two.
const DEADLINE: Duration = Duration::from_secs(30);

const CONFIG: &str = r#"{
  rules: [
    { name: "video", input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
      outputs: [ { interface: "eth1", group: "239.2.2.2", port: 5001 } ] },
    { name: "waiting", input: { interface: "nowhere0", group: "239.1.1.1", port: 5000 },
      outputs: [ { interface: "eth1", group: "239.2.2.3", port: 5001 } ] },
  ],
}"#;

fn running() -> (Topology, Daemon) {
    let topology = Topology::sender_relay_receiver();
    let daemon = Daemon::start(&topology.relay, IoBackend::Recvmmsg, CONFIG);
    daemon.wait_until_active(1);
    (topology, daemon)
}

/// Starts `mcrctl top` in a terminal of this size, with further variables of the environment.
fn open(daemon: &Daemon, columns: u16, lines: u16, environment: &[(&str, &str)]) -> (Terminal, Program) {
    let terminal = Terminal::open(columns, lines);
    let mut command = Command::new(mcr_testnet::binary("mcrctl"));
    command.arg("--socket").arg(daemon.socket()).arg("top");
    command.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
    command.envs(environment.iter().copied());
    let program = terminal.start(&command);
    (terminal, program)
}

fn line_with<'a>(screen: &'a str, word: &str) -> Option<&'a str> {
    screen.lines().find(|line| line.split_whitespace().any(|other| other.trim_start_matches('▸') == word))
}

/// A number as the screen shows it: `998`, `1.02k`.
fn number(text: &str) -> Option<f64> {
    match text.strip_suffix('k') {
        Some(thousands) => thousands.parse::<f64>().ok().map(|value| value * 1e3),
        None => text.parse().ok(),
    }
}

/// The rate in the row of a rule.
fn rate(screen: &str, rule: &str) -> Option<f64> {
    number(line_with(screen, rule)?.split_whitespace().nth(4)?)
}

/// The count in the detail of a rule.
fn total(screen: &str) -> Option<u64> {
    let line = screen.lines().find(|line| line.trim_start().starts_with("total"))?;
    line.split_whitespace().nth(1)?.replace(',', "").parse().ok()
}

#[test]
fn the_screen_shows_what_passes_and_follows_its_keys() {
    let (topology, daemon) = running();
    let traffic = ["--interface", "eth0", "--group", "239.1.1.1", "--port", "5000", "--rate", "1000"];
    let sender = Generator::send(&topology.sender, &[&traffic[..], &["--count", "1000000"]].concat());
    let (mut terminal, mut program) = open(&daemon, 80, 24, &[]);

    terminal.wait_for("the sender's rate on the screen", DEADLINE, |screen| {
        rate(screen, "video").filter(|rate| (900.0..1100.0).contains(rate))
    });
    let screen = terminal.screen();
    let video = line_with(&screen, "video").unwrap();
    assert!(video.contains(" active ") && video.contains("eth0 239.1.1.1:5000"), "{screen}");
    assert!(line_with(&screen, "waiting").unwrap().contains(" pending "), "{screen}");
    assert!(screen.contains("2 rules, 1 active") && screen.contains("eth0 core "), "{screen}");
    assert!(terminal.has_colour());

    terminal.press("j");
    terminal.wait_for_text("waiting: ", DEADLINE);
    terminal.wait_for_text("nowhere0", DEADLINE);
    for (key, text) in [
        ("2", "eth1 239.2.2.2:5001"),
        ("3", "kernel_drops"),
        ("4", "Workers 1"),
        ("5", "10.1.0.2/24"),
        ("6", "239.1.1.1"),
        ("7", "connected to mcrd"),
        ("\t", "Rules 2"),
        ("?", "CPU use of the worker"),
        (" ", "Rules 2"),
        ("w", "rates over 10 s"),
        ("s", "by RULE"),
        ("/vid", "1 of 2 with \"vid\""),
        ("\r", "Enter open"),
        ("\r", "from counters"),
        ("e", "from listening and counters"),
        ("t", "the trace has ended"),
    ] {
        terminal.press(key);
        terminal.wait_for_text(text, DEADLINE);
    }

    let packets = || daemon.ctl_json(&["stats"])["rules"][0]["packets"].as_u64().unwrap();
    let before = packets();
    let shown =
        terminal.wait_for("a newer count", DEADLINE, |screen| total(screen).filter(|shown| *shown > before));
    assert!(shown <= packets(), "{shown} of {}", packets());
    sender.interrupt();
    let sent = sender.finish()["sent"].as_u64();
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    let relayed = stats["rules"][0]["packets"].as_u64();
    assert!(relayed > Some(before), "{relayed:?} of {sent:?}");
    terminal.wait_for("the last count", DEADLINE, |screen| (total(screen) == relayed).then_some(()));

    terminal.press("\u{1b}");
    terminal.wait_for_text("1 of 2 with", DEADLINE);
    terminal.resize(120, 40);
    terminal.wait_for_text("sent/s", DEADLINE);
    terminal.resize(30, 6);
    terminal.wait_for_text("too small", DEADLINE);
    terminal.resize(80, 24);
    terminal.wait_for_text("no datagram for 10 s", DEADLINE);
    terminal.press("q");
    assert_eq!(program.wait(&mut terminal).code(), Some(0));
    terminal.assert_as_before();
}

#[test]
fn signals_and_control_c_leave_the_terminal_as_it_was() {
    let (_topology, daemon) = running();
    for signal in [Some(Signal::TERM), Some(Signal::INT), Some(Signal::HUP), None] {
        let (mut terminal, mut program) = open(&daemon, 80, 24, &[]);
        terminal.wait_for_text("2 rules", DEADLINE);
        match signal {
            Some(signal) => program.signal(signal),
            None => terminal.press("\u{3}"),
        }
        let status = program.wait(&mut terminal);
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}");
        terminal.assert_as_before();
    }
}

#[test]
fn a_daemon_that_goes_is_missed_and_found_again() {
    let (topology, mut daemon) = running();
    let (mut terminal, mut program) = open(&daemon, 80, 24, &[]);
    terminal.wait_for_text("2 rules", DEADLINE);
    terminal.press("7");
    let socket = daemon.socket();
    // Stopped, it leaves its socket in peace; killed, it takes its connections along.
    assert!(daemon.terminate().success() && !socket.exists());
    terminal.wait_for_text("no connection for", DEADLINE);
    terminal.wait_for_text("reconnecting", DEADLINE);
    daemon.kill_and_restart(&topology.relay, |command| {
        command.env("MCRD_IO", "recvmmsg");
    });
    terminal.wait_for_text("connected again", DEADLINE);
    terminal.wait_for("the time instead of the trouble", DEADLINE, |screen| {
        (screen.contains(" UTC\n") && !screen.contains("reconnecting")).then_some(())
    });
    terminal.press("q");
    assert_eq!(program.wait(&mut terminal).code(), Some(0));
    terminal.assert_as_before();
}

#[test]
fn without_colour_or_unicode_there_is_none() {
    let (_topology, daemon) = running();
    let (mut terminal, _program) = open(&daemon, 80, 24, &[("NO_COLOR", "1"), ("LC_ALL", "C")]);
    terminal.wait_for_text("2 rules, 1 active", DEADLINE);
    assert!(!terminal.has_colour(), "{}", terminal.screen());
    let screen = terminal.screen();
    assert!(screen.is_ascii() && screen.contains(">video"), "{screen}");
}

#[test]
fn a_terminal_without_screen_gets_a_hint() {
    let (_topology, daemon) = running();
    let refused = daemon.ctl(&["top"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: `mcrctl stats --watch`"), "{}", refused.stderr);
    let (mut terminal, mut program) = open(&daemon, 80, 24, &[("TERM", "dumb")]);
    assert_eq!(program.wait(&mut terminal).code(), Some(1));
    let screen = terminal.screen();
    assert!(screen.contains("TERM=dumb") && screen.contains("hint: "), "{screen}");
    assert!(!terminal.bytes().contains(&0x1b), "{screen}");
}
