//! The connect handler, which the parameter `token` controls: the crate's documentation lists its values.

use bennu_plugin::prelude::*;

use crate::unruly::{Unruly, misbehave};

type ConnectContext = bennu_plugin::ConnectContext<Unruly>;

pub(crate) struct Gate;

#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    token: String,
    #[serde(default)]
    user: String,
}

impl Connect<Unruly> for Gate {
    fn connect(request: &ConnectRequest, cx: &mut ConnectContext) -> Connected {
        let Params { token, user } = request.params()?;
        let _look = cx.span("look");
        match token.as_str() {
            "" => Ok(Connection::accept()),
            "open" => Ok(accept(&user)),
            "seen" => Ok(accept(&user).assigns(seen(request, &user))),
            "later" => {
                let later = cx.later();
                cx.spawn(move |remote| {
                    remote.complete(later, "", json!({ "user": user }));
                });
                Ok(Connection::later())
            }
            "hang" => {
                let _never_kept = cx.later();
                Ok(Connection::later())
            }
            "teapot" => Err(Denial::status(418)),
            "busy" => Err(Denial::status(429).body(json!({ "retry_after": 7 }))),
            "binary" => Err(Denial::status(403).body(Binary(b"\x00\x01"))),
            "list" => Ok(accept(&user).assigns(json!([1]))),
            "panic" => panic!("gate panics"),
            "unruly" => {
                let _ = misbehave(&user);
                Ok(accept(&user))
            }
            _ => Err(Denial::status(403).body(json!({ "reason": "closed" }))),
        }
    }

    fn check_origin(origin: &Origin, _: &Unruly) -> bool {
        match origin.host() {
            None => origin.text() == "file://" && origin.mount().starts_with("/pages"),
            Some("panic.example") => panic!("gate panics at an origin"),
            Some(host) => (origin.scheme(), host, origin.port()) == (Some("https"), "open.example", Some(443)),
        }
    }

    fn connect_answer(_: &ConnectRequest, answer: Payload<'_>, _: &mut ConnectContext) -> Connected {
        match answer.parse::<Value>() {
            Ok(answer) => Ok(accept(answer["user"].as_str().unwrap_or_default())),
            Err(_) => Err(Denial::status(500)),
        }
    }
}

/// Everything that the handler sees of a request; null for what it does not see.
fn seen(request: &ConnectRequest, user: &str) -> Value {
    let uri = request.uri();
    json!({
        "user": user,
        "mount": request.mount(),
        "transport": request.transport(),
        "headers": request.headers(),
        "peer": request.peer().map(|peer| peer.ip().to_string()),
        "uri": uri.map(|uri| format!("{}://{}{}", uri.scheme, uri.host, uri.path)),
        "port": uri.map(|uri| uri.port),
        "query": uri.and_then(|uri| uri.query.as_deref()),
        "auth_token": request.auth_token(),
        "claims": request.claims::<Value>().ok(),
        "region": request.static_pair("region"),
    })
}

fn accept(user: &str) -> Connection {
    Connection::accept()
        .id(format!("user:{user}"))
        .assigns(json!({ "user": user }))
}
