//! Manual pages, completions and the reference, written from the command lines and from the configuration's manual. Used
//! by the programs' tests, which compare the committed files.
//!
//! ```text
//! clap::Command ─▶ markdown ─┬─▶ user_docs/REFERENCE.md
//!                            └─▶ roff ─▶ packaging/man/*.{1,8}
//! user_docs/CONFIGURATION.md ──▶ roff ─▶ packaging/man/mcr.json5.5
//! clap::Command ─▶ clap_complete ─────▶ packaging/completions/*
//! ```
//!
//! `clap_mangen` is not used: it makes a page for each subcommand and no Markdown, and the roff of a Markdown text is
//! needed anyway.

mod command_line;
mod files;
mod roff;

use clap::Command;
use clap_complete::Shell;

pub use files::{Committed, REFERENCE};
pub use roff::{PageTitle, page};

/// What a program's manual says beyond its command line.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// Section of the manual: `1` or `8`.
    pub section: &'a str,
    /// Sections that follow the options, in Markdown.
    pub appendix: &'a str,
}

/// Everything that is written from a program's command line.
#[must_use]
pub fn program(mut command: Command, program: Program<'_>) -> Vec<Committed> {
    command.build();
    let name = command.get_name().to_owned();
    let reference = command_line::markdown(&command);
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let title = PageTitle { name: &name, section: program.section, about: &about };
    let manual = page(title, &format!("{reference}\n{}", program.appendix));
    let mut files = vec![
        Committed::file(format!("packaging/man/{name}.{}", program.section), manual),
        Committed::part(REFERENCE, &name, command_line::one_level_down(&reference)),
    ];
    for (shell, file) in [
        (Shell::Bash, format!("{name}.bash")),
        (Shell::Zsh, format!("_{name}")),
        (Shell::Fish, format!("{name}.fish")),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), &name, &mut script);
        let script = String::from_utf8_lossy(&script).into_owned();
        files.push(Committed::file(format!("packaging/completions/{file}"), script));
    }
    files
}
