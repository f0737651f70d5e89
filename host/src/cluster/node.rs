//! One node of the cluster: its name, and which run of it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One run of one node. A node that starts again is another one: what was sent to the run before reaches nobody.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(Arc<str>);

/// How many digits tell the runs of a node apart.
const DIGITS: usize = 16;

impl NodeId {
    /// A new run of the node with this name.
    #[must_use]
    pub(crate) fn new(name: &str, run: u64) -> Self {
        Self(format!("{name}-{run:0DIGITS$x}").into())
    }

    /// Reads what another node has written. `None`: it is no id.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, run) = text.rsplit_once('-')?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_run = run.len() == DIGITS && u64::from_str_radix(run, 16).is_ok();
        (!name.is_empty() && name.bytes().all(is_plain) && is_run).then(|| Self(text.into()))
    }

    /// The name of the node, which is the same in all its runs.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.0[..self.0.len() - DIGITS - 1]
    }

    /// The number of this run.
    #[must_use]
    pub(crate) fn run(&self) -> u64 {
        // Whoever made it has looked.
        u64::from_str_radix(&self.0[self.0.len() - DIGITS..], 16).unwrap_or(0)
    }

    /// Name and run, as they stand in subjects and values.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node says of itself in its lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// Which run.
    pub(crate) id: String,
    /// The version of its program.
    pub(crate) version: String,
    /// When it joined the cluster.
    pub(crate) since_unix_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is() {
        let id = NodeId::new("a-1", 7);
        assert_eq!(id.as_str(), "a-1-0000000000000007");
        assert_eq!((id.name(), id.run()), ("a-1", 7));
        assert_eq!(NodeId::parse(id.as_str()), Some(id.clone()));
        for text in [
            "",
            "a",
            "a-7",
            "-0000000000000007",
            "a.b-0000000000000007",
            "a-000000000000000g",
        ] {
            assert_eq!(NodeId::parse(text), None, "{text}");
        }
    }
}
