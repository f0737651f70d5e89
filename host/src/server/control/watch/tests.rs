//! The watcher over real files.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::runtime::plugin::testing::Folder;

/// A folder that goes with the test, and a watcher that reports into a channel.
struct World {
    dir: Folder,
    watcher: Watcher,
    changes: Receiver<News>,
}

/// By events only: a poll would come too late. Nobody hears that a file is away.
fn by_events() -> WatchTimes {
    WatchTimes {
        poll: Duration::from_secs(3600),
        absence: Duration::from_secs(3600),
        ..WatchTimes::default()
    }
}

/// By polling: a stand-in for file systems without events.
fn by_polling() -> WatchTimes {
    WatchTimes {
        poll: Duration::from_millis(50),
        absence: Duration::from_secs(3600),
        ..WatchTimes::default()
    }
}

impl World {
    fn new(times: WatchTimes) -> Self {
        let dir = Folder::new();
        fs::create_dir_all(dir.join("lib")).unwrap();
        let (report, changes) = mpsc::channel();
        let watcher = Watcher::start(times, move |change| drop(report.send(change))).unwrap();
        Self { dir, watcher, changes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        self.dir.write(name, text);
    }

    /// Watches `lib/room.so`, which holds `one`.
    fn with_library(times: WatchTimes) -> Self {
        let world = Self::new(times);
        world.write("lib/room.so", "one");
        world.watcher.file("room", &world.path("lib/room.so"));
        world
    }

    /// Watches the folder `room` and the files in `named`.
    fn watch_sources(&self) {
        let set = SourceSet {
            folders: vec![self.path("room")],
            files: ["named/a.txt", "named/folder"].map(|file| self.path(file)).into(),
            outputs: vec![self.path("room/built")],
        };
        self.watcher.sources("room", set, Some(SystemTime::now()));
    }

    /// The next change must be of `name`.
    fn changed(&self, name: &str) {
        self.hears(name, What::Changed);
    }

    /// The next news must be this.
    fn hears(&self, name: &str, what: What) {
        let news = self.changes.recv_timeout(Duration::from_secs(5));
        let news = news.expect("news within 5 s");
        assert_eq!((&*news.name, news.what), (name, what));
    }

    /// Nothing has changed but what was taken. A change of another file, made after, comes next: no waiting.
    fn nothing_else(&self) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let flag = format!("flag/{}", NEXT.fetch_add(1, Ordering::Relaxed));
        fs::create_dir_all(self.path("flag")).unwrap();
        self.watcher.file("flag", &self.path(&flag));
        // Later by more than the debounce of what came before, since each file has its own.
        for round in 0..2 {
            self.write(&flag, &format!("up {round}"));
            self.changed("flag");
        }
        self.watcher.forget("flag");
    }
}

#[test]
fn a_copy_over_the_file_is_one_change() {
    let world = World::with_library(by_events());
    world.write("lib/room.so", "two");
    world.changed("room");
    world.nothing_else();
}

#[test]
fn a_file_is_not_looked_at_while_somebody_writes_it() {
    let world = World::with_library(WatchTimes {
        at_latest: Duration::from_secs(3600),
        ..by_events()
    });
    // From here on there is a listener.
    world.nothing_else();
    let mut file = fs::File::create(world.path("lib/room.so")).unwrap();
    file.write_all(b"one").unwrap();
    // Later than the debounce: half of it would have been seen.
    world.nothing_else();
    file.write_all(b" and a half").unwrap();
    drop(file);
    world.changed("room");
    world.nothing_else();
}

#[test]
fn a_file_that_stays_open_for_writing_is_looked_at_all_the_same() {
    let world = World::with_library(by_events());
    let mut file = fs::File::create(world.path("lib/room.so")).unwrap();
    file.write_all(b"two").unwrap();
    world.changed("room");
}

#[test]
fn a_rebuild_that_removes_the_file_first_is_one_change() {
    let world = World::with_library(by_events());
    for text in ["two", "three"] {
        fs::remove_file(world.path("lib/room.so")).unwrap();
        world.nothing_else();
        world.write("deps/room.so", text);
        fs::hard_link(world.path("deps/room.so"), world.path("lib/room.so")).unwrap();
        fs::remove_file(world.path("deps/room.so")).unwrap();
        world.changed("room");
    }
    world.nothing_else();
}

#[test]
fn a_move_over_the_file_is_one_change_each_time() {
    let world = World::with_library(by_events());
    for text in ["two", "three", "four"] {
        world.write("new.so", text);
        fs::rename(world.path("new.so"), world.path("lib/room.so")).unwrap();
        world.changed("room");
    }
    world.nothing_else();
}

#[test]
fn an_editor_that_keeps_a_backup_makes_one_change() {
    let world = World::with_library(by_events());
    fs::rename(world.path("lib/room.so"), world.path("lib/room.so~")).unwrap();
    world.write("lib/room.so", "two");
    fs::remove_file(world.path("lib/room.so~")).unwrap();
    world.changed("room");
    world.nothing_else();
}

