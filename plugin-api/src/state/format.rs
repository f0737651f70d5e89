//! The format of state: MessagePack with field names, as `rmp-serde` writes it by `to_vec_named`, so that both read each other.
//! There are two differences, each for values that `rmp-serde` loses:
//!
//! * `Some` around something that is written as nil has a mark of its own, [`SOME`]. Otherwise `Some(None)` would be `None`.
//! * Types that serde writes in a readable and in a compact form (IP addresses, for example) are written in the readable form. Only
//!   that form can be read inside internally tagged, untagged and flattened types. State in the compact form is read as well.
//!
//! Four things are noted beside the values, for the check that nothing is lost:
//!
//! * A set (by the name of its type) and a map whose keys are data, as opposed to a struct, have a longer header than they need. Any
//!   reader of MessagePack takes it. A set of 65,536 items or more has no longer header, so its order counts like that of a list.
//! * The first text (most often the name of the first field) has a longer header, too. It says that the other headers tell
//!   something: those that earlier versions of this crate wrote do not. State without any text counts as if it was one of these.
//! * Integers of 128 bits that fit into 64 bits are written as such, so that `u64` may become `u128`.
//! * State in which a field is left out that its own code reads with another value begins with [`MISREAD`].

use std::fmt;

/// The MessagePack extension type of `Some(…)` around nil, or around another such value. Its data is the value inside.
pub(super) const SOME: i8 = 0x53;

/// The MessagePack extension type of a state as its own code has read it and written it again. It stands before the state, if keys
/// are in it that the state leaves out.
pub(super) const MISREAD: i8 = 0x4d;

/// How deep values may be nested. `rmp-serde` reads so many levels.
pub(super) const MOST_LEVELS: u32 = 1_024;
/// How many bytes of the stack a value may take while it is written or read. The thread of a shard has 2 MiB.
const MOST_STACK: usize = 3 << 19;

/// Why something cannot be written or read.
#[derive(Debug)]
pub(crate) struct FormatError(String);

impl FormatError {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FormatError {}

impl serde::ser::Error for FormatError {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self(why.to_string())
    }
}

impl serde::de::Error for FormatError {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self(why.to_string())
    }
}

/// In which form serde writes types that have two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As text, for example `"127.0.0.1"`.
    Readable,
    /// As bytes and numbers. Earlier versions of this crate wrote this.
    Compact,
}

/// How deep the value is nested that is being written or read. An error is returned before the stack ends.
#[derive(Clone)]
pub(super) struct Depth {
    levels: u32,
    most: u32,
    /// Where the stack was at the beginning.
    stack: usize,
    /// It was too deep.
    pub(super) exceeded: bool,
}

impl Depth {
    pub(super) fn up_to(most: u32) -> Self {
        Self {
            levels: 0,
            most,
            stack: stack(),
            exceeded: false,
        }
    }

    pub(super) fn enter(&mut self) -> Result<(), FormatError> {
        self.levels += 1;
        let (levels, stack) = (self.levels > self.most, stack().abs_diff(self.stack) > MOST_STACK);
        self.exceeded |= levels || stack;
        match (levels, stack) {
            (true, _) => Err(FormatError(format!(
                "it is nested too deep: more than {} levels",
                self.most
            ))),
            (_, true) => Err(FormatError(format!(
                "it is nested too deep: {} levels take more than {MOST_STACK} bytes of the stack",
                self.levels
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn leave(&mut self, levels: u32) {
        self.levels -= levels;
    }
}

/// About where the stack is.
#[inline(never)]
fn stack() -> usize {
    let here = 0_u8;
    std::ptr::from_ref(std::hint::black_box(&here)).addr()
}
