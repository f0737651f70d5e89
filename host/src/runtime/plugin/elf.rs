//! Checks that a file is a complete library for this machine, before the system's loader sees it.
//!
//! Loading a file that is still being written kills the process: reading beyond its end is a SIGBUS. This check does not find a
//! hole inside the file. [`stage`](super::stage) waits until a file has stopped changing, and the probe finds the rest.

mod dynamic;

use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_AARCH64, EM_X86_64, ET_DYN, FileHeader64, PT_LOAD, SHT_NOBITS, SHT_NULL,
};
use object::endian::LittleEndian;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

pub(crate) use self::dynamic::{Facts, Needs, Text};

/// Why a file cannot be loaded as a library here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ElfError {
    /// It is a file of another kind.
    #[error("it is not an ELF file")]
    NotElf,
    /// It is for another kind of machine.
    #[error("it was built for another machine ({found}), this one is {}", std::env::consts::ARCH)]
    WrongArch {
        /// What it was built for.
        found: String,
    },
    /// It is a program, an object file or the like.
    #[error("it is not a shared library; set crate-type = [\"cdylib\"]")]
    NotLibrary,
    /// Its end is missing: somebody is still writing it, or copying it failed.
    #[error("it is not complete: it needs {needed} bytes and has {found}")]
    Truncated {
        /// The least number of bytes that it needs.
        needed: u64,
        /// Its length in bytes.
        found: u64,
    },
    /// It contradicts itself.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

impl ElfError {
    /// Stable, machine-readable code.
    #[must_use]
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotElf => "not_elf",
            Self::WrongArch { .. } => "wrong_arch",
            Self::NotLibrary => "not_library",
            Self::Truncated { .. } => "truncated",
            Self::Damaged(_) => "damaged",
        }
    }
}

type Header = FileHeader64<LittleEndian>;

/// A library that is complete and for this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elf<'a> {
    header: &'a Header,
    bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    /// Checks `bytes`. Never panics, whatever they are.
    ///
    /// # Errors
    ///
    /// If this is no complete shared library for this machine.
    pub(crate) fn check(bytes: &'a [u8]) -> Result<Self, ElfError> {
        check_ident(bytes)?;
        let header = header(bytes)?;
        check_kind(header)?;
        check_sections(header, bytes)?;
        check_segments(header, bytes)?;
        Ok(Self { header, bytes })
    }

    /// The bytes of the section called `name`, where there is one.
    #[must_use]
    pub(crate) fn section(&self, name: &str) -> Option<&'a [u8]> {
        let sections = self.header.sections(LittleEndian, self.bytes).ok()?;
        let (_, section) = sections.section_by_name(LittleEndian, name.as_bytes())?;
        section.data(LittleEndian, self.bytes).ok()
    }
}

/// The first bytes: ELF, 64 bits, little-endian.
fn check_ident(bytes: &[u8]) -> Result<(), ElfError> {
    // A file cut off within its first bytes looks like anything; a file of another kind does not begin like this.
    if bytes.len() < ELFMAG.len() && ELFMAG.starts_with(bytes) {
        return Err(truncated(size_of::<Header>() as u64, bytes));
    }
    if !bytes.starts_with(&ELFMAG) {
        return Err(ElfError::NotElf);
    }
    match bytes.get(4..6) {
        Some(ident) if ident == [ELFCLASS64.0, ELFDATA2LSB.0] => Ok(()),
        Some(_) => Err(ElfError::WrongArch {
            found: "not 64 bits little-endian".to_owned(),
        }),
        None => Err(truncated(size_of::<Header>() as u64, bytes)),
    }
}

fn header(bytes: &[u8]) -> Result<&Header, ElfError> {
    if bytes.len() < size_of::<Header>() {
        return Err(truncated(size_of::<Header>() as u64, bytes));
    }
    Header::parse(bytes).map_err(|_| ElfError::Damaged("its header cannot be read"))
}

/// This machine's architecture, and a library.
fn check_kind(header: &Header) -> Result<(), ElfError> {
    let machine = header.e_machine.get(LittleEndian);
    let expected = if cfg!(target_arch = "aarch64") {
        EM_AARCH64
    } else {
        EM_X86_64
    };
    if machine != expected {
        let found = match machine {
            EM_X86_64 => "x86_64".to_owned(),
            EM_AARCH64 => "aarch64".to_owned(),
            other => format!("ELF machine {other:?}"),
        };
        return Err(ElfError::WrongArch { found });
    }
    if header.e_type.get(LittleEndian) != ET_DYN {
        return Err(ElfError::NotLibrary);
    }
    Ok(())
}

/// The section table is there, and every section within the file. Linkers write the table last, so that this notices
/// every truncation.
fn check_sections(header: &Header, bytes: &[u8]) -> Result<(), ElfError> {
    let start = header.e_shoff.get(LittleEndian);
    if start == 0 {
        return Err(ElfError::Damaged("it has no section table"));
    }
    let entries = u64::from(header.e_shnum.get(LittleEndian));
    let length = entries * u64::from(header.e_shentsize.get(LittleEndian));
    inside(start, length, bytes)?;
    let sections = header
        .section_headers(LittleEndian, bytes)
        .map_err(|_| ElfError::Damaged("its section table cannot be read"))?;
    // As in a copy whose end was never written.
    if sections.iter().all(|section| section.sh_type(LittleEndian) == SHT_NULL) {
        return Err(ElfError::Damaged("its section table is empty"));
    }
    for section in sections {
        if section.sh_type(LittleEndian) != SHT_NOBITS {
            inside(section.sh_offset(LittleEndian), section.sh_size(LittleEndian), bytes)?;
        }
    }
    Ok(())
}

/// Everything that the system would map is within the file.
fn check_segments(header: &Header, bytes: &[u8]) -> Result<(), ElfError> {
    let start = header.e_phoff.get(LittleEndian);
    let entries = u64::from(header.e_phnum.get(LittleEndian));
    inside(start, entries * u64::from(header.e_phentsize.get(LittleEndian)), bytes)?;
    let segments = header
        .program_headers(LittleEndian, bytes)
        .map_err(|_| ElfError::Damaged("its program headers cannot be read"))?;
    let mut loads = 0;
    for segment in segments {
        if segment.p_type(LittleEndian) == PT_LOAD {
            loads += 1;
            inside(segment.p_offset(LittleEndian), segment.p_filesz(LittleEndian), bytes)?;
        }
    }
    if loads == 0 {
        Err(ElfError::Damaged("it has nothing to load"))
    } else {
        Ok(())
    }
}

fn inside(start: u64, length: u64, bytes: &[u8]) -> Result<(), ElfError> {
    let end = start
        .checked_add(length)
        .ok_or(ElfError::Damaged("a part of it lies beyond all files"))?;
    if end > bytes.len() as u64 {
        Err(truncated(end, bytes))
    } else {
        Ok(())
    }
}

fn truncated(needed: u64, bytes: &[u8]) -> ElfError {
    ElfError::Truncated {
        needed,
        found: bytes.len() as u64,
    }
}
