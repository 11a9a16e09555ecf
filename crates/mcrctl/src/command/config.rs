//! `show`, `check`, `diff`, `load`, `save`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use mcr_control::client::ClientError;
use mcr_control::method::parameter::{AbsolutePath, Ranged};
use mcr_control::method::{Confirm, DiffConfig, GetConfig, ListRules, LoadConfig, SaveConfig};
use mcr_rules::file::{self, ConfigError, MAX_FILE_BYTES};
use serde::Serialize;

use super::rules::not_relaying;
use super::{Daemon, Outcome, print_notices, resolve_altnames};
use crate::arguments::LoadArguments;
use crate::failure::{CommandFailure, printable};
use crate::render;
use crate::screen::Screen;

pub(super) fn show(daemon: &Daemon, screen: &Screen) -> Outcome {
    let mut client = daemon.connect()?;
    let reply = client.call(&GetConfig {})?;
    print_notices(screen, &client.status()?);
    if !screen.json {
        let end = if reply.config.ends_with('\n') { "" } else { "\n" };
        return screen.show(&(), || reply.config + end);
    }
    // JSON is JSON5 as well, so `load` takes this too.
    let config =
        file::parse(&reply.config).map_err(|errors| CommandFailure::config("mcrd's config", &errors))?;
    screen.show(&config, String::new)
}

/// The result of `check --json`.
#[derive(Serialize)]
struct Checked<'a> {
    rules: usize,
    errors: Vec<CheckedError<'a>>,
}

#[derive(Serialize)]
struct CheckedError<'a> {
    file: &'a str,
    line: Option<u32>,
    column: Option<u32>,
    path: &'a str,
    message: &'a str,
    hint: Option<&'a str>,
}

pub(super) fn check(daemon: &Daemon, screen: &Screen, path: &Path) -> Outcome {
    let (name, text) = read(path)?;
    let parsed = file::parse(&text).map_err(|mut errors| {
        resolve_altnames(daemon, &mut errors);
        errors
    });
    match parsed {
        Ok(config) => {
            let rules = config.rules.len();
            screen.show(&Checked { rules, errors: Vec::new() }, || {
                format!("{name}: valid, {rules} {}\n", if rules == 1 { "rule" } else { "rules" })
            })
        }
        Err(errors) => {
            if screen.json {
                let errors = errors.iter().map(|error| checked_error(&name, error)).collect();
                screen.show(&Checked { rules: 0, errors }, String::new)?;
            }
            Err(CommandFailure::config(&name, &errors))
        }
    }
}

fn checked_error<'a>(file: &'a str, error: &'a ConfigError) -> CheckedError<'a> {
    CheckedError {
        file,
        line: error.location.map(|location| location.line),
        column: error.location.map(|location| location.column),
        path: &error.path,
        message: &error.message,
        hint: error.hint.as_deref(),
    }
}

pub(super) fn diff(daemon: &Daemon, screen: &Screen, path: Option<&Path>) -> Outcome {
    let given = path.map(read).transpose()?;
    let (name, text) = given.map_or((None, None), |(name, text)| (Some(name), Some(text)));
    let reply = daemon
        .connect()?
        .call(&DiffConfig { config: text.map(Into::into) })
        .map_err(about(name.as_deref()))?;
    screen.show(&reply.diff, || render::diff(&reply.diff))
}

/// Number of rules and outputs that are not active which `load` names.
const MAX_NOTICES: usize = 8;

pub(super) fn load(daemon: &Daemon, screen: &Screen, arguments: &LoadArguments) -> Outcome {
    let LoadArguments { replace, dry_run, confirm, file } = arguments;
    let (name, config) = read(file)?;
    let method = LoadConfig {
        config: config.into(),
        replace: Some(*replace),
        dry_run: Some(*dry_run),
        confirm_s: confirm.map(Ranged::clamp),
    };
    let mut client = daemon.connect()?;
    let reply = client.call(&method).map_err(about(Some(&name)))?;
    if !screen.json {
        screen.say(match (reply.diff.is_empty(), reply.applied) {
            (true, _) => "the running config already matches the file",
            (false, true) => "the running config has changed:",
            (false, false) => "the running config would change:",
        });
    }
    screen.show(&reply, || if reply.diff.is_empty() { String::new() } else { render::diff(&reply.diff) })?;
    if let Some(seconds) = reply.confirm_within_s {
        screen.say(format_args!(
            "the previous config is restored in {seconds} s unless `mcrctl confirm` is run"
        ));
    }
    if reply.applied {
        let rules = client.call(&ListRules {})?.rules;
        let waiting: Vec<String> = rules.iter().flat_map(not_relaying).collect();
        for what in waiting.iter().take(MAX_NOTICES) {
            screen.say(format_args!("notice: {}", printable(what)));
        }
        if let more @ 1.. = waiting.len().saturating_sub(MAX_NOTICES) {
            screen.say(format_args!("notice: {more} more; `mcrctl list` shows all"));
        }
    }
    Ok(())
}

pub(super) fn confirm(daemon: &Daemon, screen: &Screen, revert: bool) -> Outcome {
    daemon.connect()?.call(&Confirm { revert: Some(revert) })?;
    if !screen.json {
        screen.say(if revert { "the previous config is restored" } else { "the loaded config is confirmed" });
    }
    screen.show(&serde_json::json!({ "kept": !revert }), String::new)
}

pub(super) fn save(daemon: &Daemon, screen: &Screen, path: Option<&Path>) -> Outcome {
    let path = path.map(absolute).transpose()?;
    let reply = daemon.connect()?.call(&SaveConfig { path })?;
    if let Some(backup) = &reply.backup {
        screen.say(format_args!("the previous file had comments; it is kept as {backup}"));
    }
    screen.show(&reply, || format!("{}\n", reply.path))
}

/// The daemon works in another directory.
pub(super) fn absolute(path: &Path) -> Result<AbsolutePath, CommandFailure> {
    let absolute = std::path::absolute(path).map_err(|error| CommandFailure::file("name", path, &error))?;
    AbsolutePath::try_from(absolute).map_err(CommandFailure::new)
}

fn about(file: Option<&str>) -> impl FnOnce(ClientError) -> CommandFailure {
    let file = file.map(str::to_owned);
    move |error| CommandFailure::client(error, file.as_deref())
}

/// A file's name for messages, and its text.
fn read(path: &Path) -> Result<(String, String), CommandFailure> {
    let mut bytes = Vec::new();
    // One byte more than is permitted, so that a longer file is seen to be too long when it is parsed.
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let (name, done) = if path.as_os_str() == "-" {
        ("<stdin>".to_owned(), io::stdin().lock().take(limit).read_to_end(&mut bytes))
    } else {
        let done = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
        (path.display().to_string(), done)
    };
    done.map_err(|error| CommandFailure::file("read", path, &error))?;
    let text = file::decode(bytes).map_err(|errors| CommandFailure::config(&name, &errors))?;
    Ok((name, text))
}
