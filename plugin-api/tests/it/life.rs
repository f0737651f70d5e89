//! A plugin's life: settings, state that cannot be read, the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bennu_plugin::abi::{event, outcome};
use bennu_plugin::export::{Entry, NoConnect};
use bennu_plugin::prelude::*;
use bennu_plugin::test::boundary::{Running, Said};

use crate::recorder::{Event, Loaded, event, join};

#[derive(Default, Serialize, Deserialize)]
struct Room {
    seen: u32,
}

#[derive(Serialize, Deserialize)]
struct Member {}

impl Channel for Member {
    type Shared = Room;
}

#[test]
fn state_that_cannot_be_read_says_where() {
    let mut plugin = Loaded::new::<Member, NoConnect, NoSettings>("").expect("loads");
    // An empty map.
    let restored = plugin.one(Event {
        number: 2,
        payload: &[0x80],
        ..event(event::RESTORE, "room:1", "")
    });
    assert_eq!(restored.outcome, outcome::FAILED);
    assert_eq!(
        restored.message,
        "the topic's state: missing field `seen`; `migrate_shared` must read state of version 2 as a type with the fields of that version"
    );
    let written = plugin.one(event(event::SNAPSHOT, "", ""));
    assert_eq!(written.outcome, outcome::FAILED);
    assert_eq!(written.message, "no such topic on this shard");
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

fn start(settings: &str) -> Result<Loaded, String> {
    Loaded::new::<Bomb, NoConnect, Hub>(settings)
}

#[test]
fn wrong_settings_are_refused_by_check_and_by_init() {
    let check = |settings| Running::check(Entry::<Bomb, NoConnect, Hub>::ROOT, settings);
    assert_eq!(check(r#"{"size":1}"#), Ok(()));
    assert_eq!(
        check("{}"),
        Err(r#"{"path":"","message":"missing field `size`"}"#.to_owned())
    );
    assert_eq!(
        check(r#"{"size":0}"#),
        Err(r#"{"path":"","message":"size must not be 0"}"#.to_owned())
    );
    let refused = start(r#"{"size":"x"}"#).err();
    assert_eq!(
        refused.as_deref(),
        Some("settings.size: invalid type: string \"x\", expected u8")
    );
    let panicked = start(r#"{"size":13}"#).err().expect("panics");
    assert!(
        panicked.starts_with("init panicked: unlucky (plugin-api/tests/it/life.rs:"),
        "{panicked}"
    );
}

#[test]
fn every_member_is_dropped_even_if_that_panics() {
    let mut plugin = start(r#"{"size":1}"#).expect("loads");
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
    plugin.wait_for("panicked while closing a shard panic=\"dropped (");
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
    let mut plugin = Loaded::new::<Threads, NoConnect, NoSettings>("").expect("loads");
    plugin.one(join(7, ""));
    assert_eq!(plugin.end(), (0, 0));
    let said = plugin.outside.take();
    assert!(
        matches!(&said[0], Said::Send { topic: 1, member: 7, name, body } if name == "from member" && body.bytes == b"1"),
        "{said:?}"
    );
    assert!(
        matches!(&said[1], Said::Send { topic: 1, member: 0, name, body } if name == "from topic" && body.bytes == b"2"),
        "{said:?}"
    );
    plugin.wait_for("1.7 error a spawned thread panicked panic=\"and then this (");
    assert!(!REMOTE.get().expect("the thread has ended").send("too late", json!(1)));
    assert!(plugin.outside.take().is_empty());
}
