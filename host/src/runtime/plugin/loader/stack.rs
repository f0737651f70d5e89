//! Reads the stack of a thread that panics in a library, as addresses within that library: they stay valid when it is unmapped.

use std::path::Path;

use super::objects;

/// How many frames this looks at, those of the panic itself included.
const MOST_FRAMES: usize = 128;

/// Where the calling thread is in the library that was loaded from `library`: the innermost frame first, up to the first frame that
/// is somewhere else, for example where the host has called it. Leaves out the host's own frames, which belong to this call.
pub(in crate::runtime::plugin) fn addresses(library: &Path) -> Vec<u64> {
    // Not by `dladdr`, which waits for whoever loads a library.
    let Some(object) = objects::all().into_iter().find(|object| object.is(library)) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut looked_at = 0;
    backtrace::trace(|frame| {
        looked_at += 1;
        // The call stands before the address that it returns to; another function may begin there.
        let call = (frame.ip() as usize).checked_sub(1);
        match call.and_then(|call| object.offset(call)) {
            Some(address) => found.push(address),
            None if found.is_empty() => {}
            None => return false,
        }
        looked_at < MOST_FRAMES
    });
    found
}
