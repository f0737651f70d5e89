//! Collects what a plugin writes about an error, and shortens it for people to read.

use std::borrow::Cow;
use std::fmt::Write as _;

use bennu_plugin::abi::{Bytes, Writer};

/// Bytes that are kept of a plugin's text.
const MAX_BYTES: usize = 1024 * 1024;
/// Bytes of it that the log and messages show.
const MAX_SAID: usize = 1024;
/// Room behind them for the note about its full length.
const MAX_END: usize = 32;

/// Collects text, up to 1 MiB.
#[derive(Default)]
pub(super) struct Text(Vec<u8>);

impl Text {
    /// A writer to lend for one call.
    pub(super) fn writer(&mut self) -> Writer {
        Writer {
            cx: (&raw mut self.0).cast(),
            write,
        }
    }

    /// The text. Bytes that are not UTF-8 are replaced.
    pub(super) fn into_string(self) -> String {
        String::from_utf8(self.0).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// Appends to the [`Text`] behind `cx`.
unsafe extern "C" fn write(cx: *mut (), bytes: Bytes) {
    // SAFETY: `cx` is from `Text::writer`; the plugin calls this during the call that it was lent to, on its thread.
    let text = unsafe { &mut *cx.cast::<Vec<u8>>() };
    // SAFETY: lent by the plugin for this call.
    let bytes = unsafe { bytes.as_slice() };
    let room = MAX_BYTES.saturating_sub(text.len());
    text.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

/// A text of a plugin or a client as people read it: one line of at most 1 KiB. Line ends and tabs become spaces, other control
/// characters are escaped. Applying it twice changes nothing.
pub(in crate::runtime::plugin) fn said(text: &str) -> Cow<'_, str> {
    let text = text.trim_end_matches(['\n', '\r']);
    let most = MAX_SAID + MAX_END;
    if text.len() <= most && !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len().min(most));
    for letter in text.chars() {
        let start = line.len();
        match letter {
            '\r' => {}
            '\n' | '\t' => line.push(' '),
            control if control.is_control() => line.extend(control.escape_default()),
            letter => line.push(letter),
        }
        if line.len() > MAX_SAID {
            line.truncate(start);
            // Writing to memory does not fail.
            let _ = write!(line, "… ({} bytes in all)", text.len());
            break;
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_one_line_without_control_characters() {
        assert_eq!(said("as it is: ä"), "as it is: ä");
        assert_eq!(said("left == right\r\n  left: 1\n"), "left == right   left: 1");
        assert_eq!(said("\u{1b}[31m\0\u{7f}\tred"), "\\u{1b}[31m\\u{0}\\u{7f} red");
    }

    #[test]
    fn what_is_long_is_cut_off_and_says_so_once() {
        let text = "ä".repeat(40_000);
        let line = said(&text);
        assert!(line.ends_with("ä… (80000 bytes in all)"), "{line}");
        assert!(line.len() <= MAX_SAID + MAX_END);
        assert_eq!(said(&line), line);
        let fits = "x".repeat(MAX_SAID);
        assert_eq!(said(&fits), fits);
        let escapes = "\0".repeat(1_000);
        assert!(said(&escapes).ends_with("… (1000 bytes in all)"));
    }
}
