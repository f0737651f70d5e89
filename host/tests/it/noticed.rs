//! A change of a library is noticed, and noticed once: however the file comes to its place.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, symlink};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::MissedTickBehavior;

use crate::support::client::Client;
use crate::support::http::plugin;
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};

/// Once this has come into service, all that was noticed before it has been dealt with.
async fn settled(bench: &Bench, server: &Server) {
    let marks = server.log.count(&["plugin in service", &of("echo")]);
    bench.put_numbered("echo", Build::Echo, 1_000 + marks as u64);
    server.log.nth_line(marks, &["plugin in service", &of("echo")]).await;
}

fn loads(server: &Server) -> usize {
    server.log.count(&["plugin in service", &of("room")])
}

fn numbered(number: u64) -> Vec<u8> {
    let mut bytes = Build::Room.bytes();
    bytes.extend(number.to_le_bytes());
    bytes
}

#[tokio::test]
async fn each_way_to_replace_a_file_is_one_change() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let library = bench.library("room");
    let mut client = Client::connect(&server).await;
    client.join("room:1", json!({ "name": "ann" })).await;
    client.event("room:1", "presence_diff").await;
    client.rest().await;

    // `cp` over it.
    fs::write(&library, numbered(1)).expect("written");
    server.in_service("room", 2).await;
    // `mv` over it.
    bench.put_bytes("room", &numbered(2));
    server.in_service("room", 3).await;
    // An editor that keeps a backup.
    fs::rename(&library, bench.path("libroom.so~")).expect("moved");
    fs::write(&library, numbered(3)).expect("written");
    fs::remove_file(bench.path("libroom.so~")).expect("removed");
    server.in_service("room", 4).await;
    // cargo: removed, then linked to what was built.
    fs::create_dir(bench.path("deps")).expect("made");
    for number in [4, 5] {
        let built = bench.path("deps/libroom.so");
        fs::write(&built, numbered(number)).expect("written");
        fs::remove_file(&library).expect("removed");
        fs::hard_link(&built, &library).expect("linked");
        server.in_service("room", number + 1).await;
        fs::remove_file(&built).expect("removed");
    }
    settled(&bench, &server).await;
    assert_eq!(loads(&server), 6);
    assert_eq!(server.log.count(&["library rejected"]), 0);
    assert_eq!(client.rest().await, []);
}

#[tokio::test]
async fn of_many_saves_the_last_one_is_served() {
    let bench = Bench::new();
    let server = bench.serve().await;
    for number in 1..=50 {
        bench.put_bytes("room", &numbered(number));
    }
    let last = hash(&server, &bench, 50).await;
    settled(&bench, &server).await;
    let now = plugin(server.admin().await, "room").await;
    assert_eq!(now["hash"], last.as_str());
    assert!(loads(&server) < 51, "not each of them is loaded");
    let loaded = now["loads"].as_u64().expect("a number");
    settled(&bench, &server).await;
    assert_eq!(
        plugin(server.admin().await, "room").await["loads"],
        loaded,
        "then it is quiet"
    );
}

/// As fast as an editor that saves at every key. Where the machine makes a pause between them it is tried again.
#[tokio::test]
async fn fifty_saves_in_a_second_are_one_change() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let length = Build::Room.bytes().len() as u64;
    for attempt in 1..=20_u64 {
        let before = loads(&server);
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (start, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        for save in 0..50_u64 {
            ticks.tick().await;
            // The same code with another number behind it.
            let file = OpenOptions::new()
                .write(true)
                .open(bench.library("room"))
                .expect("it is there");
            file.write_all_at(&(100 * attempt + save).to_le_bytes(), length)
                .expect("written");
            drop(file);
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        let took = start.elapsed();
        server.log.nth_line(before, &["plugin in service", &of("room")]).await;
        settled(&bench, &server).await;
        // As long as nothing is written for a moment, all that was written has been seen.
        if longest < Duration::from_millis(60) && took < Duration::from_millis(1_800) {
            assert_eq!(loads(&server), before + 1, "{longest:?} between two of them");
            return;
        }
    }
    panic!("this machine pauses too often");
}

/// Where a file is written by another of its names, no event tells.
#[tokio::test]
async fn what_no_event_tells_is_noticed_nevertheless() {
    let bench = Bench::new();
    fs::create_dir(bench.path("elsewhere")).expect("made");
    let other_name = bench.path("elsewhere/other.so");
    fs::hard_link(bench.library("room"), &other_name).expect("linked");
    let server = bench.serve().await;
    // What is looked at once more at the start has been looked at.
    settled(&bench, &server).await;
    fs::write(&other_name, numbered(1)).expect("written");
    server.in_service("room", 2).await;
    settled(&bench, &server).await;
    assert_eq!(loads(&server), 2);
}

/// Waits until these contents are in service; how they are shown.
async fn hash(server: &Server, bench: &Bench, number: u64) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(numbered(number));
    let hash: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let admin = server.admin().await;
    crate::support::within("last save", async {
        while plugin(admin, "room").await["hash"] != hash.as_str() {
            settled(bench, server).await;
        }
    })
    .await;
    hash
}

#[tokio::test]
async fn a_library_in_a_directory_behind_a_link_is_noticed_on_both_sides() {
    let bench = Bench::new();
    for release in ["one", "two"] {
        fs::create_dir(bench.path(release)).expect("made");
    }
    fs::write(bench.path("one/libroom.so"), numbered(1)).expect("written");
    fs::write(bench.path("two/libroom.so"), numbered(2)).expect("written");
    symlink("one", bench.path("current")).expect("linked");
    bench.set("plugins.room", "library", "\"current/libroom.so\"");
    let server = bench.serve().await;
    // The link is moved to another directory, as a deployment does.
    symlink("two", bench.path("next")).expect("linked");
    fs::rename(bench.path("next"), bench.path("current")).expect("moved");
    server.in_service("room", 2).await;
    // The file behind it changes.
    fs::write(bench.path("two/libroom.so"), numbered(3)).expect("written");
    server.in_service("room", 3).await;
    // And back to the first.
    symlink("one", bench.path("next")).expect("linked");
    fs::rename(bench.path("next"), bench.path("current")).expect("moved");
    server.in_service("room", 4).await;
    settled(&bench, &server).await;
    assert_eq!(loads(&server), 4);
}
