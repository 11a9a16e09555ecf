//! `cargo xtask bpf`: compiles the programs for the kernel, and writes their instructions into `mcr-sys`.

mod object;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::object::Object;

/// All sources, hashed in this order.
const SOURCES: [&str; 6] =
    ["bpf/early_drop.c", "bpf/capture.c", "bpf/ingress.c", "bpf/packet.h", "bpf/relay.h", "bpf/kernel.h"];
/// What is written.
const GENERATED: &str = "crates/mcr-sys/src/bpf/generated.rs";
/// The programs: constant, source, name in the kernel, section.
const PROGRAMS: [(&str, &str, &str, &str); 3] = [
    ("EARLY_DROP", "bpf/early_drop.c", "mcr_early_drop", "tc"),
    ("CAPTURE", "bpf/capture.c", "mcr_capture", "socket"),
    ("INGRESS", "bpf/ingress.c", "mcr_ingress", "tc"),
];
/// The maps of the programs, and their names in `MapName`.
const MAPS: [(&str, &str); 11] = [
    ("destinations", "Destinations"),
    ("control", "Control"),
    ("counts", "Counts"),
    ("accepted", "Accepted"),
    ("addresses", "Addresses"),
    ("relays", "Relays"),
    ("outputs", "Outputs"),
    ("places", "Places"),
    ("engine", "Engine"),
    ("decisions", "Decisions"),
    ("counters", "Counters"),
];
/// The compiler, whose instructions are the reference: that of Debian 12.
const COMPILER: &str = "clang";
const COMPILER_VERSION: &str = "clang version 14.";
/// Instructions per line.
const PER_LINE: usize = 5;

/// Options of `cargo xtask bpf`.
#[derive(Debug, Args)]
pub(crate) struct Bpf {
    /// Compare with what is written, and write nothing
    #[arg(long)]
    check: bool,
}

impl Bpf {
    pub(crate) fn run(&self) -> Result<()> {
        let text = generate()?;
        if !self.check {
            return std::fs::write(GENERATED, text).with_context(|| format!("write {GENERATED}"));
        }
        let present = std::fs::read_to_string(GENERATED).with_context(|| format!("read {GENERATED}"))?;
        ensure!(present == text, "{GENERATED} is not what {COMPILER} makes of bpf/: run `cargo xtask bpf`");
        eprintln!("{GENERATED} is what {COMPILER} makes of bpf/");
        Ok(())
    }
}

/// Returns the object file. Without `-g`: the instructions would be the same, but the object would depend on the directory.
fn compile(source: &str) -> Result<Vec<u8>> {
    let hint = "apt-get install clang (Debian 12, version 14)";
    let version = Command::new(COMPILER).arg("--version").output().context(hint)?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let first = version.lines().next().unwrap_or_default();
    ensure!(
        version.contains(COMPILER_VERSION),
        "{first:?} may make other instructions than {COMPILER_VERSION}x: {hint}"
    );
    let options =
        ["-O2", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-c", source, "-o", "-"];
    let output = Command::new(COMPILER).args(options).output().context("start clang")?;
    if !output.status.success() {
        bail!("clang: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

fn source_hash() -> Result<u64> {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for source in SOURCES {
        hasher.update(&std::fs::read(Path::new(source)).with_context(|| format!("read {source}"))?);
    }
    Ok(hasher.digest())
}

fn generate() -> Result<String> {
    let mut text = format!(
        "//! Written by `cargo xtask bpf` from `bpf/`. Do not edit.\n\n#[rustfmt::skip]\nuse super::MapName::{{{}}};\n\
         use super::{{Code, Kind, MapName}};\n\n\
         /// xxh3 of the sources, by which a test finds that they were changed without compiling them.\n\
         #[cfg(test)]\npub(super) const SOURCE_HASH: u64 = {:#018x};\n",
        sorted(MAPS.map(|(_, name)| name)).join(", "),
        source_hash()?,
    );
    for (constant, source, name, section) in PROGRAMS {
        let object = compile(source)?;
        let object = Object::parse(&object).context("the object file is not what clang makes for BPF")?;
        let (instructions, uses) = object.program(section)?;
        let kind = if section == "tc" { "Tc" } else { "SocketFilter" };
        write!(
            text,
            "\n/// `{source}`.\n#[rustfmt::skip]\npub(super) const {constant}: Code<MapName> = Code {{\n    name: \"{name}\",\n    \
             kind: Kind::{kind},\n    instructions: &[\n"
        )?;
        for line in instructions.chunks(PER_LINE) {
            let words: Vec<String> = line.iter().map(|word| format!("{word:#018x}")).collect();
            writeln!(text, "        {},", words.join(", "))?;
        }
        text.push_str("    ],\n    uses: &[");
        let uses: Vec<String> = uses.iter().map(|(at, symbol)| use_of(*at, symbol)).collect::<Result<_>>()?;
        writeln!(text, "{}],\n}};", uses.join(", "))?;
    }
    Ok(text)
}

fn use_of(at: usize, symbol: &str) -> Result<String> {
    let known = MAPS.iter().find(|(map, _)| *map == symbol);
    known.map(|(_, name)| format!("({at}, {name})")).with_context(|| format!("unknown map {symbol}"))
}

fn sorted<const N: usize>(mut names: [&str; N]) -> [&str; N] {
    names.sort_unstable();
    names
}
