//! The queue of frames for one client.

use std::collections::VecDeque;
use std::io::{self, Write};

use bytes::{Buf as _, Bytes};

use crate::server::transport::queue::{self, takes};
use crate::server::transport::replaceable::{Replaceable, keep_newest};

/// How much is joined into one write.
const JOIN: usize = 64 * 1024;
/// How much is offered to be written together with the frames of other clients. For more, a system call of its own costs little.
const OFFER: usize = 8 * 1024;
/// Bytes that may wait before replaceable messages take each other's place.
const BEHIND: usize = 16 * 1024;

const _: () = assert!(queue::PLACE >= queue::place::<Queued>());

thread_local! {
    /// Holds the frames that are joined for one write. One buffer per thread, not one per connection.
    static JOINED: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Frames in their order. Keeps no memory while nothing waits.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: VecDeque<Queued>,
    bytes: usize,
    /// How much of the first frame has been written.
    begun: usize,
    /// From how many bytes on [`keep_newest`](Self::keep_newest) is worth its time: twice as many as it left the last time, so
    /// that it looks at each frame only a few times, however many wait.
    look_at: usize,
}

#[derive(Debug)]
struct Queued {
    frame: Bytes,
    replaceable: Option<Replaceable>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            begun: 0,
            look_at: BEHIND,
        }
    }
}

impl Outbox {
    /// The memory that it takes, in bytes. A frame counts whole until all of it is written, because its memory is kept for as long.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn push(&mut self, frame: Bytes, replaceable: Option<Replaceable>) {
        self.bytes += takes(frame.len());
        self.queue.push_back(Queued { frame, replaceable });
    }

    /// Whether so much waits that newer replaceable messages should replace older ones.
    pub(super) fn is_behind(&self) -> bool {
        self.bytes >= self.look_at
    }

    /// Removes each replaceable message that a newer one replaces. Returns how many.
    pub(super) fn keep_newest(&mut self) -> usize {
        let (mut gone, mut bytes) = (0, 0);
        keep_newest(
            &mut self.queue,
            0,
            |queued| queued.replaceable,
            |queued| {
                gone += 1;
                bytes += takes(queued.frame.len());
            },
        );
        self.bytes -= bytes;
        self.look_at = BEHIND.max(2 * self.bytes);
        gone
    }

    /// Appends the first frames to `bytes`, unless the first alone is too long. Returns whether it did.
    pub(super) fn offer(&self, bytes: &mut Vec<u8>) -> bool {
        let before = bytes.len();
        self.join(OFFER, bytes);
        bytes.len() > before
    }

    /// Appends as many frames as `most` bytes hold.
    fn join(&self, most: usize, bytes: &mut Vec<u8>) {
        let most = bytes.len() + most;
        for Queued { frame, .. } in &self.queue {
            if bytes.len() + frame.len() > most {
                break;
            }
            bytes.extend_from_slice(frame);
        }
    }

    /// Writes the first frames. `Ok(false)`: the client takes no more now.
    pub(super) fn write(&mut self, to: &mut impl Write) -> io::Result<bool> {
        let written = match self.queue.front() {
            Some(Queued { frame, .. }) if self.queue.len() == 1 || frame.len() >= JOIN => to.write(frame),
            _ => JOINED.with_borrow_mut(|joined| {
                joined.clear();
                self.join(JOIN, joined);
                to.write(joined)
            }),
        };
        self.written(written)
    }

    /// Takes note of what was written of what comes first. `Ok(false)`: the client takes no more now.
    pub(super) fn written(&mut self, written: io::Result<usize>) -> io::Result<bool> {
        match written {
            Ok(written) => {
                self.advance(written);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(Queued { frame, replaceable }) = self.queue.front_mut() {
            if written < frame.len() {
                frame.advance(written);
                self.begun += written;
                if written > 0 {
                    // A frame that has begun must go out whole.
                    *replaceable = None;
                }
                queue::shrink(&mut self.queue);
                return;
            }
            written -= frame.len();
            self.bytes -= takes(self.begun + frame.len());
            self.begun = 0;
            self.queue.pop_front();
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at a time, then none.
    struct Narrow(Vec<u8>, usize);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.1);
            if taken == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.0.extend_from_slice(&bytes[..taken]);
            self.1 -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_message_that_is_half_written_is_not_replaced() {
        let price = Some(Replaceable::new("ticker", "price"));
        let mut outbox = Outbox::default();
        for frame in ["one", "two", "three"] {
            outbox.push(Bytes::from_static(frame.as_bytes()), price);
        }
        let mut client = Narrow(Vec::new(), 2);
        assert!(outbox.write(&mut client).expect("written"));
        assert!(!outbox.write(&mut client).expect("taken no more"));
        assert_eq!(outbox.keep_newest(), 1);
        assert_eq!(outbox.bytes(), takes("one".len()) + takes("three".len()));
        client.1 = 100;
        assert!(outbox.write(&mut client).expect("written"));
        assert_eq!(client.0, b"onethree");
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_was_written_of_an_offer_is_gone_and_the_rest_comes_next() {
        let mut outbox = Outbox::default();
        for frame in ["one", "two", "three"] {
            outbox.push(Bytes::from_static(frame.as_bytes()), None);
        }
        let mut offered = b"of others: ".to_vec();
        assert!(outbox.offer(&mut offered));
        assert_eq!(offered, b"of others: onetwothree");
        assert!(outbox.written(Ok(4)).expect("written"));
        assert!(
            !outbox
                .written(Err(io::ErrorKind::WouldBlock.into()))
                .expect("taken no more")
        );
        let mut client = Narrow(Vec::new(), 100);
        assert!(outbox.write(&mut client).expect("written"));
        assert_eq!(client.0, b"wothree");
        outbox.push(Bytes::from(vec![0; OFFER + 1]), None);
        assert!(!outbox.offer(&mut offered), "it is much");
    }

    #[test]
    fn small_frames_count_with_their_places() {
        const COUNT: usize = 10_000;
        let mut outbox = Outbox::default();
        for _ in 0..COUNT {
            outbox.push(Bytes::from(vec![b'x'; 62]), None);
        }
        let takes = |outbox: &Outbox| outbox.queue.capacity() * size_of::<Queued>() + outbox.queue.len() * 62;
        assert!(outbox.bytes() >= takes(&outbox), "{} bytes", outbox.bytes());
        // The client takes all but a few.
        let mut client = Narrow(Vec::new(), (COUNT - 5) * 62);
        while outbox.write(&mut client).expect("written") {}
        assert!(outbox.bytes() >= takes(&outbox), "{} bytes", outbox.bytes());
        client.1 = usize::MAX;
        while !outbox.is_empty() {
            outbox.write(&mut client).expect("written");
        }
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn a_queue_is_looked_through_again_when_it_has_doubled() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from(vec![0; BEHIND]), None);
        assert!(outbox.is_behind());
        outbox.keep_newest();
        assert!(!outbox.is_behind());
        outbox.push(Bytes::from(vec![0; BEHIND]), None);
        assert!(outbox.is_behind());
    }
}
