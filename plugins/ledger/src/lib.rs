//! The plugin to count with: it keeps a ledger for each topic, which `bennu torture` compares with what its clients saw.
//!
//! A client `put`s the numbers 1, 2, 3, …. Each becomes an entry of the ledger with a number of its own, which goes to everyone on
//! the topic in a broadcast. The client gets a reply, now or later, and a numbered `note`. A timer of the topic broadcasts a numbered
//! `tick`. A topic that has lost its ledger begins another one. So every message that is lost, doubled or out of order shows.
//!
//! Its features are variants to replace one by another; some of them misbehave.
#![forbid(unsafe_code)]

mod answers;
mod state;

use bennu_plugin::prelude::*;
use serde::de::DeserializeOwned;

use crate::answers::Answers;
use crate::state::{Ledger, Member, Owed, other};

/// Its `settings`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(feature = "needs"), serde(default))]
struct Settings {
    /// The number of entries that a ledger keeps in full.
    keep: usize,
    /// The time between two ticks of a topic. 0: no ticks.
    tick_ms: u64,
    /// In one build there is a setting more, and all of them are required.
    #[cfg(feature = "needs")]
    #[expect(dead_code, reason = "only that it is there matters")]
    owner: String,
}

#[cfg(not(feature = "needs"))]
impl Default for Settings {
    fn default() -> Self {
        Self {
            keep: 100,
            tick_ms: 1_000,
        }
    }
}

/// The plugin's own value: new in each generation.
struct Book {
    settings: Settings,
    answers: Answers,
}

impl Plugin for Book {
    type Settings = Settings;

    fn init(settings: Settings) -> Result<Self, String> {
        let answers = Answers::new()?;
        Ok(Self { settings, answers })
    }

    fn check(_: &Settings) -> Result<(), String> {
        if cfg!(feature = "crashes") {
            std::process::abort();
        }
        if cfg!(feature = "refuses") {
            return Err("built to refuse them".to_owned());
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    client: u32,
    /// The last number that it put before it joined.
    #[serde(default)]
    last: u32,
}

#[derive(Deserialize)]
struct Put {
    n: u32,
    #[serde(default)]
    later_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Fill {
    entries: u32,
}

impl Channel<Book> for Member {
    type Shared = Ledger;

    const STATE_VERSION: u32 = if cfg!(feature = "stranger") {
        9
    } else if cfg!(feature = "panics_v3") {
        3
    } else if cfg!(feature = "v2") {
        2
    } else {
        1
    };
    const READS_FROM: u32 = if cfg!(feature = "stranger") { 9 } else { 1 };
    const READS_TO: u32 = if Self::STATE_VERSION > 2 {
        Self::STATE_VERSION
    } else {
        2
    };

    fn join(ledger: &mut Ledger, params: Payload<'_>, cx: &mut Context<Book>) -> Join<Self> {
        let Params { client, last } = params.parse()?;
        if ledger.ticks == 0 {
            (ledger.born, ledger.ticks) = (unix_ns(), 1);
            tick_again(cx);
        }
        Join::reply(Member::new(client, last), told(ledger))
    }

    fn handle_in(&mut self, ledger: &mut Ledger, event: &str, payload: Payload<'_>, cx: &mut Context<Book>) -> Handled {
        match event {
            "put" => self.put(ledger, payload.parse()?, cx),
            "audit" => {
                let member = json!({ "last": self.last, "notes": self.notes() });
                Ok(Reply::ok_with(json!({ "state": told(ledger), "member": member })))
            }
            // For measurements: an echo after which the ledger is another one.
            "echo" => {
                self.last += 1;
                ledger.add(self.client, self.last, cx.plugin().settings.keep);
                Ok(Reply::ok_with(payload))
            }
            "fill" => {
                let Fill { entries } = payload.parse()?;
                let keep = cx.plugin().settings.keep;
                for number in 0..entries {
                    ledger.add(self.client, number, keep);
                }
                Ok(Reply::ok())
            }
            _ => Ok(Reply::unhandled()),
        }
    }

    fn handle_info(&mut self, _: &mut Ledger, name: &str, payload: Payload<'_>, cx: &mut Context<Book>) {
        if name == "pay"
            && let Ok(number) = payload.parse()
            && let Some(Owed { later, answer, .. }) = self.pay(number)
        {
            cx.complete(later, "ok", answer);
        }
    }

    fn handle_topic_info(ledger: &mut Ledger, name: &str, _: Payload<'_>, cx: &mut Context<Book>) {
        if name == "tick" && cfg!(feature = "panics") {
            tick_again(cx);
        } else if name == "tick" {
            cx.broadcast("tick", json!({ "t": ledger.ticks }));
            ledger.ticks += 1;
            tick_again(cx);
        }
    }

    fn migrate(from: u32, old: Old<'_>) -> Result<Self, MigrateError> {
        read::<Self, other::Member>(from, old)
    }

    fn migrate_shared(from: u32, old: Old<'_>) -> Result<Ledger, MigrateError> {
        read::<Ledger, other::Ledger>(from, old)
    }
}

impl Member {
    fn put(&mut self, ledger: &mut Ledger, put: Put, cx: &mut Context<Book>) -> Handled {
        let Put { n, later_ms } = put;
        let expected = self.last + 1;
        self.last = n;
        let count = ledger.count() + 1;
        cx.broadcast("put", json!({ "s": count, "c": self.client, "n": n }));
        let note = self.note();
        cx.push("note", json!({ "k": note }));
        // The effects are dropped, and the ledger does not have the number yet.
        if cfg!(feature = "panics") {
            panic!("built to panic");
        }
        ledger.add(self.client, n, cx.plugin().settings.keep);
        let answer = json!({ "n": n, "s": count, "expected": expected });
        match later_ms {
            None => Ok(Reply::ok_with(answer)),
            Some(ms) => {
                let delay = Duration::from_millis(ms);
                cx.plugin().answers.later(self, delay, answer, cx);
                Ok(Reply::none())
            }
        }
    }
}

/// A ledger as clients see it.
fn told(ledger: &Ledger) -> Value {
    let Ledger {
        born, digest, ticks, ..
    } = *ledger;
    json!({ "born": born, "count": ledger.count(), "digest": digest, "list": ledger.list(), "ticks": ticks })
}

fn unix_ns() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn tick_again(cx: &Context<Book>) {
    if let ms @ 1.. = cx.plugin().settings.tick_ms {
        cx.topic_send_after(Duration::from_millis(ms), "tick", json!({}));
    }
}

/// Reads state of our own shape directly, and state of the other shape by its own type. Version 1 has one shape, all other versions
/// have the other.
fn read<T, Other>(from: u32, old: Old<'_>) -> Result<T, MigrateError>
where
    T: DeserializeOwned + From<Other>,
    Other: DeserializeOwned,
{
    if (from != 1) == cfg!(feature = "v2") {
        old.read()
    } else {
        Ok(old.read::<Other>()?.into())
    }
}

export_plugin!(Member, plugin = Book);
