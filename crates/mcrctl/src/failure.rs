//! Error messages, hints and exit codes of commands.

use std::fmt;
use std::io;
use std::path::Path;

use mcr_control::client::ClientError;
use mcr_control::message::CallError;
use mcr_rules::file::ConfigError;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct CommandFailure {
    exit_code: u8,
    lines: Vec<String>,
    hints: Vec<String>,
}

/// The request failed.
const FAILED: u8 = 1;
/// The command line is wrong, as clap has it.
const USAGE: u8 = 2;
/// The daemon can't be reached.
const UNREACHABLE: u8 = 3;

impl CommandFailure {
    /// A failed request with its cause.
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self { exit_code: FAILED, lines: vec![format!("error: {message}")], hints: Vec::new() }
    }

    /// A wrong command line.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { exit_code: USAGE, ..Self::new(message) }
    }

    /// A step on a file that failed.
    pub(crate) fn file(step: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(format_args!("can't {step} {}: {error}", path.display()))
    }

    /// A config with errors: `file:line:column: path: message`, all at once, each with its hint below it.
    pub(crate) fn config(file: &str, errors: &[ConfigError]) -> Self {
        let mut failure = Self { exit_code: FAILED, lines: Vec::new(), hints: Vec::new() };
        for error in errors {
            failure.lines.push(config_error_line(file, error));
            failure.lines.extend(error.hint.iter().map(|hint| format!("  hint: {hint}")));
        }
        failure
    }

    /// A refusal by the daemon, or a failed call. `file` names the config that a refusal is about.
    pub(crate) fn client(error: ClientError, file: Option<&str>) -> Self {
        match error {
            ClientError::Refused(CallError::Failure(refusal)) => {
                let mut failure = match refusal.errors.as_slice() {
                    [] => Self::new(&refusal.message),
                    errors => Self::config(file.unwrap_or_default(), errors),
                };
                failure.hints.extend(refusal.hint);
                failure
            }
            ClientError::Refused(CallError::MethodNotFound { .. }) => {
                Self::new(&error).hint("mcrd is older than this mcrctl; restart it after an upgrade")
            }
            error if error.is_unreachable() => {
                let hint = unreachable_hint(&error);
                Self { exit_code: UNREACHABLE, ..Self::new(&error).hint(hint) }
            }
            error => Self::new(&error),
        }
    }

    /// Adds a hint on what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The program's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl From<ClientError> for CommandFailure {
    fn from(error: ClientError) -> Self {
        Self::client(error, None)
    }
}

fn unreachable_hint(error: &ClientError) -> &'static str {
    match error {
        ClientError::Unreachable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            "run it as root or as a member of group \"mcr\""
        }
        ClientError::Unreachable { .. } => {
            "check that mcrd is running (`systemctl status mcrd`), or give its socket with --socket PATH"
        }
        ClientError::TimedOut(_) => "mcrd may be overloaded; --timeout SECONDS waits longer",
        _ => "mcrd may have exited; see its log",
    }
}

fn config_error_line(file: &str, error: &ConfigError) -> String {
    match (file, error.location) {
        ("", _) => format!("error: {error}"),
        (_, Some(_)) => format!("{file}:{error}"),
        (_, None) => format!("{file}: {error}"),
    }
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{}", printable(line)))?;
        self.hints.iter().try_for_each(|hint| writeln!(f, "hint: {}", printable(hint)))
    }
}

/// Escapes control characters, so that text from elsewhere can't control the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let escaped = character.is_control().then(|| character.escape_default());
            let plain = (!character.is_control()).then_some(character);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mcr_control::failure::{Failure, FailureKind};
    use mcr_rules::file::Location;

    use super::*;

    #[test]
    fn config_errors_are_reported_all_at_once_each_with_its_hint() {
        let error = |line, path: &str, hint: Option<&str>| ConfigError {
            location: Some(Location { line, column: 7 }),
            path: path.to_owned(),
            message: "no".to_owned(),
            hint: hint.map(str::to_owned),
            long_name: None,
        };
        let errors = [error(1, "rules[0].name", Some("try this")), error(2, "", None)];
        let failure = CommandFailure::config("a.json5", &errors);
        assert_eq!(
            failure.to_string(),
            "a.json5:1:7: rules[0].name: no\n  hint: try this\na.json5:2:7: no\n"
        );
        assert_eq!(failure.exit_code(), 1);
    }

    #[test]
    fn exit_codes_tell_refusal_from_absence() {
        let refused = Failure::new(FailureKind::RuleNotFound, "no such rule").with_hint("look");
        let failure = CommandFailure::from(ClientError::Refused(refused.into()));
        assert_eq!(failure.exit_code(), 1);
        assert!(failure.to_string().starts_with("error: no such rule\nhint: "), "{failure}");
        let failure = CommandFailure::from(ClientError::TimedOut(Duration::from_secs(1)));
        assert_eq!(failure.exit_code(), 3);
        assert!(failure.to_string().contains("hint: "), "{failure}");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{9b}é"), "a\\u{1b}[2Jb\\n\\u{9b}é");
        assert_eq!(CommandFailure::new("x\ny").to_string(), "error: x\\ny\n");
    }
}
