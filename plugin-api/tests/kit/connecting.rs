//! Connect handlers.

use bennu_plugin::prelude::*;
use bennu_plugin::test::{Denied, Request, Server};

struct Gate;

#[derive(Deserialize)]
struct Params {
    user: String,
}

impl Connect for Gate {
    fn connect(request: &ConnectRequest, cx: &mut ConnectContext) -> Connected {
        let Params { user } = request.params()?;
        match user.as_str() {
            "nobody" => Err(Denial::status(403).body(json!({ "reason": "closed" }))),
            "crash" => panic!("broken gate"),
            "later" | "never" => {
                let (later, answer) = (cx.later(), json!(if user == "later" { "fine" } else { "bad" }));
                cx.spawn(move |remote| {
                    remote.complete(later, "", answer);
                });
                Ok(Connection::later())
            }
            _ => Ok(Connection::accept()
                .id(format!("user:{user}"))
                .assigns(json!({ "agent": request.user_agent(), "token": request.auth_token() }))),
        }
    }

    fn connect_answer(_: &ConnectRequest, answer: Payload<'_>, _: &mut ConnectContext) -> Connected {
        match answer.json() {
            Some("\"fine\"") => Ok(Connection::accept()),
            _ => Err(Denial::status(410)),
        }
    }
}

bennu_plugin::test_plugin!(connect = Gate);

#[test]
fn a_client_is_let_in_or_refused() {
    let server = Server::start::<Gate>();
    let ann = server.connect(json!({ "user": "ann" })).unwrap();
    assert_eq!(ann.socket_id().as_deref(), Some("user:ann"));
    let denied = |status, body| Denied { status, body };
    let refused = |user: &str| server.connect(json!({ "user": user })).unwrap_err();
    assert_eq!(refused("nobody"), denied(403, Some(json!({ "reason": "closed" }))));
    assert_eq!(refused("crash"), denied(500, None));
    let missing = json!({ "reason": "invalid payload", "field": "user", "message": "missing field `user`" });
    assert_eq!(server.connect(json!({})).unwrap_err(), denied(400, Some(missing)));
    assert!(server.connect(json!({ "user": "later" })).is_ok());
    assert_eq!(refused("never"), denied(410, None));
}

#[test]
fn a_plugin_that_only_connects_refuses_joins() {
    let refused = Server::start::<Gate>().try_join("room:1", json!({})).unwrap_err();
    assert_eq!(refused, json!({ "reason": "unmatched topic" }));
}

#[test]
fn what_the_handler_gives_reaches_the_channel() {
    let server = Server::start::<Channel_>();
    let request = Request::new(json!({ "user": "ann" }))
        .header("user-agent", "me")
        .auth_token("secret")
        .peer("[::1]:5");
    let ann = server.connect(request).unwrap().join("any", json!({}));
    ann.push("who am i", json!({}))
        .assert_reply("ok", json!(["user:ann", { "agent": "me", "token": "secret" }]));
}

/// A channel behind the gate.
#[derive(Serialize, Deserialize)]
struct Channel_;

impl Channel for Channel_ {
    type Shared = ();

    fn handle_in(&mut self, _: &mut (), _: &str, _: Payload<'_>, cx: &mut Context) -> Handled {
        let assigns: Value = cx.socket_assigns()?;
        Ok(Reply::ok_with(json!([cx.socket_id(), assigns])))
    }
}

bennu_plugin::test_plugin!(Channel_, connect = Gate);
