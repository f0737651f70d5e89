//! Who may ask, and whom the server trusts: hosts of requests, and owners of folders and files.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use crate::support::command::{check_refused, run};
use crate::support::http::{get, request_for};
use crate::support::server::{Bench, SECRET};

const ADMIN_PATHS: [&str; 7] = [
    "/",
    "/health",
    "/ready",
    "/metrics",
    "/plugins",
    "/quarantine",
    "/nothing",
];
const PAGE_PATHS: [&str; 10] = [
    "/",
    "/dev/routes",
    "/dev/events",
    "/bennu.js",
    "/chat.js",
    "/connection.js",
    "/credentials.js",
    "/dom.js",
    "/page.js",
    "/playground.js",
];

#[tokio::test]
async fn the_admin_listener_answers_only_for_its_own_hosts() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let admin = server.admin().await;
    for host in [
        "evil.example",
        "evil.example:4001",
        "localhost.evil.example",
        "192.0.2.1",
    ] {
        for path in ADMIN_PATHS {
            assert_eq!(request_for(host, admin, "GET", path).await.status, 403, "{host} {path}");
        }
        let reload = request_for(host, admin, "PUT", "/plugins/echo/reload").await;
        assert_eq!(reload.status, 403, "{host}");
    }
    let refused = request_for("evil.example", admin, "GET", "/plugins").await.body;
    assert!(refused.contains("[admin]\nhosts = [\"evil.example\"]"), "{refused}");
    for host in [
        "localhost",
        "localhost:1",
        "127.0.0.1",
        "[::1]:4001",
        &admin.to_string(),
    ] {
        assert_eq!(request_for(host, admin, "GET", "/plugins").await.status, 200, "{host}");
    }
    // Names can be added while the server runs.
    bench.set("admin", "hosts", "[\"Bennu.Internal\"]");
    server.log.line(&["configuration replaced"]).await;
    assert_eq!(
        request_for("bennu.internal:4001", admin, "GET", "/plugins")
            .await
            .status,
        200
    );
    assert_eq!(request_for("evil.example", admin, "GET", "/plugins").await.status, 403);
    assert_eq!(server.log.count(&["restart the server to apply this change"]), 0);
    assert_eq!(
        server.log.count(&["plugin in service", "generation=2"]),
        0,
        "nothing was reloaded"
    );
}

#[tokio::test]
async fn the_page_of_dev_answers_only_for_its_own_hosts() {
    let bench = Bench::new();
    bench.set("server", "url_host", "\"app.example\"");
    let server = bench.dev().await;
    for path in PAGE_PATHS {
        assert_eq!(
            request_for("evil.example:4000", server.address, "GET", path)
                .await
                .status,
            403,
            "{path}"
        );
        if path != "/dev/events" {
            for host in ["localhost:4000", "app.example"] {
                assert_eq!(
                    request_for(host, server.address, "GET", path).await.status,
                    200,
                    "{path}"
                );
            }
            assert_eq!(get(server.address, path).await.status, 200, "{path}");
        }
    }
}

/// Gives a path to another user; false where only root could.
fn give_away(path: &Path) -> bool {
    fs::metadata("/proc/self").expect("this process").uid() == 0 && chown(path, Some(12_345), None).is_ok()
}

/// Both commands refuse to trust what is there, and say the same.
#[track_caller]
fn check_untrusted(bench: &Bench, words: &str) {
    check_refused(|command| command.args(["serve", "--config"]).arg(bench.config()), words);
    for depth in [&["check"][..], &["check", "--serve"]] {
        let (output, said, _) = run(|command| command.args(depth).arg(bench.config()));
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{words} is missing in\n{said}");
    }
}

#[test]
fn a_state_folder_that_others_can_change_is_refused() {
    let bench = Bench::new();
    for inner in ["state", "state/libraries", "state/quarantine"] {
        let folder = bench.path(inner);
        fs::create_dir_all(&folder).expect("made");
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).expect("changed");
        check_untrusted(
            &bench,
            &format!(
                "the state folder {} is writable by other users (mode 777)",
                folder.display()
            ),
        );
        check_untrusted(&bench, &format!("`chmod go-w {}`", folder.display()));
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("changed");
        if give_away(&folder) {
            check_untrusted(
                &bench,
                &format!(
                    "the state folder {} belongs to user 12345, but the server runs as user 0",
                    folder.display()
                ),
            );
            check_untrusted(&bench, &format!("`chown -R 0 {}`", folder.display()));
            chown(&folder, Some(0), None).expect("given back");
        }
    }
}

#[test]
fn a_stage_folder_that_others_can_change_is_refused() {
    let bench = Bench::new();
    let folder = bench.path("stage");
    fs::create_dir_all(&folder).expect("made");
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).expect("changed");
    check_untrusted(&bench, "the stage folder");
    if give_away(&folder) {
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("changed");
        check_untrusted(&bench, "belongs to user 12345");
    }
}

#[test]
fn a_secret_file_that_others_can_change_is_refused() {
    let bench = Bench::new();
    let file = bench.path("secret");
    fs::write(&file, SECRET).expect("written");
    bench.set("server", "secret_key_base_file", "\"secret\"");
    let serve = |words: &str| {
        check_refused(
            |command| {
                command
                    .args(["serve", "--config"])
                    .arg(bench.config())
                    .env_remove("BENNU_SECRET_KEY_BASE")
            },
            words,
        );
        let (output, said, _) = run(|command| {
            command
                .arg("check")
                .arg(bench.config())
                .env_remove("BENNU_SECRET_KEY_BASE")
        });
        assert!(output.status.code() == Some(1) && said.contains(words), "{said}");
    };
    fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("changed");
    serve("is writable by other users (mode 666)");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("changed");
    if give_away(&file) {
        serve("belongs to user 12345");
    }
}
