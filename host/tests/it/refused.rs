//! A file that is no good library changes nothing: the code in service goes on, and the reason is told everywhere.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{get, metric, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};
use crate::support::within;

const TOPIC: &str = "misbehave:1";

/// Puts `contents` in the plugin's place and has them refused by `step` with `code`, in the log with `words`.
async fn check(contents: &[u8], step: &str, code: &str, words: &str) {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "count", json!({})).await;
    bench.put_bytes("misbehave", contents);
    refused(&server, step, code, words).await;

    let counted = client.push(TOPIC, "count", json!({})).await;
    assert_eq!(counted, json!({ "topic": 2, "member": 2, "version": 1 }));
    assert_eq!(client.rest().await, [], "nobody was told anything");
    // And a good one is taken after that.
    bench.put("misbehave", Build::MisbehaveV2);
    server
        .log
        .line(&["plugin in service", &of("misbehave"), "topics=1"])
        .await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["topic"], 3);
    assert_eq!(
        plugin(server.admin().await, "misbehave").await["last_refusal"],
        Value::Null
    );
}

async fn refused(server: &Server, step: &str, code: &str, words: &str) {
    let said = server
        .log
        .line(&["library rejected; the previous code stays in service", &of("misbehave")])
        .await;
    let parts = [format!("step=\"{step}\""), format!("code=\"{code}\""), words.to_owned()];
    for part in parts {
        assert!(said.contains(&part), "{part} is missing in {said}");
    }
    let admin = server.admin().await;
    let shown = plugin(admin, "misbehave").await;
    assert_eq!(shown["generation"], 1);
    let refusal = &shown["last_refusal"];
    assert_eq!((&refusal["step"], &refusal["code"]), (&json!(step), &json!(code)));
    assert!(
        refusal["message"]
            .as_str()
            .is_some_and(|message| message.contains(words)),
        "{refusal}"
    );
    assert_eq!(
        metric(admin, "bennu_plugin_refused_loads_total{plugin=\"misbehave\"}").await,
        1
    );
    assert_eq!(metric(admin, "bennu_plugin_generation{plugin=\"misbehave\"}").await, 1);
}

#[tokio::test]
async fn a_file_without_its_end_is_refused() {
    let bytes = Build::MisbehaveV2.bytes();
    check(&bytes[..bytes.len() / 2], "check", "truncated", "it is not complete").await;
}

#[tokio::test]
async fn a_text_is_refused() {
    check(b"not a library\n", "check", "not_elf", "it is not an ELF file").await;
}

#[tokio::test]
async fn a_library_that_is_no_plugin_is_refused() {
    // One that every process has.
    let maps = fs::read_to_string("/proc/self/maps").expect("it is ours");
    let libc = maps
        .split_whitespace()
        .find(|word| word.contains("/libc.so"))
        .expect("the C library");
    check(
        &fs::read(libc).expect("read"),
        "manifest",
        "no_manifest",
        "it is not a Bennu plugin",
    )
    .await;
}

#[tokio::test]
async fn another_plugin_is_refused() {
    check(&Build::Echo.bytes(), "manifest", "wrong_name", "echo").await;
}

#[tokio::test]
async fn a_version_that_does_not_read_the_state_of_live_topics_is_refused() {
    let bench = Bench::new();
    bench.put("misbehave", Build::MisbehaveV2);
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    bench.put("misbehave", Build::Misbehave);
    refused(&server, "manifest", "state_version", "live topics have version 2").await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 2);
}

#[tokio::test]
async fn without_live_topics_any_version_is_taken() {
    let bench = Bench::new();
    bench.put("misbehave", Build::MisbehaveV2);
    let server = bench.serve().await;
    bench.put("misbehave", Build::Misbehave);
    server.in_service("misbehave", 2).await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 1);
}

#[tokio::test]
async fn a_file_whose_end_comes_later_is_refused_and_then_taken() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let bytes = Build::MisbehaveV2.bytes();
    let (start, end) = bytes.split_at(bytes.len() / 2);
    fs::write(bench.library("misbehave"), start).expect("written");
    refused(&server, "check", "truncated", "it is not complete").await;
    let file = OpenOptions::new().append(true).open(bench.library("misbehave"));
    file.and_then(|mut file| file.write_all(end)).expect("written");
    let before = 1;
    let parts = ["plugin in service", &of("misbehave")];
    server.log.nth_line(before, &parts).await;
    let mut client = Client::joined(&server, TOPIC).await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 2);
}

