//! What stands in the bucket.
//!
//! | Key | Value |
//! |---|---|
//! | `meta` | the format of the bucket, and which one it is |
//! | `t.PLUGIN.TOPIC` | the capsule of a topic. Empty, with the header `KV-Operation: DEL`: it is forgotten |
//! | `a.PLUGIN.TOPIC.VERSION` | what was set aside of it: state of a later version |
//!
//! Names are encoded, so that no text of a client stands in a subject. Headers say who has written an entry, and when its topic has to
//! be looked at; so whoever lists or follows needs no capsules.

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytestring::ByteString;

use crate::cluster::node::NodeId;
use crate::runtime::store::Key;

/// Under which key a bucket says what it is.
pub(super) const META: &str = "meta";
/// Who has written an entry, and the number of the write there.
const BY: &str = "Bennu-By";
/// When the topic has to be looked at, in milliseconds since 1970.
const LOOK: &str = "Bennu-Look";
const OPERATION: &str = "KV-Operation";
/// The operation of an entry that says that its topic is forgotten, and how others than Bennu say so.
const DELETED: &str = "DEL";
const PURGED: &str = "PURGE";

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Meta,
    Topic(Key),
    Aside(Key, u32),
}

/// What an entry says besides its capsule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Who has written it, and the number of that write.
    pub(super) by: Option<(NodeId, u64)>,
    pub(super) look_unix_ms: Option<u64>,
    /// It says that the topic is forgotten.
    pub(super) is_mark: bool,
}

impl Head {
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some((node, number)) = &self.by {
            headers.insert(BY, format!("{node} {number}"));
        }
        if let Some(look) = self.look_unix_ms {
            headers.insert(LOOK, look.to_string());
        }
        if self.is_mark {
            headers.insert(OPERATION, DELETED);
        }
        headers
    }

    pub(super) fn read(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).map(async_nats::HeaderValue::as_str);
        let by = |text: &str| {
            let (node, number) = text.split_once(' ')?;
            Some((NodeId::parse(node)?, number.parse().ok()?))
        };
        Self {
            by: text(BY).and_then(by),
            look_unix_ms: text(LOOK).and_then(|look| look.parse().ok()),
            is_mark: matches!(text(OPERATION), Some(DELETED | PURGED)),
        }
    }

    /// Whether this node has written it, in this run.
    pub(super) fn is_by(&self, node: &NodeId) -> bool {
        self.by.as_ref().is_some_and(|(by, _)| by == node)
    }
}

/// The key of a topic.
pub(super) fn topic(key: &Key) -> String {
    format!("t.{}", both(key))
}

/// The key of what is set aside of a topic, in this version, or in any.
pub(super) fn aside(key: &Key, version: Option<u32>) -> String {
    let version = version.map_or_else(|| "*".to_owned(), |version| version.to_string());
    format!("a.{}.{version}", both(key))
}

fn both(key: &Key) -> String {
    format!("{}.{}", encoded(&key.plugin), encoded(&key.topic))
}

/// One token of a subject, which is never empty.
fn encoded(name: &str) -> String {
    format!("_{}", URL_SAFE_NO_PAD.encode(name))
}

fn decoded(token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix('_')?).ok()?;
    String::from_utf8(bytes).ok()
}

/// What a key names. `None`: no node has written it.
pub(super) fn named(text: &str) -> Option<Named> {
    if text == META {
        return Some(Named::Meta);
    }
    let mut parts = text.split('.');
    let kind = parts.next()?;
    let key = Key {
        plugin: decoded(parts.next()?)?.into(),
        topic: ByteString::from(decoded(parts.next()?)?),
    };
    let version = parts.next();
    match (kind, version, parts.next()) {
        ("t", None, None) => Some(Named::Topic(key)),
        ("a", Some(version), None) => Some(Named::Aside(key, version.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_name_has_a_key_which_is_read_again_and_is_plain(plugin in "[a-z_-]{1,20}", topic: String, version: u32) {
            let key = Key { plugin: plugin.into(), topic: topic.into() };
            for (text, is) in [(super::topic(&key), Named::Topic(key.clone())), (aside(&key, Some(version)), Named::Aside(key, version))] {
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)), "{}", text);
                prop_assert_eq!(named(&text), Some(is));
            }
        }

        #[test]
        fn a_head_is_read_as_it_was_written(run: u64, number: u64, look_unix_ms: Option<u64>, is_mark: bool) {
            let head = Head { by: Some((NodeId::new("a-1", run), number)), look_unix_ms, is_mark };
            prop_assert_eq!(Head::read(&head.headers()), head);
        }
    }

    #[test]
    fn what_no_node_has_written_names_nothing() {
        for text in [
            "",
            "t",
            "t._",
            "t._YQ.YQ",
            "t._YQ._YQ.1",
            "a._YQ._YQ",
            "a._YQ._YQ.x",
            "a._YQ._YQ.1.1",
            "x._YQ._YQ",
        ] {
            assert_eq!(named(text), None, "{text}");
        }
    }
}
