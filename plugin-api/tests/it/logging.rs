//! What a plugin's `tracing` hands to the host.

use bennu_plugin::abi::event;
use bennu_plugin::export::NoConnect;
use bennu_plugin::prelude::*;
use bennu_plugin::{NoSettings, tracing};

use crate::recorder::{Event, Loaded, event, join, push};

#[derive(Serialize, Deserialize)]
struct Member;

/// Counts how often it is written.
struct Costly;

static WRITTEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

impl std::fmt::Display for Costly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        WRITTEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        f.write_str("costly")
    }
}

impl Channel for Member {
    type Shared = ();

    const INTERCEPTS: &'static [&'static str] = &["secret"];

    fn join(_: &mut (), _: Payload<'_>, _: &mut Context) -> Join<Self> {
        Join::accept(Self)
    }

    fn handle_in(&mut self, _: &mut (), event: &str, _: Payload<'_>, cx: &mut Context) -> Handled {
        match event {
            "fields" => info!(user = 7_u64, less = -1_i64, half = 0.5, yes = true, name = "Ann", list = ?[1], "hello"),
            "spans" => {
                let lookup = tracing::info_span!("lookup", user = 7_u64, rows = tracing::field::Empty);
                lookup.record("rows", 3_u64);
                let _inside = lookup.entered();
                let query = tracing::info_span!("query", table = "users");
                query.in_scope(|| warn!("slow"));
                info!(parent: None, "alone");
                info!("in lookup");
            }
            "quiet" => {
                debug!(what = %Costly, "too low");
                info!(target: "quiet", what = %Costly, "left out");
                let _nothing = tracing::info_span!(target: "quiet", "nothing", what = %Costly).entered();
                info!("heard");
            }
            "thread" => cx.spawn(|_| info!("from a thread")),
            _ => return Ok(Reply::unhandled()),
        }
        Ok(Reply::ok())
    }

    fn handle_out(&mut self, (): &mut (), _: &str, _: Payload<'_>, _: &mut Context) {
        info!("out");
    }
}

fn joined() -> Loaded {
    let wants = |level, target: &str| level <= 3 && target != "quiet";
    let mut loaded = Loaded::with_log::<Member, NoConnect, NoSettings>("{}", wants).expect("it starts");
    loaded.one(join(7, "{}"));
    loaded.one(join(8, "{}"));
    loaded
}

#[track_caller]
fn check(what: &str, expected: &[&str]) {
    let mut loaded = joined();
    loaded.one(push(7, what, "{}"));
    assert_eq!(loaded.log(), expected);
    assert!(loaded.outside.log().iter().all(|line| line.target == module_path!()));
}

#[test]
fn fields_stay_fields() {
    let line = "1.7 info hello user=7 less=-1 half=0.5 yes=true name=\"Ann\" list=[1]";
    check("fields", &[line]);
}

#[test]
fn what_the_spans_around_it_say_goes_with_an_event() {
    check(
        "spans",
        &[
            "1.7 warn slow span=lookup:query user=7 rows=3 table=\"users\"",
            "1.7 info alone",
            "1.7 info in lookup span=lookup user=7 rows=3",
        ],
    );
}

#[test]
fn what_nobody_wants_is_not_even_written() {
    let before = WRITTEN.load(std::sync::atomic::Ordering::Relaxed);
    check("quiet", &["1.7 info heard"]);
    assert_eq!(WRITTEN.load(std::sync::atomic::Ordering::Relaxed), before);
}

#[test]
fn each_member_that_a_broadcast_visits_is_named() {
    let mut loaded = joined();
    loaded.one(Event {
        member: 0,
        ..event(event::OUT, "secret", "{}")
    });
    assert_eq!(loaded.log(), ["1.7 info out", "1.8 info out"]);
}

#[test]
fn a_thread_writes_for_the_member_that_started_it() {
    let mut loaded = joined();
    loaded.one(push(8, "thread", "{}"));
    loaded.wait_for("1.8 info from a thread");
}
