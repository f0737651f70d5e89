//! The members of a topic.

use std::collections::BTreeMap;

use super::topic::Member;

/// The members of a topic, in the order of their numbers. Most topics have one, which stays in its own place: a tree begins with room
/// for eleven.
pub(super) struct Members<C> {
    one: Option<(u64, Member<C>)>,
    /// All of them, once there were two. `one` is then empty.
    #[expect(clippy::box_collection, reason = "most topics have none, and pay a pointer for it")]
    more: Option<Box<BTreeMap<u64, Member<C>>>>,
}

impl<C> Default for Members<C> {
    fn default() -> Self {
        Self { one: None, more: None }
    }
}

impl<C> Members<C> {
    /// Adds a member, or replaces the one with this number.
    pub(super) fn insert(&mut self, number: u64, member: Member<C>) {
        match (&mut self.more, self.one.take()) {
            (Some(more), _) => _ = more.insert(number, member),
            (None, Some(first)) if first.0 != number => {
                self.more = Some(Box::new([first, (number, member)].into()));
            }
            (None, _) => self.one = Some((number, member)),
        }
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Member<C>> {
        let Some(more) = &mut self.more else {
            return self.one.take_if(|(own, _)| *own == number).map(|(_, member)| member);
        };
        let removed = more.remove(&number);
        if more.is_empty() {
            self.more = None;
        }
        removed
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Member<C>> {
        match &mut self.more {
            Some(more) => more.get_mut(&number),
            None => self
                .one
                .as_mut()
                .filter(|(own, _)| *own == number)
                .map(|(_, member)| member),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Member<C>)> {
        let one = self.one.iter().map(|(number, member)| (*number, member));
        let more = self.more.iter().flat_map(|more| more.iter());
        one.chain(more.map(|(number, member)| (*number, member)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Member<C>)> {
        let one = self.one.iter_mut().map(|(number, member)| (*number, member));
        let more = self.more.iter_mut().flat_map(|more| more.iter_mut());
        one.chain(more.map(|(number, member)| (*number, member)))
    }

    pub(super) fn into_values(self) -> impl Iterator<Item = Member<C>> {
        let one = self.one.into_iter().map(|(_, member)| member);
        one.chain(self.more.into_iter().flat_map(|more| more.into_values()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(state: u32) -> Member<u32> {
        Member { state, info: None }
    }

    fn states(members: &Members<u32>) -> Vec<(u64, u32)> {
        members.iter().map(|(number, member)| (number, member.state)).collect()
    }

    #[test]
    fn one_member_and_many_are_kept_alike() {
        let mut members = Members::default();
        members.insert(7, member(70));
        members.insert(7, member(71));
        assert_eq!(states(&members), [(7, 71)]);
        assert!(members.remove(8).is_none() && members.get_mut(8).is_none());
        members.insert(3, member(30));
        members.insert(9, member(90));
        for (_, member) in members.iter_mut() {
            member.state += 1;
        }
        members.get_mut(9).expect("it is there").state = 99;
        assert_eq!(states(&members), [(3, 31), (7, 72), (9, 99)]);
        for number in [3, 9] {
            assert!(members.remove(number).is_some());
        }
        assert_eq!(states(&members), [(7, 72)]);
        assert_eq!(members.remove(7).map(|member| member.state), Some(72));
        assert!(members.more.is_none() && states(&members).is_empty());
        members.insert(1, member(10));
        assert_eq!(
            members.into_values().map(|member| member.state).collect::<Vec<_>>(),
            [10]
        );
    }
}
