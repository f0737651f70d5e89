//! The events in a server's log that matter to the tests.

use std::net::SocketAddr;
use std::time::Duration;

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum LogEvent {
    /// The server listens for clients.
    Listening(SocketAddr),
    /// The server has admin pages.
    Admin(SocketAddr),
    /// A library came into service.
    InService {
        /// The generation.
        generation: u64,
        /// How long it took to move all topics.
        swap: Duration,
    },
    /// The server rejected a library.
    Rejected {
        /// The step that failed.
        step: String,
        /// The code of the reason.
        code: String,
    },
    /// A topic has moved to new code.
    Moved {
        /// How long the topic was held.
        held: Duration,
        /// How many events waited in its mailbox.
        waited: u64,
    },
    /// New code could not take over topics.
    Kept {
        /// How many.
        topics: u64,
    },
    /// The server rolled back to the previous code.
    RolledBack,
    /// A callback of the plugin panicked.
    Panicked,
    /// `bennu dev` has built a plugin.
    Built {
        /// How long the build took.
        took: Duration,
    },
    /// The library of this generation is no longer in memory.
    Unloaded(u64),
    /// This generation has ended, but its library stays in memory.
    Mapped(u64),
}

/// Finds events in the lines of a log.
#[derive(Debug, Default)]
pub(super) struct LogReader {
    /// Whether a rejection has begun. It may have several lines, with the fields in the last one.
    in_rejection: bool,
}

impl LogReader {
    /// The event that ends with this line, if any.
    pub(super) fn read(&mut self, line: &str) -> Option<LogEvent> {
        self.in_rejection |= line.contains(": library rejected");
        if !self.in_rejection {
            return LogEvent::parse(line);
        }
        let (step, code) = (field(line, "step")?.to_owned(), field(line, "code")?.to_owned());
        self.in_rejection = false;
        Some(LogEvent::Rejected { step, code })
    }
}

impl LogEvent {
    fn parse(line: &str) -> Option<Self> {
        if let Some(address) = line.strip_prefix("listening on http://") {
            return address.parse().ok().map(Self::Listening);
        }
        if let Some(address) = line.strip_prefix("admin on http://") {
            return address.parse().ok().map(Self::Admin);
        }
        let number = |name| field(line, name)?.parse::<u64>().ok();
        let event = if line.contains(": topic moved") {
            Self::Moved {
                held: Duration::from_micros(number("held_us")?),
                waited: number("waited")?,
            }
        } else if line.contains(": plugin in service") {
            Self::InService {
                generation: number("generation")?,
                swap: Duration::try_from_secs_f64(field(line, "swap_ms")?.parse::<f64>().ok()? / 1000.0).ok()?,
            }
        } else if line.contains(": topics could not be moved") {
            Self::Kept {
                topics: number("failed")?,
            }
        } else if line.contains(": rolled back to generation ") {
            Self::RolledBack
        } else if line.contains(": plugin panicked") {
            Self::Panicked
        } else if line.contains(": built ") {
            Self::Built {
                took: Duration::from_millis(number("build_ms")?),
            }
        } else if line.contains(": generation unloaded") {
            Self::Unloaded(number("generation")?)
        } else if line.contains(": generation ended; its library stays in memory") {
            Self::Mapped(number("generation")?)
        } else {
            return None;
        };
        Some(event)
    }
}

/// The value of a field in a line of the log.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let start = line.match_indices(name).find_map(|(at, _)| {
        let value = line[at + name.len()..].strip_prefix('=')?;
        (at == 0 || line[..at].ends_with(' ')).then_some(value)
    })?;
    match start.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => start.split(' ').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &str, expected: Option<LogEvent>) {
        let mut reader = LogReader::default();
        let event = lines.lines().find_map(|line| reader.read(line));
        assert_eq!(event, expected, "{lines}");
    }

    #[test]
    fn events_are_read_with_their_fields() {
        check(
            "listening on http://127.0.0.1:4000",
            Some(LogEvent::Listening(([127, 0, 0, 1], 4000).into())),
        );
        check(
            "admin on http://127.0.0.1:4001",
            Some(LogEvent::Admin(([127, 0, 0, 1], 4001).into())),
        );
        check(
            "2026-11-01T00:00:00Z DEBUG bennu::runtime::plugin::swap: topic moved plugin=\"ledger\" held_us=310 waited=2",
            Some(LogEvent::Moved {
                held: Duration::from_micros(310),
                waited: 2,
            }),
        );
        check(
            "2026-11-01T00:00:00Z  INFO bennu::runtime::plugin::manager: plugin in service plugin=\"ledger\" version=\"0.1.0\" \
             generation=2 probed_ms=1.5 topics=3 swap_ms=12.5 longest_pause_us=3",
            Some(LogEvent::InService {
                generation: 2,
                swap: Duration::from_micros(12_500),
            }),
        );
        check(
            "2026-11-01T00:00:00Z ERROR bennu::server::control: library rejected; the previous code stays in service: \
             its settings\n  --> x:1\n plugin=\"ledger\" \
             step=\"probe\" code=\"settings\"",
            Some(LogEvent::Rejected {
                step: "probe".into(),
                code: "settings".into(),
            }),
        );
    }

    #[test]
    fn what_becomes_of_a_generation_is_read() {
        let at = "2026-11-01T00:00:00Z  INFO bennu::runtime::plugin::retire";
        let unloaded = format!("{at}: generation unloaded plugin=\"ledger\" generation=3");
        check(&unloaded, Some(LogEvent::Unloaded(3)));
        let mapped = format!("{at}: generation ended; its library stays in memory plugin=\"ledger\" generation=3");
        check(&mapped, Some(LogEvent::Mapped(3)));
        let rolled_back =
            format!("{at}: rolled back to generation 2 after 3 panics: no state is lost plugin=\"ledger\"");
        check(&rolled_back, Some(LogEvent::RolledBack));
    }

    #[test]
    fn other_lines_are_no_events() {
        check("2026-11-01T00:00:00Z  INFO bennu::server: started", None);
        check("", None);
    }
}