#[tokio::test]
async fn the_same_bad_file_is_refused_once() {
    let bench = Bench::new();
    let server = bench.serve().await;
    bench.put_bytes("misbehave", b"not a library\n");
    refused(&server, "check", "not_elf", "it is not an ELF file").await;
    bench.put_bytes("misbehave", b"not a library\n");
    // The watcher looks at what changed first, first.
    bench.put_numbered("echo", Build::Echo, 1);
    server.in_service("echo", 2).await;
    assert_eq!(server.log.count(&["library rejected"]), 1);
    // The good one comes back, and after it the bad one: that is a change.
    let admin = server.admin().await;
    bench.put("misbehave", Build::Misbehave);
    within("good file", async {
        while plugin(admin, "misbehave").await["last_refusal"] != Value::Null {}
    })
    .await;
    assert_eq!(
        plugin(admin, "misbehave").await["generation"],
        1,
        "it has been in service all the time"
    );
    bench.put_bytes("misbehave", b"not a library\n");
    server.log.nth_line(1, &["library rejected"]).await;
}

/// Puts each of these in the plugin's place, one after the other; each is rejected, none runs.
async fn check_all(files: impl IntoIterator<Item = Vec<u8>>, step: &str, codes: &[&str]) {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let step = format!("step={step:?}");
    for (before, bytes) in files.into_iter().enumerate() {
        bench.put_bytes("misbehave", &bytes);
        let said = server
            .log
            .nth_line(before, &["library rejected", &of("misbehave"), &step])
            .await;
        assert!(
            codes.iter().any(|code| said.contains(&format!("code={code:?}"))),
            "{said}"
        );
    }
    assert_eq!(client.push(TOPIC, "count", json!({})).await["topic"], 1);
    assert_eq!(client.rest().await, []);
}

#[tokio::test]
async fn a_file_cut_off_anywhere_is_refused() {
    let whole = Build::MisbehaveV2.bytes();
    let lengths = [
        1,
        3,
        63,
        64,
        1_000,
        whole.len() / 3,
        whole.len() - 4_096,
        whole.len() - 64,
        whole.len() - 1,
    ];
    check_all(
        lengths.map(|length| whole[..length].to_vec()),
        "check",
        &["truncated", "not_elf"],
    )
    .await;
}

#[tokio::test]
async fn a_file_whose_end_is_zeros_is_refused() {
    let whole = Build::MisbehaveV2.bytes();
    let zeroed = |zeros: usize| {
        let mut bytes = whole.clone();
        let start = bytes.len() - zeros;
        bytes[start..].fill(0);
        bytes
    };
    let codes = ["damaged", "truncated", "no_manifest", "not_elf"];
    let files = [whole.len() / 2, whole.len() - 64].map(zeroed);
    check_all(files, "check", &codes).await;
}

#[tokio::test]
async fn a_library_for_another_machine_is_refused() {
    let mut bytes = Build::MisbehaveV2.bytes();
    // `e_machine` of the header: RISC-V.
    bytes[18..20].copy_from_slice(&243_u16.to_le_bytes());
    check(&bytes, "check", "wrong_arch", "ELF machine").await;
}

#[tokio::test]
async fn a_library_that_speaks_another_contract_is_refused() {
    let mut bytes = Build::MisbehaveV2.bytes();
    let magic = bennu_plugin::manifest::MAGIC;
    let starts: Vec<_> = bytes
        .windows(magic.len())
        .enumerate()
        .filter(|(_, found)| *found == magic)
        .collect();
    let starts: Vec<usize> = starts.into_iter().map(|(at, _)| at).collect();
    let major = std::mem::offset_of!(bennu_plugin::manifest::Manifest, abi_major);
    for start in starts {
        bytes[start + major..start + major + 4].copy_from_slice(&7_u32.to_le_bytes());
    }
    check(&bytes, "manifest", "abi_major", "it was built for plugin ABI 7").await;
}

