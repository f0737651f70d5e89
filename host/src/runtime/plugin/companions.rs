//! Libraries that lie beside a plugin and belong to it: it names them, and has the system's loader look for them at `$ORIGIN`.
//!
//! The system's loader takes a needed library by its name if one of that name is loaded already: the next generation of a plugin would
//! get the companion of the previous one, whatever lies beside it by then. So companions are read and hashed with their plugin, and
//! staged beside its copy under names that were never used. In the copies, each text that names a companion is overwritten with a name
//! of the same length, and each folder below `$ORIGIN` with `$ORIGIN` itself.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::elf::{Elf, Needs, Text};
use crate::config::ContentHash;

/// Companions of one plugin, those of companions included. Beyond: refused.
const MOST: usize = 64;

/// Libraries that the process has from its start. There can be one of each only.
const OF_THE_PROCESS: [&str; 9] = [
    "ld-linux",
    "libc.so",
    "libm.so",
    "libdl.so",
    "libpthread.so",
    "librt.so",
    "libgcc_s.so",
    "libresolv.so",
    "libutil.so",
];

/// Why a library's companions cannot be staged with it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CompanionError {
    /// There are too many.
    #[error("it needs more than {MOST} libraries from its own folder")]
    TooMany,
    /// The place of a name in the file holds something else too, so that it cannot be overwritten.
    #[error(
        "it needs {0} from its own folder; its string table shares that name with another string, so Bennu cannot rename the copy: link \
         {0} statically, or link the library with `-Wl,-O0`"
    )]
    Shared(String),
    /// No other name of its length can be had.
    #[error(
        "it needs {0} from its own folder; that file name is too short, because each copy needs another of the same length: give it a \
         longer one"
    )]
    TooShort(String),
}

/// The files beside `library` that it needs, by the names that it has for them; those that they need, too.
///
/// # Errors
///
/// If there are too many.
pub(super) fn find(library: &Path, bytes: &[u8]) -> Result<BTreeMap<String, PathBuf>, CompanionError> {
    let mut found = BTreeMap::new();
    let mut left = vec![(library.to_owned(), needs(bytes))];
    while let Some((file, needs)) = left.pop() {
        let origin = file.parent().unwrap_or(Path::new("."));
        for name in names(&needs) {
            if found.contains_key(name) {
                continue;
            }
            let Some(path) = beside(origin, &needs, name) else {
                continue;
            };
            if found.len() >= MOST {
                return Err(CompanionError::TooMany);
            }
            // What cannot be read is said when it is read for good.
            let of_it = fs::read(&path).map(|bytes| self::needs(&bytes)).unwrap_or_default();
            left.push((path.clone(), of_it));
            found.insert(name.to_owned(), path);
        }
    }
    Ok(found)
}

/// The hash of a library with its companions: that of its bytes where it has none.
#[must_use]
pub(crate) fn hash<'a>(
    library: ContentHash,
    companions: impl IntoIterator<Item = (&'a str, ContentHash)>,
) -> ContentHash {
    let mut text = String::new();
    for (name, hash) in companions {
        text.push_str(&format!("{name} {hash:#}\n"));
    }
    if text.is_empty() {
        return library;
    }
    ContentHash::of(format!("{library:#}\n{text}").as_bytes())
}

/// New names for companions, each as long as the old one.
///
/// # Errors
///
/// If one is too short.
pub(super) fn new_names<'a>(
    names: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, String>, CompanionError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    names
        .map(|name| {
            let number = base_36(NEXT.fetch_add(1, Ordering::Relaxed));
            let kept = name.len().checked_sub(number.len() + 1);
            let kept = kept.ok_or_else(|| CompanionError::TooShort(name.clone()))?;
            let kept = name.floor_char_boundary(kept);
            let fill = "-".repeat(name.len() - kept - number.len());
            Ok((name.clone(), format!("{}{fill}{number}", &name[..kept])))
        })
        .collect()
}

/// Rewrites a copy, of a plugin or of a companion: it calls companions by their new names and looks for them in its own folder.
///
/// # Errors
///
/// If the file cannot be changed so.
pub(super) fn rename(bytes: &mut [u8], names: &BTreeMap<String, String>) -> Result<(), CompanionError> {
    let Needs { needed, paths, soname } = needs(bytes);
    for text in needed.iter().chain(&soname) {
        if let Some(new) = names.get(&text.text) {
            overwrite(bytes, text, new)?;
        }
    }
    for text in &paths {
        let new: Vec<String> = text.text.split(':').map(in_origin).collect();
        overwrite(bytes, text, &new.join(":"))?;
    }
    Ok(())
}

