//! Which tests run in the guest, as the script that it runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Guest;
use super::kernel::Machine;
use crate::cargo;

/// Tests of network cards, by the module that they are in.
const CARDS: &str = "lab_cards::";
/// Tests that assert rates, which a guest without KVM does not reach.
const RATES: &str = "rate_";
/// The tests of the short form, some on one backend and some on the other: what a kernel decides.
const SHORT_IN_USER_MODE: [&str; 12] = [
    "early_drop::frames::only_datagrams_of_rules_are_dropped_and_none_of_a_socket",
    "superframes::super_frames_that_the_kernel_loses",
    "superframes::segments_that_the_sender_splits_pass_on_every_kernel::recvmmsg",
    "superframes::an_interface_without_link_header_is_an_input::uring",
    "relay::multicast_to_multicast_v6::recvmmsg",
    "lab_interfaces::vlans_are_kept_apart::uring",
    "lab_interfaces::a_bond_goes_on_with_its_other_port::recvmmsg",
    "lab_interfaces::interfaces_in_vrfs::uring",
    "lab_interfaces::an_ipvlan_in_l2_mode_is_an_input::recvmmsg",
    "lab_interfaces::a_dummy_is_output_and_local_input::uring",
    "lab_interfaces::tunnels::gre_is_input_and_output::recvmmsg",
    "lab_interfaces::paths::a_bad_network_before_the_relay::recvmmsg",
];
/// Cards, and what the kernels in user mode lack.
const SHORT_IN_QEMU: [&str; 2] = [
    "privileges::a_worker_has_none::uring",
    "lab_cards::a_group_passes_the_filter_of_the_card_from_its_join::uring",
];
/// How many times longer the tests' deadlines are.
const PATIENCE_IN_USER_MODE: u32 = 3;
const PATIENCE_IN_QEMU: u32 = 5;
/// Longest time of one test, seconds, and how many times longer it is on a machine that is busy otherwise (`MCR_PATIENCE`).
const TEST_LIMIT_S: u32 = 240;
/// Runs the tests, each in a process of its own.
const SCRIPT: &str = include_str!("tests.sh");

/// The integration tests' program.
pub(crate) struct TestProgram {
    executable: PathBuf,
    /// The directory of their package, where they run.
    directory: PathBuf,
}

impl TestProgram {
    /// Builds it; with the whole workspace's features, so that nothing is built that `cargo xtask test` has not built.
    pub(crate) fn build() -> Result<Self> {
        let arguments = ["test", "--workspace", "--no-run", "--test", "integration"];
        eprintln!("cargo {}", arguments.join(" "));
        let output = cargo::cargo()
            .args(arguments)
            .args(["--message-format", "json-render-diagnostics"])
            .stderr(std::process::Stdio::inherit())
            .output()
            .context("start cargo")?;
        if !output.status.success() {
            bail!("the integration tests could not be built ({})", output.status);
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|message| {
                let is_it =
                    message["target"]["name"] == "integration" && message["target"]["kind"][0] == "test";
                let executable = message["executable"].as_str().filter(|_| is_it)?;
                let directory = Path::new(message["manifest_path"].as_str()?).parent()?;
                Some(Self { executable: executable.into(), directory: directory.into() })
            })
            .context("cargo named no executable of the integration tests")
    }
}

/// What a guest runs.
pub(crate) struct Job {
    pub(crate) script: String,
}

impl Job {
    /// All tests but those of cards, or those of cards only; or those that are named.
    pub(crate) fn whole(program: &TestProgram, guest: &Guest, named: &[String]) -> Self {
        let cards = guest.card.is_some();
        let (filters, skips) = match (named, cards) {
            ([], true) => (vec![CARDS.to_owned()], vec![RATES]),
            ([], false) => (Vec::new(), vec![RATES, CARDS]),
            // Whoever names a test of a rate wants to see it.
            (named, _) => (named.to_vec(), Vec::new()),
        };
        // Most tests wait most of the time.
        let threads = match (guest.machine, guest.card) {
            (Machine::UserMode, _) => 3,
            (Machine::Qemu, None) => 3,
            (Machine::Qemu, Some(_)) => 1,
        };
        Self::new(program, guest, &filters, &skips, threads)
    }