#[tokio::test]
async fn a_library_whose_panics_would_end_the_host_is_refused() {
    check(
        &Build::MisbehaveAborts.bytes(),
        "manifest",
        "panic_abort",
        "built with panic = ",
    )
    .await;
}

#[tokio::test]
async fn what_goes_wrong_while_it_is_loaded_goes_wrong_in_the_probe() {
    for (how, code, words) in [
        ("crash", "probe_crashed", "it crashed with SIGSEGV while it was loaded"),
        ("abort", "probe_crashed", "it crashed with SIGABRT while it was loaded"),
        (
            "exit",
            "probe_exited",
            "it ended the process with code 3 while it was loaded",
        ),
        ("allocate", "probe_crashed", "while it was loaded"),
        ("thread", "threads", "it left threads running"),
        (
            "hang",
            "probe_timed_out",
            "it took more than 1500 ms while it was loaded",
        ),
    ] {
        let bench = Bench::new();
        if how == "hang" {
            bench.set("plugins.misbehave", "probe_ms", "1_500");
        }
        let server = bench.serve_with(|command| command.env("MISBEHAVE_AT_LOAD", how)).await;
        let mut client = Client::joined(&server, TOPIC).await;
        bench.put("misbehave", Build::MisbehaveAtLoad);
        refused(&server, "probe", code, words).await;
        assert_eq!(client.push(TOPIC, "count", json!({})).await["topic"], 1, "{how}");
    }
}

/// The settings of the plugin are in its configuration, which is rejected whole.
async fn settings_refused(settings: &str, words: &[&str]) {
    let bench = Bench::new();
    if settings.contains("hang") {
        bench.set("plugins.misbehave", "probe_ms", "1_500");
    }
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    bench.set("plugins.misbehave", "settings", settings);
    server.log.line(&["configuration rejected"]).await;
    for words in words {
        server.log.line(&[words]).await;
    }
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 1);
    assert_eq!(plugin(server.admin().await, "misbehave").await["generation"], 1);
}

#[tokio::test]
async fn settings_that_the_plugins_type_does_not_take_are_shown_at_their_line() {
    settings_refused(
        "{ chekc = \"\" }",
        &[
            "the plugin `misbehave` has no setting `chekc`",
            "bennu.toml:",
            "| settings = { chekc",
        ],
    )
    .await;
    settings_refused(
        "{ check = 7 }",
        &["`check` must be a string, not 7", "| settings = { check = 7"],
    )
    .await;
    settings_refused("{ check = \"refuse\" }", &["refused on request"]).await;
}

#[tokio::test]
async fn what_goes_wrong_while_settings_are_checked_goes_wrong_in_the_probe() {
    for (how, words) in [
        ("panic", "check panicked"),
        ("crash", "it crashed with SIGSEGV while it checked its settings"),
        ("abort", "it crashed with SIGABRT while it checked its settings"),
        ("exit", "it ended the process with code 3 while it checked its settings"),
        ("allocate", "while it checked its settings"),
        ("thread", "it left threads running"),
        ("hang", "it took more than 1500 ms while it checked its settings"),
    ] {
        settings_refused(&format!("{{ check = {how:?} }}"), &[words]).await;
    }
}

#[tokio::test]
async fn code_that_does_not_read_the_live_state_is_refused_by_the_probe() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "count", json!({})).await;
    bench.put("misbehave", Build::MisbehaveBadRestore);
    let words = "it cannot read the current state of misbehave:1: built never to read";
    refused(&server, "probe", "restore", words).await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["topic"], 2);
}

