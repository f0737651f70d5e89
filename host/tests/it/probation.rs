//! New code that does not do gives its topics back, and repeated panics have the consequence that is configured.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{metric, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};

/// Where things go wrong.
const BAD: &str = "misbehave:bad";
/// Where nothing does.
const CALM: &str = "misbehave:calm";

/// New code is on probation for longer than any test lasts, and two panics are too many.
fn strict() -> Bench {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probation_ms", "60_000");
    bench.set("plugins.misbehave", "probation_panics", "2");
    bench
}

async fn count(client: &mut Client, topic: &str) -> Value {
    client.push(topic, "count", json!({})).await
}

/// Makes the plugin panic, and has the client back in the topic after that.
async fn panic(server: &Server) {
    let mut client = Client::joined(server, BAD).await;
    client.start(BAD, "panic", json!({})).await;
    client.event(BAD, "phx_error").await;
}

async fn rolled_back(server: &Server) -> String {
    server.log.line(&["rolled back to generation", &of("misbehave")]).await
}

#[tokio::test]
async fn past_the_threshold_the_code_before_goes_on_with_the_present_state() {
    let bench = strict();
    let server = bench.serve().await;
    let mut calm = Client::joined(&server, CALM).await;
    count(&mut calm, CALM).await;
    bench.put_numbered("misbehave", Build::Misbehave, 1);
    server.in_service("misbehave", 2).await;
    assert_eq!(count(&mut calm, CALM).await["topic"], 2, "counted by the new code");
    panic(&server).await;
    panic(&server).await;

    let said = rolled_back(&server).await;
    assert!(
        said.contains("2 panics on probation") && said.contains("no state is lost"),
        "{said}"
    );
    assert_eq!(
        count(&mut calm, CALM).await,
        json!({ "topic": 3, "member": 3, "version": 1 })
    );
    assert_eq!(calm.rest().await, [], "nobody else was told anything");
    server.unloaded("misbehave", 2).await;

    let admin = server.admin().await;
    let shown = plugin(admin, "misbehave").await;
    assert_eq!(shown["generation"], 1);
    assert_eq!(shown["last_refusal"]["step"], "probation");
    assert_eq!(
        metric(admin, "bennu_plugin_rollbacks_total{plugin=\"misbehave\"}").await,
        1
    );
    // The contents that failed are not taken again.
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 3).await;
    bench.put_numbered("misbehave", Build::Misbehave, 1);
    server.log.line(&["library rejected", "code=\"quarantined\""]).await;
}

#[tokio::test]
async fn code_that_fails_at_every_event_is_replaced_before_all_clients_meet_it() {
    let bench = strict();
    let server = bench.serve().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::joined(&server, CALM).await);
    }
    for client in &mut clients {
        count(client, CALM).await;
    }
    bench.put("misbehave", Build::MisbehavePanics);
    server.in_service("misbehave", 2).await;
    for client in &mut clients[..2] {
        client.start(CALM, "count", json!({})).await;
        client.event(CALM, "phx_error").await;
    }
    rolled_back(&server).await;
    for (client, expected) in clients[2..].iter_mut().zip([5, 6]) {
        assert_eq!(count(client, CALM).await["topic"], expected);
    }
    clients[0].join(CALM, json!({})).await;
    assert_eq!(
        count(&mut clients[0], CALM).await,
        json!({ "topic": 7, "member": 1, "version": 1 })
    );
}

/// The contents are those that were good before: it is not them that are put in quarantine.
#[tokio::test]
async fn from_other_settings_it_goes_back_to_those_before() {
    let bench = strict();
    let server = bench.serve().await;
    let mut calm = Client::joined(&server, CALM).await;
    count(&mut calm, CALM).await;
    bench.set("plugins.misbehave", "settings", "{ check = \"other\" }");
    server.in_service("misbehave", 2).await;
    assert_eq!(count(&mut calm, CALM).await["topic"], 2);
    panic(&server).await;
    panic(&server).await;
    assert!(rolled_back(&server).await.contains("no state is lost"));
    let expected = json!({ "topic": 3, "member": 3, "version": 1 });
    assert_eq!(count(&mut calm, CALM).await, expected);
    assert_eq!(calm.rest().await, []);
    server.unloaded("misbehave", 2).await;
    let shown = plugin(server.admin().await, "misbehave").await;
    assert_eq!((&shown["generation"], &shown["quarantined"]), (&json!(1), &json!([])));
    // An operator may try them again.
    bench.set("plugins.misbehave", "settings", "{ check = \"another\" }");
    server.in_service("misbehave", 3).await;
    assert_eq!(count(&mut calm, CALM).await["topic"], 4);
}

