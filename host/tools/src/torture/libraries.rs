//! The libraries that replace each other: good and bad variants of the plugin `ledger`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cargo::{CargoError, Workspace};

/// The name of the plugin.
pub(super) const PLUGIN: &str = "ledger";

/// A variant of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Variant {
    /// State version 1.
    V1,
    /// State version 2.
    V2,
    /// State version 1, with an async runtime.
    Runtime,
    /// Rejects its settings.
    Refuses,
    /// Aborts in the probe, when it checks its settings.
    Crashes,
    /// Reads no state of the other variants.
    Stranger,
    /// The first half of a library.
    Truncated,
    /// Panics on every `put`.
    Panics,
    /// The same, with a state version that no other variant reads.
    PanicsV3,
}

/// What the server does with a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The library comes into service.
    Served,
    /// The server rejects it.
    Rejected,
    /// It comes into service, and then the server rolls back to the library before.
    RolledBack,
}

impl Variant {
    /// The good variants, in the order in which they replace each other.
    pub(super) const GOOD: [Self; 3] = [Self::V2, Self::V1, Self::Runtime];
    /// The bad variants.
    pub(super) const BAD: [Self; 6] = [
        Self::Panics,
        Self::Refuses,
        Self::PanicsV3,
        Self::Crashes,
        Self::Stranger,
        Self::Truncated,
    ];

    /// The cargo features that select it.
    pub(super) fn features(self) -> &'static str {
        match self {
            Self::V1 | Self::Truncated => "",
            Self::V2 => "v2",
            Self::Runtime => "runtime",
            Self::Refuses => "refuses",
            Self::Crashes => "crashes",
            Self::Stranger => "stranger",
            Self::Panics => "panics",
            Self::PanicsV3 => "panics_v3",
        }
    }

    /// What the server should do with it.
    pub(super) fn expected(self) -> Outcome {
        match self {
            Self::V1 | Self::V2 | Self::Runtime => Outcome::Served,
            Self::Panics | Self::PanicsV3 => Outcome::RolledBack,
            Self::Refuses | Self::Crashes | Self::Stranger | Self::Truncated => Outcome::Rejected,
        }
    }

    /// The name of its file in a folder of libraries.
    pub(super) fn file_name(self) -> String {
        match self.features() {
            "" => format!("lib{PLUGIN}.so"),
            features => format!("lib{PLUGIN}-{features}.so"),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::Truncated => "truncated",
            built => built.features(),
        })
    }
}

/// Why there are no libraries.
#[derive(Debug, thiserror::Error)]
pub(super) enum LibraryError {
    /// Cargo cannot build them here.
    #[error("cannot build the variants of {PLUGIN}: run this in the checkout, or use --libraries FOLDER")]
    Build(#[source] CargoError),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The libraries, as bytes.
#[derive(Debug)]
pub(super) struct Libraries(BTreeMap<Variant, Vec<u8>>);

impl Libraries {
    /// Reads them from a folder, see [`Variant::file_name`].
    pub(super) fn read(folder: &Path, variants: &[Variant]) -> Result<Self, LibraryError> {
        Self::each(variants, |variant| read(&folder.join(variant.file_name())))
    }

    /// Builds them with cargo, in the workspace that contains `folder`. Calls `progress` before each build.
    pub(super) fn build(
        folder: &Path,
        variants: &[Variant],
        mut progress: impl FnMut(Variant),
    ) -> Result<Self, LibraryError> {
        let workspace = Workspace::find(folder).map_err(LibraryError::Build)?;
        Self::each(variants, |variant| {
            progress(variant);
            let library = workspace.build(PLUGIN, variant.features());
            read(&library.map_err(LibraryError::Build)?)
        })
    }

    fn each(
        variants: &[Variant],
        mut bytes: impl FnMut(Variant) -> Result<Vec<u8>, LibraryError>,
    ) -> Result<Self, LibraryError> {
        let each = variants.iter().map(|variant| Ok((*variant, bytes(*variant)?)));
        each.collect::<Result<_, _>>().map(Self)
    }

    /// The bytes of a variant. They differ for each `reload`: bytes after the last section do not change what a library
    /// does.
    pub(super) fn bytes(&self, variant: Variant, reload: u64) -> Vec<u8> {
        let mut bytes = self.0[&variant].clone();
        if variant == Variant::Truncated {
            bytes.truncate(bytes.len() / 2);
        }
        bytes.extend(reload.to_le_bytes());
        bytes
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LibraryError> {
    fs::read(path).map_err(|source| LibraryError::Read {
        path: path.to_owned(),
        source,
    })
}