    /// Those of the short form, or those that are named.
    pub(crate) fn short(program: &TestProgram, guest: &Guest, named: &[String]) -> Self {
        let cards = guest.card.is_some();
        let short: &[&str] = if cards { &SHORT_IN_QEMU } else { &SHORT_IN_USER_MODE };
        let chosen = || short.iter().map(|name| (*name).to_owned()).collect();
        let filters: Vec<String> = if named.is_empty() { chosen() } else { named.to_vec() };
        // Cards are for one test at a time.
        Self::new(program, guest, &filters, &[RATES], if cards { 1 } else { 2 })
    }

    fn new(program: &TestProgram, guest: &Guest, filters: &[String], skips: &[&str], threads: usize) -> Self {
        let patience = match guest.machine {
            Machine::UserMode => PATIENCE_IN_USER_MODE,
            Machine::Qemu => PATIENCE_IN_QEMU,
        } * mcr_testnet::patience();
        let limit_s = TEST_LIMIT_S * mcr_testnet::patience();
        let cards = if guest.card.is_some() {
            "export MCR_CARDS=nic0:nic1,nic2:nic3 MCR_CARDS_CONSOLE=/dev/console\n"
        } else {
            ""
        };
        let skips = skips.iter().map(|skip| format!("--skip {}", quoted(skip)));
        let selection: Vec<String> = skips.chain(filters.iter().map(|filter| quoted(filter))).collect();
        let script = format!(
            "DIRECTORY={}\nPROGRAM={}\nSELECTION={}\nTHREADS={threads}\nTEST_LIMIT={limit_s}\n\
             export MCR_PATIENCE={patience}\n{cards}{SCRIPT}",
            quoted(&program.directory.to_string_lossy()),
            quoted(&program.executable.to_string_lossy()),
            quoted(&selection.join(" ")),
        );
        Self { script }
    }
}

/// A word of a shell's command line (sh(1)).
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::super::Model;
    use super::super::kernel::Kernel;
    use super::*;

    fn program() -> TestProgram {
        TestProgram { executable: "/a b/integration".into(), directory: "/it's".into() }
    }

    fn guest(card: Option<Model>) -> Guest {
        let limit = std::time::Duration::from_mins(1);
        Guest { kernel: Kernel::V6_1, machine: Machine::Qemu, card, cores: 1, limit, shares_output: false }
    }

    /// The line of the script that starts with this.
    fn line<'a>(job: &'a Job, start: &str) -> &'a str {
        job.script.lines().find(|line| line.starts_with(start)).unwrap_or_default()
    }

    #[test]
    fn paths_are_quoted_and_rates_left_out() {
        let job = Job::whole(&program(), &guest(None), &[]);
        assert_eq!(line(&job, "DIRECTORY"), r"DIRECTORY='/it'\''s'");
        assert_eq!(line(&job, "PROGRAM"), "PROGRAM='/a b/integration'");
        assert_eq!(line(&job, "SELECTION"), r"SELECTION='--skip '\''rate_'\'' --skip '\''lab_cards::'\'''");
        assert_eq!(line(&job, "export MCR_CARDS"), "");
    }

    #[test]
    fn with_cards_their_tests_run_one_after_the_other() {
        let job = Job::whole(&program(), &guest(Some(Model::E1000e)), &[]);
        assert_eq!(line(&job, "THREADS"), "THREADS=1");
        assert_eq!(line(&job, "SELECTION"), r"SELECTION='--skip '\''rate_'\'' '\''lab_cards::'\'''");
        assert!(line(&job, "export MCR_CARDS").contains("MCR_CARDS=nic0:nic1,nic2:nic3"), "{}", job.script);
    }

    #[test]
    fn named_tests_run_whatever_they_assert() {
        let job = Job::whole(&program(), &guest(None), &["rate_x".to_owned()]);
        assert_eq!(line(&job, "SELECTION"), r"SELECTION=''\''rate_x'\'''");
    }

    #[test]
    fn each_name_of_the_short_form_is_that_of_a_test() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/integration");
        let sources = std::process::Command::new("grep")
            .args(["-rhoE", "(fn|mod) [a-z0-9_]+", directory])
            .output()
            .unwrap();
        let sources = String::from_utf8(sources.stdout).unwrap();
        let names: Vec<&str> = sources.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        for chosen in SHORT_IN_USER_MODE.iter().chain(&SHORT_IN_QEMU) {
            for part in chosen.split("::").filter(|part| !part.is_empty()) {
                assert!(names.iter().any(|name| name.contains(part)), "no test is named {chosen}");
            }
        }
    }
}
