//! The plugin to show: a chat room with names, history, typing and presence.
//!
//! A client joins `room:…` with `{"name": "ann"}` and gets `{"history": […]}`. It pushes `new_msg` `{"body": "hello"}`, and
//! everyone gets `new_msg` `{"id": 1, "name": "ann", "body": "hello"}`. It pushes `typing` `{"typing": true}`, and the others get
//! `typing` `{"name": "ann", "typing": true}`. A backend that calls `history` gets `{"history": […]}`.

use bennu_plugin::prelude::*;

/// Its `settings` in the configuration: `bennu schema --plugin room` shows their schema.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// How many messages the room keeps, and shows to a client that joins. Default 50.
    max_history: Option<usize>,
}

/// One for each topic.
#[derive(Default, Serialize, Deserialize)]
struct Room {
    history: History,
}

/// One for each client in it, read from the params of its join.
#[derive(Serialize, Deserialize)]
struct Member {
    name: Text<1, 32>,
}

/// What a client may push.
#[derive(Deserialize)]
enum Event {
    NewMsg { body: Text<1, 2000> },
    Typing { typing: bool },
}

impl Channel<Settings> for Member {
    type Shared = Room;

    fn join(room: &mut Room, params: Payload<'_>, cx: &mut Context<Settings>) -> Join<Self> {
        let member: Self = params.parse()?;
        cx.track(&member.name, json!({}));
        Join::reply(member, json!({ "history": room.history.all() }))
    }

    fn handle_in(&mut self, room: &mut Room, event: &str, payload: Payload<'_>, cx: &mut Context<Settings>) -> Handled {
        match payload.parse_as(event)? {
            Event::Typing { typing } => cx.broadcast_from("typing", json!({ "name": self.name, "typing": typing })),
            Event::NewMsg { body } => {
                let message = json!({ "id": room.history.next_id(), "name": self.name, "body": body });
                cx.broadcast("new_msg", &message);
                let id = room.history.push(message, cx.plugin().max_history.unwrap_or(50));
                return Ok(Reply::ok_with(json!({ "id": id })));
            }
        }
        Ok(Reply::none())
    }

    fn handle_call(room: &mut Room, event: &str, _: Payload<'_>, _: &mut Context<Settings>) -> Handled {
        match event {
            "history" => Ok(Reply::ok_with(json!({ "history": room.history.all() }))),
            _ => Ok(Reply::unhandled()),
        }
    }
}

export_plugin!(Member, plugin = Settings);

#[cfg(test)]
mod tests {
    use bennu_plugin::test::{Code, Server, any, like};

    use super::*;

    fn server() -> Server {
        Server::start_with::<Member>(json!({ "max_history": 2 }))
    }

    fn named(name: &str) -> Value {
        json!({ "name": name })
    }

    #[test]
    fn a_message_reaches_everyone_and_those_who_join_later() {
        for server in [server(), Server::run(Code::built("room"), json!({ "max_history": 2 }))] {
            let (ann, bob) = (server.join("room:1", named("ann")), server.join("room:1", named("bob")));
            for (id, body) in [(1, "a"), (2, "b"), (3, "c")] {
                ann.push("new_msg", json!({ "body": body }))
                    .assert_reply("ok", json!({ "id": id }));
                let message = json!({ "id": id, "name": "ann", "body": body });
                ann.assert_push("new_msg", &message);
                bob.assert_push("new_msg", &message);
            }
            let history = server.join("room:1", named("eve")).join_reply()["history"].clone();
            assert_eq!(history[0], json!({ "id": 2, "name": "ann", "body": "b" }));
            assert_eq!(history.as_array().map(Vec::len), Some(2));
        }
    }

    #[test]
    fn typing_reaches_the_others() {
        let server = server();
        let (ann, bob) = (server.join("room:1", named("ann")), server.join("room:1", named("bob")));
        ann.push("typing", json!({ "typing": true })).refute_reply();
        bob.assert_push("typing", json!({ "name": "ann", "typing": true }));
        ann.refute_push("typing", any());
    }

    #[test]
    fn presence_lists_who_is_there() {
        let server = server();
        let (ann, bob) = (server.join("room:1", named("ann")), server.join("room:1", named("bob")));
        bob.assert_push("presence_state", like(json!({ "ann": {}, "bob": {} })));
        bob.assert_presence("ann", json!({}));
        ann.leave();
        bob.refute_presence("ann");
    }

    #[test]
    fn a_missing_or_too_long_field_is_refused_by_its_name() {
        let server = server();
        let refusal = server.try_join("room:1", named("")).unwrap_err();
        assert_eq!(refusal["field"], "name");
        let ann = server.join("room:1", named("ann"));
        let refused = |field: &str| like(json!({ "reason": "invalid payload", "field": field }));
        ann.push("new_msg", json!({})).assert_reply("error", refused("body"));
        let long = "x".repeat(2_001);
        ann.push("new_msg", json!({ "body": long }))
            .assert_reply("error", refused("body"));
        ann.push("whisper", json!({}))
            .assert_reply("error", json!({ "reason": "unhandled event" }));
    }

    #[test]
    fn the_room_survives_a_reload() {
        let server = server();
        let ann = server.join("room:1", named("ann"));
        ann.push("new_msg", json!({ "body": "before" }));
        server.reload::<Member>();
        ann.push("new_msg", json!({ "body": "after" }))
            .assert_reply("ok", json!({ "id": 2 }));
        let history = server.join("room:1", named("bob")).join_reply();
        assert_eq!(history["history"][0]["body"], "before");
    }
}