#[test]
fn the_same_contents_are_no_change_but_a_save() {
    let world = World::with_library(by_events());
    world.write("lib/room.so", "one");
    world.hears("room", What::Saved);
    world.nothing_else();
    fs::remove_file(world.path("lib/room.so")).unwrap();
    world.write("lib/room.so", "one");
    world.hears("room", What::Saved);
    world.nothing_else();
}

#[test]
fn another_mode_is_a_save() {
    let world = World::with_library(by_events());
    fs::set_permissions(world.path("lib/room.so"), fs::Permissions::from_mode(0o600)).unwrap();
    world.hears("room", What::Saved);
    world.nothing_else();
}

#[test]
fn another_name_for_the_file_is_no_save() {
    let world = World::with_library(by_events());
    fs::hard_link(world.path("lib/room.so"), world.path("lib/other.so")).unwrap();
    world.nothing_else();
}

#[test]
fn many_saves_in_a_row_are_noticed_with_the_last_one() {
    let world = World::with_library(by_events());
    for save in 0..50 {
        world.write("lib/room.so", &format!("save {save}"));
    }
    world.changed("room");
    // A slow machine may cut the row into several changes; the last contents are among them, and then it is quiet.
    world.write("lib/room.so", "save 49");
    while let Ok(change) = world.changes.try_recv() {
        assert_eq!(change.name, "room");
    }
}

#[test]
fn a_file_that_appears_is_a_change() {
    let world = World::new(by_events());
    world.watcher.file("room", &world.path("lib/room.so"));
    world.write("lib/room.so", "one");
    world.changed("room");
}

#[test]
fn a_change_is_reported_though_its_file_is_watched_once_more() {
    let world = World::new(by_events());
    world.watcher.file("room", &world.path("lib/room.so"));
    world.write("lib/room.so", "one");
    world.watcher.file("room", &world.path("lib/room.so"));
    world.changed("room");
    world.nothing_else();
}

#[test]
fn what_differs_from_what_was_taken_is_a_change() {
    let world = World::new(by_events());
    world.write("lib/room.so", "two");
    world.watcher.file("room", &world.path("lib/room.so"));
    world.watcher.took("room", ContentHash::of(b"two"));
    world.nothing_else();
    world.watcher.took("room", ContentHash::of(b"one"));
    world.changed("room");
    world.nothing_else();
}

#[test]
fn a_directory_behind_a_link_is_watched() {
    let world = World::new(by_events());
    world.write("real/room.so", "one");
    symlink(world.path("real"), world.path("linked")).unwrap();
    world.watcher.file("room", &world.path("linked/room.so"));
    world.write("real/room.so", "two");
    world.changed("room");
}

#[test]
fn a_file_behind_a_link_is_watched() {
    let world = World::new(by_events());
    world.write("real/room-1.so", "one");
    symlink(world.path("real/room-1.so"), world.path("lib/room.so")).unwrap();
    world.watcher.file("room", &world.path("lib/room.so"));
    world.write("real/room-1.so", "two");
    world.changed("room");
    world.write("real/room-2.so", "three");
    symlink(world.path("real/room-2.so"), world.path("lib/next")).unwrap();
    fs::rename(world.path("lib/next"), world.path("lib/room.so")).unwrap();
    world.changed("room");
    world.nothing_else();
}

#[test]
fn a_directory_made_anew_is_watched_anew() {
    let world = World::with_library(by_polling());
    fs::remove_dir_all(world.path("lib")).unwrap();
    world.write("lib/room.so", "two");
    world.changed("room");
    world.write("lib/room.so", "three");
    world.changed("room");
}

#[test]
fn a_file_that_stays_away_is_told_of_once_and_when_it_is_back() {
    let world = World::with_library(WatchTimes {
        absence: Duration::from_millis(100),
        ..by_events()
    });
    let path = world.path("lib/room.so");
    let gone = |why: &str| world.hears("room", What::Gone(why.to_owned()));
    fs::remove_file(&path).unwrap();
    gone("there is no such file");
    fs::create_dir(&path).unwrap();
    world.nothing_else();
    fs::remove_dir(&path).unwrap();
    world.write("lib/room.so", "one");
    world.hears("room", What::Back);
    world.write("lib/room.so", "");
    gone("it is empty");
    world.write("lib/room.so", "two");
    world.hears("room", What::Back);
    world.changed("room");
    world.nothing_else();
}

#[test]
fn a_file_that_never_was_there_is_not_missed() {
    let world = World::new(WatchTimes {
        absence: Duration::from_millis(1),
        ..by_polling()
    });
    world.watcher.file("room", &world.path("lib/room.so"));
    world.nothing_else();
    world.write("lib/room.so", "one");
    world.changed("room");
}

#[test]
fn what_is_forgotten_is_not_reported() {
    let world = World::with_library(by_events());
    world.watcher.forget("room");
    world.write("lib/room.so", "two");
    world.nothing_else();
}

