//! What a server says while it is tortured, as far as it counts.

use std::net::SocketAddr;
use std::time::Duration;

/// One line of a server's output that matters here.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// Where clients connect.
    Listening(SocketAddr),
    /// Where the admin pages are.
    Admin(SocketAddr),
    /// A library came into service.
    InService {
        /// Its number.
        generation: u64,
        /// How long moving the topics took.
        swap: Duration,
    },
    /// A library was refused.
    Refused {
        /// By which step.
        step: String,
        /// And why.
        code: String,
    },
    /// A topic has moved.
    Moved {
        /// How long it was held.
        held: Duration,
        /// What waited in its mailbox by then.
        waited: u64,
    },
    /// Topics could not be carried over.
    Kept {
        /// How many.
        topics: u64,
    },
    /// A library was taken out of service again.
    RolledBack,
    /// A callback of the plugin panicked.
    Panicked,
    /// `dev` has built a plugin.
    Built {
        /// How long cargo took.
        took: Duration,
    },
    /// Of a generation nothing is left in memory.
    Unloaded(u64),
    /// A generation is in memory still.
    Mapped(u64),
}

/// Reads the lines of one server.
#[derive(Debug, Default)]
pub struct Reader {
    /// A refusal has begun that shows where it was made, in several lines; its fields come at the end.
    in_refusal: bool,
}

impl Reader {
    /// What a line says; `None` if it does not matter.
    pub fn read(&mut self, line: &str) -> Option<Said> {
        self.in_refusal |= line.contains(": library refused");
        if !self.in_refusal {
            return Said::read(line);
        }
        let (step, code) = (field(line, "step")?.to_owned(), field(line, "code")?.to_owned());
        self.in_refusal = false;
        Some(Said::Refused { step, code })
    }
}

impl Said {
    fn read(line: &str) -> Option<Self> {
        if let Some(address) = line.strip_prefix("listening on http://") {
            return address.parse().ok().map(Self::Listening);
        }
        if let Some(address) = line.strip_prefix("admin on http://") {
            return address.parse().ok().map(Self::Admin);
        }
        let number = |name| field(line, name)?.parse::<u64>().ok();
        let said = if line.contains(": topic moved") {
            Self::Moved {
                held: Duration::from_micros(number("held_us")?),
                waited: number("waited")?,
            }
        } else if line.contains(": plugin in service") {
            Self::InService {
                generation: number("generation")?,
                swap: Duration::try_from_secs_f64(field(line, "swap_ms")?.parse::<f64>().ok()? / 1000.0).ok()?,
            }
        } else if line.contains(": topics could not be carried over") {
            Self::Kept {
                topics: number("failed")?,
            }
        } else if line.contains(": rolled back after ") {
            Self::RolledBack
        } else if line.contains(": plugin panicked") {
            Self::Panicked
        } else if line.contains(": built ") {
            Self::Built {
                took: Duration::from_millis(number("build_ms")?),
            }
        } else if line.contains(": generation unloaded") {
            Self::Unloaded(number("generation")?)
        } else if line.contains(": generation ended, but its library is still mapped") {
            Self::Mapped(number("generation")?)
        } else {
            return None;
        };
        Some(said)
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
    fn check(lines: &str, expected: Option<Said>) {
        let mut reader = Reader::default();
        let said = lines.lines().filter_map(|line| reader.read(line)).next();
        assert_eq!(said, expected, "{lines}");
    }

    #[test]
    fn lines_that_matter_are_read() {
        check(
            "listening on http://127.0.0.1:4000",
            Some(Said::Listening(([127, 0, 0, 1], 4000).into())),
        );
        check(
            "2026-11-01T00:00:00Z DEBUG bennu::plugin::swap: topic moved plugin=\"ledger\" held_us=310 waited=2",
            Some(Said::Moved {
                held: Duration::from_micros(310),
                waited: 2,
            }),
        );
        check(
            "2026-11-01T00:00:00Z  INFO bennu::plugin::service: plugin in service plugin=\"ledger\" version=\"0.1.0\" \
             generation=2 probed_ms=1.5 topics=3 swap_ms=12.5 longest_pause_us=3",
            Some(Said::InService {
                generation: 2,
                swap: Duration::from_micros(12_500),
            }),
        );
        check(
            "2026-11-01T00:00:00Z ERROR bennu::plugin::service: library refused, the one before stays: its settings\n  --> x:1\n plugin=\"ledger\" \
             step=\"probe\" code=\"settings\"",
            Some(Said::Refused {
                step: "probe".into(),
                code: "settings".into(),
            }),
        );
    }

    #[test]
    fn other_lines_are_not() {
        check("2026-11-01T00:00:00Z  INFO bennu::server: started", None);
        check("", None);
    }
}
