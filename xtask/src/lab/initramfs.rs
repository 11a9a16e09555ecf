//! The guest's first file system: `init.sh`, busybox, and the modules that it takes to mount the rest.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::job::{Job, quoted};
use super::kernel::{Machine, busybox};
use super::{Guest, Model};

const INIT: &str = include_str!("init.sh");
/// Modules without which the host's root can't be mounted; a kernel may have some of them built in.
const FIRST: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// Mounts the host's root.
const fn root(machine: Machine) -> &'static str {
    match machine {
        Machine::UserMode => "-t hostfs -o ro none",
        Machine::Qemu => "-t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro root",
    }
}
const DIRECTORIES: [&str; 11] =
    ["bin", "sbin", "modules", "lib", "lib/modules", "proc", "sys", "dev", "lower", "upper", "root"];
/// A program, a directory (stat(2): `S_IFREG`, `S_IFDIR`, with permissions).
const FILE: u32 = 0o100_755;
const DIRECTORY: u32 = 0o040_755;

/// Writes the archive for a guest and its job.
pub(crate) fn write(to: &mut std::fs::File, guest: &Guest, job: &Job) -> Result<()> {
    let Guest { kernel, machine, card, .. } = *guest;
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.add(directory, DIRECTORY, &[]);
    }
    archive.add("init", FILE, INIT.as_bytes());
    archive.add("job", FILE, job.script.as_bytes());
    let modules = kernel.modules(machine)?;
    let card = card.map_or("", Model::module);
    let modules = quoted(&modules.to_string_lossy());
    let settings = format!("MODULES={modules}\nCARD={card}\nROOT={}\n", quoted(root(machine)));
    archive.add("settings", FILE, settings.as_bytes());
    let busybox = busybox()?;
    archive.add("bin/busybox", FILE, &read(&busybox)?);
    let directory = kernel.modules_of_version(machine)?;
    let dependencies = std::fs::read_to_string(directory.join("modules.dep")).context("read modules.dep")?;
    for (number, module) in in_order(&dependencies, &FIRST).iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("modules/{number:02}-{name}"), FILE, &read(&directory.join(module))?);
    }
    to.write_all(&archive.finish()).context("write the initramfs")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// The files of modules, each after those that it needs; `dependencies` as in modules.dep (depmod(8)).
fn in_order(dependencies: &str, wanted: &[&str]) -> Vec<PathBuf> {
    let name = |path: &str| -> Option<String> {
        let file = path.rsplit('/').next()?;
        Some(file.split(".ko").next()?.replace('-', "_"))
    };
    let lines: Vec<(&str, &str)> = dependencies.lines().filter_map(|line| line.split_once(':')).collect();
    let mut order: Vec<PathBuf> = Vec::new();
    for wanted in wanted {
        let Some((module, needs)) = lines.iter().find(|(path, _)| name(path).as_deref() == Some(wanted))
        else {
            continue;
        };
        // The last one needs nothing, and each only what follows.
        for path in needs.split_whitespace().rev().chain([*module]) {
            if !order.iter().any(|there| there == Path::new(path)) {
                order.push(path.into());
            }
        }
    }
    order
}

/// A cpio archive in the format "newc" (the kernel's documentation: early-userspace/buffer-format).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.files += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let mut header = String::from("070701");
        // inode, mode, uid, gid, links, time, size, four device numbers, bytes of the name, checksum
        for number in [self.files, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
            let _ = write!(header, "{number:08x}");
        }
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "fs/9p/9p.ko.xz: net/9p/9pnet.ko.xz fs/netfs/netfs.ko.xz\nnet/9p/9pnet.ko.xz:\n\
             net/9p/9pnet_virtio.ko.xz: net/9p/9pnet.ko.xz drivers/virtio_pci.ko.xz drivers/virtio.ko.xz\n";
        let order = in_order(dependencies, &["9p", "9pnet_virtio", "built_in"]);
        let expected = [
            "fs/netfs/netfs.ko.xz",
            "net/9p/9pnet.ko.xz",
            "fs/9p/9p.ko.xz",
            "drivers/virtio.ko.xz",
            "drivers/virtio_pci.ko.xz",
            "net/9p/9pnet_virtio.ko.xz",
        ];
        assert_eq!(order, expected.map(PathBuf::from));
    }

    /// busybox or GNU cpio is the judge, where there is one.
    #[test]
    fn cpio_reads_the_archive() {
        let mut archive = Archive::default();
        archive.add("bin", DIRECTORY, &[]);
        archive.add("bin/x", FILE, b"12345");
        archive.add("y", FILE, b"");
        let bytes = archive.finish();
        let started = Command::new("cpio")
            .arg("-t")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut cpio) = started else {
            println!("skipped: no cpio");
            return;
        };
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "bin\nbin/x\ny\n");
    }
}
