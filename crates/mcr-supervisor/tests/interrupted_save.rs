//! Promise R30: a save that is killed, or whose system calls fail, at any point leaves the old file or the new one.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests panic on errors, and print")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const OLD: &str = "{ // the studio\n  rules: [] }\n";
const NEW: &str = r#"{ rules: [ { input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
    outputs: [ { interface: "eth1", group: "239.2.2.2", port: 5001 } ] } ] }"#;

/// A file to save over, the config to save, and the program that does it.
struct Place {
    directory: TempDir,
    saved: String,
}

/// Cargo puts examples beside the directory of the tests.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/save_config");
    assert!(path.is_file(), "{} is missing: run `cargo build --examples`", path.display());
    path
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("from.json5"), NEW).unwrap();
        fs::create_dir(directory.path().join("etc")).unwrap();
        let place = Self { directory, saved: String::new() };
        let output = place.command("").output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        let saved = fs::read_to_string(place.file()).unwrap();
        place.reset();
        Self { saved, ..place }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("etc/mcr.json5")
    }

    /// The old file is there, and what an interrupted save left stays.
    fn reset(&self) {
        fs::write(self.file(), OLD).unwrap();
    }

    /// The save, behind a prefix of words.
    fn command(&self, prefix: &str) -> Command {
        let mut words: Vec<String> = prefix.split_whitespace().map(str::to_owned).collect();
        let paths = [program(), self.path("from.json5"), self.file()];
        words.extend(paths.map(|path| path.to_str().unwrap().to_owned()));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command
    }

    fn assert_old_or_new(&self, when: &str) -> bool {
        let now = fs::read_to_string(self.file()).unwrap_or_else(|error| panic!("{when}: {error}"));
        assert!(now == OLD || now == self.saved, "{when}: {now:?}");
        let mut names: Vec<String> = fs::read_dir(self.path("etc"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let known = ["mcr.json5", "mcr.json5.bak", "mcr.json5.bak.tmp", "mcr.json5.tmp"];
        assert!(names.iter().all(|name| known.contains(&name.as_str())), "{when}: files pile up: {names:?}");
        if let Ok(backup) = fs::read_to_string(self.path("etc/mcr.json5.bak")) {
            assert_eq!(backup, OLD, "{when}: the backup");
        }
        now == self.saved
    }
}

fn told(output: &Output) -> String {
    format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr))
}

fn has(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let works = status.is_ok_and(|status| status.success());
    if !works {
        println!("skipped: {program} is missing or may not be used here");
    }
    works
}

/// A system call of the save: its name, and the how manieth of this name it is since the program started.
struct Call {
    name: String,
    number: usize,
}

/// The save's system calls, and the one after the last.
fn calls(place: &Place, trace: &Path) -> Vec<Call> {
    let output = place.command(&format!("strace -o {}", trace.display())).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let text = fs::read_to_string(trace).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains('(')).collect();
    let begin = lines.iter().position(|line| line.contains("/save-begins")).expect("the mark");
    let names: Vec<&str> = lines.iter().map(|line| line.split('(').next().unwrap()).collect();
    let end = names.iter().rposition(|name| *name == "close").expect("the directory is closed") + 1;
    place.reset();
    let call = |n: usize| Call {
        name: names[n].to_owned(),
        number: names[..=n].iter().filter(|name| **name == names[n]).count(),
    };
    (begin + 1..=end).map(call).collect()
}

/// The save under strace, which does something at one call.
fn tampered(place: &Place, call: &Call, what: &str) -> Output {
    let Call { name, number } = call;
    let log = place.path("strace");
    let prefix = format!("strace -o {} -e inject={name}:{what}:when={number}", log.display());
    let output = place.command(&prefix).output().unwrap();
    let log = fs::read_to_string(log).unwrap();
    let done = log.contains("(INJECTED)") || log.contains("+++ killed by SIGKILL +++");
    assert!(done, "{what} at {name} {number} did not happen:\n{log}");
    output
}

