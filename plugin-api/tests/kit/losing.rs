//! State that new code would lose: a reload names it, and the topic stays with the old code.

use bennu_plugin::prelude::{Deserialize, Serialize};
use bennu_plugin::test::{Code, Exported, Server};
use bennu_plugin::{Value, json};

/// A plugin: its state version, the versions that it reads, the fields of a topic's state, and more callbacks.
macro_rules! plugin {
    ($name:ident, $version:literal, $from:literal..=$to:literal, { $($field:tt)* } $(, $($more:tt)*)?) => {
        mod $name {
            use bennu_plugin::prelude::*;

            #[derive(Default, Serialize, Deserialize)]
            #[serde(default)]
            pub(crate) struct Topic { $($field)* }

            #[derive(Serialize, Deserialize)]
            pub(crate) struct Member {}

            impl Channel for Member {
                type Shared = Topic;

                const STATE_VERSION: u32 = $version;
                const READS_FROM: u32 = $from;
                const READS_TO: u32 = $to;

                $($($more)*)?
            }

            bennu_plugin::test_plugin!(Member);
        }
    };
}

plugin!(count, 1, 1..=1, { count: u32 });
plugin!(total, 1, 1..=1, { total: u32 });
plugin!(alias, 1, 1..=1, { #[serde(alias = "count")] total: u32 });
plugin!(more, 1, 1..=1, { count: u32, more: u32 });
plugin!(nothing, 1, 1..=1, {});
plugin!(nothing_v2, 2, 1..=2, {});
plugin!(total_v2, 2, 1..=2, { total: u32 });
plugin!(count_reads_v2, 1, 1..=2, { count: u32 });
plugin!(more_v2, 2, 1..=2, { count: u32, more: u32 });
plugin!(migrated, 2, 1..=2, { total: u32 },
    fn migrate_shared(_: u32, old: Old<'_>) -> Result<Topic, MigrateError> {
        #[derive(Deserialize)]
        struct Before { count: u32 }
        match old.read::<Topic>() {
            Ok(topic) if topic.total > 0 => Ok(topic),
            _ => Ok(Topic { total: old.read::<Before>()?.count }),
        }
    }
);
plugin!(forgets, 2, 1..=2, { #[serde(skip_deserializing)] total: u32 },
    fn migrate_shared(from: u32, old: Old<'_>) -> Result<Topic, MigrateError> {
        if from == 2 {
            return old.read();
        }
        #[derive(Deserialize)]
        struct Before { count: u32 }
        Ok(Topic { total: old.read::<Before>()?.count })
    }
);

plugin!(off, 1, 1..=1, { #[serde(default = "super::ten", skip_serializing_if = "super::is_zero")] limit: u32 },
    fn join(topic: &mut Topic, _: Payload<'_>, _: &mut Context) -> Join<Self> {
        topic.limit = 0;
        Join::accept(Self {})
    }
);
plugin!(off_v2, 2, 1..=2, { #[serde(default = "super::ten")] limit: u32 });
plugin!(off_fixed, 1, 1..=1, { limit: u32 });
plugin!(queue, 1, 1..=1, { queue: Vec<String>, names: std::collections::HashSet<String> },
    fn join(topic: &mut Topic, _: Payload<'_>, _: &mut Context) -> Join<Self> {
        topic.queue = ["c", "a", "b"].map(String::from).into();
        topic.names = ["z", "y", "x"].map(String::from).into();
        Join::accept(Self {})
    }
);
plugin!(sorted, 1, 1..=1, { queue: std::collections::BTreeSet<String>, names: std::collections::BTreeSet<String> });
plugin!(sorted_v2, 2, 1..=2, { queue: std::collections::BTreeSet<String>, names: std::collections::BTreeSet<String> });
plugin!(many, 1, 1..=1, { a: super::Count, b: super::Count, c: super::Count, d: super::Count, e: super::Count, money: super::Count });
plugin!(few_v2, 2, 1..=2, { a: super::Gone, b: super::Gone, c: super::Gone, d: super::Gone, e: super::Gone, money: super::Total });

#[derive(Default, Serialize, Deserialize)]
struct Gone {}

#[derive(Default, Serialize, Deserialize)]
struct Count {
    count: u32,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Total {
    total: u32,
}

fn ten() -> u32 {
    10
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Has `New` take over the state `before` of a topic from `Old`. Returns the state after that, or why it stays.
fn reloaded<Old: Exported, New: Exported>(version: u32, before: Value) -> Result<Value, String> {
    let server = Server::start::<Old>();
    server.restore("topic", version, before, [json!({})]);
    server.try_reload_to(Code::of::<New>())?;
    Ok(server.shared("topic"))
}

#[track_caller]
fn refused<Old: Exported, New: Exported>(version: u32, before: Value, parts: &[&str]) {
    let why = reloaded::<Old, New>(version, before).expect_err("refused");
    for part in parts {
        assert!(why.contains(part), "{part} is missing in {why}");
    }
}

#[test]
fn a_field_with_another_name_is_refused_with_what_to_write() {
    refused::<count::Member, total::Member>(
        1,
        json!({ "count": 5 }),
        &[
            "`topic` stays with the old code",
            "`count`: dropped, while `total` has its default",
            "write `#[serde(alias = \"count\")]`",
            "set `STATE_VERSION` to 2 and `READS_FROM` to 1, and write a `migrate_shared`",
        ],
    );
}

#[test]
fn an_alias_and_a_new_field_are_fine() {
    let after = reloaded::<count::Member, alias::Member>(1, json!({ "count": 5 }));
    assert_eq!(after, Ok(json!({ "total": 5 })));
    let after = reloaded::<count::Member, more::Member>(1, json!({ "count": 5 }));
    assert_eq!(after, Ok(json!({ "count": 5, "more": 0 })));
}

#[test]
fn a_field_is_removed_by_a_new_version() {
    let parts = [
        "`count`: dropped",
        "if that may be lost, set `STATE_VERSION` to 2 and `READS_FROM` to 1",
    ];
    refused::<count::Member, nothing::Member>(1, json!({ "count": 5 }), &parts);
    let after = reloaded::<count::Member, nothing_v2::Member>(1, json!({ "count": 5 }));
    assert_eq!(after, Ok(json!({})));
}

#[test]
fn a_new_version_without_a_migration_renames_nothing() {
    let parts = [
        "`count`: dropped",
        "write a `migrate_shared` that reads state of version 1",
    ];
    refused::<count::Member, total_v2::Member>(1, json!({ "count": 5 }), &parts);
    let after = reloaded::<count::Member, migrated::Member>(1, json!({ "count": 5 }));
    assert_eq!(after, Ok(json!({ "total": 5 })));
}

#[test]
fn earlier_code_reads_later_state_only_if_it_loses_nothing() {
    refused::<more::Member, count::Member>(1, json!({ "count": 5, "more": 1 }), &["`more`: dropped"]);
    refused::<more_v2::Member, count_reads_v2::Member>(2, json!({ "count": 5, "more": 1 }), &["`more`: dropped"]);
}

#[test]
fn what_a_migration_makes_must_be_readable_again() {
    let parts = ["once written, it cannot be read again", "`total`: 5 → 0"];
    refused::<count::Member, forgets::Member>(1, json!({ "count": 5 }), &parts);
}

#[test]
fn a_field_that_is_left_out_and_has_another_default_is_refused() {
    let started = || {
        let server = Server::start::<off::Member>();
        let _ann = server.join("topic", json!({}));
        server
    };
    for code in [Code::of::<off::Member>(), Code::of::<off_v2::Member>()] {
        let why = started().try_reload_to(code).expect_err("refused");
        assert!(why.contains("`limit`: left out → 10"), "{why}");
    }
    let server = started();
    // To look at it changes nothing.
    assert_eq!(server.shared::<Value>("topic"), json!({}));
    server.reload_to(Code::of::<off_fixed::Member>());
    assert_eq!(server.shared::<Value>("topic"), json!({ "limit": 0 }));
}

#[test]
fn a_list_that_comes_back_in_another_order_is_refused() {
    let started = || {
        let server = Server::start::<queue::Member>();
        let _ann = server.join("topic", json!({}));
        server
    };
    let why = started().try_reload_to(Code::of::<sorted::Member>());
    let why = why.expect_err("refused");
    assert!(
        why.contains("lose what it does not write again: `queue`: 3 items → another order; "),
        "{why}"
    );
    started().reload_to(Code::of::<queue::Member>());
    let server = started();
    server.reload_to(Code::of::<sorted_v2::Member>());
    let sorted = json!({ "queue": ["a", "b", "c"], "names": ["x", "y", "z"] });
    assert_eq!(server.shared::<Value>("topic"), sorted);
}

#[test]
fn json_that_is_restored_may_be_a_set() {
    let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let after = reloaded::<queue::Member, sorted::Member>(1, json!({ "names": names }));
    assert_eq!(
        after.expect("it comes back")["names"].as_array().map(Vec::len),
        Some(50)
    );
}

#[test]
fn a_renamed_field_is_refused_however_many_others_are_removed() {
    let count = json!({ "count": 5 });
    let before = json!({ "a": count, "b": count, "c": count, "d": count, "e": count, "money": count });
    refused::<many::Member, few_v2::Member>(1, before, &["write a `migrate_shared` that reads state of version 1"]);
}
