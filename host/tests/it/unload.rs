//! Before a library is unmapped the host looks who still points into it. What a plugin leaves in the process ends neither the host nor
//! its reloads, and is said with its name.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{get, metric, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, bennu, of};

/// A bench that also serves this plugin of the cases, at `NAME:*`, with one shard.
fn bench(build: Build) -> Bench {
    let (bench, name) = (Bench::new(), build.plugin());
    bench.put(name, build);
    bench.append(&format!(
        "[plugins.{name}]\nlibrary = \"lib{name}.so\"\nshards = 1\nprobation_ms = 0\nretire_ms = 1\n\
         [[routes]]\ntopic = \"{name}:*\"\nplugin = \"{name}\""
    ));
    bench
}

/// Replaces the plugin by the same code in other bytes.
async fn replace(bench: &Bench, server: &Server, build: Build, generation: u64) {
    bench.put_numbered(build.plugin(), build, generation);
    server.in_service(build.plugin(), generation).await;
}

/// Has the plugin leave something, replaces it, and waits for the cause that the library stays in memory for. Returns it.
async fn left(bench: &Bench, server: &Server, event: &str, payload: Value) -> String {
    let mut client = Client::joined(server, "leaves:1").await;
    client.push("leaves:1", event, payload).await;
    replace(bench, server, Build::Leaves, 2).await;
    server
        .log
        .line(&[
            "generation ended; its library stays in memory",
            &of("leaves"),
            "generation=1",
        ])
        .await;
    let shown = plugin(server.admin().await, "leaves").await;
    assert_eq!(shown["leaked_generations"], 1, "{event}");
    // The code that stays does no harm.
    let mut echo = Client::joined(server, "echo:1").await;
    echo.push("echo:1", "echo", json!({})).await;
    shown["leaked"][0]["cause"].as_str().expect("a cause").to_owned()
}

async fn check(event: &str, payload: Value, expected: &str) {
    let bench = bench(Build::Leaves);
    let server = bench.serve().await;
    let cause = left(&bench, &server, event, payload).await;
    assert!(cause.starts_with(expected), "{cause}");
    assert_eq!(server.stop().await.code(), Some(0), "{event}");
}

#[tokio::test]
async fn a_thread_that_a_library_started_keeps_it_mapped() {
    check("thread", json!({}), "threads: leaves.1.0 ").await;
}

#[tokio::test]
async fn so_does_one_with_a_name_of_its_own() {
    check("named_thread", json!({}), "threads: helper ").await;
}

#[tokio::test]
async fn so_does_one_that_never_waits() {
    check("busy_thread", json!({}), "threads: helper ").await;
}

#[tokio::test]
async fn so_does_a_timer_that_starts_threads() {
    let bench = bench(Build::Leaves);
    let server = bench.serve().await;
    let cause = left(&bench, &server, "timer", json!({})).await;
    assert!(cause.contains("timers: 1 "), "{cause}");
}

#[tokio::test]
async fn so_does_a_signal_handler() {
    check(
        "handler",
        json!({ "number": Signal::USR1.as_raw() }),
        "signal handlers: SIGUSR1 ",
    )
    .await;
}

#[tokio::test]
async fn so_does_an_exit_hook_that_nothing_takes_back() {
    let bench = bench(Build::ExitHook);
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "exit_hook:1").await;
    client.push("exit_hook:1", "set", json!({})).await;
    replace(&bench, &server, Build::ExitHook, 2).await;
    server
        .log
        .line(&["parts of this generation stay in memory", "exit hooks: "])
        .await;
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_function_for_the_end_of_a_library_is_called_and_the_library_goes() {
    let bench = bench(Build::Leaves);
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "leaves:1").await;
    client.push("leaves:1", "exit_function", json!({})).await;
    replace(&bench, &server, Build::Leaves, 2).await;
    server.unloaded("leaves", 1).await;
    assert_eq!(server.stop().await.code(), Some(0));
}

/// What the plugin left is still at work when the process ends.
#[tokio::test]
async fn a_normal_stop_runs_no_code_of_libraries() {
    for event in ["thread", "busy_thread", "timer", "exit_function", "hanging_destructor"] {
        let bench = bench(Build::Leaves);
        let server = bench.serve().await;
        let mut client = Client::joined(&server, "leaves:1").await;
        client.push("leaves:1", event, json!({})).await;
        assert_eq!(server.stop().await.code(), Some(0), "{event}");
    }
}

