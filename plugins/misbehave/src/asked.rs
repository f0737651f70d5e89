//! What a client can ask for: the crate's documentation lists it.

use bennu_plugin::abi::effect;
use bennu_plugin::prelude::*;

use crate::Context;
use crate::state::{Member, Topic};
use crate::unruly::{hang, misbehave, too_long};

const BYTES: Binary<'static> = Binary(&[0, 255, 1]);
const NO_UTF8: &[u8] = &[b'"', 0xff, 0xfe, b'"'];

/// The payload of a request.
#[derive(Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    #[serde(rename = "do")]
    what: String,
    ms: u64,
    count: u64,
    bytes: usize,
    pub(crate) at: String,
    key: String,
    meta: Value,
    event: String,
    topic: String,
    payload: Value,
    status: String,
    reason: String,
    reply: bool,
}

impl Default for Asked {
    fn default() -> Self {
        let text = String::new;
        Self {
            what: text(),
            ms: 0,
            count: 0,
            bytes: 0,
            at: text(),
            key: text(),
            meta: json!({}),
            event: text(),
            topic: text(),
            payload: json!({}),
            status: text(),
            reason: text(),
            reply: false,
        }
    }
}

impl Asked {
    fn delay(&self) -> Duration {
        Duration::from_millis(self.ms)
    }

    /// Blocks, which no plugin should.
    fn sleep(&self) {
        std::thread::sleep(self.delay());
    }

    /// Computes for `ms`.
    fn spin(&self) {
        let start = std::time::Instant::now();
        while start.elapsed() < self.delay() {
            std::hint::spin_loop();
        }
    }
}

pub(crate) fn join(topic: &mut Topic, asked: &Asked, cx: &mut Context) -> Join<Member> {
    match asked.what.as_str() {
        "refuse" => return Join::refuse(json!({ "reason": "refused" })),
        "panic" => panic!("join panics"),
        "sleep" => asked.sleep(),
        "unruly" => drop(misbehave(&asked.at)),
        "later" => return join_later("accept", asked, cx),
        "later_refuse" => return join_later("refuse", asked, cx),
        "later_panic" => return join_later("panic", asked, cx),
        "later_hang" => return join_later("hang", asked, cx),
        "later_timer" => {
            topic.joins.push(cx.later());
            cx.topic_send_after(asked.delay(), "joins", json!({}));
            return Join::later();
        }
        "never" => {
            let _never_kept = cx.later();
            return Join::later();
        }
        "binary" => return Join::reply(Member::default(), BYTES),
        "invalid" => return Join::reply(Member::default(), Payload::json_text("{not json")),
        "push" => cx.push("early", json!({})),
        "track" => {
            for key in ["a", "b", "c"] {
                cx.track(key, json!({ "key": key }));
            }
        }
        "stop" => cx.stop(Stop::Normal),
        "log" => info!("joining"),
        _ => {}
    }
    Join::accept(Member::default())
}

fn join_later(answer: &'static str, asked: &Asked, cx: &Context) -> Join<Member> {
    let (later, delay) = (cx.later(), asked.delay());
    cx.spawn(move |remote| {
        std::thread::sleep(delay);
        remote.complete(later, "", answer);
    });
    Join::later()
}

/// Begins spans, one in another and one behind them, and more.
fn spans(asked: &Asked, cx: &Context) {
    {
        let _outer = cx.span("outer");
        let _inner = cx.span("inner");
        asked.sleep();
        if asked.at == "panic" {
            panic!("a span panics");
        }
    }
    for _ in 0..asked.count {
        let _more = cx.span("more");
    }
    // It has no end of its own.
    std::mem::forget(cx.span("behind"));
}

/// Handles the call of a backend.
pub(crate) fn call(topic: &mut Topic, event: &str, asked: &Asked, cx: &Context) -> Handled {
    match event {
        "add" => {
            let _span = cx.span("add");
            return Ok(Reply::ok_with(json!({ "topic": topic.add() })));
        }
        "whoami" => return Ok(Reply::ok_with(json!({ "topic": cx.topic() }))),
        "status" => return Ok(Reply::status(asked.status.clone(), &asked.payload)),
        "refuse" => return Err(Refusal::reason("refused")),
        "later" => {
            let payload = json!({ "later": cx.later() });
            cx.topic_send_after(asked.delay(), "owed", payload);
        }
        "later_thread" => {
            let (later, delay) = (cx.later(), asked.delay());
            cx.spawn(move |remote| {
                std::thread::sleep(delay);
                remote.complete(later, "ok", json!({ "late": true }));
            });
        }
        "never" => {
            let _never_kept = cx.later();
        }
        "panic" => {
            cx.broadcast("lost", json!({}));
            panic!("handle_call panics");
        }
        "hang" => {
            cx.broadcast("lost", json!({}));
            hang();
        }
        "none" => {}
        "broadcast" | "send_to" => {
            send(event, asked, cx)?;
            return Ok(Reply::ok());
        }
        _ => return Ok(Reply::unhandled()),
    }
    Ok(Reply::none())
}

