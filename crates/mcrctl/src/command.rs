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
use mcr_control::method::parameter::RuleFilter;
use mcr_control::method::{GetStats, ListFlows, ListInterfaces, ListMemberships, ListWorkers, Method};
use mcr_control::reply::{InterfaceStatus, StatusReply};
use mcr_control::socket_path::client_socket;
use mcr_rules::file::ConfigError;

use self::explain::{explain, select};
use crate::arguments::{Arguments, Command};
use crate::failure::{CommandFailure, printable};
use crate::screen::Screen;
use crate::{explanation, render};

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
        Command::Check { file } => config::check(&daemon, screen, &file),
        Command::Diff { file } => config::diff(&daemon, screen, file.as_deref()),
        Command::Load(load) => config::load(&daemon, screen, &load),
        Command::Confirm { revert } => config::confirm(&daemon, screen, revert),
        Command::Save { file } => config::save(&daemon, screen, file.as_deref()),
        Command::Stats { watch: false } => daemon.show(screen, &GetStats {}, render::stats),
        Command::Stats { watch: true } => observe::watch_stats(&daemon, screen),
        Command::Flows { rule } => {
            let rule = RuleFilter(rule.as_deref().map(select).transpose()?);
            daemon.show(screen, &ListFlows { rule }, render::flows)
        }
        Command::Explain { rule, listen } => {
            explain(&daemon, screen, select(&rule)?.into(), listen.listen, explanation::rules)
        }
        Command::Doctor { listen } => {
            explain(&daemon, screen, RuleFilter::default(), listen.listen, explanation::doctor)
        }
        Command::Top => top::top(daemon, screen),
        Command::Events { text } => observe::events(&daemon, screen, text),
        Command::Exporter { listen } => service::exporter(&daemon, screen, &listen),
        Command::Trace { action } => trace::run(&daemon, screen, action),
        Command::Workers => daemon.show(screen, &ListWorkers {}, render::workers),
        Command::Memberships => daemon.show(screen, &ListMemberships {}, render::memberships),
        Command::Interfaces => daemon.show(screen, &ListInterfaces {}, render::interfaces),
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

    /// Calls a method, and shows its reply as JSON or as `text`.
    fn show<M: Method>(
        &self,
        screen: &Screen,
        method: &M,
        text: impl FnOnce(&M::Reply) -> String,
    ) -> Outcome {
        let reply = self.connect()?.call(method)?;
        screen.show(&reply, || text(&reply))
    }

    /// Returns the interfaces, to find out what an altname means: none if the daemon can't be asked.
    fn interfaces(&self) -> Vec<InterfaceStatus> {
        let reply = self.connect().and_then(|mut client| Ok(client.call(&ListInterfaces {})?));
        reply.map_or_else(|_| Vec::new(), |reply| reply.interfaces)
    }

    fn connect_unchecked(&self) -> Result<Client, CommandFailure> {
        Ok(Client::connect(&self.socket, self.timeout)?)
    }
}

/// Names the interfaces that are meant by names that are too long for one.
fn resolve_altnames(daemon: &Daemon, errors: &mut [ConfigError]) {
    if errors.iter().all(|error| error.long_name.is_none()) {
        return;
    }
    let interfaces = daemon.interfaces();
    for error in errors {
        error.resolve_altname(|name| {
            let named = interfaces.iter().find(|one| one.altnames.iter().any(|altname| altname == name));
            named.map(|one| one.name.clone())
        });
    }
}

/// Prints what the operator should know, beside the data.
fn print_notices(screen: &Screen, status: &StatusReply) {
    status.notices.iter().for_each(|notice| screen.say(format_args!("notice: {}", printable(notice))));
}

#[expect(clippy::disallowed_methods, reason = "the environment of the program")]
fn default_socket() -> PathBuf {
    // The owner of this directory is the effective user of the process (proc(5)).
    let uid = std::fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid());
    let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
    client_socket(uid, runtime_dir.as_deref().map(Path::new), Path::exists)
}
