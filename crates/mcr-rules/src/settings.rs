//! The settings of the daemon. Each is declared once, in `settings!` below, from which the file's reader and writer, the checks,
//! the suggestions, and the table in the manual are generated.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::limits::{
    MAX_FLOW_SILENCE_S, MAX_LATENCY_BUDGET_US, MAX_ORPHAN_TIMEOUT_S, MAX_RING_BUFFERS,
    MAX_SOCKET_BUFFER_BYTES, MAX_WORKER_GRACE_S, MIN_RING_BUFFERS, MIN_SOCKET_BUFFER_BYTES,
};

named! {
    /// How a worker receives and sends.
    #[derive(Default)]
    pub enum IoChoice {
        /// `io_uring` where the kernel permits it, else `recvmmsg`.
        #[default]
        Auto = "auto",
        /// `io_uring`; a worker falls back to `recvmmsg`, and says so, where it is denied.
        IoUring = "io_uring",
        /// `recvmmsg` and `sendmmsg`.
        Recvmmsg = "recvmmsg",
    }
}

named! {
    /// Whether workers, keeper and observers are confined to the system calls that they need.
    #[derive(Default)]
    pub enum SandboxChoice {
        /// With every layer that the kernel has.
        #[default]
        Auto = "auto",
        /// With every layer; a worker does not start without one.
        On = "on",
        /// They only drop their privileges.
        Off = "off",
    }
}

named! {
    /// Whether interfaces merge received datagrams into super-frames.
    #[derive(Default)]
    pub enum AggregateChoice {
        /// Where it pays.
        #[default]
        Auto = "auto",
        /// On every input interface.
        On = "on",
        /// The setting of the interfaces is not changed.
        Off = "off",
    }
}

named! {
    /// Whether what the relay takes is dropped early.
    #[derive(Default)]
    pub enum EarlyDropChoice {
        /// Where the daemon may do it, and nobody else takes what arrives.
        #[default]
        Auto = "auto",
        /// Never.
        Off = "off",
    }
}

named! {
    /// What relays the datagrams of a rule.
    #[derive(Default)]
    pub enum EngineChoice {
        /// A worker.
        #[default]
        Worker = "worker",
        /// The kernel, where it can and where that is less work; otherwise a worker.
        Auto = "auto",
        /// The kernel, where it can; otherwise a worker.
        Kernel = "kernel",
    }
}

/// Conversions of a choice and its index.
macro_rules! choice_number {
    ($choice:ty) => {
        impl From<$choice> for u32 {
            fn from(choice: $choice) -> Self {
                choice as Self
            }
        }

        impl TryFrom<u32> for $choice {
            type Error = ();

            fn try_from(number: u32) -> Result<Self, ()> {
                Self::ALL.into_iter().find(|choice| u32::from(*choice) == number).ok_or(())
            }
        }
    };
}

choice_number!(EarlyDropChoice);
choice_number!(EngineChoice);
choice_number!(IoChoice);
choice_number!(SandboxChoice);
choice_number!(AggregateChoice);

/// The permitted values of a setting.
pub(crate) enum Form {
    /// One of these words; the number is its index.
    Words(&'static [&'static str]),
    /// A number in this range.
    Number(RangeInclusive<u32>),
    /// A power of two in this range.
    PowerOfTwo(RangeInclusive<u32>),
}

/// One setting.
pub(crate) struct Setting {
    /// The key in the file.
    pub(crate) name: &'static str,
    /// The sentence of the manual, in Markdown.
    #[cfg(test)]
    pub(crate) meaning: &'static str,
    pub(crate) form: Form,
    /// The value as a number.
    pub(crate) get: fn(&Settings) -> u32,
    /// Sets a number that `form` permits.
    pub(crate) set: fn(&mut Settings, u32),
}

