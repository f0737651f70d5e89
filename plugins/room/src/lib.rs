//! The plugin to show: a chat room with names, history, typing and presence.
//!
//! A client joins `room:…` with `{"name": "ann"}` and gets `{"history": […]}`. It says something with `new_msg`
//! `{"body": "hello"}`, which everyone receives as `new_msg` `{"id": 1, "name": "ann", "body": "hello"}`, and tells the
//! others whether it is `typing` with `{"typing": true}`.

use bennu_plugin::prelude::*;

/// `settings` in the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// How many messages the room keeps, and shows to a newcomer: 50 where this is left out.
    max_history: Option<usize>,
}

/// One for each topic.
#[derive(Default, Serialize, Deserialize)]
struct Room {
    history: History,
}

/// One for each client in it, as its join's params say.
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
}

export_plugin!(Member, plugin = Settings);
