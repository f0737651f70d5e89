//! The plugin to test against: does on request what no plugin should. Serves `misbehave:*`.
//!
//! Payloads are JSON objects. Any key may be left out: numbers are then 0, texts empty, `payload` and `meta` `{}`.
//!
//! # Joining
//!
//! By `do` in the params:
//!
//! | `do` | what happens |
//! |---|---|
//! | (none) | accepted with `{}` |
//! | `refuse` | refused with `{"reason":"refused"}` |
//! | `panic` | panics |
//! | `sleep` | blocks for `ms`, then accepts |
//! | `unruly` | does what `at` says, see below, then accepts |
//! | `later` | accepted from another thread after `ms`, with `{"late":true}` |
//! | `later_timer` | accepted after a timer of the topic of `ms`, with `{"late":true}` |
//! | `later_refuse` | refused from another thread after `ms`, with `{"reason":"refused late"}` |
//! | `later_hang` | promises to answer from another thread after `ms`, and hangs while doing so |
//! | `later_panic` | promises to answer from another thread after `ms`, and panics while doing so |
//! | `never` | promises to answer, and does not |
//! | `binary` | accepted with the binary reply `00 ff 01` |
//! | `invalid` | accepted with a reply that is not JSON |
//! | `push` | pushes `early` before it is accepted |
//! | `track` | accepted; tracked under the keys `a`, `b` and `c` with `{"key":"a"}` … |
//! | `stop` | accepted, and stopped normally at once |
//! | `log` | writes `joining` to the log, then accepts |
//!
//! # Events
//!
//! | event | what happens |
//! |---|---|
//! | `count` | replies `{"topic":n,"member":n,"version":1}`, both numbers one higher than before |
//! | `whoami` | replies `{"topic":…,"socket_id":…,"socket":{…},"route":{…}}` |
//! | `claims`, `access_token` | replies with the claims of the client's token |
//! | `echo` | replies with the same payload |
//! | `numbered` | pushes `numbered` with the same payload, then replies with it |
//! | `panic` | panics, with `payload` as the message if it is a text |
//! | `broadcast_panic` | broadcasts `lost`, pushes `lost`, tracks `lost`, then panics: nothing goes out |
//! | `thread_panic` | replies ok; a thread that it started panics |
//! | `sleep`, `spin` | blocks for `ms`, or computes, then replies ok |
//! | `unruly` | does what `at` says, see below, then replies ok |
//! | `later` | replies `{"late":true}` after a timer of `ms` |
//! | `later_data` | the same; the promise is kept in the timer's payload alone |
//! | `later_thread` | replies `{"late":true}` from another thread after `ms` |
//! | `twice` | promises, then replies twice: `{"n":1}`, `{"n":2}` |
//! | `twice_thread` | the same from another thread |
//! | `twice_now` | replies `{"n":1}` by a raw effect, then `{"n":2}` |
//! | `never` | promises, and does not reply |
//! | `silent` | does not reply |
//! | `status` | replies with the status `status` and `payload` |
//! | `stop` | stops with `reason` `normal`, `shutdown` or anything else; replies ok before if `reply` is true |
//! | `arm` | sets the trap `at`, replies ok; see below |
//! | `push`, `broadcast`, `broadcast_from` | sends `event` with `payload` |
//! | `broadcast_to` | broadcasts `event` with `payload` to `topic` |
//! | `send_to` | sends the message `event` with `payload` to `topic`, which broadcasts it |
//! | `disconnect` | disconnects the socket id `topic` |
//! | `disconnect_after` | the same after `ms`; replies ok |
//! | `push_binary`, `broadcast_binary` | sends `binary` with the bytes `00 ff 01` |
//! | `reply_binary` | replies `00 ff 01` |
//! | `invalid_push`, `invalid_broadcast`, `invalid_reply` | sends bytes that are not UTF-8 as JSON |
//! | `invalid_json` | pushes UTF-8 that is not JSON |
//! | `invalid_name` | pushes an event whose name is not UTF-8 |
//! | `invalid_field` | pushes, broadcasts and replies bytes with an event or a status of 256 bytes |
//! | `invalid_meta` | tracks `invalid` with a number; replies `{"done":false}` |
//! | `lie` | asks for an effect that is wrong in `at`: `payload`, `json`, `array`, `name`, `kind`, `length`, `misplaced`, `timer`, `state`; replies `{"answer":n}` with the host's answer |
//! | `forged` | keeps the promise `payload` from another thread, and logs `completed: ` and whether the host took it |
//! | `invalid_kind` | asks for an effect that does not exist |
//! | `flood` | pushes `flood` `{"n":…,"fill":"xx…"}` `count` times, with `bytes` bytes in `fill` |
//! | `flood_broadcast` | broadcasts the same |
//! | `timer` | pushes `tick` with `payload` after `ms` |
//! | `topic_timer` | broadcasts `tock` with `payload` after `ms`, whether or not the member is still there |
//! | `cancelled` | starts a timer of `ms`, cancels it, replies ok |
//! | `timers` | starts `count` timers of `ms` |
//! | `topic_arm` | sets the trap `at` in the topic's state; replies ok |
//! | `topic_odd` | puts a value into the topic's state that can be written, but not read; replies ok |
//! | `topic_count` | counts in the topic alone after `ms`; replies ok |
//! | `forget` | ends the topic for good; replies ok |
//! | `topic_panic`, `topic_hang` | sends the topic a message after `ms`, whose callback panics or hangs |
//! | `secret` | broadcasts the intercepted event `secret` with `payload`; each member is pushed `{"secret":…,"count":n}`, where n is the member's own count |
//! | `track`, `update` | tracks or updates itself under `key` with `meta`; replies `{"done":true}` |
//! | `untrack` | untracks itself under `key`; replies `{"done":true}` |
//! | `describe` | describes `key` with `meta`; replies `{"done":true}` |
//! | `track_elsewhere` | tries to track itself under `key` on `topic`; replies `{"done":false}` |
//! | `topic_track` | sends the topic a message after `ms`, whose callback tries to track and broadcasts `tracked` `{"done":false}` |
//! | `presence` | replies with the presence under `key`, or null |
//! | `presences` | replies with the presence list |
//! | `push_presence` | is pushed `presence_state` |
//! | `log` | writes `payload` to the log; the same at `debug` as `misbehave::quiet`; and a warning with `count` and `key`, in the span `asking` with `bytes` |
//! | `spans` | begins the span `outer`, in it `inner` for `ms`, then `count` times `more`, then `behind`, which it does not end; with `at` `panic`, panics in `inner`; replies ok |
//!
//! # Calls
//!
//! A backend may call:
//!
//! | event | what happens |
//! |---|---|
//! | `echo` | replies with the same payload |
//! | `add` | adds 1 to the topic's count in the span `add`, and replies `{"topic":n}` |
//! | `whoami` | replies `{"topic":…}` |
//! | `broadcast`, `send_to`, `status` | as for a client |
//! | `refuse` | replies with the status `error` and `{"reason":"refused"}` |
//! | `none` | does not reply |
//! | `later` | replies `{"late":true}` by a timer of the topic, after `ms` |
//! | `later_thread` | the same from another thread |
//! | `never` | promises, and does not reply |
//! | `panic`, `hang` | panics, or hangs, after a broadcast of `lost` |
//!
//! # Traps
//!
//! `arm` sets a trap in the member's state. `handle_out`, `handle_info`, `terminate`, `drop`, `snapshot` and `restore` panic there.
//! With `hang:` in front they hang there, and so with any other word of the list in *Unruly*; in `snapshot` only `hang:` works.
//! `snapshot_error` and `restore_error` fail there. `deaf` drops intercepted events. In `terminate`, `push` pushes `terminating`
//! `{"reason":"Left"}`, `broadcast` broadcasts it, and `log` logs `terminating: Left`.
//!
//! `topic_arm` sets a trap in the topic's state. `drop` panics when it is dropped, `snapshot` when it is written. In `closing`,
//! `closing` panics, `hang:closing` hangs, `log` logs `closing: ` and the topic's count, `count` counts, and `thread` starts a thread
//! that logs `closed later` after 200 ms.
//!
//! # Connecting
//!
//! By the parameter `token`, in the span `look`:
//!
//! | `token` | what happens |
//! |---|---|
//! | (none) | accepted without socket id and assigns |
//! | `open` | accepted with the id `user:USER` and the assigns `{"user":"USER"}`, from the parameter `user` |
//! | `seen` | the same, but its assigns are what the handler saw of the request: `user`, `mount`, `transport`, `headers`, `peer` (the address), `uri` (without port and query), `port`, `query`, `auth_token`, `claims`, `region` (from `connect_static`) |
//! | `later` | as `open`, from another thread |
//! | `closed`, anything else | refused with 403 and `{"reason":"closed"}` |
//! | `teapot` | refused with 418, without a body |
//! | `busy` | refused with 429 and `{"retry_after":7}` |
//! | `binary` | refused with 403 and the bytes `00 01` |
//! | `list` | accepted with assigns that are not an object |
//! | `panic` | panics |
//! | `unruly` | does what the parameter `user` says, see above, then is accepted |
//! | `hang` | promises to answer, and does not |
//!
//! # Origins
//!
//! `https://open.example` may connect; to mounts whose path begins with `/pages`, `file://` may connect as well. `panic.example`
//! panics.
//!
//! # Unruly
//!
//! `check`, `init` and `drop` (of its own value, at shutdown) in its settings, and `at` in `unruly`, take one of these words:
//! `refuse`, `refuse_at_length` (with 95,000 bytes in 10,000 lines), `panic`, `panic_twice` (the second panic while the first
//! unwinds), `crash` (a segmentation fault), `overflow` (of the stack), `abort`, `exit`, `hang`, `wait` (until the file is gone that the variable `MISBEHAVE_WAITS_FOR` names), `allocate` (without end), `thread`
//! (starts one that never ends). With `in_thread:` in front it happens on a thread that the plugin starts.
//!
//! # Variants
//!
//! Cargo features. `v2`: version 2 of the state, which reads version 1. The reply to `count` says so, and has `"mood":"fresh"`, a new
//! field of the member. `bad_restore`: refuses the state of another generation. `panics`: panics at every event of a client.
//! `at_load`: does what the variable `MISBEHAVE_AT_LOAD` says, a word of *Unruly*, while the library is loaded.
#![deny(unsafe_code)]