impl Member {
    /// Handles an event, or hands it to the next of these functions.
    pub(crate) fn handle_asked(&mut self, event: &str, asked: &Asked, cx: &Context) -> Handled {
        match event {
            "whoami" => return whoami(cx),
            "claims" | "access_token" => return Ok(Reply::ok_with(cx.claims::<Value>()?)),
            "status" => return Ok(Reply::status(asked.status.clone(), &asked.payload)),
            "arm" => self.traps.push(asked.at.clone()),
            "sleep" => asked.sleep(),
            "spin" => asked.spin(),
            "unruly" => drop(misbehave(&asked.at)),
            "silent" => return Ok(Reply::none()),
            "stop" => return Ok(stop(asked, cx)),
            "panic" => panic!("{}", asked.payload.as_str().unwrap_or("handle_in panics")),
            "broadcast_panic" => {
                cx.broadcast("lost", json!({}));
                cx.push("lost", json!({}));
                cx.track("lost", json!({}));
                panic!("handle_in panics after a broadcast");
            }
            "thread_panic" => cx.spawn(|_| panic!("a thread panics")),
            "log" => log(asked),
            "spans" => spans(asked, cx),
            _ => return self.reply_late(event, asked, cx),
        }
        Ok(Reply::ok())
    }

    fn reply_late(&mut self, event: &str, asked: &Asked, cx: &Context) -> Handled {
        match event {
            "later" => {
                self.owed.push(cx.later());
                cx.send_after(asked.delay(), "owed", json!({}));
            }
            "later_data" => {
                let payload = json!({ "later": cx.later() });
                cx.send_after(asked.delay(), "data", payload);
            }
            "later_thread" => {
                let (later, delay) = (cx.later(), asked.delay());
                cx.spawn(move |remote| {
                    std::thread::sleep(delay);
                    let taken = remote.complete(later, "ok", json!({ "late": true }));
                    info!("completed late: {taken}");
                });
            }
            "twice" => {
                let later = cx.later();
                cx.complete(later.clone(), "ok", json!({ "n": 1 }));
                cx.complete(later, "ok", json!({ "n": 2 }));
            }
            "twice_thread" => {
                let later = cx.later();
                cx.spawn(move |remote| {
                    for n in [1, 2] {
                        let taken = remote.complete(later.clone(), "ok", json!({ "n": n }));
                        info!("completed {n}: {taken}");
                    }
                });
            }
            "forged" => {
                let later: Later = Payload::json_text(&asked.payload.to_string()).parse()?;
                cx.spawn(move |remote| {
                    let taken = remote.complete(later, "ok", json!({}));
                    info!("completed: {taken}");
                });
            }
            "twice_now" => {
                cx.raw_effect(effect::REPLY, false, b"ok", br#"{"n":1}"#);
                return Ok(Reply::ok_with(json!({ "n": 2 })));
            }
            "never" => {
                let _never_kept = cx.later();
            }
            _ => return send(event, asked, cx),
        }
        Ok(Reply::none())
    }
}

/// Writes lines of several levels, and one in a span.
fn log(asked: &Asked) {
    let text = match &asked.payload {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    info!("{text}");
    debug!(target: "misbehave::quiet", text, "seldom wanted");
    let span = bennu_plugin::tracing::info_span!("asking", bytes = asked.bytes);
    span.in_scope(|| warn!(count = asked.count, key = asked.key, "in a span"));
}

fn whoami(cx: &Context) -> Handled {
    Ok(Reply::ok_with(json!({
        "topic": cx.topic(),
        "socket_id": cx.socket_id(),
        "socket": cx.socket_assigns::<Value>()?,
        "route": cx.route::<Value>()?,
    })))
}

fn stop(asked: &Asked, cx: &Context) -> Reply {
    cx.stop(match asked.reason.as_str() {
        "normal" => Stop::Normal,
        "shutdown" => Stop::Shutdown,
        other => Stop::Other(other.to_owned()),
    });
    if asked.reply { Reply::ok() } else { Reply::none() }
}

fn send(event: &str, asked: &Asked, cx: &Context) -> Handled {
    match event {
        "push" => cx.push(&asked.event, &asked.payload),
        "broadcast" => cx.broadcast(&asked.event, &asked.payload),
        "broadcast_from" => cx.broadcast_from(&asked.event, &asked.payload),
        "broadcast_to" => cx.broadcast_to(&asked.topic, &asked.event, &asked.payload),
        "send_to" => cx.send_to(&asked.topic, &asked.event, &asked.payload),
        "disconnect" => cx.disconnect(&asked.topic),
        "secret" => cx.broadcast("secret", &asked.payload),
        "push_binary" => cx.push("binary", BYTES),
        "broadcast_binary" => cx.broadcast("binary", BYTES),
        "reply_binary" => return Ok(Reply::ok_with(BYTES)),
        "flood" => flood(asked, |payload| cx.push("flood", payload)),
        "flood_broadcast" => flood(asked, |payload| cx.broadcast("flood", payload)),
        _ => return send_invalid(event, asked, cx),
    }
    Ok(Reply::none())
}

fn flood(asked: &Asked, send: impl Fn(Value)) {
    let fill = "x".repeat(asked.bytes);
    for n in 0..asked.count {
        send(json!({ "n": n, "fill": fill }));
    }
}

/// Asks for a wrong effect, and replies with the host's answer.
fn lie(asked: &Asked, cx: &Context) -> Handled {
    let push = |name: &[u8], payload: &[u8]| cx.raw_effect(effect::PUSH, false, name, payload);
    let answer = match asked.at.as_str() {
        "payload" => push(b"invalid", NO_UTF8),
        "json" => push(b"invalid", b"{not json"),
        "array" => push(b"invalid", b"[1]"),
        "name" => push(NO_UTF8, b"{}"),
        "kind" => cx.raw_effect(9_999, false, b"invalid", b"{}"),
        "length" => push(b"invalid", too_long()),
        "misplaced" => cx.raw_effect(effect::ACCEPT, false, b"", b"{}"),
        "timer" => cx.raw_effect(effect::CANCEL, false, b"", b""),
        "state" => cx.raw_effect(effect::STATE, true, b"", b"x"),
        _ => 0,
    };
    Ok(Reply::ok_with(json!({ "answer": answer })))
}

fn send_invalid(event: &str, asked: &Asked, cx: &Context) -> Handled {
    match event {
        "lie" => return lie(asked, cx),
        "invalid_field" => {
            cx.push(&"x".repeat(256), BYTES);
            cx.broadcast(&"x".repeat(256), BYTES);
            return Ok(Reply::status("x".repeat(256), BYTES));
        }
        "invalid_push" => cx.raw_effect(effect::PUSH, false, b"invalid", NO_UTF8),
        "invalid_broadcast" => cx.raw_effect(effect::BROADCAST, false, b"invalid", NO_UTF8),
        "invalid_reply" => cx.raw_effect(effect::REPLY, false, b"ok", NO_UTF8),
        "invalid_json" => cx.raw_effect(effect::PUSH, false, b"invalid", b"{not json"),
        "invalid_name" => cx.raw_effect(effect::PUSH, false, NO_UTF8, b"{}"),
        "invalid_kind" => cx.raw_effect(9_999, false, b"invalid", b"{}"),
        "invalid_meta" => return Ok(done(cx.track("invalid", 7))),
        _ => return start_timer(event, asked, cx),
    };
    Ok(Reply::none())
}

fn start_timer(event: &str, asked: &Asked, cx: &Context) -> Handled {
    let delay = asked.delay();
    match event {
        "timer" => {
            cx.send_after(delay, "tick", &asked.payload);
        }
        "topic_timer" => {
            cx.topic_send_after(delay, "tock", &asked.payload);
        }
        "topic_count" => {
            cx.topic_send_after(delay, "count", json!({}));
            return Ok(Reply::ok());
        }
        "topic_panic" | "topic_hang" => {
            let what = event.trim_start_matches("topic_");
            cx.topic_send_after(delay, what, json!({}));
        }
        "disconnect_after" => {
            cx.topic_send_after(delay, "disconnect", json!(asked.topic));
            return Ok(Reply::ok());
        }
        "cancelled" => {
            cx.cancel(cx.send_after(delay, "tick", &asked.payload));
            return Ok(Reply::ok());
        }
        "timers" => {
            for n in 0..asked.count {
                cx.send_after(delay, "tick", json!({ "n": n }));
            }
        }
        _ => return presence(event, asked, cx),
    }
    Ok(Reply::none())
}

fn presence(event: &str, asked: &Asked, cx: &Context) -> Handled {
    match event {
        "track" => Ok(done(cx.track(&asked.key, &asked.meta))),
        "update" => Ok(done(cx.update(&asked.key, &asked.meta))),
        "untrack" => Ok(done(cx.untrack(&asked.key))),
        "describe" => Ok(done(cx.describe(&asked.key, &asked.meta))),
        "presences" => Ok(Reply::ok_with(cx.presences())),
        "presence" => Ok(Reply::ok_with(cx.presence(&asked.key))),
        "track_elsewhere" => {
            let answer = cx.raw_effect_on(&asked.topic, effect::TRACK, asked.key.as_bytes(), b"{}");
            Ok(done(answer >= 0))
        }
        "topic_track" => {
            cx.topic_send_after(asked.delay(), "track", json!({}));
            Ok(Reply::none())
        }
        "push_presence" => {
            cx.push_presence();
            Ok(Reply::none())
        }
        _ => Ok(Reply::unhandled()),
    }
}

fn done(done: bool) -> Reply {
    Reply::ok_with(json!({ "done": done }))
}