/// A folder below `$ORIGIN` becomes `$ORIGIN`, filled up with slashes. Others stay.
fn in_origin(folder: &str) -> String {
    match ORIGINS.iter().find(|origin| folder.starts_with(**origin)) {
        Some(origin) => format!("{origin}{}", "/".repeat(folder.len() - origin.len())),
        None => folder.to_owned(),
    }
}

/// As the system's loader knows the folder that a library lies in.
const ORIGINS: [&str; 2] = ["$ORIGIN", "${ORIGIN}"];

/// Puts `new` in the place of a text, which is as long.
fn overwrite(bytes: &mut [u8], text: &Text, new: &str) -> Result<(), CompanionError> {
    let Range { start, end } = text.place;
    if new == text.text {
        return Ok(());
    }
    // Linkers let a text share the end of a longer one.
    let is_whole = start > 0 && bytes[start - 1] == 0 && bytes.get(end) == Some(&0);
    if !is_whole || new.len() != end - start {
        return Err(CompanionError::Shared(text.text.clone()));
    }
    bytes[start..end].copy_from_slice(new.as_bytes());
    Ok(())
}

fn needs(bytes: &[u8]) -> Needs {
    Elf::check(bytes).map(|elf| elf.needs()).unwrap_or_default()
}

/// The names that are looked for in folders.
fn names(needs: &Needs) -> impl Iterator<Item = &str> {
    let names = needs.needed.iter().map(|needed| &*needed.text);
    names.filter(|name| !name.contains('/') && !OF_THE_PROCESS.iter().any(|known| name.starts_with(known)))
}

/// Where `name` is, if the first folder that has it is below `$ORIGIN`.
fn beside(origin: &Path, needs: &Needs, name: &str) -> Option<PathBuf> {
    let folders = needs.paths.iter().flat_map(|paths| paths.text.split(':'));
    let mut found = folders.filter_map(|folder| {
        let below = ORIGINS.iter().find_map(|known| folder.strip_prefix(known));
        let place = match below {
            Some(below) => origin.join(below.trim_start_matches('/')).join(name),
            None => Path::new(folder).join(name),
        };
        place.is_file().then_some((below.is_some(), place))
    });
    found.next().filter(|(is_beside, _)| *is_beside).map(|(_, place)| place)
}

fn base_36(mut number: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut digits = Vec::new();
    loop {
        digits.push(char::from(DIGITS[(number % 36) as usize]));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names_are_as_long_and_never_the_same() {
        let names = ["libhelper.so".to_owned(), "libhelper.so.1".to_owned()];
        let first = new_names(names.iter()).unwrap();
        let second = new_names(names.iter()).unwrap();
        for name in &names {
            assert_eq!(first[name].len(), name.len());
            assert_ne!(first[name], second[name]);
            assert!(first[name].starts_with("lib") && first[name] != *name, "{first:?}");
        }
        let short = new_names(["a".to_owned()].iter());
        assert_eq!(short, Err(CompanionError::TooShort("a".to_owned())));
    }

    #[test]
    fn folders_below_the_plugins_become_its_own() {
        assert_eq!(in_origin("$ORIGIN"), "$ORIGIN");
        assert_eq!(in_origin("$ORIGIN/../lib"), "$ORIGIN///////");
        assert_eq!(in_origin("${ORIGIN}/lib"), "${ORIGIN}////");
        assert_eq!(in_origin("/opt/lib"), "/opt/lib");
    }

    #[test]
    fn a_text_that_shares_its_end_is_not_overwritten() {
        let mut bytes = b"\0xliba.so\0liba.so\0".to_vec();
        let text = |start: usize| Text {
            text: "liba.so".to_owned(),
            place: start..start + 7,
        };
        let shared = overwrite(&mut bytes, &text(2), "lib-000");
        assert_eq!(shared, Err(CompanionError::Shared("liba.so".to_owned())));
        overwrite(&mut bytes, &text(10), "lib-000").unwrap();
        assert_eq!(bytes, b"\0xliba.so\0lib-000\0");
    }

    #[test]
    fn companions_change_the_hash_of_their_plugin() {
        let (own, other) = (ContentHash::of(b"plugin"), ContentHash::of(b"companion"));
        assert_eq!(hash(own, []), own);
        let with = hash(own, [("liba.so", other)]);
        assert_ne!(with, own);
        assert_ne!(hash(own, [("libb.so", other)]), with);
        assert_ne!(hash(own, [("liba.so", own)]), with);
    }
}
