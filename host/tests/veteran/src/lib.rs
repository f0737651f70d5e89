//! A plugin as people wrote it for the kit of ABI 1.4. It shows that libraries built then still load and run.
//!
//! It does a bit of everything: state, presence, timers, late replies, an intercepted event, a connect handler.

use std::collections::HashSet;

use bennu_plugin::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Room {
    count: u64,
    owed: Vec<Later>,
    /// Written in another order each time.
    tags: HashSet<String>,
}

#[derive(Serialize, Deserialize)]
struct Member {
    name: String,
    heard: u64,
}

#[derive(Deserialize)]
struct Params {
    name: String,
}

impl Channel for Member {
    type Shared = Room;

    const INTERCEPTS: &'static [&'static str] = &["whisper"];

    fn join(room: &mut Room, params: Payload<'_>, cx: &mut Context) -> Join<Self> {
        let Params { name } = params.parse()?;
        cx.track(&name, json!({ "mood": "calm" }));
        Join::reply(Self { name, heard: 0 }, json!({ "count": room.count }))
    }

    fn handle_in(&mut self, room: &mut Room, event: &str, payload: Payload<'_>, cx: &mut Context) -> Handled {
        match event {
            "echo" => return Ok(Reply::ok_with(payload)),
            "count" => {
                room.count += 1;
                return Ok(Reply::ok_with(json!({ "count": room.count, "heard": self.heard })));
            }
            "tag" => {
                room.tags.extend(payload.parse::<Vec<String>>()?);
                return Ok(Reply::ok_with(json!({ "tags": room.tags.len() })));
            }
            "shout" => cx.broadcast("shout", payload),
            "whisper" => cx.broadcast_from("whisper", payload),
            "owe" => {
                room.owed.push(cx.later());
                return Ok(Reply::none());
            }
            "pay" => {
                cx.topic_send_after(Duration::from_millis(1), "pay", json!({}));
            }
            "me" => return Ok(Reply::ok_with(json!({ "id": cx.socket_id(), "topic": cx.topic() }))),
            "panic" => panic!("on request"),
            _ => return Ok(Reply::unhandled()),
        }
        Ok(Reply::ok())
    }

    fn handle_out(&mut self, _: &mut Room, event: &str, payload: Payload<'_>, cx: &mut Context) {
        self.heard += 1;
        cx.push(event, payload);
    }

    fn handle_topic_info(room: &mut Room, name: &str, payload: Payload<'_>, cx: &mut Context) {
        for later in room.owed.drain(..) {
            cx.complete(later, "ok", json!({ "late": true }));
        }
        cx.broadcast(name, payload);
    }
}

struct Gate;

impl Connect for Gate {
    fn connect(request: &ConnectRequest, _: &mut ConnectContext) -> Connected {
        match request.params::<Value>() {
            Ok(params) if params["name"].is_string() => {
                let name = params["name"].as_str().unwrap_or_default();
                Ok(Connection::accept().id(format!("user:{name}")))
            }
            _ => Err(Denial::status(403).body(json!({ "reason": "no name" }))),
        }
    }
}

export_plugin!(Member, connect = Gate);
