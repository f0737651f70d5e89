//! What is on disk decides: a library and its settings come into service together, in whichever order they are saved.

use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};

/// Settings that one build needs, and that the others do not know.
const NEEDED: &str = "{ keep = 1, tick_ms = 0, owner = \"ann\" }";

fn ledger(settings: &str) -> String {
    format!(
        "[plugins.ledger]\nlibrary = \"libledger.so\"\nprobation_ms = 0\nsettings = {settings}\n\
         [[routes]]\ntopic = \"ledger:*\"\nplugin = \"ledger\""
    )
}

async fn serving() -> (Bench, Server) {
    let bench = Bench::new();
    bench.put("ledger", Build::Ledger);
    bench.append(&ledger("{}"));
    let server = bench.serve().await;
    server.in_service("ledger", 1).await;
    (bench, server)
}

/// The line of the configuration that has these words, from 1.
fn line_of(bench: &Bench, words: &str) -> usize {
    let text = bench.read_config();
    1 + text.lines().position(|line| line.contains(words)).expect(words)
}

#[tokio::test]
async fn the_configuration_may_be_saved_before_the_library_that_needs_it() {
    let (bench, server) = serving().await;
    bench.set("plugins.ledger", "settings", NEEDED);
    server.log.line(&["configuration rejected"]).await;
    server.log.line(&["the plugin `ledger` has no setting `owner`"]).await;
    // Something else changes meanwhile, which does not bring the same up again.
    bench.put_numbered("echo", Build::Echo, 1);
    server.in_service("echo", 2).await;
    bench.put("ledger", Build::LedgerNeeds);
    server.in_service("ledger", 2).await;
    server.log.line(&["configuration replaced"]).await;
    assert_eq!(server.log.count(&["configuration rejected"]), 1);
    assert_eq!(server.log.count(&["library rejected"]), 0);
}

#[tokio::test]
async fn the_library_may_be_saved_before_the_configuration_that_it_needs() {
    let (bench, server) = serving().await;
    bench.put("ledger", Build::LedgerNeeds);
    server.log.line(&["library rejected"]).await;
    server.log.line(&["the plugin `ledger` needs the setting"]).await;
    bench.set("plugins.ledger", "settings", NEEDED);
    server.in_service("ledger", 2).await;
    // And back.
    bench.put("ledger", Build::Ledger);
    server.log.nth_line(1, &["library rejected"]).await;
    server.log.line(&["the plugin `ledger` has no setting `owner`"]).await;
    bench.set("plugins.ledger", "settings", "{}");
    server.in_service("ledger", 3).await;
    server.log.nth_line(1, &["configuration replaced"]).await;
}

#[tokio::test]
async fn a_plugin_may_be_configured_before_its_library_is_there() {
    let bench = Bench::new();
    let server = bench.serve().await;
    bench.append(&ledger("{}"));
    server.log.line(&["configuration rejected", "libledger.so"]).await;
    bench.put("ledger", Build::LedgerNeeds);
    server.log.line(&["the plugin `ledger` needs the setting"]).await;
    bench.put("ledger", Build::Ledger);
    server.in_service("ledger", 1).await;
    server.log.line(&["configuration replaced"]).await;
}

#[tokio::test]
async fn two_plugins_may_wait_for_each_other() {
    let (bench, server) = serving().await;
    // Both are needed, and `room` cannot read this.
    bench.set("plugins.room", "settings", "{ max_history = \"many\" }");
    server.log.line(&["configuration rejected"]).await;
    bench.set("plugins.ledger", "settings", NEEDED);
    server.log.line(&["the plugin `ledger` has no setting `owner`"]).await;
    // The settings in the file are the right ones, but not in force yet: no line of the file is to blame.
    bench.put("ledger", Build::LedgerNeeds);
    let said = server
        .log
        .line(&["library rejected", "ledger", "needs the setting"])
        .await;
    assert!(
        said.contains("with the settings in force") && !said.contains("bennu.toml:"),
        "{said}"
    );
    bench.set("plugins.room", "settings", "{ max_history = 7 }");
    server.in_service("ledger", 2).await;
    server.in_service("room", 2).await;
}

#[tokio::test]
async fn a_refusal_quotes_the_file_as_it_is_now() {
    let (bench, server) = serving().await;
    let moved = format!("# One line more.\n{}", bench.read_config());
    bench.write_config(&moved);
    server.log.line(&["configuration replaced"]).await;
    bench.put("ledger", Build::LedgerNeeds);
    server.log.line(&["library rejected"]).await;
    let place = format!("bennu.toml:{}:", line_of(&bench, "[plugins.ledger]") + 3);
    server.log.line(&[&place]).await;
    // The file is rejected for another reason, and the lines have moved again.
    bench.write_config(&format!("# Another one.\n{moved}\n[unheard]\nof = 1\n"));
    server.log.line(&["`unheard`"]).await;
    bench.put_numbered("ledger", Build::LedgerNeeds, 1);
    server.log.nth_line(1, &["library rejected"]).await;
    let place = format!("bennu.toml:{}:", line_of(&bench, "[plugins.ledger]") + 3);
    server.log.line(&[&place]).await;
}
