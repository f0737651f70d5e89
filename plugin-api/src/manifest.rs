//! What a library says about itself. The host reads it from the file before any code of the library runs.
//!
//! `export_plugin!` puts one [`Manifest`] into the ELF section [`SECTION`]. Const code writes it as plain bytes, without pointers
//! and relocations. All numbers are little-endian.

use crate::abi::{ABI_MAJOR, ABI_MINOR};

/// The name of the ELF section.
pub const SECTION: &str = ".bennu.plugin";
/// The first eight bytes.
pub const MAGIC: [u8; 8] = *b"bennu\0pl";
/// The length of a name or a version, padded with zeros.
pub const NAME_LEN: usize = 64;
/// The length of the intercepted events, joined by newlines and padded with zeros.
pub const INTERCEPTS_LEN: usize = 512;

/// The content of the section.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Manifest {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The length in bytes; later versions append fields.
    pub size: u32,
    /// [`ABI_MAJOR`] of the `bennu-plugin` that the plugin was built with.
    pub abi_major: u32,
    /// [`ABI_MINOR`] of that crate.
    pub abi_minor: u32,
    /// Bits of [`flags`](mod@flags).
    pub flags: u32,
    /// The version of the state that the plugin writes.
    pub state_version: u32,
    /// The oldest version that it reads.
    pub reads_from: u32,
    /// The newest version that it reads. Above `state_version` if the plugin can take over from later code.
    pub reads_to: u32,
    /// Zero.
    pub reserved: u32,
    /// The crate's name.
    pub name: [u8; NAME_LEN],
    /// The crate's version.
    pub version: [u8; NAME_LEN],
    /// The version of `bennu-plugin`.
    pub kit: [u8; NAME_LEN],
    /// Architecture and operating system, as `x86_64-linux`.
    pub target: [u8; NAME_LEN],
    /// The events that go through `handle_out`.
    pub intercepts: [u8; INTERCEPTS_LEN],
}

/// Bits of [`Manifest::flags`].
pub mod flags {
    /// Built with `panic = "unwind"`. The first panic of any other plugin would end the host.
    pub const UNWINDS: u32 = 1;
    /// Serves channels.
    pub const CHANNEL: u32 = 2;
    /// Has a connect handler.
    pub const CONNECT: u32 = 4;
    /// Takes settings.
    pub const SETTINGS: u32 = 8;
}

/// The `size` of a manifest of this version.
pub const SIZE: usize = size_of::<Manifest>();

impl Manifest {
    /// A manifest with the versions of this crate; the macro fills in the rest.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "about a thousand bytes")]
    pub const fn new(name: &str, version: &str, flags: u32) -> Self {
        Self {
            magic: MAGIC,
            size: SIZE as u32,
            abi_major: ABI_MAJOR,
            abi_minor: ABI_MINOR,
            flags,
            state_version: 0,
            reads_from: 0,
            reads_to: 0,
            reserved: 0,
            name: padded(name),
            version: padded(version),
            kit: padded(env!("CARGO_PKG_VERSION")),
            target: padded(TARGET),
            intercepts: [0; INTERCEPTS_LEN],
        }
    }
}

/// The [`Manifest::target`] of this build.
#[cfg(target_arch = "x86_64")]
pub const TARGET: &str = "x86_64-linux";
/// The [`Manifest::target`] of this build.
#[cfg(target_arch = "aarch64")]
pub const TARGET: &str = "aarch64-linux";

/// `text`, padded with zeros. A plugin with a longer text does not compile.
const fn padded(text: &str) -> [u8; NAME_LEN] {
    let bytes = text.as_bytes();
    assert!(bytes.len() < NAME_LEN, "a name or version has at most 63 bytes");
    let mut out = [0; NAME_LEN];
    let mut at = 0;
    while at < bytes.len() {
        out[at] = bytes[at];
        at += 1;
    }
    out
}
