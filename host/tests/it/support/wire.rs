//! A WebSocket without a client library: every byte is the test's own.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::server::Server;
use super::within;
use crate::handshake::UPGRADE;

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire(TcpStream);

impl Wire {
    /// Only connected.
    pub(crate) async fn connect(server: &Server) -> Self {
        let stream = within("connection", TcpStream::connect(server.address)).await;
        Self(stream.expect("a connection"))
    }

    /// A WebSocket at `/socket`.
    pub(crate) async fn open(server: &Server) -> Self {
        Self::open_with(server, "").await.0
    }

    /// The same with more headers, each with its line's end. Returns the head of the answer too.
    pub(crate) async fn open_with(server: &Server, headers: &str) -> (Self, String) {
        let mut wire = Self::connect(server).await;
        let request = format!("GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nhost: a\r\n{UPGRADE}{headers}\r\n");
        wire.write(request.as_bytes()).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within("head", wire.0.read_u8()).await.expect("a byte"));
        }
        let head = String::from_utf8(head).expect("text");
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        (wire, head)
    }

    /// Where the server sees it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is connected")
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).await.expect("written");
    }

    /// Writes as long as the server takes it.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("write", self.0.write_all(bytes)).await
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, first: u8, payload: &[u8]) {
        self.write(&frame(first, payload)).await;
    }

    /// The next frame: its first byte and its payload.
    pub(crate) async fn next(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let first = self.0.read_u8().await?;
            let length = match self.0.read_u8().await? {
                126 => self.0.read_u16().await?.into(),
                127 => self.0.read_u64().await?,
                length => length.into(),
            };
            let mut payload = vec![0; usize::try_from(length).expect("a length")];
            self.0.read_exact(&mut payload).await?;
            std::io::Result::Ok((first, payload))
        };
        within("frame", read).await.expect("a frame")
    }

    /// The code of the close frame that comes next; 0 if it has none.
    pub(crate) async fn closed(&mut self) -> u16 {
        let (first, payload) = self.next().await;
        assert_eq!(first, 0x88, "a close frame, not {payload:?}");
        payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code))
    }

    /// Waits until nothing more can come.
    pub(crate) async fn ended(&mut self) {
        let mut rest = vec![0; 65_536];
        // A connection that is cut off has ended too.
        while within("end", self.0.read(&mut rest)).await.is_ok_and(|read| read > 0) {}
    }

    /// Says that it sends nothing more, as a half-open connection.
    pub(crate) async fn shut(&mut self) {
        self.0.shutdown().await.expect("it was open");
    }

    /// Is gone without a goodbye of any kind.
    pub(crate) fn vanish(self) {
        self.0.set_zero_linger().expect("it was open");
    }
}

/// A frame with this first byte. Masked with zeros, which change nothing.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&header(first, payload.len() as u64), payload].concat()
}

/// The header of a frame that promises so many bytes.
pub(crate) fn header(first: u8, length: u64) -> Vec<u8> {
    let mut header = vec![first];
    match length {
        0..126 => header.push(0x80 | length as u8),
        126..=0xffff => {
            header.push(0x80 | 126);
            header.extend((length as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend(length.to_be_bytes());
        }
    }
    header.extend([0; 4]);
    header
}
