//! Which tests run in the guest, as the script that it runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo;

/// Tests of network cards, by the module that they are in.
const CARDS: &str = "lab_cards::";
/// Tests that assert rates, which a guest without KVM does not reach.
const RATES: &str = "rate_";
/// The tests of the short form, some on one backend and some on the other: what a kernel decides, and cards.
const SHORT: [&str; 15] = [
    "superframes::super_frames_that_the_kernel_loses",
    "superframes::segments_that_the_sender_splits_pass_on_every_kernel::recvmmsg",
    "superframes::an_interface_without_link_header_is_an_input::uring",
    "privileges::a_worker_has_none",
    "relay::multicast_to_multicast_v6::recvmmsg",
    "lab_interfaces::vlans_are_kept_apart::uring",
    "lab_interfaces::a_bond_goes_on_with_its_other_port::recvmmsg",
    "lab_interfaces::interfaces_in_vrfs::uring",
    "lab_interfaces::an_ipvlan_in_l2_mode_is_an_input::recvmmsg",
    "lab_interfaces::a_dummy_is_output_and_local_input::uring",
    "lab_interfaces::tunnels::gre_is_input_and_output::recvmmsg",
    "lab_interfaces::tunnels::wireguard_is_input_and_output::uring",
    "lab_interfaces::paths::a_bad_network_before_the_relay::recvmmsg",
    "lab_cards::a_group_passes_the_filter_of_the_card_from_its_join::uring",
    "lab_cards::a_group_is_joined_again_after_a_carrier_flap::recvmmsg",
];
/// Longest time of one test, seconds.
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
    pub(crate) fn whole(program: &TestProgram, cards: bool, named: &[String]) -> Self {
        let (filters, skips) = match (named, cards) {
            ([], true) => (vec![CARDS.to_owned()], vec![RATES]),
            ([], false) => (Vec::new(), vec![RATES, CARDS]),
            // Whoever names a test of a rate wants to see it.
            (named, _) => (named.to_vec(), Vec::new()),
        };
        let threads = if cards { 1 } else { 3 };
        Self::new(program, cards, &filters, &skips, threads)
    }

    /// Those of the short form, or those that are named.
    pub(crate) fn short(program: &TestProgram, named: &[String]) -> Self {
        let chosen = || SHORT.iter().map(|name| (*name).to_owned()).collect();
        let filters: Vec<String> = if named.is_empty() { chosen() } else { named.to_vec() };
        Self::new(program, true, &filters, &[RATES], 2)
    }

    fn new(program: &TestProgram, cards: bool, filters: &[String], skips: &[&str], threads: usize) -> Self {
        let cards =
            if cards { "export MCR_CARDS=nic0:nic1,nic2:nic3 MCR_CARDS_CONSOLE=/dev/console\n" } else { "" };
        let skips = skips.iter().map(|skip| format!("--skip {}", quoted(skip)));
        let selection: Vec<String> = skips.chain(filters.iter().map(|filter| quoted(filter))).collect();
        let script = format!(
            "DIRECTORY={}\nPROGRAM={}\nSELECTION={}\nTHREADS={threads}\nTEST_LIMIT={TEST_LIMIT_S}\n{cards}{SCRIPT}",
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
    use super::*;

    fn program() -> TestProgram {
        TestProgram { executable: "/a b/integration".into(), directory: "/it's".into() }
    }

    /// The line of the script that starts with this.
    fn line<'a>(job: &'a Job, start: &str) -> &'a str {
        job.script.lines().find(|line| line.starts_with(start)).unwrap_or_default()
    }

    #[test]
    fn paths_are_quoted_and_rates_left_out() {
        let job = Job::whole(&program(), false, &[]);
        assert_eq!(line(&job, "DIRECTORY"), r"DIRECTORY='/it'\''s'");
        assert_eq!(line(&job, "PROGRAM"), "PROGRAM='/a b/integration'");
        assert_eq!(line(&job, "SELECTION"), r"SELECTION='--skip '\''rate_'\'' --skip '\''lab_cards::'\'''");
        assert_eq!(line(&job, "export MCR"), "");
    }

    #[test]
    fn with_cards_their_tests_run_one_after_the_other() {
        let job = Job::whole(&program(), true, &[]);
        assert_eq!(line(&job, "THREADS"), "THREADS=1");
        assert_eq!(line(&job, "SELECTION"), r"SELECTION='--skip '\''rate_'\'' '\''lab_cards::'\'''");
        assert!(line(&job, "export MCR").contains("MCR_CARDS=nic0:nic1,nic2:nic3"), "{}", job.script);
    }

    #[test]
    fn named_tests_run_whatever_they_assert() {
        let job = Job::whole(&program(), false, &["rate_x".to_owned()]);
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
        for chosen in SHORT {
            for part in chosen.split("::").filter(|part| !part.is_empty()) {
                assert!(names.iter().any(|name| name.contains(part)), "no test is named {chosen}");
            }
        }
    }
}
