//! `bennu check --serve` refuses what `bennu serve` would refuse, with the same words, at the line that is to blame.

use std::os::unix::net::UnixListener;

use crate::support::command::run;
use crate::support::server::Bench;

/// Both refuse it with these words. The check shows the line with this text.
#[track_caller]
pub(super) fn check_both(bench: &Bench, line: &str, words: &str) {
    let config = bench.config();
    let (output, _, served) = run(|command| command.args(["serve", "--config"]).arg(&config));
    assert!(!output.status.success(), "{served}");
    let (output, said, complained) = run(|command| command.args(["check", "--serve"]).arg(&config));
    assert!(!output.status.success(), "{said}{complained}");
    let checked = said + &complained;
    for shown in [&served, &checked] {
        let joined = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(joined.contains(words), "{words:?} is not in\n{shown}");
    }
    assert!(
        checked.lines().any(|shown| shown.contains('|') && shown.contains(line)),
        "{checked}"
    );
}

/// What `check --serve` says of a configuration that it does not refuse.
#[track_caller]
fn warned(bench: &Bench) -> String {
    let (output, said, complained) = run(|command| command.args(["check", "--serve"]).arg(bench.config()));
    assert!(output.status.success(), "{said}{complained}");
    said + &complained
}

#[test]
fn a_listener_that_cannot_be_had_is_refused_by_both() {
    let bench = Bench::new();
    bench.append("[[listeners]]\nlisten = \"192.0.2.1:1\"");
    check_both(
        &bench,
        "192.0.2.1:1",
        "cannot listen on 192.0.2.1:1; choose another place with `listen` in [[listeners]]",
    );
    let bench = Bench::new();
    std::fs::write(bench.path("file"), "").expect("written");
    bench.append("[[listeners]]\nlisten = \"unix:file\"");
    check_both(&bench, "unix:file", "there is something else than a socket");
    let bench = Bench::new();
    bench.append("[[listeners]]\nlisten = \"unix:nowhere/clients.sock\"");
    check_both(&bench, "unix:nowhere", "cannot listen on unix:");
}

#[test]
fn a_listener_that_is_only_taken_now_is_a_warning() {
    let bench = Bench::new();
    let _other = UnixListener::bind(bench.path("clients.sock")).expect("free");
    bench.append("[[listeners]]\nlisten = \"unix:clients.sock\"");
    let warned = warned(&bench);
    assert!(
        warned.contains("`bennu serve` starts once the address is free"),
        "{warned}"
    );
}

#[test]
fn a_socket_of_systemd_cannot_be_checked_without_systemd_and_the_warning_says_so() {
    let bench = Bench::new();
    bench.append("[[listeners]]\nlisten = \"systemd:clients\"");
    let warned = warned(&bench);
    assert!(warned.contains("only systemd passes it on"), "{warned}");
    let (output, _, complained) = run(|command| command.args(["serve", "--config"]).arg(bench.config()));
    assert!(!output.status.success());
    assert!(
        complained.contains("systemd has passed no socket to this process"),
        "{complained}"
    );
}