#[test]
fn two_names_in_one_directory_are_told_apart() {
    let world = World::with_library(by_events());
    world.write("lib/echo.so", "one");
    world.watcher.file("echo", &world.path("lib/echo.so"));
    world.nothing_else();
    world.write("lib/echo.so", "two");
    world.changed("echo");
    world.write("lib/room.so", "two");
    world.changed("room");
    world.nothing_else();
}

#[test]
fn sources_are_watched_with_folders_that_come_later() {
    let world = World::new(by_events());
    world.write("room/src/lib.rs", "one");
    world.write("room/Cargo.toml", "one");
    world.watch_sources();
    world.write("room/src/lib.rs", "two, longer");
    world.changed("room");
    world.write("room/src/deep/er.rs", "new");
    world.changed("room");
    world.write("room/src/deep/er.rs", "newer, longer");
    world.changed("room");
    fs::remove_file(world.path("room/src/deep/er.rs")).unwrap();
    world.changed("room");
    world.nothing_else();
}

#[test]
fn what_is_built_is_no_source() {
    let world = World::new(by_events());
    world.write("room/src/lib.rs", "one");
    world.write("room/target/CACHEDIR.TAG", "");
    world.watch_sources();
    world.write("room/target/debug/room.so", "built");
    world.write("room/built/room.so", "built");
    world.write("room/.git/index", "staged");
    world.write("room/src/.lib.rs.swp", "swap");
    world.nothing_else();
}

#[test]
fn a_folder_called_target_may_hold_sources() {
    let world = World::new(by_events());
    world.write("room/src/target/mod.rs", "one");
    world.watch_sources();
    world.write("room/src/target/mod.rs", "two, longer");
    world.changed("room");
    world.nothing_else();
}

#[test]
fn sources_behind_links_are_watched_and_a_link_may_lead_in_a_circle() {
    for times in [by_events(), by_polling()] {
        let world = World::new(times);
        world.write("room/src/lib.rs", "one");
        world.write("elsewhere/file.rs", "one");
        world.write("elsewhere/folder/mod.rs", "one");
        symlink(world.path("elsewhere/file.rs"), world.path("room/src/file.rs")).unwrap();
        symlink(world.path("elsewhere/folder"), world.path("room/src/folder")).unwrap();
        symlink(world.path("room"), world.path("room/src/room")).unwrap();
        world.watch_sources();
        world.write("elsewhere/folder/mod.rs", "two, longer");
        world.changed("room");
        world.write("elsewhere/folder/new.rs", "new");
        world.changed("room");
        world.nothing_else();
    }
    // An event at the file that a link leads to has another name, so only the poll finds it.
    let world = World::new(by_polling());
    world.write("room/src/lib.rs", "one");
    world.write("elsewhere/file.rs", "one");
    symlink(world.path("elsewhere/file.rs"), world.path("room/src/linked.rs")).unwrap();
    world.watch_sources();
    world.write("elsewhere/file.rs", "two, longer");
    world.changed("room");
    world.nothing_else();
}

#[test]
fn files_and_folders_that_are_named_are_watched_wherever_they_are_also_before_they_exist() {
    let world = World::new(by_events());
    world.write("room/src/lib.rs", "one");
    world.watch_sources();
    for text in ["one", "two, longer"] {
        world.write("named/a.txt", text);
        world.changed("room");
        world.write("named/folder/b.txt", text);
        world.changed("room");
    }
    world.write("named/c.txt", "nobody named it");
    world.nothing_else();
    fs::remove_file(world.path("named/a.txt")).unwrap();
    world.changed("room");
    world.nothing_else();
}

#[test]
fn what_has_changed_since_a_build_began_is_a_change_though_it_is_watched_only_now() {
    let world = World::new(by_events());
    let before = SystemTime::now() - Duration::from_secs(60);
    world.write("room/src/lib.rs", "saved while the build ran");
    let set = SourceSet {
        folders: vec![world.path("room")],
        ..SourceSet::default()
    };
    world.watcher.sources("room", set, Some(before));
    world.changed("room");
    world.nothing_else();
}

#[test]
fn a_file_whose_time_is_to_come_has_not_changed_since() {
    let world = World::new(by_events());
    world.write("room/src/lib.rs", "from a computer whose clock is wrong");
    let file = fs::File::options()
        .write(true)
        .open(world.path("room/src/lib.rs"))
        .unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(3600))
        .unwrap();
    let set = SourceSet {
        folders: vec![world.path("room")],
        ..SourceSet::default()
    };
    assert!(set.written_after(SystemTime::UNIX_EPOCH).is_empty());
    world.watcher.sources("room", set, Some(SystemTime::now()));
    world.write("room/#lib.rs#", "what Emacs saves by itself");
    world.nothing_else();
    world.write("room/src/lib.rs", "saved");
    world.changed("room");
}
