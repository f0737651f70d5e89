//! A plugin that does what it is told.

use bennu_plugin::prelude::*;
use bennu_plugin::test::{Membership, Server};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) greeting: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Room {
    pub(crate) count: u32,
    pub(crate) owed: Vec<Later>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: Text<1, 8>,
    pub(crate) heard: u32,
}

#[derive(Deserialize)]
struct Params {
    name: Text<1, 8>,
}

impl Channel<Settings> for Member {
    type Shared = Room;

    const INTERCEPTS: &'static [&'static str] = &["secret"];

    fn join(room: &mut Room, params: Payload<'_>, cx: &mut Context<Settings>) -> Join<Self> {
        let Params { name } = params.parse()?;
        match &*name {
            "slow" => {
                let later = cx.later();
                cx.spawn(move |remote| {
                    remote.complete(later, "ok", json!({ "name": "late" }));
                });
                return Join::later();
            }
            "timed" => {
                room.owed.push(cx.later());
                cx.topic_send_after(Duration::from_secs(3), "pay", json!({ "name": "timed" }));
                return Join::later();
            }
            "crash" => panic!("no such name"),
            "careless" => return Join::later(),
            _ => {}
        }
        cx.track(&name, json!({ "mood": "new" }));
        let greeting = cx.plugin().greeting.as_deref().unwrap_or("hello");
        Join::reply(Self { name, heard: 0 }, json!({ "greeting": greeting }))
    }

    fn join_answer(_: &mut Room, answer: Payload<'_>, _: &mut Context<Settings>) -> Join<Self> {
        let Params { name } = answer.parse()?;
        Join::accept(Self { name, heard: 0 })
    }

    fn handle_in(&mut self, room: &mut Room, event: &str, payload: Payload<'_>, cx: &mut Context<Settings>) -> Handled {
        match event {
            "echo" => return Ok(Reply::ok_with(payload)),
            "count" => {
                room.count += 1;
                cx.broadcast("counted", json!({ "count": room.count }));
                return Ok(Reply::ok_with(json!({ "count": room.count })));
            }
            "crash" => {
                room.count += 1;
                cx.broadcast("never", json!({}));
                panic!("on request");
            }
            "secret" => cx.broadcast_from("secret", payload),
            "push" => cx.push("pushed", payload),
            "mood" => {
                cx.update(&self.name, payload);
                assert_eq!(cx.presence(&self.name).map(|presence| presence.metas.len()), Some(1));
            }
            "hide" => {
                cx.untrack(&self.name);
            }
            "who" => cx.push_presence(),
            "stop" => cx.stop(Stop::Normal),
            "fail" => cx.stop(Stop::Other("tired".to_owned())),
            "remind" => {
                let timer = cx.send_after(Duration::from_secs(5), "reminded", payload);
                cx.send_after(Duration::from_secs(2), "first", json!({}));
                cx.cancel(cx.send_after(Duration::from_secs(1), "never", json!({})));
                let _ = timer;
            }
            "now" => cx.send("reminded", payload),
            "owe" => room.owed.push(cx.later()),
            "elsewhere" => {
                let later = cx.later();
                let payload = payload.json().unwrap_or_default().to_owned();
                cx.spawn(move |remote| {
                    remote.send("reminded", json!({ "from": "a thread" }));
                    remote.complete(later, "ok", Payload::json_text(&payload));
                });
            }
            "never answered" => drop(cx.later()),
            "disconnect" => cx.disconnect("user:1"),
            "me" => {
                let (socket, route): (Value, Value) = (cx.socket_assigns()?, cx.route()?);
                return Ok(Reply::ok_with(json!([cx.socket_id(), socket, route])));
            }
            "wrong" => cx.push("wrong", json!("no object")),
            _ => return self.handle_more(event, payload, cx),
        }
        Ok(Reply::none())
    }

    fn handle_out(&mut self, _: &mut Room, event: &str, payload: Payload<'_>, cx: &mut Context<Settings>) {
        self.heard += 1;
        match &*self.name {
            "deaf" => {}
            "fragile" => panic!("too loud"),
            _ => cx.push(event, payload),
        }
    }

    fn handle_call(room: &mut Room, event: &str, payload: Payload<'_>, cx: &mut Context<Settings>) -> Handled {
        match event {
            "add" => {
                room.count += 1;
                cx.broadcast("counted", json!({ "count": room.count }));
                return Ok(Reply::ok_with(json!({ "count": room.count, "topic": cx.topic() })));
            }
            "later" => {
                let later = cx.later();
                cx.spawn(move |remote| {
                    remote.complete(later, "ok", json!({ "late": true }));
                });
            }
            "tell" => cx.send_to(payload.parse()?, "told", json!({ "by": cx.topic() })),
            "crash" => {
                cx.broadcast("never", json!({}));
                panic!("on request");
            }
            _ => return Ok(Reply::unhandled()),
        }
        Ok(Reply::none())
    }

    fn handle_info(&mut self, _: &mut Room, name: &str, payload: Payload<'_>, cx: &mut Context<Settings>) {
        cx.push(name, payload);
    }

    fn handle_topic_info(room: &mut Room, name: &str, payload: Payload<'_>, cx: &mut Context<Settings>) {
        cx.broadcast(name, payload);
        for later in room.owed.drain(..) {
            cx.complete(later, "ok", payload);
        }
    }

    fn terminate(&mut self, _: &mut Room, reason: Reason<'_>, cx: &mut Context<Settings>) {
        cx.broadcast("gone", json!({ "name": self.name, "why": format!("{reason:?}") }));
    }
}

impl Member {
    fn handle_more(&self, event: &str, payload: Payload<'_>, cx: &Context<Settings>) -> Handled {
        match event {
            "busy" => return Ok(Reply::status("busy", json!(1))),
            "refuse" => return Err(Refusal::reason("no")),
            "promise" => cx.complete(cx.later(), "ok", payload),
            "who is" => return Ok(Reply::ok_with(cx.presence(payload.parse()?))),
            "all" => return Ok(Reply::ok_with(cx.presences())),
            "describe" => return Ok(Reply::ok_with(cx.describe(&self.name, payload))),
            "far" => cx.broadcast_to("room:2", "hello", payload),
            "to topic" => {
                cx.topic_send_after(Duration::ZERO, "tock", payload);
            }
            _ => return Ok(Reply::unhandled()),
        }
        Ok(Reply::none())
    }
}

bennu_plugin::test_plugin!(Member, plugin = Settings);

/// A server with ann and bob in `room:1`.
pub(crate) fn two() -> (Server, Membership, Membership) {
    let server = Server::start::<Member>();
    let ann = server.join("room:1", json!({ "name": "ann" }));
    let bob = server.join("room:1", json!({ "name": "bob" }));
    (server, ann, bob)
}