/// `/// meaning`, `name: type = default, form;` for each setting makes [`Settings`] and [`Settings::TABLE`].
macro_rules! settings {
    ($($(#[doc = $meaning:literal])+ $name:ident: $type:ty = $default:expr, $form:expr;)+) => {
        /// Settings of the whole daemon.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Settings {
            $($(#[doc = $meaning])+ pub $name: $type,)+
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Settings {
            /// Every setting, in the order of the manual.
            pub(crate) const TABLE: &[Setting] = &[$(Setting {
                name: stringify!($name),
                #[cfg(test)]
                meaning: concat!($($meaning),+),
                form: $form,
                get: |settings| settings.$name.into(),
                set: |settings, number| settings.$name = number.try_into().unwrap_or(settings.$name),
            },)+];
        }
    };
}

settings! {
    /// how workers receive and send; `"auto"`: `io_uring`, or `recvmmsg` where it is denied. The environment variable
    /// `MCRD_IO` of `mcrd` overrides it
    io: IoChoice = IoChoice::Auto, Form::Words(&IoChoice::NAMES);
    /// the system calls, ring operations and files that workers, keeper and observers are limited to; `"auto"`: every layer of
    /// it that the kernel has, and `workers` and `doctor` say which; `"on"`: a worker does not start if a layer is missing;
    /// `"off"`: none. The keeper keeps what it was started with
    sandbox: SandboxChoice = SandboxChoice::Auto, Form::Words(&SandboxChoice::NAMES);
    /// the mark (`SO_MARK`, socket(7)) of everything that outputs send, by which firewall rules can tell it; `0`: none. While a
    /// rule has a local input, bit 28 (`0x10000000`) is set as well
    egress_mark: u32 = 0, Form::Number(0..=u32::MAX);
    /// whether input interfaces merge received datagrams of a flow into super-frames (GRO with `rx-udp-gro-forwarding`), which a
    /// worker relays at a fraction of the cost; `"auto"`: above 20,000 datagrams/s, where at least two come together;
    /// `"on"`: always; `"off"`: `mcrd` does not change the interfaces. Needs CAP_NET_ADMIN and Linux 6.2; what an operator sets
    /// on an interface stays
    aggregate: AggregateChoice = AggregateChoice::Auto, Form::Words(&AggregateChoice::NAMES);
    /// spares the host's IP input what the relay takes: a program at the interfaces' ingress drops it behind the capture, unless a
    /// socket of this host receives it; `"auto"`: where `mcrd` has CAP_BPF and CAP_NET_ADMIN, and nothing but sockets takes what
    /// arrives there (`interfaces` says whether and why); `"off"`: never
    early_drop: EarlyDropChoice = EarlyDropChoice::Auto, Form::Words(&EarlyDropChoice::NAMES);
    /// what relays the rules that do not say; `"worker"`: a worker; `"kernel"`: a program at the interfaces' ingress, as far as
    /// it can (`list` says whether and why not), otherwise a worker; `"auto"`: the same, but a worker for rules with more than
    /// three outputs whose datagrams do not come merged. Needs CAP_BPF, CAP_NET_ADMIN and Linux 5.19
    engine: EngineChoice = EngineChoice::Worker, Form::Words(&EngineChoice::NAMES);
    /// seconds after which a worker without rules exits, unless its interface is pinned
    worker_grace_s: u32 = 10, Form::Number(0..=MAX_WORKER_GRACE_S);
    /// the receive buffer of a capture socket; see below
    receive_buffer_bytes: u32 = 16 * 1024 * 1024, Form::Number(MIN_SOCKET_BUFFER_BYTES..=MAX_SOCKET_BUFFER_BYTES);
    /// the send buffer of an egress socket
    send_buffer_bytes: u32 = 4 * 1024 * 1024, Form::Number(MIN_SOCKET_BUFFER_BYTES..=MAX_SOCKET_BUFFER_BYTES);
    /// a worker's receive buffers
    ring_buffers: u16 = 256, Form::PowerOfTwo(MIN_RING_BUFFERS as u32..=MAX_RING_BUFFERS as u32);
    /// maximum delay in microseconds by which a worker may coalesce datagrams, to save CPU above some thousand datagrams/s. A
    /// datagram after a pause longer than this is not delayed. `0`: no coalescing
    latency_budget_us: u32 = 50, Form::Number(0..=MAX_LATENCY_BUDGET_US);
    /// seconds without a datagram after which a flow counts as stopped. A rule that is ready, whose groups are joined, and
    /// that receives nothing for this time is silent: an event, a line in the log, the metric `mcr_rule_silent` and the alert
    /// `McrRuleSilent`
    flow_silence_s: u32 = 10, Form::Number(1..=MAX_FLOW_SILENCE_S);
    /// seconds that workers continue to relay without a supervisor, after `mcrd` crashed; then they exit
    orphan_timeout_s: u32 = 600, Form::Number(1..=MAX_ORPHAN_TIMEOUT_S);
}

impl Setting {
    /// The permitted numbers; for words, their indices.
    pub(crate) fn range(&self) -> RangeInclusive<u32> {
        match &self.form {
            Form::Words(words) => 0..=u32::try_from(words.len()).unwrap_or(u32::MAX).saturating_sub(1),
            Form::Number(range) | Form::PowerOfTwo(range) => range.clone(),
        }
    }

    /// The value as the file has it.
    pub(crate) fn literal(&self, settings: &Settings) -> String {
        let number = (self.get)(settings);
        match &self.form {
            Form::Words(words) => {
                words.get(number as usize).map(|word| format!("{word:?}")).unwrap_or_default()
            }
            Form::Number(_) | Form::PowerOfTwo(_) => number.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_and_display_use_the_same_words_for_io() {
        for choice in IoChoice::ALL {
            assert_eq!(serde_json::to_value(choice).unwrap(), choice.to_string());
        }
    }

    #[test]
    fn every_setting_is_set_and_read_by_its_own_entry() {
        for setting in Settings::TABLE {
            let mut settings = Settings::default();
            assert!(setting.range().contains(&(setting.get)(&settings)), "{}", setting.name);
            let other = *setting.range().end();
            (setting.set)(&mut settings, other);
            assert_eq!((setting.get)(&settings), other, "{}", setting.name);
            let json = serde_json::to_value(&settings).unwrap();
            let before = serde_json::to_value(Settings::default()).unwrap();
            for (key, value) in before.as_object().unwrap() {
                assert_eq!(json[key] != *value, key == setting.name, "{key} after {}", setting.name);
            }
        }
    }
}
