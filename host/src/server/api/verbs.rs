//! What a backend can ask for: one table, which requests are matched against and the OpenAPI document is made from.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;

use super::answer::{Reason, Refusal};
use crate::config::Scope;

pub(super) const BROADCAST: &str = "broadcast";
pub(super) const CALL: &str = "call";
pub(super) const DISCONNECT: &str = "disconnect";
pub(super) const TOPICS: &str = "topics";
pub(super) const TOPIC: &str = "topic";
pub(super) const CONNECTIONS: &str = "connections";
pub(super) const OPENAPI: &str = "openapi";

/// The verb of requests that ask for none.
pub(super) const NONE: &str = "none";

/// Something that a backend can ask for.
#[derive(Debug)]
pub(super) struct Verb {
    /// Its name in metrics and logs.
    pub(super) name: &'static str,
    pub(super) method: Method,
    /// `{topic}` stands for the rest of the path.
    pub(super) path: &'static str,
    /// What a key needs for it. `None`: it needs no key.
    pub(super) scope: Option<Scope>,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    /// What it may be refused for, besides what [every request](Verb::refusals) may be.
    own_refusals: &'static [Reason],
}

/// All verbs.
pub(super) static VERBS: [Verb; 7] = [
    Verb {
        name: BROADCAST,
        method: Method::POST,
        path: "/api/broadcast",
        scope: Some(Scope::Broadcast),
        summary: "Publish one message, or a list",
        description: "Sends an event to all subscribers of a topic. The answer says how many there were. In a list, a message \
                      that fails does not stop the others. Messages of one request to one topic arrive in their order.",
        own_refusals: &[Reason::NoRoute],
    },
    Verb {
        name: CALL,
        method: Method::POST,
        path: "/api/call",
        scope: Some(Scope::Call),
        summary: "Ask the plugin of a topic",
        description: "Runs the `handle_call` callback of the topic, behind the events that came before, and answers what it \
                      answers. A topic that nobody is on is not alive, unless `create` makes it.",
        own_refusals: &[
            Reason::NoRoute,
            Reason::NotAlive,
            Reason::Unavailable,
            Reason::Unhandled,
            Reason::Crashed,
            Reason::Ended,
            Reason::Deadline,
        ],
    },
    Verb {
        name: DISCONNECT,
        method: Method::POST,
        path: "/api/disconnect",
        scope: Some(Scope::Disconnect),
        summary: "Close the connections of a socket id",
        description: "Closes every connection whose connect handler gave it this socket id. With `refuse_ms`, the socket id may \
                      not connect for so long: clients come back by themselves. `refuse_ms` 0 lets it connect again.",
        own_refusals: &[Reason::Full],
    },
    Verb {
        name: TOPICS,
        method: Method::GET,
        path: "/api/topics",
        scope: Some(Scope::Read),
        summary: "List topics",
        description: "The topics that are alive and that the key may name, in the order of their names, page by page.",
        own_refusals: &[Reason::Unavailable],
    },
    Verb {
        name: TOPIC,
        method: Method::GET,
        path: "/api/topics/{topic}",
        scope: Some(Scope::Read),
        summary: "Show one topic",
        description: "Who serves a topic, how many are in it, and its presence list, as `Presence.list` shows it.",
        own_refusals: &[Reason::NoRoute, Reason::NotAlive, Reason::Unavailable],
    },
    Verb {
        name: CONNECTIONS,
        method: Method::GET,
        path: "/api/connections",
        scope: Some(Scope::Read),
        summary: "List the connections of a socket id",
        description: "The connections whose connect handler gave them this socket id.",
        own_refusals: &[Reason::Unavailable],
    },
    Verb {
        name: OPENAPI,
        method: Method::GET,
        path: "/api/openapi.json",
        scope: None,
        summary: "This document",
        description: "Needs no key.",
        own_refusals: &[],
    },
];

impl Verb {
    /// The verb of a request, and the rest of its path, decoded.
    ///
    /// # Errors
    ///
    /// If there is no such path, or it has other methods only; those come along.
    pub(super) fn find(
        method: &Method,
        path: &str,
    ) -> Result<(&'static Self, String), (Refusal, Option<&'static str>)> {
        let mut allow = None;
        for verb in &VERBS {
            let Some(rest) = verb.takes(path) else { continue };
            if verb.method != *method {
                allow = Some(if verb.method == Method::POST { "POST" } else { "GET" });
                continue;
            }
            let decoded = percent_decode_str(rest).decode_utf8().map(Cow::into_owned);
            return decoded
                .map(|rest| (verb, rest))
                .map_err(|_| (Refusal::invalid("the path is not UTF-8"), None));
        }
        Err(match allow {
            Some(allow) => {
                let message = format!("the method here is {allow}");
                (Refusal::new(Reason::Method, message), Some(allow))
            }
            None => {
                let message = "there is nothing here; /api/openapi.json says what is there";
                (Refusal::new(Reason::NotFound, message), None)
            }
        })
    }

    /// The rest of a path that it takes.
    fn takes<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.path.strip_suffix("{topic}") {
            Some(before) => path.strip_prefix(before).filter(|rest| !rest.is_empty()),
            None => (path == self.path).then_some(""),
        }
    }

    /// Whether it changes something.
    pub(super) fn is_post(&self) -> bool {
        self.method == Method::POST
    }

    /// All that it may be refused for.
    pub(super) fn refusals(&self) -> Vec<Reason> {
        let every = &[
            Reason::Invalid,
            Reason::Misdirected,
            Reason::Overloaded,
            Reason::Stopping,
            Reason::Fault,
        ][..];
        let keyed = &[Reason::Unauthorized, Reason::Forbidden][..];
        let post = &[
            Reason::Timeout,
            Reason::TooLarge,
            Reason::TooMany,
            Reason::InProgress,
            Reason::KeyReused,
        ][..];
        let mut refusals = [every, self.own_refusals].concat();
        if self.scope.is_some() {
            refusals.extend(keyed);
        }
        if self.is_post() {
            refusals.extend(post);
        }
        refusals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, path: &str, expected: Result<(&str, &str), (u16, Option<&str>)>) {
        let found = Verb::find(&method, path);
        let found = found.as_ref().map(|(verb, rest)| (verb.name, &**rest));
        let found = found.map_err(|(refusal, allow)| (refusal.reason.status().as_u16(), *allow));
        assert_eq!(found, expected, "{method} {path}");
    }

    #[test]
    fn a_path_and_a_method_name_a_verb() {
        check(Method::POST, "/api/broadcast", Ok((BROADCAST, "")));
        check(Method::GET, "/api/topics", Ok((TOPICS, "")));
        check(Method::GET, "/api/topics/room:1", Ok((TOPIC, "room:1")));
        check(Method::GET, "/api/topics/a/b", Ok((TOPIC, "a/b")));
        check(Method::GET, "/api/topics/a%2Fb%20%C3%A9", Ok((TOPIC, "a/b é")));
        check(Method::GET, "/api/topics/%ff", Err((400, None)));
        check(Method::GET, "/api/broadcast", Err((405, Some("POST"))));
        check(Method::DELETE, "/api/topics/a", Err((405, Some("GET"))));
        for path in ["/", "/api", "/api/topics/", "/api/broadcast/", "/api/nothing"] {
            check(Method::GET, path, Err((404, None)));
        }
    }
}
