//! The server of a test: [`Server`].

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::body::Body;
use super::client::{Client, Joining};
use super::code::{Code, Exported};
use super::core::{ClientInfo, Core};
use super::membership::Membership;
use super::pushed::Pushed;
use super::request::{Denied, Request};
use crate::panics;
use crate::payload::IntoPayload;
use crate::state::{self, Headers};

/// Runs one plugin. Stops it when the server and all its clients are dropped. A clone is the same server.
#[derive(Clone)]
pub struct Server {
    pub(super) core: Rc<RefCell<Core>>,
}

impl Server {
    /// Runs the plugin that `E` stands for, without settings.
    ///
    /// # Panics
    ///
    /// If the plugin does not start. Says why.
    #[must_use]
    #[track_caller]
    pub fn start<E: Exported>() -> Self {
        Self::run(Code::of::<E>(), json!({}))
    }

    /// Runs the plugin that `E` stands for, with these settings.
    ///
    /// # Panics
    ///
    /// If the plugin does not start. Says why.
    #[must_use]
    #[track_caller]
    pub fn start_with<E: Exported>(settings: Value) -> Self {
        Self::run(Code::of::<E>(), settings)
    }

    /// Builds and runs the library of this package, without settings: see [`Code::built`].
    ///
    /// # Panics
    ///
    /// If the library cannot be built or loaded, or does not start. Says why.
    #[must_use]
    #[track_caller]
    pub fn built(package: &str) -> Self {
        Self::run(Code::built(package), json!({}))
    }

    /// Runs any code with any settings.
    ///
    /// # Panics
    ///
    /// If the plugin does not start. Says why.
    #[must_use]
    #[track_caller]
    pub fn run(code: Code, settings: Value) -> Self {
        match Self::try_run(code, settings) {
            Ok(server) => server,
            Err(why) => panic!("cannot start the plugin: {why}"),
        }
    }

    /// Runs any code with any settings, if it starts.
    ///
    /// # Errors
    ///
    /// The error of the plugin's `check` or `init`. For invalid settings it is a JSON object with `path` and `message`.
    pub fn try_run(code: Code, settings: Value) -> Result<Self, String> {
        panics::share_hook();
        let core = Core::new(code, &settings.to_string())?;
        Ok(Self {
            core: Rc::new(RefCell::new(core)),
        })
    }

    /// A new client, connected as to a mount without a connect handler.
    #[must_use]
    pub fn client(&self) -> Client {
        let mut core = self.core.borrow_mut();
        core.clients.push(ClientInfo::default());
        Client {
            core: Rc::clone(&self.core),
            number: core.clients.len() - 1,
        }
    }

    /// A new client that connects by the plugin's connect handler. `request` is a [`Request`], or only the query params.
    ///
    /// # Errors
    ///
    /// If the handler refuses the client.
    ///
    /// # Panics
    ///
    /// If a promised answer does not come within the [patience](Server::patience).
    #[track_caller]
    pub fn connect(&self, request: impl Into<Request>) -> Result<Client, Denied> {
        let request = request.into();
        let claims = request.info_of("claims").cloned();
        let info = request.info();
        let number = self.core.borrow_mut().connect(info);
        let mut core = self.core.borrow_mut();
        let answer = core.wait_until(|core| core.connects.get_mut(&number)?.answer.take());
        drop(core);
        match answer {
            None => panic!("the connect was not answered{}", self.core.borrow().logged()),
            Some(Ok((id, assigns))) => {
                let client = self.client();
                let mut core = self.core.borrow_mut();
                let known = &mut core.clients[client.number];
                known.socket_id = Some(id).filter(|id| !id.is_empty());
                known.assigns = Some(assigns.value()).filter(|assigns| *assigns != json!({}));
                known.claims = claims;
                drop(core);
                Ok(client)
            }
            Some(Err((status, body))) => Err(Denied {
                status,
                body: body.map(|body| body.value()),
            }),
        }
    }

    /// A new client joins a topic.
    ///
    /// # Panics
    ///
    /// If the join is refused or not answered. Says why.
    #[track_caller]
    pub fn join(&self, topic: &str, params: impl IntoPayload) -> Membership {
        self.client().join(topic, params)
    }

    /// A new client tries to join a topic.
    ///
    /// # Errors
    ///
    /// The payload that refuses the join.
    ///
    /// # Panics
    ///
    /// If the join is not answered.
    #[track_caller]
    pub fn try_join(&self, topic: &str, params: impl IntoPayload) -> Result<Membership, Value> {
        self.client().try_join(topic, params)
    }

    /// A new client starts to join a topic whose plugin may answer later.
    pub fn start_join(&self, topic: &str, params: impl IntoPayload) -> Joining {
        self.client().start_join(topic, params)
    }

    /// Sets the assigns of the route, for joins from now on: a JSON object.
    pub fn route(&self, assigns: Value) {
        self.core.borrow_mut().route = Some(assigns);
    }

    /// Advances the clock. Timers that become due fire one after the other, each at its time. A topic without members ends after ten
    /// seconds, the default of `linger_ms`.
    pub fn advance(&self, by: Duration) {
        self.core.borrow_mut().advance(by);
    }

    /// Waits until a thread of the plugin sends or answers something, for at most `most`.
    #[doc(hidden)]
    pub fn wait(&self, most: Duration) {
        self.core.borrow().outside.wait(most);
    }

    /// Sets how long an assertion waits for threads of the plugin. The default is one second, or five while a promise is open. This
    /// is real time, not that of [`Server::advance`].
    pub fn patience(&self, most: Duration) {
        self.core.borrow_mut().patience = Some(most);
    }

