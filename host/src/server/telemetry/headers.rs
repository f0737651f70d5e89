//! The headers that a collector wants to see, such as a key. They are secret: no error shows a value.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::TelemetryError;
use crate::config::trust::{Use, open_file};
use crate::config::{HEADERS_VARIABLE, Telemetry};

/// The longest file of headers, in bytes.
const MOST_BYTES: u64 = 65_536;

/// The headers by their names, from the environment or else from the file that the configuration names.
///
/// # Errors
///
/// If the file cannot be read, others can change it, or something in it is no header.
pub(super) fn obtain(settings: &Telemetry) -> Result<HashMap<String, String>, TelemetryError> {
    // Many tools set an empty variable for one that is not set.
    let variable = std::env::var(HEADERS_VARIABLE)
        .ok()
        .filter(|text| !text.trim().is_empty());
    if let Some(text) = variable {
        return of_variable(&text);
    }
    let Some(file) = &settings.headers_file else {
        return Ok(HashMap::new());
    };
    let text = read(file).map_err(|source| TelemetryError::Unreadable {
        file: file.clone(),
        source,
    })?;
    of_file(&text, file)
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    open_file(file, Use::Headers)?
        .take(MOST_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// `name=value,name=value`, the values percent-encoded.
fn of_variable(text: &str) -> Result<HashMap<String, String>, TelemetryError> {
    let pairs = text.split(',').enumerate().map(|(index, pair)| {
        let bad = || TelemetryError::Header {
            from: HEADERS_VARIABLE.to_owned(),
            number: index + 1,
            shape: "name=value",
        };
        let (name, value) = pair.split_once('=').ok_or_else(bad)?;
        let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| bad())?;
        checked(name, &value).ok_or_else(bad)
    });
    pairs.collect()
}

/// `name: value`, one a line.
fn of_file(text: &str, file: &Path) -> Result<HashMap<String, String>, TelemetryError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let pairs = lines.map(|(index, line)| {
        let bad = || TelemetryError::Header {
            from: file.display().to_string(),
            number: index + 1,
            shape: "name: value",
        };
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        checked(name, value.trim()).ok_or_else(bad)
    });
    pairs.collect()
}

fn checked(name: &str, value: &str) -> Option<(String, String)> {
    let name = HeaderName::try_from(name.trim()).ok()?;
    HeaderValue::try_from(value).ok()?;
    Some((name.to_string(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(headers: Result<HashMap<String, String>, TelemetryError>) -> String {
        match headers {
            Ok(headers) => {
                let mut all: Vec<_> = headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
                all.sort();
                all.join(" ")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_variable_is_read_as_opentelemetry_writes_it() {
        assert_eq!(shown(of_variable("Api-Key = a%2Cb, b=c=d")), "api-key=a,b b=c=d");
        for bad in ["s3cret", "a=b,s3cret", "a b=s3cret", "a=s3cret%0a"] {
            let said = shown(of_variable(bad));
            assert!(said.contains("is not of the form `name=value`"), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn a_file_has_a_header_on_each_line() {
        let file = Path::new("headers");
        assert_eq!(
            shown(of_file("Authorization: Bearer a:b\n\nx: y\n", file)),
            "authorization=Bearer a:b x=y"
        );
        for bad in ["s3cret", "a: b\n# s3cret: c", "a: s3cret\u{7}"] {
            let said = shown(of_file(bad, file));
            assert!(said.contains("is not of the form `name: value`"), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
    }
}
