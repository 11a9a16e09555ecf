//! Numbers of errors (errno(3)) that completions and counters carry, for crates without libc.

pub use libc::{
    EACCES, EADDRINUSE, EADDRNOTAVAIL, EAGAIN, ECONNREFUSED, EHOSTUNREACH, EINVAL, EIO, EMSGSIZE, ENETDOWN,
    ENETUNREACH, ENOBUFS, ENODEV, ENOENT, ENXIO, EOPNOTSUPP, EPERM, ETOOMANYREFS,
};
