//! The shared objects that the system has loaded into this process, and what each asks to have run when it is unloaded.

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::{ptr, slice};

/// A shared object in this process.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// The file that it was loaded from.
    pub(super) path: PathBuf,
    /// Where its code lies.
    pub(super) code: Vec<Range<usize>>,
    base: usize,
    dynamic: Option<Range<usize>>,
    /// What is read-only since it was relocated.
    sealed: Option<Range<usize>>,
}

/// All of them, as they are now.
pub(super) fn all() -> Vec<Object> {
    let mut found: Vec<Object> = Vec::new();
    // SAFETY: the callback gets `found` back, on this thread and during the call.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut found).cast()) };
    found
}

/// Those that have come since `before`.
pub(super) fn since(before: &[Object]) -> Vec<Object> {
    let known = |object: &Object| before.iter().any(|known| known.base == object.base);
    all().into_iter().filter(|object| !known(object)).collect()
}

unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: libc::size_t, found: *mut c_void) -> c_int {
    // SAFETY: the system lends the info, and the caller its vector.
    let (info, found) = unsafe { (&*info, &mut *found.cast::<Vec<Object>>()) };
    // SAFETY: the headers are as many as it says, and lie there while the object is loaded, which it is during this call.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let base = info.dlpi_addr as usize;
    let place = |header: &libc::Elf64_Phdr| {
        let start = base.wrapping_add(header.p_vaddr as usize);
        start..start.wrapping_add(header.p_memsz as usize)
    };
    let of_kind = |kind: u32| headers.iter().find(|header| header.p_type == kind).map(place);
    let is_code = |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0;
    // SAFETY: a text that ends with a zero, as long as the object is loaded; null where it has none.
    let name = unsafe { info.dlpi_name.as_ref().map(|name| CStr::from_ptr(name)) };
    found.push(Object {
        path: PathBuf::from(OsStr::from_bytes(name.unwrap_or_default().to_bytes())),
        code: headers.iter().filter(is_code).map(place).collect(),
        base,
        dynamic: of_kind(libc::PT_DYNAMIC),
        sealed: of_kind(libc::PT_GNU_RELRO),
    });
    0
}

const FINI: u64 = 13;
const FINI_ARRAY: u64 = 26;
const FINI_ARRAY_SIZE: u64 = 28;

/// An entry of the dynamic section: a tag and its value.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    tag: u64,
    value: u64,
}

/// A function that a library has run when it is unloaded.
pub(super) type Finalizer = extern "C" fn();

extern "C" fn nothing() {}

impl Object {
    /// Whether it was loaded from this file.
    pub(super) fn is(&self, path: &Path) -> bool {
        self.path == path
    }

    /// How far an address in its code is from its beginning.
    pub(super) fn offset(&self, address: usize) -> Option<u64> {
        let is_code = self.code.iter().any(|code| code.contains(&address));
        is_code.then(|| (address - self.base) as u64)
    }

    /// Takes over what the system would run when it unloads the object: in its order, and instead of it.
    ///
    /// The system runs these functions under the lock that every `dlopen` of the process needs, and that many new threads need
    /// too. One that does not return would stop them all. It also runs them at `exit`, while other threads are at work.
    ///
    /// # Safety
    ///
    /// The object stays loaded during the call, and nobody unloads it before what is returned has run.
    pub(super) unsafe fn take_finalizers(&self) -> Vec<Finalizer> {
        let mut finalizers = Vec::new();
        let Some(dynamic) = &self.dynamic else {
            return finalizers;
        };
        let entries = dynamic.start as *mut Entry;
        let most = dynamic.len() / size_of::<Entry>();
        // SAFETY: the dynamic section is that long, and readable while the object is loaded.
        let read = |at: usize| unsafe { entries.add(at).read() };
        let find = |tag: u64| {
            (0..most)
                .take_while(|at| read(*at).tag != 0)
                .find(|at| read(*at).tag == tag)
        };
        // Where the system has relocated a pointer, it is absolute.
        let absolute = |value: u64| {
            let value = value as usize;
            if value < self.base {
                self.base.wrapping_add(value)
            } else {
                value
            }
        };
        if let (Some(array), Some(size)) = (find(FINI_ARRAY), find(FINI_ARRAY_SIZE)) {
            let count = read(size).value as usize / size_of::<usize>();
            let first = absolute(read(array).value) as *const usize;
            // SAFETY: the array is that long, and readable while the object is loaded.
            let listed = (0..count).rev().map(|at| unsafe { first.add(at).read() });
            finalizers.extend(listed.filter_map(|address| self.function(address)));
            self.write(entries, size, 0);
        }
        if let Some(at) = find(FINI) {
            finalizers.extend(self.function(absolute(read(at).value)));
            // The system adds the base to it.
            let nothing = nothing as Finalizer as usize;
            self.write(entries, at, nothing.wrapping_sub(self.base) as u64);
        }
        finalizers
    }

    /// A function of this object; `None` where there can be none.
    fn function(&self, address: usize) -> Option<Finalizer> {
        let is_code = self.code.iter().any(|code| code.contains(&address));
        // SAFETY: what stands in these places of a library is a function without arguments, by the rules of the format.
        is_code.then(|| unsafe { std::mem::transmute::<usize, Finalizer>(address) })
    }

    /// Writes a value into the dynamic section, which may be read-only by now.
    fn write(&self, entries: *mut Entry, at: usize, value: u64) {
        // SAFETY: within the dynamic section, as `at` was found there.
        let place = unsafe { &raw mut (*entries.add(at)).value };
        let page = rustix::param::page_size();
        let start = place.addr() & !(page - 1);
        let len = (place.addr() + size_of::<u64>()).next_multiple_of(page) - start;
        let pages = place.with_addr(start).cast::<c_void>();
        // SAFETY: pages of the object that hold data; nobody else writes them.
        if unsafe { libc::mprotect(pages, len, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return;
        }
        // SAFETY: the place is aligned as the format has it, and writable now.
        unsafe { ptr::write_volatile(place, value) };
        // The system seals whole pages only: the rest of the last one is data that stays writable.
        let is_sealed =
            |sealed: &Range<usize>| start >= sealed.start & !(page - 1) && start + len <= sealed.end & !(page - 1);
        if self.sealed.as_ref().is_some_and(is_sealed) {
            // SAFETY: as above. That it is read-only again is a precaution.
            unsafe { libc::mprotect(pages, len, libc::PROT_READ) };
        }
    }
}
