//! End-to-end tests: real daemons and real traffic between network namespaces, one file per promise.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests panic on errors, and print")]

/// Makes two tests of each function: `name::uring` and `name::recvmmsg`, for what must hold on both I/O backends.
macro_rules! on_both_backends {
    ($($(#[$attribute:meta])* fn $name:ident($io:ident) $body:block)+) => {$(
        $(#[$attribute])*
        mod $name {
            use super::*;

            fn body($io: mcr_testnet::IoBackend) $body

            #[test]
            fn uring() {
                body(mcr_testnet::IoBackend::Uring);
            }

            #[test]
            fn recvmmsg() {
                body(mcr_testnet::IoBackend::Recvmmsg);
            }
        }
    )+};
}

mod adoption;
mod aggregation;
mod backends;
mod broadcast;
mod capture;
mod commands;
mod config_errors;
mod control_socket;
mod cores;
mod early_drop;
mod events;
mod explain;
mod exporter;
mod flows;
mod fragments;
mod guide;
mod hangup;
mod hostile_frames;
mod hostile_load;
mod inputs;
mod interface_names;
mod kernel_engine;
mod lab_cards;
mod lab_interfaces;
mod lacking;
mod latency;
mod lifecycle;
mod loops;
mod many_streams;
mod mdns;
mod memberships;
mod merge;
mod network_changes;
mod origin;
mod overload;
mod ports;
mod privileges;
mod promises;
mod rate;
mod relay;
mod safe_changes;
#[cfg(target_arch = "x86_64")]
mod sandbox;
mod scale;
mod scarcity;
mod scenario;
mod settings;
mod soak;
mod socket_abuse;
mod stream_health;
mod superframes;
mod supervisor_resilience;
mod top;
mod trace;
mod unread_log;
mod upgrade;
mod varlink_client;
mod wall_clock;
mod wire_fields;
mod worker_health;