#[tokio::test]
async fn what_was_refused_over_the_live_state_is_taken_once_that_is_gone() {
    for (first, then, code) in [
        (Build::Misbehave, Build::MisbehaveBadRestore, "restore"),
        (Build::MisbehaveV2, Build::Misbehave, "state_version"),
    ] {
        let bench = Bench::new();
        bench.set("plugins.misbehave", "linger_ms", "20");
        bench.put("misbehave", first);
        let server = bench.serve().await;
        let mut client = Client::joined(&server, TOPIC).await;
        bench.put("misbehave", then);
        let how = "wait until these topics have ended: Bennu tries it again then";
        server
            .log
            .line(&["library rejected", &format!("code=\"{code}\""), how])
            .await;
        client.push(TOPIC, "phx_leave", json!({})).await;
        server.in_service("misbehave", 2).await;
        assert_eq!(server.log.count(&["library rejected"]), 1);
        let shown = plugin(server.admin().await, "misbehave").await;
        assert_eq!(
            (&shown["last_refusal"], &shown["quarantined"]),
            (&Value::Null, &json!([]))
        );
    }
}

#[tokio::test]
async fn a_refused_setting_is_forgotten_where_it_is_mended() {
    let bench = Bench::new();
    let server = bench.dev().await;
    let before = bench.read_config();
    bench.set("plugins.misbehave", "settings", "{ chekc = \"\" }");
    server.log.line(&["configuration rejected"]).await;
    let refusal = async || {
        let there = get(server.address, "/dev/routes").await.json();
        let all = there["plugins"].as_array().expect("a list").clone();
        let ours = all.into_iter().find(|plugin| plugin["name"] == "misbehave");
        let by_admin = plugin(server.admin().await, "misbehave").await;
        [
            ours.expect("there")["refusal"].is_null(),
            by_admin["last_refusal"].is_null(),
        ]
    };
    assert_eq!(refusal().await, [false, false]);
    bench.write_config(&before);
    server.log.line(&["configuration replaced"]).await;
    assert_eq!(refusal().await, [true, true]);
}

#[tokio::test]
async fn code_that_hangs_over_the_live_state_is_refused_by_the_probe() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probe_ms", "1_500");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "arm", json!({ "at": "hang:restore" })).await;
    bench.put("misbehave", Build::MisbehaveV2);
    let words = "it took more than 1500 ms while it read a sample of the live state";
    refused(&server, "probe", "probe_timed_out", words).await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 1);
}

/// Built with a contract in which a field has another name.
#[tokio::test]
async fn a_library_with_another_layout_is_refused_in_a_line_and_with_a_report() {
    let mut bytes = Build::MisbehaveV2.bytes();
    let (name, other) = (b"try_restore", b"try_rastore");
    let found: Vec<usize> = bytes
        .windows(name.len())
        .enumerate()
        .filter(|(_, found)| found == name)
        .map(|(at, _)| at)
        .collect();
    for at in found {
        bytes[at..at + name.len()].copy_from_slice(other);
    }
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    bench.put_bytes("misbehave", &bytes);
    let line = "a field of `Module`: expected try_restore, found try_rastore";
    refused(&server, "probe", "layout", line).await;
    let report = fs::read_to_string(bench.path("state/reports/misbehave.txt")).expect("a report");
    assert!(report.lines().count() > 20, "{report}");
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 1);
}

#[tokio::test]
async fn a_shard_that_is_busy_keeps_no_library_from_being_probed() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "shards", "1");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let slept = client.start(TOPIC, "sleep", json!({ "ms": 1_500 })).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server
        .log
        .line(&["step passed", &of("misbehave"), "step=\"notice\""])
        .await;
    server
        .log
        .nth_line(1, &["step passed", &of("misbehave"), "step=\"probe\""])
        .await;
    assert_eq!(client.answer(&slept).await["status"], "ok");
    server.in_service("misbehave", 2).await;
}

/// The check of completeness does not see holes: code that is not there crashes where the probe runs it.
#[tokio::test]
async fn a_file_with_a_hole_in_its_code_is_refused_by_the_probe() {
    use object::{Object as _, ObjectSection as _};
    let mut bytes = Build::MisbehaveV2.bytes();
    let library = object::File::parse(&*bytes).expect("a library");
    let code = library.section_by_name(".text").and_then(|code| code.file_range());
    let (start, length) = code.expect("code");
    let (start, length) = (
        usize::try_from(start).expect("fits"),
        usize::try_from(length).expect("fits"),
    );
    bytes[start..start + length].fill(0);
    check(&bytes, "probe", "probe_crashed", "it crashed with SIGSEGV").await;
}
