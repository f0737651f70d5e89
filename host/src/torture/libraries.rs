//! The libraries that replace one another: variants of the plugin `ledger`, good and bad.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::plugin::cargo::{CargoError, Workspace};

/// The plugin that is reloaded.
pub const PLUGIN: &str = "ledger";

/// A variant of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// Version 1 of the state.
    V1,
    /// Version 2 of the state.
    V2,
    /// Version 1, with an async runtime.
    Runtime,
    /// Refuses its settings.
    Refuses,
    /// Aborts when its settings are checked: in the probe.
    Crashes,
    /// Reads no state that is there.
    Stranger,
    /// Half of a file.
    Truncated,
    /// Panics whenever a number is put.
    Panics,
    /// The same, with a version of the state that no other reads.
    PanicsV3,
}

/// What is to become of a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It comes into service.
    Served,
    /// It is refused.
    Refused,
    /// It comes into service, and the one before it takes over again.
    RolledBack,
}

impl Variant {
    /// Those that come into service, in the order in which they replace one another.
    pub const GOOD: [Self; 3] = [Self::V2, Self::V1, Self::Runtime];
    /// Those that must not.
    pub const BAD: [Self; 6] = [
        Self::Panics,
        Self::Refuses,
        Self::PanicsV3,
        Self::Crashes,
        Self::Stranger,
        Self::Truncated,
    ];

    /// The features that it is built with.
    #[must_use]
    pub fn features(self) -> &'static str {
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

    /// What is to become of it.
    #[must_use]
    pub fn fate(self) -> Fate {
        match self {
            Self::V1 | Self::V2 | Self::Runtime => Fate::Served,
            Self::Panics | Self::PanicsV3 => Fate::RolledBack,
            Self::Refuses | Self::Crashes | Self::Stranger | Self::Truncated => Fate::Refused,
        }
    }

    /// Its file in a folder of libraries.
    #[must_use]
    pub fn file_name(self) -> String {
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
pub enum LibraryError {
    /// They cannot be built here.
    #[error("the variants of {PLUGIN} cannot be built: run this in the checkout, or name a folder with --libraries")]
    Build(#[source] CargoError),
    /// One cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The bytes of all variants.
#[derive(Debug)]
pub struct Libraries(BTreeMap<Variant, Vec<u8>>);

impl Libraries {
    /// Reads them from a folder where each has its [`Variant::file_name`].
    ///
    /// # Errors
    ///
    /// If one is missing.
    pub fn read(folder: &Path, variants: &[Variant]) -> Result<Self, LibraryError> {
        Self::each(variants, |variant| read(&folder.join(variant.file_name())))
    }

    /// Builds them with cargo, in the workspace that `folder` lies in. `said` gets the name of each before it is built.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn build(folder: &Path, variants: &[Variant], mut said: impl FnMut(Variant)) -> Result<Self, LibraryError> {
        let workspace = Workspace::find(folder).map_err(LibraryError::Build)?;
        Self::each(variants, |variant| {
            said(variant);
            let build = workspace.build_variant(PLUGIN, variant.features());
            let built = build.and_then(|build| build.wait()).map_err(LibraryError::Build)?;
            built
                .libraries
                .values()
                .try_fold(Vec::new(), |_, library| read(library))
        })
    }

    fn each(
        variants: &[Variant],
        mut bytes: impl FnMut(Variant) -> Result<Vec<u8>, LibraryError>,
    ) -> Result<Self, LibraryError> {
        let each = variants.iter().map(|variant| Ok((*variant, bytes(*variant)?)));
        each.collect::<Result<_, _>>().map(Self)
    }

    /// The bytes of a variant, different for each `reload`: what follows the last section concerns no loader.
    ///
    /// # Panics
    ///
    /// If the variant was not among those that were read.
    #[must_use]
    pub fn bytes(&self, variant: Variant, reload: u64) -> Vec<u8> {
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
