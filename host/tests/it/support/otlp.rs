//! A collector of traces: takes OTLP over HTTP, and decodes the protobuf by hand, so that no crate is tested with itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::within;

/// What a collector does with a request that it does not answer.
const STALL: u16 = 0;

/// A collector.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    taken: Arc<watch::Sender<Taken>>,
    /// The status of its answers.
    status: Arc<AtomicU16>,
}

/// What has come so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    /// The heads of the requests.
    pub(crate) heads: Vec<String>,
    /// The spans in them, as far as they were taken.
    pub(crate) spans: Vec<Span>,
}

/// A span, its numbers in hexadecimal digits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    /// 1 internal, 2 server.
    pub(crate) kind: u64,
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Traces and spans.
    pub(crate) links: Vec<(String, String)>,
    pub(crate) has_failed: bool,
    /// Of the server that sent it.
    pub(crate) resource: BTreeMap<String, String>,
}

impl Collector {
    /// One that takes everything.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (taken, status) = (Arc::new(watch::Sender::default()), Arc::new(AtomicU16::new(200)));
        let (for_all, answers) = (Arc::clone(&taken), Arc::clone(&status));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&for_all), Arc::clone(&answers)));
            }
        });
        Self { address, taken, status }
    }

    /// From now on it answers with this status.
    pub(crate) fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// From now on it reads, and does not answer.
    pub(crate) fn stall(&self) {
        self.answer(STALL);
    }

    /// The lines of a configuration that send everything here, at once.
    pub(crate) fn section(&self) -> String {
        format!(
            "[telemetry]\nendpoint = \"http://{}/v1/traces\"\ninterval_ms = 20\nratio = 1.0\n",
            self.address
        )
    }

    /// What has come so far.
    pub(crate) fn taken(&self) -> Taken {
        self.taken.borrow().clone()
    }

    /// Waits until what has come is enough.
    pub(crate) async fn until(&self, what: &str, is_enough: impl FnMut(&Taken) -> bool) -> Taken {
        let mut taken = self.taken.subscribe();
        let found = within(what, taken.wait_for(is_enough)).await;
        found.expect("the sender is ours").clone()
    }

    /// Waits for a span.
    pub(crate) async fn span(&self, what: &str, mut is_it: impl FnMut(&Span) -> bool) -> Span {
        let taken = self.until(what, |taken| taken.spans.iter().any(&mut is_it)).await;
        taken.spans.into_iter().find(is_it).expect("it is there")
    }
}

impl Span {
    pub(crate) fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// The spans below one, with these attributes, in the order in which they began.
pub(crate) fn tree(spans: &[Span], parent: &str, keys: &[&str]) -> String {
    let mut text = String::new();
    draw(&mut text, spans, parent, keys, 0);
    text
}

fn draw(text: &mut String, spans: &[Span], parent: &str, keys: &[&str], depth: usize) {
    let mut own: Vec<&Span> = spans.iter().filter(|span| span.parent == parent).collect();
    own.sort_by_key(|span| span.begun);
    for span in own {
        let _ = write!(text, "{:1$}{2}", "", depth * 2, span.name);
        for value in keys.iter().filter_map(|key| span.attributes.get(*key)) {
            let _ = write!(text, " {value}");
        }
        text.push('\n');
        draw(text, spans, &span.id, keys, depth + 1);
    }
}

async fn serve(stream: TcpStream, taken: Arc<watch::Sender<Taken>>, status: Arc<AtomicU16>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            // The server has closed it, or has ended.
            let Ok(1..) = stream.read_line(&mut head).await else {
                return;
            };
        }
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.and_then(|length| length.parse().ok()).expect("a length")];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let status = status.load(Ordering::Relaxed);
        taken.send_modify(|taken| {
            taken.heads.push(head);
            if status == 200 {
                taken.spans.extend(spans_of(&body));
            }
        });
        if status == STALL {
            std::future::pending::<()>().await;
        }
        let answer = format!("HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n\r\n");
        if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The spans of an `ExportTraceServiceRequest`.
fn spans_of(request: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource_spans in Message::read(request).all(1) {
        let resource = resource_spans
            .all(1)
            .flat_map(|resource| attributes(&resource, 1))
            .collect();
        let scopes: Vec<Message> = resource_spans.all(2).collect();
        for span in scopes.iter().flat_map(|scope| scope.all(2)) {
            let resource: &BTreeMap<_, _> = &resource;
            spans.push(Span {
                trace: span.digits(1),
                id: span.digits(2),
                parent: span.digits(4),
                name: span.text(5),
                kind: span.number(6),
                begun: span.number(7),
                ended: span.number(8),
                attributes: attributes(&span, 9),
                links: span.all(13).map(|link| (link.digits(1), link.digits(2))).collect(),
                // `STATUS_CODE_ERROR`
                has_failed: span.all(15).any(|status| status.number(3) == 2),
                resource: resource.clone(),
            });
        }
    }
    spans
}

/// A list of `KeyValue`.
fn attributes(message: &Message, field: u64) -> BTreeMap<String, String> {
    let pairs = message.all(field).map(|pair| {
        let value = pair.all(2).next().expect("a value");
        let shown = match value.0.first() {
            Some((1, Field::Bytes(text))) => String::from_utf8(text.clone()).expect("UTF-8"),
            Some((3, Field::Number(number))) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (pair.text(1), shown)
    });
    pairs.collect()
}

/// A message of protobuf: its fields by their numbers.
#[derive(Debug)]
struct Message(Vec<(u64, Field)>);

#[derive(Debug)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Message {
    fn read(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let field = match key & 7 {
                0 => Field::Number(varint(&mut bytes)),
                1 => Field::Number(u64::from_le_bytes(
                    bytes.split_off(..8).expect("8 bytes").try_into().expect("8 bytes"),
                )),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)).expect("a length");
                    Field::Bytes(bytes.split_off(..length).expect("so many bytes").to_vec())
                }
                5 => Field::Number(u64::from(u32::from_le_bytes(
                    bytes.split_off(..4).expect("4 bytes").try_into().expect("4 bytes"),
                ))),
                kind => panic!("no wire type {kind}"),
            };
            fields.push((key >> 3, field));
        }
        Self(fields)
    }

    fn bytes(&self, field: u64) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(move |(number, value)| match value {
            Field::Bytes(bytes) if *number == field => Some(&**bytes),
            _ => None,
        })
    }

    /// The messages in a field.
    fn all(&self, field: u64) -> impl Iterator<Item = Self> {
        self.bytes(field).map(Self::read)
    }

    fn text(&self, field: u64) -> String {
        let bytes = self.bytes(field).next().unwrap_or_default();
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    fn digits(&self, field: u64) -> String {
        let bytes = self.bytes(field).next().unwrap_or_default();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn number(&self, field: u64) -> u64 {
        let number = self.0.iter().find_map(|(number, value)| match value {
            Field::Number(value) if *number == field => Some(*value),
            _ => None,
        });
        number.unwrap_or_default()
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first().expect("a number");
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    panic!("a number of more than 64 bits")
}