mod asked;
mod gate;
mod state;
mod unruly;

use bennu_plugin::prelude::*;

use asked::Asked;
use state::{Member, Odd, Topic, VERSION};
use unruly::Unruly;

/// The context with this plugin's own value.
type Context = bennu_plugin::Context<Unruly>;

/// The payload of a timer with a promise in it.
#[derive(Deserialize)]
struct Promised {
    later: Later,
}

impl Channel<Unruly> for Member {
    type Shared = Topic;

    const STATE_VERSION: u32 = VERSION;
    const READS_FROM: u32 = 1;
    const INTERCEPTS: &'static [&'static str] = &["secret"];

    fn join(topic: &mut Topic, params: Payload<'_>, cx: &mut Context) -> Join<Self> {
        asked::join(topic, &params.parse()?, cx)
    }

    fn join_answer(_: &mut Topic, answer: Payload<'_>, _: &mut Context) -> Join<Self> {
        match answer.parse()? {
            "panic" => panic!("answering a join panics"),
            "hang" => {
                unruly::hang();
                Join::later()
            }
            "refuse" => Join::refuse(json!({ "reason": "refused late" })),
            _ => Join::reply(Self::default(), json!({ "late": true })),
        }
    }

    fn handle_in(&mut self, topic: &mut Topic, event: &str, payload: Payload<'_>, cx: &mut Context) -> Handled {
        if cfg!(feature = "panics") {
            panic!("built to panic");
        }
        match event {
            "echo" => Ok(Reply::ok_with(payload)),
            "numbered" => {
                cx.push("numbered", payload);
                Ok(Reply::ok_with(payload))
            }
            "count" => Ok(Reply::ok_with(self.count(topic))),
            "topic_odd" => {
                topic.odd = Odd::long();
                Ok(Reply::ok())
            }
            "forget" => {
                cx.forget();
                Ok(Reply::ok())
            }
            "topic_arm" => {
                topic.traps.0.push(payload.parse::<Asked>()?.at);
                Ok(Reply::ok())
            }
            _ => self.handle_asked(event, &payload.parse::<Asked>()?, cx),
        }
    }

    fn handle_out(&mut self, _: &mut Topic, event: &str, payload: Payload<'_>, cx: &mut Context) {
        self.pass("handle_out");
        if !self.is_trapped("deaf") {
            self.count += 1;
            let secret = payload.parse::<Value>().unwrap_or_default();
            cx.push(event, json!({ "secret": secret, "count": self.count }));
        }
    }

    fn handle_info(&mut self, _: &mut Topic, name: &str, payload: Payload<'_>, cx: &mut Context) {
        self.pass("handle_info");
        match name {
            "owed" => {
                for later in self.owed.drain(..) {
                    cx.complete(later, "ok", json!({ "late": true }));
                }
            }
            "data" => {
                if let Ok(Promised { later }) = payload.parse() {
                    cx.complete(later, "ok", json!({ "late": true }));
                }
            }
            _ => cx.push(name, payload),
        }
    }

    fn handle_topic_info(topic: &mut Topic, name: &str, payload: Payload<'_>, cx: &mut Context) {
        match name {
            "owed" => {
                if let Ok(Promised { later }) = payload.parse() {
                    cx.complete(later, "ok", json!({ "late": true }));
                }
            }
            "joins" => {
                for later in topic.joins.drain(..) {
                    cx.complete(later, "", "accept");
                }
            }
            "count" => _ = topic.add(),
            "panic" => panic!("the topic panics"),
            "hang" => unruly::hang(),
            "disconnect" => cx.disconnect(payload.parse().unwrap_or_default()),
            "track" => cx.broadcast("tracked", json!({ "done": cx.track("topic", json!({})) })),
            _ => cx.broadcast(name, payload),
        }
    }

    fn handle_call(topic: &mut Topic, event: &str, payload: Payload<'_>, cx: &mut Context) -> Handled {
        match event {
            "echo" => Ok(Reply::ok_with(payload)),
            _ => asked::call(topic, event, &payload.parse::<Asked>()?, cx),
        }
    }

    fn terminate(&mut self, _: &mut Topic, reason: Reason<'_>, cx: &mut Context) {
        self.pass("terminate");
        let payload = json!({ "reason": format!("{reason:?}") });
        if self.is_trapped("push") {
            cx.push("terminating", &payload);
        }
        if self.is_trapped("broadcast") {
            cx.broadcast("terminating", &payload);
        }
        if self.is_trapped("log") {
            info!("terminating: {reason:?}");
        }
    }

    fn closing(topic: &mut Topic, cx: &mut Context) {
        let traps = topic.traps.0.clone();
        for trap in &traps {
            match &**trap {
                "closing" => panic!("trap in closing"),
                "hang:closing" => unruly::hang(),
                "count" => _ = topic.add(),
                "log" => info!("closing: {}", topic.count()),
                "thread" => cx.spawn(|_| {
                    std::thread::sleep(std::time::Duration::from_millis(200));
                    info!("closed later");
                }),
                _ => {}
            }
        }
    }

    fn migrate(_: u32, old: Old<'_>) -> Result<Self, MigrateError> {
        state::read_member(old)
    }

    fn migrate_shared(from: u32, old: Old<'_>) -> Result<Topic, MigrateError> {
        state::read_topic(from, old)
    }
}

export_plugin!(Member, plugin = Unruly, connect = gate::Gate);
