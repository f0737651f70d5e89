//! A plugin's life: settings, snapshot and restore, the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bennu_plugin::abi::{effect, event, outcome};
use bennu_plugin::export::NoConnect;
use bennu_plugin::prelude::*;

use crate::fake::{Done, Event, Loaded, event, join, push};

/// The first version.
mod v1 {
    use super::*;

    #[derive(Default, Serialize, Deserialize)]
    pub(super) struct Room {
        pub(super) seen: u32,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Member {
        pub(super) name: String,
        /// JSON could not carry these.
        pub(super) odd: Vec<(f64, Option<u8>)>,
    }

    impl Channel for Member {
        type Shared = Room;

        fn join(room: &mut Room, params: Payload<'_>, _: &mut Context) -> Join<Self> {
            room.seen += 1;
            Join::accept(Self {
                name: params.parse()?,
                odd: vec![(f64::INFINITY, None)],
            })
        }
    }
}

/// The second: the room is another, the member has a field more.
mod v2 {
    use super::*;

    #[derive(Default, Serialize, Deserialize)]
    pub(super) struct Room {
        pub(super) joins: Vec<u32>,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Member {
        pub(super) name: String,
        pub(super) odd: Vec<(f64, Option<u8>)>,
        #[serde(default)]
        pub(super) mood: Option<String>,
    }

    impl Channel for Member {
        type Shared = Room;

        const STATE_VERSION: u32 = 2;
        const READS_FROM: u32 = 1;

        fn join(_: &mut Room, _: Payload<'_>, _: &mut Context) -> Join<Self> {
            Join::refuse(json!({}))
        }

        fn handle_in(&mut self, room: &mut Room, _: &str, _: Payload<'_>, cx: &mut Context) -> Handled {
            let Self { name, odd, mood } = self;
            Ok(Reply::ok_with(json!([
                room.joins,
                name,
                odd[0].0.is_infinite(),
                mood,
                cx.socket_id()
            ])))
        }

        fn migrate_shared(from: u32, old: Old<'_>) -> Result<Room, MigrateError> {
            match from {
                1 => Ok(Room {
                    joins: vec![old.read::<v1::Room>()?.seen],
                }),
                _ => old.read(),
            }
        }