#[tokio::test]
async fn the_hosts_handlers_come_before_those_of_a_plugin_and_are_put_back() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let bench = bench(Build::Leaves);
        let mut server = bench.serve().await;
        let mut client = Client::joined(&server, "leaves:1").await;
        client
            .push("leaves:1", "handler", json!({ "number": signal.as_raw() }))
            .await;
        // At once: nobody has had the time to look.
        server.signal(signal);
        if signal == Signal::HUP {
            server
                .log
                .line(&["reading the configuration and all libraries again"])
                .await;
            server.signal(Signal::TERM);
        }
        assert_eq!(client.close_code().await, 1012, "{signal:?}: a drain");
        assert_eq!(server.ended().await.code(), Some(0), "{signal:?}");
        assert_eq!(
            server
                .log
                .count(&["Bennu has restored it", &of("leaves"), "generation=1"]),
            1,
            "{signal:?}"
        );
    }
}

#[tokio::test]
async fn a_handler_set_in_init_is_put_back_too() {
    let bench = bench(Build::Leaves);
    bench.set(
        "plugins.leaves",
        "settings",
        &format!("{{ init = \"handler\", number = {} }}", Signal::SEGV.as_raw()),
    );
    let server = bench.serve().await;
    server.log.line(&["Bennu has restored it", "signal=\"SIGSEGV\""]).await;
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_timer_that_nobody_handles_is_said_and_does_not_end_the_host() {
    let bench = bench(Build::Leaves);
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "leaves:1").await;
    client.push("leaves:1", "interval_timer", json!({})).await;
    server.log.line(&["ignored a timer signal", "signal=\"SIGALRM\""]).await;
    replace(&bench, &server, Build::Leaves, 2).await;
    server.unloaded("leaves", 1).await;
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_library_whose_init_fails_is_looked_at_before_it_goes() {
    let bench = bench(Build::Leaves);
    let server = bench.serve().await;
    bench.set("plugins.leaves", "settings", "{ init = \"named_thread refuse\" }");
    server
        .log
        .line(&[
            "the plugin did not start, and its library stays in memory",
            "threads: helper ",
        ])
        .await;
    Client::joined(&server, "leaves:1").await;
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn static_thread_locals_are_said_at_the_first_load_and_have_room_for_many_reloads() {
    let bench = bench(Build::StaticTls);
    let server = bench.serve().await;
    server
        .log
        .line(&[
            "static thread-local storage",
            &of("static_tls"),
            "room_bytes=65536",
            "-ftls-model=global-dynamic",
        ])
        .await;
    for generation in 2..=20 {
        replace(&bench, &server, Build::StaticTls, generation).await;
    }
    let mut client = Client::joined(&server, "static_tls:1").await;
    client.push("static_tls:1", "read", json!({})).await;
}

#[tokio::test]
async fn without_room_for_static_thread_locals_the_refusal_says_what_to_do() {
    let bench = bench(Build::StaticTls);
    bench.set("server", "static_tls_bytes", "1_000");
    let server = bench.serve().await;
    let mut number = 1;
    let refusal = loop {
        number += 1;
        bench.put_numbered("static_tls", Build::StaticTls, number);
        let notice = [&*of("static_tls"), "static_tls_bytes", "library rejected"];
        let served = server.in_service("static_tls", number);
        tokio::select! {
            () = served => assert!(number < 20, "there is room without end"),
            line = server.log.line(&notice) => break line,
        }
    };
    assert!(
        refusal.contains("step=\"load\"") && refusal.contains("restart the server"),
        "{refusal}"
    );
    Client::joined(&server, "static_tls:1").await;
}

/// Puts version `number` of the library beside the plugin, whole at once.
fn put_helper(bench: &Bench, number: u32) {
    let place = bench.path("helpers/libhelper.so.1");
    fs::create_dir_all(bench.path("helpers")).expect("a folder");
    fs::copy(Build::helper(number), place.with_extension("new")).expect("copied");
    fs::rename(place.with_extension("new"), place).expect("moved");
}

async fn answer(server: &Server) -> Value {
    let mut client = Client::joined(server, "companion:1").await;
    client.push("companion:1", "ask", json!({})).await["answer"].clone()
}

#[tokio::test]
async fn a_library_beside_the_plugin_comes_with_it() {
    let bench = bench(Build::Companion);
    put_helper(&bench, 1);
    let server = bench.serve().await;
    assert_eq!(answer(&server).await, 1);
    // Both at once, as a deployment does.
    put_helper(&bench, 2);
    replace(&bench, &server, Build::Companion, 2).await;
    assert_eq!(answer(&server).await, 2);
    server.unloaded("companion", 1).await;
    assert!(!server.proc("maps").contains("helpers/"), "only copies are mapped");
}

#[tokio::test]
async fn a_library_beside_the_plugin_that_changes_alone_is_a_change() {
    let bench = bench(Build::Companion);
    put_helper(&bench, 1);
    let server = bench.serve().await;
    put_helper(&bench, 2);
    server.in_service("companion", 2).await;
    assert_eq!(answer(&server).await, 2);
}

#[tokio::test]
async fn a_library_that_is_not_beside_the_plugin_is_named() {
    let bench = bench(Build::Companion);
    put_helper(&bench, 1);
    let server = bench.serve().await;
    fs::remove_file(bench.path("helpers/libhelper.so.1")).expect("removed");
    server
        .log
        .line(&["library rejected", &of("companion"), "libhelper.so.1", "-rpath,$ORIGIN"])
        .await;
    assert_eq!(answer(&server).await, 1, "the code in service goes on");
}

#[tokio::test]
async fn memory_that_stays_at_each_reload_is_said_past_the_bound() {
    const BYTES: u64 = 20 << 20;
    let bench = bench(Build::Leaves);
    let settings = format!("{{ init = \"memory\", number = {BYTES} }}");
    bench.set("plugins.leaves", "settings", &settings);
    let server = bench.serve().await;
    for generation in 2..=4 {
        replace(&bench, &server, Build::Leaves, generation).await;
        server.unloaded("leaves", generation - 1).await;
    }
    server.log.line(&["each reload leaks memory", &of("leaves")]).await;
    let name = "bennu_plugin_leaked_bytes_per_reload{plugin=\"leaves\"}";
    assert!(metric(server.admin().await, name).await >= BYTES / 2);
}

#[tokio::test]
async fn files_that_stay_open_at_each_reload_are_said() {
    let bench = bench(Build::Leaves);
    bench.set("plugins.leaves", "settings", "{ init = \"file\" }");
    let server = bench.serve().await;
    for generation in 2..=4 {
        replace(&bench, &server, Build::Leaves, generation).await;
        server.unloaded("leaves", generation - 1).await;
    }
    server
        .log
        .line(&["each reload leaves open files behind", &of("leaves"), "files=1"])
        .await;
}

#[tokio::test]
async fn a_destructor_that_does_not_return_holds_up_neither_other_reloads_nor_the_stop() {
    let bench = bench(Build::Leaves);
    bench.set("plugins.leaves", "deadline_ms", "300");
    bench.set("plugins.echo", "retire_ms", "1");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "leaves:1").await;
    client.push("leaves:1", "hanging_destructor", json!({})).await;
    replace(&bench, &server, Build::Leaves, 2).await;
    // While the destructor runs, and after it was abandoned.
    replace(&bench, &server, Build::Echo, 2).await;
    server.unloaded("echo", 1).await;
    server
        .log
        .line(&["parts of this generation stay in memory", &of("leaves"), "destructor: "])
        .await;
    replace(&bench, &server, Build::Echo, 3).await;
    server.unloaded("echo", 2).await;
    replace(&bench, &server, Build::Leaves, 3).await;
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_plugin_whose_shards_are_all_given_up_is_not_in_service() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "max_stuck_threads", "0");
    bench.set("plugins.misbehave", "shards", "1");
    bench.set("plugins.misbehave", "deadline_ms", "300");
    let server = bench.serve().await;
    let admin = server.admin().await;
    assert_eq!(get(admin, "/ready").await.status, 200);
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.start("misbehave:1", "unruly", json!({ "at": "hang" })).await;
    server
        .log
        .line(&["plugin out of service: all its threads are abandoned"])
        .await;
    let ready = get(admin, "/ready").await;
    assert_eq!((ready.status, &*ready.body), (503, "not in service: misbehave\n"));
    assert_eq!(plugin(admin, "misbehave").await["state"], "unavailable");
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    assert_eq!(get(admin, "/ready").await.status, 200);
}

