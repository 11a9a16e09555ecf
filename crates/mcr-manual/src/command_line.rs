//! A command line as Markdown.

use std::fmt::Write;

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, Command};

/// The program's description, usage, options and commands, with headings of level 2. The command has to be built.
pub(crate) fn markdown(command: &Command) -> String {
    let mut text = String::new();
    section(&mut text, "Synopsis");
    line(&mut text, &format!("`{}`", usage(command)));
    section(&mut text, "Description");
    line(&mut text, &long(command));
    section(&mut text, "Options");
    options(&mut text, command, |_| true);
    let commands = leaves(command);
    if !commands.is_empty() {
        section(&mut text, "Commands");
    }
    for command in commands {
        one_command(&mut text, command);
    }
    if let Some(after) = command.get_after_help() {
        block(&mut text, after);
    }
    text
}

/// The same text with headings one level deeper.
pub(crate) fn one_level_down(text: &str) -> String {
    let deeper = |line: &str| if line.starts_with('#') { format!("#{line}\n") } else { format!("{line}\n") };
    text.lines().map(deeper).collect()
}

fn one_command(text: &mut String, command: &Command) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    line(text, &format!("### {name}"));
    line(text, &format!("`{}`", usage(command)));
    line(text, &long(command));
    options(text, command, |argument| !argument.is_global_set());
    if let Some(after) = command.get_after_help() {
        block(text, after);
    }
}

/// Every command that can be called, without those that only group others.
fn leaves(command: &Command) -> Vec<&Command> {
    let mut found = Vec::new();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let below = leaves(sub);
        if below.is_empty() {
            found.push(sub);
        }
        found.extend(below);
    }
    found
}

fn options(text: &mut String, command: &Command, wanted: impl Fn(&Arg) -> bool) {
    let mut rows = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && argument.get_id() != "help" && wanted(argument))
        .peekable();
    if rows.peek().is_none() {
        return;
    }
    line(text, "| option | meaning |\n|---|---|");
    // A table has no empty line behind its head.
    text.pop();
    for argument in rows {
        let _ = writeln!(text, "| {} | {} |", tag(argument), meaning(argument).replace('|', "\\|"));
    }
    text.push('\n');
}

/// `--name VALUE`, `--name[=VALUE]` where the value may be left out, or `VALUE` of an argument by position.
fn tag(argument: &Arg) -> String {
    let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
    let values = argument.get_value_names().unwrap_or_default();
    let value: Vec<&str> = values.iter().map(clap::builder::Str::as_str).collect();
    let value = if value.is_empty() { argument.get_id().as_str().to_uppercase() } else { value.join(" ") };
    let mut names: Vec<String> = Vec::new();
    names.extend(argument.get_short().map(|short| format!("-{short}")));
    names.extend(argument.get_long().map(|long| format!("--{long}")));
    let may_lack_value = argument.get_num_args().is_some_and(|range| range.min_values() == 0);
    match (names.is_empty(), takes_value) {
        (true, _) => format!("`{value}`"),
        (false, true) if may_lack_value => format!("`{}[={value}]`", names.join(", ")),
        (false, true) => format!("`{} {value}`", names.join(", ")),
        (false, false) => format!("`{}`", names.join(", ")),
    }
}

fn meaning(argument: &Arg) -> String {
    let help = argument.get_help().or_else(|| argument.get_long_help());
    let mut text = help.map(ToString::to_string).unwrap_or_default().replace('\n', " ");
    if matches!(argument.get_action(), ArgAction::Set | ArgAction::Append) {
        let values: Vec<_> = argument.get_possible_values();
        let values: Vec<&str> = values.iter().filter(|v| !v.is_hide_set()).map(|v| v.get_name()).collect();
        if !values.is_empty() {
            let _ = write!(text, "; one of `{}`", values.join("`, `"));
        }
        let defaults = argument.get_default_values();
        let defaults: Vec<_> = defaults.iter().map(|value| value.to_string_lossy()).collect();
        if !defaults.is_empty() {
            let _ = write!(text, " [default: {}]", defaults.join(" "));
        }
    }
    text.trim_start_matches("; ").to_owned()
}

fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let words = usage.trim().trim_start_matches("Usage:").split_whitespace().collect::<Vec<_>>();
    words.join(" ")
}

/// The long description; a command without one has a short one.
fn long(command: &Command) -> String {
    let about = command.get_long_about().or_else(|| command.get_about());
    let text = about.map(ToString::to_string).unwrap_or_default();
    let paragraphs: Vec<String> = text.split("\n\n").map(|p| p.replace('\n', " ")).collect();
    let mut text = paragraphs.join("\n\n").trim().to_owned();
    if !text.is_empty() && !text.ends_with(['.', '?', '!']) {
        text.push('.');
    }
    text
}

fn section(text: &mut String, title: &str) {
    line(text, &format!("## {title}"));
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push_str("\n\n");
}

fn block(text: &mut String, help: &StyledStr) {
    line(text, &format!("```text\n{}\n```", help.to_string().trim_end()));
}
