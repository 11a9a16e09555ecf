//! Maps: memory that a program and this process share, as keys and values.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::call::{Argument, Command, address, bpf, descriptor, object_name};
use crate::Result;

/// `enum bpf_map_type`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum Kind {
    Hash = 1,
    Array = 2,
    /// A value per possible CPU.
    HashPerCpu = 5,
    /// The same.
    ArrayPerCpu = 6,
}

/// The values can be mapped into the memory of processes. Only for arrays.
pub(super) const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Entries take memory when they are added. Only for hashes whose entries programs do not add.
const BPF_F_NO_PREALLOC: u32 = 1;

/// Where a key or a value is.
pub(super) type Bytes<const N: usize> = [u8; N];

#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
}

#[repr(C)]
struct Access {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct InfoOf {
    fd: u32,
    info_bytes: u32,
    info: u64,
}

/// The beginning of `struct bpf_map_info`.
#[derive(Debug, Default)]
#[repr(C)]
struct Info {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// Its size.
const INFO_BYTES: u32 = 24;

// SAFETY: the layout of `BPF_OBJ_GET_INFO_BY_FD`; `adopt` passes a pointer to `info_bytes` bytes.
unsafe impl Argument for InfoOf {}
// SAFETY: the layout of `BPF_MAP_CREATE`, without pointers.
unsafe impl Argument for Create {}
// SAFETY: the layout of the `BPF_MAP_*_ELEM` commands; `Map` passes pointers to arrays of the map's sizes.
unsafe impl Argument for Access {}

/// A map with keys of `K` and values of `V` bytes.
#[derive(Debug)]
pub(super) struct Map<const K: usize, const V: usize> {
    fd: OwnedFd,
    /// Values of one entry: 1, or one per possible CPU.
    values: usize,
}

impl<const K: usize, const V: usize> Map<K, V> {
    pub(super) fn create(kind: Kind, name: &str, max_entries: u32) -> Result<Self> {
        Self::create_with(kind, name, max_entries, 0)
    }

    /// The same, with flags beside those of its kind.
    pub(super) fn create_with(kind: Kind, name: &str, max_entries: u32, more_flags: u32) -> Result<Self> {
        let (flags, values) = match kind {
            Kind::Array => (0, 1),
            Kind::ArrayPerCpu => (0, possible_cpus()?),
            Kind::Hash => (BPF_F_NO_PREALLOC, 1),
            Kind::HashPerCpu => (BPF_F_NO_PREALLOC, possible_cpus()?),
        };
        let [key_size, value_size] = [K, V].map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        let mut create = Create {
            kind: kind as u32,
            key_size,
            value_size,
            max_entries,
            flags: flags | more_flags,
            inner_map: 0,
            numa_node: 0,
            name: object_name(name),
            ifindex: 0,
        };
        let fd = descriptor("create a BPF map", Command::MapCreate, &mut create)?;
        // The kernel rounds the values of CPUs up.
        assert!(V.is_multiple_of(8) || values == 1, "values of CPUs are multiples of 8 bytes");
        Ok(Self { fd, values })
    }

    /// A map, not one per CPU, that another process has created.
    ///
    /// # Errors
    /// It is another one.
    pub(super) fn adopt(fd: OwnedFd, kind: Kind, max_entries: u32) -> Result<Self> {
        const STEP: &str = "adopt a BPF map";
        let mut info = Info::default();
        let mut argument = InfoOf {
            fd: fd.as_raw_fd().cast_unsigned(),
            info_bytes: INFO_BYTES,
            info: address(&raw mut info),
        };
        bpf(STEP, Command::ObjectInfo, &mut argument)?;
        let [key_size, value_size] = [K, V].map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        if (info.kind, info.key_size, info.value_size, info.max_entries)
            != (kind as u32, key_size, value_size, max_entries)
        {
            return Err(crate::SysError::invalid(STEP, format!("it is another one: {info:?}")));
        }
        Ok(Self { fd, values: 1 })
    }

    fn access(&self, step: &'static str, command: Command, key: u64, value: u64) -> Result<()> {
        let map = self.fd.as_raw_fd().cast_unsigned();
        bpf(step, command, &mut Access { map, padding: 0, key, value, flags: 0 }).map(drop)
    }

    /// Sets a value; of a map per CPU: the first CPU's, the others are 0.
    pub(super) fn insert(&self, key: &Bytes<K>, value: &Bytes<V>) -> Result<()> {
        let mut values = vec![[0; V]; self.values];
        values.iter_mut().take(1).for_each(|first| *first = *value);
        let (key, value) = (address(key.as_ptr()), address(values.as_ptr()));
        self.access("add to a BPF map", Command::MapUpdate, key, value)
    }

    /// Removes an entry, if there is one.
    pub(super) fn remove(&self, key: &Bytes<K>) -> Result<()> {
        match self.access("remove from a BPF map", Command::MapDelete, address(key.as_ptr()), 0) {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// The values of an entry, one per CPU; `None` if there is no entry.
    pub(super) fn get(&self, key: &Bytes<K>) -> Result<Option<Vec<Bytes<V>>>> {
        let mut values = vec![[0; V]; self.values];
        let value = address(values.as_mut_ptr());
        match self.access("read a BPF map", Command::MapLookup, address(key.as_ptr()), value) {
            Ok(()) => Ok(Some(values)),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All keys. Complete only while nobody removes one.
    pub(super) fn keys(&self) -> Result<Vec<Bytes<K>>> {
        let mut keys: Vec<Bytes<K>> = Vec::new();
        loop {
            let before = keys.last().map_or(0, |key| address(key.as_ptr()));
            let mut next = [0; K];
            match self.access("list a BPF map", Command::MapNextKey, before, address(next.as_mut_ptr())) {
                Ok(()) => keys.push(next),
                Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(keys),
                Err(error) => return Err(error),
            }
        }
    }
}

impl<const K: usize, const V: usize> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The CPUs that the kernel may ever have: the number of values per entry.
pub(super) fn possible_cpus() -> Result<usize> {
    const STEP: &str = "read /sys/devices/system/cpu/possible";
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").map_err(crate::failed(STEP))?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| crate::SysError::invalid(STEP, text))
}
