//! Async work, tested as all else is: assertions wait for it.

use bennu_plugin::prelude::*;
use bennu_plugin::tasks::{self, Limits};
use bennu_plugin::test::Server;

/// Made on the runtime.
struct Made(u32);

impl Plugin for Made {
    type Settings = bennu_plugin::NoSettings;

    fn init(_: Self::Settings) -> Result<Self, String> {
        tasks::set_limits(Limits {
            threads: 1,
            tasks: 2,
            ..Limits::default()
        });
        Ok(Self(tasks::block_on(async {
            tokio::spawn(async { 7 }).await.unwrap()
        })))
    }
}

#[derive(Serialize, Deserialize)]
struct Member;

impl Channel<Made> for Member {
    type Shared = ();

    fn join(_: &mut (), params: Payload<'_>, cx: &mut Context<Made>) -> Join<Self> {
        let what = params.parse::<Value>()?["do"].clone();
        cx.join_async(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            match what.as_str() {
                Some("refuse") => Err(Refusal::reason("not today")),
                Some("panic") => panic!("on the way in"),
                _ => Ok(json!({ "late": true })),
            }
        })
    }

    fn join_answer(_: &mut (), answer: Payload<'_>, _: &mut Context<Made>) -> Join<Self> {
        Join::reply(Self, answer)
    }

    fn handle_in(&mut self, _: &mut (), event: &str, _: Payload<'_>, cx: &mut Context<Made>) -> Handled {
        let made = cx.plugin().0;
        match event {
            "made" => cx.reply_async(async move { Ok(Reply::ok_with(made)) }),
            "refuse" => cx.reply_async(async { Err(Refusal::reason("no")) }),
            "panic" => cx.reply_async(async { panic!("far away") }),
            "tell" => {
                cx.spawn_async(|remote| async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    remote.send("told", json!({}));
                });
                Ok(Reply::ok())
            }
            "never" => {
                let started = cx.spawn_async(|_| std::future::pending());
                Ok(Reply::ok_with(started))
            }
            _ => Ok(Reply::unhandled()),
        }
    }

    fn handle_info(&mut self, _: &mut (), name: &str, payload: Payload<'_>, cx: &mut Context<Made>) {
        cx.push(name, payload);
    }
}

bennu_plugin::test_plugin!(Member, plugin = Made);

#[test]
fn a_future_answers_a_join() {
    let server = Server::start::<Member>();
    assert_eq!(server.join("room:1", json!({})).join_reply(), json!({ "late": true }));
    let refused = |what: &str| server.try_join("room:1", json!({ "do": what })).unwrap_err();
    assert_eq!(refused("refuse"), json!({ "reason": "not today" }));
    assert_eq!(refused("panic"), json!({ "reason": "join crashed" }));
}

#[test]
fn a_future_answers_an_event() {
    let member = Server::start::<Member>().join("room:1", json!({}));
    member.push("made", json!({})).assert_reply("ok", json!(7));
    member
        .push("refuse", json!({}))
        .assert_reply("error", json!({ "reason": "no" }));
    member
        .push("panic", json!({}))
        .assert_reply("error", json!({ "reason": "crashed" }));
    member.push("tell", json!({}));
    member.assert_push("told", json!({}));
}

#[test]
fn more_futures_than_the_plugin_allows_are_refused() {
    let member = Server::start::<Member>().join("room:1", json!({}));
    // That of the join is over, but may still be counted.
    while member
        .push("never", json!({}))
        .assert_reply("ok", bennu_plugin::test::any())
        == json!(true)
    {}
    member
        .push("made", json!({}))
        .assert_reply("error", json!({ "reason": "overloaded" }));
}