#[test]
fn a_save_killed_at_each_system_call_leaves_the_old_file_or_the_new_one() {
    if !has("strace", &["-o", "/dev/null", "true"]) {
        return;
    }
    let place = Place::new();
    let calls = calls(&place, &place.path("trace"));
    for needed in ["rename", "fsync", "write"] {
        let count = calls.iter().filter(|call| call.name.starts_with(needed)).count();
        assert!(count >= 2, "{needed} for the file and for the backup");
    }
    let mut new = 0;
    for call in &calls {
        place.reset();
        let output = tampered(&place, call, "signal=KILL");
        assert!(!output.status.success(), "{}", told(&output));
        new += usize::from(place.assert_old_or_new(&format!("killed at {} {}", call.name, call.number)));
    }
    println!("killed at {} system calls; the new file was there after {new} of them", calls.len());
    assert!(new > 0 && new < calls.len(), "the new file was there {new} of {} times", calls.len());
    // What they left does not stand in the way of the next.
    let output = place.command("").output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(place.assert_old_or_new("at the end"));
    assert!(!place.path("etc/mcr.json5.tmp").exists() && !place.path("etc/mcr.json5.bak.tmp").exists());
}

#[test]
fn a_save_each_of_whose_system_calls_fails_leaves_the_old_file_or_the_new_one_and_reports_it() {
    if !has("strace", &["-o", "/dev/null", "true"]) {
        return;
    }
    let place = Place::new();
    for call in &calls(&place, &place.path("trace")) {
        for error in ["EIO", "ENOSPC"] {
            place.reset();
            let output = tampered(&place, call, &format!("error={error}"));
            let when = format!("{error} at {} {}", call.name, call.number);
            let is_new = place.assert_old_or_new(&when);
            assert!(output.status.code().is_some(), "{when}: {}", told(&output));
            if output.status.success() {
                assert!(is_new, "{when}: it says that it saved");
            } else {
                assert!(told(&output).contains("can't "), "{when}: {}", told(&output));
            }
            let needed = ["write", "fsync", "rename"].contains(&call.name.as_str());
            assert!(!needed || !output.status.success(), "{when}: it goes on in silence");
        }
    }
}

/// Runs the save after a command of the shell, in a mount namespace of its own.
fn save_with_mounts(place: &Place, mounts: &str) -> Option<Output> {
    if !has("unshare", &["--user", "--map-root-user", "--mount", "true"]) {
        return None;
    }
    let etc = place.path("etc");
    let script = format!("cd {} && {mounts} && exec \"$@\"", etc.parent().unwrap().display());
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    let save = place.command("");
    command.arg(save.get_program()).args(save.get_args());
    Some(command.output().unwrap())
}

#[test]
fn a_full_disk_is_an_error_with_a_hint_and_the_file_is_the_old_one() {
    let place = Place::new();
    let mounts = "mount -t tmpfs -o size=16k tmpfs etc && echo old > etc/mcr.json5 && \
                  { cat /dev/zero > etc/full 2>/dev/null; true; } && trap 'cat etc/mcr.json5; ls etc' EXIT && \"$@\"; exit $?; true";
    let Some(output) = save_with_mounts(&place, mounts) else { return };
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(
        told(&output).contains("No space left") && told(&output).contains("hint: make room in"),
        "{}",
        told(&output)
    );
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(seen.lines().next(), Some("old"), "{seen}");
    assert!(!seen.contains(".tmp"), "{seen}");
}

#[test]
fn a_read_only_directory_is_an_error_with_a_hint_and_the_file_is_the_old_one() {
    let place = Place::new();
    let Some(output) = save_with_mounts(&place, "mount --bind etc etc && mount -o remount,bind,ro etc")
    else {
        return;
    };
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(
        told(&output).contains("Read-only") && told(&output).contains("hint: mcrd must be able to write"),
        "{}",
        told(&output)
    );
    assert!(!place.assert_old_or_new("read-only"));
}
