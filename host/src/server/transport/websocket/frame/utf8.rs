//! Checks UTF-8 that arrives in pieces. Finds a fault as soon as its byte is there.

/// How much of a growing text has been checked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    valid: usize,
}

impl Progress {
    /// Checks the bytes that were appended to `text` since the last call. False if no continuation can make it UTF-8.
    pub(super) fn check(&mut self, text: &[u8]) -> bool {
        match std::str::from_utf8(&text[self.valid..]) {
            Ok(_) => self.valid = text.len(),
            // An error without a length only means that the text ends inside a character.
            Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
            Err(_) => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the first fault shows when `bytes` arrive one by one.
    fn check(bytes: &[u8], fault: Option<usize>) {
        let mut progress = Progress::default();
        let found = (1..=bytes.len()).find(|end| !progress.check(&bytes[..*end]));
        assert_eq!(found, fault.map(|index| index + 1), "{bytes:x?}");
    }

    #[test]
    fn a_fault_shows_at_its_byte() {
        check("κόσμε".as_bytes(), None);
        check(b"ok\xff", Some(2));
        check(b"\xc0", Some(0));
        check(b"\xed\xa0\x80", Some(1));
        check(b"\xf4\x90\x80\x80", Some(1));
        check(b"\xe2\x82x", Some(2));
        check(b"\xf0\x9f\x98\x80", None);
    }

    #[test]
    fn an_unfinished_character_is_no_fault_yet() {
        check(b"\xf0\x9f\x98", None);
        check(b"a\xc3", None);
    }
}
