//! Maps for what most topics have one of, or none: there are many topics, and an empty table of each kind would be most of what a
//! quiet one takes.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// A map that keeps its only entry in its own place, and has a table from the second on.
#[derive(Debug)]
pub(crate) struct Few<K, V> {
    one: Option<(K, V)>,
    /// All entries, once there were two. `one` is then empty.
    #[expect(clippy::box_collection, reason = "most topics have none, and pay a pointer for it")]
    more: Option<Box<HashMap<K, V>>>,
}

/// A map that takes a pointer until something is first put into it.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "a pointer is the purpose")]
pub(crate) struct Rare<K, V>(Option<Box<HashMap<K, V>>>);

/// A set that takes a pointer until something is first put into it.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "a pointer is the purpose")]
pub(crate) struct RareSet<K>(Option<Box<HashSet<K>>>);

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self { one: None, more: None }
    }
}

impl<K, V> Default for Rare<K, V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K> Default for RareSet<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: Eq + Hash, V> Few<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.more
            .as_ref()
            .map_or(usize::from(self.one.is_some()), |more| more.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match (&self.more, &self.one) {
            (Some(more), _) => more.get(key),
            (None, Some((own, value))) => (own == key).then_some(value),
            (None, None) => None,
        }
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match (&mut self.more, &mut self.one) {
            (Some(more), _) => more.get_mut(key),
            (None, Some((own, value))) => (own == key).then_some(value),
            (None, None) => None,
        }
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Returns what the key stood for before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(before) = self.get_mut(&key) {
            return Some(std::mem::replace(before, value));
        }
        match (&mut self.more, self.one.take()) {
            (Some(more), _) => _ = more.insert(key, value),
            (None, Some(first)) => self.more = Some(Box::new([first, (key, value)].into())),
            (None, None) => self.one = Some((key, value)),
        }
        None
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let Some(more) = &mut self.more else {
            return self.one.take_if(|(own, _)| own == key).map(|(_, value)| value);
        };
        let removed = more.remove(key);
        if more.is_empty() {
            self.more = None;
        }
        removed
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let one = self.one.iter().map(|(key, value)| (key, value));
        one.chain(self.more.iter().flat_map(|more| more.iter()))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// All entries, taken out.
    pub(crate) fn into_entries(self) -> impl Iterator<Item = (K, V)> {
        self.one.into_iter().chain(self.more.into_iter().flat_map(|more| *more))
    }
}

impl<K: Eq + Hash, V> Rare<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |map| map.len())
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.0.as_ref()?.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.as_mut()?.get_mut(key)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Returns what the key stood for before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.get_or_insert_default().insert(key, value)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.0.as_mut()?.remove(key)
    }

    /// Removes the entries for which this is true.
    pub(crate) fn extract_if(&mut self, is_meant: impl FnMut(&K, &mut V) -> bool) -> impl Iterator<Item = (K, V)> {
        let extracted = self.0.as_mut().map(|map| map.extract_if(is_meant));
        extracted.into_iter().flatten()
    }

    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// Removes all entries.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (K, V)> {
        self.0.take().into_iter().flat_map(|map| *map)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().flat_map(|map| map.iter())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Eq + Hash> RareSet<K> {
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.0.as_ref().is_some_and(|set| set.contains(key))
    }

    pub(crate) fn insert(&mut self, key: K) {
        self.0.get_or_insert_default().insert(key);
    }

    /// Whether it was in.
    pub(crate) fn remove(&mut self, key: &K) -> bool {
        self.0.as_mut().is_some_and(|set| set.remove(key))
    }

    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn few_entries_are_as_those_of_a_table(steps in proptest::collection::vec((any::<bool>(), 0_u8..4, any::<u8>()), 0..40)) {
            let (mut few, mut table) = (Few::default(), HashMap::new());
            for (adds, key, value) in steps {
                if adds {
                    prop_assert_eq!(few.insert(key, value), table.insert(key, value));
                } else {
                    prop_assert_eq!(few.remove(&key), table.remove(&key));
                }
                prop_assert_eq!((few.len(), few.is_empty()), (table.len(), table.is_empty()));
                for key in 0..4 {
                    prop_assert_eq!(few.get(&key), table.get(&key));
                    prop_assert_eq!(few.get_mut(&key), table.get_mut(&key));
                }
                prop_assert_eq!(&few.iter().map(|(key, value)| (*key, *value)).collect::<HashMap<_, _>>(), &table);
                prop_assert_eq!(few.iter().count(), table.len());
                prop_assert!(table.len() != 1 || few.one.is_some() || few.more.is_some());
            }
            prop_assert_eq!(few.into_entries().collect::<HashMap<_, _>>(), table);
        }
    }

    #[test]
    fn what_is_rare_takes_a_pointer_until_it_is_there() {
        assert_eq!(size_of::<Rare<u64, [u8; 100]>>(), size_of::<usize>());
        assert_eq!(size_of::<RareSet<u64>>(), size_of::<usize>());
        let mut rare = Rare::default();
        assert!(rare.len() == 0 && rare.remove(&1).is_none() && rare.get(&1).is_none());
        assert_eq!(rare.extract_if(|_, _| true).count(), 0);
        for key in 1..=3 {
            rare.insert(key, key * 10);
        }
        assert_eq!(rare.extract_if(|key, _| *key == 2).collect::<Vec<_>>(), [(2, 20)]);
        assert_eq!((rare.len(), rare.get(&3)), (2, Some(&30)));
        assert_eq!(rare.drain().map(|(_, value)| value).sum::<u64>(), 40);
        assert_eq!(rare.len(), 0);
    }
}
