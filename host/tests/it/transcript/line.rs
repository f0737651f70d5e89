//! Reads the lines of a transcript. What they mean stands in the module above.

use bennu_tools::client::Transport;
use bytes::Bytes;
use serde_json::Value;

use super::pattern;

/// What one client does.
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) text: String,
    pub(super) only: Option<Transport>,
    /// Only where clients have binary messages to send.
    pub(super) bytes: bool,
    /// Not for the test kit.
    pub(super) server: bool,
    pub(super) client: String,
    pub(super) what: What,
}

pub(super) enum What {
    Connect(String),
    /// With the status that long polling answers it with.
    Send(Sent, u16),
    Expect(Expected),
    Quiet,
    Close,
}

pub(super) enum Sent {
    Text(String),
    Binary(Bytes),
}

pub(super) enum Expected {
    Text(Value),
    Binary(Bytes),
    Close(u16),
}

/// Reads a transcript. An error begins with its line's number.
pub(super) fn read(text: &str) -> Result<Vec<Line>, String> {
    let lines = text.lines().enumerate().map(|(at, text)| (at + 1, text.trim()));
    lines
        .filter(|(_, text)| !text.is_empty() && !text.starts_with('#'))
        .map(|(number, text)| line(number, text).map_err(|why| format!("{number}: {why}\n  {text}")))
        .collect()
}

fn line(number: usize, text: &str) -> Result<Line, String> {
    let (server, rest) = prefixed(text, "server:");
    let (bytes, rest) = prefixed(rest, "bytes:");
    let (only, rest) = match (rest.strip_prefix("ws:"), rest.strip_prefix("lp:")) {
        (Some(rest), _) => (Some(Transport::WebSocket), rest.trim_start()),
        (_, Some(rest)) => (Some(Transport::LongPoll), rest.trim_start()),
        _ => (None, rest),
    };
    let at = rest
        .find(|c: char| !c.is_ascii_alphanumeric())
        .filter(|at| *at > 0)
        .ok_or("a line begins with the name of a client")?;
    let (client, rest) = rest.split_at(at);
    let what = match rest.split_at(1) {
        (">", rest) => send(rest)?,
        ("<", rest) => What::Expect(expect(rest)?),
        (":", rest) => match rest.trim().split_once(' ') {
            Some(("connect", to)) => What::Connect(to.to_owned()),
            None if rest.trim() == "quiet" => What::Quiet,
            None if rest.trim() == "close" => What::Close,
            _ => return Err("clients `connect TO`, are `quiet`, or `close`".into()),
        },
        _ => return Err("after the client comes `>`, `<` or `:`".into()),
    };
    Ok(Line {
        number,
        text: text.to_owned(),
        only,
        bytes,
        server,
        client: client.to_owned(),
        what,
    })
}

/// Whether a line begins with this, and what follows.
fn prefixed<'a>(text: &'a str, prefix: &str) -> (bool, &'a str) {
    match text.strip_prefix(prefix) {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text),
    }
}

fn send(rest: &str) -> Result<What, String> {
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (status, rest) = rest.split_at(digits);
    let status = if status.is_empty() {
        200
    } else {
        status.parse().map_err(|_| "a status has three digits")?
    };
    let sent = match rest.strip_prefix("hex") {
        Some(digits) => Sent::Binary(hex(digits)?),
        None => Sent::Text(rest.strip_prefix(' ').unwrap_or(rest).to_owned()),
    };
    Ok(What::Send(sent, status))
}

fn expect(rest: &str) -> Result<Expected, String> {
    if let Some(digits) = rest.strip_prefix("hex") {
        return Ok(Expected::Binary(hex(digits)?));
    }
    match rest.trim().strip_prefix("close ") {
        Some(code) => code.parse().map(Expected::Close).map_err(|_| "no close code".into()),
        None => pattern::read(rest).map(Expected::Text),
    }
}

/// Bytes; a part in quotes is text, so that topics can be read.
fn hex(text: &str) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    for (at, part) in text.split('"').enumerate() {
        if at % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: String = part.split_whitespace().collect();
        for pair in digits.as_bytes().chunks(2) {
            let pair = std::str::from_utf8(pair).map_err(|_| "not hexadecimal")?;
            let byte = Some(pair).filter(|pair| pair.len() == 2);
            let byte = byte.and_then(|pair| u8::from_str_radix(pair, 16).ok());
            bytes.push(byte.ok_or("not hexadecimal")?);
        }
    }
    Ok(bytes.into())
}
