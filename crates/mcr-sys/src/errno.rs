//! Numbers of errors (errno(3)) that completions and counters carry, for crates without libc.

pub use libc::{
    EACCES, EADDRNOTAVAIL, EAGAIN, ECONNREFUSED, EHOSTUNREACH, EINVAL, EIO, EMSGSIZE, ENETDOWN, ENETUNREACH,
    ENOBUFS, ENODEV, ENXIO, EOPNOTSUPP, EPERM,
};
