//! A change of a library is noticed, and noticed once: however the file comes to its place.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

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
    assert_eq!(server.log.count(&["library refused"]), 0);
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
