//! HTTP by hand, one request at a time.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::within;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Such as 200.
    pub(crate) status: u16,
    /// Status line and headers.
    pub(crate) head: String,
    /// Behind them.
    pub(crate) body: String,
}

/// Gets `path`.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    get_with(address, path, "").await
}

/// The same, with more headers: `"name: value\r\n"` each.
pub(crate) async fn get_with(address: SocketAddr, path: &str, headers: &str) -> Answer {
    request(address, "GET", path, headers, "").await
}

/// Any request, on a connection of its own.
pub(crate) async fn request(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut connection = Connection::open(address).await;
    connection
        .send(method, path, &format!("connection: close\r\n{headers}"), body)
        .await;
    connection.answer().await
}

/// A request for this host: the whole value of `Host`.
pub(crate) async fn request_for(host: &str, address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut connection = Connection::open(address).await;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let sent = connection.stream.get_mut().write_all(request.as_bytes());
    within(path, sent).await.expect("the request is sent");
    connection.answer().await
}

/// A connection for one request after the other.
pub(crate) struct Connection {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = within("connection", TcpStream::connect(address)).await;
        let stream = BufReader::new(stream.expect("a connection"));
        Self { address, stream }
    }

    /// Sends a request; it has left when this returns.
    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) {
        let (address, length) = (self.address, body.len());
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n{headers}\r\n");
        let request = head + body;
        let sent = self.stream.get_mut().write_all(request.as_bytes());
        within(path, sent).await.expect("the request is sent");
    }

    /// GETs a path.
    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, "", "").await;
        self.answer().await
    }

    /// Waits for the response to the request before.
    pub(crate) async fn answer(&mut self) -> Answer {
        within("answer", self.read()).await.expect("an answer")
    }

    async fn read(&mut self) -> std::io::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && self.stream.read_line(&mut head).await? > 0 {}
        let length = header(&head, "content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.stream.read_exact(&mut body).await?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Answer {
            status: status.expect("a status"),
            head,
            body: String::from_utf8(body).expect("text"),
        })
    }
}

impl Answer {
    /// A header, by its name in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}\n{}", self.head, self.body))
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    headers.find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// What `/plugins` says of one plugin.
pub(crate) async fn plugin(admin: SocketAddr, name: &str) -> Value {
    let all: Vec<Value> = serde_json::from_str(&get(admin, "/plugins").await.body).expect("a list");
    all.into_iter()
        .find(|plugin| plugin["name"] == name)
        .expect("the plugin is listed")
}

/// A value of `/metrics`, by its name with labels.
pub(crate) async fn metric(admin: SocketAddr, name: &str) -> u64 {
    let text = get(admin, "/metrics").await.body;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// Waits until a value of `/metrics` is at least so high.
pub(crate) async fn reaches(admin: SocketAddr, name: &str, least: u64) {
    within(name, async {
        while metric(admin, name).await < least {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
