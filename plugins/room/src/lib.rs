//! The plugin to show: a chat room with names, history, typing and presence.
//!
//! A client joins `room:…` with `{"name": "ann"}` and gets `{"history": […]}`. It says something with `new_msg`
//! `{"body": "hello"}`, which everyone receives as `new_msg` `{"id": 1, "name": "ann", "body": "hello"}`, and tells the
//! others whether it is `typing` with `{"typing": true}`.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use bennu_plugin::prelude::*;

/// `settings` in the configuration.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// How many messages a newcomer is shown, and the room keeps.
    max_history: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_history: 50 }
    }
}

/// `assigns` of the route.
#[derive(Deserialize)]
struct Assigns {
    /// Whether a member may send one message a second only.
    #[serde(default)]
    slow_mode: bool,
}

/// One for each topic.
#[derive(Default, Serialize, Deserialize)]
struct Room {
    last_id: u64,
    history: VecDeque<Message>,
}

/// One for each client in it.
#[derive(Serialize, Deserialize)]
struct Member {
    name: String,
    /// In slow mode, until the second is over.
    must_wait: bool,
}

#[derive(Serialize, Deserialize)]
struct Message {
    id: u64,
    name: String,
    body: String,
}

#[derive(Deserialize)]
struct Params {
    name: String,
}

#[derive(Deserialize)]
struct NewMessage {
    body: String,
}

#[derive(Deserialize)]
struct Typing {
    typing: bool,
}

impl Channel<Settings> for Member {
    type Shared = Room;

    fn join(room: &mut Room, params: Payload<'_>, cx: &mut Context<Settings>) -> Join<Self> {
        let Params { name } = params.parse()?;
        if !(1..=32).contains(&name.chars().count()) {
            return Err(Refusal::field("name", "must have 1 to 32 characters"));
        }
        cx.track(&name, json!({}));
        Join::reply(Self { name, must_wait: false }, json!({ "history": room.history }))
    }

    fn handle_in(&mut self, room: &mut Room, event: &str, payload: Payload<'_>, cx: &mut Context<Settings>) -> Handled {
        match event {
            "new_msg" => self.say(room, payload.parse()?, cx),
            "typing" => {
                let Typing { typing } = payload.parse()?;
                cx.broadcast_from("typing", json!({ "name": self.name, "typing": typing }));
                Ok(Reply::none())
            }
            _ => Ok(Reply::unhandled()),
        }
    }

    /// The second of slow mode is over.
    fn handle_info(&mut self, _: &mut Room, _: &str, _: Payload<'_>, _: &mut Context<Settings>) {
        self.must_wait = false;
    }
}

impl Member {
    fn say(&mut self, room: &mut Room, new: NewMessage, cx: &mut Context<Settings>) -> Handled {
        if self.must_wait {
            return Err(Refusal::reason("slow mode: one message a second"));
        }
        if cx.route::<Assigns>()?.slow_mode {
            self.must_wait = true;
            cx.send_after(Duration::from_secs(1), "second_over", json!({}));
        }
        room.last_id += 1;
        let message = Message {
            id: room.last_id,
            name: self.name.clone(),
            body: new.body,
        };
        cx.broadcast("new_msg", &message);
        room.history.push_back(message);
        while room.history.len() > cx.plugin().max_history {
            room.history.pop_front();
        }
        Ok(Reply::ok_with(json!({ "id": room.last_id })))
    }
}

export_plugin!(Member, plugin = Settings);
