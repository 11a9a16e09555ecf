//! The traits of types that own one descriptor.

/// Implements [`AsFd`](std::os::fd::AsFd) by a field.
macro_rules! as_fd {
    ($owner:ident, $field:ident) => {
        impl std::os::fd::AsFd for $owner {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                std::os::fd::AsFd::as_fd(&self.$field)
            }
        }
    };
}

/// Implements `AsFd` and the conversions from and into [`OwnedFd`](std::os::fd::OwnedFd), by which a descriptor is
/// passed between processes, for a type whose only field is `fd`.
macro_rules! owned_fd {
    ($owner:ident) => {
        $crate::owned_fd::as_fd!($owner, fd);

        impl From<std::os::fd::OwnedFd> for $owner {
            fn from(fd: std::os::fd::OwnedFd) -> Self {
                Self { fd }
            }
        }

        impl From<$owner> for std::os::fd::OwnedFd {
            fn from(owner: $owner) -> Self {
                owner.fd
            }
        }
    };
}

pub(crate) use {as_fd, owned_fd};
