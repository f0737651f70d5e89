//! The TLS of one connection.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};

use super::TlsError;

/// What one record may carry.
const RECORD: usize = 16 * 1024;
/// How much is encrypted before the client has to take some of it.
const MOST: usize = 64 * 1024;
/// What encryption adds to a record, and a little more.
const OVERHEAD: usize = 64;
/// How much a client may send that is no whole message of TLS: more than its longest, which is 64 KiB in several records.
const MAX_INCOMING: usize = 96 * 1024;

/// The TLS of one connection. Bytes of the socket go in by [`feed`](Self::feed), and bytes for it come out by [`push`](Self::push).
///
/// rustls keeps about 3 KiB for it: keys, and its state. Here are only bytes that wait, most often none.
pub(crate) struct Session {
    connection: UnbufferedServerConnection,
    /// The beginning of a record that has not come whole.
    incoming: Vec<u8>,
    /// Encrypted bytes that the socket has not taken, from [`Self::pushed`] on.
    outgoing: Vec<u8>,
    pushed: usize,
    /// The client has said goodbye.
    ended: bool,
}

/// What rustls says when it has nothing more to do.
enum At<'c> {
    /// It waits for the client's part of the handshake.
    Handshake,
    /// It may encrypt.
    Traffic(WriteTraffic<'c, ServerConnectionData>),
    /// Both sides have said goodbye.
    Closed,
}

