//! Replays the examples of `host/docs/protocol.md` against a running server.

use serde_json::Value;

use crate::support::http::request;
use crate::support::server::Bench;
use crate::transcript::{Captures, Conversation, Over, Version, pattern};

const PAGE: &str = include_str!("../../docs/protocol.md");

/// A block of code: what it is said to hold, and its text, with empty lines in front so that its lines count as the page's.
struct Example {
    kind: &'static str,
    text: String,
}

fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    let mut open: Option<Example> = None;
    for (at, line) in PAGE.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(kind), None) => {
                let text = "\n".repeat(at + 1);
                open = Some(Example { kind, text });
            }
            (Some(_), Some(_)) => examples.extend(open.take()),
            (None, Some(example)) => {
                example.text.push_str(line);
                example.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block does not end");
    examples
}

fn of(kind: &str) -> Vec<String> {
    let examples = examples().into_iter();
    let found: Vec<String> = examples
        .filter(|example| example.kind == kind)
        .map(|example| example.text)
        .collect();
    assert!(!found.is_empty(), "the page shows no {kind}");
    found
}

/// Each conversation on its own, with clients of its own.
async fn replay(version: Version, kind: &str, over: Over) {
    let bench = Bench::new();
    let server = bench.serve().await;
    for text in of(kind) {
        let mut conversation = Conversation::new(version.options(server.address, over), version, version);
        conversation.play("protocol.md", &text).await;
    }
}

#[tokio::test]
async fn its_examples_of_version_2_happen_over_a_websocket() {
    replay(Version::V2, "v2", Over::WebSocket).await;
}

#[tokio::test]
async fn its_examples_of_version_2_happen_over_long_polling() {
    replay(Version::V2, "v2", Over::LongPoll).await;
}

#[tokio::test]
async fn its_examples_of_version_1_happen_over_a_websocket() {
    replay(Version::V1, "v1", Over::WebSocket).await;
}

#[tokio::test]
async fn its_examples_of_version_1_happen_over_long_polling() {
    replay(Version::V1, "v1", Over::LongPoll).await;
}

/// A request is a line with method and path, lines with headers, and the body; a response a line with status and body.
#[tokio::test]
async fn its_requests_are_answered_as_it_says() {
    let bench = Bench::new();
    bench.set("server", "io_threads", "1");
    let server = bench.serve().await;
    for text in of("http") {
        let mut captures = Captures::default();
        let mut asked: Option<(&str, String, String, String)> = None;
        for (at, line) in text.lines().enumerate() {
            let fill_in = |text: &str| {
                captures
                    .fill_in(text)
                    .unwrap_or_else(|why| panic!("protocol.md:{}: {why}", at + 1))
            };
            let method = ["GET", "POST"]
                .into_iter()
                .find(|method| line.starts_with(&format!("{method} ")));
            match (line, method, &mut asked) {
                (comment, ..) if comment.is_empty() || comment.starts_with('#') => {}
                (_, Some(method), _) => {
                    let path = fill_in(&line[method.len() + 1..]).replace('"', "");
                    asked = Some((method, path, String::new(), String::new()));
                }
                (expected, None, Some((method, path, headers, body))) if expected.starts_with("200 ") => {
                    let answer = request(server.address, method, path, headers, body).await;
                    let pattern = pattern::read(&expected[4..]).expect("a pattern");
                    let got: Value = answer.json();
                    let same = answer.status == 200 && captures.matches(&pattern, &got);
                    assert!(
                        same,
                        "protocol.md:{}\n  line  {line}\n  got   {} {got}",
                        at + 1,
                        answer.status
                    );
                    asked = None;
                }
                (header, None, Some((_, _, headers, body)))
                    if body.is_empty() && header.starts_with("content-type: ") =>
                {
                    headers.push_str(&format!("{header}\r\n"));
                }
                (line, None, Some((.., body))) => body.push_str(line),
                (_, None, None) => panic!("protocol.md:{}: a request begins with its method", at + 1),
            }
        }
        assert!(asked.is_none(), "a request has no response");
    }
}

#[test]
fn it_shows_nothing_that_is_not_replayed_and_is_not_long() {
    let kinds: Vec<&str> = examples().iter().map(|example| example.kind).collect();
    assert!(
        kinds.iter().all(|kind| ["v1", "v2", "http"].contains(kind)),
        "{kinds:?}"
    );
    assert!(kinds.len() >= 6, "{kinds:?}");
    assert!(PAGE.lines().count() <= 220, "{} lines", PAGE.lines().count());
}