#[tokio::test]
async fn a_plugin_that_closes_the_output_has_the_log_written_into_no_connection() {
    let bench = bench(Build::Leaves);
    let server = bench.serve().await;
    let mut client = Client::joined(&server, "leaves:1").await;
    client.push("leaves:1", "closed_output", json!({})).await;
    // Their connections have the numbers that are free now.
    let mut others = Vec::new();
    for topic in ["echo:1", "echo:2", "echo:3"] {
        others.push(Client::joined(&server, topic).await);
        server.log.line(&["joined", topic]).await;
    }
    for (client, topic) in others.iter_mut().zip(["echo:1", "echo:2", "echo:3"]) {
        assert_eq!(client.push(topic, "echo", json!({ "a": 1 })).await, json!({ "a": 1 }));
        assert_eq!(client.rest().await, []);
    }
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_plugin_that_changes_the_folder_of_the_process_loses_no_file_of_the_server() {
    let bench = bench(Build::Leaves);
    let mut command = bennu();
    command
        .current_dir(bench.path(""))
        .args(["serve", "--config", "bennu.toml"]);
    let server = Server::start(command).await;
    let mut client = Client::joined(&server, "leaves:1").await;
    client.push("leaves:1", "folder", json!({})).await;
    bench.append("[[routes]]\ntopic = \"other:*\"\nplugin = \"echo\"");
    server.log.line(&["configuration replaced"]).await;
    client.join("other:1", json!({})).await;
    bench.put_numbered("leaves", Build::Leaves, 1);
    server.in_service("leaves", 2).await;
}
