//! The stack of a thread that panics in a library, as addresses within that library: they outlive its being mapped.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

/// Frames that are looked at, those of the panic itself included.
const MOST_FRAMES: usize = 128;

/// Where the calling thread is in the library that was loaded from `library`: the innermost frame first, up to the first that
/// is somewhere else, as where the host has called it. The host's own frames, of this call, are left out.
pub(in crate::runtime::plugin) fn addresses(library: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    let mut looked_at = 0;
    backtrace::trace(|frame| {
        looked_at += 1;
        match offset(frame.ip() as usize, library) {
            Some(address) => found.push(address),
            None if found.is_empty() => {}
            None => return false,
        }
        looked_at < MOST_FRAMES
    });
    found
}

/// How far an address is from the beginning of the library, if it is in it.
fn offset(address: usize, library: &Path) -> Option<u64> {
    // The call stands before the address to return to; behind it may begin another function.
    let call = address.checked_sub(1)?;
    let mut info = libc::Dl_info {
        dli_fname: ptr::null(),
        dli_fbase: ptr::null_mut(),
        dli_sname: ptr::null(),
        dli_saddr: ptr::null_mut(),
    };
    // SAFETY: any address may be asked about; `info` is written where the call succeeds.
    let known = unsafe { libc::dladdr(ptr::without_provenance(call), &raw mut info) } != 0;
    if !known || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the system's loader keeps the name while the file is mapped, which it is: this thread runs in it.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let is_it = name.to_bytes() == library.as_os_str().as_bytes();
    is_it.then(|| (call - info.dli_fbase.addr()) as u64)
}