#[tokio::test]
async fn what_the_code_before_cannot_read_goes_back_to_the_snapshot() {
    let bench = strict();
    let server = bench.serve().await;
    let mut calm = Client::joined(&server, CALM).await;
    count(&mut calm, CALM).await;
    count(&mut calm, CALM).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    for _ in 0..3 {
        count(&mut calm, CALM).await;
    }
    let mut late = Client::joined(&server, CALM).await;
    panic(&server).await;
    panic(&server).await;

    let said = rolled_back(&server).await;
    for part in ["topics=1", "restored=1", "rejoined=1", "events are lost"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    // Three counts and a join here; in a topic that was not there at the swap two joins, two panics and two ends, of which
    // the last may come too late to be lost.
    let lost = said
        .split("lost_events=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let lost: u64 = lost.and_then(|lost| lost.parse().ok()).expect("a number");
    assert!((8..=10).contains(&lost), "{said}");
    late.event(CALM, "phx_error").await;
    assert_eq!(
        count(&mut calm, CALM).await,
        json!({ "topic": 3, "member": 3, "version": 1 })
    );
    assert_eq!(calm.rest().await, []);
    late.join(CALM, json!({})).await;
    assert_eq!(
        count(&mut late, CALM).await,
        json!({ "topic": 4, "member": 1, "version": 1 })
    );
    server.unloaded("misbehave", 2).await;
}

#[tokio::test]
async fn without_a_snapshot_members_rejoin() {
    for (key, value) in [("on_rollback", "\"rejoin\""), ("max_rollback_bytes", "0")] {
        let bench = strict();
        bench.set("plugins.misbehave", key, value);
        let server = bench.serve().await;
        let mut calm = Client::joined(&server, CALM).await;
        count(&mut calm, CALM).await;
        bench.put("misbehave", Build::MisbehaveV2);
        server.in_service("misbehave", 2).await;
        panic(&server).await;
        panic(&server).await;
        let said = rolled_back(&server).await;
        assert!(said.contains("restored=0") && said.contains("rejoined=2"), "{said}");
        calm.event(CALM, "phx_error").await;
        calm.join(CALM, json!({})).await;
        assert_eq!(
            count(&mut calm, CALM).await,
            json!({ "topic": 1, "member": 1, "version": 1 }),
            "{key}"
        );
    }
}

#[tokio::test]
async fn errors_lead_back_where_they_are_counted() {
    let bench = strict();
    bench.set("plugins.misbehave", "probation_errors", "3");
    let server = bench.serve().await;
    let mut calm = Client::joined(&server, CALM).await;
    let refused = json!({ "status": "error" });
    for _ in 0..3 {
        calm.try_push(CALM, "status", refused.clone()).await;
    }
    bench.put_numbered("misbehave", Build::Misbehave, 1);
    server.in_service("misbehave", 2).await;
    assert_eq!(server.log.count(&["rolled back"]), 0, "those before do not count");
    for _ in 0..3 {
        calm.try_push(CALM, "status", refused.clone()).await;
    }
    assert!(rolled_back(&server).await.contains("3 errors on probation"));
}

#[tokio::test]
async fn panics_that_were_usual_before_do_not_lead_back() {
    let bench = strict();
    let server = bench.serve().await;
    for _ in 0..3 {
        panic(&server).await;
    }
    bench.put_numbered("misbehave", Build::Misbehave, 1);
    server.in_service("misbehave", 2).await;
    for _ in 0..3 {
        panic(&server).await;
    }
    let mut calm = Client::joined(&server, CALM).await;
    count(&mut calm, CALM).await;
    assert_eq!(server.log.count(&["rolled back"]), 0);
    panic(&server).await;
    rolled_back(&server).await;
}

#[tokio::test]
async fn after_its_probation_code_stays_and_the_code_before_goes() {
    let bench = strict();
    bench.set("plugins.misbehave", "probation_ms", "1");
    let server = bench.serve().await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    server.unloaded("misbehave", 1).await;
    for _ in 0..3 {
        panic(&server).await;
    }
    let mut calm = Client::joined(&server, CALM).await;
    assert_eq!(count(&mut calm, CALM).await["version"], 2);
    let passed = "bennu_plugin_steps_passed_total{plugin=\"misbehave\",step=\"probation\"}";
    assert_eq!(metric(server.admin().await, passed).await, 2);
}

#[tokio::test]
async fn on_probation_the_code_before_stays_in_memory() {
    let bench = strict();
    let server = bench.serve().await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    let maps = server.proc("maps");
    let code = maps
        .lines()
        .filter(|line| line.contains("r-xp") && line.contains("/misbehave-"));
    assert_eq!(code.count(), 2);
    // The next change supersedes it: only the code right before is kept.
    bench.put_numbered("misbehave", Build::MisbehaveV2, 1);
    server.in_service("misbehave", 3).await;
    server.unloaded("misbehave", 1).await;
}

/// Panics twice, which is what `max_panics` says.
async fn panics_twice(on_panics: &str) -> (Bench, Server) {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "on_panics", &format!("{on_panics:?}"));
    bench.set("plugins.misbehave", "max_panics", "2");
    bench.put("misbehave", Build::Misbehave);
    let server = bench.serve().await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    let mut calm = Client::joined(&server, CALM).await;
    count(&mut calm, CALM).await;
    panic(&server).await;
    assert_eq!(count(&mut calm, CALM).await["topic"], 2, "one is not too many");
    panic(&server).await;
    if on_panics != "go_on" {
        calm.event(CALM, "phx_error").await;
    }
    (bench, server)
}

#[tokio::test]
async fn after_repeated_panics_it_goes_on_unless_told_otherwise() {
    let (_bench, server) = panics_twice("go_on").await;
    panic(&server).await;
    assert_eq!(plugin(server.admin().await, "misbehave").await["generation"], 2);
}

#[tokio::test]
async fn after_repeated_panics_a_plugin_may_start_anew() {
    let (_bench, server) = panics_twice("restart").await;
    server.in_service("misbehave", 3).await;
    let mut calm = Client::joined(&server, CALM).await;
    let counted = count(&mut calm, CALM).await;
    assert_eq!((&counted["topic"], &counted["version"]), (&json!(1), &json!(2)));
    server.unloaded("misbehave", 2).await;
}

#[tokio::test]
async fn after_repeated_panics_the_last_good_library_may_be_loaded() {
    let (bench, server) = panics_twice("roll_back").await;
    server.in_service("misbehave", 3).await;
    let mut calm = Client::joined(&server, CALM).await;
    assert_eq!(
        count(&mut calm, CALM).await,
        json!({ "topic": 1, "member": 1, "version": 1 })
    );
    bench.put_numbered("misbehave", Build::MisbehaveV2, 1);
    server.in_service("misbehave", 4).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.log.line(&["library rejected", "code=\"quarantined\""]).await;
}

#[tokio::test]
async fn after_repeated_panics_a_plugin_may_be_taken_out_of_service() {
    let (bench, server) = panics_twice("out_of_service").await;
    server.log.line(&["out of service", &of("misbehave"), "2 panics"]).await;
    let mut client = Client::connect(&server).await;
    let reply = client.try_join(CALM, json!({})).await;
    assert_eq!(reply["response"], json!({ "reason": "plugin unavailable" }));
    client.join("echo:1", json!({})).await;
    server.unloaded("misbehave", 2).await;
    let shown = plugin(server.admin().await, "misbehave").await;
    assert_eq!(
        (&shown["state"], &shown["generation"]),
        (&json!("unavailable"), &Value::Null)
    );
    // Another library brings it back.
    bench.put("misbehave", Build::Misbehave);
    server.in_service("misbehave", 3).await;
    client.join(CALM, json!({})).await;
}
