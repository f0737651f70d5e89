//! Tells whether a closed library is really gone from the process.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Looks for one file in `/proc/self/maps`. Names of staged files are never used again, so the name is enough. Inode numbers are used
/// again, and device numbers differ on layered file systems.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    path: PathBuf,
}

impl Mapping {
    /// For the file at `path`, which may have been removed since it was mapped.
    #[must_use]
    pub(crate) fn of(path: &Path) -> Self {
        Self {
            path: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
        }
    }

    /// Whether code of the file is mapped. Mappings without code do not count: a backtrace leaves one.
    ///
    /// # Errors
    ///
    /// If `/proc/self/maps` can't be read.
    pub(crate) fn is_executable(&self) -> io::Result<bool> {
        let maps = BufReader::new(File::open("/proc/self/maps")?);
        for line in maps.split(b'\n') {
            if executable_file(&line?).is_some_and(|path| path == self.path.as_os_str()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The file of a line of `maps` (`start-end perms offset dev inode path`), if it is an executable mapping.
fn executable_file(line: &[u8]) -> Option<&OsStr> {
    let mut rest = line;
    let mut fields = [&line[..0]; 5];
    for field in &mut fields {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        *field = &rest[..end];
        rest = rest[end..].trim_ascii_start();
    }
    let path = rest.strip_suffix(b" (deleted)").unwrap_or(rest);
    (fields[1].get(2) == Some(&b'x') && path.starts_with(b"/")).then(|| OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<&str>) {
        assert_eq!(executable_file(line.as_bytes()), expected.map(OsStr::new), "{line}");
    }

    #[test]
    fn a_line_with_code_names_its_file() {
        check(
            "7f00-7f01 r-xp 00001000 fe:01 1234      /tmp/stage/echo-1.so",
            Some("/tmp/stage/echo-1.so"),
        );
        check(
            "7f00-7f01 r-xp 00001000 fe:01 1234      /tmp/a b.so (deleted)",
            Some("/tmp/a b.so"),
        );
    }

    #[test]
    fn lines_without_code_or_file_do_not_count() {
        check("7f00-7f01 r--p 00001000 fe:01 1234      /tmp/stage/echo-1.so", None);
        check("7f00-7f01 r-xp 00000000 00:00 0         [vdso]", None);
        check("7f00-7f01 r-xp 00000000 00:00 0 ", None);
        check("", None);
    }

    #[test]
    fn this_program_is_mapped_and_a_missing_file_is_not() {
        assert!(Mapping::of(&std::env::current_exe().unwrap()).is_executable().unwrap());
        assert!(!Mapping::of(Path::new("/no/such/file.so")).is_executable().unwrap());
    }
}
