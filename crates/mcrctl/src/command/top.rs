//! `top`: checks the terminal and its capabilities.

use std::env;
use std::io::{self, IsTerminal};
use std::time::Duration;

use super::{Daemon, Outcome};
use crate::failure::CommandFailure;
use crate::screen::Screen;
use crate::top;

/// Longest timeout of a reply; after it, the connection is shown as lost and retried.
const LONGEST_ANSWER: Duration = Duration::from_secs(5);

pub(super) fn top(daemon: Daemon, screen: &Screen) -> Outcome {
    if screen.json {
        let hint = "`mcrctl --json stats --watch` prints the counters each second";
        return Err(CommandFailure::new("top has no JSON output").hint(hint));
    }
    refuse(io::stdin().is_terminal(), io::stdout().is_terminal(), &variable("TERM"))?;
    // Fails like any other command without permission or daemon.
    let client = daemon.connect()?;
    let options = top::Options {
        socket: daemon.socket,
        timeout: daemon.timeout.min(LONGEST_ANSWER),
        // https://no-color.org: present and not empty.
        colour: variable("NO_COLOR").is_empty(),
        unicode: speaks_unicode([variable("LC_ALL"), variable("LC_CTYPE"), variable("LANG")]),
    };
    top::run(options, client)
        .map_err(|error| CommandFailure::new(format_args!("the terminal failed: {error}")))
}

/// Returns an error if there is no suitable terminal.
fn refuse(stdin: bool, stdout: bool, term: &str) -> Outcome {
    const HINT: &str = "`mcrctl stats --watch` shows the counters without a terminal";
    if !stdin || !stdout {
        let which = if stdout { "stdin" } else { "stdout" };
        return Err(
            CommandFailure::new(format_args!("top needs a terminal, and {which} is not one")).hint(HINT)
        );
    }
    if term == "dumb" {
        return Err(CommandFailure::new("top can't draw on this terminal (TERM=dumb)").hint(HINT));
    }
    Ok(())
}

/// Whether the locale's characters are UTF-8; the first variable that is set decides (locale(7)).
fn speaks_unicode(variables: [String; 3]) -> bool {
    let locale = variables.into_iter().find(|value| !value.is_empty()).unwrap_or_default().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[expect(clippy::disallowed_methods, reason = "the environment of the program")]
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_the_hint_names_an_alternative() {
        for (stdin, stdout, term, word) in [
            (true, false, "xterm", "stdout"),
            (false, true, "xterm", "stdin"),
            (true, true, "dumb", "TERM=dumb"),
        ] {
            let failure = refuse(stdin, stdout, term).unwrap_err();
            assert_eq!(failure.exit_code(), 1);
            let text = failure.to_string();
            assert!(text.contains(word) && text.contains("hint: `mcrctl stats --watch`"), "{text}");
        }
        assert!(refuse(true, true, "").is_ok());
    }

    #[test]
    fn the_first_variable_of_the_locale_decides() {
        let unicode = |variables: [&str; 3]| speaks_unicode(variables.map(str::to_owned));
        assert!(unicode(["", "", "C.UTF-8"]));
        assert!(unicode(["", "en_GB.utf8", "C"]));
        assert!(!unicode(["C", "", "de_DE.UTF-8"]));
        assert!(!unicode(["", "", ""]));
    }
}
