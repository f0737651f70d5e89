//! Reads a library's manifest from its bytes, without running any of its code.
//!
//! The layout is [`bennu_plugin::manifest::Manifest`]. This reads it field by field, so that no bytes can do harm.

use std::fmt;
use std::mem::offset_of;
use std::ops::RangeInclusive;

use bennu_plugin::abi::ABI_MAJOR;
use bennu_plugin::manifest::{INTERCEPTS_LEN, MAGIC, Manifest as Raw, NAME_LEN, SECTION, SIZE, TARGET, flags};

use super::elf::{Elf, ElfError};

/// A manifest that this host understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The crate's name, which is the plugin's.
    pub(crate) name: String,
    /// The crate's version.
    pub(crate) version: String,
    /// The version of `bennu-plugin` that it was built with.
    pub(crate) kit: String,
    /// Major and minor number of the contract.
    pub(crate) abi: (u32, u32),
    /// Architecture and operating system.
    pub(crate) target: String,
    /// The version of the state that it writes.
    pub(crate) state_version: u32,
    /// The versions of state that it reads.
    pub(crate) reads: RangeInclusive<u32>,
    /// The events that go through its `handle_out`.
    pub(crate) intercepts: Vec<String>,
    /// It serves channels.
    pub(crate) has_channel: bool,
    /// It has a connect handler.
    pub(crate) has_connect: bool,
    /// It takes settings.
    pub(crate) takes_settings: bool,
}

/// Why a library can't be a plugin of this host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestError {
    /// It is no complete library for this machine.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// It has no manifest.
    #[error("it is not a Bennu plugin: `export_plugin!` is missing")]
    Missing,
    /// The manifest is shorter than its own size field says, or than this host needs.
    #[error("its manifest has {found} bytes and needs {needed}")]
    Short {
        /// The length that it needs, in bytes.
        needed: usize,
        /// Its length in bytes.
        found: usize,
    },
    /// The manifest does not begin with the magic bytes.
    #[error("its manifest does not begin with the right bytes")]
    Magic,
    /// Built for another major version of the contract.
    #[error(
        "it was built for plugin ABI {found}, this server uses {ABI_MAJOR}; rebuild it with this server's bennu-plugin"
    )]
    AbiMajor {
        /// The library's.
        found: u32,
    },
    /// Built for another target.
    #[error("it was built for {found}, this server for {TARGET}")]
    Target {
        /// The library's.
        found: String,
    },
    /// Built with `panic = "abort"`: its first panic would end the host.
    #[error("it was built with panic = \"abort\"; remove that from its Cargo profile")]
    PanicAbort,
    /// A text is not UTF-8, is empty, or has no end.
    #[error("its manifest's {0} cannot be read")]
    Text(&'static str),
    /// The versions of state contradict each other.
    #[error("it declares that it reads state versions {from} to {to}, but writes version {writes}")]
    StateVersions {
        /// The oldest it reads.
        from: u32,
        /// The newest it reads.
        to: u32,
        /// What it writes.
        writes: u32,
    },
    /// It exports nothing.
    #[error("it has neither a channel nor a connect handler")]
    Empty,
    /// The configuration has another name for it.
    #[error("the configuration calls it `{expected}`, but the library is the plugin `{found}`")]
    Name {
        /// In the configuration.
        expected: String,
        /// In the library.
        found: String,
    },
}

impl ManifestError {
    /// Stable, machine-readable code.
    #[must_use]
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Elf(error) => error.code(),
            Self::Missing => "no_manifest",
            Self::Short { .. } => "manifest_short",
            Self::Magic => "manifest_magic",
            Self::AbiMajor { .. } => "abi_major",
            Self::Target { .. } => "wrong_target",
            Self::PanicAbort => "panic_abort",
            Self::Text(_) => "manifest_text",
            Self::StateVersions { .. } => "state_versions",
            Self::Empty => "nothing_exported",
            Self::Name { .. } => "wrong_name",
        }
    }
}

impl Manifest {
    /// Checks a whole library and reads its manifest.
    ///
    /// # Errors
    ///
    /// If this host can't load it.
    pub(crate) fn of_library(bytes: &[u8]) -> Result<Self, ManifestError> {
        let section = Elf::check(bytes)?.section(SECTION).ok_or(ManifestError::Missing)?;
        Self::parse(section)
    }