    /// Broadcasts an event to a topic, as another plugin would.
    pub fn broadcast(&self, topic: &str, event: &str, payload: impl IntoPayload) {
        let mut core = self.core.borrow_mut();
        core.broadcast_to(topic, event, Body::of(&payload), 0);
        core.settle();
    }

    /// Asks a topic, as a backend does through the HTTP API. The plugin has handled it in `handle_call` when this returns. The topic
    /// is made if it does not exist, as with `"create": true`.
    pub fn call(&self, topic: &str, event: &str, payload: impl IntoPayload) -> Pushed {
        let number = self.core.borrow_mut().call(topic, event, Body::of(&payload));
        Pushed::new(&self.core, number, event)
    }

    /// Sends a message to a topic. It arrives in `handle_topic_info`.
    pub fn send(&self, topic: &str, name: &str, payload: impl IntoPayload) {
        let mut core = self.core.borrow_mut();
        let topic = core.topic_number(topic);
        core.send(topic, 0, name, Body::of(&payload));
    }

    /// Lets the next callback panic at its end: its changes of state stay, its effects are dropped, and its member ends.
    pub fn inject_panic(&self) {
        self.core.borrow_mut().panic_next = true;
    }

    /// A topic's shared state, as the plugin writes it for a reload, read as a `T`.
    ///
    /// # Panics
    ///
    /// If the topic has no state, or if that cannot be written, or read as a `T`. Says why.
    #[must_use]
    #[track_caller]
    pub fn shared<T: DeserializeOwned>(&self, topic: &str) -> T {
        let mut core = self.core.borrow_mut();
        let number = core.topic_number(topic);
        core.state_of(number, 0)
            .unwrap_or_else(|why| panic!("the state of `{topic}`: {why}"))
    }

    /// Makes a topic from state of an earlier version, so that a test of a migration needs no old code. `shared` is the topic's
    /// state, `members` is the state of each member, and `version` is the state version that wrote them:
    ///
    /// ```
    /// # use bennu_plugin::prelude::*;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Room { messages: Vec<Value> }
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Member { name: String }
    /// # impl Channel for Member {
    /// #     type Shared = Room;
    /// #     const STATE_VERSION: u32 = 2;
    /// #     const READS_FROM: u32 = 1;
    /// #     fn handle_in(&mut self, room: &mut Room, _: &str, _: Payload, _: &mut Context) -> Handled {
    /// #         Ok(Reply::ok_with(&room.messages))
    /// #     }
    /// #     fn migrate_shared(version: u32, old: Old) -> Result<Room, MigrateError> {
    /// #         #[derive(Deserialize)]
    /// #         struct RoomV1 { messages: Vec<String> }
    /// #         if version == 2 {
    /// #             return old.read();
    /// #         }
    /// #         let RoomV1 { messages } = old.read()?;
    /// #         Ok(Room { messages: messages.into_iter().map(|text| json!({ "text": text })).collect() })
    /// #     }
    /// # }
    /// # bennu_plugin::test_plugin!(Member);
    /// # use bennu_plugin::test::Server;
    /// let server = Server::start::<Member>();
    /// let room = json!({ "messages": ["hello"] });
    /// let members = server.restore("room:1", 1, room, [json!({ "name": "ann" })]);
    /// members[0].push("messages", json!({})).assert_reply("ok", json!([{ "text": "hello" }]));
    /// ```
    ///
    /// # Panics
    ///
    /// If the plugin cannot read it. Says why.
    #[track_caller]
    pub fn restore(
        &self,
        topic: &str,
        version: u32,
        shared: impl Serialize,
        members: impl IntoIterator<Item: Serialize>,
    ) -> Vec<Membership> {
        let restored = written(&shared).and_then(|shared| {
            let members: Result<Vec<_>, _> = members.into_iter().map(|member| written(&member)).collect();
            self.core.borrow_mut().restore(topic, version, shared, members?)
        });
        match restored {
            Ok(members) => members
                .into_iter()
                .map(|number| Membership::new(&self.core, number))
                .collect(),
            Err(why) => panic!("cannot restore `{topic}`: {why}{}", self.core.borrow().logged()),
        }
    }

    /// Replaces the plugin by the one that `E` stands for, with the same settings: the old code writes the state of all topics, and
    /// the new code reads it. Reload the same code to test that state survives.
    ///
    /// # Panics
    ///
    /// If the new code does not start, or a topic cannot move to it. Says why.
    #[track_caller]
    pub fn reload<E: Exported>(&self) {
        self.reload_to(Code::of::<E>());
    }

    /// Replaces the plugin by any code, as [`Server::reload`] does.
    ///
    /// # Panics
    ///
    /// If the new code does not start, or a topic cannot move to it. Says why.
    #[track_caller]
    pub fn reload_to(&self, code: Code) {
        if let Err(why) = self.try_reload_to(code) {
            panic!("the reload failed: {why}{}", self.core.borrow().logged());
        }
    }

    /// Replaces the plugin by any code, if that reads the state. As in the host, a topic that it cannot read stays with the old code.
    ///
    /// # Errors
    ///
    /// Names the topics that stay, and why.
    pub fn try_reload_to(&self, code: Code) -> Result<(), String> {
        self.core.borrow_mut().reload(code)
    }

    /// The lines that the plugin has logged, each with its level first; and its panics.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        let log = self.core.borrow().outside.log();
        log.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// State as a plugin writes it. It does not say what is a set: in JSON that is a list like any other.
fn written(state: &impl Serialize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    state::write(state, Headers::Lenient, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}
