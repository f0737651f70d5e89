//! The files of the store: in use by another server, damaged, torn.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::json;

use super::{TOPIC, bench, counted, killed};
use crate::support::client::Client;
use crate::support::command::run;
use crate::support::server::{Bench, Server};
use crate::support::within;

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused_by_its_name() {
    let bench = bench("checkpoint");
    let server = bench.serve().await;
    counted(&server).await;
    let mut second = Server::starting(bench.command());
    let said = second.log.line(&["in use by another server"]).await;
    assert!(!second.ended().await.success());
    let process = format!("process {}", server.pid());
    assert!(said.contains("state/topics") && said.contains(&process), "{said}");
}

#[tokio::test]
async fn a_folder_of_a_later_server_is_refused() {
    let bench = bench("checkpoint");
    drop(bench.serve().await);
    fs::write(bench.path("state/topics/format"), "7\n").expect("written");
    let mut server = Server::starting(bench.command());
    server.log.line(&["format 7", "use a newer server"]).await;
    assert!(!server.ended().await.success());
    let (code, said) = checked(&bench);
    assert!(
        said.contains("format 7") && said.contains("use a newer server"),
        "{said}"
    );
    assert_eq!(code, Some(1));
}

/// What `bennu check --serve` says of a configuration.
fn checked(bench: &Bench) -> (Option<i32>, String) {
    let file = bench.config();
    let (output, said, complained) = run(|command| command.args(["check", "--serve"]).arg(file));
    (output.status.code(), said + &complained)
}

#[tokio::test]
async fn check_sees_a_folder_that_is_in_use_or_cannot_be_used() {
    let bench = bench("checkpoint");
    let (code, said) = checked(&bench);
    assert_eq!(code, Some(0), "it is not there yet: {said}");
    assert!(!bench.path("state/topics").exists(), "a check changes nothing");
    let mut server = bench.serve().await;
    counted(&server).await;
    let (code, said) = checked(&bench);
    let process = format!("(process {})", server.pid());
    for part in [
        "warning",
        "in use by another server",
        &process,
        "once that server has ended",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(code, Some(0));
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
    assert_eq!(checked(&bench).0, Some(0));
    // It has been unlocked again.
    drop(bench.serve().await);
    fs::remove_dir_all(bench.path("state/topics")).expect("it is there");
    fs::write(bench.path("state/topics"), "").expect("written");
    let (code, said) = checked(&bench);
    assert!(said.contains("state/topics cannot be read or written"), "{said}");
    assert_eq!(code, Some(1));
    let mut server = Server::starting(bench.command());
    server.log.line(&["state/topics cannot be read or written"]).await;
    assert!(!server.ended().await.success());
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut files: Vec<_> = entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => files(&path),
            path => vec![path],
        })
        .collect();
    files.sort();
    files
}

/// Does `damage` to the file that holds the most, and starts. Returns what a client finds: a count, or a refusal.
async fn found_after(bench: &Bench, damage: impl Fn(&mut Vec<u8>)) -> Option<u64> {
    let largest = files(&bench.path("state/topics/data"))
        .into_iter()
        .max_by_key(|file| fs::metadata(file).map_or(0, |meta| meta.len()))
        .expect("a file");
    let mut bytes = fs::read(&largest).expect("readable");
    damage(&mut bytes);
    fs::write(&largest, &bytes).expect("written");
    let mut server = Server::starting(bench.command());
    let said = server
        .log
        .line_of_any(&[&["listening on http://"], &["stored topics in"]])
        .await;
    let found = if said.contains("listening") {
        server.listens().await;
        let mut client = Client::connect(&server).await;
        let joined = client.try_join(TOPIC, json!({})).await;
        let found = match &joined["status"] {
            status if status == "ok" => client.push(TOPIC, "count", json!({})).await["topic"].as_u64(),
            _ => {
                let reason = joined["response"]["reason"].as_str().unwrap_or_default();
                assert!(
                    ["storage unavailable", "state unreadable"].contains(&reason),
                    "{joined}"
                );
                None
            }
        };
        server.signal(Signal::KILL);
        server.ended().await;
        found
    } else {
        assert!(said.contains("state/topics"), "{said}");
        assert!(!server.ended().await.success());
        None
    };
    let log = server.log.text();
    assert!(!log.contains("the server stops:"), "{log}");
    found
}

/// Whatever has happened to the file: a topic is there as it was stored at some time, or everybody is told that it cannot be read.
#[tokio::test]
async fn torn_and_damaged_files_are_noticed_and_never_read_as_something_else() {
    let mut random = fastrand::Rng::with_seed(7);
    let bench = bench("commit");
    let server = bench.serve().await;
    counted(&server).await;
    killed(server).await;
    let folder = bench.path("state/topics");
    let whole: Vec<_> = { files(&folder).into_iter() }
        .map(|file| (fs::read(&file).expect("readable"), file))
        .collect();
    for _ in 0..6 {
        fs::remove_dir_all(&folder).expect("removed");
        for (bytes, file) in &whole {
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(file, bytes).expect("written");
        }
        let (cut, at, bit) = (random.bool(), random.f64(), random.u8(..8));
        let found = found_after(&bench, |bytes| {
            // What is behind the last byte that is not zero was never written.
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1);
            let at = (used as f64 * at) as usize;
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
        })
        .await;
        assert!(
            found.is_none_or(|found| (1..=6).contains(&found)),
            "{found:?} after {cut} {at}"
        );
    }
}

#[tokio::test]
async fn another_durability_needs_a_restart_and_says_so() {
    let bench = bench("none");
    let server = bench.serve().await;
    bench.set("plugins.misbehave", "durability", "\"commit\"");
    let said = "restart the server to apply `durability = \"commit\"`: \"none\" stays in force";
    server.log.line(&[said, "misbehave"]).await;
    bench.set("plugins.misbehave", "checkpoint_ms", "30");
    within("the second change", async {
        while server.log.count(&["configuration replaced"]) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(server.log.count(&["restart the server to apply"]), 1);
}
