//! What the token of a client says reaches its channels, and the connect handler.

use bennu_plugin::prelude::*;
use bennu_plugin::test::{Membership, Request, Server};

struct Gate;

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl Connect for Gate {
    fn connect(request: &ConnectRequest, _: &mut ConnectContext) -> Connected {
        let Claims { sub } = request.claims()?;
        Ok(Connection::accept().id(format!("user:{sub}")))
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Owed(Vec<Later>);

#[derive(Serialize, Deserialize)]
struct Member;

impl Channel for Member {
    type Shared = Owed;

    fn join(owed: &mut Owed, params: Payload<'_>, cx: &mut Context) -> Join<Self> {
        if params.json() == Some("\"later\"") {
            owed.0.push(cx.later());
            return Join::later();
        }
        Join::accept(Self)
    }

    fn join_answer(_: &mut Owed, _: Payload<'_>, cx: &mut Context) -> Join<Self> {
        Join::reply(Self, cx.claims::<Value>()?)
    }

    fn handle_in(&mut self, owed: &mut Owed, event: &str, _: Payload<'_>, cx: &mut Context) -> Handled {
        if event == "pay" {
            let remote = cx.remote();
            for later in owed.0.drain(..) {
                remote.complete(later, "", json!({}));
            }
        }
        Ok(Reply::ok_with(cx.claims::<Value>()?))
    }
}

bennu_plugin::test_plugin!(Member, connect = Gate);

#[track_caller]
fn check(member: &Membership, expected: Value) {
    member.push("claims", json!({})).assert_reply("ok", expected);
}

#[test]
fn a_channel_sees_the_claims_of_its_client_alone() {
    let server = Server::start::<Member>();
    let ann = server
        .client()
        .claims(json!({ "sub": "ann" }))
        .join("room:1", json!({}));
    let bob = server
        .client()
        .claims(json!({ "sub": "bob" }))
        .join("room:1", json!({}));
    check(&ann, json!({ "sub": "ann" }));
    check(&bob, json!({ "sub": "bob" }));
    check(&server.join("room:1", json!({})), json!({}));
}

#[test]
fn a_new_token_reaches_all_channels_of_its_client_and_a_reload_keeps_it() {
    let server = Server::start::<Member>();
    let ann = server.client().claims(json!({ "sub": "ann", "role": "guest" }));
    let channels = ["room:1", "room:2"].map(|topic| ann.join(topic, json!({})));
    let other = server
        .client()
        .claims(json!({ "sub": "ann", "role": "guest" }))
        .join("room:1", json!({}));
    ann.refresh(json!({ "sub": "ann", "role": "host" }));
    for channel in &channels {
        check(channel, json!({ "sub": "ann", "role": "host" }));
    }
    // Another connection of the same user has a token of its own.
    check(&other, json!({ "sub": "ann", "role": "guest" }));
    server.reload::<Member>();
    check(&channels[0], json!({ "sub": "ann", "role": "host" }));
    check(&ann.join("room:3", json!({})), json!({ "sub": "ann", "role": "host" }));
}

#[test]
fn a_join_that_is_answered_later_sees_the_newest_claims() {
    let server = Server::start::<Member>();
    let ann = server.client().claims(json!({ "n": 1 }));
    let joining = ann.start_join("room:1", "later");
    ann.refresh(json!({ "n": 2 }));
    server
        .join("room:1", json!({}))
        .push("pay", json!({}))
        .assert_reply("ok", json!({}));
    check(&joining.assert_accepted(), json!({ "n": 2 }));
}

#[test]
fn a_connect_handler_sees_them_and_refuses_who_lacks_them() {
    let server = Server::start::<Member>();
    let request = Request::new(json!({})).claims(json!({ "sub": "ann" }));
    let ann = server.connect(request).expect("let in");
    assert_eq!(ann.socket_id().as_deref(), Some("user:ann"));
    check(&ann.join("room:1", json!({})), json!({ "sub": "ann" }));
    assert_eq!(server.connect(json!({})).expect_err("no claims").status, 403);
}
