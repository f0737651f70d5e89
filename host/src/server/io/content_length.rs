//! Notices that the head of a request has a `Content-Length`.
//!
//! hyper removes it from a request that has `Transfer-Encoding` as well. Such a request is to be refused, as a proxy in front
//! of the server may see its end elsewhere, so the bytes are looked at before hyper reads them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

/// A line of a head begins behind the end of another.
const LINE: &[u8] = b"\ncontent-length:";

/// What a connection and the requests that it brings both know. They share a thread; hyper asks for `Send` all the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContentLength(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// So much of [`LINE`] is at the end of what was read.
    matched: AtomicU8,
    seen: AtomicBool,
    /// The request was answered: what is read next belongs to another one.
    answered: AtomicBool,
}

impl ContentLength {
    /// Whether there was one in what was read since the last answer.
    pub(crate) fn is_seen(&self) -> bool {
        self.0.seen.load(Relaxed)
    }

    /// Takes note of what was read.
    pub(super) fn read(&self, bytes: &[u8]) {
        let mut matched = usize::from(self.0.matched.load(Relaxed));
        let mut seen = self.is_seen();
        if !bytes.is_empty() && self.0.answered.swap(false, Relaxed) {
            (matched, seen) = (0, false);
        }
        let mut rest = bytes;
        while !seen {
            if matched == 0 {
                let Some(end) = memchr::memchr(b'\n', rest) else { break };
                rest = &rest[end + 1..];
                matched = 1;
            }
            let Some((byte, behind)) = rest.split_first() else {
                break;
            };
            if byte.eq_ignore_ascii_case(&LINE[matched]) {
                matched += 1;
                seen = matched == LINE.len();
                rest = behind;
            } else {
                // It may be the end of a line itself.
                matched = 0;
            }
        }
        // At most as long as the line.
        self.0.matched.store(matched as u8, Relaxed);
        self.0.seen.store(seen, Relaxed);
    }

    /// Takes note that something was written.
    pub(super) fn wrote(&self) {
        self.0.answered.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, expected: bool) {
        for cut in 0..=head.len() {
            let length = ContentLength::default();
            let (one, other) = head.as_bytes().split_at(cut);
            length.read(one);
            length.read(other);
            assert_eq!(length.is_seen(), expected, "{head:?} in two parts, cut at {cut}");
        }
    }

    #[test]
    fn it_is_seen_in_any_case_and_however_the_head_is_cut() {
        check("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", true);
        check("POST / HTTP/1.1\nhost: a\ncontent-LENGTH:1\n\n", true);
        check("\n\ncontent-length:", true);
        check(
            "POST / HTTP/1.1\r\nx-content-length: 1\r\ncontent-lengths: 1\r\n\r\n",
            false,
        );
        check("POST /content-length: HTTP/1.1\r\n\r\n", false);
        check("", false);
    }

    #[test]
    fn what_is_read_after_an_answer_is_another_request() {
        let length = ContentLength::default();
        length.read(b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\na");
        length.wrote();
        assert!(length.is_seen(), "until something is read");
        length.read(b"POST / HTTP/1.1\r\n\r\n");
        assert!(!length.is_seen());
        length.read(b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n");
        assert!(length.is_seen());
    }
}
