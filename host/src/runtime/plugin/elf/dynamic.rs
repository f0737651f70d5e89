//! What a library says to the system's loader: which libraries it needs, where it looks for them, and what makes it hard to unload.

use std::ops::Range;
use std::path::Path;

use object::elf::{
    DF_1_NODELETE, DF_STATIC_TLS, DT_FLAGS, DT_FLAGS_1, DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, DynamicTag, PT_TLS,
    SHT_DYNSYM, STB_GNU_UNIQUE,
};
use object::endian::LittleEndian;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, Sym};

use super::Elf;
use crate::runtime::plugin::stage::read;

/// What decides whether a library can be unloaded, and what loading it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its thread-locals need room that every thread has had since the process started: so many bytes for each load.
    pub(crate) static_tls: Option<u64>,
    /// It was linked with `-z nodelete`.
    pub(crate) nodelete: bool,
    /// It defines symbols that are to be the same in all libraries, which the system therefore never unloads.
    pub(crate) has_unique_symbols: bool,
    /// It imports `on_exit`.
    pub(crate) uses_on_exit: bool,
}

impl Facts {
    /// Those of a file. Nothing is known of what is no library.
    #[must_use]
    pub(crate) fn of_file(path: &Path) -> Self {
        let image = read(path).ok();
        let facts = image.and_then(|(image, _)| Some(Elf::check(&image).ok()?.facts()));
        facts.unwrap_or_default()
    }
}

/// A text of the dynamic section, and where it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    /// UTF-8.
    pub(crate) text: String,
    /// Its bytes in the file, without the zero at its end.
    pub(crate) place: Range<usize>,
}

/// The texts that the system's loader goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// The libraries that it needs.
    pub(crate) needed: Vec<Text>,
    /// Where it looks for them: folders with colons between.
    pub(crate) paths: Vec<Text>,
    /// What it is called itself.
    pub(crate) soname: Option<Text>,
}