impl Session {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config).map_err(said)?,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            pushed: 0,
            ended: false,
        })
    }

    /// Takes in bytes of the client, which it changes. Passes on what they say. Never more bytes than it got, besides those of a record
    /// that was incomplete.
    ///
    /// # Errors
    ///
    /// If that is not TLS. An alert for the client then waits to be pushed.
    pub(crate) fn feed(&mut self, bytes: &mut [u8], take: &mut dyn FnMut(&[u8])) -> Result<(), TlsError> {
        if self.incoming.is_empty() {
            let used = self.process(bytes, take)?;
            self.incoming = bytes[used..].to_vec();
        } else {
            let mut incoming = std::mem::take(&mut self.incoming);
            incoming.extend_from_slice(bytes);
            let used = self.process(&mut incoming, take)?;
            if used < incoming.len() {
                incoming.drain(..used);
                incoming.shrink_to_fit();
                self.incoming = incoming;
            }
        }
        if self.incoming.len() > MAX_INCOMING {
            return Err(TlsError("a message is too long".to_owned()));
        }
        Ok(())
    }

    /// Whether the handshake is not over.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the client has said that it sends no more.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Encrypts bytes, as many as may wait at a time. Returns how many.
    ///
    /// # Errors
    ///
    /// If the session cannot send any more, or not yet.
    pub(crate) fn encrypt(&mut self, bytes: &[u8]) -> Result<usize, TlsError> {
        let bytes = &bytes[..bytes.len().min(MOST)];
        let encrypted = self.add(|at, outgoing| match at {
            At::Traffic(mut traffic) => append(outgoing, bytes.len(), |room| traffic.encrypt(bytes, room)),
            At::Handshake => Err(TlsError("the handshake is not over".to_owned())),
            At::Closed => Err(TlsError("the session has ended".to_owned())),
        });
        encrypted.map(|_| bytes.len())
    }

    /// Says that nothing follows, once what waits is pushed.
    pub(crate) fn say_goodbye(&mut self) {
        // A session that cannot say it ends all the same.
        let _ = self.add(|at, outgoing| match at {
            At::Traffic(mut traffic) => append(outgoing, 2, |room| traffic.queue_close_notify(room)),
            At::Handshake | At::Closed => Ok(()),
        });
    }

    /// Does something with what rustls says, once it has done all that it can.
    fn add<T>(&mut self, then: impl FnOnce(At<'_>, &mut Vec<u8>) -> Result<T, TlsError>) -> Result<T, TlsError> {
        let Self {
            connection,
            incoming,
            outgoing,
            ended,
            ..
        } = self;
        let mut used = 0;
        // `feed` has taken what these bytes say.
        let done = advance(connection, ended, outgoing, incoming, &mut used, &mut |_| {}, then);
        incoming.drain(..used);
        done
    }

    /// The memory that encrypted bytes take until the socket takes them.
    pub(crate) fn waiting(&self) -> usize {
        self.outgoing.capacity()
    }

    /// The memory that a record takes which has not come whole.
    pub(crate) fn unfinished(&self) -> usize {
        self.incoming.capacity()
    }

    /// Writes what waits to the socket.
    ///
    /// # Errors
    ///
    /// If the socket fails. If it takes no more now, that is `WouldBlock`, and the rest waits.
    pub(crate) fn push(&mut self, to: &mut impl Write) -> io::Result<()> {
        while self.pushed < self.outgoing.len() {
            match to.write(&self.outgoing[self.pushed..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.pushed += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.pushed = 0;
        self.outgoing = Vec::new();
        Ok(())
    }

    /// Has rustls process bytes. Returns how many it has used.
    fn process(&mut self, bytes: &mut [u8], take: &mut dyn FnMut(&[u8])) -> Result<usize, TlsError> {
        let mut used = 0;
        let done = advance(
            &mut self.connection,
            &mut self.ended,
            &mut self.outgoing,
            bytes,
            &mut used,
            take,
            |_, _| Ok(()),
        );
        done.map(|()| used)
    }
}

/// Lets rustls do all that it can with these bytes, and then something with what it says. `used` counts the bytes that it needs no
/// more.
fn advance<T>(
    connection: &mut UnbufferedServerConnection,
    ended: &mut bool,
    outgoing: &mut Vec<u8>,
    bytes: &mut [u8],
    used: &mut usize,
    take: &mut dyn FnMut(&[u8]),
    then: impl FnOnce(At<'_>, &mut Vec<u8>) -> Result<T, TlsError>,
) -> Result<T, TlsError> {
    loop {
        let UnbufferedStatus { mut discard, state } = connection.process_tls_records(&mut bytes[*used..]);
        let at = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(said)?;
                    discard += record.discard;
                    take(record.payload);
                }
                None
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                append(outgoing, 0, |room| data.encode(room))?;
                None
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // It is pushed before anything else.
                data.done();
                None
            }
            Ok(ConnectionState::PeerClosed) => {
                *ended = true;
                None
            }
            Ok(ConnectionState::BlockedHandshake) => Some(At::Handshake),
            Ok(ConnectionState::WriteTraffic(traffic)) => Some(At::Traffic(traffic)),
            Ok(ConnectionState::Closed) => Some(At::Closed),
            Ok(other) => return Err(TlsError(format!("rustls is in the state {other:?}"))),
            Err(error) => {
                queue_alert(connection, outgoing);
                return Err(said(error));
            }
        };
        *used += discard;
        if let Some(at) = at {
            return then(at, outgoing);
        }
    }
}

/// Queues what rustls has to say about an error.
fn queue_alert(connection: &mut UnbufferedServerConnection, outgoing: &mut Vec<u8>) {
    // It gets no bytes, so it has nothing else to say.
    while let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process_tls_records(&mut []).state {
        if append(outgoing, 0, |room| data.encode(room)).is_err() {
            return;
        }
    }
}

/// Appends what `encode` writes: as much room as `length` bytes need encrypted, or as it asks for.
fn append<E: Room>(
    outgoing: &mut Vec<u8>,
    length: usize,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), TlsError> {
    let start = outgoing.len();
    let mut room = length + (length / RECORD + 2) * OVERHEAD;
    loop {
        outgoing.resize(start + room, 0);
        match encode(&mut outgoing[start..]) {
            Ok(written) => {
                outgoing.truncate(start + written);
                return Ok(());
            }
            Err(error) => {
                outgoing.truncate(start);
                room = error.required().filter(|required| *required > room).ok_or_else(|| {
                    let why = "the session can encrypt no more";
                    TlsError(why.to_owned())
                })?;
            }
        }
    }
}

/// Says how much room is needed.
trait Room {
    fn required(&self) -> Option<usize>;
}

impl Room for EncodeError {
    fn required(&self) -> Option<usize> {
        match self {
            Self::InsufficientSize(size) => Some(size.required_size),
            Self::AlreadyEncoded => None,
        }
    }
}

impl Room for EncryptError {
    fn required(&self) -> Option<usize> {
        match self {
            Self::InsufficientSize(size) => Some(size.required_size),
            Self::EncryptExhausted => None,
        }
    }
}

fn said(error: rustls::Error) -> TlsError {
    TlsError(error.to_string())
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::ring;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// A client and a session that have not spoken yet.
    fn pair() -> (ClientConnection, Session) {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = certificate.self_signed(&key).expect("a certificate").der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(ring::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .expect("a configuration");
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a certificate");
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(Arc::new(client), name).expect("a client");
        (client, Session::new(Arc::new(server)).expect("a session"))
    }

    /// Carries all that both have to say, in pieces of this size for the session. Returns what the session and the client heard.
    fn carry(client: &mut ClientConnection, session: &mut Session, piece: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut heard, mut told, mut sent) = (Vec::new(), Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut sent).expect("room");
        }
        for piece in sent.chunks_mut(piece) {
            session
                .feed(piece, &mut |said| heard.extend_from_slice(said))
                .expect("TLS");
        }
        let mut pushed = Vec::new();
        session.push(&mut pushed).expect("room");
        let mut rest = &pushed[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("room");
            client.process_new_packets().expect("TLS");
            let mut said = [0; 20_000];
            while let Ok(read @ 1..) = client.reader().read(&mut said) {
                told.extend_from_slice(&said[..read]);
            }
        }
        (heard, told)
    }

    #[test]
    fn whatever_the_pieces_all_is_heard_and_nothing_is_kept() {
        let text: Vec<u8> = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
        for piece in [1, 5, 1_000, 20_000] {
            let (mut client, mut session) = pair();
            while client.is_handshaking() || session.is_handshaking() {
                carry(&mut client, &mut session, piece);
            }
            for length in [1, 100, text.len()] {
                let text = &text[..length];
                io::Write::write_all(&mut client.writer(), text).expect("room");
                assert_eq!(session.encrypt(text).expect("it may"), length);
                let (heard, told) = carry(&mut client, &mut session, piece);
                assert!(heard == text && told == text, "{length} bytes in pieces of {piece}");
            }
            assert_eq!((session.waiting(), session.unfinished()), (0, 0));
            client.send_close_notify();
            carry(&mut client, &mut session, piece);
            assert!(session.has_ended());
        }
    }

    #[test]
    fn what_is_no_tls_is_answered_with_an_alert() {
        let (_, mut session) = pair();
        session.feed(&mut [0; 100], &mut |_| {}).expect_err("no TLS");
        let mut pushed = Vec::new();
        session.push(&mut pushed).expect("room");
        assert_eq!(pushed.first(), Some(&21), "{pushed:?}");
        assert!(session.encrypt(b"a").is_err());
    }
}