    /// Reads the bytes of the manifest's section.
    ///
    /// # Errors
    ///
    /// If they are no manifest that this host understands.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let fields = Fields::new(bytes)?;
        let bits = fields.number(offset_of!(Raw, flags));
        if bits & flags::UNWINDS == 0 {
            return Err(ManifestError::PanicAbort);
        }
        let manifest = Self {
            name: fields.text(offset_of!(Raw, name), NAME_LEN, "name")?,
            version: fields.text(offset_of!(Raw, version), NAME_LEN, "version")?,
            kit: fields.text(offset_of!(Raw, kit), NAME_LEN, "kit")?,
            abi: (ABI_MAJOR, fields.number(offset_of!(Raw, abi_minor))),
            target: TARGET.to_owned(),
            state_version: fields.number(offset_of!(Raw, state_version)),
            reads: fields.number(offset_of!(Raw, reads_from))..=fields.number(offset_of!(Raw, reads_to)),
            intercepts: fields.intercepts()?,
            has_channel: bits & flags::CHANNEL != 0,
            has_connect: bits & flags::CONNECT != 0,
            takes_settings: bits & flags::SETTINGS != 0,
        };
        manifest.check()
    }

    /// Whether its state is checked whenever it reads some: what it would not write again is an error. Plugins that were built with an
    /// earlier kit lose that without a word.
    #[must_use]
    pub(crate) fn checks_state(&self) -> bool {
        self.abi >= (1, 4)
    }

    /// Checks fields against each other.
    fn check(self) -> Result<Self, ManifestError> {
        if self.name.is_empty() {
            return Err(ManifestError::Text("name"));
        }
        if !self.reads.contains(&self.state_version) {
            let (from, to, writes) = (*self.reads.start(), *self.reads.end(), self.state_version);
            return Err(ManifestError::StateVersions { from, to, writes });
        }
        if !self.has_channel && !self.has_connect {
            return Err(ManifestError::Empty);
        }
        Ok(self)
    }

    /// Refuses a library whose name is not `plugin`, the name in the configuration.
    ///
    /// # Errors
    ///
    /// If the names differ.
    pub(crate) fn check_name(&self, plugin: &str) -> Result<(), ManifestError> {
        if self.name == plugin {
            return Ok(());
        }
        Err(ManifestError::Name {
            expected: plugin.to_owned(),
            found: self.name.clone(),
        })
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// The bytes of a manifest of this contract, long enough for every field.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Checks first whether the rest can be understood.
    fn new(bytes: &'a [u8]) -> Result<Self, ManifestError> {
        let short = |needed| ManifestError::Short {
            needed,
            found: bytes.len(),
        };
        if bytes.len() < MAGIC.len() || !bytes.starts_with(&MAGIC) {
            return Err(if bytes.len() < MAGIC.len() {
                short(SIZE)
            } else {
                ManifestError::Magic
            });
        }
        let found = number(bytes, offset_of!(Raw, abi_major)).ok_or(short(SIZE))?;
        if found != ABI_MAJOR {
            return Err(ManifestError::AbiMajor { found });
        }
        // Later versions append fields: a longer manifest is read up to the fields that are known.
        let said = number(bytes, offset_of!(Raw, size)).map_or(0, |size| size as usize);
        if said < SIZE || bytes.len() < said {
            return Err(ManifestError::Short {
                needed: said.max(SIZE),
                found: bytes.len().min(said),
            });
        }
        let fields = Self(&bytes[..said]);
        let target = fields.text(offset_of!(Raw, target), NAME_LEN, "target")?;
        if target != TARGET {
            return Err(ManifestError::Target { found: target });
        }
        Ok(fields)
    }

    fn number(&self, offset: usize) -> u32 {
        number(self.0, offset).unwrap_or(0)
    }

    /// UTF-8 up to the first zero, which must be there; no control characters.
    fn text(&self, offset: usize, len: usize, what: &'static str) -> Result<String, ManifestError> {
        let text = self.padded(offset, len).ok_or(ManifestError::Text(what))?;
        if text.chars().any(char::is_control) {
            return Err(ManifestError::Text(what));
        }
        Ok(text.to_owned())
    }

    fn intercepts(&self) -> Result<Vec<String>, ManifestError> {
        let text = self
            .padded(offset_of!(Raw, intercepts), INTERCEPTS_LEN)
            .ok_or(ManifestError::Text("intercepted events"))?;
        Ok(text
            .split('\n')
            .filter(|event| !event.is_empty())
            .map(str::to_owned)
            .collect())
    }

    fn padded(&self, offset: usize, len: usize) -> Option<&'a str> {
        let field = self.0.get(offset..offset + len)?;
        let end = field.iter().position(|byte| *byte == 0)?;
        str::from_utf8(&field[..end]).ok()
    }
}

fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset + 4)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runtime::plugin::testing;

    /// A manifest that is good.
    fn good() -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        put(&mut bytes, 0, &MAGIC);
        put(
            &mut bytes,
            offset_of!(Raw, size),
            &u32::try_from(SIZE).unwrap().to_le_bytes(),
        );
        put(&mut bytes, offset_of!(Raw, abi_major), &ABI_MAJOR.to_le_bytes());
        put(
            &mut bytes,
            offset_of!(Raw, flags),
            &(flags::UNWINDS | flags::CHANNEL).to_le_bytes(),
        );
        put(&mut bytes, offset_of!(Raw, name), b"room");
        put(&mut bytes, offset_of!(Raw, version), b"1.2.3");
        put(&mut bytes, offset_of!(Raw, kit), b"0.1.0");
        put(&mut bytes, offset_of!(Raw, target), TARGET.as_bytes());
        put(&mut bytes, offset_of!(Raw, intercepts), b"new_msg\ntyping");
        bytes
    }

    fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    }

    /// The good one with one change, refused with `code`.
    fn refused(offset: usize, value: &[u8], code: &str) {
        let mut bytes = good();
        put(&mut bytes, offset, value);
        assert_eq!(Manifest::parse(&bytes).unwrap_err().code(), code);
    }

    #[test]
    fn a_good_manifest_is_read() {
        let manifest = Manifest::parse(&good()).unwrap();
        assert_eq!(manifest.to_string(), "room 1.2.3");
        assert_eq!(manifest.intercepts, ["new_msg", "typing"]);
        assert!(manifest.has_channel && !manifest.has_connect && !manifest.takes_settings);
    }

    #[test]
    fn a_longer_manifest_of_a_later_version_is_read() {
        let mut bytes = good();
        bytes.extend([7; 40]);
        put(
            &mut bytes,
            offset_of!(Raw, size),
            &u32::try_from(SIZE + 40).unwrap().to_le_bytes(),
        );
        assert!(Manifest::parse(&bytes).is_ok());
    }

    #[test]
    fn each_mistake_has_its_code() {
        refused(0, b"x", "manifest_magic");
        refused(offset_of!(Raw, size), &1u32.to_le_bytes(), "manifest_short");
        refused(offset_of!(Raw, size), &u32::MAX.to_le_bytes(), "manifest_short");
        refused(offset_of!(Raw, abi_major), &7u32.to_le_bytes(), "abi_major");
        refused(offset_of!(Raw, flags), &flags::CHANNEL.to_le_bytes(), "panic_abort");
        refused(
            offset_of!(Raw, flags),
            &flags::UNWINDS.to_le_bytes(),
            "nothing_exported",
        );
        refused(offset_of!(Raw, state_version), &7u32.to_le_bytes(), "state_versions");
        refused(offset_of!(Raw, target), b"riscv64-linux\0", "wrong_target");
        refused(offset_of!(Raw, name), b"\0", "manifest_text");
        refused(offset_of!(Raw, name), b"\xff", "manifest_text");
        refused(offset_of!(Raw, name), &[b'a'; NAME_LEN], "manifest_text");
    }

    #[test]
    fn a_library_under_another_plugins_name_is_refused() {
        let manifest = Manifest::parse(&good()).unwrap();
        assert_eq!(manifest.check_name("room"), Ok(()));
        let error = manifest.check_name("rooms").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the configuration calls it `rooms`, but the library is the plugin `room`"
        );
    }

    #[test]
    fn other_files_are_not_plugins() {
        let code = |bytes: &[u8]| Manifest::of_library(bytes).unwrap_err().code();
        assert_eq!(code(b""), "truncated");
        assert_eq!(code(b"#!/bin/sh\nexit 1\n"), "not_elf");
        assert_eq!(code(&testing::plain_library()), "no_manifest");
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(
            code(&program),
            "no_manifest",
            "a position-independent program looks like a library"
        );
        let mut foreign = testing::good_plugin_bytes();
        foreign[18] ^= 0x55;
        assert_eq!(code(&foreign), "wrong_arch");
    }

    #[test]
    fn a_real_plugin_is_read() {
        let manifest = Manifest::of_library(&testing::good_plugin_bytes()).unwrap();
        assert_eq!(manifest.name, testing::NAME);
        assert!(manifest.takes_settings && manifest.has_channel);
    }

    #[test]
    fn every_truncation_of_a_plugin_is_refused() {
        let whole = testing::good_plugin_bytes();
        let steps = (0..whole.len()).step_by(whole.len() / 20_000 + 1);
        for end in steps.chain(whole.len().saturating_sub(5_000)..whole.len()) {
            let error = Manifest::of_library(&whole[..end]).unwrap_err();
            assert_eq!(error.code(), "truncated", "at {end} of {}", whole.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Manifest::of_library(&bytes);
            let _ = Manifest::parse(&bytes);
            // Again behind the first bytes of a library, up to the machine's number.
            let mut library = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0".to_vec();
            library.extend(bytes);
            let _ = Manifest::of_library(&library);
        }

        #[test]
        fn a_changed_manifest_is_read_without_a_panic(at in 0..SIZE, value: u8, end in 0..=SIZE) {
            let mut bytes = good();
            bytes[at] = value;
            let _ = Manifest::parse(&bytes);
            prop_assert!(end == SIZE || Manifest::parse(&bytes[..end]).is_err());
        }

        #[test]
        fn a_damaged_plugin_is_read_without_a_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
            // The head and the tables behind it decide; changes elsewhere are seldom looked at.
            testing::with_good_plugin(|bytes| {
                let tables = testing::tables(bytes);
                for (index, value) in &changes {
                    let at = tables[index.index(tables.len())];
                    bytes[at] = *value;
                }
                let _ = Manifest::of_library(bytes);
            });
        }
    }
}
