//! Writes to many connections with one system call.
//!
//! A broadcast is one small write to each subscriber, and the system call is a good part of the cost of such a write. Linux takes
//! many writes at once through io_uring. Without it (a kernel before 6.1, a container that forbids it, `io_uring = false`), and for
//! a few connections, each connection is written to separately.
#![allow(
    unsafe_code,
    reason = "the kernel gets addresses of bytes, and reads them during the call"
)]

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use io_uring::{IoUring, opcode, types};

/// How many connections are written to at once.
pub(super) const MOST: usize = 256;
/// So few connections are written to one by one.
const FEW: usize = 3;

/// The outcome of a connection's write; `None` if it was not made.
pub(super) type Written = Option<io::Result<usize>>;

/// The writes of one thread.
pub(super) struct Writes {
    ring: Option<IoUring>,
    /// The bytes for all connections. Empty between two calls, and kept for its memory: at most 2 MiB, because each of [`MOST`]
    /// connections offers 8 KiB at once.
    bytes: Vec<u8>,
}

impl fmt::Debug for Writes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_ring = self.ring.is_some();
        out.debug_struct("Writes")
            .field("io_uring", &is_ring)
            .finish_non_exhaustive()
    }
}

impl Writes {
    /// The writes of the calling thread, which must not pass them on. With io_uring if it is wanted and available.
    pub(super) fn new(io_uring: bool) -> Self {
        let ring = io_uring.then(open).and_then(|ring| {
            ring.inspect_err(
                |error| tracing::debug!(%error, "io_uring is not available; writing to each connection separately"),
            )
            .ok()
        });
        Self {
            ring,
            bytes: Vec::new(),
        }
    }

    /// Writes to each of these connections, at most [`MOST`], if it is worth it. `offer` appends the bytes of a connection and returns
    /// its socket, or `None` to leave it out. Appends the outcome of each connection, in their order.
    pub(super) fn make<'a>(
        &mut self,
        connections: &[usize],
        offer: impl Fn(usize, &mut Vec<u8>) -> Option<BorrowedFd<'a>>,
        written: &mut Vec<Written>,
    ) {
        written.resize_with(connections.len(), || None);
        if connections.len() > FEW && self.ring.is_some() {
            let offers: Vec<Option<(BorrowedFd<'a>, Range<usize>)>> = connections
                .iter()
                .map(|connection| {
                    let start = self.bytes.len();
                    let to = offer(*connection, &mut self.bytes)?;
                    Some((to, start..self.bytes.len()))
                })
                .collect();
            self.submit(&offers, written);
            self.bytes.clear();
        }
    }

    fn submit(&mut self, offers: &[Option<(BorrowedFd<'_>, Range<usize>)>], results: &mut [Written]) {
        let Some(ring) = &mut self.ring else { return };
        let mut under_way = 0;
        for (number, offered) in offers.iter().enumerate() {
            let Some((to, range)) = offered else { continue };
            let bytes = &self.bytes[range.clone()];
            // With `MSG_DONTWAIT` the kernel does it or refuses it while it takes it in.
            let write = opcode::Send::new(types::Fd(to.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32)
                .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                .build()
                .user_data(number as u64);
            // SAFETY: the bytes and the descriptors are borrowed until this function has seen the result of each write that
            // the kernel took; what it did not take goes with the ring.
            under_way += usize::from(unsafe { ring.submission().push(&write) }.is_ok());
        }
        let mut broken = None;
        while under_way > 0 && broken.is_none() {
            match ring.submit_and_wait(under_way) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => broken = Some(error),
                _ => {}
            }
            for done in ring.completion() {
                under_way -= 1;
                results[done.user_data() as usize] = Some(match done.result() {
                    written @ 0.. => Ok(written as usize),
                    error => Err(io::Error::from_raw_os_error(-error)),
                });
            }
        }
        if let Some(error) = broken {
            tracing::warn!(%error, "io_uring failed; from now on Bennu writes to each connection separately");
            self.ring = None;
        }
    }
}

fn open() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        .build(MOST as u32)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;

    fn pairs(count: usize) -> Vec<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let pair = |_| {
            let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
            let (server, _) = listener.accept().expect("accepted");
            server.set_nonblocking(true).expect("set");
            (client, server)
        };
        (0..count).map(pair).collect()
    }

    /// `None`, and a word about it, where the system has no io_uring.
    fn with_ring() -> Option<Writes> {
        let writes = Writes::new(true);
        if writes.ring.is_none() {
            let _ = writeln!(io::stderr(), "not shown: this system gives no io_uring");
        }
        writes.ring.is_some().then_some(writes)
    }

    fn make(
        writes: &mut Writes,
        pairs: &[(TcpStream, TcpStream)],
        text: impl Fn(usize) -> Option<Vec<u8>>,
    ) -> Vec<Written> {
        let connections: Vec<usize> = (0..pairs.len()).collect();
        let mut written = Vec::new();
        let offer = |at: usize, bytes: &mut Vec<u8>| {
            bytes.extend_from_slice(&text(at)?);
            Some(pairs[at].1.as_fd())
        };
        writes.make(&connections, offer, &mut written);
        written
    }

    #[test]
    fn each_connection_gets_its_own_bytes_and_none_what_it_has_not_offered() {
        let Some(mut writes) = with_ring() else { return };
        let mut pairs = pairs(MOST);
        for round in 0..3 {
            let text = |at| (at % 7 != 3).then(|| format!("round {round} for {at}").into_bytes());
            let written = make(&mut writes, &pairs, text);
            assert_eq!(written.len(), MOST);
            for (at, (written, (client, _))) in written.into_iter().zip(&mut pairs).enumerate() {
                let Some(expected) = text(at) else {
                    assert!(written.is_none());
                    continue;
                };
                assert_eq!(written.expect("made").expect("written"), expected.len());
                let mut got = vec![0; expected.len()];
                client.read_exact(&mut got).expect("read");
                assert_eq!(got, expected);
            }
        }
    }

    #[test]
    fn a_client_that_takes_no_more_and_one_that_is_gone_change_nothing_for_the_others() {
        let Some(mut writes) = with_ring() else { return };
        let mut pairs = pairs(8);
        let much = vec![b'x'; 64 * 1024];
        while pairs[2].1.write(&much).is_ok() {}
        pairs[5].1.shutdown(std::net::Shutdown::Write).expect("shut down");
        let written = make(&mut writes, &pairs, |_| Some(b"hello".to_vec()));
        for (at, written) in written.into_iter().enumerate() {
            let written = written.expect("made");
            match at {
                2 => assert_eq!(written.expect_err("full").kind(), io::ErrorKind::WouldBlock),
                5 => assert_eq!(written.expect_err("gone").kind(), io::ErrorKind::BrokenPipe),
                _ => assert_eq!(written.expect("written"), 5),
            }
        }
        let mut got = [0; 5];
        pairs[7].0.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"hello");
    }

    #[test]
    fn without_io_uring_or_for_few_nothing_is_written() {
        let pairs = pairs(FEW + 1);
        for (mut writes, count) in [(Writes::new(false), FEW + 1), (Writes::new(true), FEW)] {
            let written = make(&mut writes, &pairs[..count], |_| unreachable!("nothing is asked for"));
            assert!(written.len() == count && written.iter().all(Option::is_none));
        }
    }
}
