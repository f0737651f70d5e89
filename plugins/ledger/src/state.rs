//! The state of topics and members, in two shapes. Each reads the other.

use bennu_plugin::prelude::*;

pub(crate) use own::{Ledger, Member};
#[cfg(not(feature = "v2"))]
pub(crate) use {v1 as own, v2 as other};
#[cfg(feature = "v2")]
pub(crate) use {v1 as other, v2 as own};

/// A promised reply, and its payload.
#[derive(Serialize, Deserialize)]
pub(crate) struct Owed {
    pub(crate) number: u32,
    pub(crate) later: Later,
    pub(crate) answer: Value,
}

/// Version 1.
#[cfg_attr(feature = "v2", allow(dead_code, reason = "only read here"))]
pub(crate) mod v1 {
    use super::{Deserialize, Owed, Serialize, chained};

    /// The ledger of a topic.
    #[derive(Default, Serialize, Deserialize)]
    pub(crate) struct Ledger {
        /// When it began: no two lives of a topic have the same.
        pub(crate) born: u64,
        pub(crate) count: u64,
        pub(crate) digest: u64,
        /// The last entries: the client in the upper half, its number in the lower.
        pub(crate) list: Vec<u64>,
        pub(crate) ticks: u64,
    }

    /// One client in it.
    #[derive(Serialize, Deserialize)]
    pub(crate) struct Member {
        pub(crate) client: u32,
        /// The last number that it put.
        pub(crate) last: u32,
        /// How many notes it was pushed.
        pub(crate) notes: u64,
        pub(crate) owed: Vec<Owed>,
    }

    impl Member {
        pub(crate) fn new(client: u32, last: u32) -> Self {
            let (notes, owed) = (0, Vec::new());
            Self {
                client,
                last,
                notes,
                owed,
            }
        }

        pub(crate) fn note(&mut self) -> u64 {
            self.notes += 1;
            self.notes
        }

        pub(crate) fn notes(&self) -> u64 {
            self.notes
        }

        pub(crate) fn owe(&mut self, owed: Owed) {
            self.owed.push(owed);
        }

        pub(crate) fn pay(&mut self, number: u32) -> Option<Owed> {
            let at = self.owed.iter().position(|owed| owed.number == number)?;
            Some(self.owed.remove(at))
        }
    }

    impl Ledger {
        pub(crate) fn add(&mut self, client: u32, number: u32, keep: usize) -> u64 {
            let entry = u64::from(client) << 32 | u64::from(number);
            self.count += 1;
            self.digest = chained(self.digest, entry);
            self.list.push(entry);
            let surplus = self.list.len().saturating_sub(keep);
            self.list.drain(..surplus);
            self.count
        }

        pub(crate) fn count(&self) -> u64 {
            self.count
        }

        pub(crate) fn list(&self) -> Vec<u64> {
            self.list.clone()
        }
    }

    impl From<super::v2::Ledger> for Ledger {
        fn from(new: super::v2::Ledger) -> Self {
            Self {
                born: new.born,
                count: new.count(),
                digest: new.digest,
                list: new.list(),
                ticks: new.ticks,
            }
        }
    }

    impl From<super::v2::Member> for Member {
        fn from(new: super::v2::Member) -> Self {
            Self {
                client: new.client,
                last: new.last,
                notes: new.pushed.notes,
                owed: new.owed.into_values().collect(),
            }
        }
    }
}

/// Version 2: nothing is where it was.
#[cfg_attr(not(feature = "v2"), allow(dead_code, reason = "only read here"))]
pub(crate) mod v2 {
    use std::collections::{BTreeMap, VecDeque};

    use super::{Deserialize, Owed, Serialize, chained};

    /// The ledger of a topic.
    #[derive(Default, Serialize, Deserialize)]
    pub(crate) struct Ledger {
        /// When it began: no two lives of a topic have the same.
        pub(crate) born: u64,
        pub(crate) counts: Counts,
        pub(crate) digest: u64,
        pub(crate) entries: VecDeque<Entry>,
        pub(crate) ticks: u64,
    }

    /// The number of entries.
    #[derive(Default, Serialize, Deserialize)]
    pub(crate) struct Counts {
        /// Those from before this shape.
        pub(crate) before: u64,
        pub(crate) since: u64,
    }

    /// One entry.
    #[derive(Serialize, Deserialize)]
    pub(crate) struct Entry {
        pub(crate) client: u32,
        pub(crate) number: u32,
    }

    /// One client in it.
    #[derive(Serialize, Deserialize)]
    pub(crate) struct Member {
        pub(crate) client: u32,
        pub(crate) last: u32,
        pub(crate) pushed: Pushed,
        pub(crate) owed: BTreeMap<u32, Owed>,
    }

    /// What a client was pushed.
    #[derive(Serialize, Deserialize)]
    pub(crate) struct Pushed {
        pub(crate) notes: u64,
    }

    impl Ledger {
        pub(crate) fn add(&mut self, client: u32, number: u32, keep: usize) -> u64 {
            let entry = Entry { client, number };
            self.counts.since += 1;
            self.digest = chained(self.digest, entry.packed());
            self.entries.push_back(entry);
            let surplus = self.entries.len().saturating_sub(keep);
            self.entries.drain(..surplus);
            self.count()
        }

        pub(crate) fn count(&self) -> u64 {
            self.counts.before + self.counts.since
        }

        pub(crate) fn list(&self) -> Vec<u64> {
            self.entries.iter().map(Entry::packed).collect()
        }
    }

    impl Member {
        pub(crate) fn new(client: u32, last: u32) -> Self {
            let (pushed, owed) = (Pushed { notes: 0 }, BTreeMap::new());
            Self {
                client,
                last,
                pushed,
                owed,
            }
        }

        pub(crate) fn note(&mut self) -> u64 {
            self.pushed.notes += 1;
            self.pushed.notes
        }

        pub(crate) fn notes(&self) -> u64 {
            self.pushed.notes
        }

        pub(crate) fn owe(&mut self, owed: Owed) {
            self.owed.insert(owed.number, owed);
        }

        pub(crate) fn pay(&mut self, number: u32) -> Option<Owed> {
            self.owed.remove(&number)
        }
    }

    impl Entry {
        fn packed(&self) -> u64 {
            u64::from(self.client) << 32 | u64::from(self.number)
        }
    }

    impl From<super::v1::Ledger> for Ledger {
        fn from(old: super::v1::Ledger) -> Self {
            let entry = |packed: u64| Entry {
                client: (packed >> 32) as u32,
                number: packed as u32,
            };
            Self {
                born: old.born,
                counts: Counts {
                    before: old.count,
                    since: 0,
                },
                digest: old.digest,
                entries: old.list.into_iter().map(entry).collect(),
                ticks: old.ticks,
            }
        }
    }

    impl From<super::v1::Member> for Member {
        fn from(old: super::v1::Member) -> Self {
            Self {
                client: old.client,
                last: old.last,
                pushed: Pushed { notes: old.notes },
                owed: old.owed.into_iter().map(|owed| (owed.number, owed)).collect(),
            }
        }
    }
}

/// FNV-1a over whole entries: which came, and in which order.
fn chained(digest: u64, entry: u64) -> u64 {
    (digest ^ entry).wrapping_mul(0x0100_0000_01b3)
}
