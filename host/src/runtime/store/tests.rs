use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;
use crate::runtime::clock::unix_ms;

fn limits() -> config::Store {
    config::Store {
        max_bytes: 1 << 40,
        max_queue_bytes: 1 << 20,
    }
}

fn open(folder: &tempfile::TempDir) -> Store {
    open_with(folder, limits(), |_| true)
}

fn open_with(folder: &tempfile::TempDir, limits: config::Store, look: impl Fn(&Key) -> bool + Send + 'static) -> Store {
    let engine = in_folder(&folder.path().join("topics"), limits.max_bytes).unwrap();
    Store::over(engine, limits, look).unwrap()
}

fn remove(topic: &str) -> Change {
    Change::Remove {
        key: key(topic),
        fence: None,
    }
}

fn key(topic: &str) -> Key {
    Key {
        plugin: "room".into(),
        topic: topic.into(),
    }
}

fn put(topic: &str, capsule: &[u8]) -> Change {
    Change::Put {
        key: key(topic),
        capsule: Bytes::copy_from_slice(capsule),
        look_unix_ms: None,
        set_aside: None,
        fence: None,
    }
}

impl Store {
    fn write_now(&self, changes: Vec<Change>) -> Result<(), Arc<StoreError>> {
        let (said, done) = mpsc::channel();
        self.write(changes, move |done| said.send(done).unwrap());
        done.recv().unwrap().into_iter().collect()
    }

    fn read_back(&self, topic: &str) -> Option<Bytes> {
        let (said, done) = mpsc::channel();
        self.read(key(topic), move |found, _| said.send(found).unwrap());
        done.recv().unwrap().unwrap().capsule
    }
}

/// Ends a store, so that its folder can be opened again.
fn ended(store: Store) {
    store.stop();
    let inner = Arc::downgrade(&store.0);
    drop(store);
    while inner.strong_count() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn what_was_written_is_read_again_after_a_new_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.write_now(vec![put("room:a", b"1"), put("room:b", b"2")]).unwrap();
    store.write_now(vec![put("room:a", b"3"), remove("room:b")]).unwrap();
    ended(store);
    let store = open(&folder);
    assert_eq!(store.read_back("room:a").as_deref(), Some(&b"3"[..]));
    assert_eq!(store.read_back("room:b"), None);
    assert_eq!(store.read_back("room:c"), None);
    store.stop();
}

#[test]
fn a_page_has_the_topics_of_one_plugin_in_order_and_what_was_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let other = Change::Put {
        key: Key {
            plugin: "roomy".into(),
            topic: "room:x".into(),
        },
        capsule: Bytes::new(),
        look_unix_ms: None,
        set_aside: None,
        fence: None,
    };
    let topics = ["room:c", "room:a", "hall:a", "room:b"];
    let changes = topics.iter().map(|topic| put(topic, b"new")).chain([other]).collect();
    store.write_now(changes).unwrap();
    let Change::Put { key, capsule, .. } = put("room:b", b"old") else {
        unreachable!()
    };
    let (look_unix_ms, set_aside) = (None, Some(2));
    store
        .write_now(vec![Change::Put {
            key,
            capsule,
            look_unix_ms,
            set_aside,
            fence: None,
        }])
        .unwrap();
    let names = |prefix: &str, after: Option<&str>, most| {
        let page = store.page("room", prefix, after, most).unwrap();
        page.into_iter()
            .map(|stored| (stored.topic.to_string(), stored.set_aside))
            .collect::<Vec<_>>()
    };
    let all = names("", None, 9);
    let b = || ("room:b".to_owned(), None);
    let c = || ("room:c".to_owned(), None);
    assert_eq!(
        all,
        [
            ("hall:a".to_owned(), None),
            ("room:a".to_owned(), None),
            b(),
            ("room:b".to_owned(), Some(2)),
            c()
        ]
    );
    assert_eq!(names("room:", Some("room:b"), 9), [c()]);
    assert_eq!(names("room:", Some("room:a"), 1), [b()]);
    store.stop();
}

#[test]
fn beyond_the_bound_topics_can_only_be_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let limits = config::Store {
        max_bytes: 1,
        ..limits()
    };
    let store = open_with(&folder, limits, |_| true);
    // Whether an empty store takes more than a byte is up to the engine; a written one does.
    let _ = store.write_now(vec![put("room:a", &[7; 4096])]);
    let error = store.write_now(vec![put("room:b", b"1")]).unwrap_err();
    assert!(error.to_string().contains("`[store] max_bytes` allows 1"), "{error}");
    store.write_now(vec![remove("room:a")]).unwrap();
    assert_eq!(store.read_back("room:b"), None);
    store.stop();
}

#[test]
fn a_full_store_has_room_again_when_its_topics_are_forgotten() {
    const MEGABYTE: usize = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let limits = config::Store {
        // The log alone takes 64 MiB.
        max_bytes: 160 << 20,
        ..limits()
    };
    let store = open_with(&folder, limits, |_| true);
    let name = |number| format!("room:{number}");
    let bytes = vec![7; MEGABYTE];
    let stored = (0..200).take_while(|number| store.write_now(vec![put(&name(*number), &bytes)]).is_ok());
    let stored = stored.count();
    assert!((10..200).contains(&stored), "{stored} topics");
    for number in 0..stored {
        store.write_now(vec![remove(&name(number))]).unwrap();
    }
    let begun = Instant::now();
    while let Err(error) = store.write_now(vec![put("room:new", &bytes)]) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    store.stop();
}

#[test]
fn a_topic_is_looked_at_when_it_is_due_and_again_after_a_new_start() {
    let folder = tempfile::tempdir().unwrap();
    let due = |topic: &str, at| Change::Put {
        key: key(topic),
        capsule: Bytes::new(),
        look_unix_ms: Some(at),
        set_aside: None,
        fence: None,
    };
    let (said, seen) = mpsc::channel();
    let store = open(&folder);
    let never = u64::MAX;
    let now = unix_ms();
    // The second one is put off for ever.
    let changes = vec![due("room:a", now + 600_000), due("room:b", now), due("room:c", never)];
    store.write_now(changes).unwrap();
    store.write_now(vec![due("room:a", now), due("room:b", never)]).unwrap();
    ended(store);
    let look = move |key: &Key| said.send(key.topic.to_string()).is_ok();
    let store = open_with(&folder, limits(), look);
    assert_eq!(seen.recv_timeout(Duration::from_secs(10)).as_deref(), Ok("room:a"));
    assert!(seen.try_recv().is_err());
    store.stop();
}
