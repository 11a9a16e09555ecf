//! What each command does: call the daemon, show the reply.

mod config;
mod explain;
mod observe;
mod rules;
mod service;
mod top;
mod trace;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mcr_control::client::Client;
use mcr_control::reply::StatusReply;
use mcr_control::socket_path::client_socket;

use self::config::Load;
use crate::arguments::{Arguments, Command};
use crate::failure::{CommandFailure, printable};
use crate::screen::Screen;

type Outcome = Result<(), CommandFailure>;

/// Runs the command.
pub(crate) fn run(arguments: Arguments, screen: &mut Screen) -> Outcome {
    let daemon =
        Daemon { socket: arguments.socket.unwrap_or_else(default_socket), timeout: arguments.timeout };
    match arguments.command {
        Command::Add(add) => rules::add(&daemon, screen, add),
        Command::Remove(remove) => rules::remove(&daemon, screen, remove),
        Command::List => rules::list(&daemon, screen),
        Command::Show => config::show(&daemon, screen),
        Command::Check { file } => config::check(screen, &file),
        Command::Diff { file } => config::diff(&daemon, screen, file.as_deref()),
        Command::Load { replace, dry_run, confirm, file } => {
            config::load(&daemon, screen, &file, &Load { replace, dry_run, confirm_s: confirm })
        }
        Command::Confirm { revert } => config::confirm(&daemon, screen, revert),
        Command::Save { file } => config::save(&daemon, screen, file.as_deref()),
        Command::Stats { watch: false } => observe::stats(&daemon, screen),
        Command::Stats { watch: true } => observe::watch_stats(&daemon, screen),
        Command::Flows { rule } => observe::flows(&daemon, screen, rule.as_deref()),
        Command::Explain { rule, listen } => explain::rule(&daemon, screen, &rule, listen.listen),
        Command::Doctor { listen } => explain::doctor(&daemon, screen, listen.listen),
        Command::Top => top::top(daemon, screen),
        Command::Events { text } => observe::events(&daemon, screen, text),
        Command::Exporter { listen } => service::exporter(&daemon, screen, &listen),
        Command::Trace { action } => trace::run(&daemon, screen, action),
        Command::Workers => observe::workers(&daemon, screen),
        Command::Memberships => observe::memberships(&daemon, screen),
        Command::Interfaces => observe::interfaces(&daemon, screen),
        Command::LogLevel { action } => service::log_level(&daemon, screen, action),
        Command::Upgrade { binary } => service::upgrade(&daemon, screen, binary.as_deref()),
        Command::Ping => service::ping(&daemon, screen),
        Command::Version => service::version(&daemon, screen),
        Command::Completions { shell } => service::completions(screen, shell),
    }
}

/// How to reach the daemon.
struct Daemon {
    socket: PathBuf,
    timeout: std::time::Duration,
}

impl Daemon {
    /// Connects, and makes sure that the two understand each other.
    fn connect(&self) -> Result<Client, CommandFailure> {
        let mut client = self.connect_unchecked()?;
        client.version()?;
        Ok(client)
    }

    fn connect_unchecked(&self) -> Result<Client, CommandFailure> {
        Ok(Client::connect(&self.socket, self.timeout)?)
    }
}

/// Prints what the operator should know, beside the data.
fn print_notices(screen: &Screen, status: &StatusReply) {
    status.notices.iter().for_each(|notice| screen.say(format_args!("notice: {}", printable(notice))));
}

#[expect(clippy::disallowed_methods, reason = "the program's own environment")]
fn default_socket() -> PathBuf {
    // The owner of this directory is the effective user of the process (proc(5)).
    let uid = std::fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid());
    let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
    client_socket(uid, runtime_dir.as_deref().map(Path::new), Path::exists)
}
