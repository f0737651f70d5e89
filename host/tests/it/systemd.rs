//! A service of systemd: what the server tells it, and whether it takes the units.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tokio::net::UnixDatagram;

use crate::support::client::Client;
use crate::support::server::{Bench, Server};
use crate::support::within;

/// As systemd hears a service.
struct Systemd(UnixDatagram);

impl Systemd {
    /// Starts a server that tells this, with more variables.
    async fn serve(bench: &Bench, variables: &[(&str, &str)]) -> (Self, Server) {
        let path = bench.path("notify");
        let socket = UnixDatagram::bind(&path).expect("free");
        let server = bench
            .serve_with(|command| command.env("NOTIFY_SOCKET", path).envs(variables.iter().copied()))
            .await;
        (Self(socket), server)
    }

    /// What it is told next.
    async fn told(&self) -> String {
        let mut bytes = [0; 4_096];
        let read = within("message to systemd", self.0.recv(&mut bytes))
            .await
            .expect("received");
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }
}

#[tokio::test]
async fn systemd_hears_when_the_server_is_ready_reloads_and_stops() {
    let bench = Bench::new();
    let (systemd, mut server) = Systemd::serve(&bench, &[]).await;
    let ready = systemd.told().await;
    let listening = format!("STATUS=listening on http://{}", server.address);
    assert!(ready.contains("READY=1") && ready.contains(&listening), "{ready}");
    bench.set("limits", "max_topic_bytes", "100");
    server.signal(Signal::HUP);
    let reloading = systemd.told().await;
    assert!(
        reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="),
        "{reloading}"
    );
    assert!(systemd.told().await.contains("READY=1"));
    // It is told when all is done.
    assert_eq!(server.log.count(&["configuration replaced"]), 1);
    server.signal(Signal::TERM);
    assert!(systemd.told().await.contains("STOPPING=1"));
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn systemd_gets_signs_of_life_as_long_as_the_io_threads_give_some() {
    let bench = Bench::new();
    let fault = bench.path("thread");
    std::fs::write(&fault, "none").expect("written");
    let fault = fault.to_str().expect("text");
    let variables = [("WATCHDOG_USEC", "200000"), ("BENNU_FAULT_THREAD", fault)];
    let (systemd, server) = Systemd::serve(&bench, &variables).await;
    let mut signs = 0;
    while signs < 3 {
        signs += usize::from(systemd.told().await.contains("WATCHDOG=1"));
    }
    let _client = Client::connect(&server).await;
    let new = bench.path("thread.new");
    std::fs::write(&new, "hang io.1").expect("written");
    std::fs::rename(new, fault).expect("moved");
    server.log.line(&["an I/O thread does not answer"]).await;
    // Whatever was on its way before.
    while systemd.0.try_recv(&mut [0; 100]).is_ok() {}
    server.log.nth_line(2, &["an I/O thread does not answer"]).await;
    assert!(systemd.0.try_recv(&mut [0; 100]).is_err(), "no sign of life");
}

#[tokio::test]
async fn a_server_without_systemd_tells_nobody() {
    let server = Bench::new().serve().await;
    assert_eq!(server.log.count(&["systemd"]), 0);
    assert!(server.stop().await.success());
}

/// The folder of the units.
fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/systemd")
}

/// What `systemd-analyze` says, and whether it is content. `None`, and a word about it, where it is not installed.
fn analyze(args: &[&str], units: &[PathBuf]) -> Option<(bool, String)> {
    let Ok(output) = Command::new("systemd-analyze").args(args).args(units).output() else {
        let _ = writeln!(
            std::io::stderr(),
            "not shown: there is no systemd-analyze; install the package systemd"
        );
        return None;
    };
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Some((output.status.success(), said))
}

/// The units, with a program that is there.
fn with_program(bench: &Bench) -> Vec<PathBuf> {
    let unit = |name: &str| {
        let text = std::fs::read_to_string(units().join(name)).expect("a unit");
        let text = text.replace("/usr/bin/bennu", env!("CARGO_BIN_EXE_bennu"));
        // Where the test has no user of that name.
        let text = text
            .replace("User=bennu", "User=daemon")
            .replace("Group=bennu", "Group=daemon");
        let place = bench.path(name);
        std::fs::write(&place, text).expect("written");
        place
    };
    vec![unit("bennu.service"), unit("bennu.socket")]
}

#[test]
fn systemd_takes_the_units() {
    let bench = Bench::new();
    let Some((is_content, said)) = analyze(&["verify", "--man=no"], &with_program(&bench)) else {
        return;
    };
    assert!(is_content, "{said}");
    let ours: Vec<_> = said.lines().filter(|line| line.contains("bennu.s")).collect();
    assert!(ours.is_empty(), "{said}");
}

#[test]
fn the_service_may_do_little_beyond_its_work() {
    let bench = Bench::new();
    let service = &with_program(&bench)[..1];
    // On a scale from 0 to 100, where an ordinary service has 96.
    let Some((is_content, said)) = analyze(&["security", "--offline=yes", "--threshold=20"], service) else {
        return;
    };
    assert!(is_content, "{said}");
}
