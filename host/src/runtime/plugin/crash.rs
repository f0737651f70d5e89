//! Reads at the start what a crash of an earlier run has left, logs each crash in one line, and quarantines its cause.
//!
//! A plugin that crashes takes its host down, as any native code does. Its contents go into quarantine, so that the host comes back
//! with the last good ones.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::loader;
pub(crate) use super::loader::crash::write_json;
use super::quarantine::{Quarantine, Quarantined, private_dir};
use crate::config::ContentHash;

/// The name of the file in the state folder.
const FILE: &str = "crash";

/// How a run ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Crash {
    /// Such as `SIGSEGV`, or `exit`.
    signal: String,
    /// The thread's name.
    thread: String,
    /// Whose code crashed; empty if no plugin's.
    plugin: String,
    hash: Option<ContentHash>,
    /// The callback; or that it was on a thread of the plugin's own.
    entry: String,
    event: String,
}

/// Logs the crashes that earlier runs have left in `state_dir` and quarantines the contents that caused them. From now on a crash of
/// this run leaves the same.
pub(crate) fn start(state_dir: &Path, quarantine: &Quarantine) {
    for crash in take(&state_dir.join(FILE)) {
        crash.heed(quarantine);
    }
    let installed = private_dir(state_dir).and_then(|()| loader::crash::install(&state_dir.join(FILE)));
    if let Err(error) = installed {
        let dir = state_dir.display();
        tracing::warn!(%dir, %error, "cannot write to the state folder: after a crash, the next start cannot say what crashed");
    }
}

/// Reads the file, and empties it.
fn take(file: &Path) -> Vec<Crash> {
    let text = match fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                unreadable(file, &error);
            }
            return Vec::new();
        }
    };
    // Not removed, because another host may have it open.
    if !text.is_empty()
        && let Err(error) = fs::write(file, "")
    {
        unreadable(file, &error);
    }
    text.lines().map(Crash::parse).collect()
}

fn unreadable(file: &Path, error: &io::Error) {
    tracing::warn!(file = %file.display(), %error, "cannot read a crash report");
}

impl Crash {
    fn parse(line: &str) -> Self {
        let mut crash = Self::default();
        for (name, value) in line.split('\t').filter_map(|field| field.split_once('=')) {
            match name {
                "signal" => value.clone_into(&mut crash.signal),
                "thread" => value.clone_into(&mut crash.thread),
                "plugin" => value.clone_into(&mut crash.plugin),
                "hash" => crash.hash = ContentHash::parse(value),
                "entry" => value.clone_into(&mut crash.entry),
                "event" => value.clone_into(&mut crash.event),
                _ => {}
            }
        }
        crash
    }

    fn heed(&self, quarantine: &Quarantine) {
        let Self {
            signal,
            thread,
            plugin,
            hash,
            entry,
            event,
        } = self;
        let Some(hash) = *hash else {
            tracing::error!(
                signal,
                thread,
                "the previous run of the server crashed, outside of plugin code"
            );
            return;
        };
        tracing::error!(
            plugin, %hash, signal, entry, event, thread,
            "the previous run of the server crashed in this plugin: this build is now in quarantine (`bennu plugins --lift` takes it out)"
        );
        let of = if event.is_empty() {
            String::new()
        } else {
            format!(" of {event:?}")
        };
        let reason = format!("it crashed the server with {signal} in {entry}{of}");
        quarantine.add(hash, &Quarantined::now(plugin, "crashed", &reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plugin::testing::Folder;

    #[test]
    fn a_line_is_read_whole_or_as_far_as_it_was_written() {
        let hash = ContentHash::of(b"bytes");
        let line = format!("signal=SIGSEGV\tthread=room.1.0\tplugin=room\thash={hash:#}\tentry=handle_in\tevent=a=b\t");
        let crash = Crash::parse(&line);
        assert_eq!(
            (&*crash.plugin, &*crash.entry, &*crash.event),
            ("room", "handle_in", "a=b")
        );
        assert_eq!(crash.hash, Some(hash));
        let cut = Crash::parse("signal=SIGBUS\tthread=io-0\tplugin=ro");
        assert_eq!((&*cut.signal, cut.hash), ("SIGBUS", None));
    }

    #[test]
    fn what_is_taken_is_heeded_once() {
        let dir = Folder::new();
        let (file, hash) = (dir.join(FILE), ContentHash::of(b"bytes"));
        assert_eq!(take(&file), []);
        fs::write(
            &file,
            format!("signal=SIGABRT\tplugin=room\thash={hash:#}\tentry=join\t\n"),
        )
        .unwrap();
        let quarantine = Quarantine::new(&dir, 10);
        for crash in take(&file) {
            crash.heed(&quarantine);
        }
        let why = quarantine.find(hash).unwrap();
        assert_eq!(
            (&*why.plugin, &*why.code, &*why.reason),
            ("room", "crashed", "it crashed the server with SIGABRT in join")
        );
        assert_eq!(take(&file), []);
    }
}
