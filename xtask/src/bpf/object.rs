//! What `cargo xtask bpf` needs of an object file (elf(5), 64 bit, little endian): the words of one section, and which symbol
//! each of its relocations names.

use anyhow::{Context, Result, ensure};

/// `R_BPF_64_64`: the address of a symbol in an instruction of 16 bytes.
const R_BPF_64_64: u32 = 1;
const EM_BPF: u16 = 247;
const SHT_SYMTAB: u32 = 2;
const SHT_REL: u32 = 9;
/// Sizes of `Elf64_Shdr`, `Elf64_Sym`, `Elf64_Rel`.
const SECTION_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
const RELOCATION_BYTES: usize = 16;

/// A section's header.
#[derive(Clone, Copy)]
struct Section<'a> {
    name: &'a str,
    kind: u32,
    link: usize,
    info: usize,
    content: &'a [u8],
}

/// Instructions, and the positions of those that name a symbol, with the symbol.
type Program<'a> = (Vec<u64>, Vec<(usize, &'a str)>);

pub(super) struct Object<'a> {
    sections: Vec<Section<'a>>,
}

impl<'a> Object<'a> {
    pub(super) fn parse(file: &'a [u8]) -> Result<Self> {
        ensure!(file.starts_with(b"\x7fELF\x02\x01"), "no ELF file of 64 bit, little endian");
        ensure!(half(file, 18)? == EM_BPF, "not for BPF");
        let (table, count, names) = (long(file, 40)?, half(file, 60)?, half(file, 62)?);
        let header = |number: u16| {
            let at = table + usize::from(number) * SECTION_BYTES;
            file.get(at..at + SECTION_BYTES).context("a section header is missing")
        };
        let content = |header: &[u8]| {
            let (at, size) = (long(header, 24)?, long(header, 32)?);
            file.get(at..at + size).context("a section is cut off")
        };
        let names = content(header(names)?)?;
        let sections = (0..count).map(|number| {
            let header = header(number)?;
            Ok(Section {
                name: string(names, word(header, 0)? as usize)?,
                kind: word(header, 4)?,
                link: word(header, 40)? as usize,
                info: word(header, 44)? as usize,
                content: content(header)?,
            })
        });
        Ok(Self { sections: sections.collect::<Result<_>>()? })
    }

    /// The instructions of a section, and the positions of those that name a symbol.
    pub(super) fn program(&self, name: &str) -> Result<Program<'a>> {
        let found = self.sections.iter().position(|section| section.name == name);
        let number = found.with_context(|| format!("no section {name}"))?;
        let code = self.section(number)?.content;
        let instructions = code.chunks_exact(8).map(|bytes| Ok(u64::from_le_bytes(bytes.try_into()?)));
        let instructions = instructions.collect::<Result<_>>()?;
        let mut uses = Vec::new();
        let of_code = |section: &&Section<'_>| section.kind == SHT_REL && section.info == number;
        for section in self.sections.iter().filter(of_code) {
            let symbols = self.section(section.link)?;
            ensure!(symbols.kind == SHT_SYMTAB, "relocations without symbols");
            let names = self.section(symbols.link)?.content;
            for relocation in section.content.chunks_exact(RELOCATION_BYTES) {
                let (at, kind, symbol) = (long(relocation, 0)?, word(relocation, 8)?, word(relocation, 12)?);
                ensure!(kind == R_BPF_64_64, "relocation of kind {kind}: a call that was not inlined?");
                let symbol = symbol as usize * SYMBOL_BYTES;
                uses.push((at / 8, string(names, word(symbols.content, symbol)? as usize)?));
            }
        }
        Ok((instructions, uses))
    }

    fn section(&self, number: usize) -> Result<Section<'a>> {
        self.sections.get(number).copied().context("a section is missing")
    }
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N]> {
    from.get(at..).and_then(|rest| rest.first_chunk()).copied().context("the file is cut off")
}

fn half(from: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes(from, at)?))
}

fn word(from: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(from, at)?))
}

fn long(from: &[u8], at: usize) -> Result<usize> {
    usize::try_from(u64::from_le_bytes(bytes(from, at)?)).context("the file is too large")
}

fn string(table: &[u8], at: usize) -> Result<&str> {
    let rest = table.get(at..).context("a name is missing")?;
    Ok(std::str::from_utf8(rest.split(|byte| *byte == 0).next().unwrap_or_default())?)
}
