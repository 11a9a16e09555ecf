//! A short soak: nearly each fault once. `cargo xtask soak` is the long one.

use std::time::Duration;

use mcr_testnet::IoBackend;
use mcr_testnet::soak::{SoakOptions, run, table};

/// Half the load of the long one, since this one shares its machine.
#[test]
fn rate_a_round_of_faults_costs_nothing_beyond_itself() {
    let report = run(&SoakOptions {
        duration: Duration::from_secs(26),
        fault_every: Duration::from_millis(1_400),
        rate_pps: 8_000,
        size_bytes: 1_400,
        seed: 7,
        io: IoBackend::Uring,
        progress: |line| println!("{line}"),
    });
    println!("{}", table(&report));
    assert_eq!(report["failures"], serde_json::json!([]), "{report:#}");
    assert!(report["faults"].as_array().is_some_and(|faults| faults.len() >= 8), "{report:#}");
}