        fn restored(room: &mut Room, cx: &mut Context) {
            cx.broadcast("restored", &room.joins);
        }
    }
}

/// Snapshots topic 1 of `old`; gives back what restores it.
fn snapshot<C: Channel<NoSettings>>(old: &mut Loaded<C, NoConnect, NoSettings>, version: u64) -> Vec<Event> {
    let done = old.one(event(event::SNAPSHOT, "", ""));
    assert_eq!(done.outcome, outcome::OK, "{}", done.message);
    let restore = |state: &crate::fake::Effect| Event {
        kind: if state.member == 0 {
            event::RESTORE
        } else {
            event::RESTORE_MEMBER
        },
        topic: 1,
        member: state.member,
        number: version,
        name: "room:1".to_owned(),
        payload: state.payload.clone(),
        info: r#"{"socket_id":"user:1"}"#.to_owned(),
        ..Event::default()
    };
    assert!(
        done.effects
            .iter()
            .all(|effect| effect.kind == effect::STATE && effect.binary)
    );
    done.effects.iter().map(restore).collect()
}

fn failed(done: &[Done]) -> Vec<&str> {
    done.iter()
        .filter(|done| done.outcome == outcome::FAILED)
        .map(|done| done.message.as_str())
        .collect()
}

#[test]
fn state_goes_from_one_version_to_the_next() {
    let mut old = Loaded::<v1::Member, NoConnect, NoSettings>::new("").expect("loads");
    old.handle(&[join(7, r#""ann""#), join(8, r#""bob""#)]);
    let events = snapshot(&mut old, 1);
    drop(old);

    let mut new = Loaded::<v2::Member, NoConnect, NoSettings>::new("").expect("loads");
    assert!(failed(&new.handle(&events)).is_empty());
    let restored = Event {
        member: 0,
        ..event(event::RESTORED, "", "")
    };
    assert_eq!(new.one(restored).seen(), [(effect::BROADCAST, 0, "restored", "[2]")]);
    let expected = r#"[[2],"bob",true,null,"user:1"]"#;
    assert_eq!(new.one(push(8, "any", "")).seen(), [(effect::REPLY, 8, "ok", expected)]);
}

#[test]
fn state_that_cannot_be_read_says_where() {
    let mut old = Loaded::<v2::Member, NoConnect, NoSettings>::new("").expect("loads");
    let room = rmp_serde::to_vec_named(&v2::Room { joins: vec![3] }).expect("writes");
    let restore = Event {
        number: 2,
        payload: room,
        ..event(event::RESTORE, "room:1", "")
    };
    assert_eq!(old.one(restore).outcome, outcome::OK);
    let events = snapshot(&mut old, 2);
    drop(old);

    let mut new = Loaded::<v1::Member, NoConnect, NoSettings>::new("").expect("loads");
    assert_eq!(
        failed(&new.handle(&events)),
        [
            "the topic's state: missing field `seen`; `migrate_shared` has to read what version 2 wrote as a type that has its fields"
        ]
    );
    assert_eq!(
        failed(&[new.one(event(event::SNAPSHOT, "", ""))]),
        ["no such topic on this shard"]
    );
}

/// Made from settings; counts its drops, and those of its members, which panic while being dropped.
struct Hub {
    drops: Arc<AtomicUsize>,
}

static DROPS: std::sync::LazyLock<Arc<AtomicUsize>> = std::sync::LazyLock::new(Arc::default);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    size: u8,
}

impl Plugin for Hub {
    type Settings = Settings;

    fn init(settings: Settings) -> Result<Self, String> {
        assert!(settings.size != 13, "unlucky");
        DROPS.store(0, Ordering::Relaxed);
        Ok(Self {
            drops: Arc::clone(&DROPS),
        })
    }

    fn check(settings: &Settings) -> Result<(), String> {
        if settings.size == 0 {
            Err("size must not be 0".to_owned())
        } else {
            Ok(())
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.drops.fetch_add(100, Ordering::Relaxed);
    }
}

#[derive(Serialize, Deserialize)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::Relaxed);
        panic!("dropped");
    }
}

impl Channel<Hub> for Bomb {
    type Shared = ();

    fn join(_: &mut (), _: Payload<'_>, _: &mut Context<Hub>) -> Join<Self> {
        Join::accept(Self)
    }
}

type HubPlugin = Loaded<Bomb, NoConnect, Hub>;

#[test]
fn wrong_settings_are_refused_by_check_and_by_init() {
    let check = HubPlugin::check;
    assert_eq!(check(r#"{"size":1}"#), Ok(()));
    assert_eq!(
        check("{}"),
        Err(r#"{"path":"","message":"missing field `size`"}"#.to_owned())
    );
    assert_eq!(
        check(r#"{"size":0}"#),
        Err(r#"{"path":"","message":"size must not be 0"}"#.to_owned())
    );
    let refused = HubPlugin::new(r#"{"size":"x"}"#).err();
    assert_eq!(
        refused.as_deref(),
        Some("settings.size: invalid type: string \"x\", expected u8")
    );
    let panicked = HubPlugin::new(r#"{"size":13}"#).err().expect("panics");
    assert!(
        panicked.starts_with("init panicked: unlucky (plugin-api/tests/it/life.rs:"),
        "{panicked}"
    );
}

#[test]
fn every_member_is_dropped_even_if_that_panics() {
    let mut plugin = HubPlugin::new(r#"{"size":1}"#).expect("loads");
    plugin.handle(&[join(7, ""), join(8, ""), join(9, "")]);
    let done = plugin.one(event(event::TERMINATE, "", ""));
    assert_eq!((done.outcome, DROPS.load(Ordering::Relaxed)), (outcome::PANICKED, 1));
    let done = plugin.one(event(event::CLOSE, "", ""));
    assert_eq!((done.outcome, DROPS.load(Ordering::Relaxed)), (outcome::PANICKED, 3));
    plugin.one(join(10, ""));
    assert_eq!(
        plugin.end(),
        (1, 0),
        "closing the shard panicked, shutting down did not"
    );
    assert_eq!(DROPS.load(Ordering::Relaxed), 104);
    plugin
        .outside
        .wait_for("panicked while a shard was closed panic=\"dropped (");
}

#[derive(Serialize, Deserialize)]
struct Threads;

impl Channel for Threads {
    type Shared = ();

    fn join(_: &mut (), _: Payload<'_>, cx: &mut Context) -> Join<Self> {
        cx.spawn(|remote| {
            assert!(remote.send("from member", json!(1)));
            remote.send_to_topic("from topic", Binary(b"2"));
            REMOTE.set(remote).ok();
            panic!("and then this");
        });
        Join::accept(Self)
    }
}

static REMOTE: std::sync::OnceLock<Remote> = std::sync::OnceLock::new();

#[test]
fn threads_are_joined_and_what_they_keep_is_dead_after_the_shutdown() {
    let mut plugin = Loaded::<Threads, NoConnect, NoSettings>::new("").expect("loads");
    plugin.one(join(7, ""));
    assert_eq!(plugin.end(), (0, 0));
    plugin.outside.wait_for("send 1.7 from member 1");
    plugin.outside.wait_for("send 1.0 from topic 2");
    plugin
        .outside
        .wait_for("a spawned thread panicked panic=\"and then this (");
    let lines = plugin.outside.lines.lock().expect("no panic").len();
    assert!(!REMOTE.get().expect("the thread has ended").send("too late", json!(1)));
    assert_eq!(plugin.outside.lines.lock().expect("no panic").len(), lines);
}
