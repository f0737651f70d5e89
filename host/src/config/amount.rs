//! Numbers and their units, and what to write instead of `"10s"` for milliseconds or `"8 MiB"` for bytes.

/// Common limits of settings.
pub(super) const HOUR_MS: u64 = 3_600_000;
pub(super) const DAY_MS: u64 = 24 * HOUR_MS;
pub(super) const MEBIBYTE: usize = 1 << 20;
pub(super) const GIBIBYTE: usize = 1 << 30;
pub(super) const MANY: usize = 100_000_000;

/// What to write for `key` instead of a string. `written` is the string, if it is not a secret.
pub(super) fn help(key: &str, written: Option<&str>) -> Option<String> {
    if let Some(number) = written.and_then(|text| plain(text).parse().ok()) {
        return Some(format!("write {} without quotes", grouped(number)));
    }
    let such = |unit: &Unit| {
        let example = grouped(unit.example);
        format!("write a number of {}, without quotes, such as {example}", unit.name)
    };
    { written.and_then(|text| meant(key, text)) }.or_else(|| unit_of(key).map(such))
}

/// What to write for `key` instead of a number with another unit. `None` if `written` is not such a number.
pub(super) fn meant(key: &str, written: &str) -> Option<String> {
    let unit = unit_of(key)?;
    let written = plain(written);
    let (number, other) = written.split_at(written.find(|c: char| c.is_ascii_alphabetic())?);
    let number: f64 = number.trim().parse().ok().filter(|number| *number >= 0.0)?;
    let (_, times) = unit.others.iter().find(|(name, _)| *name == other)?;
    let number = grouped((number * times).round() as u64);
    Some(format!("write {number}: the setting is in {}", unit.name))
}

fn unit_of(key: &str) -> Option<&'static Unit> {
    UNITS.iter().find(|unit| key.ends_with(unit.ending))
}

fn plain(text: &str) -> String {
    text.trim().replace('_', "").to_ascii_lowercase()
}

/// `10_000`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join("_")
}

/// What a number measures.
struct Unit {
    /// The ending of the keys.
    ending: &'static str,
    name: &'static str,
    example: u64,
    /// Other units that people write, and how many of this unit each is.
    others: &'static [(&'static str, f64)],
}

const UNITS: [Unit; 2] = [
    Unit {
        ending: "_ms",
        name: "milliseconds",
        example: 10_000,
        others: &[
            ("ms", 1.0),
            ("s", 1_000.0),
            ("sec", 1_000.0),
            ("m", 60_000.0),
            ("min", 60_000.0),
            ("h", 3_600_000.0),
        ],
    },
    Unit {
        ending: "_bytes",
        name: "bytes",
        example: 1_048_576,
        others: &[
            ("b", 1.0),
            ("k", 1_024.0),
            ("kb", 1_000.0),
            ("kib", 1_024.0),
            ("m", 1_048_576.0),
            ("mb", 1_000_000.0),
            ("mib", 1_048_576.0),
            ("g", 1_073_741_824.0),
            ("gb", 1_000_000_000.0),
            ("gib", 1_073_741_824.0),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, written: Option<&str>, expected: Option<&str>) {
        assert_eq!(help(key, written).as_deref(), expected);
    }

    #[test]
    fn a_number_with_another_unit_is_converted() {
        check(
            "linger_ms",
            Some("10s"),
            Some("write 10_000: the setting is in milliseconds"),
        );
        check(
            "linger_ms",
            Some("1.5 min"),
            Some("write 90_000: the setting is in milliseconds"),
        );
        check(
            "max_x_bytes",
            Some("8 MiB"),
            Some("write 8_388_608: the setting is in bytes"),
        );
        check(
            "max_x_bytes",
            Some("10MB"),
            Some("write 10_000_000: the setting is in bytes"),
        );
    }

    #[test]
    fn a_text_that_is_no_number_comes_with_the_unit_and_an_example() {
        let such = Some("write a number of milliseconds, without quotes, such as 10_000");
        for written in [Some("soon"), Some("10 lightyears"), Some("-1s"), None] {
            check("linger_ms", written, such);
        }
    }

    #[test]
    fn a_number_in_quotes_loses_them() {
        check("shards", Some("4"), Some("write 4 without quotes"));
        check("linger_ms", Some("10000"), Some("write 10_000 without quotes"));
        check("shards", Some("four"), None);
    }
}