impl Elf<'_> {
    /// What decides whether it can be unloaded.
    #[must_use]
    pub(crate) fn facts(&self) -> Facts {
        let flags = |tag| self.values(tag).into_iter().fold(0, |flags, value| flags | value);
        let static_tls = flags(DT_FLAGS) & DF_STATIC_TLS.0 != 0;
        let (has_unique_symbols, uses_on_exit) = self.symbols();
        Facts {
            static_tls: static_tls.then(|| self.thread_local_bytes()),
            nodelete: flags(DT_FLAGS_1) & DF_1_NODELETE.0 != 0,
            has_unique_symbols,
            uses_on_exit,
        }
    }

    /// What it needs, and where it looks for that.
    #[must_use]
    pub(crate) fn needs(&self) -> Needs {
        let runpath = self.texts(DT_RUNPATH);
        Needs {
            needed: self.texts(DT_NEEDED),
            // The older kind counts only where there is none of the newer.
            paths: if runpath.is_empty() {
                self.texts(DT_RPATH)
            } else {
                runpath
            },
            soname: self.texts(DT_SONAME).pop(),
        }
    }

    fn values(&self, tag: DynamicTag) -> Vec<u64> {
        let Ok(sections) = self.header.sections(LittleEndian, self.bytes) else {
            return Vec::new();
        };
        let Ok(Some((entries, _))) = sections.dynamic(LittleEndian, self.bytes) else {
            return Vec::new();
        };
        let found = entries.iter().filter(|entry| entry.tag(LittleEndian) == tag);
        found.map(|entry| entry.val(LittleEndian)).collect()
    }

    fn texts(&self, tag: DynamicTag) -> Vec<Text> {
        let found = self.values(tag).into_iter();
        found.filter_map(|offset| self.text(offset)).collect()
    }

    /// A text of the table that belongs to the dynamic section.
    fn text(&self, offset: u64) -> Option<Text> {
        let sections = self.header.sections(LittleEndian, self.bytes).ok()?;
        let (_, table) = sections.dynamic(LittleEndian, self.bytes).ok()??;
        let (table, _) = sections.section(table).ok()?.file_range(LittleEndian)?;
        let start = usize::try_from(table.checked_add(offset)?).ok()?;
        let len = self.bytes.get(start..)?.iter().position(|byte| *byte == 0)?;
        let place = start..start + len;
        let text = str::from_utf8(&self.bytes[place.clone()]).ok()?.to_owned();
        Some(Text { text, place })
    }

    fn thread_local_bytes(&self) -> u64 {
        let segments = self
            .header
            .program_headers(LittleEndian, self.bytes)
            .unwrap_or_default();
        let thread_locals = segments.iter().find(|segment| segment.p_type(LittleEndian) == PT_TLS);
        thread_locals.map_or(0, |segment| {
            let align = segment.p_align(LittleEndian).max(1);
            segment
                .p_memsz(LittleEndian)
                .checked_next_multiple_of(align)
                .unwrap_or(0)
        })
    }

    /// Whether it defines symbols that are unique in the process, and whether it imports `on_exit`.
    fn symbols(&self) -> (bool, bool) {
        let (mut unique, mut on_exit) = (false, false);
        let Ok(sections) = self.header.sections(LittleEndian, self.bytes) else {
            return (false, false);
        };
        let Ok(symbols) = sections.symbols(LittleEndian, self.bytes, SHT_DYNSYM) else {
            return (false, false);
        };
        for symbol in symbols.symbols() {
            if symbol.is_undefined(LittleEndian) {
                on_exit = on_exit || symbol.name(LittleEndian, symbols.strings()) == Ok(b"on_exit");
            } else {
                unique = unique || symbol.st_bind() == STB_GNU_UNIQUE;
            }
        }
        (unique, on_exit)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::runtime::plugin::testing::c_library_with;

    fn facts(name: &str, source: &str, arguments: &[&str]) -> Facts {
        let bytes = fs::read(c_library_with(name, source, arguments)).unwrap();
        Elf::check(&bytes).unwrap().facts()
    }

    #[test]
    fn what_makes_a_library_hard_to_unload_is_read_from_its_file() {
        let plain = facts("facts-plain", "int answer(void) { return 1; }", &[]);
        assert_eq!(plain, Facts::default());
        let source = "static __thread char room[100] __attribute__((tls_model(\"initial-exec\"))); char *at(void) { return room; }";
        let bytes = facts("facts-tls", source, &[]).static_tls.unwrap();
        assert!((100..200).contains(&bytes), "{bytes}");
        let dynamic = "static __thread char room[100]; char *at(void) { return room; }";
        assert_eq!(facts("facts-dynamic-tls", dynamic, &[]).static_tls, None);
        assert!(facts("facts-nodelete", "int answer(void) { return 1; }", &["-Wl,-z,nodelete"]).nodelete);
        let source = "int on_exit(void (*)(int, void *), void *); int set(void) { return on_exit(0, 0); }";
        assert!(facts("facts-on-exit", source, &[]).uses_on_exit);
    }

    #[test]
    fn needed_libraries_and_folders_are_read_with_their_places() {
        let arguments = ["-Wl,-soname,libown.so.1", "-Wl,-rpath,$ORIGIN/lib:/opt/lib"];
        let bytes = fs::read(c_library_with(
            "needs",
            "#include <stdio.h>\nint f(void) { return puts(\"\"); }",
            &arguments,
        ))
        .unwrap();
        let needs = Elf::check(&bytes).unwrap().needs();
        assert_eq!(needs.paths[0].text, "$ORIGIN/lib:/opt/lib");
        let soname = needs.soname.unwrap();
        assert_eq!(&bytes[soname.place], b"libown.so.1");
        assert!(needs.needed.iter().any(|needed| needed.text.starts_with("libc.so")));
    }
}
