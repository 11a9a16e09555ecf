//! What a system call filter decides: a small interpreter of the filter machine (seccomp(2)), which shares nothing with the
//! generator of the product.

/// The decision about one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs.
    Allow,
    /// It fails with this errno.
    Errno(i32),
    /// The process is killed.
    Kill,
    /// Another action, or the program is invalid.
    Other(u32),
}

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// The decision about a call of this architecture.
#[must_use]
pub fn verdict(program: &[libc::sock_filter], number: u32, arguments: [u64; 6]) -> Verdict {
    verdict_on(program, NATIVE, number, arguments)
}

/// The decision about a call of this architecture (`AUDIT_ARCH_*`).
#[must_use]
pub fn verdict_on(
    program: &[libc::sock_filter],
    architecture: u32,
    number: u32,
    arguments: [u64; 6],
) -> Verdict {
    // `struct seccomp_data`: number, architecture, instruction pointer, six arguments.
    let mut data = Vec::with_capacity(64);
    data.extend(number.to_ne_bytes());
    data.extend(architecture.to_ne_bytes());
    data.extend(0_u64.to_ne_bytes());
    arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    while let Some(instruction) = program.get(at) {
        let libc::sock_filter { code, jt, jf, k } = *instruction;
        at += 1;
        let jump = |yes: bool| usize::from(if yes { jt } else { jf });
        match code {
            0x20 => {
                let word = data.get(k as usize..).and_then(|rest| rest.first_chunk());
                let Some(word) = word else { return Verdict::Other(k) };
                accumulator = u32::from_ne_bytes(*word);
            }
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x45 => at += jump(accumulator & k != 0),
            0x06 => return action(k),
            _ => return Verdict::Other(u32::from(code)),
        }
    }
    Verdict::Other(u32::MAX)
}

/// Whether some arguments exist with which the program allows a call: every branch on an argument is followed both ways.
#[must_use]
pub fn can_pass(program: &[libc::sock_filter], number: u32) -> bool {
    passes_from(program, number, 0, None)
}

fn passes_from(
    program: &[libc::sock_filter],
    number: u32,
    mut at: usize,
    mut accumulator: Option<u32>,
) -> bool {
    while let Some(libc::sock_filter { code, jt, jf, k }) = program.get(at).copied() {
        at += 1;
        let holds = match code {
            0x20 => {
                accumulator = match k {
                    0 => Some(number),
                    4 => Some(NATIVE),
                    _ => None,
                };
                continue;
            }
            0x06 => return action(k) == Verdict::Allow,
            0x05 => {
                at += k as usize;
                continue;
            }
            0x15 => accumulator.map(|value| value == k),
            0x25 => accumulator.map(|value| value > k),
            0x35 => accumulator.map(|value| value >= k),
            0x45 => accumulator.map(|value| value & k != 0),
            _ => return true,
        };
        match holds {
            Some(holds) => at += usize::from(if holds { jt } else { jf }),
            None => {
                return [jt, jf]
                    .into_iter()
                    .any(|jump| passes_from(program, number, at + usize::from(jump), accumulator));
            }
        }
    }
    false
}

fn action(value: u32) -> Verdict {
    match value & 0xffff_0000 {
        libc::SECCOMP_RET_ALLOW => Verdict::Allow,
        libc::SECCOMP_RET_KILL_PROCESS => Verdict::Kill,
        libc::SECCOMP_RET_ERRNO => Verdict::Errno(i32::try_from(value & 0xffff).unwrap_or_default()),
        _ => Verdict::Other(value),
    }
}
